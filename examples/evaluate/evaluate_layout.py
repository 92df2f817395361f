# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Does paint-with-words put things where they were painted? And what does it cost? Figure 17's trade-off, in figures.

    python examples/evaluate/evaluate_layout.py --objects noto_objects --output docs/paint_with_words --num-prompts 200

Draws held-out scenes of two objects with their boxes as regions, at each strength w' (`--strengths`), from the same
noise; strength 0 is the plain prompt. `OUTPUT.json` receives, for each strength, the intersection over union
of every object with its box and the share of it inside (both by the scorer), what is right in the picture, the
Frechet distance to real scenes, and how much more attention a phrase receives inside its box than outside, by the
noise level (`attention_mass`, of the base network on real scenes with noise, without any detector); `OUTPUT.png` shows
it as a plot, `OUTPUT_grid.png` as pictures.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from held_out import (
    first_scenes,
    generators,
    make_parser,
    precision,
    prepare,
    render,
    save_grid,
    text_conditioning,
    write_report,
)
from shared_measures import draw_layout, layout_figures

from diffusers_ediffi import EDiffIPipeline, measure_attention_mass
from diffusers_ediffi.cli.scripts import errors_in_one_line
from diffusers_ediffi.demo import Scene
from diffusers_ediffi.edm import c_in, c_noise
from diffusers_ediffi.models.encoder_table import NULL_COLUMN
from diffusers_ediffi.paint.painting import NORMALIZERS, Painting
from diffusers_ediffi.paint.processor import painted
from diffusers_ediffi.training.data import scene_regions

GRID_PROMPTS = 8
PANELS = {
    "layout": ("iou", "inside"),
    "prompt": ("two_objects", "relation_of_found", "ground"),
    "frechet": ("frechet",),
}


def attention_masses(
    pipe: EDiffIPipeline, real: torch.Tensor, batch: list[Scene], strength: float, args: Any
) -> dict[str, float]:
    """The attention mass of the phrases inside their boxes minus outside, by the noise level.

    `real` are pictures (batch, 3, size, size) of the scenes in [-1, 1]; their noise depends on the seed and the noise
    level alone. Always in float32.
    """
    total = {f"{sigma:g}": 0.0 for sigma in args.mass_sigmas}
    for start in range(0, len(batch), args.batch_size):
        part = batch[start : start + args.batch_size]
        painting = painting_of(pipe, part, strength, args)
        conditioning = text_conditioning(pipe, [scene.caption for scene in part])
        images = real[start : start + len(part)].to(pipe.device)
        for sigma in args.mass_sigmas:
            noise = randn_tensor(images.shape, generators(args, start, len(part)), pipe.device, torch.float32)
            mean = attention_mass(pipe, images + sigma * noise, sigma, conditioning, painting)
            total[f"{sigma:g}"] += mean * len(part) / len(batch)
    return total


def painting_of(pipe: EDiffIPipeline, batch: list[Scene], strength: float, args: Any) -> Painting:
    """The scenes' captions, painted with their boxes."""
    regions = [scene_regions(scene) for scene in batch]
    columns = [pipe.region_columns(scene.caption, found) for scene, found in zip(batch, regions, strict=True)]
    return Painting(regions, columns, NULL_COLUMN + 1, strength, args.normalizer)


@torch.no_grad()
def attention_mass(
    pipe: EDiffIPipeline, noisy: torch.Tensor, sigma: float, conditioning: dict[str, Any], painting: Painting
) -> float:
    """The mean over noisy pictures (batch, 3, size, size)."""
    unet = pipe.stages[0].unet
    model_input = c_in(sigma, pipe.stages[0].scheduler.config.sigma_data) * noisy
    timestep = torch.tensor(c_noise(sigma), device=pipe.device)
    with measure_attention_mass(painting) as mass, painted(unet, painting):
        unet(model_input, timestep, **conditioning, return_dict=False)
    (mean,) = mass.per_sigma().values()
    return mean


def plot(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Layout, prompt agreement, Frechet distance and attention mass over the strength."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 3.4), layout="constrained")
    *others, last = figure.subplots(1, 4)
    for axes, (title, keys) in zip(others, PANELS.items(), strict=True):
        for key in keys:
            axes.plot([float(s) for s in rows], [row[key] for row in rows.values()], "o-", ms=3, label=key)
        axes.set(title=title, xlabel="strength w'", ylim=(0, None))
        axes.legend()
    for sigma in next(iter(rows.values()))["attention_mass"]:
        values = [row["attention_mass"][sigma] for row in rows.values()]
        last.plot([float(s) for s in rows], values, "o-", ms=3, label=f"sigma = {sigma}")
    last.set(title="attention mass, inside - outside", xlabel="strength w'")
    last.axhline(0, color="black", lw=0.8)
    last.legend()
    figure.savefig(path, dpi=110)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options, checked."""
    parser = make_parser(__doc__.split("\n")[0])
    parser.set_defaults(object_weights=(0.0, 1.0))  # a region decides who is where only where there are two
    parser.add_argument("--strengths", type=float, nargs="+", default=[0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0])
    parser.add_argument("--normalizer", choices=NORMALIZERS, default="max", help="see region_normalizer")
    parser.add_argument(
        "--mass-sigmas", type=float, nargs="+", default=[10, 3, 1], help="noise levels for the attention mass"
    )
    args = parser.parse_args(arguments)
    if min(args.mass_sigmas) <= 0:
        raise ValueError(f"--mass-sigmas {min(args.mass_sigmas):g}: noise levels must be above 0.")
    return args


def save_pictures(pictures: torch.Tensor, columns: int, rows: dict[str, dict], args: argparse.Namespace) -> None:
    """Writes the grid, and the plot where matplotlib is installed."""
    save_grid(args.output.with_name(args.output.name + "_grid.png"), pictures, columns, args.model)
    try:
        plot(rows, args.output.with_suffix(".png"))
    except ImportError:
        print("No plot: it needs matplotlib (pip install matplotlib).")


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Draws, measures, writes, prints and returns the figures."""
    args = parse_arguments(arguments)
    pipe, scorer, scenes = prepare(args)
    batch, others = first_scenes(scenes, args.num_prompts)
    real = render(scenes, batch, pipe.stages[0].size)
    reference = scorer.features(render(scenes, others, pipe.stages[0].size))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    rows: dict[str, dict[str, Any]] = {}
    shown = []
    for strength in args.strengths:
        with precision(args):
            images = draw_layout(pipe, batch, strength, args)
            row = layout_figures(scorer, images, batch, reference)
        row["attention_mass"] = attention_masses(pipe, real, batch, strength, args)
        rows[f"{strength:g}"] = row
        shown.append(images[:GRID_PROMPTS])
        print_row(strength, row)
    of_real = layout_figures(scorer, real, batch, reference)
    report = write_report(args.output.with_suffix(".json"), args, strengths=rows, real=of_real)
    save_pictures(torch.cat([*shown, real[:GRID_PROMPTS]]), len(shown[0]), rows, args)
    return report


def print_row(strength: float, row: dict[str, Any]) -> None:
    """A line for a strength."""
    masses = {f"mass({sigma})": mass for sigma, mass in row["attention_mass"].items()}
    values = {key: value for key, value in row.items() if key != "attention_mass"} | masses
    print(f"{strength:4g}  " + "  ".join(f"{key} {value:.3f}" for key, value in values.items()))


if __name__ == "__main__":
    with errors_in_one_line():
        main()

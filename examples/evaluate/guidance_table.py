# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What each kind of guidance does to a demo model: agreement with the prompt, and distance from real scenes.

    python examples/evaluate/guidance_table.py --objects noto_objects --output docs/guidance --num-prompts 200

Draws the same held-out prompts from the same noise with each of `--settings` (w is the base's guidance scale,
`--guidance-scale` or the model's default) and, for Figure 8 in miniature, with T5 alone, CLIP text alone and both
(`--curves`) at each guidance of `--scales`. `OUTPUT.json` receives what is right in the pictures by the scorer and
the Frechet distance to real scenes, after each setting anew; `OUTPUT.png` shows it as a plot, `OUTPUT_grid.png` as
pictures, a row for each setting. The settings:

    plain               w and nothing else
    unguided            no guidance
    interval            guidance at sigma 0.2 to 5 alone
    interval-high       guidance at sigma above 0.2 alone
    rescale             guidance_rescale=0.7
    static              thresholding, the denoised image clamped to [-1, 1]
    dynamic             thresholding, the largest values of each image brought to 1
    weights             T5 and CLIP text apart, w / 2 each
    weights-t5          0.8 w for T5, 0.2 w for CLIP text
    weights-clip_text   the other way round
    weights-full        w each
"""

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from held_out import first_scenes, generate, make_parser, precision, prepare, render, save_grid
from shared_measures import CURVES, figures

from diffusers_ediffi import EDiffIPipeline
from diffusers_ediffi.cli.scripts import errors_in_one_line

GRID_PROMPTS = 8
PANELS = ("objects", "ground", "style", "frechet")


def settings_at(w: float) -> dict[str, dict[str, Any]]:
    """The arguments of the pipeline for every setting; `scheduler` holds changes of the base's scheduler."""
    return {
        "plain": {"guidance_scale": w},
        "unguided": {"guidance_scale": 1.0},
        "interval": {"guidance_scale": w, "guidance_interval": (0.2, 5.0)},
        "interval-high": {"guidance_scale": w, "guidance_interval": (0.2, float("inf"))},
        "rescale": {"guidance_scale": w, "guidance_rescale": 0.7},
        "static": {"guidance_scale": w, "scheduler": {"thresholding": True}},
        "dynamic": {"guidance_scale": w, "scheduler": {"thresholding": True, "sample_max_value": 100.0}},
        "weights": {"guidance_scale": {"t5": w / 2, "clip_text": w / 2}},
        "weights-t5": {"guidance_scale": {"t5": 0.8 * w, "clip_text": 0.2 * w}},
        "weights-clip_text": {"guidance_scale": {"t5": 0.2 * w, "clip_text": 0.8 * w}},
        "weights-full": {"guidance_scale": {"t5": w, "clip_text": w}},
    }


@contextlib.contextmanager
def changed_scheduler(pipe: EDiffIPipeline, changes: dict[str, Any]) -> Iterator[None]:
    """Gives the base a scheduler with these changes for the `with` block."""
    before = pipe.scheduler
    missing = [name for name in changes if name not in before.config]
    if missing:
        raise ValueError(f"{type(before).__name__} has no {missing[0]}; use a model with EDMDEISScheduler.")
    pipe.scheduler = type(before).from_config(before.config, **changes)
    try:
        yield
    finally:
        pipe.scheduler = before


def plot(table: dict[str, dict[str, float]], curves: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """The curves over guidance in the upper row, the settings in the lower."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 7), layout="constrained")
    upper, lower = figure.subplots(2, len(PANELS))
    for axes, key in zip(upper, PANELS, strict=True):
        for name, rows in curves.items():
            axes.plot([float(scale) for scale in rows], [row[key] for row in rows.values()], "o-", ms=3, label=name)
        axes.set(title=key, xlabel="guidance", ylim=(0, None))
        if curves:
            axes.legend()
    for axes, key in zip(lower, PANELS, strict=True):
        axes.barh(list(table), [row[key] for row in table.values()], color="tab:gray")
        axes.invert_yaxis()
        axes.set(title=key)
        if axes is not lower[0]:
            axes.set_yticklabels([])
    figure.savefig(path, dpi=110)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options, checked."""
    parser = make_parser(__doc__.split("\n")[0])
    parser.add_argument("--settings", nargs="*", choices=settings_at(1.0), default=list(settings_at(1.0)))
    parser.add_argument("--curves", nargs="*", choices=CURVES, default=list(CURVES))
    parser.add_argument(
        "--scales",
        type=float,
        nargs="+",
        default=[0, 1, 2, 3, 5, 7, 10],
        help="0, the unconditional model, or 1 or more",
    )
    args = parser.parse_args(arguments)
    if not all(scale == 0 or scale >= 1 for scale in args.scales):
        raise ValueError(f"--scales {args.scales}: guidance is 0, or at least 1, where it is the conditional model.")
    return args


class Table:
    """Draws the same held-out prompts with other guidance each time, and measures and writes the figures."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.pipe, self.scorer, scenes = prepare(args)
        self.batch, others = first_scenes(scenes, args.num_prompts)
        size = self.pipe.stages[0].size
        self.real = render(scenes, self.batch, size)
        self.reference = self.scorer.features(render(scenes, others, size))
        self.shown: list[torch.Tensor] = []
        given = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
        self.report: dict[str, Any] = {"settings": given, "table": {}, "curves": {name: {} for name in args.curves}}
        self.report["real"] = figures(self.scorer, self.real, self.batch, self.reference)

    def measure(self, rows: dict[str, Any], name: str, options: dict[str, Any]) -> None:
        """Adds a row, and prints and writes it."""
        captions = [scene.caption for scene in self.batch]
        with precision(self.args), changed_scheduler(self.pipe, options.pop("scheduler", {})):
            images = generate(self.pipe, self.args, captions, **options)
        rows[name] = figures(self.scorer, images, self.batch, self.reference)
        self.shown.append(images[:GRID_PROMPTS])
        self.args.output.with_suffix(".json").write_text(json.dumps(self.report, indent=2) + "\n")
        print(f"{name:18}" + "  ".join(f"{key} {rows[name][key]:.3f}" for key in PANELS), flush=True)

    def measure_settings(self) -> None:
        """The rows of `--settings`."""
        w = (self.args.guidance_scale or self.pipe.config.default_guidance_scale)[0]
        for name in self.args.settings:
            self.measure(self.report["table"], name, settings_at(w)[name])

    def measure_curve(self, name: str) -> None:
        """The rows of some encoders over `--scales`."""
        print(f"{name}:")
        for scale in self.args.scales:
            # The number 0 means no guidance, which is the conditional model; weights of 0 are the unconditional one.
            w = scale or dict.fromkeys(CURVES[name], 0.0)
            rows = self.report["curves"][name]
            self.measure(rows, f"{scale:g}", {"guidance_scale": w, "encoders": CURVES[name]})

    def save_pictures(self) -> None:
        """Writes the grid, and the plot where matplotlib is installed."""
        output = self.args.output
        if self.shown:
            pictures = torch.cat([*self.shown, self.real[:GRID_PROMPTS]])
            grid = output.with_name(output.name + "_grid.png")
            save_grid(grid, pictures, len(self.shown[0]), self.args.model)
        try:
            plot(self.report["table"], self.report["curves"], output.with_suffix(".png"))
        except ImportError:
            print("No plot: it needs matplotlib (pip install matplotlib).")


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Draws, measures, writes, prints and returns the figures."""
    args = parse_arguments(arguments)
    table = Table(args)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    table.measure_settings()
    for name in args.curves:
        table.measure_curve(name)
    table.save_pictures()
    return table.report


if __name__ == "__main__":
    with errors_in_one_line():
        main()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Measure a demo model on held-out prompts, beside real scenes: what is right, and how far the pictures are from real.

    python examples/evaluate/evaluate_demo.py --objects noto_objects --output runs/evaluation

By default it judges the model that comes with the package, at the model's settings, by the scorer beside it.
`OUTPUT/results.json` holds every figure and setting, `OUTPUT/*.png` the first pictures of each stage. The parts
(`--stages`):

    base     500 prompts of combinations never trained on: objects, ground, relation and style right; Frechet distance
    style    prompts that do not say their style, which a picture of another scene brings instead; beside the same
             prompts and noise without a picture
    sr256    pictures at 64 enlarged to 256, against bicubic: Frechet distance of patches, agreement with the input
    sr1024   the same from 256 to 1024
    crispness    pictures of the whole cascade, at 256 and 1024: the width of outlines in pixels, and the share that is
             blocky as pixel art; beside real scenes, and these enlarged by bicubic and by repeated pixels
"""

import argparse
import math
import statistics

import torch
import torch.nn.functional as F
from crispness import BLOCKY, blockiness, outline_widths
from held_out import (
    SR_STAGES,
    evaluate_base,
    evaluate_sr,
    generate,
    generators,
    make_parser,
    precision,
    prepare,
    render,
    save_grid,
    write_report,
)
from shared_measures import style_rates
from torch import Tensor
from tqdm import tqdm

from diffusers_ediffi import EDiffIPipeline
from diffusers_ediffi.cli.scripts import errors_in_one_line
from diffusers_ediffi.demo import SceneGenerator
from diffusers_ediffi.demo.scorer import SceneScorer
from diffusers_ediffi.models.low_res import upsample_low_res

STAGES = ("base", "style", "sr256", "sr1024", "crispness")


def evaluate_style(
    pipe: EDiffIPipeline, scorer: SceneScorer, scenes: SceneGenerator, args: argparse.Namespace
) -> dict:
    """Captions that keep silent about the style; a picture of another scene in the wanted style goes with each."""
    silent = [scene for scene in map(scenes.scene, range(20 * args.num_style_prompts)) if not scene.style_said]
    by_style = {style: [scene for scene in silent if scene.style == style] for style in scenes.styles}
    batch = [scene for group in by_style.values() for scene in group[: -(-args.num_style_prompts // len(by_style))]]
    # The reference is the next scene of the same style: it shares the style with the wanted picture, nothing else.
    references = [by_style[s.style][(by_style[s.style].index(s) + 1) % len(by_style[s.style])] for s in batch]
    captions = [scene.caption for scene in batch]
    size = pipe.stages[0].size
    images = generate(pipe, args, captions, render(scenes, references, size), style_scale=args.style_scale)
    save_grid(args.output / "style.png", images[:: max(1, len(images) // 32)][:32], 8, args.model)
    real = render(scenes, batch, size)
    return {
        "model": style_rates(scorer, images, batch),
        "no_style": style_rates(scorer, generate(pipe, args, captions), batch),
        "real": style_rates(scorer, real, batch),
        "chance": {"style_from_image": 1 / len(by_style)},
    }


def evaluate_crispness(pipe: EDiffIPipeline, scenes: SceneGenerator, args: argparse.Namespace) -> dict:
    """Pictures of prompts that say their style, since some styles have softer outlines than others."""
    columns: dict[str, dict[str, float]] = {}
    for stage, count in zip(pipe.stages[1:], (args.num_sr256, args.num_sr1024), strict=False):
        said = [scene for scene in map(scenes.scene, range(20 * count)) if scene.style_said][:count]
        images = draw_whole(pipe, [scene.caption for scene in said], stage.size, args)
        save_grid(args.output / f"crispness{stage.size}.png", images[:16], 4, args.model)
        real = render(scenes, said, stage.size)
        small = F.interpolate(real, size=(pipe.stages[0].size,) * 2, mode="area")
        pictures = {"model": images, "real": real, "bicubic": upsample_low_res(small, stage.size)}
        pictures["nearest"] = F.interpolate(small, size=(stage.size, stage.size))
        for name, batch in pictures.items():
            columns[name] = columns.get(name, {}) | crispness(batch, stage.size)
    return columns


def draw_whole(pipe: EDiffIPipeline, captions: list[str], size: int, args: argparse.Namespace) -> Tensor:
    """Pictures (batch, 3, size, size) in [-1, 1] of the stages up to this size, one at a time."""
    parts = []
    for number, caption in enumerate(tqdm(captions, desc=f"cascade {size}")):
        options = {"num_inference_steps": args.steps, "guidance_scale": args.guidance_scale}
        noise = generators(args, number, 1)
        image = pipe(caption, height=size, width=size, generator=noise, output_type="pt", **options).images
        parts.append(image.float().cpu() * 2 - 1)
    return torch.cat(parts)


def crispness(images: Tensor, size: int) -> dict[str, float]:
    """The figures of pictures of one size."""
    widths = [width for width in outline_widths(images) if not math.isnan(width)]
    blocky = [score >= BLOCKY for score in blockiness(images)]
    width = statistics.median(widths) if widths else math.nan
    return {f"outline_pixels_{size}": width, f"blocky_{size}": sum(blocky) / len(blocky)}


def print_table(results: dict[str, dict]) -> None:
    """A line for each figure, a column for each kind of picture."""
    kinds = ("model", "no_style", "bicubic", "nearest", "real", "chance")
    print(f"{'':34}" + "".join(f"{kind:>10}" for kind in kinds))
    for stage, columns in results.items():
        names = dict.fromkeys(name for kind in kinds for name in columns.get(kind, {}))
        for name in names:
            values = [columns.get(kind, {}).get(name, math.nan) for kind in kinds]
            share = not name.startswith(("frechet", "patch", "psnr", "outline"))
            cells = ["" if math.isnan(v) else f"{v:.1%}" if share else f"{v:.3f}" for v in values]
            print(f"{stage + ' ' + name:34}" + "".join(f"{cell:>10}" for cell in cells))


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = make_parser(__doc__.split("\n")[0])
    parser.add_argument("--stages", nargs="+", choices=STAGES, help="by default all that the model has")
    parser.add_argument("--style-scale", type=float, default=1.0, help="factor on the style reference's embedding")
    parser.add_argument("--noise-level", type=float, help="of super-resolution's input (default: the model's)")
    return parser.parse_args(arguments)


def choose_stages(pipe: EDiffIPipeline, args: argparse.Namespace) -> list[str]:
    """The parts to measure; refuses those that the model lacks."""
    larger = [stage for stage in SR_STAGES if getattr(pipe, f"unet_{stage}") is not None]
    present = ["base", "style", *larger, *(["crispness"] if larger else [])]
    missing = [stage for stage in args.stages or () if stage not in present]
    if missing:
        raise ValueError(f"The model has no stage {missing[0]!r}; choose from {present}.")
    return args.stages or present


def main(arguments: list[str] | None = None) -> dict[str, dict]:
    """Evaluates, writes, prints and returns the figures."""
    args = parse_arguments(arguments)
    pipe, scorer, scenes = prepare(args)
    stages = choose_stages(pipe, args)
    args.output.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict] = {}
    with precision(args):
        for stage in stages:
            if stage in SR_STAGES:
                results[stage] = evaluate_sr(pipe, scorer, scenes, stage, args)
            elif stage == "crispness":
                results[stage] = evaluate_crispness(pipe, scenes, args)
            else:
                evaluate = evaluate_base if stage == "base" else evaluate_style
                results[stage] = evaluate(pipe, scorer, scenes, args)
            write_report(args.output / "results.json", args, results=results)
    print_table(results)
    return results


if __name__ == "__main__":
    with errors_in_one_line():
        main()

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
"""

import argparse
import math

from held_out import (
    SR_STAGES,
    evaluate_base,
    evaluate_sr,
    generate,
    make_parser,
    precision,
    prepare,
    render,
    save_grid,
    write_report,
)
from shared_measures import style_rates

from diffusers_ediffi import EDiffIPipeline
from diffusers_ediffi.cli.scripts import errors_in_one_line
from diffusers_ediffi.demo import SceneGenerator
from diffusers_ediffi.demo.scorer import SceneScorer

STAGES = ("base", "style", "sr256", "sr1024")


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


def print_table(results: dict[str, dict]) -> None:
    """A line for each figure, a column for each kind of picture."""
    kinds = ("model", "no_style", "bicubic", "real", "chance")
    print(f"{'':34}" + "".join(f"{kind:>10}" for kind in kinds))
    for stage, columns in results.items():
        names = dict.fromkeys(name for kind in kinds for name in columns.get(kind, {}))
        for name in names:
            values = [columns.get(kind, {}).get(name, math.nan) for kind in kinds]
            share = not name.startswith(("frechet", "patch", "psnr"))
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
    present = ["base", "style"] + [stage for stage in SR_STAGES if getattr(pipe, f"unet_{stage}") is not None]
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
            else:
                evaluate = evaluate_base if stage == "base" else evaluate_style
                results[stage] = evaluate(pipe, scorer, scenes, args)
            write_report(args.output / "results.json", args, results=results)
    print_table(results)
    return results


if __name__ == "__main__":
    with errors_in_one_line():
        main()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Switch from one prompt to another while the base stage draws, and measure what is left to the second (Figure 4).

    python examples/draw/prompt_schedule.py --pair "a red mushroom" "a red heart" --output runs/prompt_schedule
    python examples/draw/prompt_schedule.py --objects noto_objects --output runs/prompt_schedule

Pairs of prompts, or of held-out captions of the demo's objects, are drawn from the same noise; the second prompt gets
the last 0, 7, 30, 60 and 100% of the steps. OUTPUT/results.json holds the settings and how far each picture is from
that of the first prompt alone: the mean absolute difference of pixels in [0, 1], of the base stage. OUTPUT/pairs.png
shows the first pairs, a row for each.
"""

import argparse
import json
from pathlib import Path

import torch
from grids_and_options import draw_grid
from switched_and_recorded import draw_switched
from torch import Tensor

from diffusers_ediffi import EDiffIPipeline, Provenance, demo_checkpoint, save_image
from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.demo import GROUNDS, STYLES, SceneGenerator, load_objects
from diffusers_ediffi.provenance import model_name

GROUND_KINDS = sorted({ground.kind for ground in GROUNDS})
SHOWN = 8  # pairs in the picture


def measure(pipe: EDiffIPipeline, args: argparse.Namespace, captions: list[str]) -> tuple[dict, dict[float, Tensor]]:
    """The differences to the first prompts' pictures for each share, and the pictures."""
    firsts = captions[::2]
    seconds = captions[1::2]
    plain = draw_switched(pipe, args, firsts, seconds, left=0.0)
    pictures = {}
    differences = {}
    for left in args.left:
        pictures[left] = plain if left == 0 else draw_switched(pipe, args, firsts, seconds, left)
        per_pair = (pictures[left] - plain).abs().mean(dim=(1, 2, 3))
        differences[f"{left:g}"] = {"mean": per_pair.mean().item(), "largest": per_pair.max().item()}
    return differences, pictures


def make_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = ScriptParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="pipeline folder or Hub id; by default that of the package")
    parser.add_argument("--output", type=Path, required=True, help="folder for results.json and pairs.png")
    parser.add_argument(
        "--pair", nargs=2, action="append", metavar=("FIRST", "SECOND"), help="two prompts; once for each pair"
    )
    parser.add_argument("--left", type=float, nargs="+", default=[0, 7, 30, 60, 100], help="per cent of the steps")
    parser.add_argument("--steps", type=whole(1), nargs="+", help="number for all stages, or for base, SR256, SR1024")
    parser.add_argument("--guidance-scale", type=float, nargs="+", help="the same")
    parser.add_argument("--batch-size", type=whole(1), default=32, help="pictures at a time")
    parser.add_argument("--bf16", action="store_true", help="run the networks under bfloat16 autocast")
    parser.add_device()
    parser.add_argument("--threads", type=whole(1), help="CPU threads")
    parser.add_argument("--seed", type=int, default=0, help="of the noise and of the held-out scenes")
    add_scene_options(parser)
    return parser


def add_scene_options(parser: argparse.ArgumentParser) -> None:
    """The options that choose held-out captions."""
    scenes = parser.add_argument_group("held-out captions")
    scenes.add_argument("--objects", type=Path, help="folder with object images and index.json")
    scenes.add_argument("--num-pairs", type=whole(1), default=64, help="pairs of held-out captions")
    chosen = scenes.add_mutually_exclusive_group()
    chosen.add_argument("--phrases", nargs="+", help="only these objects, by their phrase in index.json")
    chosen.add_argument("--num-objects", type=whole(1), help="only the first so many objects of index.json")
    scenes.add_argument("--styles", nargs="+", default=list(STYLES), choices=STYLES, help="only these drawing styles")
    scenes.add_argument("--ground-kinds", nargs="+", default=GROUND_KINDS, choices=GROUND_KINDS, help="only these")
    scenes.add_argument(
        "--object-weights", type=float, nargs="+", default=(0.5, 0.4, 0.1), help="how often 1, 2 and 3 objects"
    )
    # Options of the evaluation scripts that were accepted here and never had an effect.
    unused = ("scorer", "num-prompts", "num-style-prompts", "num-sr256", "num-sr1024", "patches-per-image")
    for name in unused:
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options, checked; --steps and --guidance-scale have a number for each stage."""
    args = make_parser().parse_args(arguments)
    if (args.pair is None) == (args.objects is None):
        raise ValueError("give either --pair FIRST SECOND, or --objects for pairs of held-out captions.")
    if args.num_pairs < 1 or not all(0 <= left <= 100 for left in args.left):
        raise ValueError(f"--num-pairs={args.num_pairs} must be at least 1, and --left={args.left} lie in 0 to 100.")
    for name in ("steps", "guidance_scale"):
        values = getattr(args, name)
        if values is not None:
            if len(values) not in (1, 3):
                raise ValueError(f"--{name.replace('_', '-')} takes one number, or three for base, SR256 and SR1024.")
            setattr(args, name, tuple(values * 3 if len(values) == 1 else values))
    return args


def held_out_captions(args: argparse.Namespace) -> list[str]:
    """Captions of scenes whose combination was never trained on, two for each pair."""
    objects = load_objects(args.objects, args.phrases)[: args.num_objects]
    grounds = [ground for ground in GROUNDS if ground.kind in args.ground_kinds]
    weights = {"max_objects": len(args.object_weights), "object_weights": args.object_weights}
    scenes = SceneGenerator(objects, args.styles, grounds, **weights, seed=args.seed, split="held_out")
    return [scenes.scene(index).caption for index in range(2 * args.num_pairs)]


def load_pipeline(args: argparse.Namespace) -> EDiffIPipeline:
    """The model that the options name."""
    if args.threads:
        torch.set_num_threads(args.threads)
    pipe = EDiffIPipeline.from_pretrained(args.model or demo_checkpoint(), dtype=torch.float32).to(args.device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_pairs(captions: list[str], pictures: dict[float, Tensor], args: argparse.Namespace) -> None:
    """Writes the first pairs as a grid, a row for each, a column for each share."""
    columns = [EDiffIPipeline.numpy_to_pil(pictures[left][:SHOWN].movedim(1, -1).numpy()) for left in args.left]
    rows = [list(row) for row in zip(*columns, strict=True)]
    labels = [f"{captions[2 * i]} -> {captions[2 * i + 1]}" for i in range(len(rows))]
    grid = draw_grid(rows, labels, [f"{left:g}% to the second" for left in args.left])
    settings = {"prompts": captions[: 2 * len(rows)], "seed": args.seed, "model": model_name(args.model)}
    save_image(grid, args.output / "pairs.png", Provenance(settings))


def print_table(differences: dict[str, dict[str, float]]) -> None:
    """A line for each share."""
    print("steps left to the second prompt   mean difference   largest of a pair")
    for left, found in differences.items():
        print(f"{left + '%':>31}{found['mean']:>18.4f}{found['largest']:>20.4f}")


def main(arguments: list[str] | None = None) -> dict:
    """Draws, measures, writes, prints and returns the figures."""
    args = parse_arguments(arguments)
    pipe = load_pipeline(args)
    captions = [prompt for pair in args.pair for prompt in pair] if args.pair else held_out_captions(args)
    args.output.mkdir(parents=True, exist_ok=True)
    with torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.bf16):
        differences, pictures = measure(pipe, args, captions)
    save_pairs(captions, pictures, args)
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    results = {"settings": settings, "difference": differences, "captions": captions}
    (args.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print_table(differences)
    return results


if __name__ == "__main__":
    with errors_in_one_line():
        main()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Measure any text-to-image pipeline of diffusers with several schedulers, from the same noise: evaluation in Python.

    python examples/evaluate/evaluate_schedulers.py --model stable-diffusion-v1-5/stable-diffusion-v1-5 \
        --captions captions.txt --reference pictures --schedulers own EDMDEISScheduler DDIMScheduler --steps 20 \
        --output runs/schedulers

Each scheduler has a folder of pictures, features and `card.json` in `OUTPUT`, which go on where they were cut. For one
model at several guidance scales, `ediffi evaluate` needs no script.
"""

import argparse
from pathlib import Path
from typing import Any

import diffusers

import diffusers_ediffi  # noqa: F401  diffusers knows its pipelines and schedulers from now on
from diffusers_ediffi.cli.options import file, folder, whole
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.evaluation import (
    METRICS,
    CLIPNetwork,
    Evaluator,
    FeatureNetwork,
    draw_pictures,
    read_captions,
    read_settings,
)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = ScriptParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="folder or Hub id of a text-to-image pipeline")
    parser.add_argument("--captions", type=file, required=True, help="a .txt, .jsonl or .json of captions")
    parser.add_argument("--reference", type=folder, required=True, help="folder of real pictures")
    parser.add_argument("--output", type=Path, required=True, help="where pictures and cards go")
    parser.add_argument(
        "--schedulers", nargs="+", default=["own", "EDMDEISScheduler"], help="own, or classes of diffusers"
    )
    parser.add_argument("--metrics", nargs="+", choices=METRICS, default=list(METRICS))
    parser.add_argument("--feature-network", default="facebook/dinov2-large", help="(default: %(default)s)")
    parser.add_argument("--clip", default="openai/clip-vit-large-patch14-336", help="(default: %(default)s)")
    parser.add_argument("--num-captions", type=whole(1), help="chosen by the seed (default: all)")
    parser.add_argument("--steps", type=whole(1), default=25, help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=whole(1), default=8, help="(default: %(default)s)")
    parser.add_argument("--seed", type=whole(0), default=0, help="(default: %(default)s)")
    parser.add_device()
    return parser.parse_args(arguments)


def scheduler(pipe: Any, name: str) -> Any:
    """The pipeline's scheduler, or one of another class for the same model."""
    if name == "own":
        return pipe.scheduler
    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise ValueError(f"--schedulers {name}: diffusers has no such scheduler.")
    return kind.from_config(pipe.scheduler.config)


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Draws, measures, prints and returns the figures of each scheduler."""
    args = parse_arguments(arguments)
    captions = read_captions(args.captions).choose(args.num_captions, args.seed)
    clip, network = CLIPNetwork(args.clip), FeatureNetwork.from_pretrained(args.feature_network)
    evaluator = Evaluator(args.metrics, network, clip, args.reference, seed=args.seed, device=args.device)
    evaluator.check(len(captions), len(captions))
    pipe = diffusers.DiffusionPipeline.from_pretrained(args.model).to(args.device)
    pipe.set_progress_bar_config(disable=True)
    schedulers = {name: scheduler(pipe, name) for name in args.schedulers}
    figures = {}
    for name, pipe.scheduler in schedulers.items():
        output = args.output / name
        options = {"seed": args.seed, "batch_size": args.batch_size, "call": {"num_inference_steps": args.steps}}
        pictures = draw_pictures(pipe, captions, output / "pictures", **options)
        drawn = {"drawn": read_settings(output / "pictures")}
        card = evaluator.measure(pictures, output, captions.texts, args.output / "reference", drawn)
        figures[name] = card["metrics"]
        print(f"{name:24}" + "  ".join(f"{key} {value:.4g}" for key, value in card["metrics"].items()), flush=True)
    return figures


if __name__ == "__main__":
    with errors_in_one_line():
        main()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Train an ensemble of experts of the demo from one schedule: every node of the tree, one after the other.

    python examples/demo/train_experts.py three-experts --objects noto_objects --encoders runs/encoders \
        --output runs/tree --mixed-precision bf16 --channels-last --max-minutes-this-run 60

The schedule is a YAML file (`src/diffusers_ediffi/training/schedule.py` lists its keys) or the name of a
shipped one: two-experts, three-experts, four-experts, or the paper's paper-table5 (base) and paper-table6 (SR256).
See the plan first, with its cost from a measured step time; nothing is written:

    python examples/demo/train_experts.py three-experts --objects noto_objects --encoders runs/encoders \
        --output runs/tree --mixed-precision bf16 --channels-last --dry-run

Cut it anywhere, also by kill -9, and start the same command again: nodes that are done are skipped, the others go on
exactly where they were saved. `OUTPUT/nodes/NAME` is the folder of one run, as train_base.py writes it;
`OUTPUT/unet` holds the experts as one `ExpertRouterUNet`, and `OUTPUT/report.json` what each run did. With
`--init-from runs/base`, or `start:` in the schedule, the nodes without a parent start from a trained model.
"""

import argparse
from pathlib import Path
from typing import Any

from scenes_and_networks import (
    SR_SIZES,
    add_data_arguments,
    add_patch_arguments,
    build_unet,
    load_data,
    patch_options,
)

from diffusers_ediffi import EDiffIUNet, NoiseInterval
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.training import Schedule, TrainingSettings, TreeTrainer
from diffusers_ediffi.training.plan import network_folder


def make_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("schedule", help="a YAML file, or the name of a shipped schedule")
    parser.add_argument("--stage", choices=("base", *SR_SIZES), default="base", help="which stage of the cascade")
    parser.add_argument("--size", type=int, default=64, help="of the base: height and width (default: 64)")
    parser.add_argument("--dry-run", action="store_true", help="print plan and cost, train nothing")
    add_data_arguments(parser, None)
    add_patch_arguments(parser)
    TrainingSettings.add_arguments(parser, scheduled=True)
    return parser


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The training settings that the command line gives, by the names that `TreeTrainer` has for them."""
    names = [name for name in vars(TrainingSettings()) if name != "total_steps" and getattr(args, name) is not None]
    limits = ("max_steps_this_run", "max_minutes_this_run")
    overrides = {name: getattr(args, name) for name in names if name not in limits}
    return {"overrides": overrides, **{name: getattr(args, name) for name in limits}}


def make_trainer(args: argparse.Namespace) -> TreeTrainer:
    """Checks schedule and arguments, cheapest first, and loads the data."""
    schedule = Schedule.load(args.schedule, start=args.init_from)
    if schedule.start is not None:
        network_folder(schedule.start, "--init-from" if args.init_from else "start")
    options = given_settings(args)
    settings = schedule.settings_of(schedule.nodes[0], options["overrides"])
    args.seed = settings.seed
    args.preset = args.preset or f"demo-{args.stage}"
    args.init_from = None if schedule.start is None else Path(schedule.start)
    pictures = {"size": args.size} if args.stage == "base" else patch_options(args)
    data = load_data(args, pictures)
    data["data_settings"]["preset"] = args.preset
    sample_size = pictures.get("crop") or pictures["size"]

    def make_unet(interval: NoiseInterval) -> EDiffIUNet:
        return build_unet(args, interval, data["encode_batch"].widths, sample_size=sample_size)

    return TreeTrainer(schedule, make_unet, output=args.output, **data, **options)


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and trains."""
    args = make_parser().parse_args(arguments)
    trainer = make_trainer(args)
    if args.dry_run:
        print(trainer.dry_run())
    else:
        trainer.train()


if __name__ == "__main__":
    with errors_in_one_line():
        main()

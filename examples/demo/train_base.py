# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Train the demo's base model, 64 x 64, on rendered scenes.

    python examples/demo/train_base.py --objects noto_objects --encoders runs/encoders --output runs/base \
        --batch-size 64 --learning-rate 5e-4 --mixed-precision bf16 --channels-last --max-minutes-this-run 60

Cut it anywhere and start the same command again: it goes on exactly where it was. `OUTPUT/unet` holds the averaged
weights whenever a run has ended, `OUTPUT/samples` grids of held-out captions, `OUTPUT/log.jsonl` loss and speed.

An expert starts from the weights of its parent and trains on its interval alone (paper, section 4.1):

    python examples/demo/train_base.py ... --output runs/base-9-511 --init-from runs/base --node 9,511
    python examples/demo/train_base.py ... --output runs/base-rest --init-from runs/base --excluding 9,511 3,0
"""

import argparse

from scenes_and_networks import add_arguments, train_unet

from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and trains."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, "demo-base", learning_rate=5e-4, ema_decay=0.999)
    parser.add_argument("--size", type=int, default=64, help="height and width of the pictures (default: 64)")
    args = parser.parse_args(arguments)
    train_unet(args, {"size": args.size}, sample_size=args.size)


if __name__ == "__main__":
    with errors_in_one_line():
        main()

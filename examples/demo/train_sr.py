# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Train a super-resolution model of the demo on rendered scenes: 64 -> 256 on whole pictures, 256 -> 1024 on patches.

    python examples/demo/train_sr.py --stage sr256 --objects noto_objects --encoders runs/encoders \
        --output runs/sr256 --batch-size 8 --learning-rate 5e-4 --mixed-precision bf16 --channels-last \
        --max-minutes-this-run 30
    python examples/demo/train_sr.py --stage sr1024 --objects noto_objects --encoders runs/encoders \
        --output runs/sr1024 --batch-size 8 --learning-rate 5e-4 --mixed-precision bf16 --channels-last \
        --max-minutes-this-run 30

It resumes, logs and writes grids (what the model draws, its input, the real picture) as train_base.py does, and trains
experts in the same way: the paper's two of SR256 are `--node 1,0` and `--node 1,1` with `--init-from runs/sr256`.
"""

import argparse

from scenes_and_networks import (
    SR_SIZES,
    add_arguments,
    add_patch_arguments,
    patch_options,
    train_unet,
)

from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=SR_SIZES, required=True, help="which stage of the cascade")
    # The input leaves little to invent: few sampling steps without guidance show what the model can do.
    add_arguments(
        parser, None, learning_rate=5e-4, ema_decay=0.999, batch_size=8, sample_steps=10, sample_guidance=1.0
    )
    add_patch_arguments(parser)
    args = parser.parse_args(arguments)
    args.preset = args.preset or f"demo-{args.stage}"
    return args


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and trains."""
    args = parse_arguments(arguments)
    options = patch_options(args)
    size = options["crop"] or options["size"]
    train_unet(args, options, sample_size=size, max_noise_level=args.max_noise_level)


if __name__ == "__main__":
    with errors_in_one_line():
        main()

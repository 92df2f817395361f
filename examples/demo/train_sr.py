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
import sys
from typing import Any

from train_base import add_arguments, run

STAGES = {"sr256": 256, "sr1024": 1024}
FACTOR = 4


def add_patch_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of super-resolution alone."""
    patches = parser.add_argument_group("patches")
    patches.add_argument("--crop", type=int, help="side of the training patches (default: 256)")
    patches.add_argument("--crops-per-scene", type=int, help="patches of one rendering (default: sr256 1, sr1024 4)")
    patches.add_argument("--degradation", type=float, default=0.3, help="strength of the input's degradation, 0 to 1")
    patches.add_argument(
        "--distortion", type=float, default=0.0, help="how strongly the input has a base model's errors, 0 to 1"
    )
    patches.add_argument(
        "--max-noise-level",
        type=float,
        help="noise conditioning augmentation up to this standard deviation; 0.5 is usual (default: without)",
    )


def dataset_options(args: argparse.Namespace) -> dict[str, Any]:
    """What `SceneDataset` must know of the stage and its patches."""
    size = STAGES[args.stage]
    crop = args.crop or min(size, 256)
    return {
        "size": size,
        "crop": crop if crop != size else None,
        "crops_per_scene": args.crops_per_scene or (4 if crop < size else 1),
        "low_res_factor": FACTOR,
        "degradation_strength": args.degradation,
        "distortion_strength": args.distortion,
    }


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=STAGES, required=True, help="which stage of the cascade")
    # The input leaves little to invent: few sampling steps without guidance show what the model can do.
    add_arguments(
        parser, None, learning_rate=5e-4, ema_decay=0.999, batch_size=8, sample_steps=10, sample_guidance=1.0
    )
    add_patch_arguments(parser)
    args = parser.parse_args(arguments)
    args.preset = args.preset or f"demo-{args.stage}"
    options = dataset_options(args)
    try:
        run(
            args,
            options,
            sample_size=options["crop"] or options["size"],
            max_noise_level=args.max_noise_level,
        )
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

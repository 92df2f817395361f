# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Train all weights of a stage of a pipeline further on pictures of yours, or of some of its experts, with the options
of diffusers' training scripts.

    python examples/training/train_ediffi.py --train_data_dir my_pictures --output_dir runs/mine
    python examples/training/train_ediffi.py --train_data_dir my_pictures --stage unet_sr256 --experts 1 \
        --output_dir runs/sharper

`runs/mine/pipeline` is then what `EDiffIPipeline.from_pretrained` takes. Runs, validation and resuming are those of
train_ediffi_lora.py.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from runs_and_options import Result, add_training_arguments, settings_of, train_stage

from diffusers_ediffi import EDiffIPipeline, EDiffIUNet, ExpertRouterUNet
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.training import StageNetworks


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser, learning_rate=1e-5)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and trains."""
    args = parse_arguments(arguments)
    folder = args.output_dir / "pipeline"

    def write(stage: StageNetworks, runs: Mapping[int, Path]) -> None:
        pipe = EDiffIPipeline.from_pretrained(args.pretrained_model_name_or_path)
        trained = {number: EDiffIUNet.from_pretrained(run / "unet") for number, run in runs.items()}
        pipe.register_modules(**{stage.name: joined(stage, getattr(pipe, stage.name), trained)})
        pipe.save_pretrained(folder)

    def load() -> EDiffIPipeline:
        return EDiffIPipeline.from_pretrained(folder)

    usage = f'pipe = EDiffIPipeline.from_pretrained("{args.output_dir.name}/pipeline")'
    train_stage(args, settings_of(args), Result("A fine-tuned copy", write, load, usage))


def joined(stage: StageNetworks, before: EDiffIUNet | ExpertRouterUNet, trained: Mapping[int, EDiffIUNet]) -> object:
    """The network of a stage with what was trained in the place of what was there."""
    if not stage.is_ensemble:
        return trained[0]
    experts = [trained.get(number, expert) for number, expert in enumerate(before.experts)]
    guided = [scale for scale in before.guidance_scales if scale is not None]
    return ExpertRouterUNet.from_unets(
        experts, before.boundaries, guidance_scales=before.guidance_scales if guided else None
    )


if __name__ == "__main__":
    with errors_in_one_line():
        main()

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

from results_and_cards import pipeline_result
from runs_and_options import add_training_arguments, settings_of, train_stage

from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser, learning_rate=1e-5)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and trains."""
    args = parse_arguments(arguments)
    train_stage(args, settings_of(args), pipeline_result(args))


if __name__ == "__main__":
    with errors_in_one_line():
        main()

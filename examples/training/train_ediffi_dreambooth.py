# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Teach a pipeline a new object from a few pictures (DreamBooth), with the options of diffusers' DreamBooth scripts.

    python examples/training/train_ediffi_dreambooth.py --instance_data_dir my_zorbs --instance_prompt "a zorb" \
        --with_prior_preservation --validation_prompt "a zorb on a beach" --output_dir runs/zorb

With --with_prior_preservation the pipeline draws --num_class_images pictures of what it knows before training, into
`class_pictures`, and is trained on these, too: half of each batch, --prior_loss_weight of the loss. Their prompts are
--class_prompt, the lines of --class_prompt_file, or else made of the words in the model's vocabulary. Pictures with
captions of their own are given as --train_data_dir instead: then the word is not bound to what else they show.

The result is a LoRA, as of train_ediffi_lora.py; with --full_weights a pipeline, as of train_ediffi.py. Drawing and
training go on where they were with `--resume_from_checkpoint latest`.
"""

import argparse

from class_pictures import add_prior_arguments
from results_and_cards import lora_result, pipeline_result
from runs_and_options import add_training_arguments, settings_of, train_stage

from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser, learning_rate=5e-4)
    add_prior_arguments(parser)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--rank", type=whole(1), default=4, help="of the LoRA (default: %(default)s)")
    kind.add_argument("--full_weights", action="store_true", help="train all weights, not a LoRA")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line, draws what is missing, and trains."""
    args = parse_arguments(arguments)
    if args.full_weights:
        train_stage(args, settings_of(args), pipeline_result(args))
    else:
        train_stage(args, settings_of(args, lora_rank=args.rank, lora_only=True), lora_result(args))


if __name__ == "__main__":
    with errors_in_one_line():
        main()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Train a LoRA for each expert of a pipeline on pictures of yours, with the options of diffusers' training scripts.

    python examples/training/train_ediffi_lora.py --instance_data_dir my_pictures --instance_prompt "a zorb" \
        --validation_prompt "a zorb on a beach" --max_train_steps 300 --learning_rate 1e-3 --output_dir runs/zorb
    python examples/training/train_ediffi_lora.py --train_data_dir my_pictures --rank 8 --output_dir runs/mine

`runs/zorb` is then what `pipe.load_lora_weights("runs/zorb")` takes: one file for all experts, and a model card. Each
expert is trained on the noise levels that it draws, in a run of its own (`runs/unet/expert.0` in the folder, with
`log.jsonl`, checkpoints and samples); at each `--validation_steps` the pipeline draws with all of them
(`validation/`). `--experts 1 2` trains some of them. With `--shared_lora` they get one LoRA together, in one run
(`runs/unet/shared`): each expert has as many samples as the others, and `log.jsonl` tells its loss. Killed anywhere,
the same command with `--resume_from_checkpoint latest` ends in the same weights.
"""

import argparse

from results_and_cards import lora_result
from runs_and_options import add_training_arguments, settings_of, train_stage

from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser, learning_rate=1e-4)
    parser.add_argument("--rank", type=whole(1), default=4, help="of the LoRA (default: %(default)s)")
    parser.add_argument("--shared_lora", action="store_true", help="one LoRA for all experts, not one for each")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and trains."""
    args = parse_arguments(arguments)
    train_stage(args, settings_of(args, lora_rank=args.rank, lora_only=True), lora_result(args))


if __name__ == "__main__":
    with errors_in_one_line():
        main()

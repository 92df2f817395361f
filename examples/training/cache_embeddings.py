# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Encode the captions and pictures of a training set once, so that training needs no encoders.

    python examples/training/cache_embeddings.py --train_data_dir my_pictures --output_dir runs/embeddings
    accelerate launch --num_processes 8 examples/training/cache_embeddings.py --shards "shards/{000..099}.tar" \
        --pretrained_model_name_or_path ORG/NAME --encoder_dtype bfloat16 --output_dir runs/embeddings

Reads every picture, says how many are left out and why (`selection`), and writes the embeddings of T5, CLIP text and
CLIP image of the others (`embeddings`), in parts. Cut anywhere, it goes on where it was, to the same bytes, when the
same command is started again. `diffusers_ediffi.training` reads both by `load_selection` and `EmbeddingCache`.
"""

import argparse
from pathlib import Path

import torch
from accelerate import PartialState
from pictures_and_options import add_picture_arguments, pictures_of, pipeline_folder, select
from tqdm import tqdm

from diffusers_ediffi.cli.messages import say
from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.training import ConditioningEncoder, build_embedding_cache
from diffusers_ediffi.training.launch import launched_device

ENCODER_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_picture_arguments(parser)
    parser.add_argument("--output_dir", type=Path, required=True, help="the folder of selection and embeddings")
    parser.add_argument(
        "--dtype", choices=["float16", "bfloat16"], default="float16", help="of what is kept (default: %(default)s)"
    )
    parser.add_argument(
        "--encoder_dtype", choices=ENCODER_DTYPES, default="float32", help="of the encoders (default: %(default)s)"
    )
    parser.add_argument("--batch_size", type=whole(1), default=32, help="encoded at once (default: %(default)s)")
    parser.add_argument(
        "--rows_per_part", type=whole(1), default=512, help="pictures in a file (default: %(default)s)"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    encoders, device = pipeline_folder(args), launched_device()
    source, process = pictures_of(args), PartialState()
    selection = select(args, source, args.output_dir / "selection", encoders, device)
    encoder = ConditioningEncoder(encoders, device, ENCODER_DTYPES[args.encoder_dtype])
    built = build_embedding_cache(
        args.output_dir / "embeddings",
        source,
        selection,
        encoder,
        args.dtype,
        args.batch_size,
        args.ground,
        args.rows_per_part,
        process.process_index,
        process.num_processes,
    )
    made = list(tqdm(built, "encoding", unit="part", disable=not process.is_main_process))
    rank = f"process {process.process_index}: " if process.num_processes > 1 else ""
    say(f"{rank}parts made: {sum(made)}, already there: {len(made) - sum(made)}; {args.output_dir / 'embeddings'}")


if __name__ == "__main__":
    with errors_in_one_line():
        main()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What the scripts of this folder share: the options that say which pictures, with the names that diffusers' training
scripts give them, and what they lead to."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import PartialState

from diffusers_ediffi import demo_checkpoint
from diffusers_ediffi.cli.messages import say
from diffusers_ediffi.training import (
    AestheticScore,
    ClipModel,
    ClipScore,
    ImageFolder,
    Selection,
    caption_tokenizers,
    open_pictures,
    select_pictures,
)
from diffusers_ediffi.training.encode import SUBFOLDERS
from diffusers_ediffi.training.filters import PictureFilter
from diffusers_ediffi.training.picture import PictureSource


def add_picture_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say where pictures are, and which of them are trained on."""
    parser.add_argument(
        "--pretrained_model_name_or_path",
        default=demo_checkpoint(),
        help="the pipeline whose encoders read the captions, a folder or a Hub id (default: the packaged one)",
    )
    add_source_arguments(parser)
    chosen = parser.add_argument_group("filters")
    chosen.add_argument("--min_clip_score", type=float, help="lowest cosine between picture and caption")
    chosen.add_argument("--min_aesthetic_score", type=float, help="lowest score of --aesthetic_head")
    chosen.add_argument("--aesthetic_head", help="file with a linear head on CLIP image embeddings")
    chosen.add_argument(
        "--clip_model", help="the CLIP that gives the scores, a folder or Hub id (default: the pipeline's)"
    )


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say where pictures are, and how they are read."""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--train_data_dir", help="a folder of pictures with metadata.jsonl, metadata.csv or texts")
    where.add_argument("--dataset_name", help="a data set: its Hub id or a folder; needs the library datasets")
    where.add_argument("--instance_data_dir", help="a folder of pictures that all have the caption --instance_prompt")
    where.add_argument("--shards", nargs="+", help="tar files, patterns or addresses; need the library webdataset")
    parser.add_argument("--instance_prompt", help='with the word for what is new: "a zorb"')
    parser.add_argument("--split", default="train", help="of a data set (default: %(default)s)")
    parser.add_argument("--image_column", default="image", help="of a data set (default: %(default)s)")
    parser.add_argument("--caption_column", default="text", help="(default: %(default)s)")
    parser.add_argument(
        "--ground", default="white", help="the colour behind what is transparent (default: %(default)s)"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="end where a picture cannot be read or has no caption, instead of skipping",
    )
    parser.add_argument("--min_side", type=int, default=1, help="fewest pixels of the shorter side (default: 1)")


def pictures_of(args: argparse.Namespace) -> PictureSource:
    """The pictures that the options name.

    Raises:
        ValueError: There are none, or they have no captions.
    """
    if (args.instance_data_dir is None) != (args.instance_prompt is None):
        raise ValueError("--instance_data_dir and --instance_prompt belong together: give both or none.")
    if args.instance_data_dir is not None:
        if not args.instance_prompt.strip():
            raise ValueError('--instance_prompt is empty; say what the pictures show, as in "a zorb".')
        return ImageFolder(args.instance_data_dir, caption=args.instance_prompt)
    where = args.train_data_dir or args.dataset_name or args.shards
    return open_pictures(where, args.caption_column, args.image_column, args.split)


def pipeline_folder(args: argparse.Namespace, further: Sequence[str] = ()) -> Path:
    """The folder of the pipeline, of which the encoders are fetched if it is on the Hub, and what `further` names.

    Raises:
        OSError: There is no such pipeline.
    """
    name = args.pretrained_model_name_or_path
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise OSError(f"--pretrained_model_name_or_path: there is no folder {name!r}, nor is it a Hub id.")
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=[*(f"{subfolder}/*" for subfolder in SUBFOLDERS), *further]))


def select(
    args: argparse.Namespace, source: PictureSource, folder: Path, encoders: Path, device: torch.device
) -> Selection:
    """The pictures that are trained on, kept in a folder; says what is left out."""
    process = PartialState()
    selection = select_pictures(
        source,
        folder,
        args.min_side,
        filters_of(args, encoders, device),
        args.ground,
        caption_tokenizers(encoders),
        args.strict,
        process,
    )
    if process.is_main_process:
        for line in selection.report():
            say(line)
    return selection


def filters_of(args: argparse.Namespace, encoders: Path, device: torch.device) -> list[PictureFilter]:
    """The filters that the options ask for."""
    if (args.min_aesthetic_score is None) != (args.aesthetic_head is None):
        raise ValueError("--min_aesthetic_score and --aesthetic_head belong together: give both or none.")
    if args.min_clip_score is None and args.min_aesthetic_score is None:
        return []
    clip = ClipModel(args.clip_model or encoders, device)
    filters: list[PictureFilter] = []
    if args.min_clip_score is not None:
        filters.append(ClipScore(clip, args.min_clip_score))
    if args.min_aesthetic_score is not None:
        filters.append(AestheticScore(clip, args.aesthetic_head, args.min_aesthetic_score))
    return filters

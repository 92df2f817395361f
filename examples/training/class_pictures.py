# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Prior preservation in train_ediffi_dreambooth.py: what the pipeline draws before training, so that it goes on
drawing it. The prompts are given, or made of the words that the model says it knows."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from diffusers_ediffi import EDiffIPipeline, Provenance, save_image
from diffusers_ediffi.cli.options import at_least_0, file, whole
from diffusers_ediffi.demo.scenes import with_article
from diffusers_ediffi.files import written_whole
from diffusers_ediffi.provenance import model_name
from diffusers_ediffi.training import ImageFolder
from diffusers_ediffi.training.image_folder import FILE_COLUMN, METADATA

CLASS_PICTURES = "class_pictures"  # below --output_dir
TABLE = METADATA[0]
SHARE_OF_PAIRS = 0.5  # of the prompts that are made of a vocabulary
SHARE_OF_STYLES = 0.3


def add_prior_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of prior preservation, with the names that diffusers' DreamBooth scripts give them."""
    group = parser.add_argument_group("prior preservation")
    group.add_argument(
        "--with_prior_preservation", action="store_true", help="train on what the model draws already, too"
    )
    group.add_argument(
        "--class_data_dir",
        type=Path,
        help="pictures of what is to be kept; those that are missing are drawn (default: OUTPUT_DIR/class_pictures)",
    )
    prompts = group.add_mutually_exclusive_group()
    prompts.add_argument("--class_prompt", nargs="+", help="what they show (default: made of the model's vocabulary)")
    prompts.add_argument("--class_prompt_file", type=file, help="a text with such a prompt on each line")
    group.add_argument("--num_class_images", type=whole(1), default=100, help="(default: %(default)s)")
    group.add_argument("--sample_batch_size", type=whole(1), default=4, help="drawn at once (default: %(default)s)")
    group.add_argument(
        "--prior_loss_weight",
        type=at_least_0,
        default=1.0,
        help="of these pictures in the loss (default: %(default)s)",
    )


def class_prompts(args: argparse.Namespace, pipeline: Path) -> list[str]:
    """What each of the class pictures shows; none without prior preservation.

    Raises:
        ValueError: There are no prompts, options of prior preservation without it, or pictures in the folder that
            cannot be taken.
    """
    prompts = _prompts(args, pipeline)
    if prompts and not _is_drawn(folder_of(args)):
        _given(args, prompts)
    return prompts


def folder_of(args: argparse.Namespace) -> Path:
    """Where the class pictures are."""
    return args.class_data_dir or args.output_dir / CLASS_PICTURES


def _prompts(args: argparse.Namespace, pipeline: Path) -> list[str]:
    if not args.with_prior_preservation:
        given = [name for name in ("class_data_dir", "class_prompt", "class_prompt_file") if getattr(args, name)]
        if given:
            raise ValueError(f"--{given[0]} is for --with_prior_preservation: give it, or leave this out.")
        return []
    numbers = range(args.num_class_images)
    if args.class_prompt is None and args.class_prompt_file is None:
        words = _vocabulary(pipeline)
        return [vocabulary_prompt(words, np.random.default_rng([args.seed, number])) for number in numbers]
    lines = args.class_prompt or args.class_prompt_file.read_text(encoding="utf-8").splitlines()
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"--class_prompt: there is no prompt in {args.class_prompt_file or args.class_prompt}.")
    return [prompts[number % len(prompts)] for number in numbers]


def _vocabulary(pipeline: Path) -> Mapping[str, Sequence[str]]:
    """The words that a pipeline says it knows, by their groups.

    Raises:
        ValueError: It does not say it.
    """
    index = json.loads((pipeline / "model_index.json").read_text(encoding="utf-8"))
    words = (index.get("vocabulary") or {}).get("words") or {}
    if not words.get("objects"):
        raise ValueError(
            "--with_prior_preservation: the model has no vocabulary, so say what it must not forget by --class_prompt "
            'or --class_prompt_file: "a person" "a dog in a park".'
        )
    return words


def vocabulary_prompt(words: Mapping[str, Sequence[str]], random: np.random.Generator) -> str:
    """A prompt of the words of a model: one object or two, often a ground or colour behind them, sometimes a style."""
    objects, relations = words["objects"], words.get("relations", ())
    first, second = random.permutation(len(objects))[:2] if len(objects) > 1 else (0, 0)
    text = with_article(objects[first])
    if relations and first != second and random.random() < SHARE_OF_PAIRS:
        text += f" {random.choice(relations)} {with_article(objects[second])}"
    grounds = [
        *words.get("grounds", ()),
        *(f"on {with_article(name)} background" for name in words.get("colours", ())),
    ]
    if grounds:
        text += f" {random.choice(grounds)}"
    if words.get("styles") and random.random() < SHARE_OF_STYLES:
        text += f", {random.choice(words['styles'])}"
    return text


def class_source(args: argparse.Namespace, prompts: Sequence[str], size: int, device: torch.device) -> ImageFolder:
    """The class pictures. Those that are missing are drawn: a drawing that was cut goes on.

    Raises:
        ValueError: The folder holds other pictures, and fewer than are asked for, or pictures of other prompts.
        OSError: It cannot be written.
    """
    process = PartialState()
    folder = folder_of(args)
    if not _is_drawn(folder):
        return _given(args, prompts)
    rows = [{FILE_COLUMN: f"class-{number:05d}.png", "text": prompt} for number, prompt in enumerate(prompts)]
    if process.is_main_process:
        _write_table(folder, rows)
    process.wait_for_everyone()
    # The same pictures are drawn together each time: what was cut then ends in the same bytes.
    batches = [
        range(len(rows))[first : first + args.sample_batch_size]
        for first in range(0, len(rows), args.sample_batch_size)
    ]
    missing = [
        batch for batch in batches if not all((folder / rows[number][FILE_COLUMN]).exists() for number in batch)
    ]
    _draw(args, folder, rows, missing[process.process_index :: process.num_processes], size, device)
    process.wait_for_everyone()
    return ImageFolder(folder)


def _is_drawn(folder: Path) -> bool:
    """Whether the folder is one of ours: new, empty, or with a table of pictures that were drawn here."""
    if not folder.exists() or not any(folder.iterdir()):
        return True
    table = folder / TABLE
    return table.is_file() and table.read_text(encoding="utf-8").startswith(f'{{"{FILE_COLUMN}": "class-00000.png"')


def _given(args: argparse.Namespace, prompts: Sequence[str]) -> ImageFolder:
    """Pictures of the user's, with their captions or with the one prompt that is given.

    Raises:
        ValueError: There are too few, or several prompts for pictures without captions.
    """
    folder = folder_of(args)
    has_captions = any((folder / name).is_file() for name in METADATA) or any(folder.glob("*.txt"))
    if not has_captions and len(set(prompts)) > 1:
        raise ValueError(
            f"--class_data_dir {folder} holds pictures without captions: give the one --class_prompt that is theirs, "
            f"or captions ({TABLE}), or another folder."
        )
    source = ImageFolder(folder) if has_captions else ImageFolder(folder, caption=prompts[0])
    if len(source) < args.num_class_images:
        raise ValueError(
            f"--class_data_dir {folder} holds {len(source)} pictures that were not drawn here: name another folder, "
            f"or take them by --num_class_images {len(source)}."
        )
    return source


def _write_table(folder: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Writes which picture shows what, before the first is drawn.

    Raises:
        ValueError: Pictures of other prompts are there.
    """
    table = folder / TABLE
    if table.exists():
        before = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
        for old, new in zip(before, rows, strict=False):
            if old != new and (folder / old[FILE_COLUMN]).exists():
                raise ValueError(
                    f"{folder / old[FILE_COLUMN]} shows {old['text']!r}, and now it would be {new['text']!r}: choose "
                    "another --class_data_dir, or the same prompts, model and --seed."
                )
    with written_whole(table) as unfinished:
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _draw(
    args: argparse.Namespace,
    folder: Path,
    rows: Sequence[Mapping[str, str]],
    batches: Sequence[range],
    size: int,
    device: torch.device,
) -> None:
    """Draws the pictures of these numbers; each depends on the seed, its number and its prompt alone."""
    if not batches:
        return
    pipe = EDiffIPipeline.from_pretrained(args.pretrained_model_name_or_path).to(device)
    pipe.set_progress_bar_config(disable=True)
    source = {"model": model_name(str(args.pretrained_model_name_or_path)), "seed": args.seed}
    for numbers in tqdm(batches, desc="drawing class pictures", unit="batch"):
        prompts = [rows[number]["text"] for number in numbers]
        noise = [torch.Generator().manual_seed(args.seed * 1_000_003 + number) for number in numbers]
        images = pipe(prompts, height=size, generator=noise).images
        for number, prompt, image in zip(numbers, prompts, images, strict=True):
            provenance = Provenance({**source, "prompt": prompt, "number": number})
            save_image(image, folder / rows[number][FILE_COLUMN], provenance)

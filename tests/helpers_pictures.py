# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Small folders of pictures with captions."""

import json
from pathlib import Path

import torch
from accelerate import PartialState
from PIL import Image

from diffusers_ediffi import demo_checkpoint
from diffusers_ediffi.training import (
    ConditioningEncoder,
    EmbeddingCache,
    ImageFolder,
    PictureDataset,
    PictureSettings,
    Selection,
    build_embedding_cache,
    caption_tokenizers,
    select_pictures,
)
from diffusers_ediffi.training import selection as selection_module

CAPTIONS = ("a red car", "a yellow star on a beach", "a blue fish next to a green tree", "a cat", "a red heart")


def color_of(number: int) -> tuple[int, int, int]:
    return 40 * number % 256, 255 - 40 * number % 256, 90


def write_folder(folder: Path, number: int = 6, size: tuple[int, int] = (64, 64)) -> Path:
    """Pictures of one colour each, `0.png` and so on, and `metadata.jsonl`."""
    folder.mkdir(parents=True)
    for i in range(number):
        Image.new("RGB", size, color_of(i)).save(folder / f"{i}.png")
    write_metadata(folder, {f"{i}.png": caption_of(i) for i in range(number)})
    return folder


def caption_of(number: int) -> str:
    return f"{CAPTIONS[number % len(CAPTIONS)]}{' at night' * (number // len(CAPTIONS))}"


def write_metadata(folder: Path, captions: dict[str, str | None]) -> None:
    rows = [{"file_name": name, "text": caption} for name, caption in captions.items()]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def selected(folder: Path, **options) -> tuple[ImageFolder, Selection]:
    """The pictures of `folder/pictures`, selected into `folder/selection`."""
    source = ImageFolder(folder / "pictures")
    return source, select_pictures(source, folder / "selection", **options)


def demo_encoder() -> ConditioningEncoder:
    return ConditioningEncoder(demo_checkpoint())


def build(folder: Path, **options) -> list[bool]:
    """Fills `folder/cache` for `folder/pictures`; which parts had to be made."""
    torch.set_num_threads(1)
    source, selection = selected(folder, tokenizers=caption_tokenizers(demo_checkpoint()))
    options = {"encoder": demo_encoder(), "batch_size": 4, **options}
    return list(build_embedding_cache(folder / "cache", source, selection, **options))


def cached_dataset(folder: Path, **settings) -> PictureDataset:
    source, selection = selected(folder, tokenizers=caption_tokenizers(demo_checkpoint()))
    return PictureDataset(source, settings_of(**settings), selection, EmbeddingCache(folder / "cache"))


def settings_of(**changes) -> PictureSettings:
    return PictureSettings(**{"size": 64, "clip_image_size": 64, **changes})


def select_as_one_of_two(rank: int, output: Path) -> None:
    """A process that selects its share of `pictures` beside the output, two rows at a time."""
    selection_module.ROWS = 2
    source = ImageFolder(output.parent / "pictures")
    selection = select_pictures(source, output, process=PartialState(cpu=True))
    (output / f"found-{rank}.json").write_text(json.dumps([selection.rows.tolist(), selection.fingerprint]))

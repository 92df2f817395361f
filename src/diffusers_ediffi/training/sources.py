# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Where pictures with captions come from, found by a name: a folder, a data set of the library `datasets`, shards."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .image_folder import ImageFolder, metadata_of
from .picture import Picture, PictureSource, as_caption
from .shards import ImageShards

HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
ROWS_AT_ONCE = 10_000  # of a column that is read for its hash


def open_pictures(
    where: str | os.PathLike | Sequence[str],
    caption_column: str = "text",
    image_column: str = "image",
    split: str = "train",
    download_folder: str | os.PathLike | None = None,
) -> PictureSource:
    """The source of this name.

    Args:
        where (`str`, `os.PathLike` or `list` of `str`): A folder of pictures, see [`ImageFolder`]; the id or folder of
            a data set, see [`HubImages`]; or shards, whose names end in `.tar`, see [`ImageShards`].
        caption_column (`str`, *optional*, defaults to `"text"`): Where captions stand.
        image_column (`str`, *optional*, defaults to `"image"`): Where the pictures of a data set stand.
        split (`str`, *optional*, defaults to `"train"`): Of a data set.
        download_folder (`str` or `os.PathLike`, *optional*): Where shards behind addresses are kept.

    Raises:
        ValueError: There is no such folder, or its files are wrong.
        OSError: They cannot be read.
        ImportError: The library for such sources is not installed.
    """
    if not isinstance(where, str | os.PathLike) or os.fspath(where).endswith(".tar"):
        shards = [where] if isinstance(where, str | os.PathLike) else where
        return ImageShards([os.fspath(name) for name in shards], caption_column, download_folder)
    folder = Path(where).expanduser()
    if folder.is_dir() and metadata_of(folder):
        return ImageFolder(folder, caption_column)
    if not folder.is_dir():
        if not HUB_ID.fullmatch(os.fspath(where)):
            raise ValueError(f"There is no folder {os.fspath(where)!r}, nor is it a Hub id such as org/name.")
        return HubImages(os.fspath(where), caption_column, image_column, split)
    if _is_data_set(folder):
        return HubImages(str(folder), caption_column, image_column, split)
    return ImageFolder(folder, caption_column)


def _is_data_set(folder: Path) -> bool:
    """Whether `datasets` saved a folder, or loads the tables in it."""
    saved = any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))
    return saved or any(folder.rglob("*.parquet")) or any(folder.rglob("*.arrow"))


class HubImages:
    """A data set that the library `datasets` loads.

    Args:
        name (`str`): Its id on the Hub, a folder that `load_dataset` takes, or one that `save_to_disk` wrote.
        caption_column (`str`, *optional*, defaults to `"text"`): The column of captions; of a list of captions the
            first is taken.
        image_column (`str`, *optional*, defaults to `"image"`): The column of pictures.
        split (`str`, *optional*, defaults to `"train"`): Which part of it.

    Raises:
        ImportError: `datasets` is not installed.
        ValueError: It cannot be loaded, or lacks a column.
    """

    def __init__(
        self, name: str, caption_column: str = "text", image_column: str = "image", split: str = "train"
    ) -> None:
        self.name, self.caption_column, self.image_column = name, caption_column, image_column
        table = _load(name, split)
        for role, column in (("caption", caption_column), ("image", image_column)):
            if column not in table.column_names:
                raise ValueError(
                    f"The data set {name!r} has no column {column!r}; it has "
                    f"{', '.join(map(repr, table.column_names))}; name the right one as {role}_column."
                )
        import datasets

        if not isinstance(table.features[image_column], datasets.Image):
            raise ValueError(
                f"The column {image_column!r} of {name!r} holds no images: {table.features[image_column]}."
            )
        # Undecoded: pictures are read here as everywhere else.
        table = table.select_columns([image_column, caption_column])
        self.table = table.cast_column(image_column, datasets.Image(decode=False))
        self.chunks = (len(self.table),)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> Picture:
        cells = self.table[int(row)]
        found = cells[self.image_column] or {"bytes": b"", "path": None}
        file = Path(found["path"] or "") if found["bytes"] is None else found["bytes"]
        return Picture(f"{self.name}, row {row}", as_caption(cells[self.caption_column]), file)

    def fingerprint(self) -> str:
        """A hash of all captions."""
        digest = hashlib.blake2b(digest_size=8)
        captions = self.table.select_columns([self.caption_column])
        for rows in captions.iter(ROWS_AT_ONCE):
            digest.update(json.dumps(rows[self.caption_column]).encode())
        return digest.hexdigest()


def _load(name: str, split: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise ImportError(
            f"{name!r} is not a folder of pictures, and the library datasets, which loads data sets, is not "
            'installed: pip install "diffusers_ediffi[data]".'
        ) from None
    try:
        if _is_saved(Path(name)):
            found = datasets.load_from_disk(name)
            return found[split] if isinstance(found, datasets.DatasetDict) else found
        return datasets.load_dataset(name, split=split)
    except Exception as error:  # there is no end to what loading raises
        raise ValueError(f"The data set {name!r} (split {split!r}) cannot be loaded: {error}") from error


def _is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))

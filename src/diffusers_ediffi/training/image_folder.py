# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A folder of pictures with their captions in a table or beside them.

The rows are known by number, and each is read when it is asked for: what a row costs does not grow with the folder.
"""

import csv
import hashlib
import io
import json
import mmap
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..images import file_in_folder
from .picture import SUFFIXES, Picture, as_caption

METADATA = ("metadata.jsonl", "metadata.csv")
FILE_COLUMN = "file_name"
BYTES_AT_ONCE = 2**26


class ImageFolder:
    """A folder of pictures as `datasets` and diffusers' scripts have it.

    With `metadata.jsonl` or `metadata.csv` in it, their rows name each a picture (`file_name`) and its caption.
    Without them, a text of the same name lies beside each picture of the folder and of the folders in it (`0001.png`,
    `0001.txt`).

    Args:
        folder (`str` or `os.PathLike`): The folder.
        caption_column (`str`, *optional*, defaults to `"text"`): The column of the captions.
        caption (`str`, *optional*): The caption of every picture in the folder, in the place of table and texts.

    Raises:
        ValueError: It is not a folder, has no captions, or its metadata lack a column.
    """

    def __init__(self, folder: str | os.PathLike, caption_column: str = "text", caption: str | None = None) -> None:
        self.folder, self.caption_column = Path(folder).expanduser(), caption_column
        if not self.folder.is_dir():
            raise ValueError(f"There is no folder {str(folder)!r}.")
        path = metadata_of(self.folder)
        if caption is not None:
            self.rows: _Rows = _SameCaption(self.folder, caption)
        else:
            self.rows = _BesideEach(self.folder) if path is None else _table(path, caption_column)
        self.chunks = (len(self.rows),)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Picture:
        name, caption = self.rows[row]
        return Picture(name, as_caption(caption), self.folder / name)

    def unnamed(self) -> list[str]:
        """The pictures of the folder that no row of its metadata names, by their paths in it."""
        if isinstance(self.rows, _AllPictures):
            return []
        named = {os.path.normpath(name) for name, _ in self.rows}
        return [name for name in _pictures_in(self.folder) if name not in named]

    def fingerprint(self) -> str:
        """A hash of the metadata, or of the names and lengths of all texts."""
        return hashlib.blake2b(self.rows.digest() + self.caption_column.encode(), digest_size=8).hexdigest()


def _pictures_in(folder: Path) -> list[str]:
    """The paths of all pictures in a folder and the folders in it, relative to it, in alphabetical order."""
    found = ((here, name) for here, _, names in os.walk(folder) for name in names)
    paths = (os.path.relpath(os.path.join(*path), folder) for path in found if path[1].lower().endswith(SUFFIXES))
    return sorted(paths)


class _Rows(Sequence):
    """File names and captions."""

    def digest(self) -> bytes:
        """A hash of all of them."""
        raise NotImplementedError


class _AllPictures(_Rows):
    """Every picture of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = _pictures_in(folder)
        if not found:
            raise ValueError(f"{str(folder)!r} holds no pictures ({', '.join(SUFFIXES)}).")
        # As bytes in one array: a list of millions of names would be copied to each worker process.
        self.names = np.array([os.fsencode(name) for name in found])

    def __len__(self) -> int:
        return len(self.names)


class _SameCaption(_AllPictures):
    """All pictures with one caption."""

    def __init__(self, folder: Path, caption: str) -> None:
        super().__init__(folder)
        self.caption = caption

    def __getitem__(self, row: Any) -> Any:
        return os.fsdecode(self.names[row]), self.caption

    def digest(self) -> bytes:
        return hashlib.blake2b(b"\0".join([self.caption.encode(), *self.names])).digest()


class _BesideEach(_AllPictures):
    """The names of pictures, and the texts beside them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        texts = ((folder / os.fsdecode(name)).with_suffix(".txt") for name in self.names)
        if not any(text.is_file() for text in texts):
            deeper = [inside for inside in sorted(folder.iterdir()) if metadata_of(inside)]
            remedy = f"write {' or '.join(METADATA)} with {FILE_COLUMN} and text, or a .txt beside each picture"
            if deeper:
                remedy = f"give the folder in it that has some, {str(deeper[0])!r}"
            raise ValueError(f"{str(folder)!r} holds no captions: {remedy}.")

    def __getitem__(self, row: Any) -> Any:
        name = os.fsdecode(self.names[row])
        text = (self.folder / name).with_suffix(".txt")
        if not text.is_file():
            return name, None
        try:
            return name, text.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{text} is not UTF-8 ({error.reason}); save it as UTF-8.") from None

    def digest(self) -> bytes:
        digest = hashlib.blake2b()
        for name in self.names:
            text = (self.folder / os.fsdecode(name)).with_suffix(".txt")
            digest.update(name + b"\0%d\n" % (text.stat().st_size if text.is_file() else -1))
        return digest.digest()


def metadata_of(folder: Path) -> Path | None:
    """The table of captions in a folder, if there is one."""
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def _table(path: Path, caption_column: str) -> "_Table":
    return (_JsonLines if path.suffix == ".jsonl" else _Csv)(path, caption_column)


class _Table(_Rows):
    """File names and captions in a file of metadata: of each row its place is known, and it is read when asked for."""

    def __init__(self, path: Path, caption_column: str) -> None:
        self.path, self.column = path, caption_column
        self.places = self._find_rows() if path.stat().st_size else np.empty((0, 2), np.int64)
        if not len(self):
            raise ValueError(f"{path} has no rows.")
        columns = self._cells(0)
        for name in (FILE_COLUMN, caption_column):
            if name not in columns:
                raise ValueError(
                    f"{path} has no column {name!r}; it has {', '.join(map(repr, columns))}"
                    f"{'; name the one with the captions as caption_column' if name == caption_column else ''}."
                )

    def _find_rows(self) -> np.ndarray:
        """The first and the last + 1 byte of each row, `(rows, 2)`."""
        raise NotImplementedError

    def _parse(self, text: str) -> dict[str, Any]:
        """The cells of a row by their columns."""
        raise NotImplementedError

    @cached_property
    def _bytes(self) -> mmap.mmap:
        """The file, mapped: worker processes share it."""
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_bytes"}

    def __len__(self) -> int:
        return len(self.places)

    def _cells(self, row: int) -> dict[str, Any]:
        start, stop = self.places[row]
        try:
            cells = self._parse(self._bytes[start:stop].decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"Row {row + 1} of {self.path} cannot be read: {error}") from None
        if not isinstance(cells, dict):
            raise ValueError(f"Row {row + 1} of {self.path} is not a JSON object.")
        return cells

    def __getitem__(self, row: Any) -> Any:
        cells = self._cells(row)
        name = cells.get(FILE_COLUMN)
        if not isinstance(name, str) or not name:
            raise ValueError(f"Row {row + 1} of {self.path} has no {FILE_COLUMN}.")
        try:
            file_in_folder(self.path.parent, name)
        except ValueError as error:
            raise ValueError(f"Row {row + 1} of {self.path}: {error}") from None
        return name, cells.get(self.column)

    def digest(self) -> bytes:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()


class _JsonLines(_Table):
    def _find_rows(self) -> np.ndarray:
        ends = []
        with self.path.open("rb") as file:
            for first, part in _parts(file):
                ends.append(np.flatnonzero(np.frombuffer(part, np.uint8) == ord("\n")) + first + 1)
        stops = np.concatenate([*ends, [len(self._bytes)]])
        starts = np.concatenate([[0], stops[:-1]])
        lines = np.stack([starts, stops], axis=1)
        return lines[stops - starts > len("\r\n")]  # no row is that short

    def _parse(self, text: str) -> dict[str, Any]:
        return json.loads(text)


def _parts(file: io.BufferedReader) -> Iterator[tuple[int, bytes]]:
    """A file in parts, each with the place of its first byte."""
    first = 0
    while part := file.read(BYTES_AT_ONCE):
        yield first, part
        first += len(part)


class _Csv(_Table):
    def _find_rows(self) -> np.ndarray:
        read = 0

        def lines() -> Iterator[str]:
            nonlocal read
            with self.path.open("rb") as file:
                for line in file:
                    read += len(line)
                    yield line.decode("utf-8-sig")

        places, start = [], 0
        try:
            for number, cells in enumerate(csv.reader(lines(), strict=True)):
                if number == 0:
                    self.header = cells
                elif cells:
                    places.append((start, read))
                start = read
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{self.path} cannot be read behind byte {start}: {error}") from None
        return np.array(places, np.int64).reshape(-1, 2)

    def _parse(self, text: str) -> dict[str, Any]:
        (cells,) = csv.reader(io.StringIO(text, newline=""), strict=True)
        return dict(zip(self.header, cells, strict=False))

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Pictures in shards, as the library `webdataset` has them: tar files, in which a sample's files stand one behind the
other and share a name (`0001.jpg`, `0001.txt`).

Each shard is looked through once for where its files begin; then every row is one read, so that a run resumes at its
position as with any other source, and ranks with no shard to read cannot be.
"""

import glob
import hashlib
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np

from .picture import SUFFIXES, Picture, as_caption

DOWNLOADS = "~/.cache/diffusers_ediffi/shards"
NONE = (0, -1)  # the place of a file that a sample lacks


class ImageShards:
    """Tar files with a picture and its caption in each sample.

    The caption is the sample's `.txt`, or the value of `caption_column` in its `.json`.

    Args:
        shards (`list` of `str`): Files, patterns (`shards/*.tar`, `shards/{000..099}.tar`), or addresses that
            `webdataset` opens (http, https, hf, gs), which may have braces as well. What lies behind an address is
            copied once.
        caption_column (`str`, *optional*, defaults to `"text"`): Of the captions in `.json` files.
        download_folder (`str` or `os.PathLike`, *optional*): Where the copies are kept; by default in
            `~/.cache/diffusers_ediffi/shards`.

    Raises:
        ImportError: `webdataset` is not installed.
        ValueError: There is no such shard, one is damaged, or they hold no pictures.
        OSError: A shard cannot be read or fetched.
    """

    def __init__(
        self,
        shards: Sequence[str],
        caption_column: str = "text",
        download_folder: str | os.PathLike | None = None,
    ) -> None:
        self.caption_column = caption_column
        folder = Path(DOWNLOADS if download_folder is None else download_folder).expanduser()
        names = [name for pattern in shards for name in _expanded(pattern)]
        self.paths = [_local(name, folder) for name in names]
        indexes = [_index(path) for path in self.paths]
        # Of each row the places of its picture, its .txt and its .json: first byte and length.
        self.places = np.concatenate([places for places, _ in indexes])
        self.keys = [keys for _, keys in indexes]
        self.chunks = tuple(map(len, self.keys))
        self.starts = np.cumsum([0, *self.chunks])
        if not len(self):
            raise ValueError(f"{', '.join(shards)}: no shard holds pictures ({', '.join(SUFFIXES)}).")

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, row: int) -> Picture:
        shard = int(np.searchsorted(self.starts, row, side="right")) - 1
        path, key = self.paths[shard], os.fsdecode(self.keys[shard][row - self.starts[shard]])
        picture, text, table = self.places[row]
        name = f"{path.name}: {key}"
        with path.open("rb") as file:
            caption: Any = _part(file, text).decode("utf-8", "replace")
            if text[1] < 0 and table[1] >= 0:
                caption = self._in_json(name, _part(file, table))
            return Picture(name, as_caption(caption), _part(file, picture))

    def _in_json(self, name: str, content: bytes) -> Any:
        try:
            return dict(json.loads(content)).get(self.caption_column)
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"The .json of {name} cannot be read: {error}") from None

    def fingerprint(self) -> str:
        """A hash of the shards' names and of where their files stand."""
        digest = hashlib.blake2b(self.places.tobytes(), digest_size=8)
        digest.update("\0".join([self.caption_column, *(path.name for path in self.paths)]).encode())
        return digest.hexdigest()


def _part(file: Any, place: np.ndarray) -> bytes:
    first, length = map(int, place)
    if length <= 0:
        return b""
    file.seek(first)
    return file.read(length)


def _webdataset() -> Any:
    try:
        import webdataset
        import webdataset.cache
        import webdataset.shardlists
        import webdataset.tariterators
    except ImportError:
        raise ImportError(
            'Shards (.tar) need the library webdataset, which is not installed: pip install "diffusers_ediffi[data]".'
        ) from None
    return webdataset


def _expanded(pattern: str) -> Iterator[str]:
    """The shards of a pattern."""
    wds = _webdataset()
    for name in wds.shardlists.expand_urls(pattern):
        if urlparse(name).scheme not in ("", "file"):
            yield name
            continue
        found = sorted(glob.glob(str(Path(name.removeprefix("file://")).expanduser())))
        if not found:
            raise ValueError(f"There is no shard {name!r}.")
        yield from found


def _local(name: str, folder: Path) -> Path:
    """The path of a shard, or of its copy in the folder."""
    wds, scheme = _webdataset(), urlparse(name).scheme
    if not scheme:
        return Path(name)
    if scheme == "pipe" or scheme not in wds.gopen_schemes:  # "pipe:" would start a shell
        raise ValueError(f"Shards of {scheme}: are not read ({name}); give files, or http(s), hf or gs addresses.")
    short = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
    copies = wds.cache.FileCache(str(folder), url_to_name=lambda url: f"{short}-{Path(urlparse(url).path).name}")
    try:
        return Path(copies.get_file(name))
    except (OSError, ValueError, AssertionError) as error:
        raise OSError(f"The shard {name} cannot be fetched: {error}") from error


def _index(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Where the picture, the text and the JSON of each sample stand, `(rows, 3, 2)`, and the samples' names."""
    found = [(key, files) for key, files in _samples(path) if files[0] != NONE]
    places = np.array([files for _, files in found], np.int64).reshape(-1, 3, 2)
    return places, np.array([os.fsencode(key) for key, _ in found], np.bytes_)


def _samples(path: Path) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    base_plus_ext = _webdataset().tariterators.base_plus_ext
    try:
        with tarfile.open(path, "r:") as tar:
            key, files = None, [NONE, NONE, NONE]
            for member in tar:
                name, ending = base_plus_ext(member.name) if member.isreg() else (None, None)
                kind = _kind(ending)
                if name is None or kind is None:
                    continue
                if name != key:
                    if key is not None:
                        yield key, files
                    key, files = name, [NONE, NONE, NONE]
                files[kind] = (member.offset_data, member.size)
            if key is not None:
                yield key, files
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        raise ValueError(
            f"The shard {path} is damaged or no plain tar file ({error}); a compressed one must be unpacked."
        ) from None


def _kind(ending: str | None) -> int | None:
    """Which of a sample's files one is by its ending: picture, text, JSON or none of these."""
    if ending is None:
        return None
    last = f".{ending.lower().rpartition('.')[2]}"
    return 0 if last in SUFFIXES else {".txt": 1, ".json": 2}.get(last)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Files: written whole or not at all, and YAML of strangers (schedules, model cards) read as plain values of a bounded
size. Imports nothing of this package."""

import ctypes
import json
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

# Paths in a repository: files of weights by diffusers or transformers, and what lies in the folder of an expert.
WEIGHTS = re.compile(
    r"(?P<network>(.*/)?(diffusion_pytorch_model|pytorch_model|model))(\.(?P<variant>[^./]+?))?(-\d+-of-\d+)?"
    r"\.(safetensors|bin)(\.index(\.(?P<index>[^./]+))?\.json)?"
)
EXPERT = re.compile(r"(?P<around>(.*/)?)expert\.(\d+|base)/")
SYNCED_SIZE = 2**20  # smaller files that a power cut empties are refused when they are read; weights might be zeros


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a path beside `path` to write a file or a folder to; it takes the place of `path` when the block ends.

        >>> with written_whole("weights.safetensors") as unfinished:
        ...     save_file(weights, unfinished)

    After an error `path` is what it was before, and nothing is left beside it. Its folder is made. Weights are on the
    disk before they take their place. A process that is killed may leave `.NAME.PID-THREAD.tmp`; where the system
    cannot exchange two folders at once, one that is killed between two renames leaves the older as
    `.NAME.PID-THREAD.old`.

    Args:
        path (`str` or `os.PathLike`): The file or folder that is to be written.

    Raises:
        OSError: It cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _beside(path, "tmp")
    _remove(unfinished)
    try:
        with _lack_of_room_named(path):
            yield unfinished
        _sync(unfinished)
        _take_place(unfinished, path)
    finally:
        _remove(unfinished)


@contextmanager
def saved_whole(folder: str | os.PathLike, mark: str, variant: str | None = None) -> Iterator[Path]:
    """As [`written_whole`], for a folder of weights, in which other variants and the files of others stay. Weights of
    the same variant do not, nor experts that are not written again.

    A folder that cannot be renamed (a mount point, the working folder, or where the folder around it may not be
    written to) gets its parts by renames at the end of the block. It lacks its `mark` until all are there, so that a
    process that is killed then leaves a folder that nothing loads.

    Args:
        folder (`str` or `os.PathLike`): The folder.
        mark (`str`): The file without which nothing loads the folder, `config.json` or `model_index.json`.
        variant (`str`, *optional*): The variant that is written, such as `fp16`.

    Raises:
        OSError: It cannot be written.
    """
    check_is_folder(folder)
    folder = Path(folder).resolve()
    if not _is_fixed(folder):
        with written_whole(folder) as unfinished:
            unfinished.mkdir()
            yield unfinished
            _keep(folder, unfinished, variant)
        return
    with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=folder) as name:
        unfinished = Path(name) / folder.name
        unfinished.mkdir()
        with _lack_of_room_named(folder):
            yield unfinished
        _sync(unfinished)
        for part in unfinished.iterdir():
            if part.is_dir():
                _keep(folder / part.name, part, variant)
        (folder / mark).unlink(missing_ok=True)
        _remove_superseded(folder, unfinished, variant)
        for part in sorted(unfinished.iterdir(), key=lambda part: part.name == mark):
            os.replace(part, folder / part.name)


def check_is_folder(folder: str | os.PathLike) -> None:
    """Refuses a file where a folder is to be written."""
    if Path(folder).is_file():
        raise NotADirectoryError(f"{folder} is a file; give a folder to save to.")


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Writes a value as indented JSON, whole or not at all."""
    with written_whole(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _beside(path: Path, ending: str) -> Path:
    """A hidden name beside a path that no other process or thread uses."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.{ending}")


@contextmanager
def _lack_of_room_named(path: Path) -> Iterator[None]:
    """Lets safetensors, which says neither where it writes nor that it is an `OSError`, say both."""
    try:
        yield
    except SafetensorError as error:
        # Not the hidden folders in which it is written.
        named = re.sub(r"\.([^/\\]+)\.\d+-\d+\.tmp", r"\1", str(path))
        raise OSError(f"{named} cannot be written ({error}): is there room for it?") from error


def _sync(path: Path) -> None:
    """Brings large files from the cache to the disk."""
    for file in [path, *path.rglob("*")]:
        if file.is_file() and not file.is_symlink() and file.stat().st_size >= SYNCED_SIZE:
            with file.open("rb") as content:
                os.fsync(content.fileno())


def _take_place(unfinished: Path, path: Path) -> None:
    if not path.is_dir():
        os.replace(unfinished, path)
        return
    if _exchange(unfinished, path):  # what is unfinished now, is removed
        return
    older = _beside(path, "old")
    os.rename(path, older)
    try:
        os.rename(unfinished, path)
    except BaseException:  # an interruption, too
        os.rename(older, path)
        raise
    _remove(older)


def _exchange(path: Path, other: Path) -> bool:
    """Exchanges two folders at once, where the system does: on Linux, on most file systems."""
    exchange = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    here, at_once = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return exchange is not None and exchange(here, os.fsencode(path), here, os.fsencode(other), at_once) == 0


def _is_fixed(folder: Path) -> bool:
    """Whether a folder cannot be renamed, or must not be, since relative paths would lead nowhere."""
    here = Path.cwd()
    return folder.is_dir() and (
        os.path.ismount(folder) or not os.access(folder.parent, os.W_OK) or folder in (here, *here.parents)
    )


def _keep(older: Path, unfinished: Path, variant: str | None) -> None:
    """Puts what stays of an older folder into the one that takes its place, as further links to the same files."""
    if not older.is_dir():
        return
    shutil.copymode(older, unfinished)
    for path in older.iterdir():
        place = unfinished / path.name
        if place.is_dir() and path.is_dir():
            _keep(path, place, variant)
        elif not os.path.lexists(place) and not _is_superseded(path.name, variant):
            if path.is_dir() and not path.is_symlink():
                shutil.copytree(path, place, symlinks=True, copy_function=_link)
            else:
                _link(path, place)


def _is_superseded(name: str, variant: str | None) -> bool:
    """Whether a file holds weights of a variant, whole or in shards, by diffusers or transformers, or an expert."""
    dot = re.escape(f".{variant}") if variant else ""
    weights = rf"{dot}(-\d+-of-\d+)?\.(safetensors|bin)|\.(safetensors|bin)\.index{dot}\.json"
    return bool(re.fullmatch(rf"(diffusion_pytorch_model|pytorch_model|model)({weights})|expert\.(\d+|base)", name))


def superseded(existing: Iterable[str], written: Collection[str]) -> list[str]:
    """The files of a repository that weights take the place of, as in [`saved_whole`]: those of the same network and
    variant, and experts that are not written again.

    Args:
        existing, written (`list` of `str`): Paths in the repository.
    """
    networks = {_network_of(path) for path in written} - {None}
    experts = {match[0]: match["around"] for match in map(EXPERT.match, written) if match}
    return [
        path
        for path in existing
        if path not in written
        and (
            _network_of(path) in networks
            or ((match := EXPERT.match(path)) and match["around"] in experts.values() and match[0] not in experts)
        )
    ]


def _network_of(path: str) -> tuple[str, str] | None:
    """Which network and variant a file holds weights of, or their index."""
    match = WEIGHTS.fullmatch(path)
    return (match["network"], match["variant"] or match["index"] or "") if match else None


def _remove_superseded(folder: Path, unfinished: Path, variant: str | None) -> None:
    """Removes what does not stay."""
    for path in folder.iterdir():
        if _is_superseded(path.name, variant) or (path.is_dir() and (unfinished / path.name).is_dir()):
            _remove(path)


def _link(path: str | Path, place: str | Path, *, follow_symlinks: bool = False) -> None:
    try:
        os.link(path, place, follow_symlinks=follow_symlinks)
    except OSError:  # not every file system has links
        shutil.copy2(path, place, follow_symlinks=follow_symlinks)

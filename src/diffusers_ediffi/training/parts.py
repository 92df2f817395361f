# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A folder that several processes fill with parts, each a safetensors file that is there whole or not at all.

Beside the parts, `manifest.json` says what they were made from. A process that is killed loses the part it was at;
started again, it makes that one and those that are missing, to the same bytes.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from ..files import write_json, written_whole

MANIFEST = "manifest.json"
NOTES = "notes"  # one entry of a file's metadata: several would be written in any order
MAX_PARTS = 10**6
_DAMAGE = (SafetensorError, KeyError, ValueError, TypeError, RecursionError)
Made = tuple[dict[str, torch.Tensor], dict[str, Any]]


@dataclass(frozen=True)
class Parts:
    """The parts of a folder.

    Args:
        folder (`Path`): Where they are.
        bounds (`list` of pairs of `int`): The first and the last + 1 row of each part.
    """

    folder: Path
    bounds: Sequence[tuple[int, int]]

    def path(self, number: int) -> Path:
        """The file of a part."""
        return self.folder / f"part-{number:05d}-of-{len(self.bounds):05d}.safetensors"

    def build(
        self,
        manifest: dict[str, Any],
        make: Callable[[int, int], Made],
        rank: int = 0,
        num_processes: int = 1,
    ) -> Iterator[bool]:
        """Makes those parts of this process that are missing or damaged.

        Args:
            manifest (`dict`): What the parts are made from, as JSON has it.
            make (`Callable`): `(first row, last + 1 row)` to tensors and notes; the same rows must give the same.
            rank (`int`, *optional*, defaults to 0): The number of this process; part p is made by rank
                p % num_processes.
            num_processes (`int`, *optional*, defaults to 1): How many processes there are.

        Yields:
            `bool`: For each part of this process whether it had to be made.

        Raises:
            ValueError: The folder was made from something else.
            OSError: A part cannot be written.
        """
        if (self.folder / MANIFEST).exists():
            check_manifest(self.folder, manifest)
        else:
            write_json(self.folder / MANIFEST, manifest)
        for number in range(rank, len(self.bounds), num_processes):
            missing = not _is_whole(self.path(number))
            if missing:
                self._write(number, *make(*self.bounds[number]))
            yield missing

    def _write(self, number: int, tensors: dict[str, torch.Tensor], notes: dict[str, Any]) -> None:
        path = self.path(number)
        for left in self.folder.glob(f".{path.name}.*.tmp"):  # by a process that was killed
            left.unlink()
        with written_whole(path) as unfinished:
            save_file(tensors, unfinished, {NOTES: json.dumps({**notes, "digest": _digest(tensors, notes)})})

    def read(self, number: int) -> Made:
        """The tensors and notes of a part.

        Raises:
            ValueError: It is missing or damaged.
        """
        self.check(number)
        path = self.path(number)
        tensors, notes = load_file(path), _notes(path)
        if notes.get("digest") != _digest(tensors, notes):
            raise damaged(path, "its bytes are others than those that were written")
        return tensors, notes

    def check(self, number: int | None = None) -> None:
        """Refuses parts that are missing or cut; of their bytes the head alone is read.

        Raises:
            ValueError: It names the first.
        """
        for path in map(self.path, range(len(self.bounds)) if number is None else [number]):
            if not path.is_file():
                raise ValueError(
                    f"{self.folder} is not complete, {path.name} is missing: start what makes it again, it goes on."
                )
            try:
                _notes(path)
            except _DAMAGE as error:
                raise damaged(path, str(error)) from None


def damaged(path: Path, reason: str) -> ValueError:
    """The error for a part that cannot be used."""
    return ValueError(f"{path} is damaged ({reason}): remove it and start what made it again, it makes it anew.")


def part_bounds(chunks: Sequence[int], most: int) -> list[tuple[int, int]]:
    """The rows of parts that have at most so many each and cross no chunk: a process reads no shard of others.

    Raises:
        ValueError: There would be more than `MAX_PARTS`.
    """
    if len(chunks) + sum(chunks) // most > MAX_PARTS:
        raise ValueError(
            f"{sum(chunks)} pictures in parts of {most} are more than {MAX_PARTS} files; make them larger."
        )
    bounds, start = [], 0
    for length in map(int, chunks):
        bounds += [(first, min(first + most, start + length)) for first in range(start, start + length, most)]
        start += length
    return bounds


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the parts of a folder were made from.

    Raises:
        ValueError: There is no manifest, or it is damaged.
    """
    path = folder / MANIFEST
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def check_manifest(folder: Path, expected: dict[str, Any]) -> None:
    """Refuses a folder whose parts were made from something else.

    Raises:
        ValueError: It names what differs.
    """
    found = read_manifest(folder)
    names = [*expected, *(name for name in found if name not in expected)]
    other = [name for name in names if found.get(name) != expected.get(name)]
    if other:
        differences = ", ".join(f"{name} {found.get(name)!r}, now {expected.get(name)!r}" for name in other)
        raise ValueError(f"{folder} was made from something else ({differences}): remove it, or give another folder.")


def _is_whole(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        notes = _notes(path)
        return notes.get("digest") == _digest(load_file(path), notes)
    except (*_DAMAGE, OSError):
        return False


def _notes(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        return dict(json.loads(file.metadata()[NOTES]))


def _digest(tensors: dict[str, torch.Tensor], notes: dict[str, Any]) -> str:
    others = {name: value for name, value in notes.items() if name != "digest"}
    digest = hashlib.blake2b(json.dumps(others).encode(), digest_size=8)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(as_bytes(tensors[name]))
    return digest.hexdigest()


def as_bytes(tensor: torch.Tensor) -> Any:
    """The bytes of a tensor on the CPU, as a buffer."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy()

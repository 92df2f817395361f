# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The features of a set of pictures in files: each picture is read once, by one of the processes, and the features
come back in the order of the pictures whoever computed them."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from tqdm import tqdm

from ..images import read_image
from ..training.parts import Parts, part_bounds
from ..training.picture import SUFFIXES
from .feature_network import CLIPNetwork, FeatureNetwork

ROWS = 256  # pictures in a file


def list_pictures(folder: str | os.PathLike) -> list[Path]:
    """The pictures of a folder and of the folders in it, in the order of their paths.

    Raises:
        ValueError: There is no folder, or none in it.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"There is no folder {str(folder)!r}.")
    found = (Path(here, name) for here, _, names in os.walk(folder) for name in names)
    pictures = sorted(path for path in found if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    if not pictures:
        raise ValueError(f"{str(folder)!r} holds no pictures ({', '.join(SUFFIXES)}).")
    return pictures


@dataclass(frozen=True)
class FeatureFiles:
    """Features of pictures by one network, in parts of 256.

    Args:
        folder (`Path`): Where they are kept.
        network ([`FeatureNetwork`]): The network.
        pictures (`list` of `Path`): The files.
        captions (`list` of `str`, *optional*): Of a [`CLIPNetwork`], whose features of them are kept, too.
        batch_size (`int`, *optional*, defaults to 32): Pictures that the network sees at once.
    """

    folder: Path
    network: FeatureNetwork
    pictures: Sequence[Path]
    captions: Sequence[str] = ()
    batch_size: int = 32

    def build(self, process: PartialState | None = None) -> None:
        """Computes what is missing; all processes must call it.

        Raises:
            ValueError: A picture cannot be read, or the folder holds features of other pictures or networks.
        """
        rank, number = (process.process_index, process.num_processes) if process else (0, 1)
        built = self._parts.build(self._manifest(), self._part, rank, number)
        share = len(range(rank, len(self._parts.bounds), number))
        for _ in tqdm(built, f"features of {self.network.name}", share, unit="part", disable=rank > 0 or None):
            pass
        if process is not None:
            process.wait_for_everyone()

    def read(self) -> Iterator[tuple[dict[str, torch.Tensor], list[str]]]:
        """For each part, in order, `features` `(pictures, width)`, with captions `texts`, and the SHA-256 of files."""
        for number in range(len(self._parts.bounds)):
            tensors, notes = self._parts.read(number)
            yield tensors, notes["sha256"]

    @property
    def _parts(self) -> Parts:
        return Parts(self.folder, part_bounds([len(self.pictures)], ROWS))

    def _manifest(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for path in self.pictures:
            about = path.stat()
            digest.update(f"{path.name}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
        captions = hashlib.sha256("\0".join(self.captions).encode()).hexdigest() if self.captions else None
        return {
            "pictures": digest.hexdigest(),
            "captions": captions,
            "batch_size": self.batch_size,
            **{f"network {name}": value for name, value in self.network.describe().items()},
        }

    def _part(self, first: int, last: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        found: dict[str, list[torch.Tensor]] = {"features": [], "texts": []}
        for start in range(first, last, self.batch_size):
            rows = slice(start, min(start + self.batch_size, last))
            found["features"].append(self.network([read_image(path) for path in self.pictures[rows]]))
            if self.captions and isinstance(self.network, CLIPNetwork):
                found["texts"].append(self.network.text_features(self.captions[rows]))
        tensors = {name: torch.cat(parts) for name, parts in found.items() if parts}
        return tensors, {"sha256": [_sha256(path) for path in self.pictures[first:last]]}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

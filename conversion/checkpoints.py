# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints of training runs: weights somewhere in a file, beside what else a trainer saves, in files or folders."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from state_dicts import INDEX, check_shards, checkpoint_files, load, reading
from tables import listed

SAFE, PICKLED = (".safetensors",), (".pt", ".pth", ".bin", ".ckpt")
PATTERNS = [f"*{ending}*" for ending in (*SAFE, *PICKLED)]  # with the indices of shards


@dataclass(frozen=True)
class StateDict:
    """The tensors of a checkpoint.

    Args:
        tensors (`dict`): By their names; they take no memory before they are used, except from older PyTorch files.
        file_of (`dict`): Where each stands.
        others (`list` of `str`): The names of entries that are no tensors.
    """

    tensors: Mapping[str, torch.Tensor]
    file_of: Mapping[str, Path]
    others: list[str]

    @property
    def files(self) -> list[Path]:
        """All files with tensors."""
        return sorted(set(self.file_of.values()))

    def read(self, name: str, dtype: torch.dtype | None) -> torch.Tensor:
        """A tensor; in another type, if one is given, a copy that leaves nothing of the file in memory.

        Raises:
            ValueError: The type cannot hold it.
        """
        tensor = self.tensors[name]
        if dtype in (None, tensor.dtype) or not tensor.is_floating_point():
            return tensor
        if self.file_of[name].suffix in SAFE:  # a mapping that ends with this tensor
            with safe_open(self.file_of[name], framework="pt") as weights:
                tensor = weights.get_tensor(name)
        cast = tensor.to(dtype)
        if not cast.isfinite().all() and tensor.isfinite().all():
            kind = str(dtype).removeprefix("torch.")
            raise ValueError(f"{name} has values that {kind} cannot hold: keep its type, or give --dtype bfloat16.")
        return cast


def read_checkpoint(place: Path, key: str | None = None) -> StateDict:
    """A checkpoint.

    Args:
        place (`Path`): A file, an index of shards, or a folder with one of them.
        key (`str`, *optional*): The entry of PyTorch files that holds the tensors, such as `state_dict` or `ema`.

    Raises:
        OSError: There is no file, or it is damaged, or shards are missing.
        ValueError: It holds no tensors there, or asks for code.
    """
    file = place if place.is_file() else _only_file(place)
    parts = [_read_file(part, key) for part in checkpoint_files(file)]
    tensors = {name: tensor for part in parts for name, tensor in part.tensors.items()}
    check_shards(file, tensors)
    file_of = {name: path for part in parts for name, path in part.file_of.items()}
    return StateDict(tensors, file_of, [name for part in parts for name in part.others])


def _only_file(folder: Path) -> Path:
    """The index of shards in a folder, or its only file of weights."""
    if not folder.is_dir():
        raise OSError(f"there is no checkpoint {folder}.")
    found = sorted(folder.glob(f"*{INDEX}")) or [
        path for path in sorted(folder.iterdir()) if path.suffix in (*SAFE, *PICKLED)
    ]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "no file of weights"
        raise OSError(f"{folder} holds {names}: name one file of weights by --file.")
    return found[0]


def _read_file(file: Path, key: str | None) -> StateDict:
    with reading(file):
        content = _entry(load(file), key)
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ValueError(f"{file} has no tensors there but {listed(map(str, content))}: name their entry by --key.")
    others = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    return StateDict(tensors, dict.fromkeys(tensors, file), others)


def _entry(content: Any, key: str | None) -> Mapping[Any, Any]:
    """The dictionary of tensors: the content itself, or its entry, where dots lead further."""
    parts = [key] if key is None or (isinstance(content, Mapping) and key in content) else key.split(".")
    for part in parts if key is not None else ():
        if not isinstance(content, Mapping) or part not in content:
            there = listed(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
            raise ValueError(f"it has no entry {key!r}, only {there}.")
        content = content[part]
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds a {type(content).__name__}, not tensors by their names.")
    return content

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Reads plain state dicts: safetensors and PyTorch files, whole or in shards. Tensors stay mapped from their files
where these allow it, and no code of a file is run."""

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from tables import listed

SAFE, PICKLED = (".safetensors",), (".pt", ".pth", ".bin", ".ckpt")
INDEX = ".index.json"
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


def read_state_dict(place: Path, key: str | None = None) -> StateDict:
    """A checkpoint.

    Args:
        place (`Path`): A file, an index of shards, or a folder with one of them.
        key (`str`, *optional*): The entry of PyTorch files that holds the tensors, such as `state_dict` or `ema`.

    Raises:
        OSError: There is no file, or it is damaged, or shards are missing.
        ValueError: It holds no tensors there, or asks for code.
    """
    file = place if place.is_file() else _only_file(place)
    if not file.name.endswith(INDEX):
        return _read_file(file, key)
    shards = _shards(file)
    parts = {shard: _read_file(file.parent / shard, key) for shard in sorted(set(shards.values()))}
    missing = [name for name, shard in shards.items() if name not in parts[shard].tensors]
    if missing:
        raise OSError(f"the shards of {file} lack {listed(missing)}: download or copy them again.")
    tensors = {name: tensor for part in parts.values() for name, tensor in part.tensors.items()}
    file_of = {name: path for part in parts.values() for name, path in part.file_of.items()}
    return StateDict(tensors, file_of, [name for part in parts.values() for name in part.others])


def checkpoint_files(file: Path) -> list[Path]:
    """The files of a checkpoint: itself, or the shards of an index."""
    is_index = file.name.endswith(INDEX)
    return sorted({file.parent / shard for shard in _shards(file).values()}) if is_index else [file]


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


def _shards(index: Path) -> dict[str, str]:
    """The file of each tensor, beside the index."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = {str(name): str(shard) for name, shard in content.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OSError(f"{index} is no index of shards ({error}): download or copy it again.") from error
    absent = sorted({shard for shard in shards.values() if not (index.parent / shard).is_file()})
    if absent or any(Path(shard).name != shard for shard in shards.values()):
        raise OSError(f"{index} names shards that are not beside it ({listed(absent) or 'a path'}): copy them there.")
    return shards


def _read_file(file: Path, key: str | None) -> StateDict:
    try:
        content = load_file(file) if file.suffix in SAFE else _load_pickled(file)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} is damaged, or asks for more than tensors, which may be made to run code; save the weights alone "
            f"by torch.save(model.state_dict(), ...) or as safetensors ({_first_line(error)})"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, KeyError) as error:
        raise OSError(f"{file} is damaged or no checkpoint ({_first_line(error)}): copy it again.") from error
    content = _entry(content, key, file)
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ValueError(
            f"{file} has no tensors there but {listed(map(str, content))}: --key names the entry of them."
        )
    others = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    return StateDict(tensors, dict.fromkeys(tensors, file), others)


def _load_pickled(file: Path) -> Any:
    """What is in a PyTorch file; mapped where it is a zip, as all are since PyTorch 1.6."""
    with file.open("rb") as content:
        is_zip = content.read(2) == b"PK"
    return torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)


def _entry(content: Any, key: str | None, file: Path) -> Mapping[Any, Any]:
    """The dictionary of tensors: the content itself, or its entry, where dots lead further."""
    parts = [key] if key is None or (isinstance(content, Mapping) and key in content) else key.split(".")
    for part in parts if key is not None else ():
        if not isinstance(content, Mapping) or part not in content:
            there = listed(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
            raise ValueError(f"{file} has no entry {key!r}, only {there}.")
        content = content[part]
    if not isinstance(content, Mapping):
        raise ValueError(f"{file} holds a {type(content).__name__}, not tensors by their names.")
    return content


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

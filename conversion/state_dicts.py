# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Reads files of weights by their names, without running what they carry. The weights stay mapped from the files where
these allow it."""

import json
import pickle
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tables import listed

Weights = dict[str, torch.Tensor]
INDEX = ".index.json"  # of shards


def read_state_dict(file: Path) -> Weights:
    """The weights of a `.safetensors` file, of one that `torch.save` wrote, or of the shards of an index.

    Raises:
        OSError: The file or a shard is missing, damaged or truncated.
        ValueError: It holds something else than weights by their names, or asks for code.
    """
    weights: Weights = {}
    for part in checkpoint_files(file):
        with reading(part):
            content = load(part)
            check_is_state_dict(content)
            weights |= content
    check_shards(file, weights)
    return weights


def checkpoint_files(file: Path) -> list[Path]:
    """The files of a checkpoint: itself, or the shards of an index."""
    return sorted({file.parent / shard for shard in shards(file).values()}) if file.name.endswith(INDEX) else [file]


def shards(index: Path) -> dict[str, str]:
    """The file of each tensor, beside the index.

    Raises:
        OSError: The index is missing or damaged, or a shard is not beside it.
    """
    with reading(index):
        content = json.loads(index.read_bytes())
        found = {str(name): str(shard) for name, shard in content["weight_map"].items()}
    absent = sorted(
        {shard for shard in found.values() if Path(shard).name != shard or not (index.parent / shard).is_file()}
    )
    if absent:
        raise OSError(f"{index} names shards that are not beside it, {listed(absent)}: copy them there.")
    return found


def check_shards(file: Path, weights: Collection[str]) -> None:
    """Refuses shards that lack what their index names.

    Raises:
        OSError: They do.
    """
    missing = [name for name in shards(file) if name not in weights] if file.name.endswith(INDEX) else []
    if missing:
        raise OSError(f"the shards of {file} lack {listed(missing)}: download or copy them again.")


def check_is_state_dict(weights: object) -> None:
    """Refuses what are not tensors by their names."""
    entries = weights.items() if isinstance(weights, dict) else [(None, weights)]
    for name, value in entries:
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            where = f"entry {name!r}" if isinstance(weights, dict) else "what is saved"
            raise ValueError(f"it holds no weights by their names: {where} is a {type(value).__name__}.")


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """What goes wrong in the block names the file.

    Raises:
        OSError: The file is missing, damaged or truncated: what libraries raise then has no end of types.
        ValueError: The block raised it.
    """
    if not file.is_file():
        raise OSError(f"there is no checkpoint {file}.")
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    except MemoryError:
        raise
    except Exception as error:
        raise OSError(
            f"{file} is damaged or no checkpoint ({type(error).__name__}): download or copy it again."
        ) from error


def load(file: Path) -> Any:
    """What is in a file, as it is."""
    if file.suffix == ".safetensors":
        return load_file(file)
    with file.open("rb") as content:
        is_zip = content.read(2) == b"PK"  # which can be mapped
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked is None:
            raise
        raise ValueError(f"it asks for {asked[1]}, which weights do not need: it may be made to run code.") from error

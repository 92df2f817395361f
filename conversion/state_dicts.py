# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Reads files of weights by their names, without running what they carry."""

import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file

Weights = dict[str, torch.Tensor]


def read_state_dict(file: Path) -> Weights:
    """The weights of a `.safetensors` file, or of one that `torch.save` wrote.

    Raises:
        OSError: The file is missing, damaged or truncated.
        ValueError: It holds something else than weights by their names, or asks for code.
    """
    with reading(file):
        weights = load_file(file) if file.suffix == ".safetensors" else _load(file)
        check_is_state_dict(weights)
        return weights


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


def _load(file: Path) -> object:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked is None:
            raise
        raise ValueError(f"it asks for {asked[1]}, which weights do not need: it may be made to run code.") from error

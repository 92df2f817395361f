# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The networks that converters write: built without memory, filled with weights that are mapped from their files, and
compared with these once they are written."""

import ctypes
import sys
from collections.abc import Callable, Collection, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import safe_open
from tables import listed
from tqdm.auto import tqdm

import diffusers_ediffi
from diffusers_ediffi import ExpertRouterUNet
from diffusers_ediffi.models.weight_files import default_dtype_kept

Weights = dict[str, torch.Tensor]


def network_class(config: Any, where: Any) -> Any:
    """The class of diffusers that a network's configuration names.

    Raises:
        ValueError: It names none, or a router.
    """
    name = config.get("_class_name") if isinstance(config, Mapping) else None
    found = getattr(diffusers, str(name), getattr(diffusers_ediffi, str(name), None))
    is_network = isinstance(found, type) and issubclass(found, diffusers.ModelMixin)
    is_network = is_network and not issubclass(found, ExpertRouterUNet)
    if not is_network or "timestep" not in signature(found.forward).parameters:
        raise ValueError(f"{where} holds a {name}, which is not a U-Net of diffusers: give one that is.")
    return found


def without_memory(build: Callable[[], Any]) -> Any:
    """A network on the meta device."""
    with torch.device("meta"):
        return build()


def new_weights(build: Callable[[], Any], names: Collection[str], dtype: torch.dtype) -> Weights:
    """Those of an untrained network that have these names; the memory of the others is free when this returns."""
    if not names:
        return {}
    with default_dtype_kept():
        torch.set_default_dtype(dtype)
        state = build().state_dict()
    weights = {name: state[name].clone() for name in names}
    del state
    _give_memory_back()
    return weights


def _give_memory_back() -> None:
    """Lets the C library return what is free between what is not, where it can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def main_dtype(weights: Mapping[str, torch.Tensor]) -> torch.dtype:
    """The type of most numbers."""
    sizes: dict[torch.dtype, int] = {}
    for tensor in weights.values():
        if tensor.is_floating_point():
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.numel()
    return max(sizes, key=lambda dtype: sizes[dtype], default=torch.float32)


def check_written(folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Compares every tensor in the files of a network with what it should be, bit by bit.

    Raises:
        OSError: One differs or is missing.
    """
    found = set()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as content:
            names = set(content.keys()) & weights.keys()
        for name in tqdm(sorted(names), desc=f"comparing {file.name}", unit="tensor"):
            with safe_open(file, framework="pt") as content:  # a mapping that ends with this tensor
                _check_equal(name, content.get_tensor(name), weights[name])
        found |= names
    if found != weights.keys():
        raise OSError(f"{listed(sorted(weights.keys() - found))} of {folder} were not written: is the disk full?")


def _check_equal(name: str, written: torch.Tensor, wanted: torch.Tensor) -> None:
    bits = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in (written, wanted)]
    if written.dtype != wanted.dtype or written.shape != wanted.shape or not torch.equal(*bits):
        raise OSError(f"{name} was not written as it was read: is the disk full or damaged?")

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Reads the checkpoints of EDM (github.com/NVlabs/edm) without running what they carry.

An EDM checkpoint is a pickle of whole objects, with the source code of their classes, which EDM's loader executes.
Here every object becomes a `Part`, which holds what the object held; names that are not on the list are refused.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from state_dicts import Weights, read_state_dict, reading


class Part:
    """An object of a checkpoint: the contents of its `__dict__`, and no code."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = state


def _part_of(meta: dict[str, Any]) -> Part:
    part = Part()
    part.state = meta["state"]
    return part


ALLOWED: dict[tuple[str, str], Any] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _part_of,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): lambda data, requires_grad, hooks: data,
    ("torch.nn.modules.container", "ModuleDict"): Part,
    ("torch.nn.modules.container", "ModuleList"): Part,
    ("collections", "OrderedDict"): OrderedDict,
    ("dnnlib.util", "EasyDict"): dict,
    ("builtins", "set"): set,
}


class _Unpickler(pickle._Unpickler):  # in Python, where what was read can be let go of
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return self._storage
        if (module, name) not in ALLOWED:
            raise ValueError(
                f"it asks for {module}.{name}, which EDM's checkpoints do not need: it may be made to run code."
            )
        return ALLOWED[module, name]

    def _storage(self, content: bytes) -> Any:
        # The bytes, and the arguments that hold them, would stay in memory beside the weights, to be named again.
        for entry in islice(reversed(self.memo), 2):
            self.memo[entry] = None
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def read_weights(file: Path) -> Weights:
    """The weights of a checkpoint by their names in EDM: the running average of a pickle, or a plain state dict
    (`.safetensors`, `.pt`).

    Raises:
        OSError: The file is missing, damaged or truncated.
        ValueError: It is a pickle of something else, or asks for code.
    """
    weights = _read_pickle(file) if file.suffix == ".pkl" else read_state_dict(file)
    return {name.removeprefix("model."): tensor for name, tensor in weights.items()}


def _read_pickle(file: Path) -> Weights:
    with reading(file), file.open("rb") as content:
        checkpoint = _Unpickler(content).load()
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("ema"), Part):
            raise ValueError("this pickle holds no network 'ema', as EDM's checkpoints do.")
        return dict(_weights_of(checkpoint["ema"], ""))


def _weights_of(part: Part, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters of a module and of those in it; buffers hold nothing that was learned."""
    for name, tensor in part.state["_parameters"].items():
        if tensor is not None:
            yield prefix + name, tensor
    for name, module in part.state["_modules"].items():
        if module is not None:
            yield from _weights_of(module, f"{prefix}{name}.")

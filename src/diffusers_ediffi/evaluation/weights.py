# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Which weights were it: a hash, since names stay where weights change."""

import hashlib
from collections.abc import Mapping

from torch import nn

from ..training.parts import as_bytes


def weights_hash(modules: Mapping[str, nn.Module]) -> str | None:
    """SHA-256 of all parameters and buffers that are saved, by name.

    Args:
        modules (`dict`): Networks by name.

    Returns:
        The hash, or `None` where weights are offloaded, so that they cannot be read here.
    """
    digest = hashlib.sha256()
    for part in sorted(modules):
        for name, tensor in sorted(modules[part].state_dict().items()):
            if tensor.is_meta:
                return None
            digest.update(f"{part}.{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
            digest.update(as_bytes(tensor.detach().cpu()))
    return digest.hexdigest()

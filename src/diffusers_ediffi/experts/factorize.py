# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`factorize_expert`: a full expert written as a low-rank difference from a base network."""

import math
import warnings
from numbers import Integral
from typing import Any

import torch

from ..checks import is_number
from .files import network_config
from .lora import LoraExpert, factor_names, lora_layers, product


@torch.no_grad()
def factorize_expert(base: Any, expert: Any, rank: int) -> LoraExpert:
    """Writes a full expert as a low-rank difference from a base, by truncated singular value decomposition.

        >>> experts = [factorize_expert(base, expert, rank=16) for expert in (low, middle, high)]
        >>> [expert.error for expert in experts]  # of the weight differences; 0 is exact
        >>> router = ExpertRouterUNet.from_lora_experts(base, experts, boundaries=[0.0757, 9.61])

    Linear layers and convolutions become factors of this rank; layers that are too small for it get their full rank
    and are exact. All other tensors that differ from the base's are copied.

    Args:
        base (`ModelMixin`): The network that is shared.
        expert (`ModelMixin`): A network of the same architecture, most often trained from `base`.
        rank (`int`): The rank of the differences.

    Returns:
        The expert, with the error of each layer and of all.

    Raises:
        ValueError: if the architectures differ, rank is not a positive whole number, or a weight is not finite.
    """
    if not is_number(rank, Integral) or rank < 1:
        raise ValueError(f"rank={rank!r} must be a whole number of at least 1.")
    _check_same_architecture(base, expert)
    before, layers = base.state_dict(), lora_layers(base)
    _warn_of_useless(rank, layers)
    weights: dict[str, torch.Tensor] = {}
    errors: dict[str, float] = {}
    missed = whole = 0.0  # squared norms over all layers
    for name, tensor in expert.state_dict().items():
        difference = _difference(name, before[name], tensor)
        size, layer = float(difference.norm()), name.removesuffix(".weight")
        if size == 0:
            continue
        if name == layer or layer not in layers:
            weights[name] = tensor.clone()
            continue
        a, b = (factor.to(tensor.dtype) for factor in _truncated_svd(difference, rank))
        weights |= zip(factor_names(layer), (a, b), strict=True)
        miss = float((difference.flatten(1) - product(a, b)).norm())
        errors[layer] = miss / size
        missed, whole = missed + miss**2, whole + size**2
    return LoraExpert(weights, network_config(expert.config), errors, math.sqrt(missed / whole) if whole else 0.0)


def _difference(name: str, base: torch.Tensor, expert: torch.Tensor) -> torch.Tensor:
    difference = expert.float() - base.to(expert.device).float()
    if not torch.isfinite(difference).all():
        raise ValueError(f"{name} of the base or the expert is not finite: repair or load that model again.")
    return difference


def _truncated_svd(difference: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, in) -> (rank, in), (out, rank); (out, in, h, w) -> (rank, in, h, w), (out, rank, 1, 1)."""
    u, s, v = torch.linalg.svd(difference.flatten(1), full_matrices=False)
    rank = min(rank, len(s))
    root = s[:rank].sqrt()
    a, b = root[:, None] * v[:rank], u[:, :rank] * root
    kernel = difference.shape[2:]
    return a.reshape(rank, -1, *kernel).contiguous(), b.reshape(-1, rank, *[1] * len(kernel)).contiguous()


def _warn_of_useless(rank: int, layers: dict[str, Any]) -> None:
    full = max(min(layer.weight.flatten(1).shape) for layer in layers.values())
    if rank > full:
        warnings.warn(
            f"rank={rank} is more than any layer has ({full}): every difference is stored in its full rank, which "
            "takes more room than the expert itself. Choose a smaller rank.",
            stacklevel=3,
        )


def _check_same_architecture(base: Any, expert: Any) -> None:
    if type(base) is not type(expert):
        raise ValueError(f"the base is a {type(base).__name__} and the expert a {type(expert).__name__}.")
    ours, theirs = network_config(base.config), network_config(expert.config)
    for name in sorted((ours.keys() | theirs.keys()) - {"trained_on"}):
        if ours.get(name) != theirs.get(name):
            raise ValueError(
                f"the base has {name}={ours.get(name)!r} and the expert {theirs.get(name)!r}: a difference needs two "
                "networks of the same architecture."
            )
    for name, unet in (("base", base), ("expert", expert)):
        if getattr(unet, "peft_config", None):
            raise ValueError(f"the {name} has the adapters {list(unet.peft_config)}: fuse or unload them first.")

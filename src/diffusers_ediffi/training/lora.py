# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""An expert that is trained as a low-rank difference (LoRA) from the network it starts from."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.utils import is_peft_available

from ..experts.files import network_config
from ..experts.lora import FACTORS, LoraExpert, inject, lora_layers, without_adapters

ADAPTER = "trained"
LORA_FILE = "lora_expert.safetensors"


def add_lora(unet: torch.nn.Module, rank: int, only: bool = False) -> None:
    """Turns a network in place into one whose linear layers and convolutions train as low-rank differences.

    The differences start at zero. What has no low rank (biases, norms, embeddings) is small and is trained in full, as
    [`factorize_expert`] keeps it. Draws from PyTorch's global generator.

    Args:
        unet (`torch.nn.Module`): The network to start from.
        rank (`int`): The rank of the differences; a layer that is too small for it gets its full rank.
        only (`bool`, *optional*, defaults to `False`): Whether the rest stays as it is, as in a LoRA for
            `load_lora_weights`.

    Raises:
        ImportError: peft is not installed.
    """
    if not is_peft_available():
        raise ImportError("training with lora_rank needs peft: pip install peft.")
    layers = lora_layers(unet)
    weights = {id(layer.weight) for layer in layers.values()}
    factors = {}
    for name, layer in layers.items():
        factors[f"{name}.lora_A.weight"], factors[f"{name}.lora_B.weight"] = _zero_difference(layer.weight, rank)
    inject(unet, ADAPTER, factors)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(".lora_" in name if only else id(parameter) not in weights)


def _zero_difference(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors of a weight `(out, in, ...)`: a random `(rank, in, ...)` and zeros `(out, rank, 1, ...)`."""
    rank = min(rank, *weight.flatten(1).shape)
    down = torch.empty(rank, *weight.shape[1:])
    torch.nn.init.kaiming_uniform_(down, a=math.sqrt(5))  # as in peft, and in a linear layer itself
    return down, torch.zeros(len(weight), rank, *[1] * (weight.ndim - 2))


def trained_expert(unet: Any, averages: Sequence[torch.Tensor]) -> LoraExpert:
    """What a network that `add_lora` prepared has learnt.

    Args:
        unet (`torch.nn.Module`): The network.
        averages (sequence of `torch.Tensor`): A tensor for each parameter that needs a gradient, in their order.
    """
    names = [name for name, parameter in unet.named_parameters() if parameter.requires_grad]
    found = dict(zip(names, averages, strict=True))
    weights = {
        name.replace(".base_layer.", ".").replace(f".{ADAPTER}.", "."): tensor.detach().contiguous()
        for name, tensor in found.items()
    }
    return LoraExpert(weights, network_config(unet.config))


def plain_lora(expert: LoraExpert) -> dict[str, torch.Tensor]:
    """The factors of a difference as files of LoRAs have them: all of one rank, smaller ones filled up with zeros.

    Args:
        expert ([`LoraExpert`]): What a run with `lora_only` learnt.

    Raises:
        ValueError: It has more than factors.
    """
    rest = [name for name in expert.weights if not FACTORS.fullmatch(name)]
    if rest:
        raise ValueError(f"{rest[0]} is no factor of a LoRA and would be lost: train with lora_only.")
    rank = max(len(tensor) for name, tensor in expert.weights.items() if ".lora_A." in name)
    return {name: _filled_up(tensor, 0 if ".lora_A." in name else 1, rank) for name, tensor in expert.weights.items()}


def _filled_up(factor: torch.Tensor, axis: int, rank: int) -> torch.Tensor:
    """A factor with zeros behind its entries along an axis, as many as the rank."""
    shape = list(factor.shape)
    shape[axis] = rank - shape[axis]
    return torch.cat([factor, factor.new_zeros(shape)], dim=axis)


def merged(unet: Any, expert: LoraExpert) -> Any:
    """A new network, without layers of peft, with what `trained_expert` returned for `unet`."""
    return expert.merge(without_adapters(unet))

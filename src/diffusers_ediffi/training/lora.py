# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""An expert that is trained as a low-rank difference (LoRA) from the network it starts from."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.utils import is_peft_available

from ..experts.lora import LoraExpert, inject, lora_layers, own_config, without_adapters

ADAPTER = "trained"
LORA_FILE = "lora_expert.safetensors"


def add_lora(unet: torch.nn.Module, rank: int) -> None:
    """Turns a network in place into one whose linear layers and convolutions train as low-rank differences.

    The differences start at zero. What has no low rank (biases, norms, embeddings) is small and is trained in full, as
    [`factorize_expert`] keeps it. Draws from PyTorch's global generator.

    Args:
        unet: the network to start from.
        rank: of the differences; a layer that is too small for it gets its full rank.

    Raises:
        ImportError: if peft is not installed.
    """
    if not is_peft_available():
        raise ImportError("training with lora_rank needs peft: pip install peft.")
    factors, weights = {}, set()
    for name, layer in lora_layers(unet).items():
        out, own = len(layer.weight), min(rank, *layer.weight.flatten(1).shape)
        down = torch.empty(own, *layer.weight.shape[1:])
        torch.nn.init.kaiming_uniform_(down, a=math.sqrt(5))  # as peft and a linear layer itself
        factors[f"{name}.lora_A.weight"] = down
        factors[f"{name}.lora_B.weight"] = torch.zeros(out, own, *[1] * (layer.weight.ndim - 2))
        weights.add(id(layer.weight))
    inject(unet, ADAPTER, factors)
    for parameter in unet.parameters():
        parameter.requires_grad_(id(parameter) not in weights)


def trained_expert(unet: Any, averages: Sequence[torch.Tensor]) -> LoraExpert:
    """What a network that `add_lora` prepared has learnt.

    Args:
        unet: the network.
        averages: a tensor for each of its parameters that need a gradient, in their order.
    """
    names = [name for name, parameter in unet.named_parameters() if parameter.requires_grad]
    found = dict(zip(names, averages, strict=True))
    weights = {
        name.replace(".base_layer.", ".").replace(f".{ADAPTER}.", "."): tensor.detach().contiguous()
        for name, tensor in found.items()
    }
    return LoraExpert(weights, own_config(unet))


def merged(unet: Any, expert: LoraExpert) -> Any:
    """A network of its own, without layers of peft, with what `trained_expert` returned for `unet`."""
    return expert.merge(without_adapters(unet))

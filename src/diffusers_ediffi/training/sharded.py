# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Weights that processes share out among them (FSDP2 of accelerate): whole ones for checkpoints, and back again.

A checkpoint holds whole tensors, so that any number of processes reads it, and one process as well.
"""

import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, convert_outputs_to_fp32
from torch.distributed.tensor import DTensor, distribute_tensor

from .settings import TrainingSettings


def take_up_sharding(accelerator: Accelerator, asked: bool) -> None:
    """Sets up FSDP2 as a run needs it.

    accelerate 1.15 looks at `ACCELERATE_USE_FSDP` on GPUs alone and trains with whole weights on CPUs, although gloo
    has all that FSDP2 asks for: there it is switched on here. Weights are gathered in single precision, since FSDP2
    would cast noise levels to bf16 together with its inputs; bf16 is that of autocast, as without sharding.

    Args:
        accelerator (`Accelerator`): Changed in place.
        asked (`bool`): Whether the launcher asks for FSDP.
    """
    state = accelerator.state
    if asked and state.distributed_type == DistributedType.MULTI_CPU:
        state.fsdp_plugin = FullyShardedDataParallelPlugin()
        state.distributed_type = DistributedType.FSDP
    if accelerator.is_fsdp2:
        state.fsdp_plugin.mixed_precision_policy = None


def check_sharded(settings: TrainingSettings) -> None:
    """Refuses what a run with shared-out weights cannot do.

    Raises:
        ValueError: It names the setting.
    """
    unfit = {
        "optimizer": settings.optimizer != "adamw",
        "lora_rank": settings.lora_rank > 0,
        "channels_last": settings.channels_last,
        "compile": settings.compile,
    }
    for name, is_unfit in unfit.items():
        if is_unfit:
            raise ValueError(
                f"{name} = {getattr(settings, name)!r} does not go with FSDP2, which shares the weights out: leave it "
                "out, or launch plain processes (DDP)."
            )


def prepare_sharded(
    accelerator: Accelerator, network: Any, optimizer: torch.optim.Optimizer, mixed_precision: str
) -> tuple[Any, Any]:
    """The network, changed in place, and its optimiser with the weights shared out."""
    # Attention blocks return views, which nothing here changes in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    network, optimizer = accelerator.prepare(network, optimizer)
    if mixed_precision != "no":  # accelerate does it for whole weights
        autocast = torch.autocast(accelerator.device.type, torch.bfloat16)
        forward = convert_outputs_to_fp32(autocast(type(network).forward))
        network.forward = functools.partial(forward, network)
    return network, optimizer


def gathered(value: Any, keep: bool) -> Any:
    """A nested value with whole tensors on the CPU; every process must call it.

    Args:
        value: Tensors, lists, tuples and dictionaries of them.
        keep (`bool`): Whether this process needs the whole tensors. They are made one after the other, so that the
            others never hold more than one.
    """
    if isinstance(value, DTensor):
        full: torch.Tensor = value.full_tensor().detach()  # type: ignore[attr-defined]
        return full.cpu() if keep else None
    if isinstance(value, Mapping):
        return {name: gathered(entry, keep) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(gathered(entry, keep) for entry in value)
    return value


def shared_out(state: dict[str, Any], network: torch.nn.Module, parameters: Sequence[torch.Tensor]) -> dict[str, Any]:
    """The state of a checkpoint as the processes hold it; every process must call it with the same one.

    Args:
        state (`dict`): With `model`, `optimizer` and `ema`, as [`Learner.state_dict`] returns them.
        network (`torch.nn.Module`): The network with its weights shared out.
        parameters (sequence of `torch.Tensor`): Its parameters, as the optimiser and the average number them.
    """
    current = network.state_dict()
    moments = {
        number: {name: _like(value, parameters[number]) for name, value in entry.items()}
        for number, entry in state["optimizer"]["state"].items()
    }
    averages = [_like(value, like) for value, like in zip(state["ema"]["shadow_params"], parameters, strict=True)]
    return {
        "model": {name: _like(value, current[name]) for name, value in state["model"].items()},
        "optimizer": {**state["optimizer"], "state": moments},
        "ema": {**state["ema"], "shadow_params": averages},
    }


def _like(value: Any, like: torch.Tensor) -> Any:
    """A whole tensor shared out as another of its shape is; anything else, such as a count of steps, as it is."""
    if not isinstance(like, DTensor) or not isinstance(value, torch.Tensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)

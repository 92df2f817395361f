# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Where experts live: one at a time on the device under model offload, or each on another device."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from accelerate.hooks import CpuOffload
from accelerate.utils import send_to_device
from diffusers import ModelMixin
from torch import nn

from .files import expert_folder


def execution_device(module: nn.Module) -> torch.device | None:
    """The device on which `enable_model_cpu_offload` lets a module run, `None` without it."""
    hook = getattr(module, "_hf_hook", None)
    return torch.device(hook.execution_device) if isinstance(hook, CpuOffload) else None


def call_where_it_lives(expert: nn.Module, inputs: tuple, kwargs: dict[str, Any], return_dict: bool) -> Any:
    """Calls an expert on the device of its weights; the output comes back to the device of the sample."""
    parameter, here = next(expert.parameters(), None), inputs[0].device
    # Sequential offload (weights on "meta") and group offload bring the inputs to their device themselves.
    managed = parameter is not None and (parameter.is_meta or hasattr(expert, "_diffusers_hook"))
    device = here if managed or parameter is None else parameter.device
    if device == here:
        return expert(*inputs, return_dict=return_dict, **kwargs)
    inputs, kwargs = send_to_device((inputs, kwargs), device)
    return send_to_device(expert(*inputs, return_dict=return_dict, **kwargs), here)


class ExpertOffload:
    """Keeps the expert that works on the device and, with `prefetch`, the one whose turn comes next.

    The experts of a router are called from the highest noise to the lowest, so that the next one has the index below.
    Without prefetch one expert is on the device at any time, with it two.
    """

    def __init__(self) -> None:
        self.prefetch = False
        self.resident: list[nn.Module] = []
        self._device = torch.device("cpu")
        self._stream: Any = None  # CUDA alone can copy while it computes
        self._on_the_way: nn.Module | None = None

    def fetch(self, experts: Sequence[nn.Module], index: int, device: torch.device) -> None:
        """Brings expert `index` to the device, after those that are not needed have left it."""
        if device != self._device:
            self.release_all()
            self._device, self._stream = device, None
        expert = experts[index]
        wanted = [expert, experts[index - 1]] if self.prefetch and index > 0 else [expert]
        for other in [other for other in self.resident if not _is_in(other, wanted)]:
            self._release(other)
        if expert is self._on_the_way:
            self._arrive()
        for other in wanted:
            if _is_in(other, self.resident):
                continue
            self.resident.append(other)
            if other is expert:
                expert.to(device)
            else:
                self._send(other)

    def release_all(self) -> None:
        """Brings all experts back to the CPU."""
        for expert in list(self.resident):
            self._release(expert)

    def _release(self, expert: nn.Module) -> None:
        if expert is self._on_the_way:
            self._arrive()
        if self.prefetch and self._device.type == "cuda":
            expert._apply(_copy_to_pinned_memory)
            torch.cuda.current_stream(self._device).synchronize()
        else:
            expert.to("cpu")
        self.resident = [other for other in self.resident if other is not expert]

    def _send(self, expert: nn.Module) -> None:
        """Starts to bring an expert to the device, while another one works."""
        self._on_the_way = expert
        if self._device.type != "cuda":
            expert.to(self._device)
            return
        expert._apply(lambda tensor: tensor if tensor.is_pinned() else tensor.pin_memory())
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)
        # Memory that was just given back may still be read by the computation that is under way.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            expert.to(self._device, non_blocking=True)

    def _arrive(self) -> None:
        self._on_the_way = None
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)


class OffloadMixin(ModelMixin):
    """A router's answers to those who move it: its experts move one by one."""

    experts: Any
    _offload: ExpertOffload
    _shared: Any  # `LoraExperts` where all experts are one network

    def to(self, *args, **kwargs) -> Any:
        """Moves and casts all experts. Under `pipe.enable_model_cpu_offload()` a call to the router's device moves
        none: each expert goes there when its turn comes, and the others stay on the CPU."""
        device = execution_device(self)
        if device is not None and args[:1] == (device,):
            return self
        self._offload.release_all()
        return super().to(*args, **kwargs)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """All parameters. Under model offload those on the device come first: accelerate and diffusers take the
        device of the first one for that of all."""
        on_device = (expert.parameters(recurse) for expert in self._offload.resident)
        seen = set()
        for parameter in chain(chain.from_iterable(on_device), super().parameters(recurse)):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield parameter

    def enable_expert_prefetch(self, enabled: bool = True) -> None:
        """Under model offload brings the next expert to the device while the current one works, on CUDA from pinned
        memory and in a separate stream. Two experts are on the device then, instead of one."""
        self._offload.prefetch = enabled

    def enable_group_offload(self, *args, offload_to_disk_path: str | None = None, **kwargs) -> None:
        """Offloads groups of layers in every expert; the arguments are those of diffusers' models.

        Args:
            args, kwargs: `onload_device`, `offload_device`, `offload_type` and so on, as in diffusers.
            offload_to_disk_path (`str`, *optional*): A folder for the weights, with a folder therein for each expert.
        """
        if self._shared is not None and offload_to_disk_path is not None:
            raise ValueError("low-rank experts are switched in memory: leave offload_to_disk_path out.")
        for i, expert in enumerate(self.experts):
            path = None if offload_to_disk_path is None else str(Path(offload_to_disk_path) / expert_folder(i))
            if path is not None:
                Path(path).mkdir(parents=True, exist_ok=True)
            if not any(expert is other for other in self.experts[:i]):
                expert.enable_group_offload(*args, offload_to_disk_path=path, **kwargs)


def _is_in(expert: nn.Module, experts: Sequence[nn.Module]) -> bool:
    return any(expert is other for other in experts)


def _copy_to_pinned_memory(tensor: torch.Tensor) -> torch.Tensor:
    host = torch.empty_like(tensor, device="cpu", pin_memory=True)
    return host.copy_(tensor, non_blocking=True)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Where experts live: one at a time on the device under model offload, or each on a device of its own."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.hooks import CpuOffload
from accelerate.utils import send_to_device
from torch import nn


def execution_device(module: nn.Module) -> torch.device | None:
    """The device on which `enable_model_cpu_offload` lets a module run, `None` without it."""
    hook = getattr(module, "_hf_hook", None)
    return torch.device(hook.execution_device) if isinstance(hook, CpuOffload) else None


def call_where_it_lives(expert: nn.Module, inputs: tuple, kwargs: dict[str, Any], return_dict: bool) -> Any:
    """Calls an expert on its own device; the output comes back to the device of the sample."""
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
        for one in wanted:
            if not _is_in(one, self.resident):
                self.resident.append(one)
                if one is expert:
                    one.to(device)
                else:
                    self._send(one)

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


def _is_in(expert: nn.Module, experts: Sequence[nn.Module]) -> bool:
    return any(expert is other for other in experts)


def _copy_to_pinned_memory(tensor: torch.Tensor) -> torch.Tensor:
    host = torch.empty_like(tensor, device="cpu", pin_memory=True)
    return host.copy_(tensor, non_blocking=True)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The optimisers of a run: AdamW as in the paper, or Muon for the hidden layers, which learns more from each image."""

from collections.abc import Callable
from typing import Any

import torch

OPTIMIZERS = ("adamw", "muon")
# As usual with Muon, the first and the last layer stay with AdamW.
NOT_HIDDEN = ("conv_in", "conv_out")


def make_optimizer(name: str, network: torch.nn.Module, learning_rate: float, weight_decay: float) -> Any:
    """Returns the optimiser `name`, one of `OPTIMIZERS`, for the parameters of `network` that need a gradient.

    Raises:
        RuntimeError: This PyTorch has no Muon.
    """
    named = [(key, parameter) for key, parameter in network.named_parameters() if parameter.requires_grad]
    if name == "adamw":
        return torch.optim.AdamW([p for _, p in named], learning_rate, weight_decay=weight_decay, fused=True)
    if not hasattr(torch.optim, "Muon"):
        raise RuntimeError(f"Muon needs PyTorch 2.9 or newer, this is {torch.__version__}; choose adamw.")
    hidden = [p for key, p in named if p.ndim >= 2 and key.split(".")[0] not in NOT_HIDDEN]
    return MuonAdamW(hidden, [p for _, p in named if not any(p is h for h in hidden)], learning_rate, weight_decay)


class MuonAdamW(torch.optim.Optimizer):
    """PyTorch's `Muon` (Jordan et al. 2024) for weights, `AdamW` for all else, with one learning rate.

    Muon takes matrices alone: the weights of convolutions are handed to it as (out, in * height * width), as Jordan
    does. Its updates are scaled to the size of AdamW's (`adjust_lr_fn="match_rms_adamw"`).

    Args:
        weights (`list` of `torch.nn.Parameter`): Parameters of two dimensions or more.
        others (`list` of `torch.nn.Parameter`): The rest.
        learning_rate (`float`): Of both.
        weight_decay (`float`): Of both, decoupled.
    """

    def __init__(
        self,
        weights: list[torch.nn.Parameter],
        others: list[torch.nn.Parameter],
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        super().__init__([{"params": weights}, {"params": others}], {"lr": learning_rate})
        self._weights, self._matrices = weights, [torch.nn.Parameter(_as_matrix(w.data)) for w in weights]
        self._parts = {
            "muon": torch.optim.Muon(
                self._matrices, learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            ),
            "adamw": torch.optim.AdamW(others, learning_rate, weight_decay=weight_decay, fused=True),
        }

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step of both; the learning rate is that of `param_groups[0]`."""
        for weight, matrix in zip(self._weights, self._matrices, strict=True):
            if _as_matrix(weight.data).data_ptr() != matrix.data_ptr():
                raise RuntimeError("The weights were moved after the optimiser was made; make it anew.")
            matrix.grad = None if weight.grad is None else _as_matrix(weight.grad)
        for part in self._parts.values():
            for group in part.param_groups:
                group["lr"] = self.param_groups[0]["lr"]
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` returned."""
        for name, part in self._parts.items():
            part.load_state_dict(state_dict[name])


def _as_matrix(weight: torch.Tensor) -> torch.Tensor:
    """(out, in, height, width) -> (out, in * height * width) without a copy, also in channels_last layout."""
    if weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last):
        weight = weight.permute(0, 2, 3, 1)
    return weight.flatten(1)

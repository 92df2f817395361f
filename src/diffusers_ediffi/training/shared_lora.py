# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""One LoRA for several experts: the factors are the same tensors in all of them, and each noise level trains them in
the expert that draws it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator

from ..edm import c_noise
from ..experts.lora import FACTORS, LoraExpert, lora_layers
from ..experts.noise_interval import NoiseInterval
from ..models.unet import EDiffIUNet
from .checkpoint import writing
from .launch import part_of
from .learner import Learner, check_network
from .lora import LORA_FILE, add_lora, merged, trained_expert
from .loss import SIGMA_BINS
from .settings import TrainingSettings


@dataclass(frozen=True)
class SharedInterval(NoiseInterval):
    """The noise levels of several experts, of which each gets as many samples as the others.

    Args:
        parts (`tuple` of [`NoiseInterval`]): Those of each expert, the lowest first.
    """

    parts: tuple[NoiseInterval, ...] = ()

    @classmethod
    def of(cls, parts: tuple[NoiseInterval, ...]) -> "SharedInterval":
        """The intervals of experts as one."""
        ranges = tuple(pair for part in parts for pair in part.ranges)
        return cls(ranges, parts[0].p_mean, parts[0].p_std, parts=parts)

    @property
    def edges(self) -> tuple[float, ...]:
        """The noise levels between the experts."""
        return tuple(part.ranges[0][0] for part in self.parts[1:])

    def sample(
        self,
        shape: int | tuple[int, ...],
        generator: torch.Generator | None = None,
        device: str | torch.device | None = None,
    ) -> torch.Tensor:
        """Draws noise levels for experts in turn, from p(sigma) restricted to the interval of each.

        Args:
            shape (`int` or `tuple`): Shape of the result, `(batch,)`.
            generator (`torch.Generator`, *optional*): Source of randomness; it also says which sample is whose.
            device (`torch.device`, *optional*): Where the result goes.

        Returns:
            float32 sigmas. Of a batch the numbers of samples of two experts differ by one at most.
        """
        drawn = torch.stack([part.sample(shape, generator) for part in self.parts])
        places = torch.arange(drawn.shape[1], device=drawn.device)
        turn = torch.randperm(len(places), generator=generator, device=drawn.device)
        first = torch.randint(len(self.parts), (1,), generator=generator, device=drawn.device)
        return drawn[(turn + first) % len(self.parts), places].to(device or drawn.device)


class SharedLora(torch.nn.Module):
    """Several experts as one network in training.

    Args:
        experts (`dict`): The networks by their numbers, the one of the lowest noise first.
        interval ([`SharedInterval`]): Their noise levels.

    Raises:
        ValueError: A LoRA of one does not fit another, or there is one alone.
    """

    edges: torch.Tensor

    def __init__(self, experts: Mapping[int, EDiffIUNet], interval: SharedInterval) -> None:
        super().__init__()
        check_same_layers(experts)
        self.experts = torch.nn.ModuleDict({str(number): expert for number, expert in experts.items()})
        self.register_buffer("edges", c_noise(torch.tensor(interval.edges)), persistent=False)

    @property
    def first(self) -> Any:
        """The expert of the lowest noise, whose names and configuration stand for all."""
        return next(iter(self.experts.values()))

    @property
    def config(self) -> Any:
        """Its configuration."""
        return self.first.config

    def register_to_config(self, **entries: Any) -> None:
        """Changes its configuration."""
        self.first.register_to_config(**entries)

    def enable_gradient_checkpointing(self) -> None:
        """Less memory, more time."""
        for expert in self.experts.values():
            cast(EDiffIUNet, expert).enable_gradient_checkpointing()

    def add_lora(self, rank: int) -> None:
        """Adds one low-rank difference to all experts; see [`add_lora`]."""
        add_lora(self.first, rank, only=True)
        factors = {name: p for name, p in self.first.named_parameters() if p.requires_grad}
        for expert in self.experts.values():
            if expert is not self.first:
                add_lora(expert, rank, only=True)
                for name, parameter in factors.items():
                    place, _, leaf = name.rpartition(".")
                    setattr(expert.get_submodule(place), leaf, parameter)

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, return_dict: bool = False, **conditions: Any
    ) -> Any:
        """What [`EDiffIUNet`] returns, each sample from the expert of its noise level.

        Args:
            sample (`torch.Tensor`): Noisy images, `(batch, channels, height, width)`.
            timestep (`torch.Tensor`): c_noise(sigma), `(batch,)` or one for all.
            return_dict (`bool`, *optional*): Must be `False`.
            conditions: Of all samples.
        """
        timesteps = torch.as_tensor(timestep, device=sample.device).expand(len(sample)).contiguous()
        chosen = torch.bucketize(timesteps.float(), self.edges, right=True)
        output = None
        for index, expert in enumerate(self.experts.values()):
            rows: Any = (chosen == index).nonzero()[:, 0]
            if len(rows):
                part = expert(sample[rows], timesteps[rows], return_dict=False, **part_of(conditions, rows))[0]
                output = part.new_zeros(len(sample), *part.shape[1:]) if output is None else output
                output = output.index_copy(0, rows, part)
        return (output,)


def check_same_layers(experts: Mapping[int, EDiffIUNet]) -> None:
    """Refuses experts that no LoRA fits together.

    Raises:
        ValueError: The layers of one have other shapes, or there is one alone.
    """
    shapes = {
        number: {name: layer.weight.shape for name, layer in lora_layers(expert).items()}
        for number, expert in experts.items()
    }
    first = next(iter(shapes))
    others = [number for number, found in shapes.items() if found != shapes[first]]
    if len(shapes) < 2 or others:
        same = [number for number, found in shapes.items() if found == shapes[(others or [first])[0]]]
        why = f"expert {others[0]} has other layers than expert {first}" if others else "there is one expert alone"
        hint = f"; name some of one shape by --experts, such as {' '.join(map(str, same))}" if len(same) > 1 else ""
        raise ValueError(f"No LoRA can be shared: {why}{hint}.")


class SharedLearner(Learner):
    """A [`Learner`] of a [`SharedLora`]."""

    def _check(self, unet: Any) -> None:
        for expert in unet.experts.values():
            check_network(expert)
        if not self.settings.lora_only:
            raise ValueError("Several experts share a plain LoRA alone: give lora_rank and lora_only.")

    def _add_lora(self, unet: Any) -> None:
        unet.add_lora(self.settings.lora_rank)

    def averaged(self) -> Any:
        """A copy of the networks with the averaged weights."""
        lora, unet = self.lora_expert(), self.unet
        copy = SharedLora.__new__(SharedLora)
        torch.nn.Module.__init__(copy)
        copy.experts = torch.nn.ModuleDict(
            {n: merged(expert, _of(lora, expert)) for n, expert in unet.experts.items()}
        )
        copy.register_buffer("edges", unet.edges, persistent=False)
        return copy.eval()

    def lora_expert(self) -> LoraExpert:
        """The averaged factors."""
        return trained_expert(self.unet.first, self.ema.shadow_params)

    def write(self, output: Path) -> None:
        """Writes the averaged factors."""
        with writing(output / LORA_FILE):
            self.lora_expert().save(output / LORA_FILE)


def _of(lora: LoraExpert, expert: Any) -> LoraExpert:
    """The factors with the configuration of an expert."""
    return LoraExpert({n: w for n, w in lora.weights.items() if FACTORS.fullmatch(n)}, dict(expert.config))


def make_learner(unet: Any, settings: TrainingSettings, accelerator: Accelerator) -> Learner:
    """What learns of a network or of several that share a LoRA."""
    return (SharedLearner if isinstance(unet, SharedLora) else Learner)(unet, settings, accelerator)


def bins_of(interval: NoiseInterval) -> tuple[float, ...]:
    """The noise levels between which losses are told apart: of several experts theirs."""
    return interval.edges if isinstance(interval, SharedInterval) else SIGMA_BINS

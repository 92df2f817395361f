# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Experts that start from one U-Net of diffusers: their timesteps, their weights, and what learns in each."""

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel

from ..discrete_time import log_sigmas
from ..experts.files import expert_folder
from ..experts.lora import LoraExpert, lora_layers, without_adapters
from ..experts.router import ExpertRouterUNet
from ..experts.routes import Routes
from .lora import add_lora, trained_expert
from .optimizer import make_optimizer
from .settings import TrainingSettings


def timesteps_of_experts(boundaries: Sequence[float], betas: Mapping[str, Any]) -> list[tuple[int, int]]:
    """The first and the last timestep of each expert, by the routes that the router takes.

    Args:
        boundaries (`list` of `float`): Noise levels in sigma between the experts, increasing.
        betas (`dict`): Of the discrete-time model, see [`BETA_SETTINGS`].

    Raises:
        ValueError: The boundaries are none of this model, or an expert has no timestep between them.
    """
    routes = Routes(list(boundaries), "sigma", betas, [None] * (len(boundaries) + 1))
    if len(routes.trained_on) == 1:
        raise ValueError("Without a boundary there is one expert, which is the U-Net itself: give --boundaries.")
    of_timestep = routes.experts_of(torch.arange(len(log_sigmas(betas))))
    found = [[t for t, expert in enumerate(of_timestep) if expert == index] for index in range(len(boundaries) + 1)]
    for index, timesteps in enumerate(found):
        if not timesteps:
            raise ValueError(
                f"{expert_folder(index)} has no timestep of this model between the boundaries "
                f"{list(boundaries)}: move them apart."
            )
    return [(timesteps[0], timesteps[-1]) for timesteps in found]


def split_unet(unet: Any, num_experts: int, trained: Collection[int], rank: int, seed: int) -> list[Any]:
    """A network for each expert, all of which compute what the U-Net does.

    Args:
        unet (`ModelMixin`): The U-Net, which stays as it is.
        num_experts (`int`): How many there are.
        trained (collection of `int`): Which of them will learn. The others are the U-Net itself.
        rank (`int`): Of low-rank differences, with which all experts share the weights that stay; 0 for full experts.
        seed (`int`): Of the factors.
    """
    return [
        unet if index not in trained else _low_rank(unet, rank, seed + index) if rank else copy.deepcopy(unet)
        for index in range(num_experts)
    ]


def _low_rank(unet: Any, rank: int, seed: int) -> Any:
    """A network that learns low-rank differences; the weights that stay are those of the U-Net."""
    network = without_adapters(unet)
    weights = {id(layer.weight) for layer in lora_layers(network).values()}
    for parameter in network.parameters():
        if id(parameter) not in weights:  # it is trained in full
            parameter.data = parameter.data.clone()
    torch.manual_seed(seed)
    add_lora(network, rank)
    return network.to(unet.device)  # the factors alone move


class ExpertLearner:
    """An expert in training.

    Args:
        index (`int`): Its number; expert 0 has the lowest noise.
        unet (`ModelMixin`): Its network, changed in place.
        timesteps (`tuple` of `int`): The first and the last that it is trained on.
        settings ([`TrainingSettings`]): The numbers of the run.
        accelerator (`Accelerator`): Its device is where the network is.
        use_ema (`bool`): Whether the averaged weights are the result.
    """

    def __init__(
        self,
        index: int,
        unet: Any,
        timesteps: tuple[int, int],
        settings: TrainingSettings,
        accelerator: Accelerator,
        use_ema: bool,
    ) -> None:
        self.index, self.timesteps = index, timesteps
        self.settings, self.accelerator = settings, accelerator
        self.unet = unet.train()
        if settings.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        self.parameters = [parameter for parameter in unet.parameters() if parameter.requires_grad]
        self.network = accelerator.prepare(unet)  # before the optimiser is made: DDP moves weights to other memory
        self.optimizer = accelerator.prepare(
            make_optimizer(settings.optimizer, unet, settings.learning_rate, settings.weight_decay)
        )
        self.ema = EMAModel(self.parameters, decay=settings.ema_decay, foreach=True) if use_ema else None

    @property
    def name(self) -> str:
        """Its folder in the router, and what the log calls it."""
        return expert_folder(self.index)

    def draw_timesteps(self, number: int, generator: torch.Generator) -> torch.Tensor:
        """Timesteps of its interval, all equally likely, int64 `(number,)` on the device of the generator."""
        first, last = self.timesteps
        return torch.randint(first, last + 1, (number,), generator=generator, device=generator.device)

    def step(self, learning_rate: float) -> None:
        """One step of the optimiser along the gradients, which are clipped and then cleared, and of the average.

        Raises:
            FloatingPointError: The gradients are not finite.
        """
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"the gradient of {self.name} is not finite")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.step(self.parameters)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: weights that are trained, the optimiser and the average."""
        return {
            "parameters": [parameter.detach() for parameter in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads what `state_dict` returned."""
        for parameter, saved in zip(self.parameters, state["parameters"], strict=True):
            parameter.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
            self.ema.to(self.accelerator.device)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """A block in which the network has the averaged weights, where there are such, and draws."""
        if self.ema is not None:
            self.ema.store(self.parameters)
            self.ema.copy_to(self.parameters)
        self.unet.eval()
        try:
            yield
        finally:
            self.unet.train()
            if self.ema is not None:
                self.ema.restore(self.parameters)

    def lora_expert(self) -> LoraExpert:
        """What it has learnt as a difference from the U-Net that it started from."""
        weights = [p.detach() for p in self.parameters] if self.ema is None else self.ema.shadow_params
        return trained_expert(self.unet, weights)


def make_router(unets: Sequence[Any], boundaries: Sequence[float], scheduler: Any) -> ExpertRouterUNet:
    """The router of networks in training, or of full experts; it draws."""
    return ExpertRouterUNet.from_unets(unets, list(boundaries), scheduler=scheduler)


def make_lora_router(
    base: Any, learners: Mapping[int, ExpertLearner], boundaries: Sequence[float], scheduler: Any
) -> ExpertRouterUNet:
    """The router of low-rank experts on one base, which is taken over; those that were not trained are the base."""
    unchanged = LoraExpert({}, dict(base.config))
    experts = [
        learners[index].lora_expert() if index in learners else unchanged for index in range(len(boundaries) + 1)
    ]
    return ExpertRouterUNet.from_lora_experts(base, experts, list(boundaries), scheduler=scheduler)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What a pipeline consists of, as data: for `ediffi info` and model cards."""

import itertools
from dataclasses import dataclass, replace
from typing import Any

from ..experts.card import ExpertInfo, experts_of
from .stages import GuidanceScale, Stage


@dataclass(frozen=True)
class StageInfo:
    """A stage of the cascade.

    Args:
        name (`str`): `base`, `SR256` or `SR1024`.
        size (`int`): Height and width of its images.
        num_inference_steps (`int`): Steps by default.
        guidance_scale (`float` or `dict`): Guidance by default.
        scheduler (`str`): The class of its scheduler.
        experts (`list` of [`ExpertInfo`]): From low noise to high.
        steps_of_experts (`list` of `int`): How many steps each draws.
    """

    name: str
    size: int
    num_inference_steps: int
    guidance_scale: GuidanceScale
    scheduler: str
    experts: list[ExpertInfo]
    steps_of_experts: list[int]


def describe_stages(pipe: Any) -> list[StageInfo]:
    """The stages of a pipeline with their defaults."""
    config = pipe.config
    defaults = zip(pipe.stages, config.default_num_inference_steps, config.default_guidance_scale, strict=False)
    return [_describe(stage, steps, guidance) for stage, steps, guidance in defaults]


def _describe(stage: Stage, steps: int, guidance: GuidanceScale) -> StageInfo:
    experts, unet = experts_of(stage.unet), stage.unet
    routes = [0]
    sigmas = _sigmas(stage, steps)
    if hasattr(unet, "select_expert"):
        routes = [unet.select_expert(sigma) for sigma in sigmas]
        unet.reset_expert()
    counts = [routes.count(i) for i in range(len(experts))] if len(experts) > 1 else [len(sigmas)]
    return StageInfo(
        stage.label.split()[0], stage.size, steps, guidance, type(stage.scheduler).__name__, experts, counts
    )


def _sigmas(stage: Stage, num_steps: int) -> list[float]:
    """The noise level by which the expert of each step is chosen."""
    scheduler = type(stage.scheduler).from_config(stage.scheduler.config)  # the pipeline's own may be at work
    scheduler.set_timesteps(num_steps)
    sigmas = getattr(scheduler, "routing_sigmas", None) or replace(stage, scheduler=scheduler).sigmas[:-1]
    # A Runge-Kutta step repeats its noise level for each of its calls.
    return [float(sigma) for sigma, _ in itertools.groupby(sigmas)]

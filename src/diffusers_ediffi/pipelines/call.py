# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A running call of `EDiffIPipeline`: what it was asked for, its conditions, and what callbacks may read of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..models.encoder_table import CLIP_IMAGE, EMBEDDINGS
from .conditioning import CLASS_LABELS
from .guidance import Guidance
from .inputs import Embeddings, Inputs
from .prediction import select_painted
from .prompt_schedule import PromptSchedule
from .stages import Generator, GuidanceScale, Stage


@dataclass(frozen=True)
class Call:
    """What a call was asked for, once it is checked.

    Args:
        inputs ([`Inputs`]): What is to be drawn.
        stages (`list` of [`Stage`]): The stages that run, each with what is asked of it.
        encoders (`tuple` of `str`): The encoders whose conditions are used.
        style_scale (`float`): Factor on the CLIP image embedding.
        prompt_schedule ([`PromptSchedule`], *optional*): The prompts that follow each other, if they do.
        guidance_interval (`tuple` of `float`, *optional*): Noise levels (low, high] with guidance, by default all.
        guidance_rescale (`float`): phi, see [`Guidance.combine`].
        generator (`torch.Generator` or `list`, *optional*): Makes the noise repeatable.
        latents (`torch.Tensor`, *optional*): Standard normal noise for the base stage (images, 3, size, size).
        callback (`Callable`, *optional*): Called after each step.
        callback_tensors (`Sequence` of `str`): Names of the tensors that are handed to it.
    """

    inputs: Inputs
    stages: list[Stage]
    encoders: tuple[str, ...]
    style_scale: float
    prompt_schedule: PromptSchedule | None
    guidance_interval: tuple[float, float] | None
    guidance_rescale: float
    generator: Generator
    latents: torch.Tensor | None
    callback: Callable[..., Any] | None
    callback_tensors: Sequence[str]

    @property
    def is_guided(self) -> bool:
        """Whether any step may be guided, by a stage's scale or an expert's, so that negative prompts are encoded."""
        return any(stage.is_guided for stage in self.stages)

    @property
    def texts(self) -> list[str]:
        """All texts that are encoded."""
        if not any(encoder.name in self.encoders for encoder in self.stages[0].conditioning.text_encoders):
            return []
        prompts = [self.inputs.prompt] if self.prompt_schedule is None else self.prompt_schedule.prompts
        entries = [*prompts, self.inputs.negative_prompt if self.is_guided else None]
        rows = ([entry] if isinstance(entry, str) else entry for entry in entries if entry is not None)
        return [text for texts in rows for text in texts]


class Conditions:
    """What the networks are conditioned on; the prompt schedule and the callback change it from step to step.

    Args:
        call ([`Call`]): The running call.
        embeds (`dict`): Embeddings by their names in the pipeline's call, a row for each image.
        prompts (`Sequence` of `dict`): The embeddings of each prompt of the schedule, in the same form.
        begins (`Mapping`): The number of the prompt that begins, by the stage's label and the index of the timestep.
    """

    def __init__(
        self,
        call: Call,
        embeds: Embeddings,
        prompts: Sequence[Embeddings] = (),
        begins: Mapping[tuple[str, int], int] | None = None,
    ):
        self.embeds = embeds
        self._call = call
        self._prompts = prompts
        self._begins = begins or {}
        self._steps_done = 0  # over all stages

    def begin_step(self, stage: Stage, index: int) -> None:
        """Goes on with the prompt that begins at this timestep, if one does."""
        number = self._begins.get((stage.label, index))
        if number is None:
            return
        self.embeds.update(self._prompts[number])
        if stage.painting is not None:
            stage.painting.begin_prompt(number)

    def end_step(self, pipe: Any, timestep: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        """Hands the tensors to the callback, which may replace them; returns the sample to go on with."""
        step = self._steps_done
        self._steps_done += 1
        if not self._call.callback:
            return sample
        tensors = {**self.embeds, "latents": sample}
        wanted = {name: tensors[name] for name in self._call.callback_tensors}
        changed = dict(self._call.callback(pipe, step, timestep, wanted) or {})
        sample = changed.pop("latents", sample)
        self.embeds.update(changed)
        return sample


def prepare_conditions(pipe: Any, call: Call) -> Conditions:
    """Encodes everything that the stages are conditioned on, all prompts of a schedule included."""
    pipe._warn_of_unknown_words(call.texts)
    embeds = pipe._prepare_embeddings(call.inputs, call.is_guided, call.encoders)
    if call.inputs.class_labels is not None:
        embeds[CLASS_LABELS] = pipe._rows(call.inputs.class_labels, call.inputs)
    style = embeds.get(CLIP_IMAGE.sequence)
    if style is not None:
        embeds[CLIP_IMAGE.sequence] = style * float(call.style_scale) if call.style_scale else None
    schedule = call.prompt_schedule
    if schedule is None:
        return Conditions(call, embeds)
    prompts: list[Embeddings] = [{}]  # the first is in `embeds` already
    for prompt in schedule.prompts[1:]:
        inputs = Inputs(prompt, None, None, dict.fromkeys(EMBEDDINGS), call.inputs.num_images_per_prompt)
        encoded = pipe._prepare_embeddings(inputs, False, call.encoders)
        prompts.append({name: encoded[name] for name in pipe._conditioning.text_embeddings})
    return Conditions(call, embeds, prompts, schedule.begins_of_stages(call.stages, pipe._begin_index))


class CallState:
    """What diffusers' callbacks and [`record_attention`] read of the running call, and in part change.

    `_guidance_scale` and `_guidance_rescale` hold from the next step on; `_interrupt` ends the call after the step.
    """

    _guidance_scale: GuidanceScale
    _guidance_rescale: float = 0.0
    _num_timesteps: int
    _interrupt: bool
    _prompt_schedule: PromptSchedule | None = None
    # Told before each call of a U-Net which of how many images are its last rows, see `record_attention`.
    _batch_observers: tuple[Callable[[Any, range, int, Sequence[str]], None], ...] = ()

    @property
    def guidance_scale(self) -> GuidanceScale:
        """The guidance of the stage that is running, a number or weights for encoders; a callback may change
        `_guidance_scale`. An expert that has a scale (`ExpertRouterUNet.guidance_scales`) is called with that
        instead, but for weights, which hold for every expert."""
        return self._guidance_scale

    @property
    def guidance_rescale(self) -> float:
        return self._guidance_rescale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return isinstance(self._guidance_scale, dict) or self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """Network evaluations of the last call, over all stages."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    def _guidance_at(self, sigma: float, stage: Stage, interval: tuple[float, float] | None) -> Guidance:
        """The guidance of a step at this noise level, by the stage's scale or by that of the selected expert."""
        scale, expert_scale = self._guidance_scale, getattr(stage.unet, "guidance_scale", None)
        if expert_scale is not None and not isinstance(scale, dict):
            scale = expert_scale
        return Guidance.at(sigma, scale, interval)

    def _announce(self, stage: Stage, guidance: Guidance, images: slice, num_images: int) -> None:
        """Tells the stage's painting and the observers which of all images the network is called with next."""
        select_painted(stage, guidance, images, num_images)
        for observer in self._batch_observers:
            observer(stage.unet, range(num_images)[images], num_images, guidance.rows[-1] or ())

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Pipelines of diffusers: the noise level of a timestep, the tokens of a prompt, and methods replaced for a while."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch

from .discrete_time import alphas_cumprod, betas_of, takes_c_noise
from .edm import sigma_from_c_noise
from .phrases import PromptTokens

MAX_SIGMA = 80.0  # EDM's largest noise level; zero-SNR schedules of discrete models go to infinity
T5_TOKENS = 77  # what the pipelines of DeepFloyd IF let T5 read


class NoiseLevels:
    """The noise level of what a pipeline's U-Net receives, from its timestep and without waiting for the device.

    Raises:
        ValueError: The noise levels of the pipeline's scheduler are not known.
    """

    def __init__(self, pipe: Any):
        self.pipe = pipe
        self._follow(pipe.scheduler)

    def _follow(self, scheduler: Any) -> None:
        """Reads what a scheduler's timesteps mean."""
        self._scheduler = scheduler
        self._sigmas: torch.Tensor | None = None  # of the steps of a discrete-time model
        self._is_log = False  # between two steps ln(sigma) is interpolated
        if takes_c_noise(scheduler):
            return
        self._is_log = not hasattr(scheduler, "alphas_cumprod")
        alphas = alphas_cumprod(betas_of(scheduler) or {}) if self._is_log else scheduler.alphas_cumprod
        alphas = alphas.double().clamp(min=1e-12)
        self._sigmas = ((1 - alphas) / alphas).sqrt().clamp(max=MAX_SIGMA).float()

    def __call__(self, timestep: torch.Tensor) -> torch.Tensor:
        """sigma of a timestep, which may lie between two of the schedule; float32, on the timestep's device."""
        if self.pipe.scheduler is not self._scheduler:
            self._follow(self.pipe.scheduler)
        if self._sigmas is None:
            return sigma_from_c_noise(timestep.float())
        self._sigmas = sigmas = self._sigmas.to(timestep.device)
        t = timestep.float().clamp(0, len(sigmas) - 1)
        low = t.long().clamp(max=len(sigmas) - 2)
        below, above = sigmas[low], sigmas[low + 1]
        return below * (above / below) ** (t - low) if self._is_log else below.lerp(above, t - low)


def prompt_tokens(pipe: Any, prompt: str) -> tuple[str, PromptTokens]:
    """The name of a diffusers pipeline's text encoder, and the prompt as it tokenises it."""
    tokenizer = _tokenizer(pipe)
    name = "T5" if "T5" in type(tokenizer).__name__ else "CLIP"
    length = T5_TOKENS if name == "T5" else tokenizer.model_max_length
    return name, PromptTokens(as_tokenized(pipe, prompt), tokenizer, length)


def as_tokenized(pipe: Any, text: str) -> str:
    """A text as the pipeline gives it to its tokenizer: words of textual inversion become several."""
    return pipe.maybe_convert_prompt(text, _tokenizer(pipe)) if hasattr(pipe, "maybe_convert_prompt") else text


def _tokenizer(pipe: Any) -> Any:
    tokenizer = getattr(pipe, "tokenizer", None) or getattr(pipe, "tokenizer_2", None)
    if tokenizer is None:
        raise ValueError(f"{type(pipe).__name__} has no tokenizer, which is needed to find phrases; load it.")
    return tokenizer


def check_takes_noise(pipe: Any) -> None:
    """Refuses a pipeline in whose starting noise regions with seeds cannot be mixed."""
    parameters = inspect.signature(getattr(pipe, "prepare_latents", lambda: None)).parameters
    if "latents" not in parameters or "image" in parameters:
        raise ValueError(
            f"{type(pipe).__name__} does not start from noise alone, so that regions cannot have seeds: leave them "
            "out."
        )


@contextmanager
def replaced(pipe: Any, name: str, method: Callable) -> Iterator[None]:
    """Replaces a method of a pipeline for a `with` block; `method` gets the original as its first argument."""
    original = getattr(pipe, name)
    was_replaced = name in vars(pipe)

    @wraps(original)  # with its signature, for whoever replaces it once more
    def call(*args: Any, **kwargs: Any) -> Any:
        return method(original, *args, **kwargs)

    setattr(pipe, name, call)
    try:
        yield
    finally:
        if was_replaced:
            setattr(pipe, name, original)
        else:
            delattr(pipe, name)

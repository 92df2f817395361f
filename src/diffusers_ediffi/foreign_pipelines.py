# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Pipelines of diffusers: the noise level of a timestep, the tokens of a prompt, and methods replaced for a while."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch

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
        self._table: tuple[Any, torch.Tensor] | None = None
        takes_c_noise(pipe.scheduler)

    def __call__(self, timestep: torch.Tensor) -> torch.Tensor:
        """sigma of a timestep, which may lie between two of the schedule; float32, on the timestep's device."""
        scheduler = self.pipe.scheduler
        if takes_c_noise(scheduler):
            return sigma_from_c_noise(timestep.float())
        if self._table is None or self._table[0] is not scheduler or self._table[1].device != timestep.device:
            alphas = scheduler.alphas_cumprod.double().clamp(min=1e-12)
            sigmas = ((1 - alphas) / alphas).sqrt().clamp(max=MAX_SIGMA)
            self._table = scheduler, sigmas.float().to(timestep.device)
        sigmas = self._table[1]
        t = timestep.float().clamp(0, len(sigmas) - 1)
        low = t.long().clamp(max=len(sigmas) - 2)
        return sigmas[low].lerp(sigmas[low + 1], t - low)


def takes_c_noise(scheduler: Any) -> bool:
    """Whether a scheduler's timesteps are c_noise = ln(sigma) / 4; otherwise they are positions in `alphas_cumprod`.

    Raises:
        ValueError: They are neither.
    """
    config = scheduler.config
    is_continuous = config.get("timestep_type") == "continuous" and config.get("prediction_type") == "v_prediction"
    if hasattr(scheduler, "precondition_inputs") or is_continuous:
        return True
    if not hasattr(scheduler, "alphas_cumprod") or config.get("use_flow_sigmas"):
        raise ValueError(
            f"the noise levels of {type(scheduler).__name__} are not known; use a scheduler with "
            "alphas_cumprod, such as DPMSolverMultistepScheduler."
        )
    return False


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

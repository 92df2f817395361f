# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Pipelines of diffusers: the noise level of a timestep, what the rows of a batch are, whose call it is, the tokens of
a prompt, and methods replaced for a while."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from threading import get_ident
from typing import Any

import torch
from diffusers import DiffusionPipeline

from .discrete_time import alphas_cumprod, betas_of, takes_c_noise
from .edm import sigma_from_c_noise
from .phrases import PromptTokens

MAX_SIGMA = 80.0  # EDM's largest noise level; zero-SNR schedules of discrete models go to infinity
T5_TOKENS = 77  # what the pipelines of DeepFloyd IF let T5 read


class NoiseLevels:
    """The noise level of what a pipeline's U-Net receives, from its timestep and without waiting for the device.

    Args:
        pipe (`DiffusionPipeline`): The pipeline.
        name (`str`): Its component that is the U-Net's scheduler.

    Raises:
        ValueError: The noise levels of the scheduler are not known.
    """

    def __init__(self, pipe: Any, name: str = "scheduler"):
        self.pipe, self._name = pipe, name
        self._follow(getattr(pipe, name))

    def _follow(self, scheduler: Any) -> None:
        """Reads what a scheduler's timesteps mean."""
        self._scheduler = scheduler
        self._sigmas: torch.Tensor | None = None  # of the steps of a discrete-time model
        self._is_log = False  # between two steps ln(sigma) is interpolated
        if takes_c_noise(scheduler):
            return
        self._is_log = hasattr(scheduler, "routing_sigmas") or not hasattr(scheduler, "alphas_cumprod")
        alphas = alphas_cumprod(betas_of(scheduler) or {}) if self._is_log else scheduler.alphas_cumprod
        alphas = alphas.double().clamp(min=1e-12)
        self._sigmas = ((1 - alphas) / alphas).sqrt().clamp(max=MAX_SIGMA).float()

    def __call__(self, timestep: torch.Tensor) -> torch.Tensor:
        """sigma of a timestep, which may lie between two of the schedule; float32, on the timestep's device."""
        scheduler = getattr(self.pipe, self._name)
        if scheduler is not self._scheduler:
            self._follow(scheduler)
        if self._sigmas is None:
            return sigma_from_c_noise(timestep.float())
        self._sigmas = sigmas = self._sigmas.to(timestep.device)
        t = timestep.float().clamp(0, len(sigmas) - 1)
        low = t.long().clamp(max=len(sigmas) - 2)
        below, above = sigmas[low], sigmas[low + 1]
        return below * (above / below) ** (t - low) if self._is_log else below.lerp(above, t - low)


class BatchRows:
    """What the rows of a U-Net's batch are, as a pipeline of diffusers says it: by what it encodes, and its guidance.

    They are the unconditional rows of guidance, if the pipeline guides, the images, and perturbed copies of these
    (PAG).

    Attributes:
        num_images (`int`, *optional*): Images of a call of the pipeline; `None` before it has encoded its prompt.
    """

    def __init__(self, pipe: Any):
        self.pipe = pipe
        self.num_images: int | None = None
        self._was_guided = False  # when the prompt was encoded
        self._follows_pipe = False
        self._size: tuple[int, ...] | None = None  # height and width of what the pipeline draws on

    def encoded(self, arguments: Mapping[str, Any], embeds: Any) -> None:
        """Takes in the arguments of the pipeline's `encode_prompt` and what it returned."""
        self.num_images = len(embeds[0])
        self._was_guided = bool(arguments["do_classifier_free_guidance"])
        # A loop of somebody else's encodes without the pipeline's call, whose guidance is that of an earlier call.
        self._follows_pipe = getattr(self.pipe, "do_classifier_free_guidance", None) == self._was_guided
        self._size = None

    def prepared(self, latents: Any) -> None:
        """Takes in what the pipeline's `prepare_latents` returned."""
        latents = latents[0] if isinstance(latents, tuple | list) else latents
        self._size = tuple(latents.shape[-2:])

    @property
    def unconditional(self) -> int:
        """Unconditional rows of the coming call; a callback may end guidance before."""
        is_guided = self.pipe.do_classifier_free_guidance if self._follows_pipe else self._was_guided
        return self.num_images or 0 if is_guided else 0

    @property
    def copies(self) -> int:
        """Rows of each image in the coming call, without its unconditional row."""
        return 2 if getattr(self.pipe, "do_perturbed_attention_guidance", False) else 1

    def check(self, sample: torch.Tensor) -> None:
        """Refuses a sample (batch, channels, height, width) whose rows are others, or crops of the images."""
        expected = self.unconditional + self.copies * (self.num_images or 0)
        if len(sample) != expected:
            raise ValueError(
                f"{type(self.pipe).__name__} calls its U-Net with {len(sample)} rows where its {self.num_images} "
                f"images and its guidance make {expected}: which are unconditional? Such a call is neither painted "
                "nor recorded."
            )
        if self._size is not None and tuple(sample.shape[-2:]) != self._size:
            rows, columns = sample.shape[-2:]
            raise ValueError(
                f"{type(self.pipe).__name__} draws crops of {rows} x {columns} of an image of {self._size[0]} x "
                f"{self._size[1]}: where they lie is not known. Such a call is neither painted nor recorded."
            )


def is_called_by_another(pipe: Any) -> bool:
    """Whether another pipeline than `pipe` is running this thread: pipelines of `from_pipe` share a U-Net, whose hooks
    see the calls of all of them. A loop of somebody else's is no pipeline."""
    caller = running_pipeline()
    return isinstance(pipe, DiffusionPipeline) and caller is not None and caller is not pipe


def running_pipeline() -> DiffusionPipeline | None:
    """The pipeline whose call this thread is in, the innermost of several."""
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self") if frame.f_code.co_name == "__call__" else None
        if isinstance(caller, DiffusionPipeline):
            return caller
        frame = frame.f_back
    return None


@contextmanager
def one_thread_at_a_time(unet: torch.nn.Module) -> Iterator[None]:
    """Refuses a call of a U-Net while another thread is in one, for a `with` block in which hooks keep what belongs to
    the running call.

    Raises:
        ValueError: in that other thread.
    """
    threads: list[int] = []  # in a call, or about to be refused

    def begin(*_: Any) -> None:
        threads.append(get_ident())
        if threads[0] != get_ident():
            raise ValueError(
                "another thread calls this U-Net, which is painted or recorded: let threads draw one after the other, "
                "or with a copy (copy.deepcopy) of the U-Net that is made before the block."
            )

    def end(*_: Any) -> None:
        threads.remove(get_ident())

    handles = [unet.register_forward_pre_hook(begin), unet.register_forward_hook(end, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_tells_rows(pipe: Any) -> None:
    """Refuses a pipeline that does not say which rows of its batch are unconditional."""
    encode_prompt = getattr(pipe, "encode_prompt", lambda: None)
    if "do_classifier_free_guidance" not in inspect.signature(encode_prompt).parameters:
        raise ValueError(
            f"{type(pipe).__name__} does not say which rows of its batch are unconditional (it has no encode_prompt "
            "with do_classifier_free_guidance), so that it is neither painted nor recorded; use one that does, such "
            "as StableDiffusionPipeline."
        )


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

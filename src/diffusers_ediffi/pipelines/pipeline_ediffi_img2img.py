# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`EDiffIImg2ImgPipeline`: the cascade from an image on (SDEdit, arXiv 2108.01073)."""

import inspect
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import torch

from .call import Call, Conditions
from .image_start import ImageStart
from .pipeline_ediffi import EDiffIPipeline, EDiffIPipelineOutput
from .stages import Stage

STRENGTH = 0.7
_START: ContextVar[ImageStart] = ContextVar("start")  # each thread has its value


def with_arguments_of(parent: Callable) -> Callable[[Callable], Callable]:
    """Lets the signature of a call name what its `**kwargs` pass on to `parent`: for `help`, editors and diffusers,
    which look signatures up, without a copy of thirty arguments that would have to be kept in step."""

    def decorate(call: Callable) -> Callable:
        parameters = inspect.signature(call).parameters
        passed_on = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in inspect.signature(parent).parameters.items()
            if name not in parameters
        ]
        named = [parameter for parameter in parameters.values() if parameter.kind != inspect.Parameter.VAR_KEYWORD]
        signature = inspect.signature(call).replace(parameters=[*named, *passed_on])
        setattr(call, "__signature__", signature)  # noqa: B010, functions have no such attribute to mypy
        return call

    return decorate


class EDiffIImg2ImgPipeline(EDiffIPipeline):
    """Image-to-image generation: the base stage starts from an image with noise, the cascade goes on as ever.

    ```python
    from diffusers_ediffi import EDiffIImg2ImgPipeline

    edit = EDiffIImg2ImgPipeline.from_pipe(pipe)  # shares all of its parts; or from_pretrained
    edit("a red apple on a dark blue background", image=picture, strength=0.6).images[0]
    ```

    Its parts are those of [`EDiffIPipeline`]; so is every saved folder.
    """

    _start_sigmas: tuple[float, ...] = ()

    @property
    def start_sigmas(self) -> tuple[float, ...]:
        """The noise level at which each stage of the last call began; 0 where it left all steps out."""
        return self._start_sigmas

    @with_arguments_of(EDiffIPipeline.__call__)
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        image: Any = None,
        strength: float | Sequence[float] = STRENGTH,
        sigma_start: float | Sequence[float | None] | None = None,
        **kwargs: Any,
    ) -> EDiffIPipelineOutput | tuple:
        """Draws images that follow another image.

        Args:
            prompt (`str` or `list` of `str`, *optional*): What to draw, see [`EDiffIPipeline`].
            image: A PIL image, an array (height, width, 3) or a tensor (3, height, width) in [0, 1]: one for all
                prompts, or a list with one for each. Every stage takes it in the size of the stage; what is not square
                is squeezed, with a warning.
            strength (`float` or `tuple`, defaults to 0.7): Share of the steps that run, int(steps * strength) but at
                least one: the last steps, from the noise level that they begin with. One number is for the base stage,
                a tuple (base, SR256, SR1024) for the others, too, which else draw from pure noise as ever. There, less
                than 1 keeps fine detail of a large image. With 1 the image counts for nothing, and the result is that
                of text-to-image, bit for bit. With 0 no step runs and the stage hands the image on as it is:
                `(0, 1, 1)` enlarges it.
            sigma_start (`float` or `tuple`, *optional*): Instead of `strength`, in stages where it is not `None`, the
                noise level to begin at (SDEdit's strength); the first step at or below it is taken, see
                `start_sigmas`. At the highest of the schedule all steps run, yet from the image with that noise, which
                does not hide its mean colour entirely.
            **kwargs: All other arguments of [`EDiffIPipeline`], by name.

        Raises:
            ValueError: An argument is wrong.
        """
        return self._call_from(ImageStart(image, strength, sigma_start, unsaid=STRENGTH), prompt, kwargs)

    @property
    def _start(self) -> ImageStart:
        """The start of the call that this thread runs; no attribute while there is none."""
        start = _START.get(None)
        if start is None:
            raise AttributeError("no call is running")
        return start

    def _call_from(self, start: ImageStart, prompt: Any, kwargs: dict[str, Any]) -> EDiffIPipelineOutput | tuple:
        token = _START.set(start)
        try:
            return EDiffIPipeline.__call__(self, prompt, **kwargs)
        finally:
            _START.reset(token)

    def _prepare_start(self, stages: list[Stage], batch_size: int) -> None:
        self._start_sigmas = self._start.prepare(stages, batch_size)

    def _begin_index(self, stage: Stage) -> int:
        return self._start.begin(stage)

    def _first_sample(self, stage: Stage, noise: torch.Tensor) -> torch.Tensor:
        return self._start.first_sample(stage, noise, super()._first_sample(stage, noise))

    def _denoise_stage(
        self, stage: Stage, noise: torch.Tensor, low_res: torch.Tensor | None, call: Call, conditions: Conditions
    ) -> torch.Tensor:
        unchanged = self._start.enter(stage, noise)
        return super()._denoise_stage(stage, noise, low_res, call, conditions) if unchanged is None else unchanged

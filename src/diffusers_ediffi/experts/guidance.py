# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`ExpertGuidance`: a guidance scale for each expert, also where the pipeline has a single one."""

from collections.abc import Sequence
from typing import Any

import torch

from ..checks import is_finite

NOT_RESCALED = (
    "call the pipeline with the guidance_scale given to rescale_guidance, or switch that off by "
    "rescale_guidance(None)."
)


class ExpertGuidance:
    """The guidance scales of a router's experts, and the pipeline's scale in which they are to be expressed.

    Args:
        scales (`list`, *optional*): For each expert its scale, or `None` for the pipeline's.
        num_experts (`int`): How many experts there are.

    Raises:
        ValueError: if there is not one entry for each expert, or an entry is not a finite number.
    """

    def __init__(self, scales: Sequence[float | None] | None, num_experts: int):
        self.scales = [None] * num_experts if scales is None else _check_scales(scales, num_experts)
        self._pipeline_scale: float | None = None

    def follow(self, pipeline_scale: float | None) -> None:
        """Sets the scale of the pipeline that combines the outputs; `None` where it follows `scales` itself.

        Raises:
            ValueError: if guidance is off at this scale.
        """
        if pipeline_scale is not None and (not is_finite(pipeline_scale) or pipeline_scale <= 1):
            raise ValueError(f"pipeline_scale={pipeline_scale} must be above 1: without guidance there is no scale.")
        self._pipeline_scale = pipeline_scale

    def factor(self, index: int) -> float | None:
        """By how much `rescale` stretches the guidance of expert `index`; `None` leaves its output as it is."""
        scale = self.scales[index]
        return None if scale is None or self._pipeline_scale is None else scale / self._pipeline_scale


def check_guided(sample: torch.Tensor, remedy: str) -> None:
    """Refuses a sample that is not one of guidance, [unconditional, conditional]: it holds every image twice.

    Raises:
        ValueError: if its halves differ; the `remedy` is named.
    """
    if len(sample) % 2 or not torch.equal(*sample.chunk(2)):
        raise ValueError(
            f"a batch of {len(sample)} is not [unconditional, conditional], twice the same images: {remedy}"
        )


def rescale(output: torch.Tensor, factor: float) -> torch.Tensor:
    """[u, c] -> [u, u + factor (c - u)], halves of a batch (2 * images, channels, height, width)."""
    unconditional, conditional = output.chunk(2)
    return torch.cat([unconditional, unconditional + factor * (conditional - unconditional)])


def _check_scales(scales: Any, num_experts: int) -> list[float | None]:
    if not isinstance(scales, Sequence) or len(scales) != num_experts:
        raise ValueError(
            f"guidance_scales={scales!r} must list a scale or None for each of the {num_experts} experts."
        )
    for scale in scales:
        if scale is not None and not is_finite(scale):
            raise ValueError(
                f"guidance_scales={list(scales)} must be finite numbers, or None for the pipeline's scale."
            )
    return [None if scale is None else float(scale) for scale in scales]

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Classifier-free guidance (section 3), by all encoders together or by each with a weight.

    D_none + sum_k w_k (D_k - D_none)

D_none is the unconditional model, or that of the negative prompt. With one number w there is one D_k, conditioned on
everything; with weights for encoders each D_k is conditioned on encoder k alone. All of them are rows of one batch.
Guidance on the network's output is the same as on the denoised image D, which is linear in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from diffusers.guiders.guider_utils import rescale_noise_cfg

from ..checks import MAX_STAGES, is_finite, is_number
from ..models.encoder_table import ENCODERS, Encoder
from .inputs import Embeddings, check_choice
from .stages import GuidanceScale, Stage, labels, per_stage


@dataclass(frozen=True)
class Guidance:
    """What a step computes for each image, and how it is combined.

    Args:
        rows (`tuple`): For each row of an image the encoders that it is conditioned on; `None` is D_none.
        weights (`tuple` of `float`): w_k of the rows after the first, which is D_none then. Without any there is one
            row, the result.
    """

    rows: tuple[tuple[str, ...] | None, ...]
    weights: tuple[float, ...] = ()

    @classmethod
    def at(cls, sigma: float, scale: GuidanceScale, interval: tuple[float, float] | None = None) -> "Guidance":
        """The guidance of a step.

        Args:
            sigma (`float`): Its noise level.
            scale (`float` or `dict`): A number, of which 1 or less is no guidance, or a weight for each encoder. Rows
                of weight 0 are left out.
            interval (`tuple` of `float`, *optional*): Noise levels (low, high] with guidance, by default all. Outside
                there is one row, conditioned on the encoders that guide inside.
        """
        inside = interval is None or interval[0] < sigma <= interval[1]
        if not isinstance(scale, dict):
            everything = tuple(ENCODERS)
            return cls((None, everything), (scale,)) if inside and scale > 1 else cls((everything,))
        weights = {name: weight for name, weight in scale.items() if weight}
        if not weights:
            return cls((None,))
        if not inside:
            return cls((tuple(weights),))
        return cls((None, *((name,) for name in weights)), tuple(weights.values()))

    def rows_of(self, name: str, stage: Stage, embeds: Embeddings, images: slice, count: int) -> torch.Tensor | None:
        """An embedding for every row of these images, of which there are `count`: the first row of all of them, then
        the second, and so on; `None` if all rows go without, or there is no such embedding."""
        encoders = stage.conditioning.encoders.values()
        encoder = next((encoder for encoder in encoders if name in encoder.embeddings), None)
        if encoder is None:
            return None
        negative, positive = embeds.get(f"negative_{name}"), embeds.get(name)
        parts = [negative if row is None else positive if encoder.name in row else None for row in self.rows]
        parts = [None if part is None else part[images] for part in parts]
        like, dropped = next((part for part in parts if part is not None), None), stage.dropped(name, negative)
        if dropped is not None:
            dropped = dropped.expand(count, *dropped.shape[1:]) if len(dropped) == 1 else dropped[images]
        elif like is not None:
            # Zeros in all columns, none of them masked, are what training saw as "dropped".
            dropped = torch.full_like(like, 1 if name == encoder.mask else 0)
        rows = [dropped if part is None else part for part in parts]
        return None if dropped is None else torch.cat([row for row in rows if row is not None])

    def painted_rows(self, encoders: Sequence[Encoder]) -> tuple[int, list[list[int]] | None]:
        """The arguments `copies` and `readable` of [`~painting.Painting.select`]: D_none is not painted, and the other
        rows where the text stands that they are conditioned on, by these encoders of texts."""
        rows = self.rows[1:] if self.weights else self.rows
        texts = [[encoder for encoder in encoders if encoder.name in (row or ())] for row in rows]
        if all(len(text) == len(encoders) for text in texts):
            return len(rows), None
        every = range(encoders[-1].columns.stop)
        return len(rows), [[column for encoder in text for column in every[encoder.columns]] for text in texts]

    def combine(
        self, output: torch.Tensor, x: torch.Tensor, coefficients: tuple[Any, Any], rescale: float = 0.0
    ) -> torch.Tensor:
        """The guided output.

        Args:
            output (`torch.Tensor`): The network's for all rows, (rows x images, 3, height, width) in the order of
                `rows_of`.
            x (`torch.Tensor`): The noisy images image + sigma * noise, (images, 3, height, width).
            coefficients (`tuple`): skip and out in D = skip * x + out * output.
            rescale (`float`, defaults to 0.0): phi of Lin et al. (arXiv 2305.08891, section 3.4): how far the standard
                deviation of each guided D is brought back to that of the conditional D. Of several D_k the mean
                counts, weighted by abs(w_k).

        Returns:
            The output that stands for the guided D, (images, 3, height, width).
        """
        if not self.weights:
            return output
        unconditional, *conditional = output.chunk(len(self.rows))
        guided, reference = unconditional, torch.zeros_like(unconditional)
        for weight, f in zip(self.weights, conditional, strict=True):
            guided = guided + weight * (f - unconditional)
            reference = reference + abs(weight) / sum(map(abs, self.weights)) * f
        if not rescale:
            return guided
        # Exposure is a matter of the image: the output has the noise in it, and at small sigma little else.
        skip, out = coefficients
        denoised, wanted = (skip * x + out * f for f in (guided, reference))
        return guided + (rescale_noise_cfg(denoised, wanted, rescale) - denoised) / out


def with_guidance(stages: list[Stage], value: Any, default: Sequence) -> list[Stage]:
    """The stages with their guidance scales, from the pipeline's `guidance_scale`. That of the base may be weights for
    encoders, alone or as the first entry; alone they leave the other stages their defaults."""
    value = default if value is None else value
    values = (value, *default[1:]) if isinstance(value, dict) else value
    scales: list[Any]
    if isinstance(values, list | tuple) and any(isinstance(scale, dict) for scale in values):
        scales = [_weights(value, *values, stages=stages), *map(float, values[1:])]
    else:
        scales = per_stage("guidance_scale", values, stages)
        if not all(is_finite(scale) for scale in scales):
            raise ValueError(
                f"guidance_scale={value!r} must be finite; 1 switches guidance off, 5 is usual for the base."
            )
        scales = list(map(float, scales))
    return [replace(stage, guidance_scale=scale) for stage, scale in zip(stages, scales, strict=False)]


def _weights(value: Any, weights: Any, *others: Any, stages: list[Stage]) -> dict[str, float]:
    """The base's weights for encoders, checked with the scales of the `other` stages; `value` is the argument."""
    if any(isinstance(other, dict) for other in others):
        raise ValueError(
            f"guidance_scale={value!r} has weights for a super-resolution stage; only the base takes them, the others "
            "a number."
        )
    are_finite = all(is_finite(other) for other in others)
    if not len(stages) <= 1 + len(others) <= MAX_STAGES or not are_finite:
        raise ValueError(
            f"guidance_scale={value!r} must be weights for the base alone, or these and finite numbers, one entry "
            f"for each of the {len(stages)} stages ({labels(stages)})."
        )
    if not weights or not all(is_finite(weight) for weight in weights.values()):
        raise ValueError(
            f"guidance_scale={weights!r} must hold a finite weight for at least one encoder ({', '.join(ENCODERS)})."
        )
    check_choice("encoder in guidance_scale", list(weights), tuple(ENCODERS))
    return {name: float(weight) for name, weight in weights.items()}


def check_guidance(interval: Any, rescale: Any) -> None:
    """Refuses a `guidance_interval` that is not two noise levels, and a `guidance_rescale` outside of [0, 1]."""
    if interval is not None:
        are_levels = isinstance(interval, list | tuple) and all(is_number(sigma, Real) for sigma in interval)
        if not are_levels or len(interval) != 2 or not 0 <= interval[0] < interval[1]:
            raise ValueError(
                f"guidance_interval={interval!r} must be two noise levels (low, high) in sigma, 0 <= low < high."
            )
    if not is_number(rescale, Real) or not 0 <= rescale <= 1:
        raise ValueError(f"guidance_rescale={rescale!r} must lie in [0, 1]; 0 switches it off, 0.7 is usual.")

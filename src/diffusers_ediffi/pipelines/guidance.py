# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Classifier-free guidance (section 3), by all encoders together or by each with a weight.

    D_none + sum_k w_k (D_k - D_none)

D_none is the unconditional model, or that of the negative prompt. With one number w there is one D_k, conditioned on
everything; with weights for encoders each D_k is conditioned on encoder k alone. All of them are rows of one batch.
Guidance on the network's output F is the same as on the denoised image D, which is linear in F.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from diffusers.guiders.guider_utils import rescale_noise_cfg

from ..checks import MAX_STAGES, is_finite, is_number
from ..edm import c_out, denoised_from_model_output, sigma_from_c_noise
from ..models.encoder_table import ENCODERS, TEXT_ENCODERS
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

    def conditions(self, embeds: Embeddings, images: slice, dtype: torch.dtype) -> dict[str, Any]:
        """The network's arguments for these images: the first row of all of them, then the second, and so on."""

        def rows(name: str, dropped: int = 0) -> torch.Tensor | None:
            condition = self._rows_of(name, embeds, images, dropped)
            return None if condition is None else condition.to(dtype)

        return {
            "encoder_hidden_states": rows("prompt_embeds"),
            "encoder_hidden_states_2": rows("prompt_embeds_2"),
            # Zeros in all columns, none of them masked, are what training saw as "dropped".
            "encoder_attention_mask_2": rows("prompt_attention_mask_2", dropped=1),
            "added_cond_kwargs": {"text_embeds": rows("pooled_prompt_embeds"), "image_embeds": rows("image_embeds")},
        }

    def _rows_of(self, name: str, embeds: Embeddings, images: slice, dropped: int) -> torch.Tensor | None:
        """One embedding for every row, filled with `dropped` where the row goes without; `None` if all rows do."""
        encoder = next(encoder.name for encoder in ENCODERS.values() if name in encoder.embeddings)
        negative, positive = embeds.get(f"negative_{name}"), embeds[name]
        parts = [negative if row is None else positive if encoder in row else None for row in self.rows]
        like = next((part for part in parts if part is not None), None)
        if like is None:
            return None
        full = [torch.full_like(like, dropped) if part is None else part for part in parts]
        return torch.cat([part[images] for part in full])

    def painted_rows(self) -> tuple[int, list[list[int]] | None]:
        """The arguments `copies` and `readable` of [`~painting.Painting.select`]: D_none is not painted, and the other
        rows where the text stands that they are conditioned on."""
        rows = self.rows[1:] if self.weights else self.rows
        texts = [[encoder for encoder in TEXT_ENCODERS if encoder.name in (row or ())] for row in rows]
        if all(len(text) == len(TEXT_ENCODERS) for text in texts):
            return len(rows), None
        every = range(TEXT_ENCODERS[-1].columns.stop)
        return len(rows), [[column for encoder in text for column in every[encoder.columns]] for text in texts]

    def combine(
        self,
        output: torch.Tensor,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        sigma_data: float,
        rescale: float = 0.0,
    ) -> torch.Tensor:
        """The guided F.

        Args:
            output (`torch.Tensor`): F of all rows, (rows x images, 3, height, width) in the order of `conditions`.
            sample (`torch.Tensor`): The noisy images x, (images, 3, height, width).
            timestep (`torch.Tensor`): Their c_noise, a scalar.
            sigma_data (`float`): Standard deviation of the training images.
            rescale (`float`, defaults to 0.0): phi of Lin et al. (arXiv 2305.08891, section 3.4): how far the standard
                deviation of each guided D is brought back to that of the conditional D. Of several D_k the mean
                counts, weighted by abs(w_k).

        Returns:
            F, (images, 3, height, width).
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
        # Exposure is a matter of the image: F has the noise in it, and at small sigma little else.
        sigma = sigma_from_c_noise(timestep.float())
        denoised, wanted = (denoised_from_model_output(f, sample, sigma, sigma_data) for f in (guided, reference))
        return guided + (rescale_noise_cfg(denoised, wanted, rescale) - denoised) / c_out(sigma, sigma_data)


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

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Conditioning dropout: teaches one network every subset of its conditions (paper, section 4.2 and Table 7)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch


@dataclass(frozen=True)
class DropoutRates:
    """Probability with which each embedding is dropped, independently; the paper's values."""

    clip_text: float = 0.2
    t5: float = 0.25
    clip_image: float = 0.9

    def __post_init__(self) -> None:
        for name, rate in vars(self).items():
            if not 0 <= rate <= 1:
                raise ValueError(f"The dropout rate of {name} is a probability in [0, 1], got {rate}.")


class Kept(NamedTuple):
    """Which samples keep which condition, each a boolean `(batch,)`."""

    clip_text: torch.Tensor
    t5: torch.Tensor
    clip_image: torch.Tensor


def draw_kept(batch_size: int, rates: DropoutRates, generator: torch.Generator) -> Kept:
    """Draws the conditions that survive; before encoding, so that dropped pictures need not be encoded."""
    draws = torch.rand(3, batch_size, generator=generator, device=generator.device)
    return Kept(draws[0] >= rates.clip_text, draws[1] >= rates.t5, draws[2] >= rates.clip_image)


def drop_conditioning(conditioning: dict[str, Any], rates: DropoutRates, generator: torch.Generator) -> dict[str, Any]:
    """Zeroes whole embeddings at random; all three dropped is the unconditional model of classifier-free guidance.

    CLIP's tokens and its pooled embedding are one condition and drop together. A dropped embedding is what the network
    takes an absent one for: zeros in all columns, none of them masked.

    Args:
        conditioning: keyword arguments of `EDiffIUNet.forward`; not changed.
        rates: probabilities of dropping.
        generator: decides which.

    Returns:
        The same dictionary with dropped embeddings replaced by zeros.
    """
    return keep_only(conditioning, draw_kept(_batch_size(conditioning), rates, generator))


def drop_everything(conditioning: dict[str, Any]) -> dict[str, Any]:
    """The unconditional counterpart of `conditioning`."""
    none = torch.zeros(_batch_size(conditioning), dtype=torch.bool)
    return keep_only(conditioning, Kept(none, none, none))


def keep_only(conditioning: dict[str, Any], kept: Kept) -> dict[str, Any]:
    """Zeroes the embeddings of those samples that do not keep them; see `drop_conditioning`."""
    pooled = conditioning.get("added_cond_kwargs") or {}
    return {
        **conditioning,
        "encoder_hidden_states": _where(kept.clip_text, conditioning.get("encoder_hidden_states"), 0),
        "encoder_attention_mask": _where(kept.clip_text, conditioning.get("encoder_attention_mask"), 1),
        "encoder_hidden_states_2": _where(kept.t5, conditioning.get("encoder_hidden_states_2"), 0),
        "encoder_attention_mask_2": _where(kept.t5, conditioning.get("encoder_attention_mask_2"), 1),
        "added_cond_kwargs": {
            **pooled,
            "text_embeds": _where(kept.clip_text, pooled.get("text_embeds"), 0),
            "image_embeds": _where(kept.clip_image, pooled.get("image_embeds"), 0),
        },
    }


def _where(kept: torch.Tensor, tensor: torch.Tensor | None, otherwise: int) -> torch.Tensor | None:
    if tensor is None:
        return None
    # Not a product: 0 times an infinity of a half-precision encoder would be NaN.
    return torch.where(kept.to(tensor.device).view(-1, *(1,) * (tensor.ndim - 1)), tensor, otherwise)


def _batch_size(conditioning: dict[str, Any]) -> int:
    pooled = conditioning.get("added_cond_kwargs") or {}
    for tensor in (*conditioning.values(), *pooled.values()):
        if isinstance(tensor, torch.Tensor):
            return tensor.shape[0]
    raise ValueError("There is no embedding to drop: pass at least one of CLIP text, T5 and CLIP image.")

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Conditioning dropout: teaches one network every subset of its conditions (paper, section 4.2 and Table 7)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch


@dataclass(frozen=True)
class DropoutRates:
    """Probability with which each embedding is dropped, independently; the paper's values.

    Args:
        clip_text (`float`, *optional*, defaults to 0.2): Of CLIP's tokens and pooled embedding together.
        t5 (`float`, *optional*, defaults to 0.25): Of T5's tokens.
        clip_image (`float`, *optional*, defaults to 0.9): Of the CLIP image embedding.
        pooled_text (`float`, *optional*, defaults to 0.0): Of the pooled CLIP text embedding alone, where the tokens
            stay. It has no place in the image: a network that cannot lean on it reads what is where from the tokens,
            which paint-with-words then can lead. Not in the paper.

    Raises:
        ValueError: A rate is not in [0, 1].
    """

    clip_text: float = 0.2
    t5: float = 0.25
    clip_image: float = 0.9
    pooled_text: float = 0.0

    def __post_init__(self) -> None:
        for name, rate in vars(self).items():
            if not 0 <= rate <= 1:
                raise ValueError(f"The dropout rate of {name} is a probability in [0, 1], got {rate}.")


class Kept(NamedTuple):
    """Which samples keep which condition, each a boolean `(batch,)`."""

    clip_text: torch.Tensor
    t5: torch.Tensor
    clip_image: torch.Tensor
    pooled_text: torch.Tensor


def draw_kept(batch_size: int, rates: DropoutRates, generator: torch.Generator) -> Kept:
    """Draws the conditions that survive; before encoding, so that dropped pictures need not be encoded."""
    draws = torch.rand(3, batch_size, generator=generator, device=generator.device)
    clip_text, t5 = draws[0] >= rates.clip_text, draws[1] >= rates.t5
    pooled_text = clip_text
    if rates.pooled_text:
        pooled_text = clip_text & (
            torch.rand(batch_size, generator=generator, device=generator.device) >= rates.pooled_text
        )
    return Kept(clip_text, t5, draws[2] >= rates.clip_image, pooled_text)


def drop_conditioning(conditioning: dict[str, Any], rates: DropoutRates, generator: torch.Generator) -> dict[str, Any]:
    """Zeroes whole embeddings at random; all three dropped is the unconditional model of classifier-free guidance.

    CLIP's tokens and its pooled embedding are one condition and drop together. A dropped embedding is what the network
    takes an absent one for: zeros in all columns, none of them masked.

    Args:
        conditioning (`dict`): Keyword arguments of `EDiffIUNet.forward`; not changed.
        rates ([`DropoutRates`]): Probabilities of dropping.
        generator (`torch.Generator`): Decides which are dropped.

    Returns:
        `dict`: A copy in which dropped embeddings are zeros.

    Raises:
        ValueError: There is no embedding.
    """
    return keep_only(conditioning, draw_kept(_batch_size(conditioning), rates, generator))


def drop_everything(conditioning: dict[str, Any]) -> dict[str, Any]:
    """The unconditional counterpart of `conditioning`."""
    none = torch.zeros(_batch_size(conditioning), dtype=torch.bool)
    return keep_only(conditioning, Kept(none, none, none, none))


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
            "text_embeds": _where(kept.pooled_text, pooled.get("text_embeds"), 0),
            "image_embeds": _where(kept.clip_image, pooled.get("image_embeds"), 0),
        },
    }


def _where(kept: torch.Tensor, tensor: torch.Tensor | None, otherwise: int) -> torch.Tensor | None:
    """The rows of a tensor that are kept, and a constant in the others."""
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

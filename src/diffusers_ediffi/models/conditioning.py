# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""From text and pictures to what the U-Net is conditioned on (section 4.2, appendix A).

`ConditioningFusion` is the part inside the U-Net; the functions around it run the encoders.
"""

from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.utils import logging
from torch import nn

from ..checks import is_number
from ..images import as_pil_images
from ..phrases import quoted
from .encoder_table import CLIP_TEXT_COLUMNS, CLIP_TEXT_TOKENS, T5_COLUMNS, T5_TOKENS

logger = logging.get_logger(__name__)


class ConditioningFusion(nn.Module):
    """Brings all embeddings to one context of 192 columns and one global vector.

    Columns: CLIP text 0-76, T5 77-189, CLIP image 190, a learned null token 191. Columns a caption does not fill are
    masked. An absent embedding is the same as an all-zero one, which is what training saw as "dropped".

    Args:
        cross_attention_dim (`int`): Width of the context.
        encoder_hid_dim (`int`): Width of the CLIP text tokens.
        encoder_hid_dim_2 (`int`): Width of the T5 tokens.
        pooled_projection_dim (`int`): Width of the pooled, projected CLIP text embedding.
        image_embed_dim (`int`): Width of the CLIP image embedding.
        time_embed_dim (`int`): Width of the global vector.
    """

    def __init__(
        self,
        cross_attention_dim: int,
        encoder_hid_dim: int,
        encoder_hid_dim_2: int,
        pooled_projection_dim: int,
        image_embed_dim: int,
        time_embed_dim: int,
    ):
        super().__init__()
        self.text_proj = nn.Linear(encoder_hid_dim, cross_attention_dim)
        self.text_proj_2 = nn.Linear(encoder_hid_dim_2, cross_attention_dim)
        self.image_proj = nn.Linear(image_embed_dim, cross_attention_dim)
        self.null_token = nn.Parameter(torch.randn(cross_attention_dim))
        self.norm = nn.LayerNorm(cross_attention_dim)
        self.pooled_text_proj = nn.Linear(pooled_projection_dim, time_embed_dim)
        self.pooled_image_proj = nn.Linear(image_embed_dim, time_embed_dim)

    def forward(
        self,
        encoder_hidden_states: torch.Tensor | None,
        encoder_hidden_states_2: torch.Tensor | None,
        encoder_attention_mask: torch.Tensor | None,
        encoder_attention_mask_2: torch.Tensor | None,
        text_embeds: torch.Tensor | None,
        image_embeds: torch.Tensor | None,
        batch_size: int,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Returns the context (batch, 192, cross_attention_dim), its boolean mask (batch, 1, 1, 192) or `None` where
        every column counts, and the global vector (batch, time_embed_dim)."""
        text, text_mask = self._columns(
            "encoder_hidden_states", encoder_hidden_states, encoder_attention_mask, self.text_proj, CLIP_TEXT_TOKENS
        )
        t5, t5_mask = self._columns(
            "encoder_hidden_states_2", encoder_hidden_states_2, encoder_attention_mask_2, self.text_proj_2, T5_TOKENS
        )
        pooled_text = self._vector("text_embeds", text_embeds, self.pooled_text_proj)
        image = self._vector("image_embeds", image_embeds, self.pooled_image_proj)
        text, t5, pooled_text, image = (
            x.to(self.null_token.dtype).expand(batch_size, *x.shape[1:]) for x in (text, t5, pooled_text, image)
        )
        null = self.null_token.expand(batch_size, 1, -1)
        columns = [self.text_proj(text), self.text_proj_2(t5), self.image_proj(image)[:, None], null]
        context = self.norm(torch.cat(columns, dim=1))
        pooled = self.pooled_text_proj(pooled_text) + self.pooled_image_proj(image)
        return context, _context_mask(text_mask, t5_mask, context), pooled

    def _columns(
        self, name: str, tokens: torch.Tensor | None, mask: torch.Tensor | None, proj: nn.Linear, length: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pads tokens (batch, n, width) and mask (batch, n) to `length`; absent tokens are zeros without a mask.

        The zeros are like the null token, which is never quantised and is there while `forward` runs, also under
        offloading, where the weights of the layers below are not yet."""
        if tokens is None:
            return self.null_token.new_zeros(1, length, proj.in_features), None
        _check_width(name, tokens, proj.in_features, 3)
        missing = length - tokens.shape[1]
        if missing < 0:
            raise ValueError(
                f"{name} holds {tokens.shape[1]} tokens; at most {length} are possible: truncate the text."
            )
        if mask is None and missing:
            mask = tokens.new_ones(tokens.shape[:2])
        if missing:
            tokens = F.pad(tokens, (0, 0, 0, missing))
        if mask is None:
            return tokens, None
        if mask.ndim != 2 or mask.shape[1] + missing != length:
            raise ValueError(
                f"the attention mask of {name} has shape {tuple(mask.shape)}; expected one entry per token."
            )
        return tokens, F.pad(mask.bool(), (0, missing))

    def _vector(self, name: str, vector: torch.Tensor | None, proj: nn.Linear) -> torch.Tensor:
        if vector is None:
            return self.null_token.new_zeros(1, proj.in_features)
        _check_width(name, vector, proj.in_features, 2)
        return vector


def _context_mask(
    text_mask: torch.Tensor | None, t5_mask: torch.Tensor | None, context: torch.Tensor
) -> torch.Tensor | None:
    """Which columns count, (batch, 1, 1, 192); `None` where all do."""
    if text_mask is None and t5_mask is None:
        return None
    mask = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
    if text_mask is not None:
        mask[:, CLIP_TEXT_COLUMNS] = text_mask
    if t5_mask is not None:
        mask[:, T5_COLUMNS] = t5_mask
    return mask[:, None, None]


def _check_width(name: str, tensor: torch.Tensor, width: int, ndim: int) -> None:
    if tensor.ndim != ndim or tensor.shape[-1] != width:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}, but this U-Net takes {ndim} dimensions and width {width}; "
            "use the encoder that it was trained with."
        )


@torch.no_grad()
def encode_clip_text(
    prompt: Sequence[str], tokenizer: Any, text_encoder: Any, device: torch.device | str | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs the CLIP text tower (section 4.2).

    Args:
        prompt (`list` of `str`): The texts, one for each row of the result.
        tokenizer (`CLIPTokenizer`): Its tokenizer.
        text_encoder (`CLIPTextModelWithProjection`): The tower.
        device (`torch.device` or `str`, *optional*): Where the encoder runs; where it is by default.

    Returns:
        The tokens before pooling (batch, 77, width), all of them counting, and the projected pooled embedding
        (batch, projection width).
    """
    input_ids, _ = _tokenize(prompt, tokenizer, CLIP_TEXT_TOKENS, "CLIP")
    _check_ids(input_ids, text_encoder, "CLIP")
    output = text_encoder(input_ids.to(device or text_encoder.device))
    return output.last_hidden_state, output.text_embeds


@torch.no_grad()
def encode_t5(
    prompt: Sequence[str],
    tokenizer: Any,
    text_encoder: Any,
    device: torch.device | str | None = None,
    tokens: int = T5_TOKENS,
    keep_padding: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs the encoder of T5 (section 4.2).

    Args:
        prompt (`list` of `str`): The texts, one for each row of the result.
        tokenizer (`T5Tokenizer`): Its tokenizer.
        text_encoder (`T5EncoderModel`): The encoder.
        device (`torch.device` or `str`, *optional*): Where the encoder runs; where it is by default.
        tokens (`int`): Columns; longer texts are cut.
        keep_padding (`bool`): Whether the tokens stay as the encoder returns them where the text has ended.

    Returns:
        The tokens (batch, 113, width), zero where the text has ended, and their mask (batch, 113), 1 where a token
        counts.

    Raises:
        ValueError: The encoder returned values that are not finite, as T5 does in float16.
    """
    input_ids, mask = _tokenize(prompt, tokenizer, tokens, "T5")
    _check_ids(input_ids, text_encoder, "T5")
    device = device or text_encoder.device
    mask = mask.to(device)
    states = text_encoder(input_ids.to(device), attention_mask=mask).last_hidden_state
    if not torch.isfinite(states).all():
        raise ValueError(f"T5 overflows in {states.dtype}; load text_encoder_2 in torch.bfloat16 or torch.float32.")
    return states if keep_padding else torch.where(mask[..., None].bool(), states, 0), mask


@torch.no_grad()
def encode_clip_image(
    images: Any, feature_extractor: Any, image_encoder: Any, device: torch.device | str | None = None
) -> torch.Tensor:
    """Runs the CLIP image tower on style references (section 5.3).

    Args:
        images: What [`~images.as_pil_images`] takes.
        feature_extractor (`CLIPImageProcessor`): What prepares its input.
        image_encoder (`CLIPVisionModelWithProjection`): The tower.
        device (`torch.device` or `str`, *optional*): Where the encoder runs; where it is by default.

    Returns:
        The projected embeddings (batch, projection width).
    """
    pixels = feature_extractor(images=as_pil_images(images), return_tensors="pt").pixel_values
    return image_encoder(pixels.to(device or image_encoder.device, image_encoder.dtype)).image_embeds


def text_mask(prompt: Sequence[str], tokenizer: Any, tokens: int) -> torch.Tensor:
    """Where the tokens of texts count, (batch, tokens)."""
    settings = {"padding": "max_length", "max_length": longest(tokenizer, tokens), "truncation": True}
    return tokenizer(list(prompt), return_tensors="pt", **settings).attention_mask


def longest(tokenizer: Any, tokens: int) -> int:
    """How many tokens a text has at most: those of an encoder, or fewer where its tokenizer is for fewer.

    Raises:
        ValueError: The tokenizer's file says no number.
    """
    length = tokenizer.model_max_length
    if not is_number(length, Real) or not length >= 1:
        raise ValueError(f"model_max_length={length!r} of the tokenizer must be a number of tokens, at least 1.")
    return int(min(length, tokens))


def _tokenize(prompt: Sequence[str], tokenizer: Any, tokens: int, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ids and mask (batch, tokens); warns with the words that do not fit."""
    prompt = list(prompt)
    length = longest(tokenizer, tokens)
    _warn_of_lost_words(prompt, tokenizer, length, name)
    # Padding to the full length gives every prompt the same columns, so that a batch equals its single images.
    batch = tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return batch.input_ids, batch.attention_mask


def _check_ids(input_ids: torch.Tensor, text_encoder: Any, name: str) -> None:
    """A tokenizer and an encoder of different models: on a GPU it would be an error that ends the process."""
    known, highest = text_encoder.config.vocab_size, int(input_ids.max())
    if highest >= known:
        raise ValueError(
            f"the tokenizer of {name} gives the token {highest}, and its encoder knows {known} tokens: load both from "
            "the same model."
        )


def _warn_of_lost_words(prompt: list[str], tokenizer: Any, length: int, name: str) -> None:
    all_ids = tokenizer(prompt, verbose=False).input_ids
    for text, ids in dict(zip(prompt, all_ids, strict=True)).items():  # a text that is repeated warns once
        if len(ids) > length:
            # The last kept position goes to the end-of-text token.
            lost = tokenizer.decode(ids[length - 1 :], skip_special_tokens=True).strip()
            logger.warning(
                f"{name} reads at most {length} tokens; it does not see the end of {quoted(text)}: {quoted(lost)}."
            )

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""From text and pictures to what the U-Net is conditioned on (section 4.2, appendix A).

`ConditioningFusion` is the part inside the U-Net; the functions around it run the encoders.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers.utils import logging, numpy_to_pil
from torch import nn
from transformers import CLIPImageProcessorPil

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
        like = self.null_token
        text, text_mask = _columns(
            "encoder_hidden_states", encoder_hidden_states, encoder_attention_mask, self.text_proj, CLIP_TEXT_TOKENS
        )
        t5, t5_mask = _columns(
            "encoder_hidden_states_2", encoder_hidden_states_2, encoder_attention_mask_2, self.text_proj_2, T5_TOKENS
        )
        pooled_text = _vector("text_embeds", text_embeds, self.pooled_text_proj)
        image = _vector("image_embeds", image_embeds, self.pooled_image_proj)
        text, t5, pooled_text, image = (
            x.to(like.dtype).expand(batch_size, *x.shape[1:]) for x in (text, t5, pooled_text, image)
        )
        context = torch.cat(
            [
                self.text_proj(text),
                self.text_proj_2(t5),
                self.image_proj(image)[:, None],
                like.expand(batch_size, 1, -1),
            ],
            dim=1,
        )
        mask = None
        if text_mask is not None or t5_mask is not None:
            mask = torch.ones(batch_size, context.shape[1], dtype=torch.bool, device=context.device)
            if text_mask is not None:
                mask[:, CLIP_TEXT_COLUMNS] = text_mask
            if t5_mask is not None:
                mask[:, T5_COLUMNS] = t5_mask
            mask = mask[:, None, None]
        return self.norm(context), mask, self.pooled_text_proj(pooled_text) + self.pooled_image_proj(image)


def _columns(
    name: str, tokens: torch.Tensor | None, mask: torch.Tensor | None, proj: nn.Linear, length: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Pads tokens (batch, n, width) and mask (batch, n) to `length`; absent tokens are zeros without a mask."""
    if tokens is None:
        return proj.weight.new_zeros(1, length, proj.in_features), None
    _check_width(name, tokens, proj.in_features, 3)
    missing = length - tokens.shape[1]
    if missing < 0:
        raise ValueError(f"{name} holds {tokens.shape[1]} tokens; at most {length} are possible: truncate the text.")
    if mask is None and missing:
        mask = tokens.new_ones(tokens.shape[:2])
    if missing:
        tokens = nn.functional.pad(tokens, (0, 0, 0, missing))
    if mask is None:
        return tokens, None
    if mask.ndim != 2 or mask.shape[1] + missing != length:
        raise ValueError(f"the attention mask of {name} has shape {tuple(mask.shape)}; expected one entry per token.")
    return tokens, nn.functional.pad(mask.bool(), (0, missing))


def _vector(name: str, vector: torch.Tensor | None, proj: nn.Linear) -> torch.Tensor:
    if vector is None:
        return proj.weight.new_zeros(1, proj.in_features)
    _check_width(name, vector, proj.in_features, 2)
    return vector


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
        prompt: The texts, one for each row of the result.
        tokenizer: `CLIPTokenizer`.
        text_encoder: `CLIPTextModelWithProjection`.
        device: Where the encoder runs; its own device by default.

    Returns:
        The tokens before pooling (batch, 77, width), all of them counting, and the projected pooled embedding
        (batch, projection width).
    """
    input_ids, _ = _tokenize(prompt, tokenizer, CLIP_TEXT_TOKENS, "CLIP")
    output = text_encoder(input_ids.to(device or text_encoder.device))
    return output.last_hidden_state, output.text_embeds


@torch.no_grad()
def encode_t5(
    prompt: Sequence[str], tokenizer: Any, text_encoder: Any, device: torch.device | str | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs the encoder of T5 (section 4.2).

    Args:
        prompt: The texts, one for each row of the result.
        tokenizer: `T5Tokenizer`.
        text_encoder: `T5EncoderModel`.
        device: Where the encoder runs; its own device by default.

    Returns:
        The tokens (batch, 113, width), zero where the text has ended, and their mask (batch, 113), 1 where a token
        counts.

    Raises:
        ValueError: The encoder returned values that are not finite, as T5 does in float16.
    """
    input_ids, mask = _tokenize(prompt, tokenizer, T5_TOKENS, "T5")
    device = device or text_encoder.device
    mask = mask.to(device)
    tokens = text_encoder(input_ids.to(device), attention_mask=mask).last_hidden_state
    if not torch.isfinite(tokens).all():
        raise ValueError(f"T5 overflows in {tokens.dtype}; load text_encoder_2 in torch.bfloat16 or torch.float32.")
    return torch.where(mask[..., None].bool(), tokens, 0), mask


@torch.no_grad()
def encode_clip_image(
    images: Any, feature_extractor: Any, image_encoder: Any, device: torch.device | str | None = None
) -> torch.Tensor:
    """Runs the CLIP image tower on style references (section 5.3).

    Args:
        images: What [`as_pil_images`] takes.
        feature_extractor: `CLIPImageProcessor`.
        image_encoder: `CLIPVisionModelWithProjection`.
        device: Where the encoder runs; its own device by default.

    Returns:
        The projected embeddings (batch, projection width).
    """
    pixels = feature_extractor(images=as_pil_images(images), return_tensors="pt").pixel_values
    return image_encoder(pixels.to(device or image_encoder.device, image_encoder.dtype)).image_embeds


def clip_pixels(images: list[PIL.Image.Image], size: int) -> torch.Tensor:
    """Square RGB images as OpenAI's CLIP takes them: float32 (batch, 3, size, size).

    The pipeline's feature extractor is made for the pipeline's image encoder; another CLIP may need another size.
    """
    squares = {"height": size, "width": size}
    return CLIPImageProcessorPil(size=squares, crop_size=squares)(images, return_tensors="pt").pixel_values


def as_pil_images(images: Any) -> list[PIL.Image.Image]:
    """Turns a PIL image, an array (height, width, 3), a tensor (3, height, width), a batch of these or a list of them
    into a list of RGB images. Floats lie in [0, 1], integers in [0, 255].

    Raises:
        ValueError: Something else was given.
    """
    if isinstance(images, list | tuple):
        return [pil for image in images for pil in as_pil_images(image)]
    if isinstance(images, PIL.Image.Image):
        return [images.convert("RGB")]
    array = images
    if isinstance(array, torch.Tensor) and array.ndim in (3, 4):
        array = array.detach().cpu().movedim(-3, -1)
        array = (array.float() if array.is_floating_point() else array).numpy()
    if not isinstance(array, np.ndarray) or array.ndim not in (3, 4) or array.shape[-1] != 3:
        got = f"shape {tuple(images.shape)}" if hasattr(images, "shape") else repr(images)
        raise ValueError(
            f"an image must be a PIL image, an array (height, width, 3) or a tensor (3, height, width), got {got}; "
            "read files and addresses with diffusers.utils.load_image."
        )
    floats = np.issubdtype(array.dtype, np.floating)
    if not array.size or not np.isfinite(array).all() or array.min() < 0 or array.max() > (1 if floats else 255):
        raise ValueError("the pixels of an image must lie in [0, 1] as floats or in [0, 255] as integers.")
    return numpy_to_pil(array if floats else array.astype(np.float32) / 255)


def _tokenize(prompt: Sequence[str], tokenizer: Any, tokens: int, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ids and mask (batch, tokens); warns with the words that do not fit."""
    prompt = list(prompt)
    length = min(tokenizer.model_max_length, tokens)
    all_ids = tokenizer(prompt, verbose=False).input_ids
    for text, ids in dict(zip(prompt, all_ids, strict=True)).items():  # a text that is repeated warns once
        if len(ids) > length:
            # The last kept position goes to the end-of-text token.
            lost = tokenizer.decode(ids[length - 1 :], skip_special_tokens=True).strip()
            logger.warning(f"{name} reads at most {length} tokens; it does not see the end of {text!r}: {lost!r}.")
    # Padding to the full length gives every prompt the same columns, so that a batch equals its single images.
    batch = tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return batch.input_ids, batch.attention_mask

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Style references (section 5.3): pictures in all their forms, read from files, and several of them mixed into one."""

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.utils import logging
from PIL import Image

from ..checks import is_finite
from ..images import as_pil_images, read_image
from ..models.conditioning import encode_clip_image

logger = logging.get_logger(__name__)

HIGHEST_SCALE = 2.0
References = list[list[Image.Image]]  # for each row of the batch one picture, or several that are mixed


def read_style(style_image: Any, style_scale: Any, image_embeds: Any) -> tuple[References | None, torch.Tensor | None]:
    """The style of a call: its references, read, or its CLIP image embedding; both are `None` without a style.

    Raises:
        ValueError: The arguments of this name are wrong, or a picture cannot be read.
    """
    if not is_finite(style_scale) or style_scale < 0:
        raise ValueError(f"style_scale={style_scale!r} must be a number of at least 0; 1 is usual, 0 is no style.")
    if style_scale > HIGHEST_SCALE:
        logger.warning(
            f"style_scale={style_scale:g}: networks know 1, and above {HIGHEST_SCALE:g} pictures fall apart."
        )
    if style_image is None:
        return None, image_embeds
    if image_embeds is not None:
        raise ValueError("pass either style_image or image_embeds, not both.")
    if isinstance(style_image, torch.Tensor) and style_image.ndim == 2:
        return None, style_image
    return read_references(style_image), None


def read_references(style_image: Any) -> References:
    """Turns whatever may be a style reference into RGB pictures.

    Args:
        style_image: What [`as_pil_images`] takes, a path or an http(s) address; or a list of these, one for each
            prompt. A list inside of this list holds several references for one prompt.

    Raises:
        ValueError: A picture cannot be read, or a list is empty.
    """
    entries = style_image if isinstance(style_image, list | tuple) else [style_image]
    rows = [row for entry in entries for row in _rows_of(entry)]
    if not all(rows):
        raise ValueError("style_image holds an empty list; give at least one reference for each prompt.")
    return rows


def _rows_of(entry: Any) -> References:
    """A list is one row with several references; everything else has a row for each picture in it."""
    if isinstance(entry, list | tuple):
        return [[image for reference in entry for image in _read(reference)]]
    return [[image] for image in _read(entry)]


def _read(image: Any) -> list[Image.Image]:
    return [read_image(image)] if isinstance(image, str | os.PathLike) else as_pil_images(image)


def encode_references(
    references: References, feature_extractor: Any, image_encoder: Any, device: torch.device | str | None = None
) -> torch.Tensor:
    """Embeds the references of each row by [`encode_clip_image`] and mixes them equally: (rows, width)."""
    images = [image for row in references for image in row]
    embeds = encode_clip_image(images, feature_extractor, image_encoder, device)
    return torch.cat([mix_embeds(of_row) for of_row in embeds.split([len(row) for row in references])])


def read_mix(images: Any, weights: Any) -> References:
    """The references of [`EDiffIPipeline.encode_style`], one in each row, refused where weights do not fit."""
    references = [[image] for row in read_references(images) for image in row]
    if not references:
        raise ValueError(f"images={images!r} holds no reference; give at least one.")
    if weights is None:
        return references
    values = list(weights) if isinstance(weights, list | tuple) else []
    if not all(is_finite(weight) and weight >= 0 for weight in values) or not 0 < sum(values) < math.inf:
        raise ValueError(f"weights={weights!r} must be a list of numbers of at least 0, not all of them 0.")
    if len(values) != len(references):
        raise ValueError(f"weights lists {len(values)} numbers for {len(references)} references; pass one for each.")
    return references


def mix_embeds(embeds: torch.Tensor, weights: Sequence[float] | None = None) -> torch.Tensor:
    """Mixes embeddings (references, width) into one (1, width), by default equally; weights need not sum to 1."""
    if len(embeds) == 1:
        return embeds
    share = embeds.new_tensor([1.0] * len(embeds) if weights is None else weights, dtype=torch.float32)
    share = share / share.sum()
    mean = share @ embeds.float()
    # Embeddings point in different directions, so that their mean is shorter than they are, and the networks, which
    # know embeddings of full length only, read a short one as a weak style.
    length = share @ embeds.float().norm(dim=1)
    return (mean * (length / mean.norm().clamp(min=torch.finfo(torch.float32).tiny)))[None].to(embeds.dtype)

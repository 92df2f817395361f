# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Masks as text of a bounded length, so that a picture's file says how it was painted."""

import base64
import io

import numpy as np
import torch
from PIL import Image

from .masks import resize_mask

PREFIX = "data:image/png;base64,"  # as in scene files
MAX_SIDE = 1024  # no picture that is drawn has more pixels
MIN_SIDE = 8
MIN_TEXT = 100  # no PNG has fewer characters, so that of too many masks none is tried
MAX_TEXT = 2**15  # characters of all masks of a picture; a JPEG holds 65,502 bytes of provenance


def mask_as_text(mask: torch.Tensor, limit: int = MAX_TEXT) -> str | None:
    """A mask as an address that holds a PNG, which is made smaller until the address is short enough.

    Args:
        mask (`torch.Tensor`): float32 (height, width) in [0, 1]; 256 levels of it are kept.
        limit (`int`, *optional*): The most characters.

    Returns:
        `str`, or `None` where no picture of it is short enough, or 256 levels are too few for what is inside.
    """
    longest = max(mask.shape)
    side = min(longest, MAX_SIDE)
    while limit >= MIN_TEXT and side >= min(MIN_SIDE, longest):
        height, width = (max(1, round(length * side / longest)) for length in mask.shape)
        pixels = np.rint(resize_mask(mask, height, width).numpy() * 255).astype(np.uint8)
        text = PREFIX + base64.b64encode(_png(pixels)).decode()
        if len(text) <= limit:
            return text if pixels.any() else None
        side //= 2
    return None


def _png(pixels: np.ndarray) -> bytes:
    """Bytes (height, width) as a PNG, of one bit where nothing is in between."""
    image = Image.fromarray(pixels)
    if np.isin(pixels, (0, 255)).all():
        image = image.convert("1", dither=Image.Dither.NONE)
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()

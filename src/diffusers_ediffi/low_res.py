# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The one way in which a low-resolution image becomes the input of a super-resolution network."""

import torch
import torch.nn.functional as F


def upsample_low_res(image: torch.Tensor, size: int | tuple[int, int]) -> torch.Tensor:
    """Enlarges an image to the size of the stage that refines it (training and pipeline must agree on how).

    Args:
        image: `(batch, 3, height, width)` in [-1, 1].
        size: the new height and width, or one number for both.

    Returns:
        `(batch, 3, *size)`, bicubic, clamped to [-1, 1], in the image's dtype.
    """
    size = (size, size) if isinstance(size, int) else size
    # float32, since bicubic overshoot in half precision shows as banding; contiguous copies keep channels_last.
    upsampled = F.interpolate(image.float(), size=size, mode="bicubic", align_corners=False)
    return upsampled.clamp(-1, 1).to(image.dtype)

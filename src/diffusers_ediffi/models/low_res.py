# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""How a low-resolution image becomes the input of a super-resolution network; training and pipeline agree on it."""

from typing import Any

import torch
import torch.nn.functional as F

from ..edm import expand_as

# What super-resolution models have learned with: the demo's with bicubic, Karlo's with antialiasing besides, which has
# another kernel, ADM's and DeepFloyd IF's (aligned) with bilinear.
FILTERS: dict[str, dict[str, Any]] = {
    "bicubic": {"mode": "bicubic", "align_corners": False},
    "bicubic_antialias": {"mode": "bicubic", "align_corners": False, "antialias": True},
    "bilinear": {"mode": "bilinear", "align_corners": False},
    "bilinear_align_corners": {"mode": "bilinear", "align_corners": True},
}


def upsample_low_res(image: torch.Tensor, size: int | tuple[int, int], filter: str = "bicubic") -> torch.Tensor:
    """Enlarges an image to the size of the stage that refines it.

    Args:
        image (`torch.Tensor`): `(batch, 3, height, width)` in [-1, 1].
        size (`int` or `tuple`): The new height and width, or one number for both.
        filter (`str`): One of `FILTERS`.

    Returns:
        `(batch, 3, *size)`, in the image's dtype; `bicubic` is clamped to [-1, 1].
    """
    size = (size, size) if isinstance(size, int) else size
    # float32, since bicubic overshoot in half precision shows as banding; contiguous copies keep channels_last.
    upsampled = F.interpolate(image.float(), size=size, **FILTERS[filter])
    # Karlo's networks have learned with the overshoot.
    return (upsampled.clamp(-1, 1) if filter == "bicubic" else upsampled).to(image.dtype)


def augment_low_res(low_res: torch.Tensor, noise: torch.Tensor, noise_level: float | torch.Tensor) -> torch.Tensor:
    """Noise conditioning augmentation (Cascaded Diffusion Models, arXiv 2106.15282; Imagen, arXiv 2205.11487).

    A network that has learned with it takes less on trust what the stage before it drew, and repairs more of it. The
    super-resolution models of DeepFloyd IF and Stable Diffusion x4 are told a timestep t instead and see
    sqrt(alpha_bar_t) times this image, where noise_level = sqrt((1 - alpha_bar_t) / alpha_bar_t).

    Args:
        low_res (`torch.Tensor`): The enlarged image, `(batch, 3, height, width)` in [-1, 1].
        noise (`torch.Tensor`): Standard normal, of the same shape.
        noise_level (`float` or `torch.Tensor`): Standard deviation of the noise that is added, one number or
            `(batch,)`.

    Returns:
        `low_res + noise_level * noise`, not clamped.
    """
    return low_res + expand_as(noise_level, low_res).to(low_res) * noise

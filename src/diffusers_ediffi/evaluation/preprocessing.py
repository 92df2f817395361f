# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""From a picture to the pixels that a feature network takes: figures change with the filter, so that there is one way.

The largest square in the middle is resized by Pillow channel by channel in float32, without rounding, as clean-fid
does (Parmar et al. 2022, arXiv 2104.11222). Pillow's filters widen with the factor, so that nothing aliases.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from ..images import as_rgb

FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}


def check_filter(name: str) -> None:
    """Refuses a filter that is not known.

    Raises:
        ValueError: It is none of `FILTERS`.
    """
    if name not in FILTERS:
        raise ValueError(f"There is no resize filter {name!r}; choose from {', '.join(FILTERS)}.")


def square_pixels(images: Sequence[Image.Image], size: int, resize: str) -> torch.Tensor:
    """Pictures as a network takes them, before it is told their mean.

    Args:
        images (`list` of `PIL.Image.Image`): Pictures of any size and mode.
        size (`int`): Height and width in pixels.
        resize (`str`): A filter of `FILTERS`.

    Returns:
        float32 `(batch, 3, size, size)`, about 0 to 255; bicubic and Lanczos overshoot.
    """
    return torch.from_numpy(np.stack([_resized(_middle(as_rgb(image)), size, FILTERS[resize]) for image in images]))


def _middle(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _resized(image: Image.Image, size: int, resample: Image.Resampling) -> np.ndarray:
    channels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1)
    if image.size == (size, size):
        return channels
    planes = (Image.fromarray(np.ascontiguousarray(channel)) for channel in channels)
    return np.stack([np.asarray(plane.resize((size, size), resample)) for plane in planes])

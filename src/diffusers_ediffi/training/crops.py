# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Pictures of any size in the size of a network, and as the CLIP image encoder sees them. Imports nothing of this
package."""

import numpy as np
import torch
from PIL import Image


def picture_to_tensor(picture: Image.Image) -> torch.Tensor:
    """RGB -> uint8 `(3, height, width)`."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def resized_crop(picture: Image.Image, height: int, width: int, place: float = 0.5) -> Image.Image:
    """The largest part of a picture that has a ratio of sides, in this size.

    It is what resizing until the picture just covers the size, and then cropping, gives.

    Args:
        picture (`PIL.Image.Image`): RGB.
        height (`int`), width (`int`): The size in pixels.
        place (`float`, *optional*, defaults to 0.5): Where the part lies: 0 at the left or upper end, 1 at the other.
    """
    scale = max(height / picture.height, width / picture.width)
    part_width, part_height = width / scale, height / scale
    left, top = (picture.width - part_width) * place, (picture.height - part_height) * place
    # Rounding must not lead out of the picture.
    box = (
        max(left, 0.0),
        max(top, 0.0),
        min(left + part_width, picture.width),
        min(top + part_height, picture.height),
    )
    return picture.resize((width, height), Image.Resampling.LANCZOS, box)


def clip_view(picture: Image.Image, size: int) -> torch.Tensor:
    """What the CLIP image encoder sees of a picture: the square in its middle, uint8 `(3, size, size)`."""
    return picture_to_tensor(resized_crop(picture, size, size))

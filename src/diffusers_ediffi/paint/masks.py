# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Masks: pictures, arrays, tensors and boxes that say where something is, read, checked and brought to a size."""

import base64
import io
import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..checks import is_finite, is_number
from ..images import as_rgba, upright

MAX_PIXELS = 2**26  # of a mask or of all masks of a scene, 8192 x 8192: what is larger is a mistake or an attack
BAND = 256  # rows that are read at a time
ASPECT_TOLERANCE = 0.02  # masks in whole pixels of another size cannot keep the aspect ratio exactly

DATA = "data:image/"  # how a picture begins that is written as an address
SIDES = (1024, 512, 256, 128, 64, 32)  # of masks in a picture's provenance, the longer side
MAX_ADDRESS_CHARACTERS = 24_000  # of all of them together: a JPEG holds less than 64 KiB
MIN_ADDRESS_CHARACTERS = 100  # no picture has an address that is shorter, so that none is tried

Box = tuple[float, float, float, float]


def is_box(mask: Any) -> bool:
    """Whether a mask is four numbers, which then are the edges of a box."""
    return isinstance(mask, list | tuple) and len(mask) == 4 and all(is_number(edge, Real) for edge in mask)


def as_box(mask: Any) -> Box:
    """Four numbers as a box (left, top, right, bottom).

    Raises:
        ValueError: They are not the edges of a box; the message goes on after "the mask ...".
    """
    left, top, right, bottom = (float(edge) if is_finite(edge) else math.nan for edge in mask)
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(f"is the box {tuple(mask)}; give (left, top, right, bottom) in [0, 1], with area inside.")
    return left, top, right, bottom


def as_mask(mask: Any) -> torch.Tensor:
    """Any mask but a box as a float32 tensor (height, width) in [0, 1].

    Raises:
        ValueError: It is not a mask; the message goes on after "the mask ...".
    """
    plane = _as_plane(_as_tensor(mask))
    check_pixels(plane.shape)
    is_float, values = plane.is_floating_point(), plane.cpu().float()
    if is_float and not values.isfinite().all():
        raise ValueError("holds NaN or infinity.")
    low, high = values.min().item(), values.max().item()
    if low < 0 or high > (1 if is_float else 255):
        limits = "[0, 1]" if is_float else "[0, 255]"
        raise ValueError(f"has values from {low:g} to {high:g}; they must lie in {limits} as {plane.dtype}.")
    if high == 0:
        raise ValueError("is zero everywhere; paint white what it is for, or leave it out.")
    return values.div_(255) if not is_float and high > 1 else values  # of whole numbers `values` is a copy


def _as_tensor(mask: Any) -> torch.Tensor:
    """A picture, a list of rows, an array or a tensor as a tensor."""
    if isinstance(mask, Image.Image):
        check_pixels((mask.height, mask.width))
        return torch.from_numpy(_luminance(mask))
    if isinstance(mask, list | tuple):
        if all(is_number(edge, Real) for edge in mask):
            raise ValueError(f"has {len(mask)} numbers; a box has four: (left, top, right, bottom).")
        try:
            mask = np.array(mask)
        except ValueError:
            raise ValueError("is a ragged list; all rows must have the same length.") from None
    if isinstance(mask, np.ndarray):
        if mask.dtype.kind not in "biuf":
            raise ValueError(f"has the dtype {mask.dtype}; give numbers or booleans.")
        mask = torch.from_numpy(np.array(mask, mask.dtype.newbyteorder("=")))  # a copy: the array may be read-only
    if not isinstance(mask, torch.Tensor):
        raise ValueError(f"is of type {type(mask).__name__}; give an image, an array, a tensor or a box.")
    if mask.is_complex():
        raise ValueError(f"has the dtype {mask.dtype}; give numbers or booleans.")
    return mask


def _as_plane(mask: torch.Tensor) -> torch.Tensor:
    """(height, width) of a mask that may have the shape (1, height, width) or (height, width, 1) as well."""
    plane = mask.detach()
    while plane.ndim > 2 and plane.shape[0] == 1:
        plane = plane[0]
    plane = plane[..., 0] if plane.ndim == 3 and plane.shape[-1] == 1 else plane
    if plane.ndim != 2 or not plane.numel():
        raise ValueError(f"has the shape {tuple(mask.shape)}; give (height, width).")
    return plane


def resize_mask(mask: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Brings a mask (rows, columns) in [0, 1] to (height, width), bilinearly with antialiasing."""
    if mask.shape == (height, width):
        return mask
    # Pillow antialiases; PyTorch 2.13's `interpolate(antialias=True)` loses pixels where a grid is one cell wide.
    image = Image.fromarray(mask.numpy()).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).clamp(0, 1)


def same_aspect(size: Sequence[int], other: Sequence[int]) -> bool:
    """Whether a picture of one (height, width) covers the other without being stretched."""
    stretch = (size[1] * other[0]) / (size[0] * other[1])
    return 1 - ASPECT_TOLERANCE <= stretch <= 1 / (1 - ASPECT_TOLERANCE)


def check_pixels(*shapes: Sequence[int], name: str = "", most: int = MAX_PIXELS) -> None:
    """Refuses what is too large, each by itself or all together; a shape begins with height and width."""
    pixels = sum(height * width for height, width, *_ in shapes)
    if pixels > most:
        height, width = max(shapes, key=lambda shape: shape[0] * shape[1])[:2]
        count = (
            f"{width} x {height} pixels" if len(shapes) == 1 else f"{pixels} pixels, {width} x {height} the largest"
        )
        raise ValueError(f"{name}has {count}; more than {most} are refused: make it smaller.")


def _luminance(image: Image.Image) -> np.ndarray:
    """How white and opaque each pixel is."""
    try:
        image = upright(image)
        if image.mode.startswith("I;16"):
            return np.asarray(image).astype(np.float32) / 65535
        if image.mode in ("I", "F") or (image.mode in ("1", "L") and not image.has_transparency_data):
            return np.array(image)
        return _opaque_luminance(image)
    except Exception as error:  # a file that Pillow has opened is decoded only now
        raise ValueError(f"cannot be read: {str(error) or type(error).__name__}") from None


def _opaque_luminance(image: Image.Image) -> np.ndarray:
    """The luminance times the alpha of a picture with colours, float32 in [0, 1]."""
    luminance = np.empty((image.height, image.width), dtype=np.float32)
    for top in range(0, image.height, BAND):  # so that a large one needs no copies of its size
        rows = luminance[top : top + BAND]
        rgba = as_rgba(image.crop((0, top, image.width, top + len(rows))))
        rows[:] = np.asarray(rgba.convert("L"), dtype=np.float32) * np.asarray(rgba.getchannel("A")) / 255**2
    return luminance


def mask_address(mask: torch.Tensor) -> str:
    """A mask (height, width) in [0, 1] as a data address: a PNG of 8 bits, or of 1 where nothing is in between."""
    pixels = (mask * 255).round().to(torch.uint8)
    image = Image.fromarray(pixels.numpy())
    if ((pixels == 0) | (pixels == 255)).all():
        image = image.convert("1", dither=Image.Dither.NONE)
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"{DATA}png;base64,{base64.b64encode(file.getvalue()).decode()}"


def small_mask_address(mask: torch.Tensor, characters: int) -> str | None:
    """The same of a mask that is made smaller where it must be, in no more than so many characters; `None` where that
    is too few, or 256 levels are too few for what is inside."""
    for side in SIDES if characters >= MIN_ADDRESS_CHARACTERS else ():
        scale = min(1.0, side / max(mask.shape))
        height, width = (max(1, round(scale * size)) for size in mask.shape)
        small = resize_mask(mask, height, width)
        address = mask_address(small)
        if len(address) <= characters:
            return address if small.max() >= 0.5 / 255 else None
    return None


def box_coverage(box: Box, height: int, width: int) -> torch.Tensor:
    """The share of every cell of a grid that a box covers, float32 (height, width)."""
    left, top, right, bottom = box
    return _overlap(top, bottom, height)[:, None] * _overlap(left, right, width)


def _overlap(low: float, high: float, cells: int) -> torch.Tensor:
    """The share of each of some equal cells of [0, 1] that [low, high] covers."""
    edges = torch.arange(cells + 1, dtype=torch.float64)
    return (edges[1:].clamp(max=high * cells) - edges[:-1].clamp(min=low * cells)).clamp(min=0).float()

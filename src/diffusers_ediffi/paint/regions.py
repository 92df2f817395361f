# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Regions (section 4.4): phrases of a prompt with masks that say where they are to be seen."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from numbers import Integral
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging
from PIL import Image, ImageColor

from ..checks import MAX_SEED, is_finite, is_number
from ..images import as_rgba, upright
from .masks import (
    MAX_ADDRESS_CHARACTERS,
    MAX_PIXELS,
    as_box,
    as_mask,
    box_coverage,
    is_box,
    resize_mask,
    same_aspect,
    small_mask_address,
)

logger = logging.get_logger(__name__)

WHITE = 0xFFFFFF
CHUNK = 2**16  # colours of a canvas that are compared at a time
NOT_KEPT = "picture"  # what settings say of a mask that they cannot hold
STRAY_SHARE = 1e-3  # share of a canvas below which a colour passes for the smoothed edge of a stroke


@dataclass(frozen=True, eq=False)
class PaintRegion:
    """A phrase of the prompt and where it is to be seen.

        >>> PaintRegion("a red apple", (0.0, 0.3, 0.5, 1.0))  # a box
        >>> PaintRegion("rocket", PIL.Image.open("rocket_mask.png"), weight=1.5, seed=7)

    Args:
        phrase (`str`): Words of the prompt; case does not count.
        mask: A PIL image (white is inside), an array or tensor (height, width) in [0, 1] as floats or booleans or in
            [0, 255] as integers (0 and 1 alone count as booleans), or a box (left, top, right, bottom) in [0, 1].
            Whatever is in between is a soft edge. It may have any size. Afterwards `mask` is a float32 tensor
            (height, width) in [0, 1], or a box.
        weight (`float`): Factor on the strength for this region; 0 switches it off.
        occurrence (`int`, *optional*): Which occurrence of the phrase is meant, counted from 0, where the prompt has
            it more than once ("a cat and a cat"); all by default.
        seed (`int`, *optional*): Draws the starting noise of the region from this seed, so that it looks the same
            while the rest changes.

    Raises:
        ValueError: An argument is none of these, or nothing of the mask is inside.
    """

    phrase: str
    mask: Any
    weight: float = 1.0
    occurrence: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.phrase, str) or not self.phrase.strip():
            raise ValueError(f"the phrase {self.phrase!r} of a region must be words of the prompt.")
        if not is_finite(self.weight) or self.weight < 0:
            raise ValueError(f"weight={self.weight!r} of {self.phrase!r} must be a number of at least 0; 1 is usual.")
        for name, limit in (("occurrence", math.inf), ("seed", MAX_SEED)):
            value = getattr(self, name)
            if value is not None and not (is_number(value, Integral) and 0 <= value <= limit):
                raise ValueError(f"{name}={value!r} of {self.phrase!r} must be a whole number of at least 0, or None.")
        try:
            mask = as_box(self.mask) if is_box(self.mask) else as_mask(self.mask)
        except ValueError as error:
            raise ValueError(f"the mask of {self.phrase!r} {error}") from None
        object.__setattr__(self, "mask", mask)

    def coverage(self, height: int, width: int) -> torch.Tensor:
        """The share of every cell of a grid that the mask covers: float32 (height, width) in [0, 1].

        Masks are resized bilinearly with antialiasing, so that no stroke is too thin for a coarse grid.
        """
        if isinstance(self.mask, tuple):
            return box_coverage(self.mask, height, width)
        return resize_mask(self.mask, height, width)

    def check_aspect(self, height: int, width: int) -> None:
        """Warns if the mask must be stretched to cover an image of this size in pixels."""
        if isinstance(self.mask, tuple):
            return
        rows, columns = self.mask.shape
        if not same_aspect((rows, columns), (height, width)):
            logger.warning(
                f"the mask of {self.phrase!r} is {columns} x {rows} (width x height) and is stretched to an image of "
                f"{width} x {height}."
            )


def regions_from_color_map(image: Any, legend: Mapping[Any, Any], tolerance: float = 48.0) -> list[PaintRegion]:
    """Reads the regions of a painted canvas.

        >>> regions_from_color_map(PIL.Image.open("canvas.png"), {"red": "red apple", "#0000ff": "rocket"})

    White and transparent pixels are unpainted. Every other pixel takes the nearest colour of the legend.

    Args:
        image: A PIL image, or an array (height, width, 3 or 4) of bytes.
        legend (`dict`): Phrases by their colours, which are names, "#rrggbb" or (r, g, b). Instead of a phrase there
            may be a `dict` with arguments of [`PaintRegion`] but the mask: `{"phrase": "rocket", "weight": 1.5}`.
        tolerance (`float`): Distance in RGB up to which a pixel passes for a colour. Colours farther from all of the
            legend are refused, unless they are as rare as the smoothed edge of a stroke.

    Raises:
        ValueError: The canvas has a colour that is not in the legend, or lacks a colour that is.
    """
    colors = _legend_colors(legend)
    if not is_finite(tolerance) or tolerance < 0:
        raise ValueError(f"tolerance={tolerance!r} must be a distance in RGB of at least 0; 48 is usual.")
    numbers = _color_numbers(_canvas(image, len(colors)), colors, tolerance)
    return [_legend_region(*item, numbers == number) for number, item in enumerate(legend.items())]


def _legend_colors(legend: Mapping[Any, Any]) -> np.ndarray:
    """The colours of a legend, int32 (colours, 3)."""
    if not isinstance(legend, Mapping) or not legend:
        raise ValueError(f"the legend {legend!r} must map colours to phrases, such as {{'red': 'a red apple'}}.")
    colors = np.array([_rgb(color) for color in legend], dtype=np.int32)
    if len({tuple(color) for color in colors.tolist()}) < len(colors):
        raise ValueError(f"the legend names a colour twice: {list(legend)}.")
    return colors


def _color_numbers(canvas: np.ndarray, legend: np.ndarray, tolerance: float) -> np.ndarray:
    """Which colour of a legend each pixel of a canvas has, counted from 0; len(legend) where it is unpainted."""
    codes = canvas[..., 0].astype(np.int32) << 16 | canvas[..., 1].astype(np.int32) << 8 | canvas[..., 2]
    codes[canvas[..., 3] < 128] = WHITE
    # A canvas has few colours, so that they are compared instead of all pixels.
    found, counts = np.unique(codes, return_counts=True)
    nearest, distances = _nearest(found, np.concatenate([legend, [[255, 255, 255]]]))  # a legend may have white, too
    unknown = (distances > tolerance) & (counts > STRAY_SHARE * codes.size)
    if unknown.any():
        _refuse_color(found[unknown], counts[unknown], legend)
    numbers = np.empty_like(codes)
    for row, of_row in zip(codes, numbers, strict=True):  # row by row, since places take twice the memory of colours
        of_row[:] = nearest[np.searchsorted(found, row)]
    numbers[canvas[..., 3] < 128] = len(legend)
    return numbers


def _nearest(codes: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest of some known colours (colours, 3) to each of other colours, and how far it is."""
    nearest, distances = np.empty(len(codes), dtype=np.int32), np.empty(len(codes))
    for first in range(0, len(codes), CHUNK):
        part = slice(first, first + CHUNK)
        colors = np.stack([codes[part] >> 16, codes[part] >> 8 & 255, codes[part] & 255], axis=1)
        of_part = np.stack([np.linalg.norm(colors - color, axis=1) for color in known], axis=1)
        nearest[part], distances[part] = of_part.argmin(axis=1), of_part.min(axis=1)
    return nearest, distances


def _refuse_color(codes: np.ndarray, counts: np.ndarray, legend: np.ndarray) -> None:
    """Names the most frequent of the colours that are not in the legend."""
    worst = counts.argmax()
    names = ", ".join(f"#{r:02x}{g:02x}{b:02x}" for r, g, b in legend)
    raise ValueError(
        f"the canvas has {counts[worst]} pixels of the colour #{codes[worst]:06x}, which is not in the legend "
        f"({names}); add it, or paint it over with white."
    )


def _legend_region(color: Any, entry: Any, mask: np.ndarray) -> PaintRegion:
    """The region of an entry of a legend: a phrase, or arguments of `PaintRegion`."""
    if not mask.any():
        raise ValueError(f"the canvas has no pixel of the colour {color!r}; paint it, or take it off the legend.")
    arguments = {"phrase": entry} if isinstance(entry, str) else entry
    if not isinstance(arguments, Mapping) or "mask" in arguments or "phrase" not in arguments:
        raise ValueError(f"the legend says {entry!r} for {color!r}; give a phrase, or a dict with one.")
    return region_from_dict({**arguments, "mask": mask})


def region_from_dict(entries: Mapping[str, Any]) -> PaintRegion:
    """`PaintRegion(**entries)` for what a person wrote into a file.

    Raises:
        ValueError: The entries are not those of a region.
    """
    unknown = sorted(set(entries) - set(PaintRegion.__dataclass_fields__))
    if unknown or not {"phrase", "mask"} <= set(entries):
        names = ", ".join(list(PaintRegion.__dataclass_fields__)[2:])
        raise ValueError(
            f"a region has the entries {sorted(entries)}; it needs phrase and mask, and may have {names}."
        )
    return PaintRegion(**entries)


def check_regions(regions: Any, prompts: int) -> list[list[PaintRegion]]:
    """A list of regions for each prompt, from a list for all of them or a list for each."""
    if not isinstance(regions, list | tuple):
        raise ValueError(f"regions={regions!r} must be a list of PaintRegion, or for a batch a list of such lists.")
    is_nested = bool(regions) and all(isinstance(entry, list | tuple) for entry in regions)
    per_prompt = [list(entry) for entry in regions] if is_nested else [list(regions) for _ in range(prompts)]
    for region in chain.from_iterable(per_prompt):
        if not isinstance(region, PaintRegion):
            raise ValueError(f"{region!r} in regions is not a PaintRegion; write PaintRegion(phrase, mask).")
    if len(per_prompt) != prompts:
        raise ValueError(f"regions has {len(per_prompt)} lists for {prompts} prompts; give one list for each.")
    return per_prompt


def check_strength(name: str, strength: Any) -> None:
    """Refuses what is not a strength, w' of the paper; `name` is that of the argument."""
    if not is_finite(strength) or strength < 0:
        raise ValueError(f"{name}={strength!r} must be a number of at least 0; 0.4 is usual, 0 paints nothing.")


def mix_noise(noise: torch.Tensor, regions: Sequence[PaintRegion]) -> torch.Tensor:
    """Replaces noise by that of the regions' seeds where their masks are.

    The noises are added with the masks as weights and divided by the root of the sum of the squared masks, so that the
    result is standard normal as well. What no region covers keeps its noise.

    Args:
        noise (`torch.Tensor`): Standard normal, (channels, height, width).
        regions (`list` of [`PaintRegion`]): Those without a seed change nothing.

    Returns:
        (channels, height, width), on the device and in the dtype of `noise`.
    """
    seeded = {region: region.seed for region in regions if region.seed is not None}
    if not seeded:
        return noise
    masks = torch.stack([region.coverage(*noise.shape[-2:]) for region in seeded])
    rest = (1 - masks.sum(0)).clamp(min=0)
    mixed = rest * noise.float().cpu()
    for seed, mask in zip(seeded.values(), masks, strict=True):
        # On the CPU, so that a seed means the same noise on every device.
        mixed += mask * torch.randn(noise.shape, generator=torch.Generator().manual_seed(int(seed)))
    return (mixed / (rest**2 + (masks**2).sum(0)).sqrt()).to(noise)


def check_canvas(height: int, width: int, colors: int) -> None:
    """Refuses a canvas that is too large for the masks that come of it, one for each colour of its legend."""
    # Finding colours takes as much memory as four masks.
    masks = max(colors, 4)
    if height * width * masks > MAX_PIXELS:
        raise ValueError(
            f"the canvas has {width} x {height} pixels; with {colors} colours more than {MAX_PIXELS // masks} are "
            "refused: make it smaller."
        )


def _canvas(image: Any, colors: int) -> np.ndarray:
    """A canvas as bytes (height, width, 4), which has so many colours."""
    if isinstance(image, Image.Image):
        check_canvas(image.height, image.width, colors)
        try:
            return np.asarray(as_rgba(upright(image)))
        except Exception as error:  # a file that Pillow has opened is decoded only now
            raise ValueError(f"the canvas cannot be read: {str(error) or type(error).__name__}") from None
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] not in (3, 4) or not array.size:
        raise ValueError(
            f"the canvas has shape {array.shape} and dtype {array.dtype}; give a PIL image, or bytes (height, width, "
            "3 or 4)."
        )
    check_canvas(array.shape[0], array.shape[1], colors)
    return array if array.shape[-1] == 4 else np.pad(array, ((0, 0), (0, 0), (0, 1)), constant_values=255)


def _rgb(color: Any) -> tuple[int, ...]:
    """Red, green and blue of a colour of a legend, each from 0 to 255."""
    if isinstance(color, str):
        with suppress(ValueError):
            color = ImageColor.getrgb(color)[:3]
    if isinstance(color, tuple) and len(color) == 3 and all(is_number(c, Integral) and 0 <= c <= 255 for c in color):
        return color
    raise ValueError(f"{color!r} in the legend is not a colour; give a name, '#rrggbb' or (r, g, b).")


def region_settings(regions: Sequence[PaintRegion]) -> list[dict[str, Any]]:
    """Regions as JSON can hold them, for a picture's provenance: their boxes, and their masks as pictures in data
    addresses, which scene files know. They are made smaller where all of them together would be too long for a
    picture's file; of a mask that would be too long even so only that it is a `picture`."""
    masks = sum(not isinstance(region.mask, tuple) for region in regions)
    characters = MAX_ADDRESS_CHARACTERS // max(masks, 1)
    settings = []
    for region in regions:
        entries = {
            "phrase": region.phrase,
            "mask": _mask_setting(region.mask, characters),
        }
        weight = None if region.weight == 1 else region.weight
        further = {"weight": weight, "occurrence": region.occurrence, "seed": region.seed}
        settings.append(entries | {key: value for key, value in further.items() if value is not None})
    return settings


def _mask_setting(mask: Any, characters: int) -> Any:
    return list(mask) if isinstance(mask, tuple) else small_mask_address(mask, characters) or NOT_KEPT

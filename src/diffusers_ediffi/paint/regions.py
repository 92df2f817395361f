# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What is painted (section 4.4): phrases of a prompt with masks, and how they become A of the attention.

A is a matrix (pixels, columns): the columns of a phrase's tokens hold its mask, all others are zero.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers.utils import logging
from PIL import ImageColor

from ..checks import MAX_SEED, is_number

logger = logging.get_logger(__name__)

MAX_PIXELS = 2**26  # of a mask or canvas, 8192 x 8192: what is larger is a mistake or an attack
ASPECT_TOLERANCE = 0.02  # masks in whole pixels of another size cannot keep the aspect ratio exactly
STRAY_SHARE = 1e-3  # share of a canvas below which a colour passes for the smoothed edge of a stroke
# Scripts that set no spaces between words: Thai to Myanmar, Khmer, kana, Han.
_UNSPACED = r"\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"

Box = tuple[float, float, float, float]


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
        seed (`int`, *optional*): Draws the starting noise of the region from a seed of its own, so that it looks the
            same while the rest changes.

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
        if not is_number(self.weight, Real) or not 0 <= self.weight < math.inf:
            raise ValueError(f"weight={self.weight!r} of {self.phrase!r} must be a number of at least 0; 1 is usual.")
        for name, limit in (("occurrence", math.inf), ("seed", MAX_SEED)):
            value = getattr(self, name)
            if value is not None and not (is_number(value, Integral) and 0 <= value <= limit):
                raise ValueError(f"{name}={value!r} of {self.phrase!r} must be a whole number of at least 0, or None.")
        try:
            mask = _as_box(self.mask) if _is_box(self.mask) else as_mask(self.mask)
        except ValueError as error:
            raise ValueError(f"the mask of {self.phrase!r} {error}") from None
        object.__setattr__(self, "mask", mask)

    def coverage(self, height: int, width: int) -> torch.Tensor:
        """The share of every cell of a grid that the mask covers: float32 (height, width) in [0, 1].

        Masks are resized bilinearly with antialiasing, so that no stroke is too thin for a coarse grid.
        """
        if isinstance(self.mask, tuple):
            left, top, right, bottom = self.mask
            return _overlap(top, bottom, height)[:, None] * _overlap(left, right, width)
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
        ValueError: The canvas has a colour that the legend does not explain, or none of one that it does.
    """
    if not isinstance(legend, Mapping) or not legend:
        raise ValueError(f"the legend {legend!r} must map colours to phrases, such as {{'red': 'a red apple'}}.")
    keys = np.array([_rgb(color) for color in legend], dtype=np.int32)
    if len({tuple(key) for key in keys.tolist()}) < len(keys):
        raise ValueError(f"the legend names a colour twice: {list(legend)}.")
    pixels = _canvas(image)
    painted = pixels[..., 3] >= 128
    # A canvas has few colours, so that they are compared instead of all pixels.
    flat = pixels[painted][:, :3].astype(np.int32)
    codes = flat @ np.array([65536, 256, 1], dtype=np.int32)
    codes, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    colors = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1)
    known = np.concatenate([keys, [[255, 255, 255]]])  # white comes last: a legend may have it, too
    distances = np.stack([np.linalg.norm(colors - key, axis=1) for key in known], axis=1)
    nearest = distances.argmin(axis=1)
    unknown = (distances.min(axis=1) > tolerance) & (counts > STRAY_SHARE * pixels[..., 0].size)
    if unknown.any():
        worst = np.flatnonzero(unknown)[counts[unknown].argmax()]
        names = ", ".join(f"#{r:02x}{g:02x}{b:02x}" for r, g, b in keys)
        raise ValueError(
            f"the canvas has {counts[worst]} pixels of the colour #{codes[worst]:06x}, which is not in the legend "
            f"({names}); add it, or paint it over with white."
        )
    index = np.full(painted.shape, len(keys))
    index[painted] = nearest[inverse.reshape(-1)]
    regions = []
    for i, (color, entry) in enumerate(legend.items()):
        if not (index == i).any():
            raise ValueError(f"the canvas has no pixel of the colour {color!r}; paint it, or take it off the legend.")
        arguments = {"phrase": entry} if isinstance(entry, str) else entry
        if not isinstance(arguments, Mapping) or "mask" in arguments or "phrase" not in arguments:
            raise ValueError(f"the legend says {entry!r} for {color!r}; give a phrase, or a dict with one.")
        regions.append(region_from_dict({**arguments, "mask": index == i}))
    return regions


def region_from_dict(entries: Mapping[str, Any]) -> PaintRegion:
    """`PaintRegion(**entries)` for what a person wrote into a file.

    Raises:
        ValueError: There is no region of such entries.
    """
    unknown = sorted(set(entries) - set(PaintRegion.__dataclass_fields__))
    if unknown or not {"phrase", "mask"} <= set(entries):
        names = ", ".join(list(PaintRegion.__dataclass_fields__)[2:])
        raise ValueError(
            f"a region has the entries {sorted(entries)}; it needs phrase and mask, and may have {names}."
        )
    return PaintRegion(**entries)


def find_phrase(prompt: str, phrase: str, occurrence: int | None = None) -> list[tuple[int, int]]:
    """First and last + 1 character of every occurrence of a phrase, or of one of them, in whole words.

    Raises:
        ValueError: The prompt does not have it.
    """
    words = phrase.split()
    pattern = r"\s+".join(map(re.escape, words))
    if re.fullmatch(rf"[^\W{_UNSPACED}]", words[0][0]):
        pattern = r"(?<!\w)" + pattern
    if re.fullmatch(rf"[^\W{_UNSPACED}]", words[-1][-1]):
        pattern += r"(?!\w)"
    spans = [match.span() for match in re.finditer(pattern, prompt, re.IGNORECASE)]
    if not spans:
        inside = re.search(rf"\w*{re.escape(phrase.strip())}\w*", prompt, re.IGNORECASE)
        hint = f"; it has only {inside[0]!r}: write the whole word" if inside else ""
        raise ValueError(f"the phrase {phrase!r} is not in the prompt {prompt!r}{hint}.")
    if occurrence is None:
        return spans
    if occurrence >= len(spans):
        raise ValueError(
            f"occurrence={occurrence} of {phrase!r}: the prompt {prompt!r} has it {len(spans)} times, counted from 0."
        )
    return [spans[occurrence]]


class PromptTokens:
    """The tokens of a prompt as one text encoder sees them, each with its place in the text.

    Places are compared rather than token ids, since words tokenise differently in different company.

    Args:
        prompt (`str`): The text.
        tokenizer: A fast tokenizer of `transformers`, of CLIP or T5.
        max_length (`int`): Columns of the encoder's output.

    Raises:
        ValueError: The tokenizer cannot tell where tokens come from.
    """

    def __init__(self, prompt: str, tokenizer: Any, max_length: int):
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(
                f"{type(tokenizer).__name__} is a slow tokenizer, which does not say where tokens come from; "
                "load the fast one (use_fast=True)."
            )
        # Padded and cut as pipelines do, so that places in the list are columns.
        settings = {"padding": "max_length", "max_length": max_length, "truncation": True}
        offsets = tokenizer(prompt, return_offsets_mapping=True, **settings).offset_mapping
        self.prompt = prompt
        self.places = [_strip(prompt, *place) for place in offsets]
        self.end = max(stop for _, stop in self.places)

    def __len__(self) -> int:
        return sum(start < stop for start, stop in self.places)

    def columns(self, spans: Sequence[tuple[int, int]]) -> list[int]:
        """The columns of all tokens that lie in the spans, be it in part; none where the text was cut before."""
        return [
            column
            for column, (start, stop) in enumerate(self.places)
            if any(start < last and first < stop for first, last in spans) and start < stop
        ]

    def holds(self, spans: Sequence[tuple[int, int]]) -> bool:
        """Whether the encoder sees the spans to their end."""
        return all(last <= self.end for _, last in spans)


def paint_matrix(
    regions: Sequence[PaintRegion], columns: Sequence[Sequence[int]], num_columns: int, height: int, width: int
) -> torch.Tensor:
    """A of the paper at one resolution, float32 (height * width, num_columns); `columns` are those of each region.

    Where regions share a token, the largest of weight times mask counts.
    """
    matrix = torch.zeros(height * width, num_columns)
    for region, own in zip(regions, columns, strict=True):
        painted = float(region.weight) * region.coverage(height, width).flatten()[:, None]
        matrix[:, list(own)] = torch.maximum(matrix[:, list(own)], painted)
    return matrix


def mix_noise(noise: torch.Tensor, regions: Sequence[PaintRegion]) -> torch.Tensor:
    """Replaces noise by that of the regions' own seeds where their masks are.

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


def region_columns(
    prompt: str, regions: Sequence[PaintRegion], encoders: Sequence[tuple[str, PromptTokens, int]]
) -> list[list[int]]:
    """The columns of every region's phrase.

    Args:
        prompt (`str`): The text.
        regions (`list` of [`PaintRegion`]): Its regions.
        encoders: For each text encoder its name, the prompt's tokens and the first of its columns.

    Raises:
        ValueError: No encoder sees the phrase, or there are more regions than tokens.
    """
    most = max(len(tokens) for _, tokens, _ in encoders)
    if len(regions) > most:
        raise ValueError(f"there are {len(regions)} regions for the {most} tokens of {prompt!r}; give fewer.")
    columns: list[list[int]] = []
    for region in regions:
        spans = find_phrase(prompt, region.phrase, region.occurrence)
        found = [[first + column for column in tokens.columns(spans)] for _, tokens, first in encoders]
        cut = [name for name, tokens, _ in encoders if not tokens.holds(spans)]
        if not any(found):
            raise ValueError(f"the end of {prompt!r} is cut off, with it {region.phrase!r}; write a shorter prompt.")
        if cut:
            logger.warning(f"{' and '.join(cut)} cut the end off {prompt!r} and do not see all of {region.phrase!r}.")
        columns.append([column for own in found for column in own])
    return columns


def _is_box(mask: Any) -> bool:
    return isinstance(mask, list | tuple) and len(mask) == 4 and all(is_number(edge, Real) for edge in mask)


def _as_box(mask: Any) -> Box:
    left, top, right, bottom = (float(edge) for edge in mask)
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(f"is the box {tuple(mask)}; give (left, top, right, bottom) in [0, 1], with area inside.")
    return left, top, right, bottom


def same_aspect(size: Sequence[int], other: Sequence[int]) -> bool:
    """Whether one (height, width) need not be stretched to cover another."""
    stretch = (size[1] * other[0]) / (size[0] * other[1])
    return 1 - ASPECT_TOLERANCE <= stretch <= 1 / (1 - ASPECT_TOLERANCE)


def resize_mask(mask: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Brings a mask (rows, columns) in [0, 1] to (height, width), bilinearly with antialiasing."""
    if mask.shape == (height, width):
        return mask
    # Pillow antialiases; PyTorch 2.13's `interpolate(antialias=True)` loses pixels where a grid is one cell wide.
    image = PIL.Image.fromarray(mask.numpy()).resize((width, height), PIL.Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).clamp(0, 1)


def as_mask(mask: Any) -> torch.Tensor:
    """Any mask but a box as a float32 tensor (height, width) in [0, 1].

    Raises:
        ValueError: It is none; the message goes on after "the mask ...".
    """
    if isinstance(mask, PIL.Image.Image):
        _check_pixels((mask.height, mask.width))
        mask = _luminance(mask)
    if isinstance(mask, list | tuple):
        try:
            mask = np.array(mask)
        except ValueError:
            raise ValueError("is a ragged list; all rows must have the same length.") from None
    if isinstance(mask, np.ndarray):
        if mask.dtype.kind not in "biuf":
            raise ValueError(f"has the dtype {mask.dtype}; give numbers or booleans.")
        mask = torch.from_numpy(np.array(mask, mask.dtype.newbyteorder("=")))  # a copy: theirs may be read-only
    if not isinstance(mask, torch.Tensor):
        raise ValueError(f"is of type {type(mask).__name__}; give an image, an array, a tensor or a box.")
    plane = mask.detach()
    while plane.ndim > 2 and plane.shape[0] == 1:  # (1, height, width) and (height, width, 1) are common, too
        plane = plane[0]
    plane = plane[..., 0] if plane.ndim == 3 and plane.shape[-1] == 1 else plane
    if plane.ndim != 2 or not plane.numel():
        raise ValueError(f"has the shape {tuple(mask.shape)}; give (height, width).")
    _check_pixels(plane.shape)
    is_float, values = plane.is_floating_point(), plane.cpu().float()
    if not values.isfinite().all():
        raise ValueError("holds NaN or infinity.")
    low, high = values.min().item(), values.max().item()
    if low < 0 or high > (1 if is_float else 255):
        limits = "[0, 1]" if is_float else "[0, 255]"
        raise ValueError(f"has values from {low:g} to {high:g}; they must lie in {limits} as {plane.dtype}.")
    if high == 0:
        raise ValueError("is zero everywhere; paint white what it is for, or leave it out.")
    return values / 255 if not is_float and high > 1 else values


def _luminance(image: PIL.Image.Image) -> Any:
    """How white and opaque each pixel is."""
    if image.mode in ("1", "L"):
        return np.asarray(image)
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.float32) / 65535
    if image.mode in ("I", "F"):
        return np.asarray(image)
    rgba = image.convert("RGBA")
    return np.asarray(rgba.convert("L"), dtype=np.float32) * np.asarray(rgba.getchannel("A")) / 255**2


def _canvas(image: Any) -> np.ndarray:
    """A canvas as bytes (height, width, 4)."""
    if isinstance(image, PIL.Image.Image):
        _check_pixels((image.height, image.width), "the canvas ")
        return np.asarray(image.convert("RGBA"))
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] not in (3, 4) or not array.size:
        raise ValueError(
            f"the canvas has shape {array.shape} and dtype {array.dtype}; give a PIL image, or bytes (height, width, "
            "3 or 4)."
        )
    _check_pixels(array.shape, "the canvas ")
    return array if array.shape[-1] == 4 else np.pad(array, ((0, 0), (0, 0), (0, 1)), constant_values=255)


def _check_pixels(shape: Sequence[int], name: str = "") -> None:
    height, width = shape[:2]
    if height * width > MAX_PIXELS:
        raise ValueError(f"{name}has {width} x {height} pixels; more than {MAX_PIXELS} are refused: make it smaller.")


def _rgb(color: Any) -> tuple[int, ...]:
    if isinstance(color, str):
        try:
            return ImageColor.getrgb(color)[:3]
        except ValueError:
            raise ValueError(f"{color!r} in the legend is no colour; give a name, '#rrggbb' or (r, g, b).") from None
    if isinstance(color, tuple) and len(color) == 3 and all(is_number(c, Integral) and 0 <= c <= 255 for c in color):
        return color
    raise ValueError(f"{color!r} in the legend is no colour; give a name, '#rrggbb' or (r, g, b).")


def _overlap(low: float, high: float, cells: int) -> torch.Tensor:
    """The share of each of some equal cells of [0, 1] that [low, high] covers."""
    edges = torch.arange(cells + 1, dtype=torch.float64)
    return (edges[1:].clamp(max=high * cells) - edges[:-1].clamp(min=low * cells)).clamp(min=0).float()


def _strip(text: str, start: int, stop: int) -> tuple[int, int]:
    """A token's place without white space, which T5's word marks include."""
    while start < stop and text[start].isspace():
        start += 1
    while start < stop and text[stop - 1].isspace():
        stop -= 1
    return start, stop

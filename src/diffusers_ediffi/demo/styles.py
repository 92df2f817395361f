# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The drawing styles of a scene, in words and in pixels.

A style takes the scene before it (`render_flat`, a function of the size in pixels), the scene's seed and the size, and
returns an RGB picture. Lengths are fractions of the side, so sizes agree.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from .grounds import to_bytes

CELLS = 64  # hatching and dots are laid out on a grid of so many cells to a side
RenderFlat = Callable[[int], Image.Image]

# How captions say a style: before the objects ("pixel art of a cat") or after the ground (", pixel art").
STYLE_WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "flat": (("a flat illustration of", "clip art of"), ("flat illustration", "clip art")),
    "pixel art": (("pixel art of", "a pixel art picture of"), ("pixel art", "in pixel art style", "8-bit pixel art")),
    "pencil sketch": (
        ("a pencil sketch of", "a pencil drawing of"),
        ("pencil sketch", "drawn with a pencil", "as a pencil sketch"),
    ),
    "halftone": (
        ("a halftone print of", "a halftone picture of"),
        ("halftone", "halftone print", "in halftone style"),
    ),
    "night": (("a night picture of", "a night scene of"), ("at night", "by night", "in the dark of night")),
    "water colour": (
        ("a water colour of", "a water colour painting of"),
        ("water colour", "water colour painting", "painted in water colour"),
    ),
}
STYLES = tuple(STYLE_WORDS)


_Painter = Callable[[RenderFlat, int, int], Image.Image]


def _flat(render_flat: RenderFlat, variation: int, size: int) -> Image.Image:
    return render_flat(size)


def _pixel_art(render_flat: RenderFlat, variation: int, size: int) -> Image.Image:
    """32 cells to a side, eight levels to a colour."""
    small = render_flat(CELLS).reduce(CELLS // 32)
    step = 255 / 7
    levels = Image.fromarray(to_bytes(np.rint(np.asarray(small, np.float32) / step) * step))
    return levels.resize((size, size), Image.Resampling.NEAREST)


def _night(render_flat: RenderFlat, variation: int, size: int) -> Image.Image:
    """Moonlight: dark, blue, darker towards the border."""
    image = np.asarray(render_flat(size), np.float32)
    square = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5) ** 2
    light = 1.05 - 1.1 * (square[:, None] + square[None])
    gray = image.mean(axis=2, keepdims=True)
    moonlight = np.asarray((0.44, 0.50, 0.72), np.float32)
    tinted = (0.75 * image + 0.25 * gray) * moonlight + np.asarray((0, 4, 20), np.float32)
    return Image.fromarray(to_bytes(tinted * light[..., None]))


def _with_finer_canvas(painter: Callable[[np.ndarray, Image.Image, int], np.ndarray]) -> _Painter:
    """Below 128 pixels lines and dots are drawn at twice the size or more, then averaged."""

    def paint(render_flat: RenderFlat, variation: int, size: int) -> Image.Image:
        factor = -(-128 // size) if size < 128 else 1
        flat = render_flat(size * factor)
        image = Image.fromarray(to_bytes(painter(np.asarray(flat, np.float32), flat, variation)))
        return image.reduce(factor) if factor > 1 else image

    return paint


def _sketch(image: np.ndarray, flat: Image.Image, variation: int) -> np.ndarray:
    """Outlines and diagonal hatching on paper, with a trace of colour."""
    size = len(image)
    gray = flat.convert("L")
    tone = np.asarray(gray, np.float32)
    local = np.asarray(gray.filter(ImageFilter.GaussianBlur(0.010 * size)), np.float32)
    line = np.clip(1 - np.maximum(local - tone - 3, 0) / 36, 0, 1)
    frequency = CELLS / 3
    steps = (np.arange(2 * size - 1, dtype=np.float32) + 1) / size
    stroke = 0.5 + 0.5 * np.sinc(frequency / size) ** 2 * np.cos(2 * np.pi * frequency * steps)
    hatch = np.lib.stride_tricks.sliding_window_view(stroke.astype(np.float32), size)
    dark = 1 - tone / 255
    shade = (238 - 150 * dark * (0.35 + 0.65 * hatch)) * (0.25 + 0.75 * line)
    return shade[..., None] + 0.28 * (image - tone[..., None])


def _halftone(image: np.ndarray, flat: Image.Image, variation: int) -> np.ndarray:
    """Dots of ink on white paper, larger where the picture is darker; 64/3 of them to a side."""
    size = len(image)
    steps = (np.arange(size, dtype=np.float32) + 0.5) / size * (CELLS / 3)
    offset = np.abs(steps % 1 - 0.5)
    distance = np.sqrt(offset[:, None] ** 2 + offset[None] ** 2)
    dark = 1 - image.min(axis=2) / 255
    radius = 0.28 + 0.36 * dark
    ink = np.clip((radius - distance) * (size * 3 / CELLS) + 0.5, 0, 1)[..., None]
    return 248 + (image * 0.96 - 248) * ink


def _water_colour(image: np.ndarray, flat: Image.Image, variation: int) -> np.ndarray:
    """Soft washes of uneven pigment that gathers at edges, on paper that shows at the border."""
    size = len(image)
    rng = np.random.default_rng([2, variation])
    wash = np.asarray(flat.filter(ImageFilter.GaussianBlur(0.009 * size)), np.float32)
    wide = np.asarray(flat.filter(ImageFilter.GaussianBlur(0.03 * size)), np.float32)
    pigment = 0.68 + 0.17 * _clouds(rng, 6, size) + 0.06 * _clouds(rng, 40, size)
    pigment += 0.5 * np.clip((wide - wash).mean(axis=2) / 255, -0.1, 0.4)
    steps = (np.arange(size, dtype=np.float32) + 0.5) / size
    border = np.minimum(steps, 1 - steps)
    inside = np.clip((np.minimum(border[:, None], border[None]) - 0.03 + 0.03 * _clouds(rng, 12, size)) / 0.025, 0, 1)
    paper = np.asarray((252, 250, 244), np.float32)
    return paper - (paper - wash) * (pigment * inside * 1.25)[..., None].clip(0, 1.1)


def _clouds(rng: np.random.Generator, cells: int, size: int) -> np.ndarray:
    """Smooth noise, about -1 to 1."""
    grid = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))


STYLE_PAINTERS: dict[str, _Painter] = {
    "flat": _flat,
    "pixel art": _pixel_art,
    "pencil sketch": _with_finer_canvas(_sketch),
    "halftone": _with_finer_canvas(_halftone),
    "night": _night,
    "water colour": _with_finer_canvas(_water_colour),
}

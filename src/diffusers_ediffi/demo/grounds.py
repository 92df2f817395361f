# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What is behind the objects of a scene: plain colours, gradients and landscapes, in words and in pixels.

Lengths are fractions of the side, so the same ground painted at 64, 256 and 1024 pixels agrees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "white": (250, 250, 250),
    "black": (16, 16, 18),
    "gray": (140, 140, 144),
    "red": (222, 38, 38),
    "orange": (250, 140, 26),
    "yellow": (252, 220, 50),
    "green": (70, 190, 70),
    "dark green": (14, 84, 44),
    "light blue": (150, 214, 246),
    "blue": (40, 100, 230),
    "dark blue": (16, 26, 100),
    "purple": (128, 50, 176),
    "pink": (250, 150, 190),
    "brown": (118, 72, 38),
}


@dataclass(frozen=True)
class Ground:
    """What is behind the objects: `kind` is "plain", "gradient" or "landscape", `name` is what captions call it."""

    kind: str
    name: str


@dataclass(frozen=True)
class _Layer:
    """A wavy strip of land or water: its edge, as a fraction of the side from the top, and its two colours."""

    height: float
    amplitude: float
    waves: float
    top: Colour
    bottom: Colour
    peaked: bool = False


@dataclass(frozen=True)
class Landscape:
    """How captions say it, and what it is painted of."""

    phrases: tuple[str, ...]
    sky: tuple[Colour, Colour]
    layers: tuple[_Layer, ...]
    disc: tuple[float, float, Colour] | None = None  # height, radius, colour
    stars: int = 0


GRADIENTS = (  # upper colour, lower colour
    ("blue", "pink"),
    ("purple", "orange"),
    ("yellow", "green"),
    ("light blue", "white"),
    ("red", "yellow"),
    ("black", "purple"),
    ("dark blue", "light blue"),
    ("white", "gray"),
    ("orange", "pink"),
    ("dark green", "yellow"),
)

_SKY = ((110, 190, 245), (215, 240, 253))
LANDSCAPES: dict[str, Landscape] = {
    "beach": Landscape(
        ("on a beach", "at the beach", "on a sandy beach"),
        _SKY,
        (
            _Layer(0.50, 0.0, 1, (20, 130, 195), (80, 205, 215)),
            _Layer(0.68, 0.025, 1.3, (250, 228, 170), (228, 190, 120)),
        ),
    ),
    "meadow": Landscape(
        ("in a meadow", "on a green meadow", "in a grassy meadow"),
        _SKY,
        (
            _Layer(0.54, 0.05, 1.2, (150, 205, 110), (100, 170, 80)),
            _Layer(0.70, 0.035, 0.9, (96, 186, 66), (44, 124, 42)),
        ),
    ),
    "desert": Landscape(
        ("in a desert", "in the desert", "in a sandy desert"),
        ((250, 190, 110), (255, 236, 190)),
        (
            _Layer(0.56, 0.06, 1.1, (228, 172, 100), (205, 145, 80)),
            _Layer(0.74, 0.05, 0.8, (214, 142, 72), (180, 108, 52)),
        ),
    ),
    "snow": Landscape(
        ("in the snow", "in a snowy field", "on a snowy field"),
        ((168, 192, 218), (222, 232, 242)),
        (
            _Layer(0.57, 0.05, 1.2, (226, 236, 246), (200, 218, 236)),
            _Layer(0.74, 0.035, 0.9, (252, 253, 255), (222, 234, 246)),
        ),
    ),
    "night sky": Landscape(
        ("under a night sky", "in front of a starry night sky", "in a starry night sky"),
        ((6, 8, 36), (36, 34, 96)),
        (_Layer(0.90, 0.03, 1.1, (12, 16, 30), (6, 8, 16)),),
        stars=40,
    ),
    "sea": Landscape(
        ("on the sea", "at sea", "in front of the sea"),
        _SKY,
        (
            _Layer(0.48, 0.008, 7, (40, 130, 205), (24, 100, 180)),
            _Layer(0.63, 0.014, 5, (26, 104, 184), (14, 74, 150)),
            _Layer(0.80, 0.020, 4, (14, 78, 156), (6, 42, 100)),
        ),
    ),
    "mountains": Landscape(
        ("in the mountains", "in front of mountains", "with mountains behind"),
        ((140, 200, 240), (230, 242, 250)),
        (
            _Layer(0.48, 0.16, 1.6, (205, 214, 228), (110, 122, 146), peaked=True),
            _Layer(0.66, 0.10, 2.2, (112, 126, 140), (78, 96, 104), peaked=True),
            _Layer(0.82, 0.02, 1.0, (74, 130, 78), (44, 92, 52)),
        ),
    ),
    "sunset": Landscape(
        ("at sunset", "in front of a sunset", "in the light of a sunset"),
        ((92, 40, 128), (255, 158, 66)),
        (_Layer(0.72, 0.0, 1, (150, 60, 90), (50, 22, 70)),),
        disc=(0.70, 0.15, (255, 226, 130)),
    ),
}

GROUNDS: tuple[Ground, ...] = (
    *(Ground("plain", name) for name in COLOURS),
    *(Ground("gradient", f"{upper} and {lower}") for upper, lower in GRADIENTS),
    *(Ground("landscape", name) for name in LANDSCAPES),
)


def paint_ground(ground: Ground, variation: int, size: int) -> Image.Image:
    """The ground alone, RGB of `size` x `size` pixels; `variation` seeds the run of hills and the like."""
    rng = np.random.default_rng([1, variation])
    if ground.kind == "plain":
        colour = np.clip(np.asarray(COLOURS[ground.name]) + rng.integers(-6, 7, 3), 0, 255)
        return Image.new("RGB", (size, size), tuple(int(c) for c in colour))
    if ground.kind == "gradient":
        upper, lower = ground.name.split(" and ")
        return Image.fromarray(to_bytes(_ramp(COLOURS[upper], COLOURS[lower], size)))
    return _paint_landscape(LANDSCAPES[ground.name], rng, size)


def _ramp(top: Colour, bottom: Colour, rows: int, columns: int | None = None) -> np.ndarray:
    """A vertical gradient `(rows, columns, 3)`, float32; a view of one column."""
    t = ((np.arange(rows, dtype=np.float32) + 0.5) / rows)[:, None]
    column = np.asarray(top, np.float32) * (1 - t) + np.asarray(bottom, np.float32) * t
    return np.broadcast_to(column[:, None, :], (rows, columns or rows, 3))


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Floats 0 to 255 -> uint8, clipped and rounded."""
    return (np.clip(values, 0, 255) + 0.5).astype(np.uint8)


def _paint_landscape(landscape: Landscape, rng: np.random.Generator, size: int) -> Image.Image:
    image = Image.fromarray(to_bytes(_ramp(*landscape.sky, size)))
    if landscape.stars:
        for x, y, radius in zip(*rng.random((3, landscape.stars)), strict=True):
            _paint_disc(image, x, y * 0.85, 0.003 + 0.006 * radius, (255, 250, 225))
    if landscape.disc is not None:
        height, radius, colour = landscape.disc
        _paint_disc(image, rng.uniform(0.25, 0.75), height, radius, colour)
    x = (np.arange(size, dtype=np.float32) + 0.5) / size
    for layer in landscape.layers:
        phase, stretch, shift = rng.random(3)
        wave = layer.waves * (0.85 + 0.3 * stretch) * x + phase
        bend = 4 * np.abs(wave % 1 - 0.5) - 1 if layer.peaked else np.sin(2 * np.pi * wave)
        _paint_layer(image, layer, (layer.height + 0.03 * (shift - 0.5) + layer.amplitude * bend) * size)
    return image


def _paint_layer(image: Image.Image, layer: _Layer, edge: np.ndarray) -> None:
    """Paints what lies below `edge`, a height in pixels for each column, with a soft border one pixel wide."""
    size = image.width
    first = int(max(edge.min() - 1, 0))
    rows = np.arange(first, size, dtype=np.float32)[:, None]
    cover = np.clip(rows + 1 - edge[None], 0, 1) * 255
    strip = Image.fromarray(to_bytes(_ramp(layer.top, layer.bottom, size - first, size)))
    image.paste(strip, (0, first), Image.fromarray(to_bytes(cover)))


def _paint_disc(image: Image.Image, x: float, y: float, radius: float, colour: Colour) -> None:
    """A disc with a soft border; one smaller than a pixel becomes fainter instead of larger."""
    size = image.width
    reach = int(radius * size) + 2
    left, top = int(x * size) - reach, int(y * size) - reach
    steps = np.arange(2 * reach + 1, dtype=np.float32) + 0.5
    distance = np.hypot(steps[None] + left - x * size, steps[:, None] + top - y * size)
    pixels = max(radius * size, 0.71)
    cover = np.clip(pixels + 0.5 - distance, 0, 1) * min(1.0, (radius * size / 0.71) ** 2) * 255
    image.paste(colour, (left, top), Image.fromarray(to_bytes(cover)))

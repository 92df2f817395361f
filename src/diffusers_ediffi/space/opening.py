# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Files that a visitor opens: a scene of `ediffi paint`, a picture that was drawn before, or a painted canvas."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from ..paint.regions import regions_from_color_map
from ..provenance import read_provenance
from .limits import Limits
from .scene import Layer, Scene
from .uploads import check_upload, read_picture

KINDS = [".json", ".png", ".jpg", ".jpeg", ".webp"]
NEAR = 48  # distance in RGB up to which a pixel has a colour, that of `regions_from_color_map`


@dataclass(frozen=True)
class Opened:
    """What was in a file.

    Args:
        scene ([`Scene`]): The scene.
        settings (`dict`): What else a picture says of how it was drawn.
        note (`str`): What the visitor is told.
    """

    scene: Scene
    settings: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


def open_file(path: str, current: Scene, limits: Limits) -> Opened:
    """Reads a file; `current` is what is on the canvas, whose colours a painted canvas is read by.

    Raises:
        ValueError: It is none of these, or more than the limits allow.
    """
    check_upload(path, limits)
    if Path(path).suffix.lower() == ".json":
        scene = Scene.from_json(Path(path).read_bytes(), limits)
        return Opened(scene, note="The scene is on the canvas.")
    picture = read_picture(path, limits)
    try:
        settings = read_provenance(path).settings
    except ValueError:  # no picture that was drawn before
        return _painted(picture, current)
    return _drawn(settings, limits)


def _drawn(settings: Mapping[str, Any], limits: Limits) -> Opened:
    """The scene of a picture that says how it was drawn."""
    scene = Scene.from_settings(settings, limits)
    regions = settings.get("regions")
    missing = len(regions) - len(scene.layers) if isinstance(regions, list) else 0
    lost = f" {missing} of its masks are not in the file." if missing else ""
    return Opened(scene, settings, f"Prompt, seed and painting of the picture are back.{lost}")


def _painted(picture: Image.Image, current: Scene) -> Opened:
    """A canvas that was painted elsewhere, in the colours of the phrases that are on the list."""
    entries = {entry["color"]: entry for entry in current.to_canvas()["layers"] if entry.get("color")}
    pixels = np.asarray(picture).reshape(-1, 3).astype(np.int32)
    found = {color: _legend(entry) for color, entry in entries.items() if _has(pixels, color)}
    if not found:
        names = ", ".join(f"{color} for “{entry['phrase']}”" for color, entry in entries.items())
        raise ValueError(
            "The picture says nothing of how it was drawn. To read it as a painted canvas, make the phrases first and "
            f"use their colours{f': {names}' if names else ''}; white is unpainted."
        )
    regions = regions_from_color_map(picture, found)
    layers = [Layer(region, color) for region, color in zip(regions, found, strict=True)]
    rest = [entry for color, entry in entries.items() if color not in found]
    return Opened(replace(current, layers=layers, unpainted=[{**entry, "mask": None} for entry in rest]), {}, "Read.")


def _legend(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"phrase": entry.get("phrase"), "occurrence": entry.get("occurrence")}


def _has(pixels: np.ndarray, color: str) -> bool:
    """Whether a colour is on a canvas of pixels (count, 3)."""
    try:
        rgb = ImageColor.getrgb(color)[:3]
    except ValueError:
        return False
    return bool((np.square(pixels - np.array(rgb)).sum(axis=1) <= NEAR**2).any())

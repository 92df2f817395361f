# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Scenes to begin with, in words that the demo model knows."""

from typing import Any

from .scene import COLORS

PAINTED = (
    {
        "name": "Pumpkin and snowman",
        "prompt": "a pumpkin next to a snowman in front of mountains, water colour",
        "seed": 0,
        "regions": {"pumpkin": (0.52, 0.35, 0.98, 0.85), "snowman": (0.02, 0.3, 0.48, 0.85)},
    },
    {
        "name": "Rocket above an apple",
        "prompt": "a rocket above a red apple on a dark blue background, flat illustration",
        "seed": 3,
        "regions": {"rocket": (0.3, 0.02, 0.7, 0.46), "red apple": (0.28, 0.52, 0.74, 0.97)},
    },
    {
        "name": "A car, low and left",
        "prompt": "a red car in a sandy desert, pencil sketch",
        "seed": 0,
        "regions": {"red car": (0.04, 0.5, 0.56, 0.94)},
    },
)


def example_canvas(example: dict[str, Any]) -> dict[str, Any]:
    """An example as the canvas in the browser reads it."""
    layers = [
        {"phrase": phrase, "occurrence": None, "color": color, "visible": True, "weight": 1.0, "mask": list(box)}
        for (phrase, box), color in zip(example["regions"].items(), COLORS, strict=False)
    ]
    return {"prompt": example["prompt"], "layers": layers}

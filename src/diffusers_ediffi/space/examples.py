# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Scenes to begin with, in words that the demo model knows."""

from dataclasses import dataclass
from typing import Any

from .scene import COLORS


@dataclass(frozen=True)
class PaintedExample:
    """A scene to begin with: its name, its prompt, a seed that suits it, and the boxes of its phrases."""

    name: str
    prompt: str
    seed: int
    boxes: dict[str, tuple[float, float, float, float]]

    def to_canvas(self) -> dict[str, Any]:
        """What the canvas in the browser reads."""
        layers = [
            {"phrase": phrase, "occurrence": None, "color": color, "visible": True, "weight": 1.0, "mask": list(box)}
            for (phrase, box), color in zip(self.boxes.items(), COLORS, strict=False)
        ]
        return {"prompt": self.prompt, "layers": layers}


PAINTED = (
    PaintedExample(
        "Pumpkin and snowman",
        "a pumpkin next to a snowman in front of mountains, water colour",
        0,
        {"pumpkin": (0.52, 0.35, 0.98, 0.85), "snowman": (0.02, 0.3, 0.48, 0.85)},
    ),
    PaintedExample(
        "Rocket above an apple",
        "a rocket above a red apple on a dark blue background, flat illustration",
        3,
        {"rocket": (0.3, 0.02, 0.7, 0.46), "red apple": (0.28, 0.52, 0.74, 0.97)},
    ),
    PaintedExample(
        "A car in the corner",
        "a red car in a sandy desert, flat illustration",
        0,
        {"red car": (0.04, 0.5, 0.56, 0.94)},
    ),
)

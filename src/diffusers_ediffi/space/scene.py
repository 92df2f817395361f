# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What a visitor has painted: a prompt, and a layer for each phrase.

A scene comes from the canvas in the browser, from a scene file of `ediffi paint`, or from the provenance of a picture;
all of these may be a stranger's."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from ..checks import is_finite
from ..images import image_size, open_image
from ..paint.masks import is_box, mask_address
from ..paint.regions import PaintRegion
from ..paint.scene_file import picture_of_address, scene_from_json
from ..phrases import find_phrase
from .limits import Limits

# Told apart on white and on black, by most colour-blind people as well; those of canvas.js.
COLORS = (
    *("#ffb224", "#5eb1ef", "#e9687a", "#65ba74", "#b67ee0", "#3db9cf"),
    *("#f58b54", "#a6b727", "#ee7ac4", "#8da4ef", "#c7a17a", "#9ba1a6"),
)


@dataclass(frozen=True)
class Layer:
    """A phrase and where it is painted.

    Args:
        region ([`PaintRegion`]): The phrase and its mask.
        color (`str`): On the canvas, `#rrggbb`.
        visible (`bool`): Whether it counts in the next picture.
    """

    region: PaintRegion
    color: str
    visible: bool = True


@dataclass(frozen=True)
class Scene:
    """A prompt and its layers.

    Args:
        prompt (`str`): The prompt.
        layers (`list` of [`Layer`]): What is painted, from the bottom up.
        unpainted (`list` of `dict`): Phrases with a colour that nothing is painted of yet, as the canvas has them.
        strength (`float`, *optional*): w' of paint-with-words, where a file says it.
    """

    prompt: str = ""
    layers: Sequence[Layer] = ()
    unpainted: Sequence[Mapping[str, Any]] = ()
    strength: float | None = None

    @classmethod
    def from_canvas(cls, value: Any, limits: Limits) -> Self:
        """Reads what the canvas in the browser sends.

        Raises:
            ValueError: It is nothing that a canvas sends, or more than the limits allow.
        """
        value = {} if value is None else value
        entries = value.get("layers", []) if isinstance(value, dict) else None
        prompt = value.get("prompt", "") if isinstance(value, dict) else None
        if not isinstance(prompt, str) or not isinstance(entries, list):
            raise ValueError("This is not a canvas: load the page again.")
        if len(entries) > limits.phrases or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(f"The canvas has {len(entries)} phrases; paint at most {limits.phrases}.")
        painted = [_layer(entry, limits) for entry in entries if entry.get("mask")]
        return cls(prompt, painted, [entry for entry in entries if not entry.get("mask")])

    @classmethod
    def from_json(cls, data: bytes, limits: Limits, name: str = "the file") -> Self:
        """Reads a scene file of `ediffi paint`, whose masks are boxes or pictures inside it.

        Raises:
            ValueError: It is none, or more than the limits allow.
        """
        if len(data) > limits.upload_bytes:
            raise ValueError(f"{name} has {len(data)} bytes; at most {limits.upload_bytes} are read.")
        scene = scene_from_json(data, name, most_pixels=limits.upload_pixels)
        return cls._of(scene.get("prompt"), scene["regions"], scene.get("strength"), limits, name)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], limits: Limits) -> Self:
        """Reads the settings in a picture's provenance. Regions whose masks are not in the file are left out.

        Raises:
            ValueError: They are not those of a picture that was drawn from a prompt.
        """
        entries = settings.get("regions") or []
        has_mask = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
        known = [entry for entry in entries if entry.get("mask") != "picture"] if has_mask else entries
        scene = {"prompt": settings.get("prompt"), "regions": known}
        data = json.dumps(scene).encode()
        read = scene_from_json(data, "what the picture says", most_pixels=limits.upload_pixels)
        return cls._of(read["prompt"], read["regions"], settings.get("region_strength"), limits, "the picture")

    @classmethod
    def _of(cls, prompt: Any, regions: list[PaintRegion], strength: Any, limits: Limits, name: str) -> Self:
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(f"{name} says no prompt.")
        if len(prompt) > limits.prompt_length:
            raise ValueError(f"The prompt in {name} has {len(prompt)} characters, more than {limits.prompt_length}.")
        if len(regions) > limits.phrases:
            raise ValueError(f"{name} has {len(regions)} regions, more than {limits.phrases}.")
        for region in regions:
            find_phrase(prompt, region.phrase, region.occurrence)
        strength = strength[0] if isinstance(strength, list) and strength else strength
        known = is_finite(strength) and 0 <= strength <= limits.strength
        layers = [Layer(region, COLORS[i % len(COLORS)], region.weight > 0) for i, region in enumerate(regions)]
        return cls(prompt, layers, strength=float(strength) if known else None)

    @property
    def regions(self) -> list[PaintRegion]:
        """What counts in the next picture.

        Raises:
            ValueError: A painted phrase is not in the prompt any more.
        """
        for layer in self.layers:
            if layer.visible:
                _check_phrase(self.prompt, layer.region)
        return [layer.region for layer in self.layers if layer.visible]

    def to_canvas(self) -> dict[str, Any]:
        """What the canvas in the browser reads."""
        layers = [
            {
                "phrase": layer.region.phrase,
                "occurrence": layer.region.occurrence,
                "color": layer.color,
                "visible": layer.visible,
                "weight": layer.region.weight or 1.0,
                "mask": _mask_entry(layer.region),
            }
            for layer in self.layers
        ]
        return {"prompt": self.prompt, "layers": [*layers, *map(dict, self.unpainted)]}

    def to_json(self, strength: float | None = None) -> str:
        """A scene file of `ediffi paint`, complete in itself; what does not count has the weight 0."""
        regions = []
        for layer in self.layers:
            region, entry = layer.region, {"phrase": layer.region.phrase, "mask": _mask_entry(layer.region)}
            weight = region.weight if layer.visible else 0.0
            further = {"weight": None if weight == 1 else weight, "occurrence": region.occurrence, "seed": region.seed}
            regions.append(entry | {key: value for key, value in further.items() if value is not None})
        scene = {"prompt": self.prompt, "regions": regions, "strength": strength}
        return json.dumps({key: value for key, value in scene.items() if value is not None}, indent=1)


def _mask_entry(region: PaintRegion) -> Any:
    return list(region.mask) if is_box(region.mask) else mask_address(region.mask)


def _layer(entry: Mapping[str, Any], limits: Limits) -> Layer:
    """A painted layer of the canvas."""
    phrase, mask, weight = (entry.get(name) for name in ("phrase", "mask", "weight"))
    if isinstance(mask, str):
        file = picture_of_address(mask)
        if max(image_size(file, "a mask")) > 2 * limits.mask_size:
            raise ValueError(f"The mask of {phrase!r} is larger than the canvas: load the page again.")
        file.seek(0)
        mask = open_image(file, "a mask")
    color = entry.get("color")
    color = color if color in COLORS else COLORS[0]
    weight = 1.0 if weight is None else weight
    region = PaintRegion(phrase, mask, weight, entry.get("occurrence"))  # type: ignore[arg-type]
    return Layer(region, color, bool(entry.get("visible", True)))


def _check_phrase(prompt: str, region: PaintRegion) -> None:
    try:
        find_phrase(prompt, region.phrase, region.occurrence)
    except ValueError:
        raise ValueError(
            f"“{region.phrase}” is painted, but not in the prompt any more: write it again, or remove it from the "
            "list below the canvas."
        ) from None

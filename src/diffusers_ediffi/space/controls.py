# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The settings that all tabs have: seed, number and size of pictures, steps, guidance, negative prompt."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import gradio as gr

from ..checks import is_finite
from .drawing import random_seed
from .space_app import SpaceApp

MAX_SEED_FIELD = 2**53 - 1  # a browser knows no larger whole numbers
DICE = "() => Math.floor(Math.random() * 2 ** 31)"


@dataclass(frozen=True)
class Settings:
    """The components; [`drawing_settings`] makes them."""

    seed: gr.Number
    num_images: gr.Slider
    size: gr.Radio
    steps: gr.Slider
    guidance_scale: gr.Slider
    negative_prompt: gr.Textbox

    @property
    def inputs(self) -> list[Any]:
        """The components, in the order that [`fields_of`] reads their values."""
        return [getattr(self, field.name) for field in fields(self)]


def drawing_settings(app: SpaceApp, name: str, seed: int = 0, open: bool = False) -> Settings:
    """Puts the settings where the tab is being built; `name` is that of the tab, in small."""
    drawer, limits = app.drawer, app.limits
    with gr.Row(equal_height=True):
        seed_field = gr.Number(seed, label="Seed", precision=0, minimum=0, scale=3, elem_id=f"{name}-seed")
        dice = gr.Button("New seed", scale=1, min_width=120, elem_id=f"{name}-dice")
    dice.click(None, outputs=seed_field, js=DICE, queue=False)
    with gr.Accordion("Settings", open=open, elem_id=f"{name}-settings"):
        sizes = [(f"{size} x {size}", size) for size in drawer.sizes]
        size = gr.Radio(
            sizes, value=drawer.sizes[min(1, len(sizes) - 1)], label="Size in pixels", elem_id=f"{name}-size"
        )
        num_images = gr.Slider(1, limits.images, value=1, step=1, label="Pictures")
        steps = gr.Slider(1, limits.steps, value=drawer.default_steps, step=1, label="Steps of the first stage")
        scale = drawer.default_guidance_scale
        guidance = gr.Slider(
            1, limits.guidance, value=scale, step=0.5, label="Guidance", info="how closely the prompt is followed"
        )
        negative = gr.Textbox(
            label="Negative prompt", info="what the picture should not be", max_length=limits.prompt_length
        )
    return Settings(seed_field, num_images, size, steps, guidance, negative)


def fields_of(seed: Any, num_images: Any, size: Any, steps: Any, guidance_scale: Any, negative: Any) -> dict[str, Any]:
    """The values of [`Settings.inputs`] as fields of a [`DrawRequest`]."""
    return {
        "seed": random_seed() if seed is None else _whole(seed),
        "num_images": _whole(num_images),
        "size": _whole(size),
        "steps": _whole(steps),
        "guidance_scale": guidance_scale,
        "negative_prompt": negative or "",
    }


def settings_updates(app: SpaceApp, said: Mapping[str, Any]) -> list[Any]:
    """The values of [`Settings.inputs`] that a picture drawn before says; the others stay."""
    drawer, limits = app.drawer, app.limits
    steps, scale = (_first(said.get(name)) for name in ("steps", "guidance_scale"))
    ranges = {"seed": (0, MAX_SEED_FIELD), "steps": (1, limits.steps), "guidance_scale": (1, limits.guidance)}
    values = {"seed": said.get("seed"), "steps": steps, "guidance_scale": scale}
    kept = {
        name: value
        for name, value in values.items()
        if is_finite(value) and ranges[name][0] <= value <= ranges[name][1]
    }
    if said.get("size") in drawer.sizes:
        kept["size"] = said["size"]
    if isinstance(said.get("negative_prompt"), str):
        kept["negative_prompt"] = said["negative_prompt"][: limits.prompt_length]
    return [kept.get(field.name, gr.skip()) for field in fields(Settings)]


def _first(value: Any) -> Any:
    """The base stage's of values for each stage."""
    return value[0] if isinstance(value, list) and value else value


def _whole(value: Any) -> Any:
    """A whole number that a browser has sent as a float; anything else stays as it is, and is refused."""
    return int(value) if isinstance(value, float) and value.is_integer() else value

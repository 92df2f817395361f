# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The tab "Inside": where a word looked, which expert drew when, and attention by noise level (Figure 3)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from .components import component
from .controls import drawing_settings, fields_of
from .drawing import DrawRequest, Progress
from .inside_record import watched
from .picture_files import preview_address
from .space_app import SpaceApp
from .tab_parts import ExampleButtons, TabExample, explanation, prompt_field, text_of

# prompt, seed
EXAMPLES = (
    TabExample("Two objects", ("a rocket above a red apple on a dark blue background", 3)),
    TabExample("A landscape", ("a sailboat on the sea at sunset", 1)),
    TabExample("A style", ("a house in front of mountains, water colour", 0)),
)


def build_inside_tab(app: SpaceApp) -> None:
    """Adds the tab to the page that is being built."""
    with gr.Tab("Inside", id="inside"), gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            explanation("Draw a picture, then look at how it came about.")
            examples = ExampleButtons(app, "inside", EXAMPLES)
            shown = examples.first or ("", 0)
            prompt = prompt_field(app, "inside", value=shown[0])
            panel = app.picture_panel("inside")
            settings = drawing_settings(app, "inside", seed=shown[1])
        with gr.Column(scale=6, min_width=320):
            view = component("inside", {}, "inside-view")
    examples.set([prompt, settings.seed])
    app.on_draw(panel, [prompt, *settings.inputs], inside_request, [view], inside_report)


def inside_request(prompt: Any, *settings: Any) -> DrawRequest:
    """What the tab asks for: one picture, which is watched.

    Raises:
        ValueError: The prompt is empty.
    """
    if not text_of(prompt):
        raise ValueError("There is nothing to draw yet: write what the picture shows.")
    request = DrawRequest(text_of(prompt), within=watched, **fields_of(*settings))
    return replace(request, num_images=min(request.num_images, 1))


def inside_report(progress: Progress, request: DrawRequest) -> Sequence[Any]:
    """What the component shows of a finished drawing; stages above the picture's size have not drawn."""
    record = progress.record or {}
    stages = [stage for stage in record.get("stages", []) if stage["size"] <= progress.size]
    picture = preview_address(progress.images[0])
    return [{**record, "stages": stages, "picture": picture, "prompt": request.prompt}]

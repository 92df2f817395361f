# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The tab "Paint": a prompt, its phrases on a canvas, and the picture of it."""

from functools import partial
from typing import Any

import gradio as gr

from .components import paint_canvas
from .controls import drawing_settings, fields_of
from .drawing import DrawRequest
from .examples import PAINTED, example_canvas
from .scene import Scene
from .space_app import SpaceApp
from .uploads import picture_upload


def build_paint_tab(app: SpaceApp) -> None:
    """Adds the tab to the page that is being built."""
    drawer, limits = app.drawer, app.limits
    with gr.Tab("Paint", id="paint"), gr.Row(equal_height=False):
        with gr.Column(scale=6, min_width=320):
            canvas = paint_canvas(limits, example_canvas(PAINTED[0]) if drawer.words else None, "paint-canvas")
        with gr.Column(scale=5, min_width=320):
            panel = app.picture_panel("paint")
            settings = drawing_settings(app, "paint")
            strength = gr.Slider(
                0,
                limits.strength,
                value=drawer.default_region_strength,
                step=0.05,
                label="Strength of the painting",
                info="how firmly each phrase is held where it is painted",
                elem_id="paint-strength",
            )
            style, style_scale = _style(app)
    inputs = [canvas, strength, style, style_scale, *settings.inputs]
    app.on_draw(panel, inputs, partial(painted_request, app))


def painted_request(
    app: SpaceApp, canvas: Any, strength: Any, style: Any, style_scale: Any, *settings: Any
) -> DrawRequest:
    """What the tab asks for.

    Raises:
        ValueError: The canvas cannot be drawn.
    """
    scene = Scene.from_canvas(canvas, app.limits)
    arguments: dict[str, Any] = {}
    if scene.regions:
        arguments = {"regions": scene.regions, "region_strength": strength}
    if style is not None:
        arguments |= {"style_image": style, "style_scale": style_scale}
    return DrawRequest(prompt=scene.prompt, arguments=arguments, **fields_of(*settings))


def _style(app: SpaceApp) -> tuple[Any, Any]:
    """A picture whose style is taken over, where the model can do that."""
    if not app.drawer.takes_style:
        return gr.State(None), gr.State(1.0)
    with gr.Accordion("Style of a picture", open=False, elem_id="paint-style"):
        picture = picture_upload(app.limits, "A picture whose style is taken over")
        scale = gr.Slider(0, 2, value=1, step=0.05, label="How much of the style")
    return picture, scale

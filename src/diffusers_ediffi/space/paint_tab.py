# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The tab "Paint": a prompt, its phrases on a canvas, and the picture of it."""

from functools import partial
from typing import Any

import gradio as gr

from .components import paint_canvas
from .controls import drawing_settings, fields_of, settings_updates
from .drawing import DrawRequest
from .examples import PAINTED
from .opening import KINDS, open_file
from .scene import Scene
from .space_app import SpaceApp, friendly_errors
from .uploads import picture_upload

# The scene file is made in the browser: nothing of it lies on the server.
SAVE = """(canvas, strength) => {
  const layers = (canvas?.layers || []).filter((layer) => layer.mask);
  const regions = layers.map(({ phrase, mask, occurrence, weight, visible }) => ({
    phrase, mask, ...(occurrence == null ? {} : { occurrence }), ...(visible && weight === 1 ? {} : { weight: visible ? weight : 0 }) }));
  const scene = JSON.stringify({ prompt: canvas?.prompt || "", regions, strength }, null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([scene], { type: "application/json" }));
  link.download = "scene.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}"""  # noqa: E501


def build_paint_tab(app: SpaceApp) -> None:
    """Adds the tab to the page that is being built."""
    drawer, limits = app.drawer, app.limits
    examples = PAINTED if drawer.words else ()
    with gr.Tab("Paint", id="paint"), gr.Row(equal_height=False):
        with gr.Column(scale=6, min_width=320):
            with gr.Row(elem_classes="ediffi-examples"):
                buttons = [gr.Button(example.name, size="sm", min_width=100) for example in examples]
            canvas = paint_canvas(limits, examples[0].to_canvas() if examples else None, "paint-canvas")
            with gr.Row():
                opened = gr.UploadButton(
                    "Open a scene or picture", file_types=KINDS, size="sm", min_width=120, elem_id="paint-open"
                )
                save = gr.Button("Save the scene", size="sm", min_width=120, elem_id="paint-save")
        with gr.Column(scale=5, min_width=320):
            panel = app.picture_panel("paint")
            settings = drawing_settings(app, "paint", seed=examples[0].seed if examples else 0)
            strength = _strength(app)
            style, style_scale = _style(app)
    for button, example in zip(buttons, examples, strict=True):
        shown = [example.to_canvas(), example.seed]
        button.click(
            lambda shown=shown: shown,
            outputs=[canvas, settings.seed],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
    save.click(None, [canvas, strength], js=SAVE, queue=False)
    opened.upload(
        partial(_open, app),
        [opened, canvas],
        [canvas, strength, *settings.inputs],
        concurrency_id="open",
        concurrency_limit=1,  # a picture of the most pixels takes hundreds of MB to read
        show_progress="hidden",
        api_visibility="private",
    )
    app.on_draw(panel, [canvas, strength, style, style_scale, *settings.inputs], partial(painted_request, app))


def painted_request(
    app: SpaceApp, canvas: Any, strength: Any, style: Any, style_scale: Any, *settings: Any
) -> DrawRequest:
    """What the tab asks for.

    Raises:
        ValueError: The canvas cannot be drawn.
    """
    scene = Scene.from_canvas(canvas, app.limits)
    regions = scene.regions
    arguments: dict[str, Any] = {"regions": regions, "region_strength": strength} if regions else {}
    if style is not None:
        arguments |= {"style_image": style, "style_scale": style_scale}
    return DrawRequest(prompt=scene.prompt, arguments=arguments, **fields_of(*settings))


def _open(app: SpaceApp, path: str, canvas: Any) -> list[Any]:
    """The canvas and the settings of a file."""
    with friendly_errors("This file cannot be opened"):
        opened = open_file(path, Scene.from_canvas(canvas, app.limits), app.limits)
    gr.Info(opened.note, duration=5)
    strength = gr.skip() if opened.scene.strength is None else opened.scene.strength
    return [opened.scene.to_canvas(), strength, *settings_updates(app, opened.settings)]


def _strength(app: SpaceApp) -> gr.Slider:
    return gr.Slider(
        0,
        app.limits.strength,
        value=app.drawer.default_region_strength,
        step=0.05,
        label="Strength of the painting",
        info="how firmly each phrase is held where it is painted",
        elem_id="paint-strength",
    )


def _style(app: SpaceApp) -> tuple[Any, Any]:
    """A picture whose style is taken over, where the model can do that."""
    if not app.drawer.takes_style:
        return gr.State(None), gr.State(1.0)
    with gr.Accordion("Style of a picture", open=False, elem_id="paint-style"):
        picture = picture_upload(app.limits, "A picture whose style is taken over")
        scale = gr.Slider(0, 2, value=1, step=0.05, label="How much of the style")
    return picture, scale

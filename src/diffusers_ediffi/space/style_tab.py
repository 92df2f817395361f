# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The tab "Style": a prompt in the style of a picture, or variations of the picture."""

from functools import partial
from typing import Any

import gradio as gr

from ..checks import is_finite
from .controls import drawing_settings, fields_of
from .drawing import DrawRequest
from .example_pictures import example_picture
from .space_app import SpaceApp
from .tab_parts import ExampleButtons, TabExample, explanation, prompt_field, text_of
from .uploads import picture_upload

MAX_SCALE = 2.0  # what the models are trained with is 1
# picture, prompt, scale, seed, number of pictures
EXAMPLES = (
    TabExample("A car in water colour", (partial(example_picture, "sailboat"), "a red car in a meadow", 1.0, 3, 1)),
    TabExample("A snowman at night", (partial(example_picture, "mushroom"), "a snowman in the mountains", 1.0, 3, 1)),
    TabExample("A sketch of a house", (partial(example_picture, "penguin"), "a house in a meadow", 1.0, 2, 1)),
    TabExample("Variations of a picture", (partial(example_picture, "sailboat"), "", 1.0, 0, 4)),
)


def build_style_tab(app: SpaceApp) -> None:
    """Adds the tab to the page that is being built."""
    with gr.Tab("Style", id="style"), gr.Row(equal_height=False):
        with gr.Column(scale=6, min_width=320):
            explanation(
                "The prompt says what is seen, the picture says how it is drawn. Without a prompt the picture alone "
                "is varied."
            )
            examples = ExampleButtons(app, "style", EXAMPLES)
            shown = examples.first or (None, "", 1.0, 0, 1)
            picture = picture_upload(app.limits, "Style picture", value=shown[0], height=300, elem_id="style-picture")
            prompt = prompt_field(app, "style", value=shown[1], info="leave it empty for variations of the picture")
            scale = gr.Slider(
                0,
                MAX_SCALE,
                value=shown[2],
                step=0.05,
                label="How much of the style",
                info="0 ignores the picture, 1 is what the model has learned with, above it exaggerates",
                elem_id="style-scale",
            )
        with gr.Column(scale=5, min_width=320):
            panel = app.picture_panel("style")
            settings = drawing_settings(app, "style", seed=shown[3])
    examples.set([picture, prompt, scale, settings.seed, settings.num_images])
    app.on_draw(panel, [picture, prompt, scale, *settings.inputs], styled_request)


def styled_request(picture: Any, prompt: Any, scale: Any, *settings: Any) -> DrawRequest:
    """What the tab asks for.

    Raises:
        ValueError: There is no picture, or the scale is none.
    """
    if picture is None:
        raise ValueError("There is no style picture yet: upload one, or choose an example.")
    if not is_finite(scale) or not 0 <= scale <= MAX_SCALE:
        raise ValueError(f"How much of the style is {scale!r}; choose from 0 to {MAX_SCALE:g}.")
    arguments = {"style_image": picture, "style_scale": float(scale)}
    return DrawRequest(prompt=text_of(prompt) or None, arguments=arguments, **fields_of(*settings))

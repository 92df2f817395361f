# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The tab "Change a picture": image to image, and inpainting of what a visitor paints over."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import gradio as gr
from PIL import Image

from ..checks import is_finite
from ..images import as_rgb, image_size, open_image
from ..paint.scene_file import picture_of_address
from .components import component
from .controls import drawing_settings, fields_of
from .drawing import DrawRequest
from .example_pictures import example_address
from .limits import Limits
from .space_app import SpaceApp
from .tab_parts import ExampleButtons, TabExample, explanation, prompt_field, text_of

PICTURE_SIDE = 1024  # of the picture that the browser sends


def _example(name: str, mask: tuple[float, float, float, float] | None = None) -> Any:
    return lambda: {"picture": example_address(name), "mask": list(mask) if mask else None}


# picture and mask, prompt, strength, seed
EXAMPLES = (
    TabExample(
        "A balloon for the cat",
        (
            _example("cat", (0.62, 0.02, 1.0, 0.6)),
            "a cat to the left of a red balloon in a meadow, flat illustration",
            1.0,
            0,
        ),
    ),
    TabExample(
        "An apple becomes a balloon",
        (_example("apple"), "a red balloon on a dark blue background, flat illustration", 0.8, 0),
    ),
    TabExample(
        "Another animal",
        (_example("cat", (0.1, 0.02, 0.86, 0.72)), "a penguin in a meadow, flat illustration", 1.0, 1),
    ),
    TabExample("The same, redrawn", (_example("sailboat"), "a sailboat on the sea, pencil sketch", 0.7, 0)),
)


def build_edit_tab(app: SpaceApp) -> None:
    """Adds the tab to the page that is being built."""
    with gr.Tab("Change a picture", id="edit"), gr.Row(equal_height=False):
        with gr.Column(scale=6, min_width=320):
            explanation(
                "Say what the picture becomes. Paint over a part, and only that is drawn anew; without paint, "
                "the whole picture changes."
            )
            examples = ExampleButtons(app, "edit", EXAMPLES)
            shown = examples.first or ({"picture": None, "mask": None}, "", 0.8, 0)
            prompt = prompt_field(app, "edit", "What the picture becomes", value=shown[1])
            picture = picture_editor(app.limits, shown[0], "edit-picture")
            strength = gr.Slider(
                0.05,
                1,
                value=shown[2],
                step=0.05,
                label="How much is changed",
                info="a whole picture keeps its layout up to about 0.7; 1 is good for a part",
                elem_id="edit-strength",
            )
        with gr.Column(scale=5, min_width=320):
            panel = app.picture_panel("edit")
            settings = drawing_settings(app, "edit", seed=shown[3])
    examples.set([picture, prompt, strength, settings.seed])
    app.on_draw(panel, [picture, prompt, strength, *settings.inputs], partial(edit_request, app))


def picture_editor(limits: Limits, value: dict[str, Any], elem_id: str) -> gr.HTML:
    """A picture of the visitor's, with a brush for the mask. Both stay in the browser until something is drawn."""
    return component(
        "edit",
        value,
        elem_id,
        mask_size=limits.mask_size,
        picture_size=PICTURE_SIDE,
        upload_bytes=limits.upload_bytes,
    )


def edit_request(app: SpaceApp, picture: Any, prompt: Any, strength: Any, *settings: Any) -> DrawRequest:
    """What the tab asks for.

    Raises:
        ValueError: There is no picture or prompt, or they cannot be read.
    """
    picture = picture if isinstance(picture, Mapping) else {}
    if not picture.get("picture"):
        raise ValueError("There is no picture yet: choose one, or an example.")
    if not text_of(prompt):
        raise ValueError("There is nothing to draw yet: write what the picture becomes.")
    if not is_finite(strength) or not 0 < strength <= 1:
        raise ValueError(f"How much is changed is {strength!r}; choose more than 0 and at most 1.")
    image = as_rgb(_picture(picture["picture"], "the picture", PICTURE_SIDE))
    arguments: dict[str, Any] = {"image": image, "strength": float(strength)}
    mask = picture.get("mask")
    if mask:
        arguments["mask_image"] = _mask(mask, app.limits, image.size)
    kind = "inpaint" if mask else "image"
    return DrawRequest(text_of(prompt), kind, arguments=arguments, **fields_of(*settings))


def _mask(mask: Any, limits: Limits, size: tuple[int, int]) -> Image.Image:
    """What is painted, white, in the proportions of the picture."""
    if isinstance(mask, list):  # of an example that the browser has not shown yet
        return _box(mask, size)
    painted = _picture(mask, "what is painted", limits.mask_size)
    return painted.convert("L").resize(size, Image.Resampling.BILINEAR)


def _box(edges: list[Any], size: tuple[int, int]) -> Image.Image:
    if len(edges) != 4 or not all(is_finite(edge) and 0 <= edge <= 1 for edge in edges):
        raise ValueError("What is painted is no box: load the page again.")
    width, height = size
    left, top, right, bottom = edges
    mask = Image.new("L", size)
    mask.paste(255, (round(left * width), round(top * height), round(right * width), round(bottom * height)))
    return mask


def _picture(address: Any, name: str, side: int) -> Image.Image:
    """The picture in a data address, which is no larger than the page makes it.

    Raises:
        ValueError: It is, or cannot be read.
    """
    if not isinstance(address, str):
        raise ValueError(f"{name} has not arrived; load the page again.")
    file = picture_of_address(address)
    if max(image_size(file, name)) > side:
        raise ValueError(f"{name} has more than {side} x {side} pixels; make it smaller.")
    file.seek(0)
    return open_image(file, name)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The two components of our own: the canvas that a visitor paints on, and the pictures that appear."""

from importlib import resources
from typing import Any

import gradio as gr

from .limits import Limits


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def component(name: str, value: dict[str, Any], elem_id: str | None, **props: Any) -> gr.HTML:
    """A component of three files, whose value is plain JSON."""
    return gr.HTML(
        value,
        html_template=_file(f"{name}.html"),
        css_template=_file(f"{name}.css"),
        js_on_load=_file(f"{name}.js"),
        apply_default_css=False,
        elem_id=elem_id,
        **props,
    )


def paint_canvas(limits: Limits, value: dict[str, Any] | None = None, elem_id: str | None = None) -> gr.HTML:
    """The prompt, its words, the tools, the canvas and the list of layers. The value is what [`Scene.from_canvas`]
    reads and [`Scene.to_canvas`] writes."""
    empty = {"prompt": "", "layers": []}
    return component(
        "canvas",
        value or empty,
        elem_id,
        mask_size=limits.mask_size,
        max_phrases=limits.phrases,
        max_prompt=limits.prompt_length,
    )


def picture_view(elem_id: str | None = None) -> gr.HTML:
    """The pictures as they appear, a progress bar, downloads, and the pictures of the visit. The value is what
    `drawing_events.py` yields."""
    return component("pictures", {"state": "", "share": 0, "label": "", "pictures": []}, elem_id)

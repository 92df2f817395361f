# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Pictures that visitors upload: read by the package's own reader, within limits, and with messages for people."""

import html
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ..images import as_rgb, image_size, open_image
from .limits import Limits


def picture_upload(limits: Limits, label: str, **options: Any) -> gr.Image:
    """A field for a picture, whose value is a `PIL.Image.Image` in RGB, or `None`; `options` are those of
    `gradio.Image`."""
    field = gr.Image(label=label, sources=["upload", "clipboard"], type="filepath", **{"height": 220, **options})
    # A subclass would do, but Gradio writes a file of types beside the module of each.
    field.preprocess = partial(_read_field, limits)  # type: ignore[method-assign]
    return field


def _read_field(limits: Limits, payload: Any) -> Image.Image | None:
    """What the field's file holds."""
    if payload is None:
        return None
    try:
        return read_picture(payload.path or "", limits)
    except ValueError as error:
        text = html.escape(str(error))
        raise gr.Error(text, title="This picture cannot be read", print_exception=False) from None


def read_picture(path: str, limits: Limits) -> Image.Image:
    """An uploaded picture in RGB, turned as its camera was held.

    Raises:
        ValueError: It is no picture, is damaged, or has more bytes or pixels than the limits allow.
    """
    check_upload(path, limits)
    width, height = image_size(path, "the file")
    if width * height > limits.upload_pixels:
        raise ValueError(f"The picture has {width} x {height} pixels; make it smaller.")
    return as_rgb(open_image(path, "the file"), "the file")


def check_upload(path: str, limits: Limits) -> None:
    """Refuses a file that has not arrived, or is larger than the limits allow.

    Raises:
        ValueError: It is.
    """
    if not path or not Path(path).is_file():
        raise ValueError("The file has not arrived; upload it again.")
    if Path(path).stat().st_size > limits.upload_bytes:
        raise ValueError(f"The file is larger than {limits.upload_bytes // 2**20} MB; make it smaller.")

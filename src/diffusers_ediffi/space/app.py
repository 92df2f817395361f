# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The page: a tab for each thing that can be done, and one engine that draws for all of them."""

from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from .. import __version__
from .drawing import Drawer
from .edit_tab import build_edit_tab
from .inside_tab import build_inside_tab
from .limits import Limits
from .paint_tab import build_paint_tab
from .request_limit import RequestLimit
from .schedule_tab import build_schedule_tab
from .space_app import SpaceApp
from .style_tab import build_style_tab
from .theme import CSS, HEAD, THEME

DELETE_EVERY = (300, 1800)  # seconds: how often uploads are looked for, and how old those are that are deleted


def build_app(drawer: Drawer | str | None = None, limits: Limits | None = None) -> gr.Blocks:
    """The page of a model, ready for [`launch`].

    Args:
        drawer ([`Drawer`] or `str`, *optional*): The engine, or a model's folder or Hub id; the demo model by default.
        limits ([`Limits`]): What a visitor may ask for, where no engine is given.

    Raises:
        OSError, ValueError: The model cannot be loaded.
    """
    if not isinstance(drawer, Drawer):
        drawer = Drawer.load(drawer, limits=limits)
    with gr.Blocks(title="eDiff-I", delete_cache=DELETE_EVERY, analytics_enabled=False) as blocks:
        app = SpaceApp(drawer)
        gr.HTML(
            "<header class='ediffi-head'><h1>Paint with words</h1><p>Choose words of a sentence, paint where they go, "
            f"and see them drawn by <strong>{_escaped(drawer.model)}</strong>, an ensemble of expert denoisers."
            "</p></header>"
        )
        for build in _tabs(drawer):
            build(app)
        gr.HTML(
            f"<footer class='ediffi-foot'>diffusers_ediffi {__version__}, the open eDiff-I for diffusers.</footer>"
        )
        blocks.unload(app.leave)
    blocks.queue(max_size=drawer.limits.waiting, default_concurrency_limit=None, api_open=False)
    return blocks


def _tabs(drawer: Drawer) -> list[Any]:
    """What builds the tabs that this model can have, in their order."""
    if not drawer.is_ediffi:
        return [build_paint_tab]
    style = [build_style_tab] if drawer.takes_style else []
    return [build_paint_tab, *style, build_edit_tab, build_schedule_tab, build_inside_tab]


def launch(blocks: gr.Blocks, limits: Limits | None = None, **options: Any) -> Any:
    """Starts the page with its looks and limits; `options` are those of `gradio.Blocks.launch`."""
    limits = limits or Limits()
    defaults = {
        "theme": THEME,
        "css": CSS,
        "head": HEAD,
        "max_file_size": limits.upload_bytes,
        "show_error": False,
        "run_history": False,
        "footer_links": ["gradio", "settings"],
        "ssr_mode": False,
        "app_kwargs": {"middleware": [Middleware(RequestLimit, most=limits.request_bytes)]},
    }
    return blocks.launch(**{**defaults, **options})


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")

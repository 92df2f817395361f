# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What the tabs style, edit, schedule and inside share: prompts in a field, and buttons with examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from .space_app import SpaceApp


@dataclass(frozen=True)
class TabExample:
    """Values to begin with.

    Args:
        name (`str`): What its button says.
        values (`tuple`): Those of the components that [`example_buttons`] sets, in their order; pictures may be
            functions that return them.
    """

    name: str
    values: tuple[Any, ...]


def explanation(text: str) -> None:
    """A sentence that says what a tab is for."""
    gr.HTML(f"<p class='tab-about'>{text}</p>")


def prompt_field(app: SpaceApp, name: str, label: str = "What the picture shows", **options: Any) -> gr.Textbox:
    """A prompt of no more characters than the limits allow; `name` is that of the tab, in small."""
    limit = app.limits.prompt_length
    return gr.Textbox(label=label, lines=2, max_length=limit, elem_id=f"{name}-prompt", **options)


class ExampleButtons:
    """A row of buttons, put where the tab is being built, that set values; without examples nothing.

    Args:
        app ([`SpaceApp`]): Examples are in words of the demo model, so that others have none.
        name (`str`): That of the tab, in small.
        examples (`list` of [`TabExample`]): Them.
    """

    def __init__(self, app: SpaceApp, name: str, examples: Sequence[TabExample]):
        self.examples = list(examples) if app.drawer.words else []
        with gr.Row(elem_classes="ediffi-examples", elem_id=f"{name}-examples", visible=bool(self.examples)):
            self._buttons = [gr.Button(example.name, size="sm", min_width=100) for example in self.examples]

    @property
    def first(self) -> tuple[Any, ...] | None:
        """The values of the first example, which the tab shows when it opens."""
        return _values(self.examples[0]) if self.examples else None

    def set(self, outputs: Sequence[Any]) -> None:
        """Says which components get the values."""
        for button, example in zip(self._buttons, self.examples, strict=True):
            button.click(
                lambda example=example: list(_values(example)),
                outputs=list(outputs),
                queue=False,
                show_progress="hidden",
                api_visibility="private",
            )


def _values(example: TabExample) -> tuple[Any, ...]:
    return tuple(value() if callable(value) else value for value in example.values)


def text_of(value: Any) -> str:
    """What a field holds, without spaces around it."""
    return value.strip() if isinstance(value, str) else ""

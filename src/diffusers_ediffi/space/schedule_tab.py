# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The tab "Prompt schedule": words that change while the picture is drawn (Figure 4 of the paper)."""

from functools import partial
from typing import Any

import gradio as gr

from ..checks import is_finite
from .controls import drawing_settings, fields_of
from .drawing import DrawRequest
from .space_app import SpaceApp, message
from .tab_parts import ExampleButtons, TabExample, explanation, prompt_field, text_of


def _example(name: str, first: str, second: str, percent: int, seed: int = 0) -> TabExample:
    style = ", flat illustration"
    return TabExample(name, (first + style, second + style, "", percent, 70 if percent < 70 else 97, seed))


# three prompts, the percent after which the second and the third begin, seed
EXAMPLES = (
    _example("Mushroom to heart", "a red mushroom in a meadow", "a red heart in a meadow", 30),
    _example("Sun to moon", "a sun in front of mountains", "a moon in front of mountains", 45, seed=1),
    _example("Too late to change", "a red apple on a beach", "a snowman on a beach", 93),
    _example("Cat to robot", "a cat in a meadow", "a robot in a meadow", 40, seed=2),
)


def build_schedule_tab(app: SpaceApp) -> None:
    """Adds the tab to the page that is being built."""
    with gr.Tab("Prompt schedule", id="schedule"), gr.Row(equal_height=False):
        with gr.Column(scale=6, min_width=320):
            explanation(
                "Early steps lay a picture out, late ones finish it. Let the words change on the way, and see which "
                "still count."
            )
            examples = ExampleButtons(app, "schedule", EXAMPLES)
            shown = examples.first or ("", "", "", 30, 70, 0)
            first = prompt_field(app, "schedule", "First", value=shown[0])
            with gr.Group():
                second = prompt_field(app, "schedule-second", "Then", value=shown[1])
                second_at = _percent("second", shown[3])
            with gr.Group():
                third = prompt_field(app, "schedule-third", "And then", value=shown[2], info="may be left empty")
                third_at = _percent("third", shown[4])
        with gr.Column(scale=5, min_width=320):
            panel = app.picture_panel("schedule")
            settings = drawing_settings(app, "schedule", seed=shown[5])
    prompts, places = [first, second, third], [second_at, third_at]
    examples.set([*prompts, *places, settings.seed])
    app.on_draw(panel, [*prompts, *places, *settings.inputs], partial(scheduled_request, app))


def _percent(name: str, value: int) -> gr.Slider:
    return gr.Slider(
        1,
        99,
        value=value,
        step=1,
        label="Begins after so many percent of the steps",
        elem_id=f"schedule-{name}-at",
    )


def scheduled_request(
    app: SpaceApp, first: Any, second: Any, third: Any, second_at: Any, third_at: Any, *settings: Any
) -> DrawRequest:
    """What the tab asks for.

    Raises:
        ValueError: A prompt that must be there is empty, or they do not begin one after the other.
    """
    texts = [text_of(first), text_of(second), text_of(third)]
    if not texts[0]:
        raise ValueError("The first prompt is empty: write what the picture begins as.")
    schedule = [(texts[0], 0.0)]
    for text, percent in zip(texts[1:], (second_at, third_at), strict=True):
        if not text:
            continue
        if not is_finite(percent) or not 0 < percent < 100:
            raise ValueError(f"{percent!r} is no percentage of the steps; choose from 1 to 99.")
        if percent / 100 <= schedule[-1][1]:
            raise ValueError(f"“{text}” must begin after the prompt before it: move its slider to the right.")
        schedule.append((text, percent / 100))
    for text in texts:
        if complaint := app.drawer.complaint(text):
            gr.Warning(message(complaint))
    return DrawRequest(prompt=None, arguments={"prompt_schedule": schedule}, **fields_of(*settings))

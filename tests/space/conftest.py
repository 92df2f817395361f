# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What Gradio leaves open is closed."""

import asyncio

import pytest


@pytest.fixture(autouse=True)
def gradios_loops_are_closed(monkeypatch):
    """Gradio makes an event loop for each page that is built where none runs, and closes none of them."""
    made, make = [], asyncio.new_event_loop

    def new_event_loop():
        made.append(make())
        return made[-1]

    monkeypatch.setattr(asyncio, "new_event_loop", new_event_loop)
    yield
    for loop in made:
        if not loop.is_running():
            loop.close()
    if made:
        asyncio.set_event_loop(None)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A visitor of the Space: what a person does in the browser, by mouse and keyboard. Shared by space.py and a test."""

import base64
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SETTLED = "#paint-pictures .ediffi-pictures[data-state=done]"


def find_browser() -> str | None:
    """The path of a Chromium: that of the variable BROWSER_PATH, or one that is installed."""
    return os.environ.get("BROWSER_PATH") or next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium of playwright.

    Raises:
        FileNotFoundError: There is none.
    """
    from playwright.sync_api import sync_playwright

    path = find_browser()
    if path is None:
        raise FileNotFoundError("there is no Chromium: apt-get install chromium, or set BROWSER_PATH")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield chromium
        finally:
            chromium.close()


class Visitor:
    """What a person does on a page.

    Args:
        page: A page of playwright.
        address (`str`): Where the Space is.
    """

    def __init__(self, page: Any, address: str):
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector(".ediffi-canvas .word", timeout=60_000)

    def empty_canvas(self) -> None:
        """Removes all phrases by their bins."""
        while bins := self.page.query_selector_all(".layer button[aria-label^=Remove]"):
            bins[0].click()

    def write(self, prompt: str) -> None:
        self.page.fill(".ediffi-canvas .prompt", prompt)

    def choose(self, first: str, last: str | None = None) -> None:
        """Makes a phrase: a click on a word, or a drag from one to another."""
        start = self._centre(self.page.locator(".word", has_text=first).first)
        stop = self._centre(self.page.locator(".word", has_text=last).first) if last else start
        mouse = self.page.mouse
        mouse.move(*start)
        mouse.down()
        mouse.move(*stop, steps=4)
        mouse.up()

    def tool(self, name: str) -> None:
        self.page.click(f"[data-tool={name}]")

    def paint(self, box: tuple[float, float, float, float], brush: int = 120) -> None:
        """Fills a box (left, top, right, bottom) of [0, 1] by strokes of the brush from left to right."""
        self.page.locator(".brush-size").evaluate(
            "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", brush
        )
        half, (left, top, right, bottom) = brush / 1024, box
        mouse, y = self.page.mouse, top + half
        while True:
            y = min(y, bottom - half)
            mouse.move(*self._on_canvas(left + half, y))
            mouse.down()
            mouse.move(*self._on_canvas(right - half, y), steps=8)
            mouse.up()
            if y >= bottom - half - 1e-6:
                return
            y += 1.5 * half

    def drag_box(self, box: tuple[float, float, float, float]) -> None:
        """Draws a box with the tool of that name."""
        self.tool("box")
        mouse = self.page.mouse
        mouse.move(*self._on_canvas(box[0], box[1]))
        mouse.down()
        mouse.move(*self._on_canvas(box[2], box[3]), steps=6)
        mouse.up()

    def set_size(self, size: int) -> None:
        """Chooses a size, for which the settings are opened."""
        field = self.page.locator("#paint-size")
        if not field.is_visible():
            self.page.locator("#paint-settings button").first.click()
        field.get_by_label(f"{size} x {size}").check()

    def set_seed(self, seed: int) -> None:
        field = self.page.locator("#paint-seed input")
        field.fill(str(seed))
        field.press("Tab")

    def open_file(self, file: Any) -> None:
        """Uploads a file by the button below the canvas."""
        self.page.set_input_files("[data-testid='Open a scene or picture-upload-button']", file)

    def draw(self) -> None:
        self.page.click("#paint-draw")

    def wait(self, state: str, seconds: float = 120) -> None:
        """Waits for a state of the pictures: waiting, drawing, done, cancelled or failed."""
        self.page.wait_for_selector(
            f"#paint-pictures .ediffi-pictures[data-state={state}]", timeout=1000 * seconds, state="attached"
        )

    def state(self) -> str:
        return self.page.get_attribute("#paint-pictures .ediffi-pictures", "data-state") or ""

    def draw_and_wait(self, seconds: float = 120) -> Image.Image:
        """Draws, and returns the first picture."""
        self.draw()
        self.wait("drawing", seconds)
        self.wait("done", seconds)
        return self.picture()

    def picture(self) -> Image.Image:
        """The first picture that is shown, as its file is."""
        return Image.open(io.BytesIO(self.picture_file()))

    def picture_file(self) -> bytes:
        source = self.page.get_attribute("#paint-pictures figure img", "src") or ""
        return base64.b64decode(source.partition(",")[2])

    def message(self, seconds: float = 20) -> str:
        """The text of the message that the page shows."""
        toast = self.page.wait_for_selector(".toast-body", timeout=1000 * seconds)
        return str(toast.inner_text())

    @staticmethod
    def _centre(locator: Any) -> tuple[float, float]:
        box = locator.bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def _on_canvas(self, x: float, y: float) -> tuple[float, float]:
        canvas = self.page.locator(".ediffi-canvas .paper")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

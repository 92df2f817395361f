# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The whole way in a real browser, with the demo model: type, make a phrase, paint it, draw, cancel."""

import re
from pathlib import Path

import numpy as np
import pytest
from helpers_space import served, visitor_module

from diffusers_ediffi import demo_checkpoint, read_provenance
from diffusers_ediffi.demo.scorer import SceneScorer

visitors = visitor_module()
PROMPT = "a red car on a yellow background, flat illustration"
BOX = (0.04, 0.5, 0.54, 0.96)  # left, top, right, bottom


@pytest.fixture
def visitor():
    if visitors.find_browser() is None:
        pytest.skip("there is no Chromium: apt-get install chromium, or set BROWSER_PATH")
    with served() as address, visitors.browser() as browser:
        yield visitors.Visitor(browser.new_page(viewport={"width": 1280, "height": 1000}), address)


def overlap_with_box(picture):
    """How well the car lies in the box, and whether it is the object that the scorer sees."""
    scorer = SceneScorer.from_pretrained(Path(demo_checkpoint()).with_name("scorer")).eval()
    left, top, right, bottom = (round(64 * edge) for edge in BOX)
    mask = np.zeros((64, 64), np.float32)
    mask[top:bottom, left:right] = 1
    prediction = scorer.predict([picture.convert("RGB")])
    phrases = list(scorer.config.phrases)
    likeliest = phrases[int(prediction["presence"][0].argmax())]
    return scorer.layout([picture.convert("RGB")], [{"red car": mask}])[0]["red car"][0], likeliest


def test_a_painted_word_is_drawn_where_it_was_painted(visitor, tmp_path):
    visitor.empty_canvas()
    visitor.write(PROMPT)
    visitor.set_size(64)
    visitor.set_seed(1)
    plain, _ = overlap_with_box(visitor.draw_and_wait())

    visitor.choose("red", "car")
    assert visitor.page.locator(".layer .name").inner_text().split("\n")[0] == "red car"
    visitor.paint(BOX)
    painted, likeliest = overlap_with_box(visitor.draw_and_wait())
    assert likeliest == "red car"
    assert painted >= max(2 * plain, 0.4)

    file = tmp_path / "picture.png"
    file.write_bytes(visitor.picture_file())
    settings = read_provenance(file).settings
    assert (settings["prompt"], settings["seed"]) == (PROMPT, 1)
    assert settings["regions"][0]["phrase"] == "red car"

    visitor.set_size(1024)
    visitor.draw()
    said = visitor.page.locator("#paint-pictures .state", has_text=re.compile("step [2-9] of 25"))
    said.wait_for(timeout=60_000)
    visitor.page.click("#paint-cancel")
    visitor.wait("cancelled", 30)
    assert visitor.picture().size == (64, 64)  # what was there stays to be seen
    visitor.set_size(64)
    assert visitor.draw_and_wait(60).size == (64, 64)  # and the next is drawn
    assert not visitor.errors

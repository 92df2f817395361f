# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What the tests of the examples share."""

import json
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def objects(tmp_path) -> Path:
    """A folder of three coloured squares."""
    folder = tmp_path / "objects"
    folder.mkdir()
    for i in range(3):
        Image.new("RGBA", (48, 48), (80 * i, 255 - 80 * i, 128, 255)).save(folder / f"{i}.png")
    phrases = ("rocket", "sun", "moon")  # words that the demo's scorer knows
    index = [{"file": f"{i}.png", "phrase": phrase} for i, phrase in enumerate(phrases)]
    (folder / "index.json").write_text(json.dumps(index))
    return folder

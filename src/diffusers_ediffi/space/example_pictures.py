# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Pictures to begin with. The demo model drew them, as each file says: `ediffi info sailboat.webp`."""

import base64
from pathlib import Path

from PIL import Image

from ..images import as_rgb, open_image

FOLDER = Path(__file__).parent


def example_picture(name: str) -> Image.Image:
    """One of them in RGB: `sailboat`, `mushroom`, `penguin`, `cat` or `apple`."""
    return as_rgb(open_image(FOLDER / f"{name}.webp"))


def example_address(name: str) -> str:
    """The same as a data address."""
    return f"data:image/webp;base64,{base64.b64encode((FOLDER / f'{name}.webp').read_bytes()).decode()}"

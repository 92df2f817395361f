# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Scene files: a prompt and its regions as JSON, whose masks are boxes, or pictures beside it or in it.

    {"prompt": "a red apple and a rocket", "strength": 0.3, "regions": [
        {"phrase": "red apple", "mask": [0, 0.3, 0.5, 1]}, {"phrase": "rocket", "mask": "rocket.png", "weight": 1.5}]}

Inside of the file a mask is a data address, `data:image/png;base64,...`. Scenes may come from strangers.
"""

import base64
import binascii
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..images import as_rgb, file_in_folder, image_size, open_image
from .masks import DATA, MAX_PIXELS, check_pixels
from .regions import NOT_KEPT, PaintRegion, region_from_dict

MAX_SCENE_BYTES = 2**24
MAX_COLOR = 64  # by how much red, green and blue of a mask may differ, of 255: photos of drawings are not quite gray
KNOWN = {"prompt", "regions", "strength"}


def read_scene(path: Path) -> dict[str, Any]:
    """The entries of a scene file, its regions as [`PaintRegion`].

    Raises:
        ValueError: The file is too large, is not a scene, or a mask of it cannot be read.
    """
    if path.stat().st_size > MAX_SCENE_BYTES:
        raise ValueError(f"{str(path)!r} has more than {MAX_SCENE_BYTES} bytes; give masks as pictures beside it.")
    return scene_from_json(path.read_bytes(), repr(str(path)), path.parent)


def scene_from_json(
    data: bytes, name: str, folder: Path | None = None, most_pixels: int = MAX_PIXELS
) -> dict[str, Any]:
    """The entries of a scene, its regions as [`PaintRegion`].

    Args:
        data (`bytes`): JSON.
        name (`str`): What errors call it.
        folder (`Path`, *optional*): Where its pictures lie; without one, all masks must be boxes or lie in the scene.
        most_pixels (`int`): Of all its pictures together.

    Raises:
        ValueError: It is not a scene, or a mask of it cannot be read.
    """
    try:
        scene = json.loads(data.decode("utf-8-sig"))  # editors of Windows mark their files
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON: {error}") from None
    regions = scene.get("regions") if isinstance(scene, dict) else None
    if not isinstance(regions, list) or set(scene) - KNOWN or not all(isinstance(entry, dict) for entry in regions):
        raise ValueError(f'{name} must be {{"prompt": ..., "regions": [{{"phrase": ..., "mask": ...}}, ...]}}.')
    return {**scene, "regions": _read_regions(regions, name, folder, most_pixels)}


def regions_from_settings(settings: Any, name: str = "the scene") -> list[PaintRegion]:
    """The regions of a picture's provenance, as [`region_settings`] wrote them.

        >>> regions = regions_from_settings([{"phrase": "red apple", "mask": [0, 0.3, 0.5, 1]}])

    Args:
        settings (`list` of `dict`): The arguments of each region: `read_provenance(path).settings["regions"]`.
        name (`str`): What errors call the picture.

    Raises:
        ValueError: They are not those of regions, or a mask is not in the file or cannot be read.
    """
    if not isinstance(settings, list) or not all(isinstance(entry, dict) for entry in settings):
        raise ValueError(f'the regions of {name} must be a list such as [{{"phrase": ..., "mask": ...}}].')
    for entry in settings:
        if entry.get("mask") == NOT_KEPT:
            raise ValueError(f"the mask of {entry.get('phrase')!r} is not in {name}; paint it again.")
    return _read_regions(settings, name)


def _read_regions(
    regions: list[dict[str, Any]], name: str, folder: Path | None = None, most_pixels: int = MAX_PIXELS
) -> list[PaintRegion]:
    """The regions of a scene, none of whose pictures is read if they are too large together."""
    files = [_mask_file(entry["mask"], folder) for entry in regions if isinstance(entry.get("mask"), str)]
    sizes = [image_size(file, _name(file)) for file in files]
    check_pixels(*((height, width) for width, height in sizes), name=f"{name} with all its masks ", most=most_pixels)
    return [_read_region(folder, entry) for entry in regions]


def check_colorless(mask: Image.Image, name: str) -> None:
    """Refuses a mask in red, say, of which nobody knows how much of it is inside.

    Raises:
        ValueError: The mask has colours.
    """
    if mask.mode in ("1", "L", "LA") or mask.mode.startswith(("I", "F")):
        return
    small = mask.resize((min(mask.width, 512), min(mask.height, 512)), Image.Resampling.NEAREST)
    pixels = np.asarray(as_rgb(small)).astype(int)
    low, high = pixels.min(axis=-1), pixels.max(axis=-1)
    if (high - low).max() > MAX_COLOR:
        raise ValueError(f"the mask {name} has colours; paint white what is inside, and black what is not.")


def picture_of_address(address: str) -> io.BytesIO:
    """The file in a data address.

    Raises:
        ValueError: It holds none.
    """
    head, _, data = address.partition(",")
    if not head.startswith(DATA) or not head.endswith(";base64"):
        raise ValueError(f"the mask {address[:40]!r}... is no picture; a picture begins with {DATA}png;base64,")
    try:
        return io.BytesIO(base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"the mask {address[:40]!r}... is damaged: {error}") from None


def _mask_file(mask: str, folder: Path | None) -> Path | io.BytesIO:
    if mask.startswith(DATA):
        return picture_of_address(mask)
    if folder is None:
        raise ValueError(
            f"the mask {mask[:80]!r} is a file beside the scene, which is not here: put it into the scene."
        )
    return file_in_folder(folder, mask)


def _name(file: Path | io.BytesIO) -> str:
    return "a mask in the scene" if isinstance(file, io.BytesIO) else repr(str(file))


def _read_region(folder: Path | None, entry: Mapping[str, Any]) -> PaintRegion:
    """A region of a scene, whose mask may be a picture."""
    if isinstance(entry.get("mask"), str):
        file = _mask_file(entry["mask"], folder)
        mask = open_image(file, _name(file))
        check_colorless(
            mask, repr(entry["mask"]) if not isinstance(file, io.BytesIO) else f"of {entry.get('phrase')!r}"
        )
        entry = {**entry, "mask": mask}
    return region_from_dict(entry)

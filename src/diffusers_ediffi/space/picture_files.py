# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Pictures as a browser gets them: the bytes of a file in a data address, so that no file lies on the server."""

import base64
import io
from typing import Any

from PIL import Image

from ..paint.regions import region_settings
from ..provenance import (
    COMPOSITE_WITH_TRAINED_ALGORITHMIC_MEDIA,
    TRAINED_ALGORITHMIC_MEDIA,
    Provenance,
    image_bytes,
)
from .drawing import DrawRequest

PREVIEW_QUALITY = 80


def preview_address(image: Image.Image) -> str:
    """A picture as it looks now, small and quickly made."""
    file = io.BytesIO()
    if image.width <= 64:
        image.save(file, "PNG", compress_level=1)
        return _address("png", file.getvalue())
    image.save(file, "JPEG", quality=PREVIEW_QUALITY)
    return _address("jpeg", file.getvalue())


def picture_address(image: Image.Image, request: DrawRequest, model: str, index: int, blackened: bool = False) -> str:
    """A finished picture as a PNG that says how it was made."""
    return _address("png", image_bytes(image, ".png", provenance_of(request, model, index, blackened)))


def provenance_of(request: DrawRequest, model: str, index: int = 0, blackened: bool = False) -> Provenance:
    """How picture number `index` of a request was made: enough to draw it again, and to paint on; `blackened` says
    that a safety checker objected to it."""
    call = request.arguments
    is_edit = "image" in call
    settings = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt or None,
        "seed": request.seed + index,
        "model": model,
        "size": request.size,
        "steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "style_image": True if call.get("style_image") is not None else None,
        "style_scale": call.get("style_scale") if call.get("style_image") is not None else None,
        "prompt_schedule": call.get("prompt_schedule"),
        "regions": region_settings(call["regions"]) if call.get("regions") else None,
        "region_strength": call.get("region_strength") if call.get("regions") else None,
        "image": True if is_edit else None,
        "mask_image": True if "mask_image" in call else None,
        "strength": call.get("strength"),
        "nsfw_content_detected": True if blackened else None,
    }
    source = COMPOSITE_WITH_TRAINED_ALGORITHMIC_MEDIA if is_edit else TRAINED_ALGORITHMIC_MEDIA
    return Provenance(_plain(settings), digital_source_type=source)


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def _address(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"

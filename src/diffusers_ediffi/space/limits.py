# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What a visitor may ask for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds on what strangers ask of a shared machine; each is checked before anything expensive.

    Args:
        prompt_length (`int`): Characters of a prompt.
        images (`int`): Pictures of one click.
        pixels (`int`): Of all pictures of one click.
        steps (`int`): Of the base stage, or of a pipeline of diffusers.
        guidance (`float`), strength (`float`): The highest guidance, and strength of regions.
        phrases (`int`): Painted phrases of a scene.
        mask_size (`int`): Height and width of the masks that the canvas sends.
        upload_bytes (`int`): Of an uploaded file.
        upload_pixels (`int`): Of an uploaded picture.
        request_bytes (`int`): Of a click: the canvas with all its masks.
        waiting (`int`): Visitors that wait for their turn; more are told to come back.
    """

    prompt_length: int = 500
    images: int = 4
    pixels: int = 4 * 1024**2
    steps: int = 100
    guidance: float = 20.0
    strength: float = 2.0
    phrases: int = 12
    mask_size: int = 512
    upload_bytes: int = 8 * 2**20
    upload_pixels: int = 4096**2
    request_bytes: int = 8 * 2**20
    waiting: int = 40

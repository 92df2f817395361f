# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A stage's network at one step: which images pass it at a time, and what it is called with."""

from collections.abc import Iterator
from typing import Any

import torch

from .guidance import Guidance
from .inputs import Embeddings
from .stages import Stage


def batches(sample: torch.Tensor, guidance: Guidance, pixels_per_call: int) -> Iterator[slice]:
    """Which images of a sample (images, 3, height, width) pass the network at a time.

    An image may have two rows in the network's batch; with more of them fewer images pass.
    """
    pixels = max(2, len(guidance.rows)) * sample.shape[-1] * sample.shape[-2]
    count = max(1, 2 * pixels_per_call // pixels)
    for start in range(0, len(sample), count):
        yield slice(start, start + count)


def network_input(
    stage: Stage, guidance: Guidance, model_input: torch.Tensor, low_res: torch.Tensor | None
) -> torch.Tensor:
    """The network's sample: the scaled noisy images (images, 3, height, width), beside their low-resolution images in
    super-resolution, once for each row of guidance: (rows x images, 3 or 6, height, width)."""
    x = model_input if low_res is None else torch.cat([model_input, low_res], dim=1)
    return torch.cat([x] * len(guidance.rows)).to(stage.unet.dtype)


def network_conditions(
    stage: Stage, guidance: Guidance, embeds: Embeddings, images: slice, x: torch.Tensor
) -> dict[str, Any]:
    """The network's arguments beside sample `x` and timestep: what each row is conditioned on, and the noise on the
    low-resolution image where the network is told it."""
    conditions = guidance.conditions(embeds, images, stage.unet.dtype)
    if stage.noise_level is not None:
        conditions["class_labels"] = torch.full((len(x),), stage.noise_level, device=x.device)
    return conditions


def select_painted(stage: Stage, guidance: Guidance, images: slice, num_images: int) -> None:
    """Tells the stage's painting which of all images the network is called with."""
    if stage.painting is None:
        return
    prompts = len(stage.painting.regions)
    of_images = [image * prompts // num_images for image in range(num_images)]
    stage.painting.select(of_images[images], *guidance.painted_rows())

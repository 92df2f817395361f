# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Noise conditioning augmentation: super-resolution learns from noisy inputs and is told how noisy they are.

See [`augment_low_res`] for its sources; a network takes part in it if its configuration has a `max_noise_level`.
"""

from typing import Any

import torch

from ..edm import noisy_residual
from ..models.low_res import augment_low_res
from .launch import Share


def augment_batch(
    config: Any,
    low_res: torch.Tensor | None,
    conditioning: dict[str, Any],
    generator: torch.Generator,
    share: Share,
) -> tuple[torch.Tensor | None, dict[str, Any], Any]:
    """Gives each low-resolution image noise of a random level up to `max_noise_level`.

    Args:
        config: The configuration of the network; without `max_noise_level` the batch stays as it is.
        low_res (`torch.Tensor`, *optional*): The upsampled low-resolution images, `(batch, 3, height, width)`.
        conditioning (`dict`): Keyword arguments of the network.
        generator (`torch.Generator`): Draws the levels and the noise.
        share ([`Share`]): Of this process in what is drawn.

    Returns:
        The noisy images, the conditioning that tells their levels, and the standard deviation `sigma_residual` of the
        images minus the noisy ones, a number or `(batch,)`; `None` for a network that does not use it.
    """
    residual = config.sigma_residual
    if low_res is None or config.max_noise_level is None:
        return low_res, conditioning, residual
    size, shape = len(low_res), low_res.shape[1:]
    where: dict[str, Any] = {"generator": generator, "device": generator.device}
    level = config.max_noise_level * share.of(lambda number: torch.rand(number, **where), size)
    noise = share.of(lambda number: torch.randn(number, *shape, **where), size)
    return *with_noise(low_res, level, noise, conditioning), residual and noisy_residual(residual, level)


def with_noise(
    low_res: torch.Tensor, level: torch.Tensor, noise: torch.Tensor, conditioning: dict[str, Any]
) -> tuple[torch.Tensor, dict[str, Any]]:
    """The low-resolution images with noise of the levels `(batch,)`, and the conditioning that tells the levels."""
    return augment_low_res(low_res, noise.to(low_res), level), {**conditioning, "class_labels": level}

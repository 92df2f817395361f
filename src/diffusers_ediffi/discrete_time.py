# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What the timesteps of a discrete-time model, such as Stable Diffusion, mean in sigma."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from diffusers import DDPMScheduler

# The settings of diffusers' schedulers that decide it.
BETA_SETTINGS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)


def has_betas(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler's configuration is that of a discrete-time model; `EDMDEISScheduler` may have no betas."""
    return any(config.get(name) is not None for name in ("beta_schedule", "trained_betas"))


def discrete_time_model(betas: Mapping[str, Any]) -> DDPMScheduler:
    """What holds `betas` and `alphas_cumprod` of some of `BETA_SETTINGS`; the others have the defaults of
    `DDPMScheduler`."""
    return DDPMScheduler(**betas)


def log_sigmas(betas: Mapping[str, Any]) -> np.ndarray:
    """ln(sigma) of every timestep, increasing: sigma = sqrt((1 - alpha_bar) / alpha_bar), float64 `(timesteps,)`.

    Args:
        betas (`dict`): Some of `BETA_SETTINGS`.
    """
    alphas_cumprod = discrete_time_model(betas).alphas_cumprod.double()
    # Zero terminal signal-to-noise ratio would be an infinite sigma; the limit is that of diffusers.
    alphas_cumprod = alphas_cumprod.clamp(min=2.0**-24)
    return (((1 - alphas_cumprod) / alphas_cumprod).log() / 2).numpy()

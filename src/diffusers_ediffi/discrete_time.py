# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Whether a scheduler's timesteps are the steps of a discrete-time model, such as Stable Diffusion, and what these
mean in sigma."""

import inspect
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler

from .checks import is_finite, is_number

# The settings of diffusers' schedulers that decide it.
BETA_SETTINGS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace")
MAX_TRAIN_TIMESTEPS = 100_000  # a hundred times what models have: one number of a file must not take all memory


def takes_c_noise(scheduler: Any) -> bool:
    """Whether a scheduler's timesteps are c_noise = ln(sigma) / 4; otherwise they are steps of a discrete-time model.

    Raises:
        ValueError: They are neither.
    """
    settings = settings_of(scheduler)
    if (has_betas(settings) or hasattr(scheduler, "alphas_cumprod")) and not settings.get("use_flow_sigmas"):
        return is_continuous(settings)
    if "sigma_data" in settings and hasattr(scheduler, "precondition_noise"):
        if scheduler.precondition_noise(torch.tensor(1.0)) == 0:  # ln(1); others have another formula
            return True
    raise ValueError(
        f"the noise levels of {type(scheduler).__name__} are not known: its timesteps are neither the steps of a "
        "discrete-time model nor EDM's ln(sigma) / 4; use another, such as DPMSolverMultistepScheduler."
    )


def settings_of(scheduler: Any) -> dict[str, Any]:
    """The entries of a scheduler's configuration that its class reads; `from_config` keeps those of others as well."""
    known = inspect.signature(type(scheduler).__init__).parameters
    return {name: value for name, value in scheduler.config.items() if name in known}


def has_betas(settings: Mapping[str, Any]) -> bool:
    """Whether a scheduler's settings are those of a discrete-time model; `EDMDEISScheduler` may have no betas."""
    return any(settings.get(name) is not None for name in ("beta_schedule", "trained_betas"))


def is_continuous(settings: Mapping[str, Any]) -> bool:
    """Whether a model with betas is called with c_noise all the same, as Stable Video Diffusion is."""
    return settings.get("timestep_type") == "continuous" and settings.get("prediction_type") == "v_prediction"


def betas_of(scheduler: Any) -> dict[str, Any] | None:
    """Those of `BETA_SETTINGS` that say what a scheduler's timesteps mean; `None` where they are c_noise.

    Raises:
        ValueError: It has neither betas nor EDM's sigmas.
    """
    settings = settings_of(scheduler)
    if takes_c_noise(scheduler):
        return None
    if not has_betas(settings):
        raise ValueError(f"{type(scheduler).__name__} does not say its betas; use DDIMScheduler.")
    return {name: settings[name] for name in BETA_SETTINGS if name in settings}


def log_sigmas(betas: Mapping[str, Any]) -> np.ndarray:
    """ln(sigma) of every timestep, increasing: sigma = sqrt((1 - alpha_bar) / alpha_bar), float64 `(timesteps,)`.

    Args:
        betas (`dict`): Some of `BETA_SETTINGS`; the others have the defaults of `DDPMScheduler`.

    Raises:
        ValueError: They are not those of a model.
    """
    alphas = alphas_cumprod(betas).double()
    # Zero terminal signal-to-noise ratio would be an infinite sigma; the limit is that of diffusers. It does not hold
    # for others: IF's betas end at sigma 20291.
    alphas = alphas.where(alphas > 0, 2.0**-24).cummin(0).values
    return (((1 - alphas) / alphas).log() / 2).numpy()


def timesteps_of(sigma: torch.Tensor, log_sigmas: np.ndarray) -> torch.Tensor:
    """The timesteps of noise levels, interpolated in ln(sigma); of the same shape and type."""
    indices = np.arange(len(log_sigmas))
    return torch.as_tensor(np.interp(sigma.double().log().cpu().numpy(), log_sigmas, indices)).to(sigma)


def sigmas_of(timesteps: torch.Tensor, log_sigmas: np.ndarray) -> torch.Tensor:
    """The inverse of `timesteps_of`, float32 on the CPU."""
    return torch.as_tensor(np.interp(timesteps.numpy(), np.arange(len(log_sigmas)), log_sigmas)).exp().float()


def alphas_cumprod(betas: Mapping[str, Any]) -> torch.Tensor:
    """alpha_bar of every timestep, decreasing, float32 `(timesteps,)`; see `log_sigmas`."""
    return discrete_time_model(betas).alphas_cumprod


def discrete_time_model(betas: Mapping[str, Any]) -> DDPMScheduler:
    """What holds the `betas` and `alphas_cumprod` of a model; see `log_sigmas`."""
    _check_betas(betas)
    model = DDPMScheduler(**betas)
    if not ((model.alphas_cumprod >= 0) & (model.alphas_cumprod < 1)).all():
        raise ValueError(f"with the betas {dict(betas)} there are timesteps without noise; they must lie in (0, 1].")
    return model


def _check_betas(betas: Mapping[str, Any]) -> None:
    """Refuses what are no beta settings, before anything is laid out."""
    check_train_timesteps(betas.get("num_train_timesteps", 1))
    trained = betas.get("trained_betas")
    if trained is None and betas.get("beta_schedule", "linear") not in BETA_SCHEDULES:
        raise ValueError(f"beta_schedule={betas['beta_schedule']!r} is unknown; choose from {BETA_SCHEDULES}.")
    for name in ("beta_start", "beta_end"):
        if not _is_beta(betas.get(name, 0)):
            raise ValueError(f"{name}={betas[name]!r} must be a number from 0 to 1.")
    if trained is not None and not (isinstance(trained, Sequence | np.ndarray) and _are_betas(trained)):
        raise ValueError(f"trained_betas={trained!r} must list a number from 0 to 1 for each timestep.")


def _are_betas(values: Sequence[Any] | np.ndarray) -> bool:
    return len(values) > 0 and all(map(_is_beta, values))


def _is_beta(value: Any) -> bool:
    return is_finite(value) and 0 <= value <= 1


def check_train_timesteps(steps: Any) -> None:
    """Refuses what is not a number of a model's timesteps."""
    if not is_number(steps, Integral) or not 1 <= steps <= MAX_TRAIN_TIMESTEPS:
        raise ValueError(f"num_train_timesteps={steps!r} must be a whole number from 1 to {MAX_TRAIN_TIMESTEPS}.")

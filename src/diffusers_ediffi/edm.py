# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Preconditioning, noise distribution and sigma grids of EDM (Karras et al. 2022), as eDiff-I uses them (section 3).

An image is corrupted to `x = x_clean + sigma * noise`. The network `F` sees `c_in * x` and `c_noise`; the denoiser is

    D(x; sigma) = c_skip(sigma) * x + c_out(sigma) * F(c_in(sigma) * x, c_noise(sigma))

Every function takes a float or a tensor `sigma` (the noise's standard deviation, images in [-1, 1]) and returns the
same kind in the same dtype. Pure PyTorch; imports nothing of this package.
"""

import math
import sys
from typing import Any, TypeVar

import torch

SIGMA_DATA = 0.5  # standard deviation of the training images
P_MEAN = -1.2  # ln(sigma) ~ N(P_MEAN, P_STD) in training
P_STD = 1.2
SIGMA_MIN = 0.002
SIGMA_MAX = 80.0
MAX_LOG = math.log(sys.float_info.max)

FloatOrTensor = TypeVar("FloatOrTensor", float, torch.Tensor)


def c_skip(sigma: FloatOrTensor, sigma_data: float = SIGMA_DATA) -> FloatOrTensor:
    """How much of the noisy image is kept, sigma_data^2 / (sigma^2 + sigma_data^2): 1 without noise, 0 in pure
    noise."""
    return sigma_data**2 / (sigma**2 + sigma_data**2)


def c_out(sigma: FloatOrTensor, sigma_data: float = SIGMA_DATA) -> FloatOrTensor:
    """Scale of the network's output: sigma for little noise, sigma_data for much."""
    return sigma * sigma_data / (sigma**2 + sigma_data**2) ** 0.5


def c_in(sigma: FloatOrTensor, sigma_data: Any = SIGMA_DATA) -> FloatOrTensor:
    """Scale of the network's input: brings the noisy image to unit variance."""
    return 1 / (sigma**2 + sigma_data**2) ** 0.5


def c_noise(sigma: FloatOrTensor) -> FloatOrTensor:
    """The network's `timestep`: ln(sigma) / 4.

    Raises:
        ValueError: A float `sigma` is not positive (a tensor gives -inf or NaN, as `torch.log` does).
    """
    if isinstance(sigma, torch.Tensor):
        return sigma.log() / 4
    if not sigma > 0:
        raise ValueError(f"c_noise needs sigma > 0, got {sigma}: the network has no input for an image without noise.")
    return math.log(sigma) / 4


def sigma_from_c_noise(timestep: FloatOrTensor) -> FloatOrTensor:
    """The inverse of `c_noise`: exp(4 timestep)."""
    return (4 * timestep).exp() if isinstance(timestep, torch.Tensor) else math.exp(4 * timestep)


def loss_weight(sigma: FloatOrTensor, sigma_data: float = SIGMA_DATA) -> FloatOrTensor:
    """lambda(sigma) = 1 / c_out^2: the weight of the squared error of D that gives the squared error of F weight 1."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def expand_as(sigma: float | torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """Views a `(batch,)` sigma as `(batch, 1, 1, 1)`, and a float as a scalar tensor: both broadcast over `sample`."""
    if not isinstance(sigma, torch.Tensor):
        return torch.tensor(sigma, dtype=torch.float64)  # a scalar tensor does not change the dtype of `sample`
    return sigma.view(-1, *(1,) * (sample.ndim - 1)) if sigma.ndim == 1 else sigma


def denoised_from_model_output(
    model_output: torch.Tensor, sample: torch.Tensor, sigma: float | torch.Tensor, sigma_data: float = SIGMA_DATA
) -> torch.Tensor:
    """The denoised image D from the network's raw output F.

    Args:
        model_output (`torch.Tensor`): F, `(batch, channels, height, width)`.
        sample (`torch.Tensor`): The noisy image x (not scaled by c_in), of the same shape.
        sigma (`float` or `torch.Tensor`): Its noise level, a number, a scalar tensor or `(batch,)`.
        sigma_data (`float`): Standard deviation of the training images.

    Returns:
        D, of the same shape.
    """
    sigma = expand_as(sigma, sample)
    return c_skip(sigma, sigma_data) * sample + c_out(sigma, sigma_data) * model_output


def residual_coefficients(
    sigma: FloatOrTensor, sigma_data: float = SIGMA_DATA, sigma_residual: Any = SIGMA_DATA
) -> tuple[FloatOrTensor, FloatOrTensor, FloatOrTensor]:
    """How F of an image is made of F_r, the output of a network that denoises image - low_res instead.

    The same preconditioning, with `sigma_residual` for `sigma_data`, applied to x - low_res and solved for F:

        D = low_res + c_skip_r (x - low_res) + c_out_r F_r = c_skip x + c_out F,
        F = skip * (c_in x) + shift * low_res + scale * F_r

    written so that nothing cancels at small sigma. With much noise F_r = 0 means D = low_res.

    Args:
        sigma (`float` or `torch.Tensor`): The noise level.
        sigma_data (`float`): Standard deviation of the images.
        sigma_residual (`float` or `torch.Tensor`): Standard deviation of image - low_res, for all or for each sigma.

    Returns:
        skip, shift and scale; scale^2 is also how much a squared error of F_r weighs in a squared error of F.
    """
    image = sigma**2 + sigma_data**2
    residual = sigma**2 + sigma_residual**2
    skip = sigma * (sigma_residual**2 - sigma_data**2) / (residual * sigma_data)
    shift = sigma * image**0.5 / (residual * sigma_data)
    scale = sigma_residual / sigma_data * (image / residual) ** 0.5
    return skip, shift, scale


def noisy_residual(sigma_residual: float, noise_level: FloatOrTensor) -> FloatOrTensor:
    """Standard deviation of image - low_res once noise of the standard deviation `noise_level` is on low_res."""
    return (sigma_residual**2 + noise_level**2) ** 0.5


def sigma_quantile(q: FloatOrTensor, p_mean: float = P_MEAN, p_std: float = P_STD) -> FloatOrTensor:
    """The sigma below which the share `q` of p(sigma) lies (section 4.1); 0 at q = 0, infinity at q = 1.

    Near q = 1 float32 has few values left: pass float64, or use the symmetry as `NoiseInterval.sample` does.

    Raises:
        ValueError: A float `q` lies outside [0, 1].
    """
    if isinstance(q, torch.Tensor):
        return torch.exp(p_mean + p_std * torch.special.ndtri(q))
    if not 0 <= q <= 1:
        raise ValueError(f"A quantile lies in [0, 1], got {q}.")
    log_sigma = p_mean + p_std * torch.special.ndtri(torch.tensor(q, dtype=torch.float64)).item()
    return math.exp(log_sigma) if log_sigma < MAX_LOG else math.inf


def sigma_cdf(sigma: FloatOrTensor, p_mean: float = P_MEAN, p_std: float = P_STD) -> FloatOrTensor:
    """The share of p(sigma) below `sigma`: the inverse of `sigma_quantile`.

    Raises:
        ValueError: A float `sigma` is negative.
    """
    if isinstance(sigma, torch.Tensor):
        return torch.special.ndtr((sigma.log() - p_mean) / p_std)
    if not sigma >= 0:
        raise ValueError(f"sigma must be 0 or more, got {sigma}.")
    z = (math.log(sigma) - p_mean) / p_std if sigma > 0 else -math.inf
    # erfc keeps its precision in the lower tail, where 1 + erf does not.
    return 0.5 * math.erfc(-z / math.sqrt(2))


def karras_sigmas(
    num_steps: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = 7.0
) -> torch.Tensor:
    """The grid of Karras et al., equation 5: float64 `(num_steps,)`, from `sigma_max` down to `sigma_min`, no final 0.

    Raises:
        ValueError: `num_steps` is below 1, or not 0 < sigma_min < sigma_max.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}.")
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(f"Need 0 < sigma_min < sigma_max, got sigma_min={sigma_min} and sigma_max={sigma_max}.")
    ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    highest, lowest = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return (highest + ramp * (lowest - highest)) ** rho

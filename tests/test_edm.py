# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""EDM's preconditioning against closed forms."""

import math

import pytest
import torch
from diffusers import EDMEulerScheduler

from diffusers_ediffi.edm import (
    P_MEAN,
    c_in,
    c_noise,
    c_out,
    c_skip,
    denoised_from_model_output,
    karras_sigmas,
    loss_weight,
    residual_coefficients,
    sigma_cdf,
    sigma_quantile,
)

SIGMAS = torch.tensor([0.002, 0.0757, 0.5, 9.61, 80.0], dtype=torch.float64)


def test_gaussian_data_needs_no_network():
    """Of data N(0, s^2) the best denoiser is s^2 / (s^2 + sigma^2) x: with sigma_data = s, F = 0 gives it."""
    noisy = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    best = 0.3**2 / (0.3**2 + SIGMAS**2)
    denoised = denoised_from_model_output(torch.zeros_like(noisy), noisy, SIGMAS, sigma_data=0.3)
    torch.testing.assert_close(denoised, best.view(-1, 1, 1, 1) * noisy)


def test_gaussian_data_of_another_width():
    """With s != sigma_data the best F is linear in x, and D comes out as the closed form all the same."""
    s, sigma_data = 1.5, 0.5
    noisy = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    shape = (-1, 1, 1, 1)
    best = (s**2 / (s**2 + SIGMAS**2)).view(shape) * noisy
    model_output = (best - c_skip(SIGMAS, sigma_data).view(shape) * noisy) / c_out(SIGMAS, sigma_data).view(shape)
    torch.testing.assert_close(denoised_from_model_output(model_output, noisy, SIGMAS, sigma_data), best)


def test_exact_model_output_recovers_the_clean_image():
    clean, noise = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64)
    sigma = SIGMAS.view(-1, 1, 1, 1)
    noisy = clean + sigma * noise
    exact = (clean - c_skip(sigma) * noisy) / c_out(sigma)
    torch.testing.assert_close(denoised_from_model_output(exact, noisy, SIGMAS), clean)


def test_denoising_the_difference_is_denoising_the_image():
    """F made of F_r gives low_res + D_r(x - low_res), and an exact F_r the clean image."""
    s_r = 0.08
    clean, low_res, noise, network = torch.randn(4, 5, 3, 4, 4, dtype=torch.float64)
    sigma = SIGMAS.view(-1, 1, 1, 1)
    noisy = clean + sigma * noise
    skip, shift, scale = residual_coefficients(sigma, 0.5, s_r)

    def denoised(f_r: torch.Tensor) -> torch.Tensor:
        model_output = skip * c_in(sigma) * noisy + shift * low_res + scale * f_r
        return denoised_from_model_output(model_output, noisy, SIGMAS)

    expected = low_res + denoised_from_model_output(network, noisy - low_res, SIGMAS, sigma_data=s_r)
    torch.testing.assert_close(denoised(network), expected)
    exact = (clean - low_res - c_skip(sigma, s_r) * (noisy - low_res)) / c_out(sigma, s_r)
    torch.testing.assert_close(denoised(exact), clean)
    # In pure noise nothing is known but the enlarged image.
    torch.testing.assert_close(denoised(torch.zeros_like(clean))[-1], low_res[-1], atol=1e-3, rtol=0)


def test_coefficients_of_the_difference_lose_no_digits_at_little_noise():
    single = residual_coefficients(SIGMAS.float(), 0.5, 0.08)
    for found, exact in zip(single, residual_coefficients(SIGMAS, 0.5, 0.08), strict=True):
        torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0)
    assert residual_coefficients(0.3, 0.5, 0.5) == pytest.approx((0, 0.3 / (0.34**0.5 * 0.5), 1))


def test_limits():
    assert c_skip(0.0) == 1 and c_out(0.0) == 0 and c_in(0.0) == 2  # 1 / sigma_data
    assert c_skip(1e6) == pytest.approx(0, abs=1e-9)
    assert c_out(1e6) == pytest.approx(0.5)  # sigma_data
    assert c_in(1e6) == pytest.approx(1e-6)
    assert c_out(1e-6) == pytest.approx(1e-6)
    assert c_noise(math.e**4) == pytest.approx(1)


def test_network_input_has_unit_variance():
    torch.testing.assert_close(c_in(SIGMAS) ** 2 * (0.25 + SIGMAS**2), torch.ones_like(SIGMAS))


def test_loss_weight_gives_unit_weight_on_f():
    torch.testing.assert_close(loss_weight(SIGMAS) * c_out(SIGMAS) ** 2, torch.ones_like(SIGMAS))


def test_training_target_has_unit_variance():
    """(x_clean - c_skip x) / c_out has variance 1 at every sigma when the data have sigma_data."""
    variance = ((1 - c_skip(SIGMAS)) ** 2 * 0.25 + (c_skip(SIGMAS) * SIGMAS) ** 2) / c_out(SIGMAS) ** 2
    torch.testing.assert_close(variance, torch.ones_like(variance))


def test_same_convention_as_diffusers():
    scheduler = EDMEulerScheduler()
    noisy, output = torch.randn(2, 1, 3, 4, 4, dtype=torch.float64)
    for sigma in SIGMAS:
        expected = scheduler.precondition_outputs(noisy, output, sigma)
        torch.testing.assert_close(denoised_from_model_output(output, noisy, sigma), expected)
        torch.testing.assert_close(scheduler.precondition_inputs(noisy, sigma), c_in(sigma) * noisy)
        torch.testing.assert_close(scheduler.precondition_noise(sigma), c_noise(sigma))
    scheduler.set_timesteps(25)
    torch.testing.assert_close(scheduler.sigmas[:-1].double(), karras_sigmas(25), rtol=1e-6, atol=0)


@pytest.mark.parametrize("q, sigma", [(0.5, 0.3012), (511 / 512, 9.61), (1 / 8, 0.0757), (1 / 16, 0.0478)])
def test_quantiles_of_the_paper(q: float, sigma: float):
    assert sigma_quantile(q) == pytest.approx(sigma, rel=2e-3)


def test_quantile_and_cdf_are_inverse():
    for sigma in SIGMAS.tolist():
        assert sigma_quantile(sigma_cdf(sigma)) == pytest.approx(sigma, rel=1e-9)
    torch.testing.assert_close(sigma_quantile(sigma_cdf(SIGMAS)), SIGMAS)
    assert sigma_quantile(0.5) == pytest.approx(math.exp(P_MEAN))
    assert sigma_quantile(0.0) == 0 and sigma_quantile(1.0) == math.inf
    assert sigma_cdf(0.0) == 0 and sigma_cdf(math.inf) == 1


def test_dtype_is_kept():
    half = SIGMAS.to(torch.float32)
    assert all(f(half).dtype == torch.float32 for f in (c_skip, c_out, c_in, c_noise, loss_weight, sigma_cdf))


def test_karras_grid():
    sigmas = karras_sigmas(25)
    assert sigmas.dtype == torch.float64 and (sigmas.diff() < 0).all()
    assert sigmas[0].item() == pytest.approx(80) and sigmas[-1].item() == pytest.approx(0.002)
    assert karras_sigmas(1).tolist() == pytest.approx([80])
    # Page of the paper's experts: 9 steps above 9.61, 5 below 0.0757.
    assert (sigmas > 9.61).sum() == 9 and (sigmas < 0.0757).sum() == 5


def test_bad_input():
    with pytest.raises(ValueError, match="num_steps"):
        karras_sigmas(0)
    with pytest.raises(ValueError, match="sigma_min"):
        karras_sigmas(10, sigma_min=2.0, sigma_max=1.0)
    with pytest.raises(ValueError, match=r"\[0, 1\], got 1.5"):
        sigma_quantile(1.5)
    with pytest.raises(ValueError, match="sigma > 0"):
        c_noise(0.0)

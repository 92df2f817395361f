# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The loss against its closed form, and its noise, which depends on its key alone."""

import torch
from helpers_training import tiny_unet

from diffusers_ediffi.edm import denoised_from_model_output, loss_weight, residual_coefficients
from diffusers_ediffi.training.loss import SigmaBinLog, edm_loss, first_spoilt, step_generator


def test_loss_is_the_weighted_error_of_the_denoised_image():
    """lambda(sigma) |D - x_clean|^2 of the paper, section 3, computed the long way."""
    unet = tiny_unet(dropout=0.0).double()
    torch.nn.init.normal_(unet.conv_out.weight, std=0.1)
    images, noise = torch.randn(2, 4, 3, 8, 8, dtype=torch.float64)
    sigma = torch.tensor([0.01, 0.3, 2.0, 40.0], dtype=torch.float64)
    seen = []
    hook = unet.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    losses = edm_loss(unet, images, sigma, noise, {"encoder_hidden_states": None})
    hook.remove()
    noisy = images + sigma.view(-1, 1, 1, 1) * noise
    denoised = denoised_from_model_output(seen[0], noisy, sigma)
    expected = loss_weight(sigma) * (denoised - images).square().mean((1, 2, 3))
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=0)


def test_loss_of_super_resolution_shows_the_network_the_low_resolution_image():
    seen = []

    def network(sample, timestep, return_dict):
        seen.append(sample)
        return (torch.zeros(2, 3, 8, 8),)

    low_res = torch.randn(2, 3, 8, 8)
    edm_loss(network, torch.zeros(2, 3, 8, 8), torch.ones(2), torch.zeros(2, 3, 8, 8), {}, low_res)
    assert torch.equal(seen[0][:, 3:], low_res)


def test_loss_of_a_network_of_differences_is_that_of_the_difference():
    """The same network output, once as image minus low_res and once as an image of its own: one loss."""
    difference, low_res, noise, output = torch.randn(4, 3, 3, 8, 8, dtype=torch.float64)
    sigma = torch.tensor([0.01, 0.3, 20.0], dtype=torch.float64)

    def network(sample, timestep, return_dict):
        skip, shift, scale = residual_coefficients(sigma.view(-1, 1, 1, 1), 0.5, 0.1)
        return (skip * sample[:, :3] + shift * sample[:, 3:] + scale * output,)

    losses = edm_loss(network, difference + low_res, sigma, noise, {}, low_res, sigma_residual=0.1)
    expected = edm_loss(lambda *_, return_dict: (output,), difference, sigma, noise, {}, sigma_data=0.1)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=0)


def test_loss_of_differences_takes_a_standard_deviation_for_each_sample():
    images, low_res, noise, output = torch.randn(4, 2, 3, 8, 8, dtype=torch.float64)
    sigma, residual = torch.tensor([0.1, 3.0]).double(), torch.tensor([0.1, 0.4]).double()

    def loss(rows, sigma_residual):
        network = lambda *_, return_dict: (output[rows],)  # noqa: E731
        return edm_loss(network, images[rows], sigma[rows], noise[rows], {}, low_res[rows], 0.5, sigma_residual)

    together = loss(slice(None), residual)
    torch.testing.assert_close(together, torch.cat([loss(slice(0, 1), 0.1), loss(slice(1, 2), 0.4)]))


def test_step_generator_depends_on_every_part_of_its_key():
    first = (0, (0, 0), 0, 0)
    keys = [first, (1, (0, 0), 0, 0), (0, (1, 0), 0, 0), (0, (0, 1), 0, 0), (0, (0, 0), 1, 0), (0, (0, 0), 0, 1)]
    draws = [torch.rand(1, generator=step_generator(*key)).item() for key in keys]
    assert len(set(draws)) == len(keys)
    assert draws == [torch.rand(1, generator=step_generator(*key)).item() for key in keys]


def test_sigma_bins():
    bins = SigmaBinLog()
    bins.add(torch.tensor([0.01, 0.5, 0.6, 50.0]), torch.tensor([1.0, 2.0, 4.0, 8.0]))
    mean, per_bin = bins.read()
    assert mean == 3.75 and per_bin == {"<0.03": 1.0, "0.3-1": 3.0, ">10": 8.0}
    assert bins.read() == (0.0, {})


def test_the_first_losses_that_are_not_finite_are_remembered():
    """Of the process that had them first."""
    logs, nan = [SigmaBinLog(), SigmaBinLog()], float("nan")
    for log, spoilt_at in zip(logs, (4, 3), strict=True):
        for step in range(1, 6):
            log.add(torch.tensor([0.01, 0.5, 50.0]), torch.tensor([nan if step > 4 else 1.0, 1.0, 1.0]), step)
            if step == spoilt_at:
                log.add(torch.tensor([0.5, 0.6, 2.0]), torch.tensor([float("inf"), nan, 1.0]), step)
    assert first_spoilt(SigmaBinLog().spoilt) is None
    assert first_spoilt(logs[0].spoilt) == (4, ["0.3-1"])
    assert first_spoilt(torch.cat([log.spoilt for log in logs])) == (3, ["0.3-1"])

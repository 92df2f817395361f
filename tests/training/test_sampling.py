# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Sample grids of a run."""

import torch
from helpers_training import conditioning_of_ones, make_trainer
from PIL import Image

from diffusers_ediffi.experts.noise_interval import NoiseInterval
from diffusers_ediffi.training.sampling import sample_images


def test_sampling_reaches_the_mean_of_one_point_data():
    """Of data that is always m, D = m: sampling ends at m from every noise."""
    mean = 0.3

    def network(sample, timestep, return_dict, **conditioning):
        sigma = (4 * timestep).exp()
        noisy = sample * (sigma**2 + 0.25).sqrt()
        return ((mean - 0.25 / (sigma**2 + 0.25) * noisy) / (0.5 * sigma / (sigma**2 + 0.25).sqrt()),)

    images = sample_images(network, conditioning_of_ones(2), torch.randn(2, 3, 4, 4), num_inference_steps=8)
    torch.testing.assert_close(images, torch.full_like(images, mean), atol=1e-3, rtol=0)


def test_grid_of_an_expert_shows_denoised_images(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.interval = NoiseInterval.from_node(1, 1)
    trainer.sample_items = [trainer.dataset[7]]
    trainer.write_samples()
    with Image.open(tmp_path / "samples" / "step-0000000.png") as grid:
        assert grid.size == (8, 24)  # noisy, denoised, real

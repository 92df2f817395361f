# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Degradation and distortion of low-resolution images: reproducible, growing with their strength."""

import pytest
import torch

from diffusers_ediffi.models.low_res import upsample_low_res
from diffusers_ediffi.training.degradation import (
    blur,
    blur_patch,
    degrade,
    distort,
    downsample,
    jpeg,
    resize_and_back,
    warp,
)


def smooth_image(size: int = 32) -> torch.Tensor:
    ramp = torch.linspace(-1, 1, size)
    return torch.stack([ramp.expand(size, -1), ramp[:, None].expand(-1, size), torch.zeros(size, size)])[None]


def test_degradation_of_strength_zero_changes_nothing():
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    assert torch.equal(degrade(images, torch.Generator().manual_seed(0), 0.0), images)


def test_degradation_is_reproducible_and_grows_with_its_strength():
    images = smooth_image().expand(16, -1, -1, -1)
    errors = []
    for strength in (0.25, 1.0):
        once, again = (degrade(images, torch.Generator().manual_seed(1), strength) for _ in range(2))
        assert torch.equal(once, again) and once.shape == images.shape
        assert once.min() >= -1 and once.max() <= 1
        errors.append((once - images).square().mean().item())
    assert 0 < errors[0] < errors[1] < 0.05
    assert not torch.equal(once[0], once[1])  # each image in its own way


def test_distortion_is_reproducible_and_grows_with_its_strength():
    images = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(distort(images, torch.Generator().manual_seed(1), 0.0), images)
    distances = []
    for strength in (0.1, 0.4, 1.0):
        once, again = (distort(images, torch.Generator().manual_seed(1), strength) for _ in range(2))
        assert torch.equal(once, again) and once.abs().max() <= 1
        distances.append((once - images).abs().mean().item())
    assert distances == sorted(distances) and distances[0] > 0
    with pytest.raises(ValueError, match=r"distortion lies in \[0, 1\], got 2"):
        distort(images, torch.Generator(), 2)


def test_warp_moves_by_pixels():
    image = torch.rand(1, 3, 8, 8)
    right = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 3, 3)
    torch.testing.assert_close(warp(image, right)[..., :-1], image[..., 1:])
    torch.testing.assert_close(warp(image, 0 * right), image)


def test_a_blurred_patch_leaves_the_rest():
    image = torch.rand(1, 3, 16, 16)
    blurred = blur_patch(image, 4, 12, 6)
    changed = (blurred != image).any(dim=1)[0]
    assert changed[4:10, 12:].all() and changed.sum() == 6 * 4


def test_each_degradation_keeps_a_flat_image_and_its_size():
    flat = torch.full((1, 3, 16, 16), 0.25)
    for kernel in ("bilinear", "bicubic", "area"):
        torch.testing.assert_close(resize_and_back(flat, 0.6, kernel, "bicubic"), flat)
    torch.testing.assert_close(blur(flat, 1.0, 0.3), flat)
    torch.testing.assert_close(jpeg(flat, 90), flat, atol=2 / 127.5, rtol=0)


def test_blur_spreads_a_point_as_a_gaussian():
    point = torch.zeros(1, 3, 21, 21)
    point[..., 10, 10] = 1
    row = blur(point, 1e-6, 2.0)[0, 0, 10]
    variance = (row * (torch.arange(21) - 10.0).square()).sum()
    assert row.sum().item() == pytest.approx(1) and variance.item() == pytest.approx(4, rel=0.03)


def test_upsampling_undoes_downsampling_of_a_smooth_image():
    small = downsample(smooth_image(64), 4)
    assert small.shape == (1, 3, 16, 16)
    inside = (..., slice(8, -8), slice(8, -8))  # at the edges bicubic has no neighbours
    torch.testing.assert_close(upsample_low_res(small, 64)[inside], smooth_image(64)[inside], atol=0.02, rtol=0)
    with pytest.raises(ValueError, match="multiple of the factor 4"):
        downsample(torch.zeros(1, 3, 30, 30), 4)

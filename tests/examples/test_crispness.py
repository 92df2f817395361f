# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The width of outlines and the share of blocks against pictures where both are known."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers_examples import import_script


@pytest.fixture
def crispness(monkeypatch):
    return import_script("evaluate/crispness", monkeypatch)


def disc(blur, size=128):
    """A bright disc on dark, whose outline is the integral of a Gaussian of this standard deviation."""
    rows, columns = torch.meshgrid(*[torch.arange(size) - size / 2 + 0.5] * 2, indexing="ij")
    distance = size / 4 - torch.hypot(rows, columns)
    return (0.8 * torch.erf(distance / (blur * math.sqrt(2)))).expand(1, 3, size, size)


@pytest.mark.parametrize("blur", [1.0, 1.5, 2.5])
def test_an_outline_is_as_wide_as_it_was_drawn(crispness, blur):
    (width,) = crispness.outline_widths(disc(blur))
    assert width == pytest.approx(2 * 1.2816 * blur, rel=0.1)  # between the 10% and the 90% quantile of a Gaussian


def test_a_picture_without_outlines_has_no_width(crispness):
    (width,) = crispness.outline_widths(torch.full((1, 3, 64, 64), 0.3))
    assert math.isnan(width)
    assert crispness.blockiness(torch.full((1, 3, 64, 64), 0.3)) == [0.0]


@pytest.mark.parametrize("block", [4, 8, 16])
def test_blocks_are_seen_whatever_their_phase(crispness, block):
    noise = torch.rand(1, 3, 512 // block, 512 // block, generator=torch.Generator().manual_seed(0)) * 2 - 1
    blocks = F.interpolate(noise, scale_factor=block)[..., 3:259, 5:261]
    smooth = F.interpolate(noise, scale_factor=block, mode="bicubic", align_corners=False).clamp(-1, 1)[
        ..., :256, :256
    ]
    assert crispness.blockiness(blocks)[0] > 0.95
    assert crispness.blockiness(smooth)[0] < crispness.BLOCKY
    assert crispness.blockiness(disc(0.3, 256))[0] < crispness.BLOCKY, "a sharp outline is no block"

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Grids of noise levels: where they are dense, where they end, and how boundaries move them."""

import math

import numpy as np
import pytest
import torch

from diffusers_ediffi.edm import karras_sigmas
from diffusers_ediffi.schedulers.sigma_grids import atan_sigmas, check_sigmas, lowest_sigma, sigma_grid, stretched


@pytest.mark.parametrize("schedule", ["karras", "exponential", "atan"])
@pytest.mark.parametrize("num_steps", [2, 25])
def test_every_grid_leads_from_the_highest_level_to_the_lowest(schedule, num_steps):
    levels = sigma_grid(num_steps, 0.002, 80.0, schedule)
    assert levels.dtype == torch.float64 and len(levels) == num_steps and (levels.diff() < 0).all()
    assert levels[[0, -1]].tolist() == pytest.approx([80, 0.002])


def test_karras_tends_to_the_exponential_grid():
    torch.testing.assert_close(karras_sigmas(9, rho=1e6), sigma_grid(9, 0.002, 80.0, "exponential"), rtol=1e-3, atol=0)


def test_the_atan_grid_is_densest_at_its_center_and_half_as_dense_at_its_width():
    depths = atan_sigmas(100_001, 1e-4, 1e4, -1.0, 3.0).log().numpy()
    middles = (depths[1:] + depths[:-1]) / 2
    gaps = np.interp([-1.0, 2.0, -4.0], middles[::-1], -np.diff(depths)[::-1])
    assert gaps[1:] / gaps[0] == pytest.approx([2, 2], rel=1e-3)


@pytest.mark.parametrize("num_steps, lowest", [(8, 0.04), (9, 0.02), (10, 0.02), (15, 0.01), (16, 0.002)])
def test_few_levels_end_earlier(num_steps, lowest):
    assert lowest_sigma(num_steps, 0.002, 80.0) == lowest
    assert lowest_sigma(num_steps, 0.05, 80.0) == 0.05  # never below the model's
    assert lowest_sigma(num_steps, 0.002, 80.0, sigma_end=0.3) == 0.3


@pytest.mark.parametrize("given", [[2, 1, 0], [2.0, 1.0], np.array([2.0, 1.0]), torch.tensor([2.0, 1.0, 0.0])])
def test_chosen_levels_lose_their_final_zero(given):
    levels = check_sigmas(given)
    assert levels.dtype == torch.float64 and levels.tolist() == [2, 1]


def test_chosen_levels_stay_in_the_models_range():
    assert check_sigmas([2.0, 1.0], 2, (1.0, 2.0)).tolist() == [2, 1]
    for given in ([2.1, 1.0], [2.0, 0.9]):
        with pytest.raises(ValueError, match="within the model's 1.0 to 2.0"):
            check_sigmas(given, 1, (1.0, 2.0))
    with pytest.raises(ValueError, match="at least 3"):
        check_sigmas([2.0, 1.0], 3)


def test_stretching_moves_the_nearest_level_just_below_the_boundary():
    levels = karras_sigmas(9)
    assert stretched(levels, ()) is levels
    moved = stretched(levels, [1.0])
    below = moved[moved < 1.0][0].item()
    assert math.log(1.0 / below) == pytest.approx(1e-5, rel=1e-3)
    assert len(moved) == 9 and moved[0] == levels[0] and moved[-1] == levels[-1] and (moved.diff() < 0).all()
    assert (moved < 1).sum() - (levels < 1).sum() in (-1, 0, 1)


def test_boundaries_outside_of_the_grid_or_without_room_are_left_alone():
    levels = karras_sigmas(9)
    torch.testing.assert_close(stretched(levels, [100.0, 0.001]), levels, rtol=1e-12, atol=0)
    two = karras_sigmas(2)
    torch.testing.assert_close(stretched(two, [1.0]), two, rtol=1e-12, atol=0)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Noise levels and experts, as numbers alone: no network is built here."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from helpers_diffusers import SD_BETAS

from diffusers_ediffi.edm import c_noise
from diffusers_ediffi.experts.routes import Routes, check_boundaries

PAPER = (0.0757, 9.61)


def untrained(num_experts: int) -> list[None]:
    return [None] * num_experts


def sd_sigmas() -> list[float]:
    """sigma = sqrt((1 - alpha_bar) / alpha_bar) of Stable Diffusion's timesteps."""
    alphas = DDPMScheduler(**SD_BETAS).alphas_cumprod.double()
    return ((1 - alphas) / alphas).sqrt().tolist()


# --- values ---


def test_an_interval_holds_its_lower_end():
    routes = Routes(PAPER, trained_on=untrained(3))
    assert [routes.expert_of_sigma(sigma) for sigma in (0.0, 0.0756, 0.0757, 1.0, 9.61, 80.0)] == [0, 0, 1, 1, 2, 2]
    assert routes.expert_of_sigma(math.nextafter(9.61, 0)) == 1 and routes.expert_of_sigma(math.inf) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_c_noise_leads_to_the_expert_of_its_sigma(dtype):
    routes = Routes(PAPER, trained_on=untrained(3))
    sigmas = [0.002, 0.0756, 0.0757, 1.0, 9.609, 9.61, 80.0]
    timesteps = torch.tensor(sigmas, dtype=dtype).log() / 4
    assert routes.experts_of(timesteps) == [routes.expert_of_sigma(sigma) for sigma in sigmas] == [0, 0, 1, 1, 1, 2, 2]


def test_one_timestep_or_many():
    routes = Routes([1.0], trained_on=untrained(2))
    assert routes.experts_of(c_noise(2.0)) == routes.experts_of(torch.tensor(c_noise(2.0))) == [1]
    assert routes.experts_of(torch.tensor([0.1, -0.1])) == [1, 0]


def test_a_single_expert_takes_every_timestep():
    """A step index as well: what a timestep means need not be known where there is no choice."""
    assert Routes([]).experts_of(torch.tensor([801, 3])) == [0]
    assert Routes([], unit="timestep").experts_of(801) == [0]


def test_boundaries_in_sigma_of_a_discrete_time_model():
    sigmas = sd_sigmas()
    routes = Routes([sigmas[300], sigmas[700]], betas=SD_BETAS, trained_on=untrained(3))
    assert routes.experts_of(torch.tensor([0, 299, 300, 699, 700, 999])) == [0, 0, 1, 1, 2, 2]
    assert [routes.expert_of_sigma(sigmas[t] * 1.0001) for t in (299, 300, 700)] == [0, 1, 2]


def test_boundaries_in_timesteps():
    routes = Routes([300, 700], unit="timestep", trained_on=untrained(3))
    assert [routes.expert_of_timestep(t) for t in (0, 299.5, 300, 699, 700, 5000)] == [0, 0, 1, 1, 2, 2]


def test_boundaries_in_timesteps_by_sigma():
    sigmas = sd_sigmas()
    routes = Routes([300, 700], "timestep", SD_BETAS, untrained(3))
    assert [routes.expert_of_sigma(sigmas[t]) for t in (0, 299, 301, 699, 701, 999)] == [0, 0, 1, 1, 2, 2]
    assert routes.expert_of_sigma(0.0) == 0 and routes.expert_of_sigma(1e9) == 2


def test_boundaries_become_floats():
    assert Routes([1, 2], trained_on=untrained(3)).boundaries == (1.0, 2.0)
    assert check_boundaries((3,), 2, "timestep") == [3.0]


def test_equal_questions_are_equal():
    assert Routes([1.0], trained_on=untrained(2)) == Routes((1,), trained_on=untrained(2))
    assert Routes([1.0], trained_on=untrained(2)) != Routes([2.0], trained_on=untrained(2))


# --- what an expert was trained on ---


def test_an_expert_stays_within_what_it_was_trained_on():
    routes = Routes([1.0], trained_on=[[[0.002, 1.0]], [[1.0, 80.0]]])
    assert [routes.expert_of_sigma(sigma) for sigma in (0.002, 1.0, 80.1)] == [0, 1, 1]  # 80 is quoted to three digits
    with pytest.raises(ValueError, match=r"expert.1 is asked for sigma 81 but was trained on \[1, 80\)"):
        routes.expert_of_sigma(81.0)
    with pytest.raises(ValueError, match="expert.0 is asked for sigma 0.001 but"):
        routes.experts_of(torch.tensor([c_noise(2.0), c_noise(0.001)]))


def test_a_single_expert_stays_within_what_it_was_trained_on():
    routes = Routes([], trained_on=[[[1.0, None]]])
    assert routes.experts_of(c_noise(2.0)) == [0]
    with pytest.raises(ValueError, match=r"expert.0 is asked for sigma 0.5 but was trained on \[1, inf\)"):
        routes.experts_of(c_noise(0.5))


def test_timesteps_are_compared_with_training_by_their_sigma():
    trained_on = [[[0.0, 2.0]], None]
    boundary = sum(sigma < 2.0 for sigma in sd_sigmas())
    routes = Routes([boundary - 1], "timestep", SD_BETAS, trained_on)
    assert routes.experts_of(torch.tensor([100, 999])) == [0, 1]
    with pytest.raises(ValueError, match="expert.0 is asked for the sigmas"):
        Routes([boundary + 50], "timestep", SD_BETAS, trained_on)


@pytest.mark.parametrize(
    ("boundaries", "trained_on", "message"),
    [
        ([2.0], [[[0.0, 1.0]], [[1.0, None]]], r"expert.0 is asked for the sigmas \[1.98, 2\) but was .*\[0, 1\)"),
        (
            [0.5],
            [[[0.0, 1.0]], [[1.0, None]]],
            r"expert.1 is asked for the sigmas \[0.5, 0.505\) .*\[1, inf\)",
        ),
        ([0.7, 2.5], [None, [[0.5, 1.0], [2.0, 3.0]], None], r"expert.1 .* was trained on \[0.5, 1\), \[2, 3\)"),
    ],
)
def test_refuses_boundaries_outside_of_training(boundaries, trained_on, message):
    with pytest.raises(ValueError, match=message):
        Routes(boundaries, trained_on=trained_on)


def test_a_boundary_may_be_quoted_to_three_digits():
    Routes([1.001], trained_on=[[[0.0, 1.0]], [[1.0, None]]])
    with pytest.raises(ValueError, match="expert.0"):
        Routes([1.01], trained_on=[[[0.0, 1.0]], [[1.0, None]]])


# --- refusals ---


@pytest.mark.parametrize("routing_sigma", [-1.0, -math.inf, math.nan])
def test_refuses_what_is_not_a_noise_level(routing_sigma):
    with pytest.raises(ValueError, match=rf"sigma={routing_sigma} is not a noise level; give a number of at least 0"):
        Routes(PAPER, trained_on=untrained(3)).expert_of_sigma(routing_sigma)


@pytest.mark.parametrize("timestep", [801, -5.1, math.nan, math.inf])
def test_refuses_what_is_not_c_noise(timestep):
    with pytest.raises(ValueError, match=rf"timestep {timestep} is not c_noise .*scheduler=pipe.scheduler"):
        Routes(PAPER, trained_on=untrained(3)).expert_of_timestep(timestep)


def test_refuses_sigma_where_only_timesteps_are_known():
    with pytest.raises(ValueError, match="boundaries are timesteps: build it with scheduler="):
        Routes([300], "timestep", trained_on=untrained(2)).expert_of_sigma(1.0)
    with pytest.raises(ValueError, match="`trained_on`, pass scheduler="):
        Routes([300], "timestep", trained_on=[[[0.0, 2.0]], None])


@pytest.mark.parametrize(
    ("boundaries", "message"),
    [
        ([], "2 experts and 0 boundaries: N experts .* need N - 1"),
        ([1.0, 2.0], "2 experts and 2 boundaries"),
        (1.0, "boundaries=1.0 must be a list of numbers"),
        ([0.0], "positive"),
        ([-1.0], "positive"),
        ([math.inf], "finite"),
        ([math.nan], "finite"),
        (["x"], r"boundaries=\['x'\] must be numbers"),
        ([None], r"boundaries=\[None\] must be numbers"),
    ],
)
def test_refuses_boundaries(boundaries, message):
    with pytest.raises(ValueError, match=message):
        Routes(boundaries, trained_on=untrained(2))
    with pytest.raises(ValueError, match=message):
        check_boundaries(boundaries, 2, "sigma")


@pytest.mark.parametrize("boundaries", [[2.0, 1.0], [1.0, 1.0]])
def test_refuses_boundaries_that_do_not_increase(boundaries):
    with pytest.raises(ValueError, match="strictly increasing"):
        Routes(boundaries, trained_on=untrained(3))


def test_refuses_no_expert_at_all():
    with pytest.raises(ValueError, match="0 experts and 0 boundaries"):
        Routes([], trained_on=[])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unit": "fraction"}, "unit='fraction' is unknown; boundaries are in sigma or timestep"),
        ({"boundaries": [0.875], "unit": "timestep"}, r"\[0.875\] are not timesteps, .*Give timesteps, or sigmas"),
        ({"boundaries": [1000], "unit": "timestep", "betas": SD_BETAS}, "above the scheduler's last timestep, 999"),
        (
            {"boundaries": [500], "betas": SD_BETAS},
            'sigmas 0.0292 to 14.6; a timestep needs unit="timestep"',
        ),
        (
            {"boundaries": [0.01], "betas": SD_BETAS},
            "boundary 0.01 lies outside the scheduler's sigmas",
        ),
        ({"betas": {"beta": 1, **SD_BETAS}}, r"betas has the unknown entries \['beta'\]"),
    ],
)
def test_refuses_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Routes(**{"boundaries": [1.0], "trained_on": untrained(2), **settings})


@pytest.mark.parametrize("betas", ["linear", 3, [1], [["beta_start", 0.1]]], ids=str)
def test_betas_are_settings_by_name(betas):
    with pytest.raises(ValueError, match="betas=.* must be a dict"):
        Routes([1.0], betas=betas, trained_on=[None, None])


@pytest.mark.parametrize("trained_on", [3, [3], [[0.0]], [[0.0, [None]]], ["ab"]], ids=str)
def test_trained_on_of_any_network_is_checked(trained_on):
    with pytest.raises(ValueError, match="trained_on"):
        Routes([1.0], trained_on=[None, trained_on])

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Whether timesteps are c_noise or the steps of a discrete-time model, asked of every scheduler in the same way."""

import functools
import math

import pytest
from diffusers import (
    CMStochasticIterativeScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPipeline,
)
from helpers_diffusers import SD_BETAS, build, unet_for
from helpers_paint import PROMPT, REGIONS, draw, paint

from diffusers_ediffi import EDMDEISScheduler, ExpertRouterUNet, paint_with_words, record_attention
from diffusers_ediffi.discrete_time import MAX_TRAIN_TIMESTEPS, betas_of, log_sigmas, takes_c_noise
from diffusers_ediffi.experts.routes import Routes

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # diffusers 0.42, numpy 2.4

# As Stable Video Diffusion has it: betas, and c_noise all the same.
CONTINUOUS = EulerDiscreteScheduler(**SD_BETAS, timestep_type="continuous", prediction_type="v_prediction")
STEPS = {
    "diffusers": DDIMScheduler(**SD_BETAS),
    "ours": EDMDEISScheduler(**SD_BETAS),
    "ours, from another": EDMDEISScheduler.from_config(DDIMScheduler(**SD_BETAS).config),
    # `from_config` keeps the entries of the scheduler that it comes from, and this class does not read timestep_type
    "of a continuous one": DDIMScheduler.from_config(CONTINUOUS.config),
}
C_NOISE = {
    "euler": EDMEulerScheduler(),
    "dpm": EDMDPMSolverMultistepScheduler(),
    "ours": EDMDEISScheduler(),
    "continuous": CONTINUOUS,
    "ours, continuous": EDMDEISScheduler.from_config(CONTINUOUS.config),
    "of one with betas": EDMEulerScheduler.from_config(DDIMScheduler(**SD_BETAS).config),
}
NEITHER = {
    "flow": FlowMatchEulerDiscreteScheduler(),
    "flow, with betas": DPMSolverMultistepScheduler(
        **SD_BETAS, use_flow_sigmas=True, prediction_type="flow_prediction"
    ),
    "sigma_data, but steps of its own": CMStochasticIterativeScheduler(),
}


def parametrize(*tables):
    cases = [(name, scheduler) for table in tables for name, scheduler in table.items()]
    return pytest.mark.parametrize("scheduler", [case[1] for case in cases], ids=[case[0] for case in cases])


def pipeline(scheduler):
    pipe = build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline))
    pipe.scheduler = scheduler
    return pipe


@parametrize(STEPS, C_NOISE)
def test_painted_recorded_and_routed_by_the_noise_level_of_the_scheduler(scheduler):
    pipe = pipeline(scheduler)
    images = paint(pipe)
    assert images.isfinite().all() and (images - draw(pipe)).abs().max() > 1e-4
    expected = scheduler.sigmas[:-1].tolist() if hasattr(scheduler, "sigmas") else None
    with record_attention(pipe) as recorder:
        draw(pipe)
    recorded = sorted(recorder.sigmas, reverse=True)
    if expected is None:
        alphas = scheduler.alphas_cumprod[scheduler.timesteps]
        expected = ((1 - alphas) / alphas).sqrt().tolist()
    assert recorded == pytest.approx(expected, rel=1e-3)
    middle = math.sqrt(expected[0] * expected[1])
    router = ExpertRouterUNet.from_unets([pipe.unet] * 2, [middle], scheduler=scheduler)
    assert [router._routes.expert_of_timestep(float(t)) for t in scheduler.timesteps[:2]] == [1, 0]


@parametrize(STEPS)
def test_steps_of_a_model_with_betas(scheduler):
    assert not takes_c_noise(scheduler)
    assert betas_of(scheduler)["beta_start"] == SD_BETAS["beta_start"]


@parametrize(C_NOISE)
def test_c_noise(scheduler):
    assert takes_c_noise(scheduler) and betas_of(scheduler) is None


@parametrize(NEITHER)
def test_what_is_neither_is_refused_by_all_alike(scheduler):
    pipe = pipeline(scheduler)
    for use in (
        lambda: paint_with_words(pipe, PROMPT, REGIONS),
        lambda: record_attention(pipe).__enter__(),
        lambda: ExpertRouterUNet.from_unets([pipe.unet] * 2, [1.0], scheduler=scheduler),
    ):
        with pytest.raises(ValueError, match=f"noise levels of {type(scheduler).__name__} are not known"):
            use()


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_train_timesteps": 10**8},
        {"num_train_timesteps": 10.5},
        {"num_train_timesteps": 0},
        {"beta_start": 10**400},
        {"beta_end": "0.012"},
        {"beta_schedule": "cosine"},
        {"trained_betas": 0.1},
        {"trained_betas": [0.1, None]},
        {"trained_betas": []},
        {"beta_start": 0.0},
        {"trained_betas": [0.1, 1.5]},
    ],
    ids=str,
)
def test_betas_that_are_none_are_refused_before_they_are_laid_out(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        log_sigmas({**SD_BETAS, **wrong})
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Routes([], betas={**SD_BETAS, **wrong})


@pytest.mark.parametrize("betas", [SD_BETAS, {"beta_schedule": "squaredcos_cap_v2"}], ids=["scaled", "squaredcos"])
def test_the_highest_level_is_that_of_the_betas(betas):
    """Of IF's betas it is sigma 20291, beyond what a terminal signal of zero is taken for."""
    last = DDIMScheduler(**betas).alphas_cumprod[-1].item()
    highest = math.exp(log_sigmas(betas)[-1])
    assert highest == pytest.approx(math.sqrt((1 - last) / last), rel=1e-6)
    assert EDMDEISScheduler(**betas).config.sigma_max == pytest.approx(highest)
    assert betas is SD_BETAS or highest == pytest.approx(20291, rel=1e-3)


def test_a_terminal_signal_of_zero_is_the_level_of_diffusers():
    levels = log_sigmas({**SD_BETAS, "rescale_betas_zero_snr": True})
    assert math.exp(levels[-1]) == pytest.approx(math.sqrt(2.0**24 - 1)) and (levels[1:] > levels[:-1]).all()
    assert list(log_sigmas({"trained_betas": [0.5, 1.0, 1.0]})[1:]) == [levels[-1]] * 2


def test_the_largest_model_that_is_taken():
    assert (
        len(log_sigmas({"num_train_timesteps": MAX_TRAIN_TIMESTEPS, "beta_start": 1e-6, "beta_end": 1e-4})) == 100_000
    )


@pytest.mark.parametrize(
    "trained", [[], [[0.1]], ["a"], [None], 0.1, "0.1", functools.reduce(lambda x, _: [x], range(99), 0.1)]
)
def test_trained_betas_are_a_list_of_numbers(trained):
    with pytest.raises(ValueError, match="trained_betas"):
        log_sigmas({"trained_betas": trained, "num_train_timesteps": 1})


@pytest.mark.parametrize("value", [-0.1, 1.5, 10**20, 10**400, math.nan, "0.1", [0.1]], ids=str)
@pytest.mark.parametrize("name", ["beta_start", "beta_end", "trained_betas"])
def test_betas_lie_between_0_and_1(name, value):
    with pytest.raises(ValueError, match=name):
        log_sigmas({name: [value] if name == "trained_betas" else value, "num_train_timesteps": 1})

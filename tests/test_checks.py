# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What counts as a number, and what every room says of one that no float holds."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import PROMPT, tiny_unet
from helpers_diffusers import tiny_unet as tiny_foreign_unet
from PIL import Image

from diffusers_ediffi import (
    EDMDEISScheduler,
    ExpertAdapter,
    ExpertRouterUNet,
    NoiseInterval,
    PaintRegion,
    regions_from_color_map,
)
from diffusers_ediffi.checks import as_float, is_finite
from diffusers_ediffi.paint.regions import check_strength
from diffusers_ediffi.training import Schedule

HUGE = 10**400  # JSON and YAML can hold it
BOX = (0, 0, 1, 1)


@pytest.mark.parametrize("value", [0, -3, 0.5, 1e308, Fraction(1, 3), np.int64(2), np.float32(0.5), np.float64(2)])
def test_finite_numbers(value):
    assert is_finite(value) and as_float("x", value) == float(value)


@pytest.mark.parametrize("value", [HUGE, -HUGE, math.inf, -math.inf, math.nan, np.float64("nan"), True, "1", None, 1j])
def test_what_is_not_finite(value):
    assert not is_finite(value)


def router(**changes):
    return ExpertRouterUNet.from_unets([tiny_foreign_unet()] * 2, changes.pop("boundaries", [1.0]), **changes)


def schedule(entries):
    return Schedule.parse(f"{entries}\nnodes: [x]\nroutes: [x]\n")


TAKES = {
    "box": lambda n: PaintRegion("x", (0, 0, 1, n)),
    "weight": lambda n: PaintRegion("x", BOX, weight=n),
    "region seed": lambda n: PaintRegion("x", BOX, seed=n),
    "strength": lambda n: check_strength("strength", n),
    "legend": lambda n: regions_from_color_map(Image.new("RGB", (4, 4)), {f"rgb({n},0,0)": "x"}),
    "boundaries": lambda n: router(boundaries=[n]),
    "guidance_scales": lambda n: router(guidance_scales=[n, None]),
    "pipeline's scale": lambda n: router().rescale_guidance(n),
    "expert": lambda n: router().select_expert(n),
    "adapter": lambda n: ExpertAdapter(time_ids=(0,), aesthetic_score=n),
    "negative score": lambda n: ExpertAdapter(time_ids=(0,), aesthetic_score=1.0, negative_aesthetic_score=n),
    "betas": lambda n: router(scheduler=EDMDEISScheduler(beta_schedule="linear", beta_end=n)),
    "range": lambda n: NoiseInterval(((0.0, 1.0), (n, math.inf))),
    "range of a file": lambda n: NoiseInterval.from_config([[n, None]]),
    "p_mean": lambda n: NoiseInterval.from_node(1, 0, p_mean=n),
    "p_std": lambda n: NoiseInterval.from_node(1, 0, p_std=n),
    "p_mean beyond exp": lambda n: NoiseInterval.from_node(1, 1, p_mean=1e300),
    "trained_on": lambda n: tiny_unet(trained_on=[[0.0, n]]),
    "sigma_residual": lambda n: tiny_unet(sigma_residual=n, in_channels=6),
    "schedule": lambda n: schedule(f"p_mean: {n}"),
    "training settings": lambda n: schedule(f"training: {{lr: {n}}}"),
    "sigma_data": lambda n: EDMDEISScheduler(sigma_data=n),
    "sigmas": lambda n: EDMDEISScheduler().set_timesteps(sigmas=[n, 1]),
    "steps": lambda n: EDMDEISScheduler().set_timesteps(n),
}
CALLS = ("guidance_scale", "style_scale", "num_images_per_prompt", "guidance_rescale")
CALLS += ("num_inference_steps", "region_strength")


@pytest.mark.parametrize("take", TAKES.values(), ids=TAKES)
def test_a_number_that_no_float_holds_is_refused(take):
    with pytest.raises(ValueError):
        take(HUGE)


@pytest.mark.parametrize("name", CALLS)
def test_the_pipeline_names_a_number_that_no_float_holds(base_pipe, name):
    style = {"style_image": torch.zeros(1, 16)} if name == "style_scale" else {}
    with pytest.raises(ValueError, match=name):
        base_pipe(PROMPT, **{name: HUGE}, **style)


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.float32, np.float64])
def test_numbers_of_numpy_are_numbers(base_pipe, kind):
    PaintRegion("x", tuple(map(kind, BOX)), weight=kind(1))
    check_strength("strength", kind(1))
    ExpertAdapter(time_ids=(np.int64(0),), aesthetic_score=kind(6))
    router(boundaries=[kind(2)], guidance_scales=[kind(3), None]).rescale_guidance(kind(6))
    scheduler = EDMDEISScheduler(sigma_max=kind(20), degree=np.int64(2))
    scheduler = EDMDEISScheduler.from_config(json.loads(scheduler.to_json_string()))
    scheduler.set_timesteps(np.int64(5))
    assert len(scheduler.timesteps) == 5
    run = {"num_inference_steps": np.int64(1), "num_images_per_prompt": np.int64(1), "output_type": "latent"}
    assert base_pipe(PROMPT, guidance_scale=kind(2), **run).images.isfinite().all()

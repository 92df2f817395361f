# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Hostile noise levels, grids, intervals, boundaries and adapters."""

import math

import torch
from helpers_fuzz import Case, damaged, values
from hypothesis import strategies as st

from diffusers_ediffi import EDMDEISScheduler, ExpertAdapter
from diffusers_ediffi.experts.noise_interval import NoiseInterval
from diffusers_ediffi.experts.routes import Routes

SETTINGS = {
    **{"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "sigma_schedule": "karras", "rho": 7.0, "degree": 2},
    **{"num_train_timesteps": 50, "prediction_type": "epsilon", "final_sigmas_type": "zero", "method": "multistep"},
    **{"corrector": True, "extrapolate": "denoised", "variable": "log1p", "variable_scale": 1.0, "sigma_end": 0.01},
    **{"use_atan_sigmas": True, "atan_center": 0.0, "atan_width": 3.0, "boundaries": [0.1, 9.0]},
    **{"beta_schedule": None, "beta_start": 1e-4, "beta_end": 0.02, "trained_betas": None, "thresholding": False},
    **{"rescale_betas_zero_snr": False, "timestep_type": "discrete", "dynamic_thresholding_ratio": 0.99},
}
DISCRETE = {**SETTINGS, "beta_schedule": "linear", "sigma_min": None, "sigma_max": None, "boundaries": None}
RUNGE_KUTTA = {**SETTINGS, "method": "rho_rk", "use_atan_sigmas": False, "sigma_end": None}


def drawn(scheduler):
    """What a network that returns zeros ends in."""
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(1, 3, 2, 2, generator=generator) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(sample, timestep)
        sample = scheduler.step(torch.zeros_like(scaled), timestep, sample).prev_sample
    assert sample.isfinite().all() and sample.shape == (1, 3, 2, 2)


def sample_with(arguments, folder):
    scheduler = EDMDEISScheduler(**arguments["settings"])
    scheduler.set_timesteps(arguments["steps"])
    drawn(scheduler)


def test_settings_of_schedulers(fuzz):
    cases = st.one_of(damaged({"settings": each, "steps": 5}) for each in (SETTINGS, DISCRETE, RUNGE_KUTTA))
    # what is taken from another class's configuration is left alone
    cases = cases.map(lambda case: Case(known(case.value), (*case.words, "steps", "sigma")))
    fuzz("settings of schedulers", cases, sample_with, share=0.06)


def known(arguments):
    """Without keys that Python itself refuses."""
    given = arguments.get("settings")
    settings = {k: v for k, v in given.items() if k in SETTINGS} if isinstance(given, dict) else {}
    return {"settings": settings, "steps": arguments.get("steps")}


def sample_along(arguments, folder):
    scheduler = EDMDEISScheduler.from_preset(arguments["preset"])
    scheduler.set_timesteps(sigmas=arguments["sigmas"])
    drawn(scheduler)


def test_sigmas(fuzz):
    lists = damaged({"sigmas": [80.0, 20.0, 5.0, 0.5, 0.02, 0.0]})
    levels = st.floats() | st.floats(1e-3, 100) | st.floats(1e-3, 100)
    floats = st.lists(levels, max_size=8, unique=True).map(lambda sigmas: sorted(sigmas, reverse=True))
    sigmas = lists.map(lambda case: case.value.get("sigmas")) | floats | floats.map(torch.tensor) | values()
    presets = st.sampled_from(["multistep", "rho_ab", "log_rho_ab", "paper_base"])
    cases = st.builds(lambda s, p: Case({"sigmas": s, "preset": p}, ("sigma", "steps")), sigmas, presets)
    fuzz("sigmas", cases, sample_along, share=0.06)


def interval_of(arguments, folder):
    distribution = arguments.get("p_mean", -1.2), arguments.get("p_std", 1.2)
    interval = NoiseInterval.from_config(arguments.get("ranges"), *distribution)
    node = NoiseInterval.from_node(*(arguments.get(name, 0) for name in ("level", "index")), *distribution)
    assert 0 <= interval.probability <= 1 and 0 <= node.probability <= 1
    for each in (interval, node):
        assert NoiseInterval.from_config(each.to_config(), *distribution) == each
        if each.probability:
            assert all(each.contains(float(sigma)) for sigma in each.sample((4,)))


def test_noise_intervals(fuzz):
    valid = {"ranges": [[0.0, 0.1], [0.2, 5.0], [9.61, None]], "level": 3, "index": 7, "p_mean": -1.2, "p_std": 1.2}
    floats = st.lists(st.lists(st.floats(0, 1e30) | st.none(), min_size=2, max_size=2), max_size=4)
    drawn = floats.map(lambda ranges: Case({**valid, "ranges": ranges}))
    cases = (damaged(valid) | drawn).map(lambda case: Case(case.value, (*case.words, "interval", "range", "sigma")))
    fuzz("noise intervals", cases, interval_of, share=0.06)


def route(arguments, folder):
    known = {name: value for name, value in {**ROUTES[0], **arguments}.items() if name in ROUTES[0]}
    if not isinstance(known["trained_on"], list):  # which the router lists itself, one entry for each expert
        known["trained_on"] = [known["trained_on"]]
    routes = Routes(**known)
    for timestep in (-1.5, 0.0, 0.7):
        index = routes.expert_of_timestep(timestep)
        assert 0 <= index < len(routes.trained_on)
    if routes.unit == "sigma":
        assert routes.expert_of_sigma(1e9) == len(routes.boundaries) == len(routes.trained_on) - 1


BETAS = {"num_train_timesteps": 100, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
ROUTES = (
    {
        "boundaries": [0.1, 9.0],
        "unit": "sigma",
        "betas": None,
        "trained_on": [None, [[0.0, 20.0], [30.0, None]], None],
    },
    {"boundaries": [20, 70], "unit": "timestep", "betas": {**BETAS, "trained_betas": None}, "trained_on": [None] * 3},
    {"boundaries": [0.1, 0.5], "unit": "sigma", "betas": BETAS, "trained_on": [None] * 3},
)


def test_boundaries(fuzz):
    cases = st.one_of(map(damaged, ROUTES)).map(lambda case: Case(case.value, (*case.words, "boundar", "expert")))
    fuzz("boundaries", cases, route, share=0.05)


def adapt(entries, folder):
    adapter = ExpertAdapter.from_config(entries)
    assert ExpertAdapter.from_config(adapter.to_config()) == adapter
    inputs = (torch.zeros(2, 3, 2, 2), torch.tensor(1.0), torch.arange(2.0)[:, None, None].expand(2, 1, 8))
    _, kwargs = adapter.apply(inputs, {"added_cond_kwargs": {"time_ids": torch.zeros(2, 6)}})
    assert math.isfinite(float(kwargs["added_cond_kwargs"]["time_ids"].sum()))


def test_adapters(fuzz):
    valid = {"hidden_states_columns": [2, 6], "time_ids": [0, 1, 2], "aesthetic_score": 6.0}
    valid |= {"negative_aesthetic_score": 2.5}
    cases = damaged(valid).map(lambda case: Case(case.value, (*case.words, "encoder_hidden_states")))
    fuzz("adapters of experts", cases, adapt, share=0.02)

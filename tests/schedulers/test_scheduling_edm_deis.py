# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""EDMDEISScheduler against exact solutions and against diffusers' EDM schedulers.

The problems have closed-form denoisers: one Gaussian, whose ODE has a closed-form solution, and a Gaussian mixture.
"""

import json
import math

import numpy as np
import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UniPCMultistepScheduler,
)
from diffusers.schedulers import AysSchedules
from diffusers.training_utils import compute_snr
from helpers import tiny_pipeline
from helpers_diffusers import SD_BETAS, build, draw, unet_for

from diffusers_ediffi import ExpertRouterUNet, demo_checkpoint
from diffusers_ediffi.edm import c_in, c_noise, c_out, c_skip, karras_sigmas
from diffusers_ediffi.schedulers.scheduling_edm_deis import PRESETS, EDMDEISScheduler
from diffusers_ediffi.schedulers.sigma_grids import atan_sigmas

ARRAY_WARNING = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers 0.42


class Gaussian:
    """Images ~ N(0.4, 0.3^2), each value on its own."""

    mean, std = 0.4, 0.3

    def denoise(self, x, sigma):
        return (self.std**2 * x + sigma**2 * self.mean) / (self.std**2 + sigma**2)

    def solution(self, x, start, end=0.0):
        """The ODE keeps the quantile of x in N(mean, std^2 + sigma^2)."""
        return self.mean + (x - self.mean) * math.hypot(self.std, end) / math.hypot(self.std, start)


class Mixture:
    """Eight narrow Gaussians in the plane; images of shape (2, 1, 1)."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.centers = 0.5 * torch.randn(8, 2, dtype=torch.float64, generator=generator)
        self.variance = 0.1**2

    def denoise(self, x, sigma):
        x = x.flatten(1).double()
        total = self.variance + sigma**2
        nearest = (-(torch.cdist(x, self.centers) ** 2) / (2 * total)).softmax(-1) @ self.centers
        return (nearest + self.variance / total * (x - nearest)).view(-1, 2, 1, 1)


def network(problem, model_input, timestep):
    """What a trained network is to a scheduler: (c_in * x, c_noise) -> F."""
    sigma = (4 * timestep.double()).exp()
    x = model_input.double() / c_in(sigma)
    return ((problem.denoise(x, sigma) - c_skip(sigma) * x) / c_out(sigma)).to(model_input.dtype)


def run(scheduler, problem, x, begin_index=None):
    """The loop of every diffusers pipeline."""
    timesteps = scheduler.timesteps
    if begin_index is not None:
        scheduler.set_begin_index(begin_index)
        timesteps = timesteps[begin_index:]
    for timestep in timesteps:
        model_output = network(problem, scheduler.scale_model_input(x, timestep), timestep)
        x = scheduler.step(model_output, timestep, x).prev_sample
    return x


def noise(shape=(64, 3, 2, 2), dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def error(scheduler, steps, problem=None, **kwargs):
    """Root-mean-square error at sigma = 0 on the Gaussian."""
    problem = problem or Gaussian()
    scheduler.set_timesteps(steps, **kwargs)
    x = noise() * 80
    return (run(scheduler, problem, x) - problem.solution(x, 80.0)).pow(2).mean().sqrt().item()


# --- accuracy ---


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"extrapolate": "model_output"},
        {"extrapolate": "noise"},
    ],
)
def test_multistep_converges_to_the_exact_solution(config):
    errors = [error(EDMDEISScheduler(**config), steps) for steps in (8, 16, 32, 64)]
    assert all(finer < 0.3 * coarser for coarser, finer in zip(errors, errors[1:], strict=False))
    assert errors[-1] < 1e-5


@pytest.mark.parametrize("preset, steps", [("paper_base", 25), ("paper_sr", 10), ("rho_ab", 25), ("log_rho_ab", 25)])
def test_paper_presets_converge(preset, steps):
    errors = [error(EDMDEISScheduler.from_preset(preset), n) for n in (steps, 2 * steps)]
    assert errors[0] < 2e-2 and errors[1] < 0.3 * errors[0]


def observed_order(scheduler, problem):
    """log2 of the error's decrease when every step is halved, away from the ends where grids are coarse. The first
    steps start from the exact solution, so that the lower degrees of a multistep method's start do not count."""
    x_0, errors = noise() * 5, []
    for steps in (64, 128):
        scheduler.set_timesteps(
            sigmas=torch.linspace(math.log(5.0), math.log(0.1), steps + 1, dtype=torch.float64).exp()
        )
        scheduler.set_begin_index(0)
        x = x_0
        for i, (sigma, timestep) in enumerate(zip(scheduler.sigmas.tolist(), scheduler.timesteps, strict=False)):
            if i < 6 and scheduler.order == 1:
                x = problem.solution(x_0, 5.0, sigma)
            output = (problem.denoise(x, sigma) - c_skip(sigma) * x) / c_out(sigma)
            x = scheduler.step(output, timestep, x).prev_sample
        errors.append((x - problem.solution(x_0, 5.0, 0.1)).pow(2).mean().sqrt().item())
    return math.log2(errors[0] / errors[1])


def test_3kutta_has_order_three():
    scheduler = EDMDEISScheduler(method="rho_rk", final_sigmas_type="sigma_min")
    assert observed_order(scheduler, Gaussian()) == pytest.approx(3, abs=0.2)


@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("core", [{}, {"extrapolate": "noise", "variable": "sigma"}, {"variable": "log"}])
def test_a_polynomial_of_degree_p_has_order_p_plus_one_and_the_corrector_adds_one(core, degree, corrector):
    scheduler = EDMDEISScheduler(degree=degree, corrector=corrector, final_sigmas_type="sigma_min", **core)
    assert observed_order(scheduler, Gaussian()) == pytest.approx(degree + 1 + corrector, abs=0.35)


@pytest.mark.parametrize("steps", [15, 20])
def test_multistep_beats_dpm_solver_on_a_mixture(steps):
    problem, x = Mixture(), noise((256, 2, 1, 1)) * 80
    exact = EDMDEISScheduler()
    exact.set_timesteps(500)
    truth, errors = run(exact, problem, x), []
    for scheduler in (EDMDEISScheduler(), EDMDPMSolverMultistepScheduler()):
        scheduler.set_timesteps(steps)
        errors.append((run(scheduler, problem, x) - truth).pow(2).mean().sqrt())
    assert errors[0] < 0.6 * errors[1]


# --- what the solvers reduce to ---


def test_degree_zero_is_eulers_method():
    ours = EDMDEISScheduler(degree=0, corrector=False, use_atan_sigmas=False)
    euler, x = EDMEulerScheduler(), noise((4, 2, 1, 1), torch.float32) * 80
    for scheduler in (ours, euler):
        scheduler.set_timesteps(12)
    torch.testing.assert_close(ours.timesteps, euler.timesteps)
    torch.testing.assert_close(run(ours, Mixture(), x), run(euler, Mixture(), x), rtol=1e-4, atol=1e-4)


STEPS = 20  # diffusers' solvers lower their order at the end of fewer than 15


def run_on_variance_preserving(scheduler, problem, x, sigmas):
    """A scheduler of diffusers that works on x / sqrt(1 + sigma^2), on these sigmas; returns x at the last of them."""
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas, scheduler.timesteps = sigmas, torch.arange(len(sigmas) - 1)
    scheduler.set_begin_index(0)
    for i, (start, end) in enumerate(zip(sigmas.tolist(), sigmas.tolist()[1:], strict=False)):
        model_output = problem.denoise(x, start)
        sample = scheduler.step(model_output, scheduler.timesteps[i], x / math.hypot(1, start)).prev_sample
        x = math.hypot(1, end) * sample
    return x


@ARRAY_WARNING
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")  # the same
@pytest.mark.parametrize("degree", [1, 2])
def test_noise_in_log_sigma_is_deis(degree):
    """Stopping at sigma_min: diffusers' DEIS has no step to zero."""
    theirs = DEISMultistepScheduler(solver_order=degree + 1, prediction_type="sample")
    ours = EDMDEISScheduler.from_preset("log_rho_ab", degree=degree, final_sigmas_type="sigma_min")
    ours.set_timesteps(STEPS)
    x = noise((4, 2, 1, 1)) * 80
    expected = run_on_variance_preserving(theirs, Mixture(), x, ours.sigmas)
    torch.testing.assert_close(run(ours, Mixture(), x), expected, rtol=1e-5, atol=1e-5)


@ARRAY_WARNING
def test_noise_in_sigma_of_degree_three_is_lms():
    theirs, ours = LMSDiscreteScheduler(), EDMDEISScheduler.from_preset("rho_ab")
    x = x_0 = noise((4, 2, 1, 1)) * 80
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(STEPS)
    theirs.sigmas = ours.sigmas
    theirs.is_scale_input_called = True  # its preconditioning is not EDM's
    for sigma, timestep in zip(ours.sigmas.tolist(), theirs.timesteps, strict=False):
        x = theirs.step((x - Mixture().denoise(x, sigma)) / sigma, timestep, x).prev_sample
    # Their weights come from a quadrature of tolerance 1e-4.
    torch.testing.assert_close(run(ours, Mixture(), x_0), x, rtol=1e-4, atol=1e-4)


def test_denoised_in_log_sigma_of_degree_one_is_dpm_solver():
    ours = EDMDEISScheduler(degree=1, corrector=False, use_atan_sigmas=False, variable="log")
    theirs = EDMDPMSolverMultistepScheduler(solver_type="heun")
    samples = []
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(STEPS)
        samples.append(run(scheduler, Mixture(), noise((4, 2, 1, 1), torch.float32) * 80))
    torch.testing.assert_close(*samples, rtol=1e-4, atol=1e-4)


@ARRAY_WARNING
def test_denoised_in_log_sigma_of_degree_two_with_corrector_is_unipc():
    """From an equal history on: UniPC starts with weights of one half."""
    sigmas = karras_sigmas(STEPS + 1)
    ours = EDMDEISScheduler(variable="log", degree=2, final_sigmas_type="sigma_min")
    ours.set_timesteps(sigmas=sigmas)
    theirs = UniPCMultistepScheduler(solver_order=3, prediction_type="sample", lower_order_final=False)
    theirs.set_timesteps(STEPS)
    theirs.sigmas = sigmas
    for scheduler in (ours, theirs):
        scheduler.set_begin_index(0)
    x = their_x = noise((4, 2, 1, 1)) * 80
    for i, (start, end) in enumerate(zip(sigmas.tolist(), sigmas.tolist()[1:], strict=False)):
        denoised = (noise((4, 2, 1, 1)) + math.log(start)).sin()  # whatever x is, so that both have the same history
        if i == 5:
            x = their_x
        model_output = (denoised - c_skip(start) * x) / c_out(start)
        x = ours.step(model_output, ours.timesteps[i], x).prev_sample
        sample = theirs.step(denoised, theirs.timesteps[i], their_x / math.hypot(1, start)).prev_sample
        their_x = math.hypot(1, end) * sample
        if i >= 5:
            torch.testing.assert_close(x, their_x, rtol=1e-5, atol=1e-5)


def test_3kutta_stages_are_kuttas_tableau():
    scheduler, problem = EDMDEISScheduler.from_preset("paper_base"), Gaussian()
    scheduler.set_timesteps(4)
    x = x_0 = noise((2, 1, 2, 2)) * 80
    for timestep in scheduler.timesteps[:3]:
        model_output = network(problem, scheduler.scale_model_input(x, timestep), timestep)
        x = scheduler.step(model_output, timestep, x).prev_sample

    def slope(x, sigma):
        return (x - problem.denoise(x, sigma)) / sigma

    start, middle, end = scheduler.sigmas[:3].tolist()
    h = end - start
    assert middle == pytest.approx(start + h / 2)
    d_1 = slope(x_0, start)
    d_2 = slope(x_0 + h / 2 * d_1, middle)
    d_3 = slope(x_0 - h * d_1 + 2 * h * d_2, end)
    torch.testing.assert_close(x, x_0 + h / 6 * (d_1 + 4 * d_2 + d_3), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("preset", ["multistep", "paper_base"])
def test_what_a_callback_does_to_the_sample_is_kept(preset):
    """With a constant D the solution is D + (x - D) sigma / start, from wherever x was moved to between two steps."""

    class OnePoint:
        def denoise(self, x, sigma):
            return torch.full_like(x, 0.25)

    scheduler, x = EDMDEISScheduler.from_preset(preset, final_sigmas_type="sigma_min"), noise() * 80
    scheduler.set_timesteps(6)
    moved = 3 * scheduler.order  # after three steps
    for i, timestep in enumerate(scheduler.timesteps):
        if i == moved:
            x = torch.full_like(x, 7.0)
        model_output = network(OnePoint(), scheduler.scale_model_input(x, timestep), timestep)
        x = scheduler.step(model_output, timestep, x).prev_sample
    expected = 0.25 + (7.0 - 0.25) * scheduler.sigmas[-1] / scheduler.sigmas[moved]
    torch.testing.assert_close(x, expected.expand_as(x), rtol=1e-4, atol=1e-4)


# --- parity with edm.py and diffusers ---


@pytest.mark.parametrize("reference", [EDMEulerScheduler, EDMDPMSolverMultistepScheduler])
@pytest.mark.parametrize("prediction_type, sign", [("epsilon", 1), ("v_prediction", -1)])
@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_preconditioning_is_that_of_edm_py_and_of_diffusers(reference, prediction_type, sign, sigma_data):
    theirs = reference(prediction_type=prediction_type, sigma_data=sigma_data)
    ours = EDMDEISScheduler.from_config(theirs.config)
    x, model_output = noise(), noise().flip(0)
    for sigma in (0.002, 0.05, 0.5, 3.0, 80.0):
        tensor = torch.tensor(sigma, dtype=torch.float64)
        denoised = c_skip(sigma, sigma_data) * x + sign * c_out(sigma, sigma_data) * model_output
        for scheduler in (ours, theirs):
            torch.testing.assert_close(
                scheduler.precondition_inputs(x, tensor), x * c_in(sigma, sigma_data), rtol=1e-6, atol=1e-6
            )
            torch.testing.assert_close(
                scheduler.precondition_outputs(x, model_output, tensor), denoised, rtol=1e-6, atol=1e-6
            )
            assert scheduler.precondition_noise(tensor).item() == pytest.approx(c_noise(sigma), abs=1e-6)


@pytest.mark.parametrize("preset", ["multistep", "paper_sr"])
def test_step_reads_the_model_output_as_f(preset):
    scheduler = EDMDEISScheduler.from_preset(preset)
    scheduler.set_timesteps(5)
    x, model_output = noise() * 80, noise().flip(0)
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas.tolist(), strict=False):
        assert timestep.item() == pytest.approx(c_noise(sigma), abs=1e-6)
        torch.testing.assert_close(scheduler.scale_model_input(x, timestep), x * c_in(sigma), rtol=1e-6, atol=1e-6)
        output = scheduler.step(model_output, timestep, x)
        expected = c_skip(sigma) * x + c_out(sigma) * model_output
        torch.testing.assert_close(output.pred_original_sample, expected, rtol=1e-6, atol=1e-6)
        x = output.prev_sample


@pytest.mark.parametrize("extrapolate", ["denoised", "model_output"])
def test_v_prediction_is_minus_f(extrapolate):
    results = []
    for prediction_type, sign in (("epsilon", 1), ("v_prediction", -1)):
        scheduler = EDMDEISScheduler(prediction_type=prediction_type, extrapolate=extrapolate)
        scheduler.set_timesteps(6)
        x = noise() * 80
        for timestep in scheduler.timesteps:
            model_output = network(Gaussian(), scheduler.scale_model_input(x, timestep), timestep)
            x = scheduler.step(sign * model_output, timestep, x).prev_sample
        results.append(x)
    assert torch.equal(*results)


@pytest.mark.parametrize("reference", [EDMEulerScheduler, EDMDPMSolverMultistepScheduler])
def test_configs_convert_both_ways(reference, tmp_path):
    theirs = reference(sigma_max=40.0, rho=5.0, sigma_data=0.7, prediction_type="v_prediction")
    ours = EDMDEISScheduler.from_config(theirs.config, degree=1, method="rho_rk")
    back = reference.from_config(ours.config)
    for scheduler in (ours, back):
        config = scheduler.config
        assert (config.sigma_max, config.rho, config.sigma_data, config.prediction_type) == (
            40.0, 5.0, 0.7, "v_prediction",
        )  # fmt: skip
        scheduler.set_timesteps(3)
    again = EDMDEISScheduler.from_config(back.config)
    assert again.config.degree == 1 and again.config.method == "rho_rk"

    # In a saved file every value is explicit, solver_type="midpoint" and sigma_schedule="karras" too.
    theirs.save_pretrained(tmp_path / "theirs")
    assert EDMDEISScheduler.from_pretrained(tmp_path / "theirs").config.sigma_max == 40.0
    EDMDEISScheduler(sigma_max=40.0).save_pretrained(tmp_path / "ours")
    loaded = reference.from_pretrained(tmp_path / "ours")
    assert loaded.config.sigma_max == 40.0
    loaded.set_timesteps(3)


def test_a_configuration_saved_before_there_were_betas_and_presets_loads(tmp_path):
    names = "atan_center atan_width corrector degree extrapolate final_sigmas_type method num_train_timesteps rho"
    names += " prediction_type sigma_data sigma_end sigma_max sigma_min sigma_schedule use_atan_sigmas variable_scale"
    saved = {name: EDMDEISScheduler().config[name] for name in names.split()}
    (tmp_path / "scheduler_config.json").write_text(json.dumps({"_class_name": "EDMDEISScheduler", **saved}))
    for loaded in (
        EDMDEISScheduler.from_pretrained(tmp_path),
        EDMDEISScheduler.from_pretrained(demo_checkpoint(), subfolder="scheduler"),
    ):
        loaded.set_timesteps(25)
        assert len(loaded.timesteps) == 25 and loaded.config.beta_schedule is None


def test_save_and_load_give_the_same_samples(tmp_path):
    scheduler = EDMDEISScheduler(degree=2, extrapolate="model_output", atan_center=0.5, sigma_end=0.01)
    scheduler.save_pretrained(tmp_path)
    loaded = EDMDEISScheduler.from_pretrained(tmp_path)
    assert json.loads(loaded.to_json_string()) == json.loads(scheduler.to_json_string())
    assert EDMDEISScheduler in scheduler.compatibles and EDMEulerScheduler in scheduler.compatibles
    x = noise() * 80
    for each in (scheduler, loaded):
        each.set_timesteps(7)
    assert torch.equal(run(scheduler, Gaussian(), x), run(loaded, Gaussian(), x))


# --- thresholding ---

THRESHOLDS = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 3.0}
SOLVERS = [
    {},
    {"extrapolate": "model_output"},
    {"extrapolate": "noise", "variable": "sigma"},
    {"method": "rho_rk", "use_atan_sigmas": False},
]


@pytest.mark.parametrize("config", SOLVERS, ids=str)
def test_thresholding_of_what_is_in_range_changes_nothing(config):
    plain, thresholded = EDMDEISScheduler(**config), EDMDEISScheduler(**config, **THRESHOLDS)
    for scheduler in (plain, thresholded):
        scheduler.set_timesteps(5)
    narrow = Gaussian()
    narrow.std = 0.05
    assert torch.equal(run(plain, narrow, noise() * 80), run(thresholded, narrow, noise() * 80))
    assert plain.config.thresholding is False


@pytest.mark.parametrize("config", SOLVERS, ids=str)
def test_the_solver_goes_on_with_the_clamped_image(config):
    """The same samples as without thresholding from a network whose D is clamped."""
    plain, thresholded = EDMDEISScheduler(**config), EDMDEISScheduler(**config, **THRESHOLDS)
    for scheduler in (plain, thresholded):
        scheduler.set_timesteps(5)
    x = y = noise() * 80
    for timestep, sigma in zip(plain.timesteps, plain.sigmas.tolist(), strict=False):
        model_output = 4 * noise().flip(0)
        output = thresholded.step(model_output, timestep, x)
        denoised = c_skip(sigma) * x + c_out(sigma) * model_output
        limit = denoised.abs().flatten(1).quantile(0.9, dim=1).clamp(1, 3)[:, None, None, None]
        clamped = denoised.clamp(-limit, limit) / limit
        torch.testing.assert_close(output.pred_original_sample, clamped)
        y = plain.step((clamped - c_skip(sigma) * x) / c_out(sigma), timestep, y).prev_sample
        x = output.prev_sample
        torch.testing.assert_close(x, y)


def test_thresholding_is_that_of_diffusers():
    """Its DPM-Solver++ is the core of degree 1 in ln(sigma) on D."""
    theirs = EDMDPMSolverMultistepScheduler(**THRESHOLDS, solver_type="heun", lower_order_final=False)
    ours = EDMDEISScheduler.from_config(
        theirs.config, degree=1, variable="log", corrector=False, use_atan_sigmas=False
    )
    wide, samples = Gaussian(), []
    wide.std = 3.0
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(12)
        samples.append(run(scheduler, wide, noise(dtype=torch.float32) * 80))
    torch.testing.assert_close(*samples, rtol=1e-3, atol=1e-4)
    ours = EDMDEISScheduler.from_config(ours.config, thresholding=False)
    ours.set_timesteps(12)
    assert (run(ours, wide, noise(dtype=torch.float32) * 80) - samples[0]).abs().max() > 0.5


def test_thresholds_convert_both_ways():
    ours = EDMDEISScheduler.from_config(EDMDPMSolverMultistepScheduler(**THRESHOLDS).config)
    back = EDMDPMSolverMultistepScheduler.from_config(ours.config)
    through_euler = EDMDEISScheduler.from_config(EDMEulerScheduler.from_config(ours.config).config)
    for scheduler in (ours, back, through_euler):
        assert {name: scheduler.config[name] for name in THRESHOLDS} == THRESHOLDS


@pytest.mark.parametrize(
    "config", [{"dynamic_thresholding_ratio": 0}, {"dynamic_thresholding_ratio": 1.1}, {"sample_max_value": 0.5}]
)
def test_thresholds_out_of_range_are_refused(config):
    with pytest.raises(ValueError, match=f"{next(iter(config))} must"):
        EDMDEISScheduler(**config)


# --- noise levels ---


@pytest.mark.parametrize("preset", ["multistep", "paper_base"])
@pytest.mark.parametrize("steps", [1, 2, 3, 8, 10, 15, 40, 1000])
def test_any_number_of_steps(preset, steps):
    scheduler = EDMDEISScheduler.from_preset(preset)
    scheduler.set_timesteps(steps)
    assert scheduler.num_inference_steps == steps
    assert len(scheduler.timesteps) == (steps if preset == "multistep" else 3 * steps + 1)
    assert len(scheduler.sigmas) == len(scheduler.timesteps) + 1 and scheduler.sigmas[-1] == 0
    assert scheduler.init_noise_sigma == 80.0 and (scheduler.sigmas.diff() <= 0).all()
    if preset == "multistep":
        assert len(scheduler.timesteps.unique()) == steps
    if steps < 1000 or preset == "multistep":
        assert run(scheduler, Gaussian(), noise((1, 1, 2, 2)) * 80).isfinite().all()


@pytest.mark.parametrize("steps, end", [(8, 0.04), (10, 0.02), (15, 0.01), (16, 0.002)])
def test_few_steps_stop_earlier_before_the_jump_to_zero(steps, end):
    scheduler = EDMDEISScheduler()
    scheduler.set_timesteps(steps)
    assert scheduler.sigmas[-2].item() == pytest.approx(end)
    high = EDMDEISScheduler(sigma_min=0.03)  # never below sigma_min
    high.set_timesteps(steps)
    assert high.sigmas[-2] >= 0.03 - 1e-9


def test_grids():
    for scheduler, expected in [
        (EDMDEISScheduler(use_atan_sigmas=False, rho=6.0), karras_sigmas(20, rho=6.0)),
        (EDMDEISScheduler(), atan_sigmas(20, 0.002, 80.0, -0.25, 3.25)),
        (
            EDMDEISScheduler(use_atan_sigmas=False, sigma_schedule="exponential"),
            torch.logspace(math.log10(80), math.log10(0.002), 20, dtype=torch.float64),
        ),
    ]:
        scheduler.set_timesteps(20)
        torch.testing.assert_close(scheduler.sigmas[:-1], expected)


def test_paper_presets_count_76_and_31_evaluations():
    for preset, steps, evaluations, power in [("paper_base", 25, 76, 1 / 6), ("paper_sr", 10, 31, 1 / 3)]:
        scheduler = EDMDEISScheduler.from_preset(preset)
        scheduler.set_timesteps(steps)
        assert len(scheduler.timesteps) == evaluations and scheduler.order == 3
        levels = scheduler.sigmas[:-1][::3]
        assert len(levels) == steps + 1 and levels[-1].item() == pytest.approx(0.002)
        gaps = (levels**power).diff()
        torch.testing.assert_close(gaps, gaps.mean().expand(steps))  # uniform in sigma^power


def test_routing_sigmas_name_one_expert_per_step():
    scheduler = EDMDEISScheduler()
    scheduler.set_timesteps(5)
    assert scheduler.routing_sigmas == scheduler.sigmas[:-1].tolist()
    scheduler = EDMDEISScheduler.from_preset("paper_sr")
    scheduler.set_timesteps(5)
    starts = scheduler.sigmas[:-1][::3].tolist()
    assert scheduler.routing_sigmas == [start for start in starts[:-1] for _ in range(3)] + starts[-1:]


@pytest.mark.parametrize("method", ["multistep", "rho_rk"])
def test_ends_at_sigma_min_if_asked(method):
    scheduler = EDMDEISScheduler(method=method, final_sigmas_type="sigma_min", sigma_min=0.5)
    scheduler.set_timesteps(20)
    assert len(scheduler.timesteps) == 20 * scheduler.order and scheduler.sigmas[-1] == 0.5
    x = noise() * 80
    expected = Gaussian().solution(x, 80.0, 0.5)
    torch.testing.assert_close(run(scheduler, Gaussian(), x), expected, rtol=0, atol=2e-2)


def test_runge_kutta_ends_in_a_denoised_image():
    scheduler, x = EDMDEISScheduler.from_preset("paper_sr"), noise() * 80
    scheduler.set_timesteps(4)
    for timestep in scheduler.timesteps:
        output = scheduler.step(network(Gaussian(), scheduler.scale_model_input(x, timestep), timestep), timestep, x)
        x = output.prev_sample
    assert torch.equal(output.prev_sample, output.pred_original_sample)


def test_explicit_sigmas_are_noise_levels():
    scheduler = EDMDEISScheduler()
    for sigmas in (
        [10.0, 3.0, 0.5],
        [10.0, 3.0, 0.5, 0.0],
        np.array([10.0, 3.0, 0.5]),
        torch.tensor([10.0, 3.0, 0.5]),
    ):
        scheduler.set_timesteps(sigmas=sigmas)
        assert scheduler.sigmas.tolist() == [10.0, 3.0, 0.5, 0.0] and scheduler.num_inference_steps == 3
        assert scheduler.init_noise_sigma == 10.0


# --- life in a pipeline ---


@pytest.mark.parametrize("preset, begin", [("multistep", 4), ("paper_sr", 6)])
def test_starting_in_the_middle_equals_a_schedule_that_starts_there(preset, begin):
    """Image-to-image: noise is added at timesteps[begin], sampling goes on from there, with or without begin_index."""
    scheduler, problem = EDMDEISScheduler.from_preset(preset, degree=3), Mixture()
    scheduler.set_timesteps(10)
    x = problem.centers[:4].view(-1, 2, 1, 1) + scheduler.sigmas[begin] * noise((4, 2, 1, 1))
    with_begin_index = run(scheduler, problem, x, begin)

    scheduler.set_timesteps(10)
    without = x
    for timestep in scheduler.timesteps[begin:]:
        model_output = network(problem, scheduler.scale_model_input(without, timestep), timestep)
        without = scheduler.step(model_output, timestep, without).prev_sample

    levels = scheduler.sigmas[begin:-1][:: scheduler.order]
    scheduler.set_timesteps(sigmas=levels)
    assert torch.equal(with_begin_index, without)
    torch.testing.assert_close(with_begin_index, run(scheduler, problem, x), rtol=1e-6, atol=1e-6)


def test_add_noise():
    scheduler, image = EDMDEISScheduler(), torch.zeros(2, 3, 4, 4)
    scheduler.set_timesteps(10)
    ones = torch.ones_like(image)
    noisy = scheduler.add_noise(image, ones, scheduler.timesteps[[3, 7]])
    torch.testing.assert_close(noisy[:, 0, 0, 0], scheduler.sigmas[[3, 7]].float())
    scheduler.set_begin_index(5)
    noisy = scheduler.add_noise(image, ones, scheduler.timesteps[[5, 5]])
    torch.testing.assert_close(noisy[:, 0, 0, 0], scheduler.sigmas[[5, 5]].float())


@pytest.mark.parametrize("preset", ["multistep", "paper_sr"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_loses_no_more_than_its_last_digit(preset, dtype):
    """Rounding does not add up over the steps. A quarter of a step of 8-bit images is 1 / 510."""
    scheduler, results = EDMDEISScheduler.from_preset(preset), []
    x = (noise() * 80).to(dtype)
    for each in (dtype, torch.float32):
        scheduler.set_timesteps(25)
        results.append(run(scheduler, Gaussian(), x.to(each)))
    half, single = results
    assert half.dtype == dtype and single.dtype == torch.float32
    assert all(past.dtype == torch.float32 for past in scheduler._history)
    error, rounding = ((each.float() - single).abs().mean() for each in (half, single.to(dtype)))
    assert error < 1.3 * rounding and error < 1 / 510


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("preset", ["multistep", "log_rho_ab", "paper_sr"])
@pytest.mark.parametrize("betas", [{}, SD_BETAS])
def test_no_step_waits_for_the_device(preset, betas, prediction_type):
    """Tensors on the meta device have no values: reading one, as `.item()` does, raises."""
    scheduler = EDMDEISScheduler.from_preset(preset, prediction_type=prediction_type, **betas)
    scheduler.set_timesteps(4, device="meta")
    scheduler.set_begin_index(0)
    x = torch.empty(1, 3, 4, 4, device="meta", dtype=torch.float16)
    for timestep in scheduler.timesteps:
        x = scheduler.step(scheduler.scale_model_input(x, timestep), timestep, x).prev_sample
    assert x.device.type == "meta"


def test_set_timesteps_forgets_the_last_run():
    scheduler, x = EDMDEISScheduler(), noise() * 80
    scheduler.set_timesteps(6)
    first = run(scheduler, Gaussian(), x)
    scheduler.set_timesteps(6)
    assert scheduler.step_index is None and not scheduler._history
    assert torch.equal(first, run(scheduler, Gaussian(), x))


def test_step_in_tuple_form_and_the_counters():
    scheduler, x = EDMDEISScheduler.from_preset("paper_sr"), noise() * 80
    scheduler.set_timesteps(2)
    states = []
    for timestep in scheduler.timesteps:
        states.append(scheduler.state_in_first_order)
        x, denoised = scheduler.step(torch.zeros_like(x), timestep, x, return_dict=False)
    assert states == [True, False, False] * 2 + [True]
    assert x.shape == denoised.shape and scheduler.step_index == 7 and len(scheduler) == 1000


# --- discrete-time models ---


EULER = {"degree": 0, "corrector": False, "use_atan_sigmas": False}


PIPELINES = [
    StableDiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLPipeline,
    StableDiffusionXLImg2ImgPipeline,
]


@ARRAY_WARNING
@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_degree_zero_draws_what_euler_discrete_draws(pipeline, prediction_type):
    """In Stable Diffusion, on Karras's grid: the same noise levels, timesteps and pictures."""
    pipe = build(pipeline, unet_for(pipeline), EulerDiscreteScheduler)
    # Another timestep_spacing scales the starting noise by sqrt(1 + 1 / sigma_max^2).
    changes = {"use_karras_sigmas": True, "prediction_type": prediction_type, "timestep_spacing": "linspace"}
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, **changes)
    expected = draw(pipe, 6)
    pipe.scheduler, euler = EDMDEISScheduler.from_config(pipe.scheduler.config, **EULER), pipe.scheduler
    drawn = draw(pipe, 6)
    torch.testing.assert_close(pipe.scheduler.sigmas.float(), euler.sigmas, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(pipe.scheduler.timesteps, euler.timesteps, rtol=1e-4, atol=0.1)
    torch.testing.assert_close(drawn, expected, rtol=1e-3, atol=1e-3)


@ARRAY_WARNING
@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("preset", ["multistep", "paper_sr"])
def test_presets_run_in_stable_diffusion(pipeline, preset):
    pipe = build(pipeline, unet_for(pipeline), EulerDiscreteScheduler)
    pipe.scheduler = EDMDEISScheduler.from_config(
        PNDMScheduler.from_config(pipe.scheduler.config).config, **PRESETS[preset]
    )
    assert draw(pipe, 6).isfinite().all()
    assert pipe.scheduler.step_index == len(pipe.scheduler.timesteps) == (6 if preset == "multistep" else 19)


@ARRAY_WARNING
def test_an_edm_model_in_the_pipeline_of_sdxl():
    """As Playground v2.5 is one: no betas, EDM's scheduler."""
    pipe = build(StableDiffusionXLPipeline, unet_for(StableDiffusionXLPipeline), EulerDiscreteScheduler)
    pipe.scheduler, images = EDMEulerScheduler(), []
    for changes in (None, EULER):
        if changes is not None:
            pipe.scheduler = EDMDEISScheduler.from_config(pipe.scheduler.config, **changes)
        images.append(draw(pipe, 6))
    # EDMEuler starts from sqrt(80^2 + 1).
    torch.testing.assert_close(*images, rtol=1e-3, atol=1e-3)


def test_betas_and_edm_are_not_confused():
    unets = [unet_for(StableDiffusionPipeline) for _ in range(2)]
    assert ExpertRouterUNet.from_unets(unets, [1.0], scheduler=EDMDEISScheduler()).config.betas is None
    pipe = tiny_pipeline(scheduler=EDMDEISScheduler(**SD_BETAS))
    with pytest.raises(ValueError, match="betas of a discrete-time model"):
        pipe("a cat")


@ARRAY_WARNING
def test_experts_of_a_discrete_model_follow_its_sigmas():
    unets = [unet_for(StableDiffusionPipeline) for _ in range(2)]
    calls = [0, 0]
    for i, unet in enumerate(unets):
        unet.register_forward_pre_hook(lambda *_, i=i: calls.__setitem__(i, calls[i] + 1))
    pipe = build(StableDiffusionPipeline, unets[0], EulerDiscreteScheduler)
    pipe.scheduler = EDMDEISScheduler.from_config(pipe.scheduler.config)
    pipe.unet = ExpertRouterUNet.from_unets(unets, [1.0], unit="sigma", scheduler=pipe.scheduler)
    draw(pipe, 10)
    expected = sum(sigma < 1 for sigma in pipe.scheduler.routing_sigmas)
    assert calls == [expected, 10 - expected] and 0 < expected < 10


@ARRAY_WARNING
@pytest.mark.parametrize(
    "theirs", [DDPMScheduler, PNDMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler]
)
@pytest.mark.parametrize("betas", [{}, SD_BETAS])
def test_discrete_configs_convert_both_ways(theirs, betas, tmp_path):
    """With their default betas, too, which a configuration in memory keeps quiet about."""
    reference = theirs(prediction_type="v_prediction", **betas)
    alphas_cumprod = reference.alphas_cumprod.double()
    sigmas = ((1 - alphas_cumprod) / alphas_cumprod).sqrt()
    ours = EDMDEISScheduler.from_config(reference.config)
    ours.set_timesteps(10)
    assert ours.config.sigma_min == pytest.approx(sigmas[0].item())
    assert ours.init_noise_sigma == ours.config.sigma_max == pytest.approx(sigmas[-1].item())
    assert ours.timesteps[0].item() == pytest.approx(999) and len(ours.timesteps.unique()) == 10
    assert ours.precondition_noise(sigmas[500]).item() == pytest.approx(500, abs=1e-4)
    assert theirs in ours.compatibles
    ours.save_pretrained(tmp_path)
    for scheduler in (ours, EDMDEISScheduler.from_pretrained(tmp_path)):
        back = theirs.from_config(scheduler.config)
        assert type(back) is theirs and back.config.prediction_type == "v_prediction"
        torch.testing.assert_close(back.alphas_cumprod, reference.alphas_cumprod)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_outputs_of_discrete_models(prediction_type):
    """Of x = image + sigma noise, scaled by alpha = 1 / sqrt(1 + sigma^2), v is alpha noise - alpha sigma image."""
    scheduler = EDMDEISScheduler(prediction_type=prediction_type, beta_schedule="scaled_linear")
    image, epsilon = noise(), noise().flip(0)
    for sigma in (0.05, 1.0, 12.0):
        alpha = 1 / math.hypot(1, sigma)
        outputs = {"epsilon": epsilon, "v_prediction": alpha * epsilon - alpha * sigma * image, "sample": image}
        x = image + sigma * epsilon
        torch.testing.assert_close(scheduler.precondition_outputs(x, outputs[prediction_type], sigma), image)
        torch.testing.assert_close(scheduler.precondition_inputs(x, sigma), alpha * x)


@pytest.mark.parametrize("extrapolate", ["denoised", "model_output", "noise"])
def test_a_discrete_model_of_a_gaussian(extrapolate):
    """The exact noise prediction leads to the exact image, whatever is extrapolated."""
    scheduler = EDMDEISScheduler(extrapolate=extrapolate, **SD_BETAS)
    scheduler.set_timesteps(30)
    x = noise() * scheduler.init_noise_sigma
    expected = Gaussian().solution(x, scheduler.init_noise_sigma)
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas.tolist(), strict=False):
        model_input = scheduler.scale_model_input(x, timestep)
        torch.testing.assert_close(model_input, x / math.hypot(1, sigma))
        x = scheduler.step((x - Gaussian().denoise(x, sigma)) / sigma, timestep, x).prev_sample
    torch.testing.assert_close(x, expected, rtol=0, atol=2e-3)


@ARRAY_WARNING
def test_stable_video_diffusion_is_an_edm_model():
    """timestep_type "continuous": sigma_data 1, -F, c_noise and its own range."""
    svd = {
        "beta_schedule": "scaled_linear", "timestep_type": "continuous", "prediction_type": "v_prediction",
        "sigma_min": 0.002, "sigma_max": 700.0, "use_karras_sigmas": True,
    }  # fmt: skip
    theirs = EulerDiscreteScheduler(**svd)
    ours = EDMDEISScheduler.from_config(theirs.config, **EULER)
    x, results = noise((1, 2, 3, 2, 2), torch.float32) * 700, []  # frames, too
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(8)
        sample = x
        for timestep in scheduler.timesteps:
            model_output = scheduler.scale_model_input(sample, timestep).cos() * timestep
            sample = scheduler.step(model_output, timestep, sample).prev_sample
        results.append(sample)
    torch.testing.assert_close(ours.timesteps, theirs.timesteps, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)


@ARRAY_WARNING
def test_zero_terminal_snr_starts_at_the_limit_of_diffusers():
    settings = {**SD_BETAS, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    theirs = EulerDiscreteScheduler(**settings)
    ours = EDMDEISScheduler.from_config(theirs.config)
    ours.set_timesteps(10)
    assert ours.init_noise_sigma == pytest.approx(theirs.sigmas[0].item(), rel=1e-4)


# --- boundaries of experts ---

BOUNDARIES = (0.3, 2.0)


class Experts:
    """An expert for each side of the boundaries, each exact for a Gaussian of its own: D jumps where they meet."""

    means, std = (0.3, -0.2, 0.1), 0.4

    def denoise(self, x, sigma):
        mean = self.means[sum(float(sigma) >= boundary for boundary in BOUNDARIES)]
        return mean + self.std**2 / (self.std**2 + sigma**2) * (x - mean)

    def solution(self, x, sigma):
        levels = [sigma, *sorted(BOUNDARIES, reverse=True), 0.0]
        for mean, start, end in zip(reversed(self.means), levels, levels[1:], strict=False):
            x = mean + math.sqrt((self.std**2 + end**2) / (self.std**2 + start**2)) * (x - mean)
        return x


@pytest.mark.parametrize("config", [{}, {"degree": 1}, {"use_atan_sigmas": False}])
def test_boundaries_remove_the_error_of_the_jump_between_experts(config):
    ignored = error(EDMDEISScheduler(**config), 20, Experts())
    assert error(EDMDEISScheduler(**config, boundaries=BOUNDARIES), 20, Experts()) < 0.5 * ignored


def test_below_a_boundary_the_scheduler_begins_anew():
    scheduler = EDMDEISScheduler(degree=3, boundaries=[1.0])
    scheduler.set_timesteps(12)
    first = int((scheduler.sigmas > 1).sum())
    tail, x = scheduler.sigmas[first:-1], noise()
    whole = run(scheduler, Gaussian(), x)
    scheduler.set_timesteps(12)
    for timestep in scheduler.timesteps[:first]:
        x = scheduler.step(network(Gaussian(), scheduler.scale_model_input(x, timestep), timestep), timestep, x)[0]
    fresh = EDMDEISScheduler(degree=3)
    fresh.set_timesteps(sigmas=tail)
    assert torch.equal(run(fresh, Gaussian(), x), whole)


@pytest.mark.parametrize("steps", [*range(1, 9), 25, 1000])
@pytest.mark.parametrize("config", [{}, {"use_atan_sigmas": False}, {"method": "rho_rk"}])
def test_a_level_lies_just_below_each_boundary(steps, config):
    ordinary, stretched = EDMDEISScheduler(**config), EDMDEISScheduler(**config, boundaries=[0.3, 2.0, 2.0, 500.0])
    for scheduler in (ordinary, stretched):
        scheduler.set_timesteps(steps)
    before, after = ordinary.sigmas.unique(), stretched.sigmas.unique()
    assert len(before) == len(after) and torch.equal(before[[0, -1]], after[[0, -1]])
    found = [any(0 < boundary - sigma < 1e-4 * boundary for sigma in after) for boundary in (2.0, 0.3)]
    inner = (steps + 1 if config.get("method") else steps) - 2
    assert found == [inner > 0, inner > 1]


# --- bad input ---


def ready(steps=4, **config):
    scheduler = EDMDEISScheduler(**config)
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize(
    "config",
    [
        {"sigma_min": 0.0},
        {"sigma_min": 90.0},
        {"sigma_max": math.inf},
        {"sigma_data": -1.0},
        {"rho": math.nan},
        {"sigma_schedule": "linear"},
        {"prediction_type": "sample"},
        {"prediction_type": "flow_prediction"},
        {"beta_schedule": "cosine"},
        {"timestep_type": "trailing"},
        {"variable": "logsnr"},
        {"final_sigmas_type": "one"},
        {"method": "midpoint"},
        {"extrapolate": "score"},
        {"degree": -1},
        {"degree": 9},
        {"degree": 1.5},
        {"variable_scale": 0.0},
        {"atan_width": -4.0},
        {"atan_center": math.nan},
        {"sigma_end": 100.0},
        {"boundaries": [2.0, 0.0]},
        {"boundaries": [math.nan]},
        {"num_train_timesteps": 0},
    ],
)
def test_a_bad_configuration_is_refused_by_name(config):
    with pytest.raises(ValueError, match=next(iter(config))):
        EDMDEISScheduler(**config)


@pytest.mark.parametrize(
    "use, error_type, message",
    [
        (lambda: EDMDEISScheduler.from_preset("3kutta"), ValueError, "preset '3kutta' is unknown"),
        (lambda: ready(0), ValueError, "1 to 1000, got 0"),
        (lambda: ready(1001), ValueError, "1 to 1000, got 1001"),
        (lambda: ready(2.5), TypeError, "got 2.5"),
        (lambda: ready(True), TypeError, "got True"),
        (lambda: ready(None), TypeError, "got None"),
        (lambda: ready().set_timesteps(sigmas=[]), ValueError, "at least 1"),
        (lambda: ready().set_timesteps(sigmas=[1.0, 2.0]), ValueError, "strictly decreasing"),
        (lambda: ready().set_timesteps(sigmas=[1.0, 1.0]), ValueError, "strictly decreasing"),
        (lambda: ready().set_timesteps(sigmas=[math.inf, 1.0]), ValueError, "finite"),
        (lambda: ready().set_timesteps(sigmas=[1.0, -1.0]), ValueError, "positive"),
        (lambda: ready().set_timesteps(3, sigmas=[2.0, 1.0]), ValueError, "2 sigmas make 2 steps"),
        (lambda: ready(method="rho_rk").set_timesteps(sigmas=[1.0]), ValueError, "at least 2"),
        (lambda: ready(**SD_BETAS).set_timesteps(sigmas=[80.0, 1.0]), ValueError, "within the model's"),
        (lambda: ready().set_timesteps(sigmas=[[2.0, 1.0]]), ValueError, "list of at least 1"),
        (lambda: ready().set_begin_index(4), ValueError, "below 4, got 4"),
        (lambda: ready(method="rho_rk").set_begin_index(2), ValueError, "multiple of 3"),
        (lambda: ready().step(torch.zeros(1), 5.0, torch.zeros(1)), ValueError, "5.0 is not one"),
        (lambda: ready().step(torch.zeros(2), 5.0, torch.zeros(1)), ValueError, "differ in shape"),
    ],
)
def test_bad_input_is_refused(use, error_type, message):
    with pytest.raises(error_type, match=message):
        use()


def test_using_a_scheduler_without_steps_left_is_refused():
    scheduler, x = EDMDEISScheduler(), torch.zeros(1)
    with pytest.raises(ValueError, match="call set_timesteps"):
        scheduler.step(x, scheduler.timesteps[0], x)
    scheduler.set_timesteps(1)
    scheduler.step(x, scheduler.timesteps[0], x)
    with pytest.raises(ValueError, match="call set_timesteps"):
        scheduler.step(x, scheduler.timesteps[0], x)


def test_starting_inside_a_runge_kutta_step_is_refused():
    scheduler, x = ready(method="rho_rk"), torch.zeros(1)
    with pytest.raises(ValueError, match="inside a Runge-Kutta step"):
        scheduler.step(x, scheduler.timesteps[1], x)


# --- settings and levels of strangers ---

NONSENSE = [
    {"sigma_min": "0.1"},
    {"sigma_max": 1e200},
    {"sigma_max": 10**400},
    {"sigma_data": None},
    {"sigma_end": math.nan},
    {"rho": 1e-300},
    {"rho": True},
    {"atan_width": 1e-300},
    {"atan_center": math.inf},
    {"boundaries": 5},
    {"boundaries": [None]},
    {"degree": 2.0},
    {"degree": 9},
    {"num_train_timesteps": 10.5},
    {"num_train_timesteps": 10**8},
    {"trained_betas": 0.1},
    {"beta_schedule": "linear", "beta_start": "0"},
    {"sample_max_value": [1]},
    {"dynamic_thresholding_ratio": 0},
]


@pytest.mark.parametrize("settings", NONSENSE, ids=str)
@pytest.mark.parametrize("preset", ["multistep", "paper_base"])
def test_settings_that_are_none_are_named(preset, settings):
    with pytest.raises(ValueError, match=list(settings)[-1]):
        EDMDEISScheduler.from_preset(preset, **settings)


@pytest.mark.parametrize("sigmas", [[None, 1.0], ["a"], [1e300, 1.0], [10**400, 1], [1.0, 1e-300], 3, [[1.0]], {}])
def test_levels_that_are_none_are_refused(sigmas):
    with pytest.raises(ValueError, match="sigmas"):
        EDMDEISScheduler().set_timesteps(sigmas=sigmas)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers 0.42, numpy 2.4
@pytest.mark.parametrize("name", ["StableDiffusionSigmas", "StableDiffusionXLSigmas"])
def test_published_schedules_mean_the_bounds_of_the_model(name):
    """Align Your Steps: three digits of what the model knows."""
    euler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    scheduler = EDMDEISScheduler.from_config(euler.config)
    euler.set_timesteps(sigmas=AysSchedules[name])
    scheduler.set_timesteps(sigmas=AysSchedules[name])
    torch.testing.assert_close(scheduler.timesteps, euler.timesteps, rtol=1e-4, atol=1e-3)
    lowest, highest = scheduler.config.sigma_min, scheduler.config.sigma_max
    scheduler.set_timesteps(sigmas=[14.615, 1.0, 0.029])
    assert scheduler.sigmas.tolist() == pytest.approx([highest, 1.0, lowest, 0.0], rel=1e-12)
    for sigmas in ([14.8, 1.0], [1.0, 0.028]):
        with pytest.raises(ValueError, match="must lie within the model's"):
            scheduler.set_timesteps(sigmas=sigmas)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("betas", [{}, SD_BETAS])
def test_inputs_are_scaled_before_the_steps_are_set(betas, dtype):
    """As in training, where every row may have a timestep."""
    scheduler, x = EDMDEISScheduler(**betas), torch.ones(3, 1, 2, 2, dtype=dtype)
    sigma_data = 1.0 if betas else 0.5
    chosen = [0, 400, 999]
    expected = c_in(scheduler.sigmas[chosen], sigma_data).to(dtype).view(3, 1, 1, 1).expand_as(x)
    scaled = scheduler.scale_model_input(x, scheduler.timesteps[chosen])
    torch.testing.assert_close(scaled, expected, rtol=1e-3, atol=1e-6)
    for row, timestep in enumerate(scheduler.timesteps[chosen]):
        for each in (timestep, timestep.item()):
            torch.testing.assert_close(
                scheduler.scale_model_input(x, each)[:1], expected[row : row + 1], rtol=1e-3, atol=1e-6
            )
    scheduler.set_timesteps(3)
    assert scheduler.step_index is None


@pytest.mark.parametrize("betas", [SD_BETAS, {"trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3}])
def test_a_discrete_time_model_says_what_training_reads(betas):
    scheduler, other = EDMDEISScheduler(**betas), DDPMScheduler(**betas)
    assert torch.equal(scheduler.alphas_cumprod, other.alphas_cumprod) and torch.equal(scheduler.betas, other.betas)
    timesteps = torch.tensor([0, 2])
    assert torch.equal(compute_snr(scheduler, timesteps), compute_snr(other, timesteps))
    assert not hasattr(EDMDEISScheduler(), "alphas_cumprod")

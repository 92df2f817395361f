# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""DEIS (Zhang and Chen 2022, arXiv 2204.13902) for EDM models: exponential multistep and the paper's Runge-Kutta.

Both solve `dx/dsigma = (x - D(x; sigma)) / sigma` from `sigma_max` down; `deis_weights` has the mathematics,
`sigma_grids` the noise levels. Many known samplers are the multistep method with other settings: Adams-Bashforth on
sigma (noise, variable "sigma": the DEIS paper's rho-AB, of which diffusers' LMSDiscrete is degree 3) and on ln(sigma)
(noise, "log": DEISMultistep), DPM-Solver++ (denoised, "log") and UniPC (the same with the corrector).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

import diffusers
import numpy as np
import torch
from diffusers import EDMDPMSolverMultistepScheduler
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from diffusers.utils import BaseOutput

from ..checks import is_finite, is_number
from ..discrete_time import (
    BETA_SCHEDULES,
    BETA_SETTINGS,
    check_train_timesteps,
    discrete_time_model,
    has_betas,
    is_continuous,
    log_sigmas,
    sigmas_of,
    timesteps_of,
)
from ..edm import (
    SIGMA_DATA,
    SIGMA_MAX,
    SIGMA_MIN,
    c_in,
    c_noise,
    denoised_from_model_output,
    expand_as,
    sigma_from_c_noise,
)
from .deis_weights import extrapolated, kutta3_levels, kutta3_stage, multistep_weights
from .hub import SharedScheduler
from .sigma_grids import HIGHEST_SIGMA, LOWEST_SIGMA, are_levels, check_sigmas, lowest_sigma, sigma_grid, stretched

MAX_DEGREE = 8
LEARNED = ("learned", "learned_range")  # variances
CHOICES = {
    "sigma_schedule": ("karras", "exponential"),
    "prediction_type": ("epsilon", "v_prediction", "sample"),
    "final_sigmas_type": ("zero", "sigma_min"),
    "method": ("multistep", "rho_rk"),
    "extrapolate": ("denoised", "model_output", "noise"),
    "variable": ("log1p", "log", "sigma"),
    "beta_schedule": (None, *BETA_SCHEDULES),
    "timestep_type": ("discrete", "continuous"),
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", *LEARNED),
}

LEVELS = (LOWEST_SIGMA, HIGHEST_SIGMA)
LIMITS = {
    "sigma_min": LEVELS,
    "sigma_max": LEVELS,
    "sigma_end": LEVELS,
    "sigma_data": LEVELS,
    "variable_scale": LEVELS,
    "rho": (0.1, 1e4),
    "atan_center": (-100.0, 100.0),
    "atan_width": (1e-3, 1e3),
    "dynamic_thresholding_ratio": (1e-9, 1.0),
    "sample_max_value": (1.0, HIGHEST_SIGMA),
}
REQUIRED = ("sigma_data", "rho", "dynamic_thresholding_ratio", "sample_max_value")  # the others may be None

# Entries of a discrete-time model's scheduler: what its timesteps mean in sigma, and what the network returns.
MODEL_SETTINGS = (*BETA_SETTINGS, "prediction_type")

PRESETS: dict[str, dict[str, Any]] = {
    "multistep": {},
    # Adams-Bashforth of the DEIS paper, on Karras's grid: in sigma (rhoAB3) and in ln(sigma) (DEIS-3 in diffusers).
    "rho_ab": {
        "extrapolate": "noise",
        "variable": "sigma",
        "degree": 3,
        "corrector": False,
        "use_atan_sigmas": False,
    },
    "log_rho_ab": {
        "extrapolate": "noise",
        "variable": "log",
        "degree": 2,
        "corrector": False,
        "use_atan_sigmas": False,
    },
    # Table 7's "3kutta, order 6, 25 steps", read as a grid uniform in sigma^(1/6): 25 steps are 76 evaluations. It
    # might also be an Adams-Bashforth order, but in the DEIS authors' code the grid's power stands beside the tableau.
    "paper_base": {"method": "rho_rk", "use_atan_sigmas": False, "sigma_schedule": "karras", "rho": 6.0},
    # "3kutta, order 3, 10 steps": 31 evaluations.
    "paper_sr": {"method": "rho_rk", "use_atan_sigmas": False, "sigma_schedule": "karras", "rho": 3.0},
}


@dataclass
class EDMDEISSchedulerOutput(BaseOutput):
    """Output of `EDMDEISScheduler.step`.

    Args:
        prev_sample (`torch.Tensor`): The input of the next step, `(batch, channels, height, width)`.
        pred_original_sample (`torch.Tensor`): The denoised image D that this step's model output stands for.
    """

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor


class EDMDEISScheduler(SharedScheduler, ConfigMixin):
    """DEIS for EDM models, a drop-in for diffusers' `EDMEulerScheduler` and `EDMDPMSolverMultistepScheduler`.

    `method="multistep"` calls the network once per step: it extrapolates the denoised image by a polynomial in
    `log1p(sigma / variable_scale)`, corrects the last step once its end is known (at no cost), and at the end
    evaluates the polynomial at sigma = 0. `method="rho_rk"` is the paper's sampler: Kutta's third-order method on
    sigma, three calls per step, and one more to denoise the end. See `from_preset`.

    With `beta_schedule` (or `trained_betas`) the model works in discrete time, as Stable Diffusion does: its timesteps
    mean sigma = sqrt((1 - alpha_bar) / alpha_bar), between them they are interpolated in ln(sigma), as
    `EulerDiscreteScheduler` does it with Karras's grid. `from_config` takes all of that over from its scheduler:

        >>> pipe.scheduler = EDMDEISScheduler.from_config(pipe.scheduler.config)  # doctest: +SKIP

    Args:
        sigma_min, sigma_max (`float`, *optional*): Lowest and highest noise level, where sampling starts; 0.002 and 80
            by default. A discrete-time model narrows them to the levels that it knows.
        sigma_data (`float`): Standard deviation of the training images; 1 for every discrete-time model.
        sigma_schedule (`str`): `karras` or `exponential`; used if `use_atan_sigmas` is False.
        num_train_timesteps (`int`): The largest number of inference steps, and the number of betas.
        prediction_type (`str`): What the network returns: EDM's F is `epsilon` in diffusers' words, -F
            `v_prediction`. Of a discrete-time model it is the noise, v or, with `sample`, the image.
        rho (`float`): Exponent of the Karras grid, which is uniform in sigma^(1/rho).
        final_sigmas_type (`str`): `zero` ends in a clean image, `sigma_min` at that noise level.
        method (`str`): `multistep` or `rho_rk`.
        degree (`int`, *optional*): Degree of the polynomial, 0 (Euler's method) to 8; 3 by default, 2 up to 8 steps.
        corrector (`bool`): Redo every step with the newest evaluation included before the next step starts.
        extrapolate (`str`): `denoised` (D), `model_output` (F) or `noise`.
        variable (`str`): What the polynomial is a polynomial of: `log1p` of sigma / `variable_scale`, `log` of sigma
            (the last step to zero is Euler's then, as ln(0) is infinite), or `sigma`.
        variable_scale (`float`, *optional*): The sigma where log1p turns from linear to logarithmic; `sigma_data` by
            default, for F a fifth of it.
        use_atan_sigmas (`bool`): Replace `sigma_schedule` by a grid uniform in
            atan((ln(sigma) - atan_center) / atan_width).
        atan_center, atan_width (`float`, *optional*): See there; by default -0.25 and 3.25, for F -1 and 3. Worth
            tuning on a trained model.
        sigma_end (`float`, *optional*): Last noise level on the atan grid before the jump to zero; by default 0.04 up
            to 8 steps, 0.02 up to 10, 0.01 up to 15, else `sigma_min`.
        boundaries (`list` of `float`, *optional*): Noise levels where the network changes abruptly, such as
            `ExpertRouterUNet.boundaries`: a level lies just below each, and the polynomial begins anew there. Worth
            trying where experts were trained apart from each other.
        beta_start, beta_end, beta_schedule, trained_betas, rescale_betas_zero_snr: Of a discrete-time model, as in
            `DDPMScheduler`.
        timestep_type (`str`): `continuous` says of a model with `beta_schedule` and v-prediction that it is called
            with c_noise and sampled over EDM's range all the same, as Stable Video Diffusion is.
        thresholding (`bool`): Clamp D as Imagen does (arXiv 2205.11487), which is for models of pixels: to [-s, s],
            then divide by s, the quantile `dynamic_thresholding_ratio` of abs(D) in each image, but at least 1.
        dynamic_thresholding_ratio, sample_max_value (`float`): See there; the latter is the largest s, 1 clamps D.
        variance_type (`str`, *optional*): Of `learned` and `learned_range` the network's further channels are dropped.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> scheduler = EDMDEISScheduler()
        >>> scheduler.set_timesteps(20)
        >>> sample = torch.randn(1, 3, 8, 8) * scheduler.init_noise_sigma
        >>> for timestep in scheduler.timesteps:
        ...     model_input = scheduler.scale_model_input(sample, timestep)
        ...     model_output = torch.zeros_like(model_input)  # the network: unet(model_input, timestep, ...)
        ...     sample = scheduler.step(model_output, timestep, sample).prev_sample
    """

    @register_to_config
    def __init__(
        self,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        sigma_data: float = SIGMA_DATA,
        sigma_schedule: Literal["karras", "exponential"] = "karras",
        num_train_timesteps: int = 1000,
        prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon",
        rho: float = 7.0,
        final_sigmas_type: Literal["zero", "sigma_min"] = "zero",
        method: Literal["multistep", "rho_rk"] = "multistep",
        degree: int | None = None,
        corrector: bool = True,
        extrapolate: Literal["denoised", "model_output", "noise"] = "denoised",
        variable: Literal["log1p", "log", "sigma"] = "log1p",
        variable_scale: float | None = None,
        use_atan_sigmas: bool = True,
        atan_center: float | None = None,
        atan_width: float | None = None,
        sigma_end: float | None = None,
        boundaries: Sequence[float] | None = None,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str | None = None,
        trained_betas: Sequence[float] | None = None,
        rescale_betas_zero_snr: bool = False,
        timestep_type: Literal["discrete", "continuous"] = "discrete",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        variance_type: str | None = None,
    ) -> None:
        # numbers of numpy would neither go into a tensor nor into JSON
        self.register_to_config(**{k: v.item() for k, v in self.config.items() if isinstance(v, np.generic)})
        _check_choices(self.config)
        _check_numbers(self.config)
        from_betas = has_betas(self.config)
        betas = {name: self.config[name] for name in BETA_SETTINGS if self.config[name] is not None}
        # ln(sigma) of a discrete-time model's timesteps; None: the network is called with c_noise.
        self._log_sigmas = log_sigmas(betas) if from_betas and not is_continuous(self.config) else None
        if self._log_sigmas is not None:  # what training reads of a discrete-time model, in diffusers' `compute_snr`
            model = discrete_time_model(betas)
            self.betas, self.alphas_cumprod = model.betas, model.alphas_cumprod
        self._sigma_data = 1.0 if from_betas else self.config.sigma_data
        # Numbers in place of None, since other schedulers may read the configuration.
        low, high = _sigma_range(self.config, self._log_sigmas)
        self.register_to_config(sigma_min=low, sigma_max=high)
        self.order = 3 if method == "rho_rk" else 1  # network calls per step, as diffusers' pipelines count them
        self.num_inference_steps: int | None = None
        self._begin_index: int | None = None
        self._weights: list[tuple[float, list[float]]] = []
        # Before set_timesteps: the whole training range, as the other EDM schedulers have it.
        self._set_levels(_sigma_grid(self.config, self.config.num_train_timesteps), None)

    @classmethod
    def from_config(
        cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any
    ) -> "EDMDEISScheduler | tuple[EDMDEISScheduler, dict[str, Any]]":
        """A scheduler with the settings of another scheduler's `config`, changed by `kwargs`; see `ConfigMixin`.

        What describes a discrete-time model counts even where it is the default of the scheduler it comes from, which
        diffusers would pass over.
        """
        if config is not None and "beta_schedule" in config:
            kwargs = {name: config[name] for name in MODEL_SETTINGS if name in config} | kwargs
        return super().from_config(config, return_unused_kwargs, **kwargs)

    @classmethod
    def from_preset(cls, name: str = "multistep", **changes: Any) -> "EDMDEISScheduler":
        """A scheduler with named settings.

        Args:
            name (`str`): `multistep` (this project's default); `rho_ab` and `log_rho_ab`, Adams-Bashforth of the DEIS
                paper; `paper_base` (meant for 25 steps, 76 evaluations) and `paper_sr` (meant for 10 steps, 31
                evaluations), eDiff-I's samplers as its Table 7 is most plausibly read.
            **changes: Configuration values that replace those of the preset.

        Raises:
            ValueError: The preset does not exist.
        """
        if name not in PRESETS:
            raise ValueError(f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}.")
        return cls(**{**PRESETS[name], **changes})

    @classmethod
    def _get_compatibles(cls) -> list[type]:
        """EDM's schedulers and, for discrete-time models, those of Stable Diffusion; the base class looks for names
        inside of diffusers alone."""
        discrete = [getattr(diffusers, each.name) for each in KarrasDiffusionSchedulers]
        return [cls, EDMDPMSolverMultistepScheduler, *discrete]

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the starting noise: the first sigma (diffusers' EDM schedulers: sqrt(sigma^2 + 1))."""
        return self._entry_sigmas[0]

    @property
    def step_index(self) -> int | None:
        """Position in `timesteps`; None before the first step."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Position in `timesteps` where sampling begins, if `set_begin_index` said so."""
        return self._begin_index

    @property
    def state_in_first_order(self) -> bool:
        """Whether the next call of `step` starts a step (and does not continue a Runge-Kutta step)."""
        return not self._step_index or self._step_index % self.order == 0

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Starts at this position of `timesteps`, a multiple of `order`, instead of at the given timestep."""
        if not 0 <= begin_index < len(self.timesteps) or begin_index % self.order:
            raise ValueError(
                f"begin_index must be a multiple of {self.order} below {len(self.timesteps)}, got {begin_index}."
            )
        self._begin_index = int(begin_index)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Sequence[float] | np.ndarray | torch.Tensor | None = None,
    ) -> None:
        """Chooses the noise levels, computes the weights and forgets earlier steps.

        `timesteps` gets one entry per network call: `num_inference_steps` of them with "multistep"; with "rho_rk"
        three times as many, and one more to end at zero. `routing_sigmas` holds for each entry the noise level that
        should choose the expert: all stages of a Runge-Kutta step use the same.

        Args:
            num_inference_steps (`int`): Number of steps, 1 to `num_train_timesteps`.
            device (`torch.device`, *optional*): Where `timesteps` go; everything else stays on the CPU.
            sigmas (`list` of `float`, *optional*): Instead, the noise levels themselves (not a ramp), decreasing, with
                or without a final 0. They are not stretched to the `boundaries`.

        Raises:
            TypeError: The number of steps is not an integer.
            ValueError: It is out of range, does not fit `sigmas`, or `sigmas` are not decreasing noise levels.
        """
        ends_at_zero = self.config.final_sigmas_type == "zero"
        one_more = 1 if self.order == 3 or not ends_at_zero else 0  # levels - steps
        if sigmas is None:
            steps = _check_steps(num_inference_steps, self.config.num_train_timesteps)
            levels = stretched(_sigma_grid(self.config, steps + one_more), self.config.boundaries or ())
            if not are_levels(levels):
                raise ValueError(f"{steps} noise levels of these settings do not decrease: {levels.tolist()}.")
        else:
            levels = check_sigmas(sigmas, 1 + one_more, _model_range(self._log_sigmas))
            if num_inference_steps not in (None, len(levels) - one_more):
                raise ValueError(
                    f"{len(levels)} sigmas make {len(levels) - one_more} steps, got {num_inference_steps=}: "
                    "pass one of them."
                )
            _check_steps(len(levels) - one_more, self.config.num_train_timesteps)
        self.num_inference_steps = len(levels) - one_more
        self._set_levels(levels, device)

    def _set_levels(self, levels: torch.Tensor, device: str | torch.device | None) -> None:
        """Lays out one entry per network call, and what ends the last; forgets earlier steps."""
        *before, last = levels.tolist()
        ending, end = ([last], 0.0) if self.config.final_sigmas_type == "zero" else ([], last)
        entries, routing_sigmas = kutta3_levels([*before, last]) if self.order == 3 else (before, before)
        self._entry_sigmas: list[float] = [*entries, *ending]
        self.routing_sigmas: list[float] = [*routing_sigmas, *ending]
        self.sigmas = torch.tensor([*self._entry_sigmas, end], dtype=torch.float64)
        self.timesteps = self.precondition_noise(self.sigmas[:-1]).to(dtype=torch.float32, device=device)
        self._step_index: int | None = None
        self._begin_index = None
        self._weights = self._multistep_weights(0) if self.order == 1 and self.num_inference_steps else []
        self._history: list[torch.Tensor] = []  # multistep: D or F, the latest first; rho_rk: the slopes of this step
        self._rounding: torch.Tensor | None = None  # of the last sample in half precision
        self._step_start = torch.empty(0)  # rho_rk: the sample at which the running step started

    def _multistep_weights(self, begin: int) -> list[tuple[float, list[float]]]:
        """[`~deis_weights.multistep_weights`] of these settings, when sampling begins at `begin`."""
        config, sigmas = self.config, self.sigmas.tolist()
        degree = config.degree if config.degree is not None else 3 if len(sigmas) > 9 else 2
        boundaries = config.boundaries or ()
        return multistep_weights(sigmas, degree, config.corrector, boundaries=boundaries, begin=begin, **self._core)

    @property
    def _core(self) -> dict[str, Any]:
        """The settings of [`~deis_weights.step_weights`]."""
        config = self.config
        by_default = self._sigma_data * (0.2 if config.extrapolate == "model_output" else 1.0)
        return {
            "extrapolate": config.extrapolate,
            "variable": config.variable,
            "variable_scale": by_default if config.variable_scale is None else config.variable_scale,
            "sigma_data": self._sigma_data,
        }

    def index_for_timestep(
        self, timestep: float | torch.Tensor, schedule_timesteps: torch.Tensor | None = None
    ) -> int:
        """Position of an entry of `timesteps`; where a Runge-Kutta step ends as the next begins, the beginning."""
        candidates = self.timesteps if schedule_timesteps is None else schedule_timesteps
        return _last_index(candidates, timestep, self._log_sigmas is None)

    def _first_index(self, timestep: float | torch.Tensor) -> int:
        """Where sampling begins; later the steps are counted, which needs no look at the device."""
        if self.num_inference_steps is None:
            raise ValueError("The scheduler has no noise levels yet: call set_timesteps(num_inference_steps) first.")
        index = self.begin_index if self.begin_index is not None else self.index_for_timestep(timestep)
        if index % self.order:
            raise ValueError(f"{timestep} lies inside a Runge-Kutta step: start at a multiple of {self.order}.")
        if self.order == 1 and index > 0:
            self._weights = self._multistep_weights(index)
        return index

    def scale_model_input(self, sample: torch.Tensor, timestep: float | torch.Tensor) -> torch.Tensor:
        """The network's input c_in * x for the current step; before `set_timesteps`, as in training, for the noise
        level of any timestep."""
        if self.num_inference_steps is None:
            return self.precondition_inputs(sample, self._sigma_of(timestep).to(sample.device)).to(sample.dtype)
        if self._step_index is None:
            self._step_index = self._first_index(timestep)
        return self.precondition_inputs(sample, self._current_sigma(self._step_index))

    def precondition_inputs(self, sample: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        """c_in * x."""
        return sample * c_in(expand_as(sigma, sample), self._sigma_data)

    def precondition_noise(self, sigma: float | torch.Tensor) -> torch.Tensor:
        """The network's timestep: c_noise = ln(sigma) / 4, or a discrete-time model's, interpolated in ln(sigma)."""
        sigma = torch.as_tensor(sigma)
        return c_noise(sigma) if self._log_sigmas is None else timesteps_of(sigma, self._log_sigmas)

    def _sigma_of(self, timestep: float | torch.Tensor) -> torch.Tensor:
        """The inverse of `precondition_noise`, in float32 on the CPU."""
        timesteps = torch.as_tensor(timestep).float().cpu()
        return sigma_from_c_noise(timesteps) if self._log_sigmas is None else sigmas_of(timesteps, self._log_sigmas)

    def precondition_outputs(
        self, sample: torch.Tensor, model_output: torch.Tensor, sigma: float | torch.Tensor
    ) -> torch.Tensor:
        """The denoised image D: c_skip * x + c_out * F, or what a discrete-time model's output says about it."""
        kind = self.config.prediction_type
        if kind == "epsilon" and self._log_sigmas is not None:
            return sample - expand_as(sigma, sample) * model_output
        if kind == "sample":
            return model_output
        sign = -1 if kind == "v_prediction" else 1  # sigma_data = 1 makes -F a discrete-time model's v
        return denoised_from_model_output(sign * model_output, sample, sigma, self._sigma_data)

    def _current_sigma(self, index: int) -> float:
        if index >= len(self._entry_sigmas):
            raise ValueError(f"All {index} timesteps are used up: call set_timesteps before sampling again.")
        return self._entry_sigmas[index]

    _threshold_sample = EDMDPMSolverMultistepScheduler._threshold_sample  # reads `config`

    def step(
        self,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor,
        sample: torch.Tensor,
        return_dict: bool = True,
    ) -> EDMDEISSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """Goes on to the next entry of `timesteps`.

        Args:
            model_output (`torch.Tensor`): What the network returned, `(batch, channels, height, width)`.
            timestep (`float`): The current entry of `timesteps`; read in the first step without `set_begin_index`.
            sample (`torch.Tensor`): The noisy image x, not scaled, of the same shape.
            return_dict (`bool`): Return an `EDMDEISSchedulerOutput`, not a tuple.

        Returns:
            The next sample, in the dtype of `sample`, and the denoised image.

        Raises:
            ValueError: It is before `set_timesteps` or after the last timestep, or the shapes differ.
        """
        if self.config.variance_type in LEARNED and model_output.shape[1] == 2 * sample.shape[1]:
            model_output = model_output.chunk(2, dim=1)[0]
        if model_output.shape != sample.shape:
            raise ValueError(
                f"model_output and sample differ in shape, {tuple(model_output.shape)} and {tuple(sample.shape)}."
            )
        if self._step_index is None:
            self._step_index = self._first_index(timestep)
        sigma = self._current_sigma(self._step_index)
        x = sample.to(torch.promote_types(sample.dtype, torch.float32))
        x = x if self._rounding is None else x + self._rounding
        denoised = self.precondition_outputs(x, model_output.to(x.dtype), sigma)
        if self.config.thresholding:  # what the solver goes on with, be it D, F or the noise, follows from this D
            denoised = self._threshold_sample(denoised)

        solve = self._runge_kutta_stage if self.order == 3 else self._multistep
        exact = solve(x, denoised, sigma, self._step_index)
        self._step_index += 1

        prev_sample, denoised = exact.to(sample.dtype), denoised.to(sample.dtype)
        # What half precision loses of the sample is given back in the next step, so that errors do not add up.
        self._rounding = exact - prev_sample if sample.dtype != exact.dtype else None
        if not return_dict:
            return prev_sample, denoised
        return EDMDEISSchedulerOutput(prev_sample=prev_sample, pred_original_sample=denoised)

    def _multistep(self, x: torch.Tensor, denoised: torch.Tensor, sigma: float, index: int) -> torch.Tensor:
        """x_(i+1) = a x_i + sum_j w_j G_(i-j): predictor and corrector are one linear combination.

        The corrector's change is added to the sample given, so that what a callback did to it is kept.
        """
        prediction = extrapolated(x, denoised, sigma, self.config.extrapolate, self._sigma_data)
        scale, weights = self._weights[index]
        self._history = [prediction, *self._history][: len(weights)]
        result = scale * x
        for weight, past in zip(weights, self._history, strict=True):
            result = result + weight * past
        return result

    def _runge_kutta_stage(self, x: torch.Tensor, denoised: torch.Tensor, sigma: float, index: int) -> torch.Tensor:
        """One of the three stages of 3kutta, see [`~deis_weights.kutta3_stage`]."""
        stage, start = index % 3, index - index % 3
        if start + 3 > len(self._entry_sigmas):
            return denoised  # the entry after the last full step: the tableau cannot end at sigma = 0
        if stage == 0:
            self._step_start, self._history = x, []
        self._history.append((x - denoised) / sigma)
        return kutta3_stage(self._step_start, self._history, self._entry_sigmas[start + 2] - self._entry_sigmas[start])

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """x + sigma * noise at these entries of `timesteps`, `(batch,)`; after `set_begin_index` at the current."""
        if self.begin_index is None:
            schedule = self.timesteps.to(timesteps.device)
            indices = [self.index_for_timestep(timestep, schedule) for timestep in timesteps]
        else:
            indices = [self.step_index if self.step_index is not None else self.begin_index] * len(timesteps)
        sigma = self.sigmas[indices].to(original_samples)
        return original_samples + noise * sigma.view(-1, *(1,) * (original_samples.ndim - 1))

    def __len__(self) -> int:
        return self.config.num_train_timesteps


def _last_index(candidates: torch.Tensor, timestep: float | torch.Tensor, are_c_noise: bool) -> int:
    if isinstance(timestep, torch.Tensor):
        timestep = timestep.to(candidates)
    indices = (candidates == timestep).nonzero().flatten().tolist()
    if not indices:
        unit = ", which are ln(sigma) / 4" if are_c_noise else ""
        raise ValueError(f"{timestep} is not one of the scheduler's timesteps{unit}.")
    return indices[-1]


def _check_choices(config: Any) -> None:
    for name, allowed in CHOICES.items():
        if config[name] not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, got {config[name]!r}.")
    if config.prediction_type == "sample" and not has_betas(config):
        raise ValueError('prediction_type "sample" needs the beta_schedule of a discrete-time model.')


def _check_numbers(config: Any) -> None:
    check_train_timesteps(config.num_train_timesteps)
    degree, boundaries = config.degree, config.boundaries
    if degree is not None and not (is_number(degree, Integral) and 0 <= degree <= MAX_DEGREE):
        raise ValueError(
            f"degree must be an integer from 0 to {MAX_DEGREE}, the longest history, or None; got {degree!r}."
        )
    for name, (low, high) in LIMITS.items():
        value = config[name]
        is_optional = value is None and name not in REQUIRED
        if not is_optional and not (is_finite(value) and low <= value <= high):
            raise ValueError(f"{name} must be a number from {low:g} to {high:g}, got {value!r}.")
    are_many = boundaries is None or isinstance(boundaries, Sequence | np.ndarray)
    if not are_many or not all(
        is_finite(boundary) and boundary > 0 for boundary in (() if boundaries is None else boundaries)
    ):
        raise ValueError(f"boundaries must be a list of noise levels, positive and finite, got {boundaries!r}.")


def _check_steps(num_inference_steps: Any, most: int) -> int:
    if num_inference_steps is None or not is_number(num_inference_steps, Integral):
        raise TypeError(f"num_inference_steps must be an integer, got {num_inference_steps!r}.")
    if not 1 <= num_inference_steps <= most:
        raise ValueError(f"num_inference_steps must be 1 to {most}, got {num_inference_steps}.")
    return num_inference_steps


def _model_range(log_sigmas_of_model: np.ndarray | None) -> tuple[float, float]:
    """The noise levels of a discrete-time model; a network that is called with c_noise takes any."""
    if log_sigmas_of_model is None:
        return 0.0, math.inf
    lowest, highest = np.exp(log_sigmas_of_model[[0, -1]]).tolist()
    return lowest, highest


def _sigma_range(config: Any, log_sigmas_of_model: np.ndarray | None) -> tuple[float, float]:
    """`sigma_min` and `sigma_max`: EDM's by default, or those of a discrete-time model, which narrows any to them."""
    low, high = config.sigma_min, config.sigma_max
    if log_sigmas_of_model is None:
        low, high = SIGMA_MIN if low is None else low, SIGMA_MAX if high is None else high
    else:
        lowest, highest = _model_range(log_sigmas_of_model)
        low, high = lowest if low is None else max(low, lowest), highest if high is None else min(high, highest)
    if not 0 < low < high < math.inf:
        raise ValueError(f"Need 0 < sigma_min < sigma_max, got {low} and {high}.")
    if config.sigma_end is not None and not config.sigma_end < high:
        raise ValueError(f"sigma_end must be below sigma_max = {high}, got {config.sigma_end}.")
    return low, high


def _sigma_grid(config: Any, num_steps: int) -> torch.Tensor:
    """The grid that a configuration asks for: `num_steps` float64 levels from sigma_max down, without a final 0."""
    if not config.use_atan_sigmas:
        return sigma_grid(num_steps, config.sigma_min, config.sigma_max, config.sigma_schedule, config.rho)
    center, width = (-1.0, 3.0) if config.extrapolate == "model_output" else (-0.25, 3.25)
    center = center if config.atan_center is None else config.atan_center
    width = width if config.atan_width is None else config.atan_width
    lowest = config.sigma_min
    if config.method == "multistep" and config.final_sigmas_type == "zero":
        lowest = lowest_sigma(num_steps, config.sigma_min, config.sigma_max, config.sigma_end)
    return sigma_grid(num_steps, lowest, config.sigma_max, "atan", center=center, width=width)

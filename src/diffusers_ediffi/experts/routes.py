# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`Routes`: which expert works at which noise level, and which noise levels are refused. It needs no network."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from ..discrete_time import BETA_SETTINGS, log_sigmas
from ..edm import c_noise, sigma_from_c_noise
from ..models.network_config import check_trained_on
from .files import expert_folder

UNITS = ("sigma", "timestep")
# Boundaries are quoted to three digits (9.61 for 9.609...): a route may leave `trained_on` by this much, relatively.
TRAINED_ON_TOLERANCE = 2e-3
# No sampler has a sigma of exp(4 * 5) = 5e8: such a "c_noise" is the step index of a discrete-time model.
MAX_C_NOISE = 5.0


@dataclass(frozen=True)
class Routes:
    """The noise levels of each expert: expert i works in [boundaries[i - 1], boundaries[i]), expert 0 below all.

        >>> routes = Routes([0.0757, 9.61], trained_on=[None, None, None])
        >>> routes.expert_of_sigma(80.0), routes.expert_of_timestep(-1.0)
        (2, 0)

    Args:
        boundaries (`list` of `float`): Increasing noise levels between the experts.
        unit (`str`): What the boundaries are: `sigma`, or `timestep` of a discrete-time model.
        betas (`dict`, *optional*): Beta settings of a discrete-time model, see [`BETA_SETTINGS`]. Without them a
            timestep is read as c_noise = ln(sigma) / 4, or, with boundaries in timesteps, has no known sigma.
        trained_on (`list`): For each expert the `[low, high]` pairs of sigma it was trained on (`None` as `high` for
            infinity), or `None` where nothing is known.

    Raises:
        ValueError: if the boundaries are not levels of this model, or give an expert noise that it was not trained on.
    """

    boundaries: Sequence[float]
    unit: str = "sigma"
    betas: Mapping[str, Any] | None = None
    trained_on: Sequence[Sequence[Sequence[Any]] | None] = (None,)
    # ln(sigma) of every timestep where the betas are known
    _log_sigmas: np.ndarray | None = field(init=False, repr=False, compare=False)
    # the lowest timestep of the expert above each boundary
    _first_timesteps: list[float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        boundaries = tuple(check_boundaries(self.boundaries, len(self.trained_on), self.unit))
        for trained_on in self.trained_on:
            check_trained_on(trained_on)
        object.__setattr__(self, "boundaries", boundaries)
        self._check_betas()
        object.__setattr__(self, "_log_sigmas", None if self.betas is None else log_sigmas(self.betas))
        object.__setattr__(self, "_first_timesteps", [self._first_timestep(boundary) for boundary in boundaries])
        self._check_intervals()

    def expert_of_sigma(self, routing_sigma: float) -> int:
        """The index of the expert of a noise level.

        Raises:
            ValueError: if `routing_sigma` is not a noise level, or lies outside what its expert was trained on.
        """
        if not routing_sigma >= 0:
            raise ValueError(f"sigma={routing_sigma} is not a noise level; give a number of at least 0.")
        if self.unit == "timestep" and self._log_sigmas is None:
            raise ValueError("this router's boundaries are timesteps: build it with scheduler= to select by sigma.")
        level = routing_sigma if self.unit == "sigma" else self._to_timestep(routing_sigma)
        index = bisect_right(self.boundaries, level)
        self._check_trained_on(index, routing_sigma, routing_sigma)
        return index

    def expert_of_timestep(self, timestep: float) -> int:
        """The index of the expert of what a U-Net is called with.

        Raises:
            ValueError: if the model has no such timestep, or it lies outside what its expert was trained on.
        """
        if self._reads_c_noise and not abs(timestep) <= MAX_C_NOISE:
            raise ValueError(
                f"timestep {timestep} is not c_noise = ln(sigma) / 4: on a discrete-time model build the router with "
                'scheduler=pipe.scheduler, or with unit="timestep".'
            )
        index, routing_sigma = bisect_right(self._first_timesteps, timestep), self._to_sigma(timestep)
        self._check_trained_on(index, routing_sigma, routing_sigma)
        return index

    def experts_of(self, timesteps: torch.Tensor | float) -> list[int]:
        """The expert of every given timestep; waits for the device of a tensor, unless there is no choice."""
        if len(self.trained_on) == 1 and self.trained_on[0] is None:
            return [0]
        listed = timesteps.tolist() if isinstance(timesteps, torch.Tensor) else timesteps
        return [self.expert_of_timestep(timestep) for timestep in (listed if isinstance(listed, list) else [listed])]

    @property
    def _reads_c_noise(self) -> bool:
        return self.unit == "sigma" and self.betas is None

    def _to_timestep(self, sigma: float) -> float:
        if self._log_sigmas is None:
            return c_noise(sigma)
        return float(np.interp(math.log(max(sigma, 1e-30)), self._log_sigmas, np.arange(len(self._log_sigmas))))

    def _to_sigma(self, timestep: float) -> float:
        """The noise level of a timestep, NaN where timesteps are all that is known."""
        if self._log_sigmas is not None:
            return math.exp(np.interp(timestep, np.arange(len(self._log_sigmas)), self._log_sigmas))
        return sigma_from_c_noise(timestep) if self._reads_c_noise else math.nan

    def _first_timestep(self, boundary: float) -> float:
        """The lowest timestep that belongs to the expert above the boundary."""
        if self.unit == "timestep":
            last = math.inf if self._log_sigmas is None else len(self._log_sigmas) - 1
            if boundary > last:
                raise ValueError(f"boundary {boundary:g} lies above the scheduler's last timestep, {last}.")
            return boundary
        if self._log_sigmas is None:
            return self._to_timestep(boundary) - 1e-6  # a float32 timestep may be rounded down to less than ln(b) / 4
        low, high = np.exp(self._log_sigmas[[0, -1]])
        if not low <= boundary <= high:
            raise ValueError(
                f"boundary {boundary:g} lies outside the scheduler's sigmas {low:.3g} to {high:.3g}; a timestep "
                'needs unit="timestep".'
            )
        return self._to_timestep(boundary) - 1e-3  # discrete timesteps are whole numbers

    def _check_betas(self) -> None:
        if self.betas is not None and not isinstance(self.betas, Mapping):
            raise ValueError(f"betas={self.betas!r} must be a dict with some of {', '.join(BETA_SETTINGS)}, or None.")
        unknown = sorted(set(self.betas or ()) - set(BETA_SETTINGS))
        if unknown:
            raise ValueError(f"betas has the unknown entries {unknown}; there are {BETA_SETTINGS}.")
        if self.unit == "timestep" and self.betas is None and any(self.trained_on):
            raise ValueError("to compare boundaries in timesteps with the experts' `trained_on`, pass scheduler=.")

    def _check_intervals(self) -> None:
        """Refuses boundaries that give an expert noise levels it was not trained on. Of the outermost intervals only
        the inner end is checked here: nobody samples at sigma 0 or infinity."""
        edges = [edge if self.unit == "sigma" else self._to_sigma(edge) for edge in self.boundaries]
        if edges:
            edges = [0.99 * edges[0], *edges, 1.01 * edges[-1]]
        for index, (low, high) in enumerate(pairwise(edges)):
            self._check_trained_on(index, low, high)

    def _check_trained_on(self, index: int, low: float, high: float) -> None:
        """Raises unless expert `index` was trained on all noise levels from `low` to `high`."""
        trained_on = self.trained_on[index]
        if trained_on is None or any(_holds(interval, low, high) for interval in trained_on):
            return
        route = f"sigma {low:g}" if low == high else f"the sigmas [{low:g}, {high:g})"
        text = ", ".join(f"[{first:g}, {math.inf if last is None else last:g})" for first, last in trained_on)
        raise ValueError(
            f"{expert_folder(index)} is asked for {route} but was trained on {text}: change the boundaries."
        )


def check_boundaries(boundaries: Sequence[float], num_experts: int, unit: str) -> list[float]:
    """The boundaries as floats.

    Raises:
        ValueError: if they are not increasing noise levels in this unit, one fewer than there are experts.
    """
    if unit not in UNITS:
        raise ValueError(f"unit={unit!r} is unknown; boundaries are in {' or '.join(UNITS)}.")
    numbers = _as_numbers(boundaries, num_experts)
    increasing = all(low < high for low, high in pairwise(numbers))
    if not increasing or not all(0 < number < math.inf for number in numbers):
        raise ValueError(
            f"boundaries={numbers} must be positive, finite and strictly increasing (lowest noise first)."
        )
    if unit == "timestep" and not all(number.is_integer() for number in numbers):
        raise ValueError(
            f"boundaries={numbers} are not timesteps, which are whole numbers (of a fraction f of the steps: f * "
            '1000 of 1000). Give timesteps, or sigmas with unit="sigma" and scheduler=.'
        )
    return numbers


def _as_numbers(boundaries: Any, num_experts: int) -> list[float]:
    if not isinstance(boundaries, Sequence):
        raise ValueError(f"boundaries={boundaries!r} must be a list of numbers, also where it holds a single one.")
    if num_experts < 1 or len(boundaries) != num_experts - 1:
        raise ValueError(
            f"{num_experts} experts and {len(boundaries)} boundaries: N experts (at least one) need N - 1 boundaries."
        )
    try:
        return [float(boundary) for boundary in boundaries]
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"boundaries={list(boundaries)} must be numbers.") from error


def _holds(interval: Sequence[Any], low: float, high: float) -> bool:
    """Whether [low, high) lies in the interval [first, last) of training, but for `TRAINED_ON_TOLERANCE`."""
    first, last = interval
    above = low >= first * (1 - TRAINED_ON_TOLERANCE)
    return above and (last is None or high <= last * (1 + TRAINED_ON_TOLERANCE))

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Grids of noise levels, float64 and decreasing, without a final 0: pure functions of their arguments."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from ..edm import karras_sigmas

BELOW = 1e-5  # how far a level lies below a boundary, relative to it: the boundary itself is still the upper expert's
# No sampler goes beyond these, and squares of what lies beyond leave float32.
LOWEST_SIGMA, HIGHEST_SIGMA = 1e-9, 1e9
THREE_DIGITS = 5e-3  # relative error of a number that is written with three digits


def sigma_grid(
    num_steps: int,
    sigma_min: float,
    sigma_max: float,
    schedule: str = "karras",
    rho: float = 7.0,
    center: float = 0.0,
    width: float = 1.0,
) -> torch.Tensor:
    """`num_steps` levels from `sigma_max` down to `sigma_min`: `karras` with `rho` ([`~edm.karras_sigmas`]),
    `exponential`, or `atan` with `center` and `width` ([`atan_sigmas`])."""
    if schedule == "atan":
        return atan_sigmas(num_steps, sigma_min, sigma_max, center, width)
    if schedule == "karras":
        return karras_sigmas(num_steps, sigma_min, sigma_max, rho)
    # uniform in ln(sigma), the limit of Karras's grid for large rho
    return torch.linspace(math.log(sigma_max), math.log(sigma_min), num_steps, dtype=torch.float64).exp()


def atan_sigmas(num_steps: int, sigma_min: float, sigma_max: float, center: float, width: float) -> torch.Tensor:
    """A grid of this project, uniform in atan((ln(sigma) - center) / width), which is densest at `center`.

        sigma_i = exp(center + width tan(t_i)),    t_i uniform from atan of `sigma_max` down to atan of `sigma_min`

    Args:
        num_steps (`int`): Number of levels.
        sigma_min, sigma_max (`float`): The last and the first level, exactly.
        center (`float`): ln(sigma) where levels are densest.
        width (`float`): Distance in ln(sigma) from there at which they are half as dense.

    Returns:
        `(num_steps,)`.
    """
    first, last = (math.atan((math.log(sigma) - center) / width) for sigma in (sigma_max, sigma_min))
    ramp = torch.linspace(first, last, num_steps, dtype=torch.float64)
    sigmas = (center + width * ramp.tan()).exp()
    sigmas[-1], sigmas[0] = sigma_min, sigma_max  # exactly
    return sigmas


def lowest_sigma(num_steps: int, sigma_min: float, sigma_max: float, sigma_end: float | None = None) -> float:
    """The last level before the jump to zero: `sigma_end`, or what was measured to be best for so few levels."""
    if sigma_end is not None:
        return sigma_end
    measured = 0.04 if num_steps <= 8 else 0.02 if num_steps <= 10 else 0.01 if num_steps <= 15 else 0.0
    return measured if sigma_min < measured < sigma_max else sigma_min


def check_sigmas(
    sigmas: Sequence[float] | np.ndarray | torch.Tensor,
    at_least: int = 1,
    sigma_range: tuple[float, float] = (0.0, math.inf),
) -> torch.Tensor:
    """Noise levels that somebody chose, as float64 on the CPU, without the final 0 that they may have.

    Raises:
        ValueError: They are fewer than `at_least`, do not decrease, or leave `sigma_range`, that of a model.
    """
    try:
        levels = _without_final_zero(torch.as_tensor(sigmas, dtype=torch.float64).cpu())
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(f"sigmas={sigmas!r} must be a list of noise levels, numbers that a float holds.") from error
    if levels.ndim != 1 or len(levels) < at_least:
        raise ValueError(f"sigmas must be a list of at least {at_least} noise levels, got {sigmas}.")
    levels = _within(levels, *sigma_range)
    lowest, highest = max(sigma_range[0], LOWEST_SIGMA), min(sigma_range[1], HIGHEST_SIGMA)
    if not are_levels(levels):
        raise ValueError(f"sigmas must be positive, finite and strictly decreasing, got {levels.tolist()}.")
    if levels[0] > highest * (1 + 1e-6) or levels[-1] < lowest * (1 - 1e-6):
        raise ValueError(f"sigmas must lie within the model's {lowest} to {highest}, got {levels.tolist()}.")
    return levels


def are_levels(levels: torch.Tensor) -> bool:
    """Whether they are noise levels: positive, finite and strictly decreasing."""
    return bool(levels.isfinite().all() and (levels > 0).all() and (levels.diff() < 0).all())


def _within(levels: torch.Tensor, lowest: float, highest: float) -> torch.Tensor:
    """Levels with the outermost at the model's bounds where they are these bounds as schedules are published, to three
    digits (14.615 for 14.6146..., 0.029 for 0.0291...)."""
    levels = levels.clone()
    for index, bound, excess in ((0, highest, levels[0] - highest), (-1, lowest, lowest - levels[-1])):
        is_rounded = excess <= THREE_DIGITS * bound or levels[index] == round(bound, 3)
        if 1e-6 * bound < excess < math.inf and is_rounded:
            levels[index] = bound
    return levels


def _without_final_zero(levels: torch.Tensor) -> torch.Tensor:
    return levels[:-1] if levels.ndim == 1 and len(levels) > 1 and levels[-1] == 0 else levels


def stretched(levels: torch.Tensor, boundaries: Sequence[float]) -> torch.Tensor:
    """The grid with a level just below each boundary inside it, as far as there are inner levels.

    The number of levels and both ends stay. Levels between those that move are interpolated in ln(sigma) over their
    position in the old grid.
    """
    if not boundaries:
        return levels
    depths, last = -levels.log().numpy(), len(levels) - 1
    asked = sorted({-math.log(boundary * (1 - BELOW)) for boundary in boundaries})
    inside = [depth for depth in asked if depths[0] < depth < depths[-1]][: max(0, last - 1)]
    positions = np.arange(last + 1)
    wanted = [float(np.interp(depth, depths, positions)) for depth in inside]
    old_positions = np.interp(positions, [0, *_places(wanted, last), last], [0.0, *wanted, last])
    moved = torch.from_numpy(np.exp(-np.interp(old_positions, positions, depths)))
    moved[0], moved[-1] = levels[0], levels[-1]  # exactly
    return moved


def _places(wanted: Sequence[float], last: int) -> list[int]:
    """Whole positions from 1 to `last` - 1, each near the wanted one and higher than the one before it."""
    places: list[int] = []
    for position in wanted:
        highest = last - len(wanted) + len(places)  # leaves room for those that follow
        places.append(min(max(round(position), places[-1] + 1 if places else 1), highest))
    return places

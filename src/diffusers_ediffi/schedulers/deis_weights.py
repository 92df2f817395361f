# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The mathematics of DEIS (Zhang and Chen 2022, arXiv 2204.13902) in float64: pure functions of noise levels.

The sampling equation `dx/dsigma = (x - D(x; sigma)) / sigma` is written as `dz/dtau = G` with `z = x / s`. The linear
part is then exact, and G, which the network gives, changes slowly:

    extrapolate     s(sigma)                        dtau                                         G
    denoised        sigma                           dsigma / sigma^2                             -D
    model_output    sqrt(sigma^2 + sigma_data^2)    sigma_data dsigma / (sigma^2 + sigma_data^2) -F
    noise           1                               dsigma                                       (x - D) / sigma

A step from `start` down to `end` integrates a polynomial through the latest G. It is linear in x and in what the
network gave, so that a sampler needs nothing but the factors of both, which depend on the noise levels alone.
"""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from ..edm import c_out, c_skip

# Kutta's third-order tableau ("3kutta"): a row makes the next stage's input from the slopes so far, the last row the
# result.
KUTTA3 = ((1 / 2,), (-1.0, 2.0), (1 / 6, 4 / 6, 1 / 6))
KUTTA3_NODES = (0.0, 1 / 2, 1.0)


def extrapolated(
    x: torch.Tensor, denoised: torch.Tensor, sigma: float, extrapolate: str, sigma_data: float
) -> torch.Tensor:
    """What the polynomial goes through, -G or G of the table: D, F or the noise."""
    if extrapolate == "denoised":
        return denoised
    if extrapolate == "noise":
        return (x - denoised) / sigma
    return (denoised - c_skip(sigma, sigma_data) * x) / c_out(sigma, sigma_data)


def multistep_weights(
    sigmas: Sequence[float],
    degree: int,
    corrector: bool = True,
    extrapolate: str = "denoised",
    variable: str = "log1p",
    variable_scale: float = 0.5,
    sigma_data: float = 0.5,
    boundaries: Sequence[float] = (),
    begin: int = 0,
) -> list[tuple[float, list[float]]]:
    """The weights of a multistep method, predictor and corrector in one: x_(i+1) = a_i x_i + sum_j w_ij G_(i-j).

    The corrector (UniPC, arXiv 2302.04867) redoes the step that led to x_i with the prediction at x_i
    included. That adds sum_j (corrected_j - predicted_j) G_(i-j) to x_i, which goes into the weights of the next step.

    Args:
        sigmas (`list` of `float`): The noise levels, decreasing; the last may be 0.
        degree (`int`): Degree of the polynomial. The first steps have a lower one.
        corrector (`bool`): Whether each step is redone.
        extrapolate, variable (`str`), variable_scale, sigma_data (`float`): See [`step_weights`].
        boundaries (`list` of `float`): Noise levels below which another expert works: what stands above a boundary
            says nothing about what comes below it, and the polynomial begins anew.
        begin (`int`): The step at which sampling begins.

    Returns:
        For each step the factor a_i and the weights w_ij, the latest prediction first; before `begin` empty ones.
    """
    weights_of = partial(
        step_weights,
        extrapolate=extrapolate,
        variable=variable,
        variable_scale=variable_scale,
        sigma_data=sigma_data,
    )
    rows: list[tuple[float, list[float]]] = [(0.0, [])] * begin
    predicted: np.ndarray = np.zeros(0)
    passed = [sum(sigma < boundary for boundary in boundaries) for sigma in sigmas]
    for i in range(begin, len(sigmas) - 1):
        first = max(begin, passed.index(passed[i]))  # what stands before it is another expert's
        scale, weights = weights_of(sigmas[i], sigmas[i + 1], _latest(sigmas, i, degree, first))
        combined = weights
        if corrector and i > first:
            _, change = weights_of(sigmas[i - 1], sigmas[i], _latest(sigmas, i, degree + 1, first))
            change[1:] -= predicted
            combined = scale * change
            combined[: len(weights)] += weights
        rows.append((scale, combined.tolist()))
        predicted = weights
    return rows


def _latest(sigmas: Sequence[float], i: int, degree: int, first: int) -> Sequence[float]:
    """The nodes of a polynomial of this degree that ends at level `i`, the latest first; none lies before `first`."""
    return sigmas[max(first, i - degree) : i + 1][::-1]


def step_weights(
    start: float,
    end: float,
    nodes: Sequence[float],
    extrapolate: str = "denoised",
    variable: str = "log1p",
    variable_scale: float = 0.5,
    sigma_data: float = 0.5,
) -> tuple[float, np.ndarray]:
    """One step of an exponential integrator: its factor of x, and the paper's C_ij, the weights of the predictions.

        x(end) = s(end) / s(start) x(start) + sum_j w_j G_j,    w_j = s(end) * integral of L_j dtau over [end, start]

    Args:
        start, end (`float`): The noise levels between which the step leads; `end` may be 0.
        nodes (`list` of `float`): The noise levels of the predictions, the latest first.
        extrapolate (`str`): `denoised`, `model_output` or `noise`: the row of the module's table.
        variable (`str`), variable_scale (`float`): What the polynomial is a polynomial of, see
            [`polynomial_variable`]. At `end` = 0 `log` has no value, and the latest prediction alone counts.
        sigma_data (`float`): Standard deviation of the training images.

    Returns:
        The factor of x and the weights, `(nodes,)`.
    """
    if end == 0 and variable == "log":
        nodes = nodes[:1]
    if end == 0 and extrapolate == "denoised":
        return 0.0, lagrange(np.zeros(1), nodes, variable, variable_scale)[:, 0]  # the limit: D at sigma = 0
    points, widths = quadrature(end, start, 0.1 * sigma_data)
    scale_end = _scale(end, extrapolate, sigma_data)
    basis = lagrange(points, nodes, variable, variable_scale)
    weights = scale_end * (basis @ (_density(points, extrapolate, sigma_data) * widths))
    return scale_end / _scale(start, extrapolate, sigma_data), weights


def _scale(sigma: float, extrapolate: str, sigma_data: float) -> float:
    """s(sigma) of the module's table."""
    if extrapolate == "denoised":
        return sigma
    return 1.0 if extrapolate == "noise" else math.hypot(sigma, sigma_data)


def _density(sigma: np.ndarray, extrapolate: str, sigma_data: float) -> np.ndarray:
    """dtau/dsigma of the module's table, with the sign that D, F or the noise has when sigma goes down."""
    if extrapolate == "denoised":
        return sigma**-2
    if extrapolate == "noise":
        return -np.ones_like(sigma)
    return sigma_data / (sigma**2 + sigma_data**2)


def lagrange(
    sigma: np.ndarray, nodes: Sequence[float], variable: str = "sigma", variable_scale: float = 1.0
) -> np.ndarray:
    """The Lagrange polynomials L_j(u) = prod_(k != j) (u - u_k) / (u_j - u_k) at u(sigma).

    Args:
        sigma (`np.ndarray`): Where they are evaluated, `(points,)`.
        nodes (`list` of `float`): The noise levels at which one of them is 1 and the others are 0.
        variable (`str`), variable_scale (`float`): u, see [`polynomial_variable`].

    Returns:
        `(nodes, points)`; they sum to 1 at each point.
    """
    if len(nodes) == 1:
        return np.ones((1, len(sigma)))
    u = polynomial_variable(sigma, variable, variable_scale)
    known = polynomial_variable(np.array(nodes), variable, variable_scale)
    rows = []
    for j, node in enumerate(known):
        factors = [(u - other) / (node - other) for k, other in enumerate(known) if k != j]
        rows.append(np.prod(factors, axis=0))
    return np.stack(rows)


def polynomial_variable(sigma: np.ndarray, variable: str, variable_scale: float) -> np.ndarray:
    """u(sigma): `sigma` itself, `log` of it, or `log1p` of sigma / variable_scale, which is linear for little noise
    and logarithmic for much."""
    if variable == "sigma":
        return sigma
    return np.log(sigma) if variable == "log" else np.log1p(sigma / variable_scale)


def quadrature(low: float, high: float, bottom: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights for an integral over sigma from `low` to `high`.

    8-point Gauss-Legendre (Abramowitz and Stegun, 25.4.29 and 25.4.30) on panels in ln(sigma), each at most 1.5 wide,
    where dsigma = sigma dln(sigma). From `low` = 0 there is one more panel, in sigma, up to `bottom`.
    """
    nodes, weights = np.polynomial.legendre.leggauss(8)
    log_low = math.log(low if low > 0 else min(bottom, high))
    edges = np.linspace(log_low, math.log(high), 1 + max(1, math.ceil((math.log(high) - log_low) / 1.5)))
    half, middle = np.diff(edges)[:, None] / 2, (edges[:-1, None] + edges[1:, None]) / 2
    points = np.exp(middle + half * nodes)
    points, widths = points.ravel(), (half * weights * points).ravel()
    if low == 0:
        half_bottom = math.exp(log_low) / 2
        points = np.concatenate([half_bottom * (1 + nodes), points])
        widths = np.concatenate([half_bottom * weights, widths])
    return points, widths


def kutta3_levels(levels: Sequence[float]) -> tuple[list[float], list[float]]:
    """The noise level of each stage, three for each step between two `levels`, and the level at which its step starts:
    (1 - node) start + node end, and start."""
    steps = list(zip(levels[:-1], levels[1:], strict=True))
    stages = [(1 - node) * start + node * end for start, end in steps for node in KUTTA3_NODES]
    return stages, [start for start, _ in steps for _ in KUTTA3_NODES]


def kutta3_stage(x: torch.Tensor, slopes: Sequence[torch.Tensor], step_size: float) -> torch.Tensor:
    """x + step_size * sum_j a_j slope_j: where the next slope is taken, after three slopes the end of the step.

    Kutta's third-order method: d1 at x, d2 at x + h/2 d1, d3 at x - h d1 + 2h d2, the end at x + h/6 (d1 + 4 d2 + d3).
    """
    for weight, slope in zip(KUTTA3[len(slopes) - 1], slopes, strict=True):
        x = x + step_size * weight * slope
    return x

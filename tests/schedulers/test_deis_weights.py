# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The weights of DEIS: what polynomials and the quadrature integrate exactly, and what the methods reduce to."""

import math

import numpy as np
import pytest
import torch

from diffusers_ediffi.schedulers.deis_weights import (
    KUTTA3,
    KUTTA3_NODES,
    extrapolated,
    kutta3_levels,
    kutta3_stage,
    lagrange,
    multistep_weights,
    polynomial_variable,
    quadrature,
    step_weights,
)

NODES = [1.0, 1.7, 2.9, 5.0]
CORES = [
    (extrapolate, variable) for extrapolate in ("denoised", "model_output", "noise") for variable in ("log1p", "log")
]


@pytest.mark.parametrize("variable", ["sigma", "log", "log1p"])
def test_lagrange_polynomials_are_one_at_their_node_and_sum_to_one(variable):
    np.testing.assert_allclose(lagrange(np.array(NODES), NODES, variable, 0.5), np.eye(4), atol=1e-12)
    between = np.linspace(0.3, 7, 9)
    np.testing.assert_allclose(lagrange(between, NODES, variable, 0.5).sum(0), 1)
    u, known = (polynomial_variable(np.asarray(x), variable, 0.5) for x in (between, NODES))
    np.testing.assert_allclose((known**3) @ lagrange(between, NODES, variable, 0.5), u**3)


def test_the_variable_log1p_is_linear_for_little_noise_and_logarithmic_for_much():
    little, much = polynomial_variable(np.array([1e-6, 1e6]), "log1p", 0.5)
    assert little == pytest.approx(2e-6) and much == pytest.approx(math.log(2e6))


@pytest.mark.parametrize("low", [0.0, 0.002, 3.0])
@pytest.mark.parametrize("power", range(5))
def test_quadrature_integrates_powers_of_sigma(low, power):
    points, widths = quadrature(low, 5.0, 0.05)
    assert low < points.min() and points.max() < 5.0
    assert widths @ points**power == pytest.approx((5.0 ** (power + 1) - low ** (power + 1)) / (power + 1))


def test_a_step_integrates_polynomials_exactly():
    """Of a slope that is a cubic in sigma, four evaluations give the whole step (Adams-Bashforth on sigma)."""
    scale, weights = step_weights(1.0, 0.4, NODES, "noise", "sigma")
    slopes = [2 - sigma + 0.5 * sigma**2 - 3 * sigma**3 for sigma in NODES]

    def antiderivative(sigma):
        return 2 * sigma - sigma**2 / 2 + sigma**3 / 6 - 3 * sigma**4 / 4

    assert scale == 1 and weights @ slopes == pytest.approx(antiderivative(0.4) - antiderivative(1.0))


def test_equal_steps_have_the_textbook_weights_of_adams_bashforth():
    _, weights = step_weights(3.0, 2.0, [3.0, 4.0, 5.0], "noise", "sigma")
    np.testing.assert_allclose(weights, np.array([23, -16, 5]) / -12)


@pytest.mark.parametrize("end", [0.0, 0.7])
@pytest.mark.parametrize("extrapolate, variable", CORES)
def test_a_step_is_exact_where_the_prediction_is_constant(extrapolate, variable, end):
    """D constant: x goes straight to D. F constant: x / sqrt(sigma^2 + sigma_data^2) is an arc tangent of sigma."""
    x, start = torch.tensor(3.0, dtype=torch.float64), 2.0
    nodes = [start, 2.5, 4.0]
    scale, weights = step_weights(start, end, nodes, extrapolate, variable)
    assert len(weights) == (1 if end == 0 and variable == "log" else 3)
    prediction = 0.3  # whatever is extrapolated
    found = scale * x.item() + weights.sum() * prediction
    exact = {
        "denoised": prediction + (x.item() - prediction) * end / start,
        "noise": x.item() + (end - start) * prediction,
        "model_output": math.hypot(end, 0.5)
        * (x.item() / math.hypot(start, 0.5) + prediction * (math.atan(start / 0.5) - math.atan(end / 0.5))),
    }
    assert found == pytest.approx(exact[extrapolate])


def test_extrapolated_is_what_the_network_would_have_returned():
    x, denoised = torch.tensor([3.0, -1.0]), torch.tensor([0.5, 0.2])
    assert torch.equal(extrapolated(x, denoised, 2.0, "denoised", 0.5), denoised)
    torch.testing.assert_close(denoised + 2.0 * extrapolated(x, denoised, 2.0, "noise", 0.5), x)
    output = extrapolated(x, denoised, 2.0, "model_output", 0.5)
    torch.testing.assert_close(0.25 / 4.25 * x + 2 * 0.5 / math.sqrt(4.25) * output, denoised)


def test_multistep_starts_with_euler_and_grows_to_its_degree():
    sigmas = [5.0, 3.0, 2.0, 1.0, 0.5, 0.0]
    rows = multistep_weights(sigmas, 2, corrector=False)
    assert [len(weights) for _, weights in rows] == [1, 2, 3, 3, 3]
    assert [scale for scale, _ in rows] == pytest.approx([0.6, 2 / 3, 0.5, 0.5, 0])
    assert rows[0][1] == pytest.approx([0.4])  # x goes to D by the share of noise that is gone


def test_the_corrector_redoes_a_step_with_its_end_known():
    """Two steps with corrector: what the first lacks is in the second's weights, scaled by what becomes of x."""
    sigmas = [5.0, 3.0, 2.0]
    (scale_0, (predicted,)), (scale, weights) = multistep_weights(sigmas, 1)
    _, corrected = step_weights(5.0, 3.0, [3.0, 5.0])
    plain_scale, plain = step_weights(3.0, 2.0, [3.0, 5.0])
    assert scale == plain_scale and scale_0 == pytest.approx(0.6)
    assert weights == pytest.approx(plain + scale * (corrected - [0, predicted]))


def test_below_a_boundary_and_at_the_beginning_nothing_older_counts():
    sigmas = [5.0, 3.0, 2.0, 0.9, 0.5, 0.2]
    rows = multistep_weights(sigmas, 3, boundaries=[1.0])
    assert [len(weights) for _, weights in rows] == [1, 2, 3, 1, 2]
    assert rows[3:] == multistep_weights(sigmas[3:], 3)
    later = multistep_weights(sigmas, 3, begin=2)
    assert later[:2] == [(0.0, [])] * 2 and later[2:] == multistep_weights(sigmas[2:], 3)


def test_kuttas_tableau():
    """The order conditions of a third-order method: sum b = 1, sum b c = 1/2, sum b c^2 = 1/3, sum b a c = 1/6."""
    weights, nodes = np.array(KUTTA3[2]), np.array(KUTTA3_NODES)
    assert [sum(row) for row in KUTTA3] == pytest.approx([*nodes[1:], 1])
    assert [weights @ nodes**k for k in range(3)] == pytest.approx([1, 1 / 2, 1 / 3])
    assert weights[2] * KUTTA3[1][1] * nodes[1] == pytest.approx(1 / 6)


def test_kutta3_integrates_a_quadratic_slope_exactly():
    levels, starts = kutta3_levels([3.0, 1.0])
    assert levels == [3.0, 2.0, 1.0] and starts == [3.0, 3.0, 3.0]
    x, slopes = torch.zeros(1, dtype=torch.float64), []
    for level in levels:
        slopes.append(torch.tensor([level**2], dtype=torch.float64))
    assert kutta3_stage(x, slopes[:1], -2.0).item() == -9.0
    assert kutta3_stage(x, slopes, -2.0).item() == pytest.approx((1 - 27) / 3)

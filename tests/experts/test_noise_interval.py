# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The expert tree: intervals split the training distribution by area, and sampling stays inside them."""

import json
import math

import pytest
import torch

from diffusers_ediffi.edm import sigma_cdf
from diffusers_ediffi.experts.noise_interval import ENSEMBLES, Ensemble, NoiseInterval, children, parent


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "node, low, high",
    [
        ((0, 0), 0.0, math.inf),
        ((1, 1), 0.301, math.inf),  # the median exp(-1.2)
        ((3, 0), 0.0, 0.0757),
        ((4, 0), 0.0, 0.0478),
        ((9, 511), 9.61, math.inf),
    ],
)
def test_boundaries_of_the_papers_experts(node, low, high):
    (range_,) = NoiseInterval.from_node(*node).ranges
    assert range_ == (pytest.approx(low, rel=2e-3), pytest.approx(high, rel=2e-3))


@pytest.mark.parametrize("level", [0, 1, 2, 5, 9])
def test_intervals_of_a_level_partition_the_axis(level):
    intervals = [NoiseInterval.from_node(level, index) for index in range(2**level)]
    edges = [interval.ranges[0] for interval in intervals]
    assert edges[0][0] == 0 and edges[-1][1] == math.inf
    assert all(lower[1] == upper[0] for lower, upper in zip(edges, edges[1:], strict=False))
    assert [interval.probability for interval in intervals] == pytest.approx([2.0**-level] * 2**level)
    for sigma in (1e-6, 0.002, 0.301, math.exp(-1.2), 9.61, 80.0, 1e6):
        assert sum(interval.contains(sigma) for interval in intervals) == 1


def test_children_halve_their_parent():
    for node in [(0, 0), (2, 3), (8, 255)]:
        lower, upper = children(*node)
        assert parent(*lower) == parent(*upper) == node
        low, high = NoiseInterval.from_node(*lower).ranges[0], NoiseInterval.from_node(*upper).ranges[0]
        assert NoiseInterval.from_node(*node).ranges == ((low[0], high[1]),) and low[1] == high[0]


def test_complement_and_minus():
    highest, lowest = NoiseInterval.from_node(9, 511), NoiseInterval.from_node(3, 0)
    top, bottom = highest.ranges[0][0], lowest.ranges[0][1]
    assert highest.complement().ranges == ((0.0, top),)
    middle = NoiseInterval.everything().minus(highest, lowest)
    assert middle.ranges == ((bottom, top),)
    assert middle.complement().ranges == ((0.0, bottom), (top, math.inf))
    assert middle.complement().complement() == middle
    assert middle.probability == pytest.approx(1 - 1 / 512 - 1 / 8)
    with pytest.raises(ValueError, match="at least one"):
        NoiseInterval.everything().complement()


def test_contains_is_half_open():
    interval = NoiseInterval(((0.1, 1.0), (2.0, math.inf)))
    assert interval.contains(0.1) and not interval.contains(1.0) and interval.contains(2.0)
    assert not interval.contains(math.nan)
    assert interval.contains_range(0.1, 1.0) and not interval.contains_range(0.5, 3.0)
    assert interval.contains_range(5.0, math.inf)
    assert NoiseInterval(((0.0, 1.0), (1.0, 2.0))).ranges == ((0.0, 2.0),)  # touching ranges are one


@pytest.mark.parametrize("node", [(0, 0), (1, 0), (3, 0), (5, 17), (9, 0), (9, 511), (30, 2**30 - 1)])
def test_samples_stay_inside_and_are_distinct(node):
    """In float32 `ndtri(lo + (1 - lo) u)` gives infinities and few distinct values in the tails."""
    interval = NoiseInterval.from_node(*node)
    sigmas = interval.sample((20_000,), seeded())
    assert sigmas.dtype == torch.float32 and sigmas.isfinite().all()
    assert all(interval.contains(sigma) for sigma in sigmas.tolist())
    if node != (5, 17):  # narrow and in the middle: float32 itself holds few numbers there
        assert len(sigmas.unique()) > 0.95 * len(sigmas)


@pytest.mark.parametrize("node", [(0, 0), (1, 1), (9, 511), (9, 0)])
def test_samples_follow_the_training_distribution(node):
    """Kolmogorov-Smirnov: the probability transform of the samples is uniform."""
    level, index = node
    sigmas = NoiseInterval.from_node(level, index).sample((20_000,), seeded(1)).double()
    # ln(sigma) is symmetric about -1.2: the upper tail is mirrored, so that the tail areas keep their digits
    tail_area = sigma_cdf(math.exp(-2.4) / sigmas if index else sigmas)
    uniform = (tail_area * 2**level).sort().values
    distance = (uniform - (torch.arange(20_000) + 0.5) / 20_000).abs().max()
    assert distance < 1.63 / math.sqrt(20_000)  # the 1% bound; the seed is fixed


def test_samples_of_a_complement_fall_on_both_sides():
    interval = NoiseInterval.from_node(2, 1).complement()
    sigmas = interval.sample((100, 100), seeded())
    assert sigmas.shape == (100, 100)
    assert all(interval.contains(sigma) for sigma in sigmas.flatten().tolist())
    lower_share = (sigmas < interval.ranges[0][1]).double().mean()
    assert lower_share == pytest.approx(1 / 3, abs=0.02)


def test_sampling_is_reproducible():
    interval = NoiseInterval.from_node(3, 0)
    assert torch.equal(interval.sample((8,), seeded(3)), interval.sample((8,), seeded(3)))
    assert not torch.equal(interval.sample((8,), seeded(3)), interval.sample((8,), seeded(4)))


def test_other_training_distributions():
    interval = NoiseInterval.from_node(1, 0, p_mean=0.5, p_std=2.0)
    assert interval.ranges[0][1] == pytest.approx(math.exp(0.5))
    assert interval.complement().p_mean == 0.5
    assert interval.sample((1000,), seeded()).max() < math.exp(0.5)


@pytest.mark.parametrize(
    "interval",
    [
        NoiseInterval.everything(),
        NoiseInterval.from_node(9, 511),
        NoiseInterval.from_node(2, 1),
        NoiseInterval.from_node(2, 1).complement(),
    ],
)
def test_config_round_trip(interval):
    assert NoiseInterval.from_config(json.loads(json.dumps(interval.to_config(), allow_nan=False))) == interval


def test_config_says_infinity_as_none():
    assert NoiseInterval.from_node(9, 511).to_config()[0][1] is None
    assert NoiseInterval.from_config(None) == NoiseInterval.everything()


def test_ensembles_of_the_paper():
    sizes = {name: [len(stages[stage].experts) for stage in ("base", "sr256")] for name, stages in ENSEMBLES.items()}
    assert sizes == {"A": [1, 1], "B": [1, 2], "C": [2, 2], "D": [3, 2]}
    assert ENSEMBLES["D"]["base"].boundaries == pytest.approx((0.0757, 9.61), rel=1e-3)
    assert ENSEMBLES["C"]["base"].boundaries == pytest.approx((9.61,), rel=1e-3)
    assert ENSEMBLES["B"]["sr256"].boundaries == pytest.approx((math.exp(-1.2),))
    for stages in ENSEMBLES.values():
        for ensemble in stages.values():  # the lowest noise first
            assert ensemble.experts[0].contains(0.002) and ensemble.experts[-1].contains(80.0)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: NoiseInterval.from_node(-1, 0), ValueError, "level must be 0"),
        (lambda: NoiseInterval.from_node(54, 0), ValueError, "got 54"),
        (lambda: NoiseInterval.from_node(2, 4), ValueError, "0 to 3, got index 4"),
        (lambda: NoiseInterval.from_node(2, -1), ValueError, "got index -1"),
        (lambda: NoiseInterval.from_node(1.0, 0), TypeError, "integers"),
        (lambda: NoiseInterval.from_node(0, 0, p_std=0.0), ValueError, "p_std positive"),
        (lambda: parent(0, 0), ValueError, "no parent"),
        (lambda: children(3, 8), ValueError, "got index 8"),
        (lambda: NoiseInterval(()), ValueError, "at least one"),
        (lambda: NoiseInterval(((1.0, 1.0),)), ValueError, "low < high"),
        (lambda: NoiseInterval(((-1.0, 1.0),)), ValueError, "low < high"),
        (lambda: NoiseInterval(((0.0, math.nan),)), ValueError, "low < high"),
        (lambda: NoiseInterval(((0.0, 2.0), (1.0, 3.0))), ValueError, "not overlap"),
        (lambda: NoiseInterval(((1e30, math.inf),)).sample((1,)), ValueError, "nothing to sample"),
        (lambda: NoiseInterval.from_config([[0.1]]), ValueError, "list of"),
        (lambda: NoiseInterval.from_config(3), ValueError, "got 3"),
        (lambda: Ensemble(("a",), (NoiseInterval.everything(),), (1.0,)), ValueError, "N - 1 boundaries"),
        (lambda: Ensemble(("a", "b"), (NoiseInterval.from_node(1, 0),) * 2, (0.2,)), ValueError, "b is used"),
        (lambda: Ensemble(("a",) * 3, (NoiseInterval.everything(),) * 3, (2.0, 1.0)), ValueError, "increase strictly"),
    ],
)
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(("p_mean", "p_std"), [(0.0, 100.0), (-1.2, 10.0), (90.0, 1.2), (-1e300, 1e-3), (0.0, 1e308)])
def test_noise_levels_beyond_float32_are_refused(p_mean, p_std):
    with pytest.raises(ValueError, match="p_std"):
        NoiseInterval.from_node(3, 7, p_mean, p_std)


@pytest.mark.parametrize(("level", "index"), [(0, 0), (3, 0), (3, 7), (9, 511)])
@pytest.mark.parametrize(("p_mean", "p_std"), [(-1.2, 9.5), (60.0, 3.0), (-60.0, 3.0), (0.0, 1e-3)])
def test_widest_distributions_draw_inside_their_intervals(level, index, p_mean, p_std):
    interval = NoiseInterval.from_node(level, index, p_mean, p_std)
    sigmas = interval.sample((500,), generator=torch.Generator().manual_seed(0))
    assert sigmas.isfinite().all() and (sigmas > 0).all() and all(interval.contains(float(s)) for s in sigmas)

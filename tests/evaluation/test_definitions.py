# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Every metric against its definition in the publication, written down here once more in NumPy and SciPy, in float64
and without a thought for speed."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial.distance
import torch

from diffusers_ediffi.evaluation import CMMD, CLIPScore, FrechetDistance, KernelDistance, PrecisionRecall
from diffusers_ediffi.evaluation.precision_recall import _squared_distances

WIDTH = 12


def features(seed, count=60, shift=0.0, scale=1.0):
    """Correlated features far from 0, as those of networks are."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((count, WIDTH)) @ np.random.default_rng(99).standard_normal((WIDTH, WIDTH))
    return (3.0 + shift + scale * mixed).astype(np.float32)


GENERATED, REAL = features(0, 60, 0.4, 0.8), features(1, 70)


def measured(metric, generated=GENERATED, real=REAL, batch=16):
    for values, is_real in ((generated, False), (real, True)):
        for part in torch.from_numpy(values).split(batch):
            metric.update(part, real=is_real)
    return metric.compute()


def frechet_by_definition(generated, real):
    """Equation 6 of arXiv 1706.08500."""
    x, y = generated.astype(np.float64), real.astype(np.float64)
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(a @ b)
    return np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(a + b - 2 * root).real


def kernel_distance_by_definition(generated, real):
    """Equation 4 of arXiv 1801.01401, pair by pair."""
    x, y = generated.astype(np.float64), real.astype(np.float64)

    def k(a, b):
        return (float(a @ b) / WIDTH + 1) ** 3

    def within(z):
        return sum(k(a, b) for a, b in itertools.permutations(z, 2)) / (len(z) * (len(z) - 1))

    return within(x) + within(y) - 2 * sum(k(a, b) for a in x for b in y) / (len(x) * len(y))


def cmmd_by_definition(generated, real):
    """Equation 4 of arXiv 2401.09603 with the mean over all pairs, the diagonal too, sigma 10 and the factor 1000."""
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (generated.astype(np.float64), real.astype(float)))

    def k(a, b):
        return np.exp(-scipy.spatial.distance.cdist(a, b, "sqeuclidean") / (2 * 10**2)).mean()

    return 1000 * (k(x, x) + k(y, y) - 2 * k(x, y))


def covered_by_definition(points, by, neighbors):
    """Equations 1 and 2 of arXiv 1904.06991."""
    points, by = points.astype(np.float64), by.astype(np.float64)
    found = 0
    for point in points:
        for i, centre in enumerate(by):
            others = sorted(math.dist(centre, other) for j, other in enumerate(by) if j != i)
            if math.dist(point, centre) <= others[neighbors - 1]:
                found += 1
                break
    return found / len(points)


def clip_score_by_definition(images, texts):
    """arXiv 2104.08718 with 100 in the place of 2.5."""
    pairs = zip(images.astype(np.float64), texts.astype(np.float64), strict=True)
    return np.mean([100 * max(1 - scipy.spatial.distance.cosine(a, b), 0) for a, b in pairs])


@pytest.mark.parametrize("batch", [1, 16, 1000])
def test_frechet_distance(batch):
    found = measured(FrechetDistance(), batch=batch)
    assert found == {"frechet_distance": pytest.approx(frechet_by_definition(GENERATED, REAL), rel=1e-9)}


def test_frechet_distance_where_the_mean_is_huge():
    """Sums of squares would have lost all digits of the covariance."""
    generated, real = GENERATED.astype(np.float64) + 1e7, REAL.astype(np.float64) + 1e7
    expected = frechet_by_definition(GENERATED, REAL)
    assert measured(FrechetDistance(), generated, real)["frechet_distance"] == pytest.approx(expected, rel=1e-6)


def test_kernel_distance():
    """Of subsets that have all pictures each is the whole."""
    generated = GENERATED[:30]
    found = measured(KernelDistance(subsets=3), generated, REAL[:30])
    assert found["kernel_distance"] == pytest.approx(kernel_distance_by_definition(generated, REAL[:30]), rel=1e-9)
    assert found["kernel_distance_std"] == 0 and found["kernel_distance_subset_size"] == 30


def test_kernel_distance_of_subsets_is_unbiased():
    """Their mean comes to that of all pictures, and their spread is that of the subsets."""
    found = measured(KernelDistance(subsets=4000, subset_size=20))
    error = found["kernel_distance_std"] / 4000**0.5
    assert abs(found["kernel_distance"] - kernel_distance_by_definition(GENERATED, REAL)) < 4 * error
    assert found["kernel_distance_std"] > 0 and found["kernel_distance_subset_size"] == 20
    assert measured(KernelDistance(subsets=4000, subset_size=20)) == found
    assert measured(KernelDistance(subsets=4000, subset_size=20, seed=1)) != found


def test_cmmd(monkeypatch):
    expected = cmmd_by_definition(GENERATED, REAL)
    assert measured(CMMD())["cmmd"] == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr("diffusers_ediffi.evaluation.kernel.ROWS", 7)
    assert measured(CMMD())["cmmd"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("neighbors", [1, 3, 5])
def test_precision_and_recall(neighbors, monkeypatch):
    expected = {
        "precision": covered_by_definition(GENERATED, REAL, neighbors),
        "recall": covered_by_definition(REAL, GENERATED, neighbors),
    }
    assert expected["precision"] != expected["recall"] and 0 < expected["recall"] < 1
    assert measured(PrecisionRecall(neighbors)) == expected
    monkeypatch.setattr("diffusers_ediffi.evaluation.precision_recall.ROWS", 9)
    assert measured(PrecisionRecall(neighbors)) == expected


def test_precision_and_recall_of_pictures_that_repeat():
    """Balls of radius 0 still cover their own point, however far from 0 it lies."""
    copies = np.repeat(features(2, 5, shift=1000.0), 4, axis=0)
    assert measured(PrecisionRecall(3), copies[::2], copies) == {"precision": 1.0, "recall": 1.0}
    assert measured(PrecisionRecall(3), copies + 1e-3, copies) == {"precision": 0.0, "recall": 0.0}


def test_equal_points_are_no_distance_apart():
    """However the products are rounded; points that are a part in a million apart are."""
    points = torch.randn(200, 64, dtype=torch.float64) + 100
    assert _squared_distances(points, points).diagonal().eq(0).all()
    assert _squared_distances(points, points * (1 + 3e-6)).diagonal().gt(0).all()


def test_clip_score():
    images, texts = features(3, 40) - 3, features(4, 40) - 3
    metric = CLIPScore()
    for part in torch.arange(40).split(7):
        metric.update(torch.from_numpy(images)[part], torch.from_numpy(texts)[part])
    found = metric.compute()
    scores = [clip_score_by_definition(images[i : i + 1], texts[i : i + 1]) for i in range(40)]
    assert min(scores) == 0, "a cosine below 0 counts as 0"
    assert found["clip_score"] == pytest.approx(clip_score_by_definition(images, texts), rel=1e-9)
    assert found["clip_score_standard_error"] == pytest.approx(np.std(scores, ddof=1) / 40**0.5, rel=1e-9)


@pytest.mark.parametrize("metric", [FrechetDistance, KernelDistance, CMMD])
def test_equal_sets_are_no_distance_apart(metric):
    (name, value), *_ = measured(metric(), REAL, REAL).items()
    assert value == pytest.approx(0, abs=1e-9) if metric is not KernelDistance else value < 0, name


# --- what is refused ---


@pytest.mark.parametrize(
    ("metric", "counts", "complaint"),
    [
        (FrechetDistance(), (WIDTH, 50), r"12 generated pictures are too few for features of width 12.*at least 13"),
        (FrechetDistance(), (50, 5), "5 real pictures are too few"),
        (KernelDistance(), (1, 9), "kernel_distance: 1 generated and 9 real pictures are too few; give at least 2"),
        (CMMD(), (3, 0), "cmmd: there are 3 generated and 0 real pictures"),
        (PrecisionRecall(3), (4, 3), "precision_recall: 4 generated and 3 real.*give at least 4 of each"),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else None,
)
def test_too_few_pictures_are_refused_by_number_and_by_features(metric, counts, complaint):
    with pytest.raises(ValueError, match=complaint):
        metric.check(*counts, width=WIDTH)
    with pytest.raises(ValueError, match=complaint):
        measured(metric, features(0, counts[0]), features(1, counts[1]))


@pytest.mark.parametrize("metric", [FrechetDistance, KernelDistance, CMMD, PrecisionRecall])
def test_features_that_are_none_are_refused(metric):
    started = metric()
    started.update(torch.ones(2, 3), real=True)
    for wrong, complaint in (
        (torch.ones(2, 4), r"must be \(batch, 3\), got \(2, 4\)"),
        (torch.ones(2, 3, 1), r"must be \(batch, 3\)"),
        (torch.full((2, 3), torch.nan), "generated pictures are not finite"),
    ):
        with pytest.raises(ValueError, match=complaint):
            started.update(wrong, real=False)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="got 0 of 1000"):
        KernelDistance(subsets=0)
    with pytest.raises(ValueError, match="got 100 of 1"):
        KernelDistance(subset_size=1)
    with pytest.raises(ValueError, match="at least 1 neighbour, got 0"):
        PrecisionRecall(0)


def test_a_caption_for_each_picture():
    with pytest.raises(ValueError, match=r"pictures \(3, 2\) and of captions \(2, 2\)"):
        CLIPScore().update(torch.ones(3, 2), torch.ones(2, 2))
    with pytest.raises(ValueError, match="2 captions for 3 pictures"):
        CLIPScore().check(3, 2)
    with pytest.raises(ValueError, match="0 captions for 0 pictures"):
        CLIPScore().compute()
    with pytest.raises(ValueError, match="not finite"):
        CLIPScore().update(torch.full((1, 2), torch.inf), torch.ones(1, 2))

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The Frechet distance between features taken as Gaussians, over the features of Inception known as FID."""

import torch

from .metric import FeatureMetric


class FeatureStatistics:
    """Mean and covariance of features that come in batches, in float64; the features are not kept.

    Batches are merged by the formula of Chan, Golub and LeVeque (1979), which, other than sums of squares, loses no
    digits where the mean is large.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(0, dtype=torch.float64)
        self._scatter = torch.zeros(0, 0, dtype=torch.float64)  # the sum of outer products of deviations

    def update(self, features: torch.Tensor) -> None:
        """Takes in features `(batch, width)`."""
        if not len(features):
            return
        batch = features.double()
        mean = batch.mean(dim=0)
        deviations = batch - mean
        scatter = deviations.T @ deviations
        if self.count:
            shift = mean - self.mean
            total = self.count + len(batch)
            scatter += self._scatter + torch.outer(shift, shift) * (self.count * len(batch) / total)
            mean = self.mean + shift * (len(batch) / total)
        self.mean, self._scatter = mean, scatter
        self.count += len(batch)

    @property
    def covariance(self) -> torch.Tensor:
        """The unbiased covariance, `(width, width)`."""
        return self._scatter / (self.count - 1)


class FrechetDistance(FeatureMetric):
    """The Frechet distance (Heusel et al. 2017, arXiv 1706.08500, with the unbiased covariances of their code):
    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)).

    It shrinks as the number of pictures grows: compare only figures of equal numbers.
    """

    name = "frechet_distance"

    def __init__(self) -> None:
        super().__init__()
        self.statistics = {False: FeatureStatistics(), True: FeatureStatistics()}

    def _take(self, features: torch.Tensor, real: bool) -> None:
        self.statistics[real].update(features)

    def check(self, num_generated: int, num_real: int, width: int) -> None:
        """Refuses fewer pictures than a covariance of full rank needs.

        Raises:
            ValueError: There are at most `width` on a side.
        """
        for count, kind in ((num_generated, "generated"), (num_real, "real")):
            if count <= width:
                raise ValueError(
                    f"frechet_distance: {count} {kind} pictures are too few for features of width {width}, whose "
                    f"covariance would be singular; give at least {width + 1}, or leave this metric out."
                )

    def compute(self) -> dict[str, float]:
        """`frechet_distance`: 0 for equal sets."""
        generated, real = self.statistics[False], self.statistics[True]
        self.check(generated.count, real.count, self.width or 0)
        return {"frechet_distance": frechet_distance(generated, real)}


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """The Frechet distance of two Gaussians."""
    roots = _square_root(a.covariance), _square_root(b.covariance)
    # tr (A B)^(1/2) is the sum of the singular values of A^(1/2) B^(1/2): no complex roots, and no square roots of
    # eigenvalues that rounding has made negative, as of a root of the product.
    cross = torch.linalg.svdvals(roots[0] @ roots[1]).sum()
    mean = (a.mean - b.mean).square().sum()
    return max((mean + a.covariance.trace() + b.covariance.trace() - 2 * cross).item(), 0.0)


def _square_root(covariance: torch.Tensor) -> torch.Tensor:
    """The symmetric square root of a covariance."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Precision and recall of generated pictures: how many look real, and how much of what is real they cover."""

import torch

from .metric import StoredFeatures

ROWS = 1024  # of a matrix of distances at a time
NOISE = 1e-12  # of squared distances, by the rounding of float64, as a share of the squared lengths


class PrecisionRecall(StoredFeatures):
    """Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991).

    A set covers what lies in a ball around any of its points whose radius is the distance to the point's k-th nearest
    neighbour in the set. Precision is the share of generated pictures that the real ones cover, recall that of real
    pictures that the generated ones cover.

    Args:
        neighbors (`int`, *optional*, defaults to 3): k.

    Raises:
        ValueError: It is not positive.
    """

    name = "precision_recall"

    def __init__(self, neighbors: int = 3) -> None:
        super().__init__()
        if neighbors < 1:
            raise ValueError(f"precision_recall needs at least 1 neighbour, got {neighbors}.")
        self.neighbors = neighbors

    def check(self, num_generated: int, num_real: int, width: int) -> None:
        """Refuses sets in which no point has so many neighbours.

        Raises:
            ValueError: There are at most k pictures on a side.
        """
        if min(num_generated, num_real) <= self.neighbors:
            raise ValueError(
                f"precision_recall: {num_generated} generated and {num_real} real pictures are too few for the "
                f"distance to {self.neighbors} neighbours; give at least {self.neighbors + 1} of each."
            )

    def compute(self) -> dict[str, float]:
        """`precision` and `recall`, from 0 to 1."""
        generated, real = self._both()
        # Distances do not change, and the numbers that they are the differences of become smaller.
        centre = real.double().mean(dim=0)
        generated, real = generated.double() - centre, real.double() - centre
        return {"precision": self._covered(generated, real), "recall": self._covered(real, generated)}

    def _covered(self, points: torch.Tensor, by: torch.Tensor) -> float:
        """The share of points that a set covers."""
        radii = torch.cat([self._radii(rows, first, by) for first, rows in _rows(by)])
        inside = sum((_squared_distances(rows, by) <= radii).any(dim=1).sum().item() for _, rows in _rows(points))
        return inside / len(points)

    def _radii(self, rows: torch.Tensor, first: int, features: torch.Tensor) -> torch.Tensor:
        """The squared distance of rows of a set, from the `first` on, to their k-th neighbour in it."""
        distances = _squared_distances(rows, features)
        places = torch.arange(len(rows))
        distances[places, places + first] = torch.inf  # to themselves
        return distances.kthvalue(self.neighbors, dim=1).values


def _rows(features: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
    """Some rows at a time, each with the number of its first."""
    return [(number * ROWS, rows) for number, rows in enumerate(features.split(ROWS))]


def _squared_distances(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`(rows of x, rows of y)`; equal points are exactly 0 apart."""
    lengths = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)
    distances = lengths - 2 * x @ y.T
    return torch.where(distances > NOISE * lengths, distances, 0)

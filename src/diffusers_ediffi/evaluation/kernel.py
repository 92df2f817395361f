# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Maximum mean discrepancies: the kernel distance, over the features of Inception known as KID, and CMMD."""

from collections.abc import Callable

import numpy as np
import torch

from .metric import StoredFeatures

ROWS = 1024  # of a matrix of kernels at a time
SIGMA, SCALE = 10.0, 1000.0  # of CMMD


class KernelDistance(StoredFeatures):
    """The squared maximum mean discrepancy with the kernel (x . y / width + 1)^3, by the unbiased estimator, which may
    be negative (Binkowski et al. 2018, arXiv 1801.01401).

    It is the mean over random subsets, as in torch-fidelity (100 of 1000 by default) and clean-fid; of fewer pictures
    a subset has them all on the smaller side, as in clean-fid; where it has all of both, there is one subset.

    Args:
        subsets (`int`, *optional*, defaults to 100): How many subsets are drawn.
        subset_size (`int`, *optional*, defaults to 1000): How many pictures of each set a subset has at most.
        seed (`int`, *optional*, defaults to 0): Chooses the subsets.

    Raises:
        ValueError: There is no subset, or one of fewer than two pictures.
    """

    name = "kernel_distance"

    def __init__(self, subsets: int = 100, subset_size: int = 1000, seed: int = 0) -> None:
        super().__init__()
        if subsets < 1 or subset_size < 2:
            raise ValueError(f"kernel_distance needs subsets of two pictures, got {subsets} of {subset_size}.")
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed

    def check(self, num_generated: int, num_real: int, width: int) -> None:
        """Refuses single pictures.

        Raises:
            ValueError: There are fewer than two on a side.
        """
        if min(num_generated, num_real) < 2:
            raise ValueError(
                f"kernel_distance: {num_generated} generated and {num_real} real pictures are too few; give at least "
                "2 of each."
            )

    def compute(self) -> dict[str, float]:
        """`kernel_distance`, the mean over the subsets, their standard deviation, and how many pictures each has."""
        generated, real = (features.double() for features in self._both())
        size = min(self.subset_size, len(generated), len(real))
        random = np.random.default_rng(self.seed)
        found = []
        for _ in range(self.subsets if size < max(len(generated), len(real)) else 1):  # or they are all the same
            x, y = (features[random.choice(len(features), size, replace=False)] for features in (generated, real))
            found.append(_unbiased_mmd(x, y))
        return {
            "kernel_distance": float(np.mean(found)),
            "kernel_distance_std": float(np.std(found)),
            "kernel_distance_subset_size": size,
        }


def _unbiased_mmd(x: torch.Tensor, y: torch.Tensor) -> float:
    """Lemma 6 of Gretton et al. (2012): pairs of a picture with itself are left out."""
    within = 0.0
    for features in (x, y):
        diagonal = (features.square().sum(dim=1) / features.shape[1] + 1) ** 3
        within += (_cubic(features, features).sum() - diagonal.sum()).item() / (len(features) * (len(features) - 1))
    return within - 2 * _cubic(x, y).mean().item()


def _cubic(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


class CMMD(StoredFeatures):
    """CMMD (Jayasumana et al. 2024, arXiv 2401.09603): the maximum mean discrepancy of CLIP image embeddings of length
    1 with a Gaussian kernel of sigma 10, by the biased estimator, times 1000, as in the authors' code.

    The authors' embeddings are those of openai/clip-vit-large-patch14-336; figures of other networks are others.
    """

    name = "cmmd"

    def check(self, num_generated: int, num_real: int, width: int) -> None:
        """Refuses empty sets.

        Raises:
            ValueError: There is no picture on a side.
        """
        if not min(num_generated, num_real):
            raise ValueError(f"cmmd: there are {num_generated} generated and {num_real} real pictures; give some.")

    def compute(self) -> dict[str, float]:
        """`cmmd`: 0 for equal sets."""
        x, y = (torch.nn.functional.normalize(features.double(), dim=1) for features in self._both())
        means = [_mean_of_kernels(_gaussian, a, b) for a, b in ((x, x), (y, y), (x, y))]
        return {"cmmd": SCALE * (means[0] + means[1] - 2 * means[2])}


def _gaussian(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    squares = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1) - 2 * x @ y.T
    return torch.exp(-squares / (2 * SIGMA**2))


def _mean_of_kernels(
    kernel: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], x: torch.Tensor, y: torch.Tensor
) -> float:
    """The mean over all pairs, some rows at a time."""
    return sum(kernel(rows, y).sum().item() for rows in x.split(ROWS)) / (len(x) * len(y))

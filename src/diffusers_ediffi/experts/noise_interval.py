# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Which expert works at which noise level (eDiff-I, section 4.1 and appendix B).

The training distribution `ln(sigma) ~ N(p_mean, p_std)` is split by area: level `l` of a binary tree has `2**l`
intervals of equal probability, and the expert E(l, i) is trained on interval `i`; `i = 0` has the lowest noise. A
complement model trains on every noise level that its named intervals leave.
"""

import math
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np
import torch

from ..checks import as_float, is_finite, is_number
from ..edm import P_MEAN, P_STD, sigma_cdf, sigma_quantile

_FARTHEST = 9.0  # standard deviations from the mean, beyond which `sample` draws nothing
_LARGEST_LOG = 87.0  # of float32
_DEEPEST_LEVEL = 53  # below it float64 no longer tells the last interval from the end of the axis


def _check_node(level: int, index: int) -> None:
    if not (is_number(level, Integral) and is_number(index, Integral)):
        raise TypeError(f"level and index of an expert are integers, got {level!r} and {index!r}.")
    if not 0 <= level <= _DEEPEST_LEVEL:
        raise ValueError(f"level must be 0 (one model for every noise) to {_DEEPEST_LEVEL}, got {level}.")
    if not 0 <= index < 2**level:
        raise ValueError(f"Level {level} has the intervals 0 to {2**level - 1}, got index {index}.")


def _check_distribution(p_mean: float, p_std: float) -> None:
    if not (is_finite(p_mean) and is_finite(p_std) and p_std > 0):
        raise ValueError(f"p_mean must be finite and p_std positive, got {p_mean!r} and {p_std!r}.")
    if abs(p_mean) + _FARTHEST * p_std > _LARGEST_LOG:
        raise ValueError(
            f"with p_mean={p_mean:g} and p_std={p_std:g} noise levels leave float32, in which they are drawn; give a "
            "smaller p_std, such as 1.2."
        )


def parent(level: int, index: int) -> tuple[int, int]:
    """The node whose interval was halved to give `(level, index)`, and from whose weights it starts training.

    Table 5 of the paper initialises M(3,7) "from M(3,0)"; a node's parent is meant: (2,3).

    Raises:
        ValueError: for the root, or if there is no such node.
    """
    _check_node(level, index)
    if level == 0:
        raise ValueError("The root (0, 0) has no parent.")
    return level - 1, index // 2


def children(level: int, index: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The two halves of a node, the one of lower noise first.

    Raises:
        ValueError: if there is no such node, or its halves would be too narrow for float64.
    """
    _check_node(level, index)
    _check_node(level + 1, 2 * index)
    return (level + 1, 2 * index), (level + 1, 2 * index + 1)


@dataclass(frozen=True)
class NoiseInterval:
    """The noise levels that a model is trained on: disjoint, increasing sigma ranges `[low, high)`.

    Args:
        ranges (`tuple`): The `(low, high)` pairs; `low` may be 0 and `high` may be `math.inf`. Touching ranges are
            joined.
        p_mean (`float`): Mean of ln(sigma) in training.
        p_std (`float`): Standard deviation of ln(sigma) in training.

    Raises:
        ValueError: if there is no range, or one is empty, out of order or overlaps its neighbour.

        >>> highest = NoiseInterval.from_node(9, 511)  # the expert of the noisiest 1/512
        >>> round(highest.ranges[0][0], 2)
        9.61
        >>> highest.complement().contains(1.0)
        True
        >>> sigmas = highest.sample((4,), generator=torch.Generator().manual_seed(0))
    """

    ranges: tuple[tuple[float, float], ...]
    p_mean: float = P_MEAN
    p_std: float = P_STD

    def __post_init__(self) -> None:
        _check_distribution(self.p_mean, self.p_std)
        joined: list[tuple[float, float]] = []
        for low, high in (map(partial(as_float, "sigma"), pair) for pair in self.ranges):
            if not 0 <= low < high:  # also refuses NaN
                raise ValueError(f"A sigma range needs 0 <= low < high, got [{low}, {high}).")
            if joined and low < joined[-1][1]:
                raise ValueError(f"Sigma ranges must increase and not overlap, got {self.ranges}.")
            if joined and low == joined[-1][1]:
                joined[-1] = (joined[-1][0], high)
            else:
                joined.append((low, high))
        if not joined:
            raise ValueError("A noise interval needs at least one sigma range, got none.")
        object.__setattr__(self, "ranges", tuple(joined))

    @classmethod
    def from_node(cls, level: int, index: int, p_mean: float = P_MEAN, p_std: float = P_STD) -> "NoiseInterval":
        """The interval of E(level, index), (0, 0) being every noise level.

        The four experts of the paper's Figure 7 are named E(2,0), E(2,1), E(2,3), E(2,4); level 2 ends at index 3.

        Raises:
            TypeError: if `level` or `index` is not an integer.
            ValueError: if there is no such node.
        """
        _check_node(level, index)
        _check_distribution(p_mean, p_std)
        low, high = (sigma_quantile(i / 2**level, p_mean, p_std) for i in (index, index + 1))
        return cls(((low, high),), p_mean, p_std)

    @classmethod
    def everything(cls, p_mean: float = P_MEAN, p_std: float = P_STD) -> "NoiseInterval":
        """Every noise level: the interval of a model that is not an expert."""
        return cls(((0.0, math.inf),), p_mean, p_std)

    def complement(self) -> "NoiseInterval":
        """Every noise level outside this interval.

        Raises:
            ValueError: if nothing is left.
        """
        edges = [0.0, *(edge for sigma_range in self.ranges for edge in sigma_range), math.inf]
        gaps = tuple((low, high) for low, high in zip(edges[::2], edges[1::2], strict=True) if low < high)
        return NoiseInterval(gaps, self.p_mean, self.p_std)

    def minus(self, *others: "NoiseInterval") -> "NoiseInterval":
        """What is left of this interval without the others.

        Raises:
            ValueError: if nothing is left.
        """
        left = list(self.ranges)
        for cut_low, cut_high in (cut for other in others for cut in other.ranges):
            below = [(low, min(high, cut_low)) for low, high in left]
            above = [(max(low, cut_high), high) for low, high in left]
            left = sorted((low, high) for low, high in below + above if low < high)
        return NoiseInterval(tuple(left), self.p_mean, self.p_std)

    def contains(self, sigma: float) -> bool:
        """Whether a noise level lies inside; `low` does, `high` does not."""
        return any(low <= sigma < high for low, high in self.ranges)

    def contains_range(self, low: float, high: float) -> bool:
        """Whether every noise level of `[low, high)` lies inside."""
        return any(first <= low and high <= last for first, last in self.ranges)

    @property
    def probability(self) -> float:
        """The share of p(sigma) inside: 1/2**level for a node."""
        return sum(high - low for _, low, high in self._tail_areas())

    def sample(
        self,
        shape: int | tuple[int, ...],
        generator: torch.Generator | None = None,
        device: str | torch.device | None = None,
    ) -> torch.Tensor:
        """Draws noise levels from p(sigma) restricted to this interval.

        Inverse transform sampling on the distance to the *nearer* end of the axis, in float64: `1 - 1/512` leaves
        float32 few values before 1, where the quantile is infinite; `1/512` leaves it as many as anything else.

        Args:
            shape (`int` or `tuple`): Shape of the result, usually `(batch,)`.
            generator (`torch.Generator`, *optional*): Source of randomness; numbers are drawn on its device (by
                default the CPU).
            device (`torch.device`, *optional*): Where the result goes; by default where it was drawn.

        Returns:
            float32 sigmas, each inside the interval.

        Raises:
            ValueError: if the training distribution gives this interval no probability.
        """
        areas = [area for area in self._tail_areas() if area[2] > area[1]]
        if not areas:
            raise ValueError(f"p(sigma) never falls into {self.ranges}: there is nothing to sample.")
        drawn_on = generator.device if generator is not None else torch.device("cpu")
        # 1 - rand lies in (0, 1]: never zero, so that the tail area of a sigma is never zero by chance
        shares = 1 - torch.rand(shape, generator=generator, dtype=torch.float64, device=drawn_on)
        return self._round_inside(self._quantiles(shares, areas)).to(device or drawn_on)

    def _quantiles(self, shares: torch.Tensor, areas: list[tuple[float, float, float]]) -> torch.Tensor:
        """The sigmas below which these shares of the interval's probability lie, range by range of `_tail_areas`."""
        side, bottom, top = torch.tensor(areas, dtype=torch.float64, device=shares.device).T
        ends = (top - bottom).cumsum(0)
        drawn = shares * ends[-1]
        piece = torch.searchsorted(ends, drawn).clamp(max=len(areas) - 1)
        tail_area = (bottom[piece] + drawn - (ends - top + bottom)[piece]).clamp(min=2.0**-60)
        return torch.exp(self.p_mean - side[piece] * self.p_std * torch.special.ndtri(tail_area))

    def _tail_areas(self) -> list[tuple[float, float, float]]:
        """The ranges cut at the median, as (side, low, high) areas counted from the end of the axis on that side."""
        median = math.exp(self.p_mean)
        areas = []
        for low, high in self.ranges:
            if low < median:
                ends = [sigma_cdf(s, self.p_mean, self.p_std) for s in (low, min(high, median))]
                areas.append((-1.0, ends[0], ends[1]))
            if high > median:  # ln(sigma) is symmetric: the area above sigma is the area below median^2 / sigma
                ends = [sigma_cdf(median**2 / s, self.p_mean, self.p_std) for s in (high, max(low, median))]
                areas.append((1.0, ends[0], ends[1]))
        return areas

    def _round_inside(self, sigma: torch.Tensor) -> torch.Tensor:
        """float64 -> float32 without leaving the interval, where rounding alone could reach `high`."""
        lows, highs = np.array(self.ranges).T
        first, last = lows.astype(np.float32), highs.astype(np.float32)
        first = np.where(first < lows, np.nextafter(first, np.float32(np.inf)), first)
        last = np.where(last >= highs, np.nextafter(last, np.float32(0)), last)
        owner = torch.searchsorted(torch.tensor(highs, device=sigma.device), sigma, right=True)
        owner = owner.clamp(max=len(lows) - 1)
        bounds = [torch.tensor(bound, device=sigma.device)[owner] for bound in (first, last)]
        return sigma.float().clamp(*bounds)

    def to_config(self) -> list[list[float | None]]:
        """The ranges as JSON can hold them: `[[low, high], ...]` with None for infinity."""
        return [[low, None if math.isinf(high) else high] for low, high in self.ranges]

    @classmethod
    def from_config(cls, config: Any, p_mean: float = P_MEAN, p_std: float = P_STD) -> "NoiseInterval":
        """The inverse of `to_config`; None means every noise level.

        Raises:
            ValueError: if `config` is not a list of `[low, high]` pairs of numbers.
        """
        if config is None:
            return cls.everything(p_mean, p_std)
        try:
            ranges = tuple((float(low), math.inf if high is None else float(high)) for low, high in config)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"A noise interval is a list of [low, high or null], got {config!r}.") from error
        return cls(ranges, p_mean, p_std)


@dataclass(frozen=True)
class Ensemble:
    """The experts of one stage, the lowest noise first.

    Args:
        names (`tuple` of `str`): The paper's names, M for a model and MC for a complement.
        experts (`tuple` of `NoiseInterval`): The noise levels each was trained on; these may overlap and exceed what
            it is used for.
        boundaries (`tuple` of `float`): The strictly increasing sigmas where the next expert takes over, one fewer
            than there are experts.

    Raises:
        ValueError: if an expert is used for noise levels that it was not trained on, or the lengths do not fit.
    """

    names: tuple[str, ...]
    experts: tuple[NoiseInterval, ...]
    boundaries: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.experts) == len(self.boundaries) + 1:
            raise ValueError(
                f"N experts need N names and N - 1 boundaries, got {len(self.experts)} experts, "
                f"{len(self.names)} names and {len(self.boundaries)} boundaries."
            )
        edges = (0.0, *self.boundaries, math.inf)
        for name, expert, low, high in zip(self.names, self.experts, edges[:-1], edges[1:], strict=True):
            if not low < high:
                raise ValueError(f"Boundaries must increase strictly, got {self.boundaries}.")
            if not expert.contains_range(low, high):
                raise ValueError(f"{name} is used for [{low}, {high}) but was trained on {expert.ranges}.")


def _paper_ensembles() -> dict[str, dict[str, Ensemble]]:
    everything = NoiseInterval.everything()
    highest, lowest = NoiseInterval.from_node(9, 511), NoiseInterval.from_node(3, 0)
    lower_half, upper_half = NoiseInterval.from_node(1, 0), NoiseInterval.from_node(1, 1)
    # The paper's D is E(9,511) + E(3,0) + "the rest", but Table 5's complement MC2 leaves out (4,0), not (3,0). Both
    # hold: MC2 is trained down to sigma 0.048 and used down to 0.076, where E(3,0) takes over.
    middle = everything.minus(highest, NoiseInterval.from_node(4, 0))
    bottom, top = lowest.ranges[0][1], highest.ranges[0][0]
    median = lower_half.ranges[0][1]

    single = Ensemble(("M(0,0)",), (everything,))
    halves = Ensemble(("M(1,0)", "M(1,1)"), (lower_half, upper_half), (median,))
    two = Ensemble(("MC(9,511)", "M(9,511)"), (highest.complement(), highest), (top,))
    three = Ensemble(("M(3,0)", "MC2(9,511)", "M(9,511)"), (lowest, middle, highest), (bottom, top))
    return {
        "A": {"base": single, "sr256": single},
        "B": {"base": single, "sr256": halves},
        "C": {"base": two, "sr256": halves},
        "D": {"base": three, "sr256": halves},
    }


#: The paper's final ensembles (section 5.1): name -> stage -> experts. SR1024 is one model in all of them. D is
#: eDiff-I; its zero-shot FID-30K is 6.95 in Table 1 and 7.04 in the text.
ENSEMBLES: dict[str, dict[str, Ensemble]] = _paper_ensembles()

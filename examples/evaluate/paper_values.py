# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What the paper (arXiv 2211.01324) reports or says of its figures, and what a figure in miniature is compared by."""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from scipy import stats

# Zero-shot FID-30K on COCO 2014 and parameters with the text encoders, Table 1. Section 5.1 says 7.04 for D.
TABLE_1 = {"A": (7.35, "6.8B"), "B": (7.26, "7.1B"), "C": (7.11, "8.1B"), "D": (6.95, "9.1B")}
TITLES = {
    "table_1": "Table 1: configurations A to D",
    "figure_3": "Figure 3: attention at different noise levels",
    "figure_4": "Figure 4: switching the prompt",
    "figure_7": "Figure 7: an ensemble and one network of as many samples",
    "figure_8": "Figure 8: the text encoders over guidance",
    "figure_13": "Figure 13: time of a call against capacity",
    "figure_14": "Figure 14: styles",
    "figure_15": "Figure 15: variations",
    "figure_16": "Figure 16: style transfer",
    "figure_17": "Figure 17: paint-with-words",
    "figure_18": "Figure 18: pictures of each text encoder",
}
# In our words, as far as it can be compared.
SAYS = {
    "table_1": "Each ensemble lowers the FID: "
    + ", ".join(f"{name} {fid} ({size})" for name, (fid, size) in TABLE_1.items())
    + ".",
    "figure_3": "Attention to the text is strong at high noise, where the layout forms, and weak at low noise, where "
    "the null token takes most of it. (Its maps of self-attention are not drawn here.)",
    "figure_4": "The second prompt in the last 7% of the steps has no visible impact; in the last 30% both prompts "
    "show; in the last 60% the first is overridden.",
    "figure_7": "Four experts of level 2 outperform the baseline, which saw as many samples, on the entire FID-CLIP "
    "curve, COCO and Visual Genome.",
    "figure_8": "T5 and CLIP together are best; alone they are alike on COCO's short captions (10.62 words), and T5 "
    "is better on Visual Genome's long ones (61.92 words).",
    "figure_13": "The time of a call grows with depth, and stays flat as experts are added (100 calls on an A100).",
    "figure_14": "One caption in nine styles: consistent with the text in all of them.",
    "figure_15": "Four random samples of a prompt are diverse, and all fit it.",
    "figure_16": "With the CLIP image embedding of a reference samples take its style; without they do not.",
    "figure_17": "Objects come where their phrases were painted.",
    "figure_18": "CLIP alone gets the foreground objects and lacks composition; T5 alone composes better and is "
    "inferior in the objects; both together fit best.",
}


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with the half width of its 95% interval (Student's t); infinite for a single seed.

    Args:
        mean (`float`): The mean.
        half (`float`): Half the width.
    """

    mean: float
    half: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Interval":
        """Of a value for each seed."""
        found = list(values)
        if len(found) < 2 or not all(map(math.isfinite, found)):  # a share of nothing is NaN
            return cls(statistics.fmean(found), math.inf)
        t = float(stats.t.ppf(0.975, len(found) - 1))
        return cls(statistics.fmean(found), t * statistics.stdev(found) / math.sqrt(len(found)))

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "not asked for"
        return f"{self.mean:.3g}" + (f" ± {self.half:.2g}" if math.isfinite(self.half) else " (one seed)")


@dataclass(frozen=True)
class Claim:
    """What the paper says, as a difference that is above 0 where it holds.

    Args:
        text (`str`): What is claimed.
        measured (`str`): The figures.
        difference ([`Interval`]): Over the seeds, each with the same scenes and noise on both sides.
    """

    text: str
    measured: str
    difference: Interval

    @property
    def verdict(self) -> str:
        """Whether the interval lies on one side of 0."""
        if not math.isfinite(self.difference.mean) or math.isinf(self.difference.half):
            return "undecided"
        if self.difference.mean - self.difference.half > 0:
            return "agrees"
        return "does not agree" if self.difference.mean + self.difference.half < 0 else "undecided"


@dataclass
class Finding:
    """A figure of the paper in miniature.

    Args:
        name (`str`): One of `TITLES`.
        data (`dict`): The figures, for JSON: a list over the seeds for each.
        rows (`list` of `tuple`): A table of them, its head first.
        claims (`list` of [`Claim`]): What agrees and what does not.
        pictures (`dict`): Plots of matplotlib and images of Pillow, by the ends of their file names.
        left_out (`str`): What cannot be measured, and what it would need.
    """

    name: str
    data: dict[str, Any] = field(default_factory=dict)
    rows: list[tuple[str, ...]] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    pictures: dict[str, Any] = field(default_factory=dict)
    left_out: str = ""


def compared(text: str, better: list[float], worse: list[float], names: tuple[str, str], low: bool = False) -> Claim:
    """The claim that one figure is above another; with `low` below it."""
    signed = [(b - a) if low else (a - b) for a, b in zip(better, worse, strict=True)]
    measured = f"{names[0]} {Interval.of(better)}, {names[1]} {Interval.of(worse)}"
    return Claim(text, measured, Interval.of(signed))

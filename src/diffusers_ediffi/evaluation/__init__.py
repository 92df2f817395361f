# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""How good are pictures, of any pipeline: metrics over any feature network, drawing that goes on where it was cut, and
a card that says all that the figures depend on."""

from .clip_score import CLIPScore
from .frechet import FeatureStatistics, FrechetDistance
from .kernel import CMMD, KernelDistance
from .precision_recall import PrecisionRecall

__all__ = [
    "CMMD",
    "CLIPScore",
    "FeatureStatistics",
    "FrechetDistance",
    "KernelDistance",
    "PrecisionRecall",
]

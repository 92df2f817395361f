# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""How good are pictures, of any pipeline: metrics over any feature network, drawing that goes on where it was cut, and
a card that says all that the figures depend on.

`draw_pictures` fills a folder (drawing, captions, layouts), `evaluate` measures one (evaluator, feature_files) with
metrics that count in float64 (frechet, kernel, precision_recall, clip_score) over features (feature_network).
"""

from .captions import Captions, read_captions
from .clip_score import CLIPScore
from .drawing import describe_pipeline, draw_pictures, read_settings
from .evaluator import METRICS, Evaluator, evaluate
from .feature_files import list_pictures
from .feature_network import CLIPNetwork, FeatureNetwork
from .frechet import FeatureStatistics, FrechetDistance
from .kernel import CMMD, KernelDistance
from .layouts import LAYOUTS
from .precision_recall import PrecisionRecall
from .preprocessing import FILTERS
from .sweep import plot_sweep, save_sweep

__all__ = [
    "CMMD",
    "FILTERS",
    "LAYOUTS",
    "METRICS",
    "CLIPNetwork",
    "CLIPScore",
    "Captions",
    "Evaluator",
    "FeatureNetwork",
    "FeatureStatistics",
    "FrechetDistance",
    "KernelDistance",
    "PrecisionRecall",
    "describe_pipeline",
    "draw_pictures",
    "evaluate",
    "list_pictures",
    "plot_sweep",
    "read_captions",
    "read_settings",
    "save_sweep",
]

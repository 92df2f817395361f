# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Training: loss, conditioning dropout, degradation, data, checkpoints and the trainer, each its own file."""

from .data import SceneDataset
from .degradation import degrade
from .dropout import DropoutRates, drop_conditioning
from .encode import ConditioningEncoder, check_encoder_folder
from .loss import edm_loss
from .settings import TrainingSettings
from .trainer import Trainer

__all__ = [
    "ConditioningEncoder",
    "DropoutRates",
    "SceneDataset",
    "Trainer",
    "TrainingSettings",
    "check_encoder_folder",
    "degrade",
    "drop_conditioning",
    "edm_loss",
]

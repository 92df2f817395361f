# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Training of one network (`Trainer`) or of a whole tree of experts (`TreeTrainer`), with exact resume.

A step is `train_step` in trainer.py, and what it calls stands in files named after it: data, conditioning, dropout,
noise_augmentation, loss, learner, optimizer. A tree is described by a schedule.
"""

from .data import SceneDataset
from .degradation import degrade
from .dropout import DropoutRates, drop_conditioning
from .encode import ConditioningEncoder, check_encoder_folder
from .loss import edm_loss
from .schedule import Schedule, shipped_schedules
from .settings import TrainingSettings
from .trainer import Trainer
from .tree import TreeTrainer

__all__ = [
    "ConditioningEncoder",
    "DropoutRates",
    "SceneDataset",
    "Schedule",
    "Trainer",
    "TrainingSettings",
    "TreeTrainer",
    "check_encoder_folder",
    "degrade",
    "drop_conditioning",
    "edm_loss",
    "shipped_schedules",
]

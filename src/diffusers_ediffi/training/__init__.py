# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Training of one network (`Trainer`) or of a whole tree of experts (`TreeTrainer`), with exact resume.

A step is `train_step` in trainer.py, and what it calls stands in files named after it: data, conditioning, dropout,
noise_augmentation, loss, learner, optimizer. A tree is described by a schedule. Other pictures come
from a source (sources), of which a selection is trained on (selection), by a data set (pictures) that may read
embeddings from a cache (embedding_cache), alone or beside pictures of what is known (prior). The networks of a saved
pipeline are found by stage; several may share a LoRA (shared_lora).
"""

from .data import SceneDataset
from .degradation import degrade
from .dropout import DropoutRates, drop_conditioning
from .embedding_cache import EmbeddingCache, build_embedding_cache
from .encode import ConditioningEncoder, caption_tokenizers, check_encoder_folder, encoder_fingerprint
from .filters import AestheticScore, ClipModel, ClipScore
from .image_folder import ImageFolder
from .loss import edm_loss
from .pictures import PictureDataset, PictureSettings
from .prior import PriorDataset
from .schedule import Schedule, shipped_schedules
from .selection import Selection, load_selection, select_pictures
from .settings import TrainingSettings
from .shards import ImageShards
from .sources import HubImages, open_pictures
from .stage import StageNetworks
from .trainer import Trainer
from .tree import TreeTrainer

__all__ = [
    "AestheticScore",
    "ClipModel",
    "ClipScore",
    "ConditioningEncoder",
    "DropoutRates",
    "EmbeddingCache",
    "HubImages",
    "ImageFolder",
    "ImageShards",
    "PictureDataset",
    "PictureSettings",
    "PriorDataset",
    "SceneDataset",
    "Schedule",
    "Selection",
    "StageNetworks",
    "Trainer",
    "TrainingSettings",
    "TreeTrainer",
    "build_embedding_cache",
    "caption_tokenizers",
    "check_encoder_folder",
    "degrade",
    "drop_conditioning",
    "edm_loss",
    "encoder_fingerprint",
    "load_selection",
    "open_pictures",
    "select_pictures",
    "shipped_schedules",
]

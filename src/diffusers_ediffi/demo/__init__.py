# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The embedded demo model's world: scenes of small objects with captions and exact masks."""

from .grounds import GROUNDS, Ground
from .scenes import (
    RELATIONS,
    PlacedObject,
    Scene,
    SceneGenerator,
    SceneObject,
    load_objects,
    with_article,
)
from .styles import STYLES
from .words import caption_words

__all__ = [
    "GROUNDS",
    "RELATIONS",
    "STYLES",
    "Ground",
    "PlacedObject",
    "Scene",
    "SceneGenerator",
    "SceneObject",
    "caption_words",
    "load_objects",
    "with_article",
]

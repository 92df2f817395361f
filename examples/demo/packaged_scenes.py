# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What the base of the packaged model draws. Super-resolution knows all objects, encoders and scorer all grounds and
styles as well."""

PHRASES = (
    "rocket", "red apple", "sun", "moon", "tree", "house", "cat", "red car", "red balloon", "banana", "butterfly",
    "snowman", "strawberry", "sunflower", "umbrella", "globe", "pumpkin", "ghost", "robot", "red mushroom",
    "red heart", "yellow star", "sailboat", "penguin",
)  # fmt: skip
GROUND_KINDS = ("plain", "landscape")
# Pixel art and halftone, learnt with the others, teach every stage that blocks and dots are right.
DRAWN_STYLES = ("flat", "pencil sketch", "night", "water colour")

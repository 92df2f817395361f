# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The pipeline's encoders in training."""

from diffusers_ediffi import EDiffIPipeline, PaintRegion, demo_checkpoint
from diffusers_ediffi.training.encode import ConditioningEncoder


def test_columns_of_a_region_are_those_of_the_pipeline():
    encoder, pipe = ConditioningEncoder(demo_checkpoint()), EDiffIPipeline.from_pretrained(demo_checkpoint())
    caption = "a red car next to a yellow star on a beach"
    regions = [PaintRegion("yellow star", (0, 0, 0.5, 1)), PaintRegion("red car", (0.5, 0, 1, 1))]
    assert encoder.region_columns(caption, regions, True, True) == pipe.region_columns(caption, regions)
    assert encoder.region_columns(caption, regions, False, True) == pipe.region_columns(caption, regions, ["t5"])
    assert encoder.region_columns(caption, regions, True, False) == pipe.region_columns(
        caption, regions, ["clip_text"]
    )
    assert encoder.region_columns(caption, regions, False, False) == [[], []]

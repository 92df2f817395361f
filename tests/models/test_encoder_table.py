# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The table of the encoders agrees with the context of the U-Nets and with the call of the pipeline."""

import inspect

import pytest

from diffusers_ediffi import EDiffIPipeline, EDiffIUNet
from diffusers_ediffi.models.encoder_table import CLIP_IMAGE, EMBEDDINGS, ENCODERS, NULL_COLUMN, TEXT_ENCODERS


def test_columns_lie_side_by_side():
    ends = [0]
    for encoder in (*TEXT_ENCODERS, CLIP_IMAGE):
        assert encoder.columns.start == ends[-1] and encoder.tokens > 0
        ends.append(encoder.columns.stop)
    assert ends[-1] == NULL_COLUMN


def test_embeddings_are_arguments_of_the_call():
    parameters = inspect.signature(EDiffIPipeline.__call__).parameters
    given_as_tensors = [name for name in parameters if name.endswith("embeds") or "embeds_2" in name or "mask" in name]
    assert sorted(EMBEDDINGS) == sorted(given_as_tensors)


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=list(ENCODERS))
def test_components_and_widths_exist(encoder):
    components = inspect.signature(EDiffIPipeline.__init__).parameters
    assert {encoder.component, encoder.processor} <= set(components)
    assert set(encoder.widths.values()) <= set(inspect.signature(EDiffIUNet.__init__).parameters)

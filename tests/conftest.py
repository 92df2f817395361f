# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Tiny, complete parts of a pipeline with random weights: real classes throughout, only small."""

import pytest
from helpers import tiny_pipeline


@pytest.fixture
def pipe():
    """The whole cascade: 8, 32 and 128 pixels."""
    return tiny_pipeline()


@pytest.fixture
def base_pipe():
    """The base stage alone."""
    return tiny_pipeline(unet_sr256=None, unet_sr1024=None, scheduler_sr256=None, scheduler_sr1024=None)

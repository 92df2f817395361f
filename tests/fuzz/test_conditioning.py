# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Hostile descriptions of what the U-Nets of a pipeline read."""

from helpers_cascades import IF_CONDITIONING, KARLO_CONDITIONING
from helpers_fuzz import Case, damaged
from hypothesis import strategies as st

from diffusers_ediffi.pipelines.conditioning import UNETS, Conditioning


def read(config, folder):
    conditioning = Conditioning.from_config(config)
    assert 0 <= conditioning.num_columns < 10**6
    for name in UNETS:
        inputs = conditioning.of(name)
        if inputs.noise_betas is not None:
            assert 0 <= inputs.noise_timestep(0.3) <= 100_000


def test_conditioning_of_pipelines(fuzz):
    cases = st.one_of(map(damaged, (IF_CONDITIONING, KARLO_CONDITIONING)))
    words = ("conditioning", "column", "width", "beta", "noise", "argument")
    fuzz(
        "conditioning of pipelines", cases.map(lambda case: Case(case.value, (*case.words, *words))), read, share=0.03
    )

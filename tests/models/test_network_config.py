# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Configurations of networks that come from strangers: refused by name, before anything is built."""

import inspect
import math

import pytest
from helpers import tiny_unet
from torch import nn

from diffusers_ediffi import EDiffIUNet
from diffusers_ediffi.models.network_config import COUNTS, MAX_LAYERS, MAX_LEVELS, check_trained_on
from diffusers_ediffi.models.presets import PRESETS

NAMES = [name for name in inspect.signature(EDiffIUNet.__init__).parameters if name != "self"]
FRACTIONS = ("timestep_scale", "dropout", "sigma_data", "sigma_residual", "max_noise_level")
# What JSON can hold and no entry of a network can be.
HOSTILE = [-1, 0.5, 10**400, -math.inf, math.nan, "a", [[]], [None], {"a": 1}, [10**9]]


@pytest.fixture
def nothing_is_built(monkeypatch):
    monkeypatch.setattr(nn.Conv2d, "__init__", lambda *_, **__: pytest.fail("a network is built"))


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_is_checked_before_anything_is_built(name, nothing_is_built):
    fits = 0.5 if name in FRACTIONS else "nothing"
    for value in (hostile for hostile in HOSTILE if hostile != fits):
        with pytest.raises(ValueError, match=name):
            EDiffIUNet(**{**PRESETS["demo-sr256"], name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [*((name, most + 1) for name, most in COUNTS.items()), ("layers_per_block", MAX_LAYERS + 1)]
    + [("block_out_channels", [8] * (MAX_LEVELS + 1)), ("block_out_channels", [2**20])],
)
def test_networks_larger_than_any_are_refused(name, value, nothing_is_built):
    with pytest.raises(ValueError, match=f"{name}.* at most"):
        EDiffIUNet(**{"in_channels": 3, "out_channels": 3, name: value})


@pytest.mark.parametrize("trained_on", [3, 0.5, True, [3], [[1]], [[1, "a"]], [[2, 1]], [[0, None], [[1], None]]])
def test_trained_on_holds_pairs_of_noise_levels(trained_on):
    with pytest.raises(ValueError, match="trained_on"):
        check_trained_on(trained_on)


def test_lists_are_taken_as_tuples_are():
    assert tiny_unet(block_out_channels=[8, 16], layers_per_block=[1, 2]).config.block_out_channels == [8, 16]

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The networks of a saved pipeline's stages, and what of them is refused before weights are read."""

import json

import pytest
import torch
from helpers import tiny_unet

from diffusers_ediffi import demo_checkpoint, factorize_expert
from diffusers_ediffi.training import StageNetworks


def test_the_stages_of_the_demo():
    base, sr256, sr1024 = (
        StageNetworks.read(demo_checkpoint(), name) for name in ("unet", "unet_sr256", "unet_sr1024")
    )
    assert [stage.size for stage in (base, sr256, sr1024)] == [64, 256, 1024]
    assert [stage.low_res_factor for stage in (base, sr256, sr1024)] == [None, 4, 4]
    assert [len(stage) for stage in (base, sr256, sr1024)] == [3, 2, 1]
    assert [interval.ranges for interval in base.intervals] == [
        ((0.0, 0.301),),
        ((0.301, 1.898),),
        ((1.898, float("inf")),),
    ]
    assert base.patches == (None, None, None)
    assert sr256.patches == (128, None) and [sr256.load(i).config.sample_size for i in (0, 1)] == [128, 256]
    assert [base.label(1), sr1024.label(0)] == ["expert.1", "unet_sr1024"]
    assert sr1024.load(0).config.in_channels == 6


def saved(folder, network, **index):
    """A pipeline of configurations alone."""
    (folder / "unet").mkdir()
    index = {"unet": ["diffusers_ediffi", "EDiffIUNet"], "unet_sr256": [None, None], **index}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "unet" / "config.json").write_text(json.dumps(network))
    return folder


EXPERT = {"class_name": "EDiffIUNet", "config": {"sample_size": 64}}


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"_class_name": "UNet2DConditionModel", "sample_size": 64}, "unet is made of UNet2DConditionModel"),
        ({"unets": [EXPERT], "boundaries": [], "shared_base": True}, "are low-rank differences from one network"),
        ({"unets": [EXPERT], "boundaries": [], "adapters": [{"a": 1}]}, "differ in what they are conditioned on"),
        ({"_class_name": "EDiffIUNet", "preconditioning": "epsilon"}, "preconditioning='epsilon'"),
        ([], "is not a configuration"),
    ],
)
def test_networks_that_are_not_trained_are_refused(tmp_path, network, message):
    with pytest.raises(ValueError, match=message):
        StageNetworks.read(saved(tmp_path, network), "unet")


def test_a_stage_that_is_not_there_is_named(tmp_path):
    saved(tmp_path, {"_class_name": "EDiffIUNet", "sample_size": 64})
    for name in ("unet_sr256", "unet_sr1024"):
        with pytest.raises(ValueError, match=f"has no {name}; its stages are unet"):
            StageNetworks.read(tmp_path, name)
    with pytest.raises(FileNotFoundError, match="model_index.json is missing"):
        StageNetworks.read(tmp_path / "unet", "unet")


def test_what_is_no_factor_is_not_lost():
    stage = StageNetworks.read(demo_checkpoint(), "unet")
    expert = factorize_expert(tiny_unet(1), tiny_unet(0), 2)  # keeps biases and norms
    with pytest.raises(ValueError, match="is no factor of a LoRA and would be lost"):
        stage.lora_layers({0: expert})
    expert.weights = {name: tensor for name, tensor in expert.weights.items() if ".lora_" in name}
    layers = stage.lora_layers({1: expert})
    assert layers.keys() == {f"experts.1.{name}" for name in expert.weights}
    ranks = {tensor.shape[0 if ".lora_A." in name else 1] for name, tensor in layers.items()}
    assert len(ranks) == 1
    for name, tensor in expert.weights.items():
        cut = tuple(slice(0, length) for length in tensor.shape)
        filled = layers[f"experts.1.{name}"]
        torch.testing.assert_close(filled[cut], tensor)
        assert filled.count_nonzero() == tensor.count_nonzero()

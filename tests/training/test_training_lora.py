# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Training of low-rank differences."""

import pytest
import torch
from helpers_training import assert_same, make_trainer, state_of, tiny_unet

from diffusers_ediffi.experts.lora import LoraExpert, lora_layers
from diffusers_ediffi.models.unet import EDiffIUNet
from diffusers_ediffi.training import TrainingSettings
from diffusers_ediffi.training.lora import plain_lora


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_low_rank_run(tmp_path, optimizer):
    """It changes weights by matrices of its rank alone, is resumed exactly, and is written as difference and whole."""
    options = {"optimizer": optimizer, "lora_rank": 2}
    make_trainer(tmp_path / "whole", **options).train()
    for limit in (1, 3, None):
        make_trainer(tmp_path / "cut", max_steps_this_run=limit, **options).train()
    assert_same(state_of(tmp_path / "whole"), state_of(tmp_path / "cut"))
    start, trained = tiny_unet().state_dict(), EDiffIUNet.from_pretrained(tmp_path / "cut" / "unet")
    moved = {name: tensor - start[name] for name, tensor in trained.state_dict().items()}
    assert max(float(difference.abs().max()) for difference in moved.values()) > 1e-4
    layers = lora_layers(tiny_unet())
    for name, difference in moved.items():
        if name.removesuffix(".weight") in layers and name.endswith(".weight"):
            assert torch.linalg.matrix_rank(difference.flatten(1).double(), rtol=1e-4) <= 2, name
    expert = LoraExpert.load(tmp_path / "cut" / "lora_expert.safetensors")
    assert_same(expert.merge(tiny_unet()).state_dict(), trained.state_dict())


def test_a_plain_lora_leaves_the_rest_as_it_is(tmp_path):
    """Biases, norms and embeddings stay, bit by bit, and the difference has factors alone, of one rank when saved."""
    make_trainer(tmp_path, lora_rank=4, lora_only=True).train()
    expert = LoraExpert.load(tmp_path / "lora_expert.safetensors")
    assert all(".lora_" in name for name in expert.weights)
    start, trained = tiny_unet().state_dict(), EDiffIUNet.from_pretrained(tmp_path / "unet").state_dict()
    layers = {f"{name}.weight" for name in lora_layers(tiny_unet())}
    assert all(torch.equal(trained[name], start[name]) == (name not in layers) for name in start)
    factors = plain_lora(expert)
    assert {len(tensor) for name, tensor in factors.items() if ".lora_A." in name} == {4}
    expert.weights = factors
    assert_same(expert.merge(tiny_unet()).state_dict(), trained)


def test_lora_only_needs_a_rank():
    with pytest.raises(ValueError, match="lora_only needs a lora_rank"):
        TrainingSettings(lora_only=True)

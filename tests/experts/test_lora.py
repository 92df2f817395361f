# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A low-rank expert as a value: merged with its base, and in its file."""

import copy
import json

import pytest
import torch
from helpers import tiny_unet as tiny_ediffi_unet
from helpers_lora import output, tiny_unet, trained
from safetensors.torch import save_file

from diffusers_ediffi import ExpertRouterUNet, LoraExpert, factorize_expert


def test_a_merged_expert_stays_when_the_base_is_switched():
    base = tiny_unet()
    bias = copy.deepcopy(base)
    torch.nn.init.ones_(bias.conv_out.bias)
    low_rank = [factorize_expert(base, expert, rank=4) for expert in (base, bias)]
    merged = low_rank[0].merge(base)
    before = output(merged, 1.0)
    router = ExpertRouterUNet.from_lora_experts(base, low_rank, [1.0])
    assert not torch.equal(output(router, 80.0), before) and torch.equal(output(merged, 1.0), before)
    assert all(parameter.requires_grad for parameter in merged.parameters())


def test_an_expert_is_one_file(tmp_path):
    base = tiny_ediffi_unet(trained_on=[[0.0, None]])
    expert = factorize_expert(base, trained(base, 1), rank=2)
    file = tmp_path / "new" / "expert.safetensors"
    expert.save(file)
    loaded = LoraExpert.load(file)
    assert loaded.config == json.loads(json.dumps(expert.config)) and loaded.weights.keys() == expert.weights.keys()
    assert all(torch.equal(loaded.weights[name], tensor) for name, tensor in expert.weights.items())
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_refuses_files_that_hold_no_expert(tmp_path):
    with pytest.raises(OSError, match="does not exist: give the safetensors file"):
        LoraExpert.load(tmp_path / "missing.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="is not a low-rank expert"):
        LoraExpert.load(tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes()[:20])
    with pytest.raises(OSError, match="is damaged"):
        LoraExpert.load(tmp_path / "cut.safetensors")


@pytest.mark.parametrize("config", ["", "[", "[" * 9000, "null", "[1]", "NaN"], ids=lambda text: text[:5])
def test_a_header_that_holds_no_configuration_is_refused(tmp_path, config):
    save_file({"a": torch.zeros(1)}, tmp_path / "expert.safetensors", metadata={"expert_config": config})
    with pytest.raises(ValueError, match=r"expert_config in the header of .*expert\.safetensors"):
        LoraExpert.load(tmp_path / "expert.safetensors")

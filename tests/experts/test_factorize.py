# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Full experts as low-rank differences: what the factors hold, how much they miss, what is refused."""

import copy

import pytest
import torch
from helpers import tiny_unet as tiny_ediffi_unet
from helpers_lora import BOUNDARIES, KINDS, SIGMAS, output, tiny_unet, trained
from peft.utils import get_peft_model_state_dict

from diffusers_ediffi import ExpertRouterUNet, LoraExpert, factorize_expert


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_full_rank_is_the_full_expert(make):
    base = make(0)
    experts = [trained(base, seed) for seed in (1, 2, 3)]
    rank = max(min(p.flatten(1).shape) for p in base.parameters() if p.ndim > 1)
    low_rank = [factorize_expert(base, expert, rank) for expert in experts]
    assert all(expert.error < 1e-5 for expert in low_rank)
    router = ExpertRouterUNet.from_lora_experts(base, low_rank, BOUNDARIES)
    for sigma, expert in zip(SIGMAS, experts, strict=True):
        torch.testing.assert_close(output(router, sigma), output(expert, sigma), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(output(experts[0], 1.0), output(experts[1], 1.0), atol=1e-2)


def test_factors_are_the_best_of_their_rank():
    """Eckart and Young: the error is what the singular values beyond the rank amount to."""
    base = tiny_unet()
    expert = trained(base, 1)
    low_rank = factorize_expert(base, expert, rank=3)
    missed = whole = 0.0
    for layer, error in low_rank.errors.items():
        difference = (expert.get_submodule(layer).weight - base.get_submodule(layer).weight).detach()
        squares = torch.linalg.svdvals(difference.flatten(1)) ** 2
        assert error == pytest.approx(float((squares[3:].sum() / squares.sum()).sqrt()), abs=1e-5)
        missed, whole = missed + squares[3:].sum(), whole + squares.sum()
    assert low_rank.error == pytest.approx(float((missed / whole).sqrt()), abs=1e-5)
    assert 0 < low_rank.error < 1
    errors = [factorize_expert(base, expert, rank).error for rank in (1, 4, 8)]
    assert errors == sorted(errors, reverse=True)


def test_what_has_no_low_rank_is_kept_in_full():
    base = tiny_ediffi_unet(0)
    expert = trained(base, 1)
    low_rank = factorize_expert(base, expert, rank=1)
    state = expert.state_dict()
    full = [name for name in low_rank.weights if ".lora_" not in name]
    assert "fusion.null_token" in full and "conv_in.bias" in full and "conv_norm_out.weight" in full
    assert all(torch.equal(low_rank.weights[name], state[name]) for name in full)
    factored = {f"{layer}.weight" for layer in low_rank.errors}
    assert {*full, *factored} == set(state) and "conv_in.weight" in factored


def test_what_equals_the_base_takes_no_room():
    base = tiny_unet()
    expert = copy.deepcopy(base)
    torch.nn.init.ones_(expert.conv_out.weight)
    assert set(factorize_expert(base, expert, 2).weights) == {"conv_out.lora_A.weight", "conv_out.lora_B.weight"}
    nothing = factorize_expert(base, base, 2)
    assert nothing.weights == {} and nothing.error == 0


def test_factors_are_a_lora_that_diffusers_loads():
    base = tiny_unet()
    low_rank = factorize_expert(base, trained(base, 1), rank=1)
    factors = {name: tensor for name, tensor in low_rank.weights.items() if ".lora_" in name}
    loaded = copy.deepcopy(base)
    loaded.load_lora_adapter(factors, prefix=None)
    expected = LoraExpert(factors, low_rank.config).merge(base)
    torch.testing.assert_close(output(loaded, 1.0), output(expected, 1.0), rtol=1e-5, atol=1e-5)
    read = get_peft_model_state_dict(loaded, adapter_name="default_0")
    assert read.keys() == factors.keys()


@pytest.mark.parametrize("rank", [0, -1, 2.5, True, "8"])
def test_refuses_a_rank(rank):
    with pytest.raises(ValueError, match=f"rank={rank!r} must be a whole number of at least 1"):
        factorize_expert(tiny_unet(), tiny_unet(), rank)


def test_refuses_a_configuration_of_another_network():
    base = tiny_unet()
    low_rank = factorize_expert(base, trained(base, 1), rank=1)
    low_rank.config["cross_attention_dim"] = 768
    with pytest.raises(
        ValueError, match=r"the expert's configuration is not that of its base \(size mismatch for .*768"
    ):
        low_rank.merge(base)


def test_refuses_a_configuration_of_no_network():
    base = tiny_ediffi_unet()
    low_rank = factorize_expert(base, trained(base, 1), rank=1)
    low_rank.config["block_out_channels"] = []
    with pytest.raises(
        ValueError, match=r"the expert's configuration is not that of its base \(block_out_channels is"
    ):
        low_rank.merge(base)


def test_warns_of_a_rank_that_no_layer_has():
    base = tiny_unet()
    with pytest.warns(UserWarning, match=r"rank=999 is more than any layer has \(\d+\).*smaller rank"):
        low_rank = factorize_expert(base, trained(base, 1), 999)
    assert low_rank.weights["conv_in.lora_A.weight"].shape == (8, 4, 3, 3)


def test_refuses_other_architectures():
    with pytest.raises(ValueError, match=r"block_out_channels=\(8,\) and the expert \(16,\)"):
        factorize_expert(tiny_unet(), tiny_unet(block_out_channels=(16,)), 2)
    with pytest.raises(ValueError, match="the base is a UNet2DConditionModel and the expert a EDiffIUNet"):
        factorize_expert(tiny_unet(), tiny_ediffi_unet(), 2)
    broken = trained(tiny_unet(), 1)
    torch.nn.init.constant_(broken.conv_in.weight, float("nan"))
    with pytest.raises(ValueError, match="conv_in.weight of the base or the expert is not finite"):
        factorize_expert(tiny_unet(), broken, 2)

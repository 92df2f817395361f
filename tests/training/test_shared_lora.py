# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""One LoRA for several experts: who is trained by which sample, and that all have the same factors."""

import copy
import json

import pytest
import torch
from helpers_training import WIDTH, assert_same, make_trainer, state_of, tiny_unet

from diffusers_ediffi.edm import c_noise
from diffusers_ediffi.experts.lora import LoraExpert
from diffusers_ediffi.experts.noise_interval import NoiseInterval
from diffusers_ediffi.training.lora import LORA_FILE
from diffusers_ediffi.training.shared_lora import SharedInterval, SharedLora

EDGES = (0.0, 0.3, 2.0, float("inf"))
PARTS = tuple(NoiseInterval((pair,)) for pair in zip(EDGES[:-1], EDGES[1:], strict=True))


def expert(seed, **changes):
    unet = tiny_unet(dropout=0.0, **changes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return unet


@pytest.fixture
def experts():
    return {number: expert(number) for number in range(3)}


def trainer_of(experts, output, **changes):
    interval = SharedInterval.of(PARTS)
    settings = {"lora_rank": 2, "lora_only": True, "log_every": 2, "batch_size": 4, **changes}
    return make_trainer(output, SharedLora(copy.deepcopy(experts), interval), interval=interval, **settings)


@pytest.mark.parametrize("batch", [1, 4, 6])
def test_each_expert_gets_as_many_samples(batch):
    interval, generator = SharedInterval.of(PARTS), torch.Generator().manual_seed(0)
    counts = torch.zeros(3)
    for _ in range(300):
        sigma = interval.sample((batch,), generator)
        of_batch = torch.tensor([sum(part.contains(level) for level in sigma.tolist()) for part in PARTS])
        assert of_batch.sum() == batch and of_batch.max() - of_batch.min() <= 1
        counts += of_batch
    assert (counts / counts.sum() - 1 / 3).abs().max() < 0.08
    assert interval.edges == (0.3, 2.0) and interval.ranges == ((0.0, float("inf")),)


@torch.no_grad()
def test_each_sample_goes_to_the_expert_of_its_noise_level(experts):
    together, sigma = SharedLora(experts, SharedInterval.of(PARTS)), torch.tensor([5.0, 0.1, 1.0, 0.2])
    sample = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    conditions = {
        "encoder_hidden_states": torch.randn(4, 77, WIDTH, generator=torch.Generator().manual_seed(1)),
        "encoder_hidden_states_2": torch.ones(4, 5, WIDTH),
        "added_cond_kwargs": {"text_embeds": torch.ones(4, WIDTH), "image_embeds": None},
    }
    output = together(sample, c_noise(sigma), **conditions)[0]
    for row, number in enumerate((2, 0, 1, 0)):
        of_row = {
            **{name: value[row : row + 1] for name, value in conditions.items() if isinstance(value, torch.Tensor)},
            "added_cond_kwargs": {"text_embeds": torch.ones(1, WIDTH), "image_embeds": None},
        }
        expected = experts[number](sample[row : row + 1], c_noise(sigma[row : row + 1]), **of_row).sample
        torch.testing.assert_close(output[row : row + 1], expected)


def test_all_experts_get_the_same_factors_and_nothing_else_changes(experts, tmp_path):
    trainer = trainer_of(experts, tmp_path / "run")
    trainer.train()
    lora = LoraExpert.load(tmp_path / "run" / LORA_FILE)
    trained = trainer.learner.averaged().experts
    for number, before in experts.items():
        merged = lora.merge(before)
        for name, tensor in trained[str(number)].state_dict().items():
            torch.testing.assert_close(tensor, merged.state_dict()[name])
    assert any(tensor.abs().max() > 1e-3 for name, tensor in lora.weights.items() if ".lora_B." in name)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(set(line["loss_per_sigma"]) == {"<0.3", "0.3-2", ">2"} for line in lines)


def test_a_run_that_is_cut_ends_in_the_same_weights(experts, tmp_path):
    trainer_of(experts, tmp_path / "whole").train()
    trainer_of(experts, tmp_path / "cut", max_steps_this_run=3).train()
    trainer_of(experts, tmp_path / "cut").train()
    assert_same(state_of(tmp_path / "cut"), state_of(tmp_path / "whole"))


def test_what_shares_no_lora_is_refused(experts):
    interval = SharedInterval.of(PARTS)
    other = {**experts, 0: expert(0, block_out_channels=(16, 16))}
    with pytest.raises(ValueError, match="expert 1 has other layers than expert 0; name some .* such as 1 2"):
        SharedLora(other, interval)
    with pytest.raises(ValueError, match="there is one expert alone"):
        SharedLora({1: experts[1]}, interval)

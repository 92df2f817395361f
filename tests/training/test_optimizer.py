# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""AdamW and Muon."""

import pytest
import torch
from helpers_training import assert_same, make_trainer, state_of

from diffusers_ediffi.training.optimizer import MuonAdamW, make_optimizer


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_run_with_muon_that_is_cut_equals_one_that_is_not(tmp_path, channels_last):
    options = {"optimizer": "muon", "channels_last": channels_last}
    make_trainer(tmp_path / "whole", **options).train()
    for limit in (1, 3, None):
        make_trainer(tmp_path / "cut", max_steps_this_run=limit, **options).train()
    assert_same(state_of(tmp_path / "whole"), state_of(tmp_path / "cut"))


def test_muon_takes_convolutions_as_matrices():
    """One step of a convolution is a step of PyTorch's Muon on (out, in * height * width), in either layout."""
    gradient, moved = torch.randn(6, 4, 3, 3), []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        network = torch.nn.ModuleDict({"conv_in": torch.nn.Conv2d(3, 4, 3), "hidden": torch.nn.Conv2d(4, 6, 3)})
        network.to(memory_format=layout)
        before = network["hidden"].weight.detach().clone()
        optimizer = make_optimizer("muon", network, 0.1, 0.0)
        network["hidden"].weight.grad = gradient.to(memory_format=layout)
        network["conv_in"].weight.grad = torch.ones(4, 3, 3, 3)
        optimizer.step()
        moved.append((network["hidden"].weight - before).detach().contiguous())
    # Muon computes in bfloat16.
    torch.testing.assert_close(moved[0], moved[1], rtol=0, atol=0.05 * moved[0].std().item())
    singular = torch.linalg.svdvals(moved[0].flatten(1)) / (0.1 * 0.2 * 36**0.5)
    assert (singular > 0.5).all() and (singular < 1.5).all(), (
        "an orthogonal matrix, about, of the size of AdamW's step"
    )
    others = optimizer.param_groups[1]["params"]
    assert any(p is network["conv_in"].weight for p in others) and any(p is network["hidden"].bias for p in others)


def test_muon_notices_that_its_weights_were_moved():
    network = torch.nn.ModuleDict({"hidden": torch.nn.Conv2d(4, 6, 3)})
    optimizer = make_optimizer("muon", network, 0.1, 0.0)
    assert isinstance(optimizer, MuonAdamW)
    network["hidden"].weight.data = network["hidden"].weight.data.clone()
    with pytest.raises(RuntimeError, match="were moved"):
        optimizer.step()

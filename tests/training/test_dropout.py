# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Conditioning dropout: the paper's rates, and that a dropped condition is an absent one."""

import pytest
import torch
from helpers_training import WIDTH, conditioning_of_ones, encode, tiny_unet

from diffusers_ediffi.training.dropout import DropoutRates, drop_conditioning, drop_everything


def test_dropout_rates_are_the_papers_and_independent():
    dropped = drop_conditioning(conditioning_of_ones(20000), DropoutRates(), torch.Generator().manual_seed(0))
    text, t5 = (dropped[name].flatten(1).mean(1) for name in ("encoder_hidden_states", "encoder_hidden_states_2"))
    image = dropped["added_cond_kwargs"]["image_embeds"].mean(1)
    assert set(torch.cat([text, t5, image]).tolist()) == {0.0, 1.0}  # whole embeddings
    assert [x.mean().item() for x in (text, t5, image)] == pytest.approx([0.8, 0.75, 0.1], abs=0.01)
    assert ((1 - text) * (1 - t5)).mean().item() == pytest.approx(0.2 * 0.25, abs=0.01)
    assert torch.equal(dropped["added_cond_kwargs"]["text_embeds"].mean(1), text)  # one condition
    # A dropped embedding has no mask, as an absent one has none.
    assert torch.equal(dropped["encoder_attention_mask_2"].float().mean(1), 1 - t5)


def test_pooled_text_can_drop_alone_and_changes_nothing_else():
    def dropped(rates: DropoutRates) -> dict:
        return drop_conditioning(conditioning_of_ones(20000), rates, torch.Generator().manual_seed(0))

    alone, together = dropped(DropoutRates(pooled_text=0.7)), dropped(DropoutRates())
    for name in ("encoder_hidden_states", "encoder_hidden_states_2", "encoder_attention_mask_2"):
        assert torch.equal(alone[name], together[name])
    text = alone["encoder_hidden_states"].flatten(1).mean(1)
    pooled = alone["added_cond_kwargs"]["text_embeds"].mean(1)
    assert set(pooled.tolist()) == {0.0, 1.0} and not pooled[text == 0].any()
    assert pooled.mean().item() == pytest.approx(0.8 * 0.3, abs=0.01)


def test_network_takes_a_dropped_condition_for_an_absent_one():
    unet = tiny_unet().eval()
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    conditioning = encode(["scene 1", "scene 2"], torch.zeros(2, 3, 8, 8))
    conditioning["encoder_hidden_states_2"] = torch.randn(2, 113, WIDTH)
    conditioning["encoder_attention_mask_2"] = (torch.arange(113) < 9).long().expand(2, -1)
    sample = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        dropped = unet(sample, 0.1, **drop_everything(conditioning)).sample
        torch.testing.assert_close(dropped, unet(sample, 0.1, None).sample)
        assert (dropped - unet(sample, 0.1, **conditioning).sample).abs().max() > 1e-3


def test_dropout_rejects_what_is_no_probability():
    with pytest.raises(ValueError, match="t5 is a probability in .* got 1.5"):
        DropoutRates(t5=1.5)

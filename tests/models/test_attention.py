# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Attention against its formula, and the three readings of the attention block."""

import pytest
import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn

from diffusers_ediffi.models import attention
from diffusers_ediffi.models.attention import AttentionBlock, EDiffIAttention


def formula(attn: EDiffIAttention, x: torch.Tensor, context: torch.Tensor, mask=None) -> torch.Tensor:
    """softmax(Q K^T / sqrt(d_k)) V, head by head."""
    heads = []
    for q, k, v in zip(*(layer.chunk(attn.heads, dim=-1) for layer in (
        attn.to_q(x), attn.to_k(context), attn.to_v(context)
    )), strict=True):  # fmt: skip
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[:, 0], float("-inf"))
        heads.append(scores.softmax(dim=-1) @ v)
    return attn.to_out[0](torch.cat(heads, dim=-1))


def test_self_and_cross_attention_equal_the_formula():
    x, context = torch.randn(2, 9, 16), torch.randn(2, 5, 12)
    itself = EDiffIAttention(16, head_dim=4)
    torch.testing.assert_close(itself(x), formula(itself, x, x))
    cross = EDiffIAttention(16, head_dim=8, cross_attention_dim=12)
    torch.testing.assert_close(cross(x, context), formula(cross, x, context))


def test_masked_columns_get_no_attention():
    x, context = torch.randn(2, 9, 16), torch.randn(2, 5, 12)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])[:, None, None]
    cross = EDiffIAttention(16, head_dim=8, cross_attention_dim=12)
    torch.testing.assert_close(cross(x, context, mask), formula(cross, x, context, mask))


def test_every_backend_gets_an_additive_mask(monkeypatch):
    """diffusers' xformers backend would add a boolean mask as 0 and 1."""
    seen = []

    def dispatch(query, key, value, attn_mask=None, **kwargs):
        seen.append(attn_mask)
        return dispatch_attention_fn(query, key, value, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr(attention, "dispatch_attention_fn", dispatch)
    cross = EDiffIAttention(16, head_dim=8, cross_attention_dim=12)
    mask = torch.tensor([[True, True, False]])[:, None, None]
    cross(torch.randn(1, 4, 16), torch.randn(1, 3, 12), mask)
    assert torch.equal(seen[0].flatten(), torch.tensor([0.0, 0.0, float("-inf")]))


@pytest.mark.parametrize("kind", ["plain", "feed_forward", "stacked"])
def test_a_fresh_block_is_the_identity(kind):
    block = AttentionBlock(16, 8, 12, kind, norm_num_groups=4)
    x = torch.randn(2, 16, 3, 5)
    torch.testing.assert_close(block(x, torch.randn(2, 7, 12)), x)


@pytest.mark.parametrize("kind", ["plain", "feed_forward", "stacked"])
def test_self_attention_alone_ignores_the_context(kind):
    block = AttentionBlock(16, 8, 12, kind, cross_attention=False, norm_num_groups=4)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_()
    x = torch.randn(2, 16, 4, 4)
    out = block(x, torch.randn(2, 7, 12))
    assert torch.equal(out, block(x, torch.randn(2, 7, 12)))
    assert out.shape == x.shape and not torch.allclose(out, x)


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="attention_head_dim=5"):
        EDiffIAttention(16, head_dim=5)

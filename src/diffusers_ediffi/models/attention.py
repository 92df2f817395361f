# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The attention of eDiff-I's U-Nets: after every self-attention a cross-attention to the conditioning (appendix A).

Attention runs through diffusers' `dispatch_attention_fn`, so every backend of diffusers can be chosen with
`unet.set_attention_backend(...)`.
"""

from functools import partial
from typing import Any

import torch
from diffusers.models.attention import AttentionModuleMixin, FeedForward
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import nn

ATTENTION_BLOCKS = ("plain", "feed_forward", "stacked")


class EDiffIAttnProcessor:
    """Plain scaled dot-product attention, softmax(Q K^T / sqrt(d_k)) V, through the chosen backend."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: "EDiffIAttention",
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        query, key, value = self.project(attn, hidden_states, encoder_hidden_states)
        hidden_states = self.attend(query, key, value, attention_mask)
        return attn.to_out[0](hidden_states.flatten(2))

    @staticmethod
    def project(
        attn: "EDiffIAttention", hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Q, K and V, each (batch, tokens, heads, head_dim)."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.to_q(hidden_states).unflatten(-1, (attn.heads, -1))
        key = attn.to_k(context).unflatten(-1, (attn.heads, -1))
        return query, key, attn.to_v(context).unflatten(-1, (attn.heads, -1))

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """softmax(Q K^T / sqrt(d_k) + bias) V, (batch, queries, heads, head_dim). The mask, boolean or a bias, is
        broadcast to (batch, heads, queries, keys)."""
        hidden_states = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=as_bias(attention_mask, query.dtype),
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        return hidden_states.to(query.dtype)


def as_bias(attention_mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """A boolean mask as a bias, since diffusers' xformers backend takes every mask for a bias."""
    if attention_mask is None or attention_mask.dtype != torch.bool:
        return attention_mask
    bias = torch.zeros(attention_mask.shape, dtype=dtype, device=attention_mask.device)
    return bias.masked_fill(~attention_mask, float("-inf"))


class EDiffIAttention(nn.Module, AttentionModuleMixin):
    """Multi-head attention whose arithmetic is done by an exchangeable processor.

    Args:
        channels (`int`): Width of the queries and of the output.
        head_dim (`int`): Width of one head; `channels` must be a multiple of it.
        cross_attention_dim (`int`, *optional*): Width of the context; `None` for self-attention.
    """

    _default_processor_cls = EDiffIAttnProcessor
    _available_processors = [EDiffIAttnProcessor]
    _supports_qkv_fusion = False
    processor: Any

    def __init__(self, channels: int, head_dim: int, cross_attention_dim: int | None = None):
        super().__init__()
        if channels % head_dim:
            raise ValueError(f"{channels} channels are not a multiple of attention_head_dim={head_dim}; change one.")
        self.heads = channels // head_dim
        self.is_cross_attention = cross_attention_dim is not None
        context_dim = cross_attention_dim or channels
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(context_dim, channels)
        self.to_v = nn.Linear(context_dim, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])
        self.processor = EDiffIAttnProcessor()

    def set_use_memory_efficient_attention_xformers(self, valid: bool, attention_op=None) -> None:
        """Turns xformers on, or with `valid=False` goes back to the attention of PyTorch."""
        if valid:
            super().set_use_memory_efficient_attention_xformers(valid, attention_op)
        else:
            self.processor._attention_backend = None

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return self.processor(self, hidden_states, encoder_hidden_states, attention_mask)


class AttentionBlock(nn.Module):
    """Self-attention, then cross-attention, each with a residual connection, over the pixels of a feature map.

    The paper does not say what else its block holds; three readings are built (see the presets of `EDiffIUNet`):

    - `plain`: appendix A taken literally, normalise, attend, project, add.
    - `feed_forward`: the same with a GELU feed-forward layer of four times the width behind it.
    - `stacked`: the transformer block of latent diffusion (proj-in, self, cross, GEGLU feed-forward, proj-out).

    Args:
        channels (`int`): Channels of the feature map.
        head_dim (`int`): Width of one attention head.
        cross_attention_dim (`int`): Width of the context.
        kind (`str`): One of `plain`, `feed_forward`, `stacked`.
        self_attention (`bool`), cross_attention (`bool`): Which attentions the block has.
        norm_num_groups (`int`): Groups of the group normalisation.
    """

    def __init__(
        self,
        channels: int,
        head_dim: int,
        cross_attention_dim: int,
        kind: str = "plain",
        self_attention: bool = True,
        cross_attention: bool = True,
        norm_num_groups: int = 32,
    ):
        super().__init__()
        if kind not in ATTENTION_BLOCKS:
            raise ValueError(f"attention_block={kind!r} is unknown; choose one of {', '.join(ATTENTION_BLOCKS)}.")
        self.stacked = stacked = kind == "stacked"
        norm = partial(nn.LayerNorm, channels) if stacked else partial(nn.GroupNorm, norm_num_groups, channels)
        if stacked:
            self.norm = nn.GroupNorm(norm_num_groups, channels, eps=1e-6)
            self.proj_in = nn.Linear(channels, channels)
            self.proj_out = zero(nn.Linear(channels, channels))
        self.attn1 = self.attn2 = self.ff = None
        if self_attention:
            self.norm1 = norm()
            self.attn1 = EDiffIAttention(channels, head_dim)
        if cross_attention:
            self.norm2 = norm()
            self.attn2 = EDiffIAttention(channels, head_dim, cross_attention_dim)
        if kind != "plain":
            self.norm3 = norm()
            self.ff = FeedForward(channels, mult=4, activation_fn="geglu" if stacked else "gelu")
        if not stacked:
            self._start_as_identity()

    def _start_as_identity(self) -> None:
        for attn in (self.attn1, self.attn2):
            if attn is not None:
                zero(attn.to_out[0])
        if self.ff is not None:
            zero(self.ff.net[-1])

    def forward(
        self,
        hidden_states: torch.Tensor,
        context: torch.Tensor,
        context_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`hidden_states` is (batch, channels, height, width), `context` (batch, columns, cross_attention_dim),
        `context_mask` a boolean (batch, 1, 1, columns), true where a column may be attended."""
        if self.stacked:
            x = self.proj_in(_as_sequence(self.norm(hidden_states)))
            x = self.proj_out(self._attend(x, context, context_mask))
            return hidden_states + _as_map(x, hidden_states)
        return _as_map(self._attend(_as_sequence(hidden_states), context, context_mask), hidden_states)

    def _attend(self, x: torch.Tensor, context: torch.Tensor, context_mask: torch.Tensor | None) -> torch.Tensor:
        """The branches of the block, each added to `x` (batch, pixels, channels)."""
        if self.attn1 is not None:
            x = x + self.attn1(_normalise(self.norm1, x))
        if self.attn2 is not None:
            x = x + self.attn2(_normalise(self.norm2, x), context, context_mask)
        if self.ff is not None:
            x = x + self.ff(_normalise(self.norm3, x))
        return x


def _as_sequence(feature_map: torch.Tensor) -> torch.Tensor:
    """(batch, channels, height, width) -> (batch, pixels, channels)."""
    return feature_map.flatten(2).transpose(1, 2)


def _as_map(sequence: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(batch, pixels, channels) -> (batch, channels, height, width)."""
    return sequence.transpose(1, 2).unflatten(2, like.shape[-2:])


def _normalise(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Applies a layer or group normalisation to (batch, pixels, channels)."""
    if isinstance(norm, nn.GroupNorm):
        # As (batch, channels, pixels, 1) the tensor is in channels_last layout and needs no copy.
        return norm(x.transpose(1, 2).unsqueeze(-1)).squeeze(-1).transpose(1, 2)
    return norm(x)


def zero(module: nn.Module) -> nn.Module:
    """Zeroes a layer, so that the residual branch it ends starts as the identity (as ADM does)."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module

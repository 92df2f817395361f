# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What the U-Nets are built of: residual blocks, levels, and the two orders of them (appendix A, Tables 2-4)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .attention import AttentionBlock, zero

AttentionAt = Callable[[int, int], AttentionBlock | None]  # of a width and a downsampling factor
Resnet = Callable[..., nn.Module]


class ResnetBlock(nn.Module):
    """ADM's residual block: norm, SiLU, convolution, scale-shift norm by the global vector, SiLU, convolution.

    Args:
        in_channels, out_channels (`int`): Channels that it takes and gives.
        time_embed_dim (`int`): Width of the global vector.
        groups (`int`): Groups of the group normalisation.
        dropout (`float`): Dropout before the second convolution.
        resample (`str`, *optional*): `down` or `up` to halve or double the resolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_embed_dim: int,
        groups: int,
        dropout: float = 0.0,
        resample: str | None = None,
    ):
        super().__init__()
        self.resample = resample
        self.norm1 = nn.GroupNorm(groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_embed_dim, 2 * out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        zero(self.conv2)

    def forward(self, x: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        """`x` is (batch, in_channels, height, width), `temb` (batch, time_embed_dim) after its SiLU."""
        h = F.silu(self.norm1(x))
        h, x = _resample(h, self.resample), _resample(x, self.resample)
        h = self.conv1(h)
        scale, shift = self.time_emb_proj(temb)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        h = self.conv2(self.dropout(F.silu(h)))
        return self.conv_shortcut(x) + h


def _resample(x: torch.Tensor, how: str | None) -> torch.Tensor:
    if how == "down":
        return F.avg_pool2d(x, 2)
    if how == "up":
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    return x


class UNetLevel(nn.Module):
    """One level of the way down or up, or the middle: residual blocks, each with an optional attention block.

    With `pops` every residual block first takes a skip connection, or only the first one where `one_skip`; with
    `pushes` every stage leaves one, or only the last one where `one_skip`.

    Args:
        resnets (`list` of `ResnetBlock`): The residual blocks.
        attentions (`list` of `AttentionBlock` or `None`): What stands behind each of them.
        before, after (`nn.Module`, *optional*): What changes the resolution.
        pushes, pops, one_skip (`bool`): See above.
    """

    def __init__(
        self,
        resnets: Sequence[nn.Module],
        attentions: Sequence[AttentionBlock | None],
        before: nn.Module | None = None,
        after: nn.Module | None = None,
        pushes: bool = False,
        pops: bool = False,
        one_skip: bool = False,
    ):
        super().__init__()
        self.before, self.after = before, after
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleDict({str(i): block for i, block in enumerate(attentions) if block is not None})
        self.pushes, self.pops = pushes, pops
        self.one_skip = one_skip

    @property
    def num_taken(self) -> int:
        """How many skip connections the level takes."""
        return (1 if self.one_skip else len(self.resnets)) if self.pops else 0

    def forward(
        self,
        x: torch.Tensor,
        temb: torch.Tensor,
        context: torch.Tensor,
        context_mask: torch.Tensor | None,
        skips: tuple[torch.Tensor, ...] = (),
        checkpoint: Callable[..., torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """`x` is (batch, channels, height, width); `skips` are the latest `num_taken` skip connections. `checkpoint`
        calls a block so that its activations are not kept for the backward pass.

        Returns the feature map and the skip connections that the level leaves. (A hook of accelerate or diffusers that
        moves the arguments hands over copies of lists, so that nothing comes back in them.)
        """
        call = checkpoint or _call
        taken, left = list(skips), list[torch.Tensor]()
        if self.before is not None:
            x = self.before(x)
        for i, resnet in enumerate(self.resnets):
            if self.pops and not (self.one_skip and i):
                x = torch.cat([x, taken.pop()], dim=1)
            x = call(resnet, x, temb)
            if str(i) in self.attentions:
                x = call(self.attentions[str(i)], x, context, context_mask)
            if self.pushes and not self.one_skip:
                left.append(x)
        if self.pushes and self.one_skip:
            left.append(x)
        if self.after is not None:
            x = self.after(x, temb) if isinstance(self.after, ResnetBlock) else self.after(x)
            if self.pushes and not self.one_skip:
                left.append(x)
        return x, tuple(left)


def _call(function: nn.Module, *inputs: Any) -> torch.Tensor:
    return function(*inputs)


def build_adm(
    widths: Sequence[int], layers: Sequence[int], factor: int, attention: AttentionAt, resnet: Resnet
) -> tuple[nn.ModuleList, UNetLevel | None, nn.ModuleList]:
    """The U-Net of Dhariwal and Nichol: residual up- and downsampling, a skip connection behind every block.

    Args:
        widths (`list` of `int`): Channels of each level, highest resolution first.
        layers (`list` of `int`): Residual blocks of each level; one more on the way up.
        factor (`int`): Downsampling factor of the first level.
        attention: Gives the attention block of a width at a downsampling factor, or `None`.
        resnet: `ResnetBlock` with its common arguments.

    Returns:
        The way down, the middle and the way up.
    """
    down, skips = _adm_down(widths, layers, factor, attention, resnet)
    width, factor = widths[-1], factor * 2 ** (len(widths) - 1)
    mid = UNetLevel([resnet(width, width) for _ in range(2)], [attention(width, factor)])
    return down, mid, _adm_up(widths, layers, factor, attention, resnet, skips)


def _adm_down(
    widths: Sequence[int], layers: Sequence[int], factor: int, attention: AttentionAt, resnet: Resnet
) -> tuple[nn.ModuleList, list[int]]:
    """The way down, and the channels of the skip connections that it leaves."""
    down, skips = nn.ModuleList(), [widths[0]]
    width, last = widths[0], len(widths) - 1
    for level, out in enumerate(widths):
        resnets = [resnet(width if i == 0 else out, out) for i in range(layers[level])]
        after = resnet(out, out, resample="down") if level < last else None
        attentions = [attention(out, factor * 2**level) for _ in resnets]
        down.append(UNetLevel(resnets, attentions, after=after, pushes=True))
        skips += [out] * (layers[level] + (level < last))
        width = out
    return down, skips


def _adm_up(
    widths: Sequence[int],
    layers: Sequence[int],
    factor: int,
    attention: AttentionAt,
    resnet: Resnet,
    skips: list[int],
) -> nn.ModuleList:
    """The way up from the lowest level, at `factor`; every residual block takes one of the skip connections."""
    up, width = nn.ModuleList(), widths[-1]
    for level, out in reversed(list(enumerate(widths))):
        resnets = []
        for _ in range(layers[level] + 1):
            resnets.append(resnet(width + skips.pop(), out))
            width = out
        after = resnet(out, out, resample="up") if level else None
        up.append(UNetLevel(resnets, [attention(out, factor) for _ in resnets], after=after, pops=True))
        factor //= 2
    return up


def build_efficient(
    widths: Sequence[int], layers: Sequence[int], factor: int, attention: AttentionAt, resnet: Resnet
) -> tuple[nn.ModuleList, UNetLevel | None, nn.ModuleList]:
    """Imagen's Efficient U-Net (arXiv 2205.11487, appendix B), with the arguments and results of [`build_adm`].

    The stride comes first on the way down and last on the way up (the lowest level has none), one attention at the end
    of a level, one skip connection a level, no middle; a level on the way up narrows in its first residual block,
    which is what the paper's parameter counts ask for.
    """
    last = len(widths) - 1
    factors = [factor * 2 ** min(level + 1, last) for level in range(last + 1)]
    down = _efficient_down(widths, layers, factors, attention, resnet)
    return down, None, _efficient_up(widths, layers, factors, attention, resnet)


def _efficient_down(
    widths: Sequence[int], layers: Sequence[int], factors: Sequence[int], attention: AttentionAt, resnet: Resnet
) -> nn.ModuleList:
    """The way down; `factors` are the downsampling factors behind the stride of each level."""
    down, width = nn.ModuleList(), widths[0]
    for level, out in enumerate(widths):
        before = nn.Conv2d(width, out, 3, stride=2 if level < len(widths) - 1 else 1, padding=1)
        resnets = [resnet(out, out) for _ in range(layers[level])]
        attentions = [*[None] * (layers[level] - 1), attention(out, factors[level])]
        down.append(UNetLevel(resnets, attentions, before=before, pushes=True, one_skip=True))
        width = out
    return down


def _efficient_up(
    widths: Sequence[int], layers: Sequence[int], factors: Sequence[int], attention: AttentionAt, resnet: Resnet
) -> nn.ModuleList:
    """The way up; each level gives the channels of the level above it."""
    up = nn.ModuleList()
    for level, width in reversed(list(enumerate(widths))):
        out = widths[max(level - 1, 0)]
        resnets = [resnet(2 * width if i == 0 else out, out) for i in range(layers[level])]
        attentions = [*[None] * (layers[level] - 1), attention(out, factors[level])]
        stride = nn.Sequential(nn.Upsample(scale_factor=2.0, mode="nearest"), nn.Conv2d(out, out, 3, padding=1))
        after = stride if level < len(widths) - 1 else None
        up.append(UNetLevel(resnets, attentions, after=after, pops=True, one_skip=True))
    return up

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Which weights of a U-Net in the layout of Dhariwal and Nichol (ADM) are which of an `EDiffIUNet`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch

from diffusers_ediffi import EDiffIUNet

Weights = dict[str, torch.Tensor]
# How the rows of `qkv` are ordered: h heads, three of query, key and value, d channels of a head.
QKV_ORDERS = ("h d three", "three h d", "h three d")


@dataclass
class Transfer:
    """What becomes of the weights of a checkpoint.

    Args:
        source (`dict`): The checkpoint's weights.
        qkv_order (`str`): One of `QKV_ORDERS`.
        head_dim (`int`): d.
    """

    source: Mapping[str, torch.Tensor]
    qkv_order: str
    head_dim: int
    filled: Weights = field(default_factory=dict)
    consumed: set[str] = field(default_factory=set)

    def layer(self, theirs: str, ours: str, *shape: int) -> None:
        """Weight and bias of a layer; `shape` is that of the weight where it differs from the checkpoint's."""
        for name in ("weight", "bias"):
            tensor = self._take(f"{theirs}.{name}")
            self.filled[f"{ours}.{name}"] = tensor.reshape(shape) if shape and name == "weight" else tensor

    def qkv(self, theirs: str, ours: str) -> None:
        """The rows of query, key and value, which stand in one layer, to three layers."""
        for name in ("weight", "bias"):
            rows = self._take(f"{theirs}.{name}").flatten(1) if name == "weight" else self._take(f"{theirs}.{name}")
            parts = split_qkv(rows, self.qkv_order, self.head_dim)
            for target, part in zip(("to_q", "to_k", "to_v"), parts, strict=True):
                self.filled[f"{ours}.{target}.{name}"] = part

    def _take(self, name: str) -> torch.Tensor:
        if name not in self.source:
            raise ValueError(f"the checkpoint lacks {name}: it is of another family, or not whole.")
        self.consumed.add(name)
        return self.source[name]


def split_qkv(rows: torch.Tensor, order: str, head_dim: int) -> tuple[torch.Tensor, ...]:
    """Rows (3 h d, ...) of one layer -> those of query, key and value, each (h d, ...) head by head."""
    heads = len(rows) // (3 * head_dim)
    sizes = {"h": heads, "three": 3, "d": head_dim}
    names = order.split()
    grid = rows.unflatten(0, tuple(sizes[name] for name in names))
    return tuple(part.flatten(0, 1) for part in grid.unbind(names.index("three")))


def edm_names(unet: EDiffIUNet) -> Iterator[tuple[str, str, bool]]:
    """For each residual block its name in EDM, its name here, and whether attention stands behind it there."""
    sizes = [unet.config.sample_size // 2**level for level in range(len(unet.down_blocks))]
    where = [f"{size}x{size}" for size in sizes]
    for level, block in enumerate(unet.down_blocks):
        for i in range(len(block.resnets)):
            yield f"enc.{where[level]}_block{i}", f"down_blocks.{level}.resnets.{i}", has_attention(block, i)
        if block.after is not None:
            yield f"enc.{where[level + 1]}_down", f"down_blocks.{level}.after", False
    for i in range(2):
        yield f"dec.{where[-1]}_in{i}", f"mid_block.resnets.{i}", has_attention(unet.mid_block, i)
    for number, block in enumerate(unet.up_blocks):
        level = len(unet.up_blocks) - 1 - number
        for i in range(len(block.resnets)):
            yield f"dec.{where[level]}_block{i}", f"up_blocks.{number}.resnets.{i}", has_attention(block, i)
        if block.after is not None:
            yield f"dec.{where[level - 1]}_up", f"up_blocks.{number}.after", False


def has_attention(level: torch.nn.Module, index: int) -> bool:
    """Whether self-attention stands behind a residual block of a level."""
    return str(index) in level.attentions and level.attentions[str(index)].attn1 is not None


def transfer_edm(unet: EDiffIUNet, source: Mapping[str, torch.Tensor]) -> Transfer:
    """The weights of EDM's ADM network under the names of `unet`.

    Raises:
        ValueError: The checkpoint lacks some of them.
    """
    transfer = Transfer(source, "h d three", unet.config.attention_head_dim)
    transfer.layer("map_layer0", "time_embedding.linear_1")
    transfer.layer("map_layer1", "time_embedding.linear_2")
    size = unet.config.sample_size
    transfer.layer(f"enc.{size}x{size}_conv", "conv_in")
    for theirs, ours, attention in edm_names(unet):
        _transfer_resnet(transfer, theirs, ours, f"{theirs}.skip.weight" in source)
        if attention:
            _transfer_attention(transfer, theirs, ours.replace("resnets", "attentions"))
    transfer.layer("out_norm", "conv_norm_out")
    transfer.layer("out_conv", "conv_out")
    return transfer


def _transfer_resnet(transfer: Transfer, theirs: str, ours: str, has_skip: bool) -> None:
    names = {"norm0": "norm1", "conv0": "conv1", "affine": "time_emb_proj", "norm1": "norm2", "conv1": "conv2"}
    for name, target in (names | ({"skip": "conv_shortcut"} if has_skip else {})).items():
        transfer.layer(f"{theirs}.{name}", f"{ours}.{target}")


def _transfer_attention(transfer: Transfer, theirs: str, ours: str) -> None:
    transfer.layer(f"{theirs}.norm2", f"{ours}.norm1")
    transfer.qkv(f"{theirs}.qkv", f"{ours}.attn1")
    width = len(transfer.source[f"{theirs}.proj.bias"])
    transfer.layer(f"{theirs}.proj", f"{ours}.attn1.to_out.0", width, width)

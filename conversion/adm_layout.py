# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Which weights of a U-Net in the layout of Dhariwal and Nichol (ADM) are which of an `EDiffIUNet`: the names that
guided-diffusion and EDM give them, and the orders of the rows of query, key and value."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from state_dicts import Weights

from diffusers_ediffi import EDiffIUNet

# How the rows of `qkv` are ordered: h heads, three of query, key and value, d channels of a head.
QKV_ORDERS = ("h d three", "three h d", "h three d")


@dataclass(frozen=True)
class Names:
    """What a family calls the layers.

    Args:
        layers (`dict`): Of the network, each with the name that it has here.
        resnet (`dict`): Of a residual block, each with the name that it has here.
        attention (`tuple`): Of an attention block: normalisation, query, key and value in one layer, and the last.
    """

    layers: Mapping[str, str]
    resnet: Mapping[str, str]
    attention: tuple[str, str, str]


EDM = Names(
    layers={
        "map_layer0": "time_embedding.linear_1",
        "map_layer1": "time_embedding.linear_2",
        "out_norm": "conv_norm_out",
        "out_conv": "conv_out",
    },
    resnet={
        "norm0": "norm1",
        "conv0": "conv1",
        "affine": "time_emb_proj",
        "norm1": "norm2",
        "conv1": "conv2",
        "skip": "conv_shortcut",
    },
    attention=("norm2", "qkv", "proj"),
)
GUIDED_DIFFUSION = Names(
    layers={
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
    },
    resnet={
        "in_layers.0": "norm1",
        "in_layers.2": "conv1",
        "emb_layers.1": "time_emb_proj",
        "out_layers.0": "norm2",
        "out_layers.3": "conv2",
        "skip_connection": "conv_shortcut",
    },
    attention=("norm", "qkv", "proj_out"),
)


class Block(NamedTuple):
    """A residual block: its name in the checkpoint, that of the attention behind it there, and its name here."""

    theirs: str
    attention: str | None
    ours: str


@dataclass
class Transfer:
    """What becomes of the weights of a checkpoint.

    Args:
        unet (`EDiffIUNet`): The network that they are for.
        source (`dict`): The checkpoint's weights; what is taken is removed, so that it takes no memory twice.
        names (`Names`): Of the checkpoint's family.
        qkv_order (`str`): One of `QKV_ORDERS`.
    """

    unet: EDiffIUNet
    source: Weights
    names: Names
    qkv_order: str
    filled: Weights = field(default_factory=dict)
    dropped: list[tuple[str, int]] = field(default_factory=list)  # what for, how many numbers

    def layer(self, theirs: str, ours: str) -> None:
        """Weight and bias of a layer; projections are convolutions of size 1 there."""
        for name in ("weight", "bias"):
            tensor, here = self.take(f"{theirs}.{name}"), self.unet.get_parameter(f"{ours}.{name}")
            same = tensor.squeeze().shape == here.squeeze().shape
            self.filled[f"{ours}.{name}"] = tensor.reshape(here.shape) if same else tensor

    def drop_rows(self, name: str, ours: str, what: str) -> None:
        """Leaves out the second half of the rows of a weight, if this network has the first alone."""
        tensor, rows = self.take(name), len(self.unet.get_parameter(ours))
        if len(tensor) == 2 * rows:
            self.dropped.append((what, tensor[rows:].numel()))
            tensor = tensor[:rows].clone()
        self.source[name] = tensor

    def drop(self, name: str, what: str) -> None:
        """Leaves out a weight, if the checkpoint has it."""
        if name in self.source:
            self.dropped.append((what, self.take(name).numel()))

    def block(self, block: Block) -> None:
        """A residual block, and the attention behind it."""
        for theirs, ours in self.names.resnet.items():
            target = f"{block.ours}.{ours}"
            if hasattr(self.unet.get_submodule(target), "weight"):  # not of the shortcut that is none
                self.layer(f"{block.theirs}.{theirs}", target)
        if block.attention is not None:
            norm, qkv, proj = (f"{block.attention}.{name}" for name in self.names.attention)
            ours = block.ours.replace("resnets", "attentions")
            self.layer(norm, f"{ours}.norm1")
            self._qkv(qkv, f"{ours}.attn1")
            self.layer(proj, f"{ours}.attn1.to_out.0")

    def _qkv(self, theirs: str, ours: str) -> None:
        """The rows of query, key and value, which stand in one layer, to three layers."""
        head_dim = self.unet.get_parameter(f"{ours}.to_q.bias").numel() // self.unet.get_submodule(ours).heads
        for name in ("weight", "bias"):
            rows = self.take(f"{theirs}.{name}")
            if len(rows) % (3 * head_dim):
                raise ValueError(f"{theirs}.{name} has {len(rows)} rows, which are not of heads of {head_dim}.")
            for target, part in zip("qkv", split_qkv(rows, self.qkv_order, head_dim), strict=True):
                # A copy, so that the memory of the layer is free again.
                self.filled[f"{ours}.to_{target}.{name}"] = (part.flatten(1) if part.ndim > 1 else part).clone()

    def take(self, name: str) -> torch.Tensor:
        """A weight, in single precision.

        Raises:
            ValueError: The checkpoint has none of this name.
        """
        if name not in self.source:
            raise ValueError(f"the checkpoint lacks {name}: it is of another family, or not whole.")
        return self.source.pop(name).float()


def split_qkv(rows: torch.Tensor, order: str, head_dim: int) -> tuple[torch.Tensor, ...]:
    """Rows (3 h d, ...) of one layer -> those of query, key and value, each (h d, ...) head by head."""
    heads = len(rows) // (3 * head_dim)
    sizes = {"h": heads, "three": 3, "d": head_dim}
    names = order.split()
    grid = rows.unflatten(0, tuple(sizes[name] for name in names))
    return tuple(part.flatten(0, 1) for part in grid.unbind(names.index("three")))


def edm_blocks(unet: EDiffIUNet) -> Iterator[Block]:
    """The residual blocks by their names in EDM, where attention has the name of its block."""
    sizes = [unet.config.sample_size // 2**level for level in range(len(unet.down_blocks))]
    where = [f"{size}x{size}" for size in sizes]

    def block(theirs: str, ours: str, level: torch.nn.Module, index: int) -> Block:
        return Block(theirs, theirs if has_attention(level, index) else None, f"{ours}.resnets.{index}")

    for level, down in enumerate(unet.down_blocks):
        for i in range(len(down.resnets)):
            yield block(f"enc.{where[level]}_block{i}", f"down_blocks.{level}", down, i)
        if down.after is not None:
            yield Block(f"enc.{where[level + 1]}_down", None, f"down_blocks.{level}.after")
    for i in range(2):
        yield block(f"dec.{where[-1]}_in{i}", "mid_block", unet.mid_block, i)
    for number, up in enumerate(unet.up_blocks):
        level = len(unet.up_blocks) - 1 - number
        for i in range(len(up.resnets)):
            yield block(f"dec.{where[level]}_block{i}", f"up_blocks.{number}", up, i)
        if up.after is not None:
            yield Block(f"dec.{where[level - 1]}_up", None, f"up_blocks.{number}.after")


def guided_diffusion_blocks(unet: EDiffIUNet) -> Iterator[Block]:
    """The residual blocks by their names in guided-diffusion, which counts them without regard to levels."""
    number = 1
    for level, down in enumerate(unet.down_blocks):
        for i in range(len(down.resnets)):
            attention = f"input_blocks.{number}.1" if has_attention(down, i) else None
            yield Block(f"input_blocks.{number}.0", attention, f"down_blocks.{level}.resnets.{i}")
            number += 1
        if down.after is not None:
            yield Block(f"input_blocks.{number}.0", None, f"down_blocks.{level}.after")
            number += 1
    attention = "middle_block.1" if has_attention(unet.mid_block, 0) else None
    yield Block("middle_block.0", attention, "mid_block.resnets.0")
    yield Block("middle_block.2", None, "mid_block.resnets.1")
    number = 0
    for level, up in enumerate(unet.up_blocks):
        for i in range(len(up.resnets)):
            attention = f"output_blocks.{number}.1" if has_attention(up, i) else None
            yield Block(f"output_blocks.{number}.0", attention, f"up_blocks.{level}.resnets.{i}")
            number += 1
        if up.after is not None:  # in the same block, as its last part
            last = 1 if attention is None else 2
            yield Block(f"output_blocks.{number - 1}.{last}", None, f"up_blocks.{level}.after")


def has_attention(level: torch.nn.Module, index: int) -> bool:
    """Whether self-attention stands behind a residual block of a level."""
    return str(index) in level.attentions and level.attentions[str(index)].attn1 is not None


def transfer_edm(unet: EDiffIUNet, source: Weights) -> Transfer:
    """The weights of EDM's ADM network under the names of `unet`.

    Raises:
        ValueError: The checkpoint lacks some of them.
    """
    transfer = Transfer(unet, source, EDM, "h d three")
    if unet.config.num_class_embeds is None:
        transfer.drop("map_label.weight", "class labels")
    else:  # the last label is "no class", for which EDM adds nothing
        classes = transfer.take("map_label.weight").T
        transfer.filled["class_embedding.weight"] = torch.cat([classes, classes.new_zeros(1, classes.shape[1])])
    size = unet.config.sample_size
    transfer.layer(f"enc.{size}x{size}_conv", "conv_in")
    return _transfer(transfer, edm_blocks(unet))


def transfer_guided_diffusion(unet: EDiffIUNet, source: Weights, qkv_order: str) -> Transfer:
    """The weights of a diffusion model of guided-diffusion under the names of `unet`.

    Raises:
        ValueError: The checkpoint lacks some of them.
    """
    transfer = Transfer(unet, source, GUIDED_DIFFUSION, qkv_order)
    for name in ("weight", "bias"):
        transfer.drop_rows(f"out.2.{name}", f"conv_out.{name}", "learned variance")
    if unet.config.num_class_embeds is not None:
        transfer.filled["class_embedding.weight"] = transfer.take("label_emb.weight")
    return _transfer(transfer, guided_diffusion_blocks(unet))


def _transfer(transfer: Transfer, blocks: Iterable[Block]) -> Transfer:
    for theirs, ours in transfer.names.layers.items():
        transfer.layer(theirs, ours)
    for block in blocks:
        transfer.block(block)
    return transfer

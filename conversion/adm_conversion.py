# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What the converters of networks in ADM's layout share: from a file to an `EDiffIUNet`'s folder, all of it or
nothing."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from adm_layout import Transfer
from networks import check_written
from sources import sha256
from state_dicts import Weights, checkpoint_files
from tables import counted, table
from torch import nn

from diffusers_ediffi import EDiffIUNet
from diffusers_ediffi.cli.scripts import ScriptParser
from diffusers_ediffi.files import write_json, written_whole
from diffusers_ediffi.models.attention import zero
from diffusers_ediffi.models.weight_files import check_finite

# What an `EDiffIUNet` has and no such checkpoint.
NEW = {"fusion": "text and style", "attn2": "cross-attention", "norm2": "cross-attention"}


@dataclass(frozen=True)
class Plan:
    """What a checkpoint becomes.

    Args:
        configuration (`dict`): Of the `EDiffIUNet`.
        transfer: Gives the network, which has no memory yet, the checkpoint's weights.
        record (`dict`): What `conversion.json` says beside the source.
        advice (`str`): Printed below the table.
    """

    configuration: dict[str, Any]
    transfer: Callable[[EDiffIUNet, Weights], Transfer]
    record: dict[str, Any] = field(default_factory=dict)
    advice: str = ""


@dataclass(frozen=True)
class Converter:
    """What a script is about.

    Args:
        script (`str`): Its name.
        license (`str`): That of the checkpoints.
        read: Gives the weights of a file.
        plan: What the weights become, from them and the options.
    """

    script: str
    license: str
    read: Callable[[Path], Weights]
    plan: Callable[[Weights, argparse.Namespace], Plan]

    def convert(self, args: argparse.Namespace) -> str:
        """Writes `args.output`; returns what there is to print, the table of what went where.

        Raises:
            OSError: The checkpoint is missing or damaged, or the output exists.
            ValueError: It is of another family.
        """
        if args.output.exists():
            raise OSError(f"{args.output} exists: give the name of a new folder.")
        weights = self.read(args.checkpoint)
        plan = self.plan(weights, args)
        with torch.device("meta"):
            unet = EDiffIUNet(**plan.configuration)
        transfer = plan.transfer(unet, weights)
        check_nothing_is_left(transfer)
        fresh = fill(unet, transfer)
        check_finite(unet, args.checkpoint)
        hashes = {file.name: sha256(file) for file in checkpoint_files(args.checkpoint)}
        digest = hashes if len(hashes) > 1 else next(iter(hashes.values()))
        source = {"name": args.checkpoint.name, "license": self.license, "sha256": digest}
        record = {"converter": self.script, "checkpoint": source, **plan.record}
        record |= {
            "dropped": sorted({what for what, _ in transfer.dropped}),
            "new": sorted({new_part(name) for name in fresh}),
        }
        with written_whole(args.output) as unfinished:
            unet.save_pretrained(unfinished)
            check_written(unfinished, unet.state_dict())
            write_json(unfinished / "conversion.json", record)
        return "\n".join(filter(None, (described(unet, transfer, fresh), plan.advice)))


def check_nothing_is_left(transfer: Transfer) -> None:
    """Refuses a checkpoint with weights that nothing took."""
    left = sorted(transfer.source)
    if left:
        raise ValueError(f"the checkpoint has {len(left)} weights that no part takes, such as {left[0]}.")


def fill(unet: EDiffIUNet, transfer: Transfer) -> list[str]:
    """Puts the weights, without a copy, into a network without memory; returns the names of those that are new.

    Raises:
        ValueError: One has another shape, or a weight that is neither from the checkpoint nor new is left.
    """
    ours = unet.state_dict()
    for name, tensor in transfer.filled.items():
        if ours[name].shape != tensor.shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)} in the checkpoint, {tuple(ours[name].shape)} here.")
    missing = unet.load_state_dict(transfer.filled, strict=False, assign=True).missing_keys
    unknown = [name for name in missing if new_part(name) is None]
    if unknown:
        raise ValueError(f"{unknown[0]} is in no part that is new, and the checkpoint has nothing for it.")
    begin_new_parts(unet)
    return missing


def begin_new_parts(unet: EDiffIUNet) -> None:
    """Gives what the checkpoint has nothing for its memory and its start, from which it adds nothing yet."""
    for module in unet.modules():
        if any(parameter.is_meta for parameter in module.parameters(recurse=False)):
            module.to_empty(device="cpu", recurse=False)
            if module is not unet.fusion:
                module.reset_parameters()
    nn.init.normal_(unet.fusion.null_token)
    cross_attentions = [module.attn2 for module in unet.modules() if getattr(module, "attn2", None)]
    for layer in (unet.fusion.pooled_text_proj, unet.fusion.pooled_image_proj):
        zero(layer)
    for attention in cross_attentions:
        zero(attention.to_out[0])


def new_part(name: str) -> str | None:
    """What a weight that no such checkpoint has is for."""
    is_attention = "attentions" in name
    parts = name.split(".")
    return next((text for part, text in NEW.items() if part in parts and (part == "fusion" or is_attention)), None)


def described(unet: nn.Module, transfer: Transfer, fresh: list[str]) -> str:
    """The table: how much came from the checkpoint, how much is new, what was dropped."""
    sizes = {name: parameter.numel() for name, parameter in unet.named_parameters()}
    rows = []
    for start in dict.fromkeys(name.split(".")[0] for name in transfer.filled):
        names = [name for name in transfer.filled if name.split(".")[0] == start]
        rows.append((start, len(names), counted(sum(sizes[name] for name in names)), "from the checkpoint"))
    for text in dict.fromkeys(map(new_part, fresh)):
        names = [name for name in fresh if new_part(name) == text]
        rows.append((text, len(names), counted(sum(sizes[name] for name in names)), "new, adds nothing yet"))
    for text in dict.fromkeys(text for text, _ in transfer.dropped):
        numbers = [number for what, number in transfer.dropped if what == text]
        rows.append((text, len(numbers), counted(sum(numbers)), "dropped"))
    return table(("part", "tensors", "parameters", ""), rows)


def add_options(parser: ScriptParser, checkpoint: str) -> None:
    """The options of every such script; `checkpoint` says what it takes."""
    parser.add_argument("--checkpoint", type=Path, required=True, help=checkpoint)
    parser.add_argument("--output", type=Path, required=True, help="the new folder")
    parser.add_argument("--encoder-hid-dim", type=int, default=768, help="width of CLIP's text tokens (768)")
    parser.add_argument("--encoder-hid-dim-2", type=int, default=1024, help="width of T5's text tokens (1024)")
    parser.add_argument("--pooled-projection-dim", type=int, default=768, help="width of CLIP's pooled text (768)")
    parser.add_argument("--image-embed-dim", type=int, default=768, help="width of CLIP's image embedding (768)")


def widths_of_encoders(args: argparse.Namespace) -> dict[str, int]:
    """The entries of the configuration that those options say."""
    names = ("encoder_hid_dim", "encoder_hid_dim_2", "pooled_projection_dim", "image_embed_dim")
    return {name: getattr(args, name) for name in names}

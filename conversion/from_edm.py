# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
r"""EDM's ADM network (edm-imagenet-64x64-cond-adm.pkl of github.com/NVlabs/edm) becomes an EDiffIUNet to start from.

    python conversion/from_edm.py --checkpoint edm-imagenet-64x64-cond-adm.pkl --output adm64
    python examples/demo/train_base.py --preset adm64 --init-from adm64 ...

EDM's network is the F of equation 1: noise levels, preconditioning and weights stay what they are. The cross-attention
and the projections of the text are new and begin with zeros, so that the network draws what EDM's draws without a
class label, until it is trained. The embedding of class labels is dropped. The widths of text and style are those of
the encoders that it is trained with.

Writes OUTPUT, an EDiffIUNet's folder, and in it `conversion.json` with the hash of the checkpoint and its licence
(CC BY-NC-SA 4.0: no commercial use). Nothing is written where anything fails, and no code of the pickle is run.
"""

import argparse
import re
from pathlib import Path

from adm_layout import Transfer, transfer_edm
from edm_checkpoint import Weights, read_weights
from sources import sha256
from tables import counted, table
from torch import nn

from diffusers_ediffi import EDiffIUNet
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.files import write_json, written_whole
from diffusers_ediffi.models.attention import zero

DROPPED = {"map_label.weight": "class labels"}
LICENSE = "cc-by-nc-sa-4.0"
MIN_WIDTH = 128  # EDM has a group for each 4 channels, at most 32
NEW = {"fusion": "text and style", "attn2": "cross-attention", "norm2": "cross-attention"}


def convert(args: argparse.Namespace) -> str:
    """Writes the output; returns the table of what went where.

    Raises:
        OSError: The checkpoint is missing or damaged, or the output exists.
        ValueError: It is not EDM's ADM network.
    """
    if args.output.exists():
        raise OSError(f"{args.output} exists: give the name of a new folder.")
    weights = read_weights(args.checkpoint)
    unet = EDiffIUNet(**configuration(weights, args))
    transfer = transfer_edm(unet, weights)
    check_nothing_is_left(weights, transfer)
    fresh = fill(unet, transfer)
    with written_whole(args.output) as unfinished:
        unet.save_pretrained(unfinished)
        source = {"name": args.checkpoint.name, "license": LICENSE, "sha256": sha256(args.checkpoint)}
        write_json(unfinished / "conversion.json", {"converter": Path(__file__).name, "checkpoint": source})
    return described(unet, transfer, fresh)


def configuration(weights: Weights, args: argparse.Namespace) -> dict[str, object]:
    """The configuration of the network, from the names and shapes of its weights.

    Raises:
        ValueError: They are not those of EDM's ADM network.
    """
    first = next((name for name in weights if re.fullmatch(r"enc\.(\d+)x\1_conv\.weight", name)), None)
    if first is None or "map_layer0.weight" not in weights:
        raise ValueError(
            f"{args.checkpoint} is not EDM's ADM network, whose weights begin with map_layer0 and enc.64x64_conv; it "
            f"has {', '.join(list(weights)[:3])} ..."
        )
    sample_size = int(first.split(".")[1].split("x")[0])
    widths, layers, factors = [], [], []
    for level in range(sample_size.bit_length()):
        size = sample_size >> level
        blocks = [name for name in weights if re.fullmatch(rf"enc\.{size}x{size}_block\d+\.conv0\.bias", name)]
        if not blocks:
            break
        widths.append(len(weights[blocks[0]]))
        layers.append(len(blocks))
        factors += [2**level] if f"enc.{size}x{size}_block0.qkv.weight" in weights else []
    if not widths or min(widths) < MIN_WIDTH:
        raise ValueError(f"levels of {widths} channels: EDM normalises fewer than {MIN_WIDTH} in groups of their own.")
    return {
        "sample_size": sample_size,
        "in_channels": weights[first].shape[1],
        "out_channels": weights["out_conv.weight"].shape[0],
        "block_out_channels": tuple(widths),
        "layers_per_block": tuple(layers),
        "self_attention_factors": tuple(factors),
        "cross_attention_factors": tuple(factors),
        "attention_block": "plain",
        "time_embed_dim": weights["map_layer0.weight"].shape[0],
        "encoder_hid_dim": args.encoder_hid_dim,
        "encoder_hid_dim_2": args.encoder_hid_dim_2,
        "pooled_projection_dim": args.pooled_projection_dim,
        "image_embed_dim": args.image_embed_dim,
    }


def check_nothing_is_left(weights: Weights, transfer: Transfer) -> None:
    """Refuses a checkpoint with weights that nothing takes."""
    left = sorted(set(weights) - transfer.consumed - set(DROPPED))
    if left:
        raise ValueError(f"the checkpoint has {len(left)} weights that no part takes, such as {left[0]}.")


def fill(unet: EDiffIUNet, transfer: Transfer) -> list[str]:
    """Puts the weights into the network; returns the names of those that are new.

    Raises:
        ValueError: One has another shape, or a weight that is neither from the checkpoint nor new is left.
    """
    ours = unet.state_dict()
    for name, tensor in transfer.filled.items():
        if ours[name].shape != tensor.shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)} in the checkpoint, {tuple(ours[name].shape)} here.")
    missing = unet.load_state_dict(transfer.filled, strict=False).missing_keys
    unknown = [name for name in missing if new_part(name) is None]
    if unknown:
        raise ValueError(f"{unknown[0]} is in no part that is new, and the checkpoint has nothing for it.")
    for layer in (unet.fusion.pooled_text_proj, unet.fusion.pooled_image_proj):
        zero(layer)  # cross-attention ends with zeros already
    return missing


def new_part(name: str) -> str | None:
    """What a weight that no checkpoint of EDM has is for."""
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
    for text in dict.fromkeys(NEW.values()):
        names = [name for name in fresh if new_part(name) == text]
        rows.append((text, len(names), counted(sum(sizes[name] for name in names)), "new, adds nothing yet"))
    rows += [
        (text, 1, counted(transfer.source[name].numel()), "dropped")
        for name, text in DROPPED.items()
        if name in transfer.source
    ]
    return table(("part", "tensors", "parameters", ""), rows)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="the .pkl of EDM, or a plain state dict of it")
    parser.add_argument("--output", type=Path, required=True, help="the new folder")
    parser.add_argument("--encoder-hid-dim", type=int, default=768, help="width of CLIP's text tokens (768)")
    parser.add_argument("--encoder-hid-dim-2", type=int, default=1024, help="width of T5's text tokens (1024)")
    parser.add_argument("--pooled-projection-dim", type=int, default=768, help="width of CLIP's pooled text (768)")
    parser.add_argument("--image-embed-dim", type=int, default=768, help="width of CLIP's image embedding (768)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Converts and prints the table."""
    print(convert(parse_arguments(arguments)))


if __name__ == "__main__":
    with errors_in_one_line():
        main()

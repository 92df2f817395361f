# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
r"""EDM's ADM network (edm-imagenet-64x64-cond-adm.pkl of github.com/NVlabs/edm) becomes an EDiffIUNet to start from.

    python conversion/from_edm.py --checkpoint edm-imagenet-64x64-cond-adm.pkl --output adm64
    python examples/demo/train_base.py --preset adm64 --init-from adm64 ...

EDM's network is the F of equation 1: noise levels, preconditioning and weights stay what they are. The cross-attention
and the projections of the text are new and begin with zeros, so that the network draws what EDM's draws without a
class label, until it is trained. The embedding of class labels is dropped, or by --keep-classes kept: then the network
draws of a class (the last label, 1000 for ImageNet, is EDM's "no class") and is not trained here. The widths of text
and style are those of the encoders that it is trained with.

Writes OUTPUT, an EDiffIUNet's folder, and in it `conversion.json` with the hash of the checkpoint and its licence
(CC BY-NC-SA 4.0: no commercial use). Nothing is written where anything fails, and no code of the pickle is run.
"""

import argparse
import re
from pathlib import Path

from adm_conversion import Converter, Plan, add_options, widths_of_encoders
from adm_layout import transfer_edm
from edm_checkpoint import read_weights
from state_dicts import Weights

from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line

LICENSE = "cc-by-nc-sa-4.0"
MIN_WIDTH = 128  # EDM has a group for each 4 channels, at most 32


def plan(weights: Weights, args: argparse.Namespace) -> Plan:
    """What the checkpoint becomes."""
    return Plan(configuration(weights, args), transfer_edm)


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
    if args.keep_classes and "map_label.weight" not in weights:
        raise ValueError(f"{args.checkpoint} has no class labels: leave out --keep-classes.")
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
        "num_class_embeds": weights["map_label.weight"].shape[1] + 1 if args.keep_classes else None,
        **widths_of_encoders(args),
    }


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, "the .pkl of EDM, or a plain state dict of it")
    parser.add_argument("--keep-classes", action="store_true", help="keep the class labels: to draw, not to train")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Converts and prints the table."""
    converter = Converter(Path(__file__).name, LICENSE, read_weights, plan)
    print(converter.convert(parse_arguments(arguments)))


if __name__ == "__main__":
    with errors_in_one_line():
        main()

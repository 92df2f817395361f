# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
r"""OpenAI's ADM (the diffusion models of github.com/openai/guided-diffusion) becomes an EDiffIUNet.

    python conversion/from_guided_diffusion.py --checkpoint 64x64_diffusion.pt --output adm64
    python conversion/from_guided_diffusion.py --checkpoint 64_256_upsampler.pt --output adm256-upsampler

The network goes on predicting noise at discrete timesteps (`preconditioning="epsilon"`) and takes ImageNet's class in
`class_labels`: a number from 0 to 999, as these networks have none for "no class". It draws with a scheduler that has
the betas of its training, which are printed. Its learned variance, the last three of six channels, is dropped, since
schedulers here do not use it; no number of the others is changed.

Which file it is, is seen from the published layout of its weights: that says how the rows of query, key and value are
ordered and how many heads there are, which the weights do not show. For another network of the same code say by
--model as which of the published ones it was trained. Classifiers are no diffusion models, and the 512 pixel model has
a time embedding of another width: neither is taken.

Writes OUTPUT, an EDiffIUNet's folder, and in it `conversion.json` with the hash of the checkpoint and its licence
(MIT; the model card says: for research). Nothing is written where anything fails.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from adm_conversion import Converter, Plan, add_options, widths_of_encoders
from adm_layout import transfer_guided_diffusion
from state_dicts import Weights, read_state_dict

from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line

LICENSE = "mit"
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
LINEAR = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}


@dataclass(frozen=True)
class Published:
    """What the flags in guided-diffusion's README say of a model.

    Args:
        size (`int`): Height and width of its pictures.
        widths (`tuple` of `int`): Channels of each level.
        blocks (`int`): Residual blocks of each level.
        attention (`tuple` of `int`): Downsampling factors with self-attention.
        heads (`dict`): Their number at every width, or the width of each.
        betas (`dict`): Settings of a scheduler.
        qkv_order (`str`): Of the rows of query, key and value; one alone has `--use_new_attention_order`.
        in_channels (`int`): 6 with a low-resolution image.
        has_classes (`bool`): Whether it takes a class.
    """

    size: int
    widths: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    heads: dict[str, int]
    betas: dict[str, Any]
    qkv_order: str = "h three d"
    in_channels: int = 3
    has_classes: bool = True

    @property
    def layout(self) -> tuple[Any, ...]:
        """What the weights show."""
        return self.in_channels, self.widths, self.blocks, self.attention, self.has_classes


OF_64 = {"attention_head_dim": 64}
FOUR = {"num_attention_heads": 4}
_256 = {"size": 256, "widths": (256, 256, 512, 512, 1024, 1024), "blocks": 2, "attention": (8, 16, 32)}
_UPSAMPLER = {"widths": (192, 192, 384, 384, 768, 768), "blocks": 2, "in_channels": 6}
PUBLISHED = {
    "adm64": Published(64, (192, 384, 576, 768), 3, (2, 4, 8), OF_64, COSINE, "three h d"),
    "adm128": Published(128, (256, 256, 512, 768, 1024), 2, (4, 8, 16), FOUR, LINEAR),
    "adm256": Published(**_256, heads=OF_64, betas=LINEAR),
    "adm256-unconditional": Published(**_256, heads=OF_64, betas=LINEAR, has_classes=False),  # LSUN's three as well
    "adm256-upsampler": Published(256, **_UPSAMPLER, attention=(8, 16, 32), heads=FOUR, betas=LINEAR),
    "adm512-upsampler": Published(512, **_UPSAMPLER, attention=(16, 32), heads=OF_64, betas=LINEAR),
}


def plan(weights: Weights, args: argparse.Namespace) -> Plan:
    """What the checkpoint becomes.

    Raises:
        ValueError: It is no diffusion model of guided-diffusion, or none of the published ones and `--model` says not
            as which it is to be read.
    """
    check_family(weights, args.checkpoint)
    name = args.model or published_name(weights, args.checkpoint)
    model = PUBLISHED[name]
    scheduler = {"num_train_timesteps": 1000, "prediction_type": "epsilon", **model.betas}
    conditioning = {"arguments": {"class_labels": "class_labels"} if "label_emb.weight" in weights else {}}
    if model.in_channels == 6:
        conditioning["low_res_filter"] = "bilinear"
    record = {"model": name, "qkv_order": model.qkv_order, "scheduler": scheduler, "conditioning": conditioning}
    settings = ", ".join(f"{key}={value!r}" for key, value in scheduler.items())
    return Plan(
        configuration(weights, model, args),
        partial(transfer_guided_diffusion, qkv_order=model.qkv_order),
        record,
        f"{name} draws with EDMDEISScheduler({settings}).",
    )


def check_family(weights: Weights, checkpoint: Path) -> None:
    """Refuses other networks."""
    needed = ("time_embed.0.weight", "input_blocks.0.0.weight", "output_blocks.0.0.out_layers.3.bias", "out.2.weight")
    lacking = [name for name in needed if name not in weights]
    if lacking:
        raise ValueError(
            f"{checkpoint} is no diffusion model of guided-diffusion, which has {lacking[0]}; it has "
            f"{', '.join(list(weights)[:3])} ..."
        )


def published_name(weights: Weights, checkpoint: Path) -> str:
    """Which of the published models has this layout.

    Raises:
        ValueError: None has.
    """
    found = layout(weights)
    names = [name for name, model in PUBLISHED.items() if model.layout == found]
    if not names:
        in_channels, widths, blocks, attention, has_classes = found
        classes = "with" if has_classes else "without"
        raise ValueError(
            f"{checkpoint} has the layout of no published model: {in_channels} input channels, levels of "
            f"{', '.join(map(str, widths))}, {blocks} blocks, attention at the factors {list(attention)}, {classes} "
            f"classes. Say by --model which of {', '.join(PUBLISHED)} has its heads, size, betas and order of rows."
        )
    return names[0]


def layout(weights: Weights) -> tuple[Any, ...]:
    """Input channels, widths, blocks, factors with attention and whether there are classes, as in `Published`."""
    levels = list(levels_of(weights))
    factors = tuple(2**i for i, (_, _, attention) in enumerate(levels) if attention)
    blocks = {count for _, count, _ in levels}
    widths = tuple(width for width, _, _ in levels)
    in_channels = weights["input_blocks.0.0.weight"].shape[1]
    return in_channels, widths, max(blocks), factors, "label_emb.weight" in weights


def levels_of(weights: Weights) -> Iterator[tuple[int, int, bool]]:
    """Channels, residual blocks on the way down and whether there is attention, of each level from the highest
    resolution: the way up shows where a level ends, by the block that doubles the resolution."""
    levels, count, number = [], 0, 0
    while f"output_blocks.{number}.0.out_layers.3.bias" in weights:
        start = f"output_blocks.{number}"
        count, number = count + 1, number + 1
        attention = f"{start}.1.qkv.weight" in weights
        is_last = f"{start}.{2 if attention else 1}.in_layers.2.weight" in weights
        if is_last or f"output_blocks.{number}.0.out_layers.3.bias" not in weights:
            levels.append((len(weights[f"{start}.0.out_layers.3.bias"]), count - 1, attention))
            count = 0
    return reversed(levels)


def configuration(weights: Weights, model: Published, args: argparse.Namespace) -> dict[str, Any]:
    """The configuration of the network: its layout, and what the weights do not show from the published model."""
    in_channels, widths, blocks, attention, has_classes = layout(weights)
    return {
        "sample_size": model.size,
        "in_channels": in_channels,
        "out_channels": 3,
        "block_out_channels": widths,
        "layers_per_block": blocks,
        "self_attention_factors": attention,
        "cross_attention_factors": (),
        "attention_block": "plain",
        "time_embed_dim": len(weights["time_embed.0.weight"]),
        "preconditioning": "epsilon",
        "num_class_embeds": len(weights["label_emb.weight"]) if has_classes else None,
        **model.heads,
        **widths_of_encoders(args),
    }


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, "the .pt of guided-diffusion, or .safetensors with the same names")
    parser.add_argument("--model", choices=list(PUBLISHED), help="as which model it was trained (seen by its layout)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Converts; prints the table and what the network draws with."""
    converter = Converter(Path(__file__).name, LICENSE, read_state_dict, plan)
    print(converter.convert(parse_arguments(arguments)))


if __name__ == "__main__":
    with errors_in_one_line():
        main()

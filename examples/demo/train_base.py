# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Train the demo's base model, 64 x 64, on rendered scenes.

    python examples/demo/train_base.py --objects noto_objects --encoders runs/encoders --output runs/base \
        --batch-size 64 --learning-rate 5e-4 --mixed-precision bf16 --channels-last --max-minutes-this-run 60

Cut it anywhere and start the same command again: it goes on exactly where it was. `OUTPUT/unet` holds the averaged
weights whenever a run has ended, `OUTPUT/samples` grids of held-out captions, `OUTPUT/log.jsonl` loss and speed.

An expert starts from the weights of its parent and trains on its interval alone (paper, section 4.1):

    python examples/demo/train_base.py ... --output runs/base-9-511 --init-from runs/base --node 9,511
    python examples/demo/train_base.py ... --output runs/base-rest --init-from runs/base --excluding 9,511 3,0
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from diffusers_ediffi.demo import GROUNDS, STYLES, SceneGenerator, load_objects
from diffusers_ediffi.edm import P_MEAN, P_STD
from diffusers_ediffi.experts.noise_interval import NoiseInterval
from diffusers_ediffi.models.unet import PRESETS, EDiffIUNet
from diffusers_ediffi.training import (
    ConditioningEncoder,
    DropoutRates,
    SceneDataset,
    Trainer,
    TrainingSettings,
    check_encoder_folder,
)

GROUND_KINDS = tuple(dict.fromkeys(ground.kind for ground in GROUNDS))


def node(text: str) -> tuple[int, int]:
    """Parses "9,511" as (level, index) of the expert tree."""
    level, _, index = text.partition(",")
    try:
        return int(level), int(index)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected LEVEL,INDEX such as 9,511, got {text!r}") from None


def add_arguments(parser: argparse.ArgumentParser, preset: str | None, **defaults: Any) -> None:
    """The options that training the base and the super-resolution stages share."""
    add_data_arguments(parser, preset)
    add_noise_arguments(parser)
    TrainingSettings.add_arguments(parser, **defaults)


def add_data_arguments(parser: argparse.ArgumentParser, preset: str | None) -> None:
    """The options that say what is trained on which pictures."""
    parser.add_argument("--objects", type=Path, required=True, help="folder with the object images and index.json")
    parser.add_argument("--encoders", type=Path, required=True, help="folder with tokenizer, text_encoder and so on")
    parser.add_argument("--output", type=Path, required=True, help="the run's folder")
    parser.add_argument("--preset", default=preset, choices=sorted(PRESETS), help="the network (default: the demo's)")
    parser.add_argument("--init-from", type=Path, help="start from the weights of this run's folder or unet folder")
    scenes = parser.add_argument_group("scenes")
    chosen = scenes.add_mutually_exclusive_group()
    chosen.add_argument("--phrases", nargs="+", help="only these objects, by their phrase in index.json")
    chosen.add_argument("--num-objects", type=int, help="only the first so many objects of index.json")
    scenes.add_argument("--styles", nargs="+", default=list(STYLES), choices=STYLES, help="only these drawing styles")
    scenes.add_argument(
        "--ground-kinds", nargs="+", default=list(GROUND_KINDS), choices=GROUND_KINDS, help="only these backgrounds"
    )
    scenes.add_argument(
        "--object-weights", type=float, nargs="+", default=[0.5, 0.4, 0.1], help="share of scenes with 1, 2, 3 objects"
    )
    scenes.add_argument("--flat-share", type=float, default=0.5, help="share of scenes in the flat style")
    scenes.add_argument("--num-samples", type=int, default=8, help="held-out scenes in the sample grids")
    parser.add_argument("--drop-clip-text", type=float, default=0.2, help="dropout of the CLIP text embeddings")
    parser.add_argument("--drop-t5", type=float, default=0.25)
    parser.add_argument("--drop-clip-image", type=float, default=0.9)
    parser.add_argument(
        "--drop-pooled-text", type=float, default=0.0, help="of the pooled CLIP text embedding where the tokens stay"
    )
    parser.add_argument(
        "--style-references", type=float, default=0.0, help="share of CLIP images from another scene in the same style"
    )
    parser.add_argument(
        "--painted-share", type=float, default=0.0, help="share of scenes that are painted with words, by their boxes"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the network")


def add_noise_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say which noise levels one run trains on."""
    noise = parser.add_argument_group("noise levels")
    noise.add_argument("--p-mean", type=float, default=P_MEAN, help="ln(sigma) ~ N(p-mean, p-std)")
    noise.add_argument("--p-std", type=float, default=P_STD)
    which = noise.add_mutually_exclusive_group()
    which.add_argument("--node", type=node, metavar="LEVEL,INDEX", help="train this expert of the tree")
    which.add_argument(
        "--excluding", type=node, nargs="+", metavar="LEVEL,INDEX", help="train what these experts leave"
    )
    which.add_argument("--sigma-range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="train on these sigmas")


def noise_interval(args: argparse.Namespace) -> NoiseInterval:
    """The noise levels that the options ask for."""
    if args.node:
        return NoiseInterval.from_node(*args.node, p_mean=args.p_mean, p_std=args.p_std)
    if args.excluding:
        nodes = [NoiseInterval.from_node(*pair, p_mean=args.p_mean, p_std=args.p_std) for pair in args.excluding]
        return NoiseInterval.everything(p_mean=args.p_mean, p_std=args.p_std).minus(*nodes)
    low, high = args.sigma_range or (0.0, float("inf"))
    return NoiseInterval(((low, high),), p_mean=args.p_mean, p_std=args.p_std)


def scene_generators(args: argparse.Namespace) -> tuple[SceneGenerator, SceneGenerator]:
    """The scenes to train on and held-out ones for the sample grids."""
    objects = load_objects(args.objects, args.phrases)
    if args.num_objects is not None:
        if not 0 < args.num_objects <= len(objects):
            raise ValueError(f"--num-objects must be 1 to {len(objects)}, got {args.num_objects}.")
        objects = objects[: args.num_objects]
    options: dict[str, Any] = {
        "styles": args.styles,
        "grounds": [ground for ground in GROUNDS if ground.kind in args.ground_kinds],
        "max_objects": min(len(args.object_weights), len(objects)),
        "object_weights": tuple(args.object_weights),
        "flat_share": args.flat_share,
    }
    train = SceneGenerator(objects, **options, seed=args.seed)
    return train, SceneGenerator(objects, **options, seed=args.seed, split="held_out")


def build_unet(
    args: argparse.Namespace, interval: NoiseInterval, widths: dict[str, int], **changes: Any
) -> EDiffIUNet:
    """The network of the preset, with the widths of the encoders, fresh or with the weights of another run."""
    torch.manual_seed(args.seed)
    unet = EDiffIUNet.from_preset(args.preset, trained_on=interval.to_config(), **widths, **changes)
    if args.init_from:
        folder = args.init_from / "unet" if (args.init_from / "unet").is_dir() else args.init_from
        if not (folder / "config.json").is_file():
            raise OSError(
                f"--init-from {args.init_from} holds no trained network: there is no {folder / 'config.json'}."
            )
        source = EDiffIUNet.from_pretrained(folder).state_dict()
        own = unet.state_dict()
        # Attention, feed-forward layers and the noise level's embedding start as if they were not there.
        added = [name for name in own if name not in source]
        same = all(name in own and own[name].shape == tensor.shape for name, tensor in source.items())
        if not same or not all(".attentions." in name or name.startswith("noise_level_") for name in added):
            raise ValueError(f"--init-from {folder} is another network than {args.preset} with these encoders.")
        unet.load_state_dict({**own, **source})
    return unet


def load_data(args: argparse.Namespace, dataset_options: dict[str, Any]) -> dict[str, Any]:
    """Scenes and encoders, as keyword arguments of `Trainer` and `TreeTrainer`."""
    dropout = DropoutRates(args.drop_clip_text, args.drop_t5, args.drop_clip_image, args.drop_pooled_text)
    check_encoder_folder(args.encoders)
    train_scenes, held_out_scenes = scene_generators(args)
    dataset_options |= {"style_references": args.style_references, "painted_share": args.painted_share}
    dataset = SceneDataset(train_scenes, seed=args.seed, **dataset_options)
    samples = SceneDataset(held_out_scenes, seed=args.seed, **{**dataset_options, "crops_per_scene": 1})
    torch.set_num_threads(args.threads)
    encoder = ConditioningEncoder(args.encoders, "cuda" if torch.cuda.is_available() else "cpu")
    data_settings = {
        **dataset.describe(),
        "phrases": list(train_scenes.phrases),
        "styles": list(args.styles),
        "ground_kinds": args.ground_kinds,
        "object_weights": args.object_weights,
        "flat_share": args.flat_share,
        "encoders": encoder.fingerprint(),
    }
    return {
        "dataset": dataset,
        "encode_batch": encoder,
        "dropout": dropout,
        "data_settings": data_settings,
        "sample_items": [samples[i] for i in range(args.num_samples)],
    }


def run(args: argparse.Namespace, dataset_options: dict[str, Any], **unet_changes: Any) -> None:
    """Checks the arguments, cheapest first, builds everything and trains."""
    settings = TrainingSettings.from_arguments(args)
    if settings.lora_rank and args.init_from is None:
        raise ValueError(f"--lora-rank {settings.lora_rank} trains a difference from a network: add --init-from.")
    interval = noise_interval(args)
    data = load_data(args, dataset_options)
    unet = build_unet(args, interval, data["encode_batch"].widths, **unet_changes)
    node = args.node or (0, 0)
    Trainer(unet, output=args.output, settings=settings, interval=interval, node=node, **data).train()


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, "demo-base", learning_rate=5e-4, ema_decay=0.999)
    parser.add_argument("--size", type=int, default=64, help="height and width of the pictures (default: 64)")
    args = parser.parse_args(arguments)
    try:
        run(args, {"size": args.size}, sample_size=args.size)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

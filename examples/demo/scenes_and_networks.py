# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What the training scripts of the demo share: options, scenes and networks, and the run of a small network.

train_base, train_sr and train_experts train U-Nets with `diffusers_ediffi.training`; train_clip, train_t5 and
train_scorer train small networks on a CPU by `SmallRun`.
"""

import argparse
import inspect
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from diffusers_ediffi.demo import GROUNDS, STYLES, SceneGenerator, SceneObject, load_objects
from diffusers_ediffi.edm import P_MEAN, P_STD
from diffusers_ediffi.experts.noise_interval import NoiseInterval
from diffusers_ediffi.models.presets import PRESETS
from diffusers_ediffi.models.unet import EDiffIUNet
from diffusers_ediffi.training import (
    ConditioningEncoder,
    DropoutRates,
    SceneDataset,
    Trainer,
    TrainingSettings,
    check_encoder_folder,
)
from diffusers_ediffi.training.checkpoint import last_good, load_newest, save_checkpoint, set_aside_after
from diffusers_ediffi.training.launch import launched_device
from diffusers_ediffi.training.plan import network_folder
from diffusers_ediffi.training.run import alone_in
from diffusers_ediffi.training.schedule import outside
from diffusers_ediffi.training.schedule_entries import show_range

GROUND_KINDS = tuple(dict.fromkeys(ground.kind for ground in GROUNDS))
SR_SIZES = {"sr256": 256, "sr1024": 1024}
SR_FACTOR = 4
# What the shapes of weights do not show, and without which they mean something else.
UNSEEN = (
    "preconditioning",
    "sigma_data",
    "sigma_residual",
    "timestep_scale",
    "attention_head_dim",
    "num_attention_heads",
    "norm_num_groups",
)


def check_above_zero(args: argparse.Namespace, *names: str) -> None:
    """Refuses numbers that are not above zero, by the names of their options."""
    for name in names:
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be above 0, got {value}.")


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
    add_scene_arguments(parser)
    add_dropout_arguments(parser)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the network")


def add_scene_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that choose the scenes."""
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


def add_dropout_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say how often the network sees which condition."""
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


def add_noise_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say which noise levels a run trains on."""
    noise = parser.add_argument_group("noise levels")
    noise.add_argument("--p-mean", type=float, default=P_MEAN, help="ln(sigma) ~ N(p-mean, p-std)")
    noise.add_argument("--p-std", type=float, default=P_STD)
    which = noise.add_mutually_exclusive_group()
    which.add_argument("--node", type=node, metavar="LEVEL,INDEX", help="train this expert of the tree")
    which.add_argument(
        "--excluding", type=node, nargs="+", metavar="LEVEL,INDEX", help="train what these experts leave"
    )
    which.add_argument("--sigma-range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="train on these sigmas")


def add_patch_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of super-resolution alone."""
    patches = parser.add_argument_group("patches")
    patches.add_argument("--crop", type=int, help="side of the training patches (default: 256)")
    patches.add_argument("--crops-per-scene", type=int, help="patches of one rendering (default: sr256 1, sr1024 4)")
    patches.add_argument("--degradation", type=float, default=0.3, help="strength of the input's degradation, 0 to 1")
    patches.add_argument(
        "--distortion", type=float, default=0.0, help="how strongly the input has a base model's errors, 0 to 1"
    )
    patches.add_argument(
        "--max-noise-level",
        type=float,
        help="noise conditioning augmentation up to this standard deviation; 0.5 is usual (default: without)",
    )


def patch_options(args: argparse.Namespace) -> dict[str, Any]:
    """What `SceneDataset` must know of a super-resolution stage and its patches."""
    size = SR_SIZES[args.stage]
    crop = args.crop or min(size, 256)
    return {
        "size": size,
        "crop": crop if crop != size else None,
        "crops_per_scene": args.crops_per_scene or (4 if crop < size else 1),
        "low_res_factor": SR_FACTOR,
        "degradation_strength": args.degradation,
        "distortion_strength": args.distortion,
    }


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
    """The scenes to train on, and held-out scenes for the sample grids."""
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
    train.check_combinations()
    return train, sample_scenes(objects, options, args.seed)


def sample_scenes(objects: list[SceneObject], options: dict[str, Any], seed: int) -> SceneGenerator:
    """The scenes of the sample grids: held-out combinations or, where a few objects leave none, other scenes of the
    combinations that are trained on."""
    held_out = SceneGenerator(objects, **options, seed=seed, split="held_out")
    try:
        held_out.check_combinations()
    except ValueError as error:
        print(f"The sample grids show combinations that are trained on: {error}", flush=True)
        return SceneGenerator(objects, **options, seed=seed + 1)
    return held_out


def load_data(args: argparse.Namespace, dataset_options: dict[str, Any]) -> dict[str, Any]:
    """Scenes and encoders, as keyword arguments of `Trainer` and `TreeTrainer`."""
    check_above_zero(args, "threads")
    if args.init_from is not None:
        check_start(args)
    dropout = DropoutRates(args.drop_clip_text, args.drop_t5, args.drop_clip_image, args.drop_pooled_text)
    check_encoder_folder(args.encoders)
    train_scenes, held_out_scenes = scene_generators(args)
    dataset_options |= {"style_references": args.style_references, "painted_share": args.painted_share}
    dataset = SceneDataset(train_scenes, seed=args.seed, **dataset_options)
    samples = SceneDataset(held_out_scenes, seed=args.seed, **{**dataset_options, "crops_per_scene": 1})
    device = launched_device()  # before the threads, which it sets as well
    torch.set_num_threads(args.threads)
    encoder = ConditioningEncoder(args.encoders, device)
    return {
        "dataset": dataset,
        "encode_batch": encoder,
        "dropout": dropout,
        "data_settings": describe_data(args, dataset, train_scenes, encoder),
        "sample_items": [samples[i] for i in range(args.num_samples)],
    }


def describe_data(
    args: argparse.Namespace, dataset: SceneDataset, scenes: SceneGenerator, encoder: ConditioningEncoder
) -> dict[str, Any]:
    """What must stay the same when a run goes on."""
    return {
        **dataset.describe(),
        "phrases": list(scenes.phrases),
        "styles": list(args.styles),
        "ground_kinds": args.ground_kinds,
        "object_weights": args.object_weights,
        "flat_share": args.flat_share,
        "encoders": encoder.fingerprint(),
    }


def build_unet(
    args: argparse.Namespace, interval: NoiseInterval, widths: dict[str, int], **changes: Any
) -> EDiffIUNet:
    """The network of the preset, with the widths of the encoders, fresh or with the weights of another run."""
    torch.manual_seed(args.seed)
    unet = EDiffIUNet.from_preset(args.preset, trained_on=interval.to_config(), **widths, **changes)
    if args.init_from:
        load_weights(unet, args)
    return unet


def check_start(args: argparse.Namespace) -> None:
    """Refuses an `--init-from` whose weights would mean something else in the network of `--preset`.

    Raises:
        ValueError: It is none, or such a network; it names the entry of the configuration.
    """
    folder = network_folder(args.init_from, "--init-from")
    there = json.loads((folder / "config.json").read_text())
    for name in UNSEEN:
        default = inspect.signature(EDiffIUNet).parameters[name].default
        before, now = there.get(name, default), PRESETS[args.preset].get(name, default)
        if before != now:
            raise ValueError(
                f"--init-from {folder} has {name}={before!r}, and {args.preset} {now!r}: the same weights would mean "
                f"something else. Start from a network with {now!r}, or choose another --preset."
            )


def check_levels(args: argparse.Namespace, interval: NoiseInterval) -> None:
    """Refuses to train what `--init-from` holds on noise levels that it was not trained on.

    Raises:
        ValueError: There is no network, or one of other noise levels.
    """
    folder = network_folder(args.init_from, "--init-from")
    left = outside(
        interval, NoiseInterval.from_config(json.loads((folder / "config.json").read_text()).get("trained_on"))
    )
    if left is not None:
        raise ValueError(
            f"--init-from {folder} was not trained on sigma {show_range(*left)}: choose a network that was, or other "
            "noise levels by --node, --excluding or --sigma-range."
        )


def load_weights(unet: EDiffIUNet, args: argparse.Namespace) -> None:
    """Gives the network the weights of `--init-from`, which may have fewer attention layers.

    Raises:
        OSError: The network cannot be read.
        ValueError: There is no network, there are several, or it is another one.
    """
    folder = network_folder(args.init_from, "--init-from")
    source = EDiffIUNet.from_pretrained(folder).state_dict()
    fresh = unet.state_dict()
    for name, tensor in source.items():
        here = tuple(fresh[name].shape) if name in fresh else "not"
        if here != tuple(tensor.shape):
            raise ValueError(
                f"--init-from {folder} is another network than {args.preset} with these encoders: {name} is "
                f"{tuple(tensor.shape)} there and {here} here."
            )
    # Attention, feed-forward layers and the noise level's embedding start as if they were not there.
    added = [name for name in fresh if name not in source]
    lacking = [name for name in added if ".attentions." not in name and not name.startswith("noise_level_")]
    if lacking:
        raise ValueError(f"--init-from {folder} is another network than {args.preset}: it has no {lacking[0]}.")
    unet.load_state_dict({**fresh, **source})


def train_unet(args: argparse.Namespace, dataset_options: dict[str, Any], **unet_changes: Any) -> None:
    """Checks the arguments, cheapest first, builds everything and trains."""
    settings = TrainingSettings.from_arguments(args)
    if settings.lora_rank and args.init_from is None:
        raise ValueError(f"--lora-rank {settings.lora_rank} trains a difference from a network: add --init-from.")
    interval = noise_interval(args)
    if args.init_from is not None:
        check_levels(args, interval)
    data = load_data(args, dataset_options)
    unet = build_unet(args, interval, data["encode_batch"].widths, **unet_changes)
    expert = args.node or (0, 0)
    Trainer(unet, output=args.output, settings=settings, interval=interval, node=expert, **data).train()


def add_run_arguments(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """The options of a `SmallRun` and its scenes; `defaults` are theirs by name."""
    parser.add_argument("--objects", type=Path, required=True, help="folder with the object images and index.json")
    parser.add_argument("--output", type=Path, required=True, help="folder for what is trained")
    parser.add_argument("--minutes", type=float, help="training time of the whole run")
    parser.add_argument("--max-minutes-this-run", type=float, default=math.inf, help="stop earlier")
    parser.add_argument("--steps", type=int, help="length of the whole run in steps, instead of --minutes")
    parser.add_argument("--max-steps-this-run", type=float, default=math.inf, help="stop earlier")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--max-objects", type=int, default=3, help="most objects in one scene")
    parser.add_argument("--checkpoint-every", type=int, metavar="STEPS")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(**defaults)


def scenes_of_run(args: argparse.Namespace, **options: Any) -> tuple[SceneGenerator, SceneGenerator]:
    """Sets threads and seed, makes the output folder, and returns scenes to train on and held-out scenes.

    Raises:
        OSError: There is no folder of objects.
        ValueError: An option makes no sense, or the objects leave no scenes.
    """
    lengths = ("minutes", "steps", "max_minutes_this_run", "max_steps_this_run")
    check_above_zero(args, *lengths, "batch_size", "learning_rate", "checkpoint_every", "threads", "num_held_out")
    options = {"objects": load_objects(args.objects), "max_objects": args.max_objects, "seed": args.seed, **options}
    scenes = SceneGenerator(split="train", **options), SceneGenerator(split="held_out", **options)
    for generator in scenes:
        generator.check_combinations()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    return scenes


def learning_rate(progress: float, peak: float) -> float:
    """Warm-up over the first 3% of the run, then a cosine down to 2% of the peak."""
    return peak * min(1.0, progress / 0.03 + 0.01) * (0.51 + 0.49 * math.cos(math.pi * min(1.0, progress)))


class SmallRun:
    """Trains a small network; cut anywhere, it goes on with the same weights, optimiser state and step.

    Args:
        folder (`Path`): Receives checkpoints and `log.jsonl`.
        model (`torch.nn.Module`): What is trained.
        optimizer (`torch.optim.Optimizer`): Of its parameters.
        settings (`dict`): What must stay the same when a run goes on.
        args (`argparse.Namespace`): The options of `add_run_arguments`.

    Raises:
        ValueError: The folder holds a run with other settings.
    """

    def __init__(
        self,
        folder: Path,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: dict[str, Any],
        args: argparse.Namespace,
    ):
        self.folder = folder
        self.model = model
        self.optimizer = optimizer
        self.settings = settings
        self.args = args
        self.step = 0
        self.checkpoint: Path | None = None  # from which the run goes on
        self.seconds = 0.0
        self.loss = math.nan  # a running mean
        self._resume()

    def _resume(self) -> None:
        found = load_newest(self.folder, self.settings)
        if found:
            self.checkpoint, state = found
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
            self.seconds = state["seconds"]

    def save(self) -> None:
        """Writes a checkpoint and removes its predecessor."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {"step": self.step, "seconds": self.seconds}
        save_checkpoint(self.folder, self.step, state, self.settings, keep_last=1)

    @property
    def progress(self) -> float:
        """The share of the whole run that is done."""
        return self.step / self.args.steps if self.args.steps else self.seconds / (60 * self.args.minutes)

    def train(self, loss_of_step: Callable[[int], Tensor], max_norm: float, name: str) -> None:
        """Trains until the run, or what `--max-...-this-run` leave of it, is over, and saves.

        Args:
            loss_of_step (`Callable`): The loss of a step, by its number.
            max_norm (`float`): Gradients are clipped to this norm.
            name (`str`): For the progress bar.

        Raises:
            OSError: Another process trains in the folder, or it cannot be written.
        """
        with alone_in(self.folder):
            if self.checkpoint:
                set_aside_after(self.checkpoint)
            self._train_steps(loss_of_step, max_norm, name)
            self.save()

    def _train_steps(self, loss_of_step: Callable[[int], Tensor], max_norm: float, name: str) -> None:
        started = time.monotonic()
        first_step = self.step
        seconds_before = self.seconds
        with tqdm(initial=self.step, desc=name, unit="step") as bar:
            while self.progress < 1 and self.step - first_step < self.args.max_steps_this_run:
                if time.monotonic() - started > 60 * self.args.max_minutes_this_run:
                    break
                self._take_step(loss_of_step(self.step), max_norm)
                self.seconds = seconds_before + time.monotonic() - started
                self._report(bar)

    def _take_step(self, loss: Tensor, max_norm: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.progress, self.args.learning_rate)
        self.optimizer.zero_grad()
        if not loss.isfinite():
            raise FloatingPointError(
                f"The loss is not finite at step {self.step + 1}, which was not made. {last_good(self.folder)} Start "
                f"again with a lower --learning-rate than {self.args.learning_rate:g}."
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)
        self.optimizer.step()
        self.step += 1
        self.loss = loss.item() if math.isnan(self.loss) else 0.95 * self.loss + 0.05 * loss.item()

    def _report(self, bar: tqdm) -> None:
        bar.update()
        bar.set_postfix(loss=f"{self.loss:.3f}", done=f"{min(1.0, self.progress):.0%}", refresh=False)
        if self.step % 20 == 0:
            self.log()
        if self.step % self.args.checkpoint_every == 0:
            self.save()

    def log(self, **figures: Any) -> dict[str, Any]:
        """Adds step, seconds, loss and these figures to `log.jsonl`; returns them."""
        entry = {"step": self.step, "seconds": round(self.seconds, 1), "loss": round(self.loss, 4), **figures}
        with open(self.folder / "log.jsonl", "a") as log:
            log.write(json.dumps(entry) + "\n")
        return entry

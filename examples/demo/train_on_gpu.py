# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Train the networks of the demo on one GPU, in minutes: scenes are rendered on all CPU cores into a pool in the GPU's
memory, batches are drawn from what is there, and a step is one CUDA graph.

    python examples/demo/train_on_gpu.py base --objects noto_objects --model runs/demo/pipeline --output runs/gpu \
        --seconds base-high=220 base-middle=190 base-low=55 --workers 9 &
    python examples/demo/train_on_gpu.py sr --objects noto_objects --model runs/demo/pipeline --output runs/gpu \
        --seconds sr256=150 sr256-low=80 sr1024=40 --workers 5 --wait-for runs/gpu/encoders/text_encoder_2 & wait
    python examples/demo/train_demo.py --objects noto_objects --output runs/gpu --stages assemble

The first command trains the base's experts, the T5 encoder together with the first of them: T5 alone can tell which
object is left and which is right, since CLIP reads from left to right, and span corruption taught it little of that.
The second trains super-resolution with that encoder, once it is there. Each network starts from that of `--model`,
where this has one of its shape. The third puts the pipeline together, in `runs/gpu/pipeline`.

`OUTPUT/NETWORK/unet` holds the averaged weights in half precision, written every minute, and `OUTPUT/NETWORK.jsonl`
the losses. Learning rates fall to zero over the given seconds, so that a run that was cut is not resumed: start from
its result as `--model`, or anew. How many steps fit, and with it the result, depends on the machine.
"""

import argparse
import gc
import json
import math
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from packaged_scenes import DRAWN_STYLES, GROUND_KINDS, PHRASES
from scene_pool import BatchPainting, Conditions, Pool, TokenDataset, cropped, paint_matrices

from diffusers_ediffi import EDiffIUNet
from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.demo import GROUNDS, SceneGenerator, load_objects
from diffusers_ediffi.experts.noise_interval import NoiseInterval
from diffusers_ediffi.files import written_whole
from diffusers_ediffi.models.low_res import upsample_low_res
from diffusers_ediffi.paint.processor import painted
from diffusers_ediffi.training import DropoutRates, SceneDataset, check_encoder_folder
from diffusers_ediffi.training.data import image_to_float
from diffusers_ediffi.training.dropout import draw_kept, keep_only
from diffusers_ediffi.training.encode import SUBFOLDERS
from diffusers_ediffi.training.launch import Share
from diffusers_ediffi.training.loss import SigmaBinLog, edm_loss
from diffusers_ediffi.training.noise_augmentation import augment_batch
from diffusers_ediffi.training.optimizer import NOT_HIDDEN

T5_RATE = 5e-4
EMA_DECAY = 0.998
EAGER_STEPS = 5  # before a step is recorded
LOG_SECONDS, SAVE_SECONDS = 5.0, 60.0
READING = DropoutRates(0.2, 0.25, 0.5, 0.7)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Args:
        start: Its folder in the pipeline that training starts from.
        preset, changes: Its shape, where it is not that of the start.
        interval: Lowest and highest sigma; `p_mean` and `p_std` say how ln(sigma) is spread in between.
        crop: Side of the random patches of the pool's pictures, for all of them by default.
    """

    start: str | None
    preset: str
    interval: tuple[float, float]
    p_mean: float
    p_std: float
    batch_size: int
    learning_rate: float
    dropout: DropoutRates = READING
    changes: dict[str, Any] = field(default_factory=dict)
    painted_every: int = 0
    trains_t5: bool = False
    crop: int | None = None


FOUR_LEVELS = {"max_noise_level": 0.5}
RECIPES = {
    "base-high": Recipe(
        "unet/expert.2", "demo-base", (1.898, math.inf), 1.6, 0.95, 512, 1.5e-3, painted_every=5, trains_t5=True
    ),
    "base-middle": Recipe(None, "demo-base-middle", (0.301, 1.898), -0.3, 1.5, 384, 2e-3),
    "base-low": Recipe("unet/expert.0", "demo-base-low", (0.0, 0.301), -1.2, 1.2, 256, 1e-3, DropoutRates()),
    "sr256": Recipe(
        "unet_sr256/expert.1",
        "demo-sr256",
        (0.301, math.inf),
        -0.2,
        1.5,
        64,
        1e-3,
        DropoutRates(),
        {**FOUR_LEVELS, "sample_size": 256},
    ),
    "sr256-low": Recipe(
        "unet_sr256/expert.0",
        "demo-sr256-low",
        (0.0, 0.301),
        -1.2,
        1.2,
        128,
        1e-3,
        DropoutRates(),
        {**FOUR_LEVELS, "sample_size": 128},
        crop=128,
    ),
    "sr1024": Recipe(
        "unet_sr1024", "demo-sr1024", (0.0, math.inf), -1.8, 1.7, 48, 7e-4, DropoutRates(), {"sample_size": 256}
    ),
}


class BatchedMuon:
    """`torch.optim.Muon`, with nothing that a CUDA graph cannot hold, for all weights of one shape together; updates
    are scaled to the size of AdamW's."""

    def __init__(self, weights: list[torch.nn.Parameter], rate: torch.Tensor) -> None:
        self.rate, self.weights = rate, weights
        self.groups: list[tuple[list[torch.nn.Parameter], torch.Tensor]] = []

    def _group(self) -> None:
        shapes: dict[torch.Size, list[torch.nn.Parameter]] = {}
        for weight in self.weights:
            if weight.grad is not None:  # a network without attention does not read its text
                shapes.setdefault(weight.shape, []).append(weight)
        self.groups = [(group, torch.zeros_like(self._stacked(group))) for group in shapes.values()]

    @staticmethod
    def _stacked(weights: list[torch.Tensor]) -> torch.Tensor:
        """(number, out, in * height * width)"""
        return torch.stack([w.permute(0, 2, 3, 1).flatten(1) if w.ndim == 4 else w.flatten(1) for w in weights])

    @torch.no_grad()
    def step(self) -> None:
        if not self.groups:
            self._group()
        for weights, momentum in self.groups:
            gradient = self._stacked([w.grad for w in weights])
            momentum.lerp_(gradient, 0.05)
            update = orthogonal(gradient.lerp(momentum, 0.95))
            update = update.float() * (self.rate * (-0.2 * math.sqrt(max(update.shape[1:]))))
            for weight, change in zip(weights, update, strict=True):
                if weight.ndim == 4:
                    out, channels, height, width = weight.shape
                    change = change.view(out, height, width, channels).permute(0, 3, 1, 2)
                weight.add_(change.view(weight.shape) if weight.ndim != 4 else change)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Newton-Schulz iteration of Muon (Jordan et al. 2024), (number, rows, columns)."""
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * (gram @ gram)) @ x
    return x.mT if tall else x


class Network:
    """A network in training, with its optimiser, its average, and its steps as CUDA graphs.

    Args:
        recipe: How it is trained.
        unet: The network, on its device.
        lock: Held by what else uses the device.
    """

    def __init__(self, recipe: Recipe, unet: EDiffIUNet, lock: Any) -> None:
        self.recipe, self.unet, self.lock = recipe, unet, lock
        self.device = unet.device
        self.parameters = list(unet.parameters())
        self.rate = torch.zeros((), device=self.device)
        hidden = [p for key, p in unet.named_parameters() if p.ndim >= 2 and key.split(".")[0] not in NOT_HIDDEN]
        others = [p for p in self.parameters if not any(p is h for h in hidden)]
        self.optimizers = (BatchedMuon(hidden, self.rate), adamw(others, self.rate))
        self.average = Average(self.parameters)
        self.bins = SigmaBinLog(self.device)
        self.inputs: dict[str, torch.Tensor] = {}
        self.graphs: dict[bool, torch.cuda.CUDAGraph] = {}

    def set_inputs(self, fresh: dict[str, torch.Tensor]) -> None:
        """Copies a batch to where the graphs read it."""
        with torch.no_grad():
            for name, value in fresh.items():
                if name not in self.inputs:
                    self.inputs[name] = value.detach().clone()
                self.inputs[name].copy_(value)
        if self.recipe.trains_t5:
            self.states.requires_grad_(True)
            if self.states.grad is None:
                self.states.grad = torch.zeros_like(self.states)

    @property
    def states(self) -> torch.Tensor:
        """T5's states; after a step with their gradient."""
        return self.inputs["encoder_hidden_states_2"]

    def step(self, number: int, paint: bool, stream: Any) -> None:
        """One step on `inputs`."""
        if stream is None or number < EAGER_STEPS:
            return self._learn(paint)
        if paint not in self.graphs:
            self._record(paint, stream)
        self.graphs[paint].replay()

    def _record(self, paint: bool, stream: Any) -> None:
        with self.lock:  # nothing else may use the device meanwhile
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            shared = next(iter(self.graphs.values())).pool() if self.graphs else None
            with torch.cuda.graph(graph, shared, stream, capture_error_mode="thread_local"):
                self._learn(paint)
            self.graphs[paint] = graph
            torch.cuda.synchronize()

    def _learn(self, paint: bool) -> None:
        """One step of the network on what is in `inputs`; nothing here may wait for the device."""
        inputs, config = self.inputs, self.unet.config
        if self.recipe.trains_t5:
            self.states.grad.zero_()
        pooled = {name: inputs[name] for name in ("text_embeds", "image_embeds")}
        texts = ("encoder_hidden_states", "encoder_hidden_states_2", "encoder_attention_mask_2")
        conditioning: dict[str, Any] = {**{name: inputs[name] for name in texts}, "added_cond_kwargs": pooled}
        images = image_to_float(inputs["image"]).contiguous(memory_format=torch.channels_last)
        low_res = None
        if "low_res" in inputs:
            low_res = upsample_low_res(image_to_float(inputs["low_res"]), (images.shape[-2], images.shape[-1]))
        sigma = self._sigma(len(images))
        low_res, conditioning, residual = augment_batch(
            config, low_res, conditioning, default_random(self.device), Share()
        )
        # Casts that autocast keeps would not be in the graph.
        with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
            with painted(self.unet, BatchPainting(inputs["paint"]) if paint else None):
                noise = torch.randn_like(images)
                losses = edm_loss(self.unet, images, sigma, noise, conditioning, low_res, config.sigma_data, residual)
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.average.update()
        self.bins.add(sigma, losses.detach())
        for parameter in self.parameters:
            parameter.grad = None

    def _sigma(self, count: int) -> torch.Tensor:
        """`NoiseInterval.sample` of one range, on the device alone."""
        mean, std = self.recipe.p_mean, self.recipe.p_std
        low, high = (
            0.5 * (1 + math.erf((math.log(edge) - mean) / std / math.sqrt(2))) if edge else 0.0
            for edge in self.recipe.interval
        )
        share = low + (high - low) * torch.rand(count, device=self.device, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
        return (mean + std * torch.special.ndtri(share)).exp().float()

    def write(self, folder: Path) -> None:
        """Writes the averaged weights in half precision."""
        unet = EDiffIUNet.from_config(self.unet.config)
        with torch.no_grad():
            for parameter, average in zip(unet.parameters(), self.average.values, strict=True):
                parameter.copy_(average.cpu())
        with written_whole(folder) as unfinished:
            unet.half().save_pretrained(unfinished)


class Average:
    """The moving average of parameters."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self.parameters = parameters
        self.values = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self) -> None:
        """After each step."""
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - EMA_DECAY)


class T5Trainer:
    """Trains the T5 encoder together with a network, which gives it the gradient of its states."""

    def __init__(self, conditions: Conditions, device: torch.device) -> None:
        self.encoder = conditions.t5.requires_grad_(True)
        self.parameters = list(self.encoder.parameters())
        self.rate = torch.zeros((), device=device)
        self.optimizer = adamw(self.parameters, self.rate)
        self.average = Average(self.parameters)

    def step(self, states: torch.Tensor, gradient: torch.Tensor) -> None:
        """One step."""
        states.backward(gradient)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update()

    @torch.no_grad()
    def finish(self, model: Path, encoders: Path) -> None:
        """Gives the encoder its averaged weights and writes it, beside the other encoders of the pipeline."""
        for parameter, average in zip(self.parameters, self.average.values, strict=True):
            parameter.copy_(average)
        self.encoder.requires_grad_(False)
        encoders.mkdir(parents=True, exist_ok=True)
        for name in SUBFOLDERS:
            if name != "text_encoder_2":
                shutil.copytree(model / name, encoders / name, dirs_exist_ok=True)
        with written_whole(encoders / "text_encoder_2") as unfinished:
            self.encoder.save_pretrained(unfinished)


def adamw(parameters: list[torch.nn.Parameter], rate: torch.Tensor) -> torch.optim.AdamW:
    """AdamW whose learning rate is a tensor on the device."""
    on_gpu = rate.device.type == "cuda"
    return torch.optim.AdamW(parameters, rate, weight_decay=0.0, fused=on_gpu, capturable=on_gpu)


def default_random(device: torch.device) -> torch.Generator:
    """The device's own generator, which CUDA graphs know."""
    return torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator


class Run:
    """Trains the network `name` for some seconds."""

    def __init__(self, name: str, args: argparse.Namespace, pool: Pool, conditions: Conditions) -> None:
        self.recipe, self.pool, self.conditions = RECIPES[name], pool, conditions
        self.name, self.output, self.device = name, args.output, pool.device
        self.count = max(2, round(self.recipe.batch_size * args.batch_factor))
        unet = build_unet(self.recipe, args).to(self.device, memory_format=torch.channels_last).train()
        self.network = Network(self.recipe, unet, pool.lock)
        self.t5 = T5Trainer(conditions, self.device) if self.recipe.trains_t5 else None

    def train(self, seconds: float) -> None:
        """Trains, logs and writes.

        Raises:
            FloatingPointError: The loss is no longer finite.
        """
        if self.device.type != "cuda":
            return self._train(seconds, None)
        # One stream for all that is done and recorded.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._train(seconds, stream)
        torch.cuda.synchronize()

    def _train(self, seconds: float, stream: Any) -> None:
        began, step, log_at, save_at = time.monotonic(), 0, 0.0, SAVE_SECONDS
        while (elapsed := time.monotonic() - began) < seconds:
            self._set_rates(step, elapsed / seconds)
            self._step(step, stream)
            step += 1
            if stream is not None and step % 5 == 0:
                torch.cuda.synchronize()  # else the clock runs ahead of the device
            if elapsed >= log_at:
                self._log(step, elapsed)
                log_at = elapsed + LOG_SECONDS
            if elapsed >= save_at:
                self.network.write(self.output / self.name / "unet")
                save_at = elapsed + SAVE_SECONDS
        self._log(step, seconds)
        self.network.write(self.output / self.name / "unet")
        print(f"{self.name}: {step} steps, {step * self.count / seconds:.0f} images/s", flush=True)

    def _set_rates(self, step: int, share: float) -> None:
        """Warms up over 200 steps, then falls by a cosine of the time to zero."""
        factor = min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * share))
        self.network.rate.fill_(self.recipe.learning_rate * factor)
        if self.t5:
            self.t5.rate.fill_(T5_RATE * factor)

    def _step(self, step: int, stream: Any) -> None:
        every = self.recipe.painted_every
        paint = bool(every) and step % every == every - 1
        inputs = self._draw(paint)
        self.network.set_inputs(inputs)
        self.network.step(step, paint, stream)
        if self.t5:
            self.t5.step(inputs["encoder_hidden_states_2"], self.network.states.grad)

    def _draw(self, paint: bool) -> dict[str, torch.Tensor]:
        """A batch and its conditions."""
        batch = self.pool.draw(self.count, paint)
        if self.recipe.crop:
            batch = cropped(batch, self.recipe.crop)
        kept = draw_kept(self.count, self.recipe.dropout, default_random(self.device))
        with torch.autocast(self.device.type, torch.bfloat16):
            conditioning = keep_only(self.conditions(batch), kept)
        inputs = {name: value for name, value in conditioning.items() if value is not None}
        inputs |= inputs.pop("added_cond_kwargs")
        inputs |= {name: batch[name] for name in ("image", "low_res") if name in batch}
        if paint:
            inputs["paint"] = paint_matrices(batch, kept, torch.rand(self.count, device=self.device))
        return inputs

    def _log(self, step: int, elapsed: float) -> None:
        loss, bins = self.network.bins.read()
        line = {"step": step, "seconds": round(elapsed, 1), "loss": loss, "bins": bins}
        line |= {"images": step * self.count, "rendered": self.pool.rendered}
        with (self.output / f"{self.name}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss of {self.name} is not finite at step {step}: lower its learning rate")


def build_unet(recipe: Recipe, args: argparse.Namespace) -> EDiffIUNet:
    """The network, with the weights that it starts from."""
    torch.manual_seed(args.seed)
    interval = NoiseInterval((recipe.interval,), p_mean=recipe.p_mean, p_std=recipe.p_std)
    unet = EDiffIUNet.from_preset(recipe.preset, trained_on=interval.to_config(), **recipe.changes)
    if recipe.start is None:
        return unet
    before = EDiffIUNet.from_pretrained(args.model / recipe.start, dtype=torch.float32).state_dict()
    fresh = unet.state_dict()
    for key, tensor in before.items():
        shape = tuple(fresh[key].shape) if key in fresh else "not"
        if shape != tuple(tensor.shape):
            raise ValueError(f"{key} is {tuple(tensor.shape)} in {args.model / recipe.start} and {shape} here")
    unet.load_state_dict({**fresh, **before})
    return unet


def scenes_for(name: str, args: argparse.Namespace) -> SceneDataset:
    """The scenes of a network: pairs above all for the base, all objects for super-resolution."""
    base = name.startswith("base")
    objects = load_objects(args.objects, PHRASES if base else None)
    grounds = [ground for ground in GROUNDS if ground.kind in GROUND_KINDS]
    weights = (0.35, 0.65) if base else (0.5, 0.4, 0.1)
    generator = SceneGenerator(
        objects, DRAWN_STYLES, grounds, len(weights), weights, flat_share=0.3 if base else 0.4, seed=args.seed
    )
    if base:
        return SceneDataset(generator, 64, style_references=0.5, seed=args.seed)
    options: dict[str, Any] = {"low_res_factor": 4, "seed": args.seed}
    if name == "sr1024":
        return SceneDataset(generator, 1024, crop=256, crops_per_scene=8, degradation_strength=0.1, **options)
    return SceneDataset(generator, 256, degradation_strength=0.2, distortion_strength=0.8, **options)


def pool_of(name: str) -> str:
    """Networks that share their scenes share a pool."""
    return name.split("-")[0]


def make_pools(args: argparse.Namespace, device: torch.device) -> dict[str, Pool]:
    """The pools of all networks, with the worker processes shared out: a third to the patches of sr1024."""
    names = {pool_of(name): name for name in reversed(args.seconds)}
    third = max(1, args.workers // 3) if len(names) > 1 else 0
    pools = {}
    for kind, name in names.items():
        workers = third if kind == "sr1024" and third else max(1, args.workers - third)
        dataset = TokenDataset(scenes_for(name, args), args.model, start=1)
        pools[kind] = Pool(dataset, workers, args.pool if kind != "sr1024" else min(args.pool, 8192), device)
    return pools


def network_seconds(text: str) -> tuple[str, float]:
    """Parses "base-high=220"."""
    name, _, seconds = text.partition("=")
    try:
        if name in RECIPES and 0 < float(seconds) < math.inf:
            return name, float(seconds)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected NETWORK=SECONDS with one of {', '.join(RECIPES)}, got {text!r}")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("base", "sr"), help="whose networks are trained")
    parser.add_argument("--objects", type=Path, required=True, help="folder with the object images and index.json")
    parser.add_argument("--model", type=Path, required=True, help="the pipeline's folder to start from")
    parser.add_argument("--output", type=Path, required=True, help="folder for networks and losses")
    parser.add_argument(
        "--seconds", type=network_seconds, nargs="+", required=True, metavar="NETWORK=SECONDS", help="see above"
    )
    parser.add_argument("--workers", type=whole(1), default=8, help="processes that render")
    parser.add_argument("--pool", type=whole(64), default=100_000, help="items in the GPU's memory at most")
    parser.add_argument("--least-items", type=whole(1), default=4000, help="items to begin with")
    parser.add_argument("--batch-factor", type=float, default=1.0, help="factor on the batch sizes")
    parser.add_argument("--wait-for", type=Path, help="a T5 encoder's folder that another run will write")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_device("cuda")
    args = parser.parse_args(arguments)
    args.seconds = dict(args.seconds)
    foreign = [name for name in args.seconds if not name.startswith(args.stage)]
    if foreign:
        parser.error(f"{foreign[0]} is no network of {args.stage}")
    args.least_items = min(args.least_items, args.pool)
    return args


def main(arguments: list[str] | None = None) -> None:
    """Trains the networks one after the other."""
    args = parse_arguments(arguments)
    check_encoder_folder(args.model)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    device = torch.device(args.device)
    pools = make_pools(args, device)
    args.output.mkdir(parents=True, exist_ok=True)
    while args.wait_for is not None and not args.wait_for.exists():
        time.sleep(0.2)
    conditions = Conditions(args.model, args.wait_for or args.model / "text_encoder_2", device)
    for name, seconds in args.seconds.items():
        pool = pools[pool_of(name)]
        pool.wait(args.least_items)
        run = Run(name, args, pool, conditions)
        run.train(seconds)
        if run.t5:
            run.t5.finish(args.model, args.output / "encoders")
        del run
        gc.collect()  # a network's graphs hold much memory
    for pool in pools.values():
        pool.close()


if __name__ == "__main__":
    with errors_in_one_line():
        main()

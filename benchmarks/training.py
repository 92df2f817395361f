# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Training side by side: the trainer, bare loops over networks of equal cost, and what the data cost.

    python benchmarks/training.py --output training.json
    python benchmarks/training.py --preset adm64 --batch-size 32 --device cuda --mixed-precision bf16

Steps: `Trainer.train` on an `EDiffIUNet`; a bare loop over the same network, with the average of the weights that the
trainer keeps and without it; the same loop over a UNet2DConditionModel of diffusers, and over the Unet of
imagen-pytorch where that is installed, each as wide as makes its forward and backward pass cost the same
floating-point operations. The bare loops take their turns between the steps of the trainer, when it asks for its next
batch; a ratio is the median over the turns, each against steps of the bare loop right before and after. On a CPU time
is the processor time of this process. The peak of memory is that of a process that trains this candidate alone, over
what it has before (on a CPU on Linux alone).

Data: JPEGs with a shorter side of 512 pixels as `PictureDataset` reads them, alone with worker processes, and the
share of its time that the trainer waits for them (the network takes patches as much larger as the pictures are, so
that a step costs the same). Rows: how long a folder with so many rows takes to be opened, and what an item costs then.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.training_utils import EMAModel
from PIL import Image
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode

from diffusers_ediffi import EDiffIUNet, NoiseInterval
from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.training import PictureDataset, PictureSettings, Trainer, TrainingSettings, open_pictures
from diffusers_ediffi.training.data import StepBatchSampler, make_loader
from diffusers_ediffi.training.loss import edm_loss

TEXT, T5 = 77, 16  # tokens of CLIP, and of a caption of usual length
SIDE = 512  # of JPEGs
WARM_UP = 2  # steps
BARE, PLAIN, TRAINER, DIFFUSERS, IMAGEN = "bare loop", "without average", "trainer", "UNet2DConditionModel", "imagen"
MEASURED = (TRAINER, BARE, DIFFUSERS, IMAGEN)
Loss = Callable[[Any, dict[str, Any]], torch.Tensor]


# --- networks of equal cost ---


def conditioning(config: Any, number: int, device: str) -> dict[str, Any]:
    """Random embeddings for an `EDiffIUNet`."""
    sizes = [(TEXT, config.encoder_hid_dim), (T5, config.encoder_hid_dim_2)]
    clip, t5 = (torch.randn(number, *size, device=device) for size in sizes)
    pooled = {"text_embeds": config.pooled_projection_dim, "image_embeds": config.image_embed_dim}
    return {
        "encoder_hidden_states": clip,
        "encoder_hidden_states_2": t5,
        "encoder_attention_mask_2": torch.ones(number, T5, dtype=torch.long, device=device),
        "added_cond_kwargs": {k: torch.randn(number, width, device=device) for k, width in pooled.items()},
    }


def ediffi_loss(unet: Any, batch: dict[str, Any]) -> torch.Tensor:
    images = batch["images"]
    sigma = (1.2 * torch.randn(len(images), device=images.device) - 1.2).exp()
    return edm_loss(unet, images, sigma, torch.randn_like(images), batch["conditioning"]).mean()


def diffusers_loss(unet: Any, batch: dict[str, Any]) -> torch.Tensor:
    """As in diffusers' scripts: the noise of a random timestep."""
    images = F.pixel_unshuffle(batch["images"], SIZES_OF["patch"])
    timestep = torch.randint(1000, (len(images),), device=images.device)
    alpha = batch["alphas"][timestep][:, None, None, None]
    noise = torch.randn_like(images)
    noisy = alpha.sqrt() * images + (1 - alpha).sqrt() * noise
    return F.mse_loss(unet(noisy, timestep, batch["conditioning"]["encoder_hidden_states"]).sample.float(), noise)


def imagen_loss(imagen: Any, batch: dict[str, Any]) -> torch.Tensor:
    images = F.pixel_unshuffle(batch["images"], SIZES_OF["patch"])
    return imagen(images / 2 + 0.5, text_embeds=batch["conditioning"]["encoder_hidden_states"], unet_number=1)


SIZES_OF = {"patch": 1}  # of the preset, which the networks of others share


def build_ediffi(preset: str, **changes: Any) -> EDiffIUNet:
    return EDiffIUNet.from_preset(preset, **changes)


def levels(config: Any) -> list[bool]:
    """Of each resolution of a preset, from the finest, whether there is attention."""
    factors = {*config.self_attention_factors, *config.cross_attention_factors}
    patch = config.patch_size or 1
    return [patch * 2**level in factors for level in range(len(config.block_out_channels))]


def build_diffusers(config: Any, width: int) -> UNet2DConditionModel:
    """As many levels and layers as a preset, attention on the same of them, on the same patches."""
    channels = config.in_channels * SIZES_OF["patch"] ** 2
    attention, first = levels(config), config.block_out_channels[0]
    return UNet2DConditionModel(
        sample_size=config.sample_size // SIZES_OF["patch"],
        in_channels=channels,
        out_channels=channels,
        block_out_channels=tuple(8 * round(width * c / first / 8) for c in config.block_out_channels),
        down_block_types=tuple("CrossAttnDownBlock2D" if here else "DownBlock2D" for here in attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if here else "UpBlock2D" for here in attention[::-1]),
        layers_per_block=config.layers_per_block,
        cross_attention_dim=config.encoder_hid_dim,
        attention_head_dim=8,
        norm_num_groups=8,
    )


def build_imagen(config: Any, width: int) -> Any:
    from imagen_pytorch import Imagen, Unet

    attention, first = levels(config), config.block_out_channels[0]
    channels = config.in_channels * SIZES_OF["patch"] ** 2
    unet = Unet(
        dim=width,
        channels=channels,
        text_embed_dim=config.encoder_hid_dim,
        dim_mults=tuple(max(1, round(c / first)) for c in config.block_out_channels),
        num_resnet_blocks=config.layers_per_block,
        layer_attns=tuple(attention),
        layer_cross_attns=tuple(attention),
    )
    size = config.sample_size // SIZES_OF["patch"]
    return Imagen(unet, image_sizes=size, text_embed_dim=config.encoder_hid_dim, channels=channels, cond_drop_prob=0.1)


def operations(network: Any, loss: Loss, batch: dict[str, Any]) -> int:
    """Floating-point operations of a forward and a backward pass."""
    with FlopCounterMode(display=False) as counter:
        loss(network, batch).backward()
    return counter.get_total_flops()


def random_batch(config: Any, number: int, device: str) -> dict[str, Any]:
    size = (number, config.in_channels, config.sample_size, config.sample_size)
    return {
        "images": torch.rand(size, device=device) * 2 - 1,
        "conditioning": conditioning(config, number, device),
        "alphas": (torch.linspace(1, 0, 1001, device=device)[1:] ** 2).clamp(1e-4),
    }


def width_of_equal_cost(build: Callable[[int], Any], loss: Loss, config: Any, aim: int, device: str) -> tuple:
    """The width, in steps of 8, whose cost for one image is nearest to `aim`, and that cost: it grows as the square of
    the width, nearly."""

    def cost(width: int) -> int:
        with torch.device(device):
            return operations(build(width), loss, random_batch(config, 1, device))

    known = {width: cost(width) for width in (32, 64)}
    while True:
        near = min(known, key=lambda width: abs(math.log(known[width] / aim)))
        guess = max(8, 8 * round(near * math.sqrt(aim / known[near]) / 8))
        if guess in known:
            return near, known[near]
        known[guess] = cost(guess)


# --- steps ---


class BareLoop:
    """A training step and nothing else: the loss, its gradients, the optimiser, and if asked for an average."""

    def __init__(self, network: Any, loss: Loss, args: argparse.Namespace, config: Any, average: bool = True) -> None:
        self.network, self.loss = network.to(args.device).train(), loss
        self.parameters = list(self.network.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, 1e-4, weight_decay=0.01, fused=True)
        self.average = EMAModel(self.parameters, foreach=True) if average else None
        self.batch = random_batch(config, args.batch_size, args.device)
        self.precision = torch.autocast(
            torch.device(args.device).type, torch.bfloat16, enabled=args.mixed_precision == "bf16"
        )

    def __call__(self) -> None:
        with self.precision:
            loss = self.loss(self.network, self.batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average:
            self.average.step(self.parameters)


class Turns(Dataset):
    """Items of random pixels with embeddings; between two steps of the trainer, which asks for them one batch after
    the other, the other candidates have their turns.

    Args:
        config (`FrozenDict`): Of the network.
        batch_size (`int`): Items of a step.
        others (`dict`): Steps by their names.
        clock (`Callable`): Returns seconds.
    """

    def __init__(self, config: Any, batch_size: int, others: dict[str, Callable], clock: Callable[[], float]) -> None:
        self.config, self.batch_size, self.others, self.clock = config, batch_size, others, clock
        self.seconds: dict[str, list[float]] = {name: [] for name in (TRAINER, *others)}
        self.since: float | None = None

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index % self.batch_size == 0:
            if self.since is not None:
                self.seconds[TRAINER].append(self.clock() - self.since)
            for name, step in self.others.items():
                start = self.clock()
                step()
                self.seconds[name].append(self.clock() - start)
            self.since = self.clock()
        config = self.config
        rows = {"t5": (T5, config.encoder_hid_dim_2), "clip_text": (TEXT, config.encoder_hid_dim)}
        rows |= {"clip_text_pooled": (config.pooled_projection_dim,), "clip_image": (config.image_embed_dim,)}
        return {
            "image": torch.zeros(config.in_channels, config.sample_size, config.sample_size, dtype=torch.uint8),
            "caption": "a caption",
            "embeddings": {name: torch.zeros(size, dtype=torch.float16) for name, size in rows.items()},
        }


def clock_of(device: str) -> Callable[[], float]:
    def wall() -> float:
        torch.accelerator.synchronize()
        return time.perf_counter()

    return time.process_time if device == "cpu" else wall


def make_trainer(
    unet: EDiffIUNet,
    dataset: Dataset,
    folder: Path,
    args: argparse.Namespace,
    steps: int,
    kind: Any = Trainer,
    **more: Any,
) -> Trainer:
    settings = TrainingSettings(
        total_steps=steps,
        batch_size=args.batch_size,
        mixed_precision=args.mixed_precision,
        sample_every=0,
        **{"num_workers": 0, **more},
    )
    return kind(unet, dataset, None, folder, settings, NoiseInterval.everything())


def candidates(args: argparse.Namespace, found: dict[str, Any], names: tuple[str, ...]) -> dict[str, Callable]:
    """The steps of bare loops by their names."""
    config = build_config(args)
    makers: dict[str, Callable[[], BareLoop]] = {
        BARE: lambda: BareLoop(build_ediffi(args.preset), ediffi_loss, args, config),
        PLAIN: lambda: BareLoop(build_ediffi(args.preset), ediffi_loss, args, config, average=False),
        DIFFUSERS: lambda: BareLoop(build_diffusers(config, found[DIFFUSERS]["width"]), diffusers_loss, args, config),
        IMAGEN: lambda: BareLoop(build_imagen(config, found[IMAGEN]["width"]), imagen_loss, args, config),
    }
    return {name: makers[name]() for name in names}


def build_config(args: argparse.Namespace) -> Any:
    """The configuration of the preset."""
    with torch.device("meta"):
        config = build_ediffi(args.preset).config
    if config.in_channels != 3:
        raise ValueError(f"--preset {args.preset}: {config.in_channels} channels; choose a base, which takes 3.")
    SIZES_OF["patch"] = config.patch_size or 1
    return config


def equal_costs(args: argparse.Namespace) -> dict[str, Any]:
    """Width and operations of each network, by its name."""
    config = build_config(args)
    with torch.device("meta"):
        aim = operations(build_ediffi(args.preset), ediffi_loss, random_batch(config, 1, "meta"))
    found: dict[str, Any] = {name: {"operations": aim} for name in (TRAINER, BARE, PLAIN)}
    others = {DIFFUSERS: (build_diffusers, diffusers_loss, "meta"), IMAGEN: (build_imagen, imagen_loss, args.device)}
    for name, (build, loss, device) in others.items():
        try:
            width, cost = width_of_equal_cost(lambda w, build=build: build(config, w), loss, config, aim, device)
        except (ImportError, OSError) as error:  # imagen-pytorch asks the Hub when it is imported
            print(f"{name} is left out: {str(error).splitlines()[0]}")
            continue
        found[name] = {"width": width, "operations": cost}
    return found


def compare_steps(args: argparse.Namespace, *pictures: Any) -> dict[str, Any]:
    """Seconds, images/s and the ratio to the bare loop of each candidate."""
    found = equal_costs(args)
    config = build_config(args)
    # The bare loop last, so that the trainer's step follows right behind it.
    others = candidates(args, found, tuple(name for name in (PLAIN, DIFFUSERS, IMAGEN, BARE) if name in found))
    turns = Turns(config, args.batch_size, others, clock_of(args.device))
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(build_ediffi(args.preset), turns, Path(folder), args, WARM_UP + args.calls + 2)
        trainer.train()
    bare = turns.seconds[BARE]
    for name, seconds in turns.seconds.items():
        pairs = range(WARM_UP, WARM_UP + args.calls)
        other = 1 if name == TRAINER else -1  # where the bare loop's step on the other side is
        ratios = [2 * seconds[i] / (bare[i] + bare[i + other]) for i in pairs]
        step = statistics.median(seconds[i] for i in pairs)
        ratio = 1.0 if name == BARE else statistics.median(ratios)
        found[name]["ratios"] = ratios
        found[name] |= {"seconds": step, "images_per_second": args.batch_size / step, "ratio": ratio}
    for name in MEASURED:
        if name in found:
            found[name]["peak_bytes"] = peak_in_process(args, found, name)
    return found


# --- memory ---


def peak_in_process(args: argparse.Namespace, found: dict[str, Any], name: str) -> int:
    """The peak of memory of a process that trains one candidate."""
    options = {"--preset": args.preset, "--batch-size": args.batch_size, "--device": args.device}
    options |= {"--mixed-precision": args.mixed_precision, "--threads": args.threads, "--measure": name}
    options |= {"--width": found[name].get("width", 1)}
    command = [sys.executable, __file__, *(str(word) for pair in options.items() for word in pair)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return int(result.stdout.splitlines()[-1])


def memory(line: str) -> int:
    """Of this process, by the name of the line in /proc/self/status."""
    for found in Path("/proc/self/status").read_text().splitlines():
        if found.startswith(f"{line}:"):
            return 1024 * int(found.split()[1])
    raise OSError(f"no {line} in /proc/self/status: memory on a CPU needs Linux.")


def measure_peak(args: argparse.Namespace) -> None:
    """Prints the peak of memory of a few steps of one candidate, in bytes, over what there was before."""
    name, config = args.measure, build_config(args)
    before = memory("VmRSS") if args.device == "cpu" else 0
    if name == TRAINER:
        with tempfile.TemporaryDirectory() as folder:
            turns = Turns(config, args.batch_size, {}, time.process_time)
            make_trainer(build_ediffi(args.preset), turns, Path(folder), args, 3).train()
    else:
        (step,) = candidates(args, {name: {"width": args.width}}, (name,)).values()
        for _ in range(3):
            step()
    print(memory("VmHWM") - before if args.device == "cpu" else torch.accelerator.max_memory_allocated())


# --- data ---


def write_pictures(folder: Path, number: int) -> list[str]:
    """JPEGs of 512 x 640 pixels, of smooth colours with fine grain: about 100 kB each, as photographs have."""
    names = []
    for i in range(number):
        random = np.random.default_rng(i)
        smooth = Image.fromarray(random.integers(0, 256, (10, 8, 3), dtype=np.uint8)).resize((SIDE, 640), 3)
        grain = random.normal(0, 12, (640, SIDE, 1))
        pixels = (np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8)
        names.append(f"{i:06d}.jpg")
        Image.fromarray(pixels).save(folder / names[-1], quality=85)
    return names


def write_rows(folder: Path, names: list[str], rows: int) -> None:
    """metadata.jsonl with so many rows, which name the pictures in turn."""
    with (folder / "metadata.jsonl").open("w") as file:
        for first in range(0, rows, 100_000):
            numbers = range(first, min(first + 100_000, rows))
            file.writelines(
                f'{{"file_name": "{names[i % len(names)]}", "text": "a photograph, number {i}"}}\n' for i in numbers
            )


class WaitingTrainer(Trainer):
    """Notes how long each step waits for its batch, and how long it takes in all."""

    def _next_batch(self, batches: Iterator[dict[str, Any]]) -> Any:
        start = time.perf_counter()
        self.__dict__.setdefault("starts", []).append(start)
        batch = super()._next_batch(batches)
        self.__dict__.setdefault("waits", []).append(time.perf_counter() - start)
        return self.with_embeddings(batch)

    def with_embeddings(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, "embeddings": conditioning(self.unet.config, self.settings.batch_size, "cpu")}


def data_alone(dataset: PictureDataset, args: argparse.Namespace) -> dict[str, float]:
    """What an item costs a processor, and how many a second come out of worker processes."""
    start = time.process_time()
    for index in range(args.items):
        dataset[index]
    each = (time.process_time() - start) / args.items
    batches = max(4 * args.workers * 8, args.items // args.batch_size)  # more than are prepared ahead
    loader = iter(make_loader(dataset, StepBatchSampler(args.batch_size, 0, batches), args.workers))
    next(loader)  # the processes have started
    start = time.perf_counter()
    delivered = sum(1 for _ in loader) * args.batch_size
    return {"ms_per_item": 1e3 * each, "images_per_second": delivered / (time.perf_counter() - start)}


def compare_data(args: argparse.Namespace, folder: Path, names: list[str]) -> dict[str, Any]:
    """The data alone, and the trainer on them."""
    write_rows(folder, names, 100 * len(names))
    dataset = PictureDataset(open_pictures(folder), PictureSettings(SIDE))
    found = data_alone(dataset, args)
    config = build_config(args)
    larger = SIDE // config.sample_size
    patches: dict[str, Any] = {"sample_size": SIDE, "patch_size": SIZES_OF["patch"] * larger}
    for name in ("self_attention_factors", "cross_attention_factors"):
        patches[name] = tuple(larger * factor for factor in config[name])
    with tempfile.TemporaryDirectory() as output:
        unet, steps = build_ediffi(args.preset, **patches), WARM_UP + args.calls + 1
        trainer: Any = make_trainer(unet, dataset, Path(output), args, steps, WaitingTrainer, num_workers=args.workers)
        trainer.train()
    starts, waits = np.array(trainer.starts[WARM_UP:]), np.array(trainer.waits[WARM_UP:])
    steps_alone = np.diff(starts)
    waited = waits[: len(steps_alone)].sum() / steps_alone.sum()
    return found | {
        "step_seconds": float(np.median(steps_alone)),
        "trained_images_per_second": args.batch_size * len(steps_alone) / float(steps_alone.sum()),
        "waiting": float(waited),
    }


def compare_rows(args: argparse.Namespace, folder: Path, names: list[str]) -> list[dict[str, float]]:
    """What opening a folder and finding an item cost, by the number of its rows."""
    found = []
    for rows in args.rows:
        write_rows(folder, names, rows)
        start = time.process_time()
        dataset = PictureDataset(open_pictures(folder), PictureSettings(SIDE))
        opened = time.process_time()
        indexes = [i * rows // args.items for i in range(args.items)]
        for index in indexes:
            dataset.source[dataset.order.row(index)]
        looked_up = time.process_time()
        for index in indexes:
            dataset[index]
        ended = time.process_time()
        costs = {"open_seconds": opened - start, "ms_to_find_row": 1e3 * (looked_up - opened) / args.items}
        found.append({"rows": rows, **costs, "ms_per_item": 1e3 * (ended - looked_up) / args.items})
    return found


# --- output ---


def tell_steps(steps: dict[str, Any], args: argparse.Namespace) -> None:
    print(f"batches of {args.batch_size}, {args.preset}, {args.device}, mixed precision {args.mixed_precision}")
    print(f"{'':22}{'ms a step':>10}{'images/s':>10}{'ratio':>8}{'GFLOP':>8}{'peak MB':>9}")
    for name, row in steps.items():
        peak = f"{row['peak_bytes'] / 1e6:9.0f}" if "peak_bytes" in row else ""
        print(
            f"{name:22}{1e3 * row['seconds']:10.1f}{row['images_per_second']:10.2f}{row['ratio']:8.3f}"
            f"{row['operations'] / 1e9:8.2f}{peak}"
        )


def tell_data(data: dict[str, Any], args: argparse.Namespace) -> None:
    rate = f"{args.workers} workers: {data['images_per_second']:.0f} images/s"
    print(f"{SIDE} px JPEGs: {data['ms_per_item']:.1f} ms an item; {rate}")
    print(
        f"the trainer takes {data['trained_images_per_second']:.2f} images/s, {data['step_seconds']:.2f} s a step, "
        f"and waits {100 * data['waiting']:.2f}% of it for data"
    )


def tell_rows(rows: list[dict[str, float]], args: argparse.Namespace) -> None:
    print(f"{'rows':>12}{'s to open':>11}{'ms to find a row':>18}{'ms an item':>12}")
    for row in rows:
        print(f"{row['rows']:12,}{row['open_seconds']:11.3f}{row['ms_to_find_row']:18.3f}{row['ms_per_item']:12.2f}")


PARTS = {"steps": (compare_steps, tell_steps), "data": (compare_data, tell_data), "rows": (compare_rows, tell_rows)}


def make_parser() -> ScriptParser:
    parser = ScriptParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these (default: all)")
    parser.add_argument("--preset", default="demo-base", help="preset of EDiffIUNet (default: %(default)s)")
    parser.add_argument("--batch-size", type=whole(1), default=4, help="images of a step (default: %(default)s)")
    parser.add_argument("--calls", type=whole(1), default=20, help="steps of each candidate (default: %(default)s)")
    parser.add_argument("--mixed-precision", default="no", choices=("no", "bf16"), help="(default: %(default)s)")
    parser.add_argument("--workers", type=whole(1), default=2, help="processes that read data (default: %(default)s)")
    parser.add_argument("--pictures", type=whole(1), default=64, help="JPEGs that are written (default: %(default)s)")
    parser.add_argument("--items", type=whole(1), default=100, help="items that are read (default: %(default)s)")
    parser.add_argument(
        "--rows", type=whole(1), nargs="+", default=[1000, 100_000, 10_000_000], help="numbers of rows of a folder"
    )
    parser.add_argument(
        "--threads", type=whole(1), default=1, help="threads of PyTorch on a CPU (default: %(default)s)"
    )
    parser.add_device()
    parser.add_argument("--output", type=Path, help="JSON file for all figures")
    parser.add_argument("--measure", choices=MEASURED, help=argparse.SUPPRESS)
    parser.add_argument("--width", type=int, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    args = make_parser().parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.measure:
        measure_peak(args)
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        names = write_pictures(Path(folder), args.pictures)
        for part in args.parts:
            compare, tell = PARTS[part]
            found[part] = compare(args, Path(folder), names)
            tell(found[part], args)
    if args.output:
        settings = {name: value for name, value in vars(args).items() if name not in ("output", "measure", "width")}
        args.output.write_text(json.dumps({"settings": settings, **found}, indent=2) + "\n")


if __name__ == "__main__":
    with errors_in_one_line():
        main()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Put networks side by side in the demo: a single one and ensembles, full and low-rank experts, over guidance scales.

    python examples/evaluate/compare_experts.py --objects noto_objects --output runs/comparison --num-prompts 200 \
        --networks single=runs/single/unet level-2=runs/level-2/unet --guidance-scales 1 2 3 5

Each network takes the place of one stage of the demo model (`--stage`, the base by default), with all else the same:
prompts, noise, scorer. For each `OUTPUT/results.json` receives the loss on held-out scenes at fixed noise levels and,
for each guidance scale, what evaluate_demo.py measures of that stage; OUTPUT/results.png shows both. What the file
already holds is not measured again, so that networks and scales can be added, and a cut run goes on.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from held_out import (
    SR_STAGES,
    evaluate_base,
    evaluate_sr,
    first_scenes,
    make_parser,
    precision,
    prepare,
    render,
    text_conditioning,
)
from shared_measures import load_network, named_network
from torch import Tensor

from diffusers_ediffi import EDiffIPipeline
from diffusers_ediffi.cli.scripts import errors_in_one_line
from diffusers_ediffi.demo import SceneGenerator
from diffusers_ediffi.models.low_res import upsample_low_res
from diffusers_ediffi.training import edm_loss

SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 25.0, 60.0)
# The figures of evaluate_demo.py in the plot.
SHOWN = {"base": ("frechet", "one_object", "two_objects"), "sr256": ("patch_frechet", "psnr")}
SHOWN["sr1024"] = SHOWN["sr256"]


def upsampled_real(pipe: EDiffIPipeline, number: int, images: Tensor) -> Tensor | None:
    """What stage `number` gets of real pictures: made as small as the stage before draws, and enlarged; or nothing."""
    if number == 0:
        return None
    small = pipe.stages[number - 1].size
    return upsample_low_res(F.interpolate(images, size=(small, small), mode="area"), pipe.stages[number].size)


@torch.no_grad()
def held_out_loss(pipe: EDiffIPipeline, number: int, scenes: SceneGenerator, args: argparse.Namespace) -> list[float]:
    """The mean loss of stage `number` on held-out scenes, for each of `SIGMAS`; the same noise for every network."""
    stage = pipe.stages[number]
    config = stage.unet.config
    batch = first_scenes(scenes, args.num_loss_scenes)[0]
    images = render(scenes, batch, stage.size).to(pipe.device)
    low_res = upsampled_real(pipe, number, images)
    conditioning = text_conditioning(pipe, [scene.caption for scene in batch])
    losses = []
    for i, sigma in enumerate(SIGMAS):
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(args.seed + i)).to(images)
        level = torch.full((len(images),), sigma, device=pipe.device)
        per_image = edm_loss(
            stage.unet, images, level, noise, conditioning, low_res, config.sigma_data, config.sigma_residual
        )
        losses.append(per_image.mean().item())
    return losses


def read_results(args: argparse.Namespace) -> dict[str, Any]:
    """What earlier calls measured.

    Raises:
        ValueError: They had other settings.
    """
    path = args.output / "results.json"
    names = ("stage", "steps", "seed", "num_prompts", "num_loss_scenes", "num_sr256", "num_sr1024")
    settings = json.loads(json.dumps({name: getattr(args, name) for name in names}))
    found = json.loads(path.read_text()) if path.exists() else {"settings": settings, "networks": {}}
    if found["settings"] != settings:
        raise ValueError(f"{path} was measured with {found['settings']}; choose another --output.")
    return found


def figures_at(
    scale: float, pipe: EDiffIPipeline, scorer: Any, scenes: SceneGenerator, args: argparse.Namespace
) -> dict[str, Any]:
    """What evaluate_demo.py measures of the stage at this guidance scale."""
    args.guidance_scale = (scale, 1.0, 1.0)
    if args.stage == "base":
        return evaluate_base(pipe, scorer, scenes, args)
    return evaluate_sr(pipe, scorer, scenes, args.stage, args)


def measure(pipe: EDiffIPipeline, scorer: Any, scenes: SceneGenerator, args: argparse.Namespace) -> dict[str, Any]:
    """Measures what the results do not hold yet, writes them after each figure, and returns them."""
    found = read_results(args)
    number = ("base", *SR_STAGES).index(args.stage)
    for name, folder in args.networks:
        network = load_network(folder).to(pipe.device)
        row = found["networks"].setdefault(name, {})
        pipe.register_modules(**{"unet" if number == 0 else f"unet_{args.stage}": network})
        row["parameters"] = sum(parameter.numel() for parameter in network.parameters())
        if "loss" not in row:
            row["loss"] = dict(zip(map(str, SIGMAS), held_out_loss(pipe, number, scenes, args), strict=True))
        for scale in args.scales:
            if str(scale) not in row.setdefault("guidance", {}):
                print(f"{name}, guidance {scale:g}", flush=True)
                figures = figures_at(scale, pipe, scorer, scenes, args)
                row["guidance"][str(scale)] = figures.pop("model")
                figures.pop("prompts", None)
                found.setdefault("beside", figures)
            (args.output / "results.json").write_text(json.dumps(found, indent=2) + "\n")
    return found


def print_table(found: dict[str, Any]) -> None:
    """One line for each network and scale."""
    for name, row in found["networks"].items():
        losses = "  ".join(f"{sigma}: {loss:.4f}" for sigma, loss in row["loss"].items())
        print(f"{name}: {row['parameters'] / 1e6:.2f}M parameters; loss at sigma {losses}")
        for scale, figures in row["guidance"].items():
            print(f"  guidance {scale}: " + "  ".join(f"{key} {value:.4g}" for key, value in figures.items()))


def plot(found: dict[str, Any], path: Path) -> None:
    """Left the loss relative to the first network's, then the figures over guidance."""
    from matplotlib.figure import Figure

    shown = SHOWN[found["settings"]["stage"]]
    figure = Figure(figsize=(4 * (1 + len(shown)), 3.6), layout="constrained")
    left, *others = figure.subplots(1, 1 + len(shown))
    reference = next(iter(found["networks"].values()))["loss"]
    for name, row in found["networks"].items():
        left.plot(SIGMAS, [row["loss"][str(s)] / reference[str(s)] for s in SIGMAS], "o-", ms=3, label=name)
        for axes, key in zip(others, shown, strict=True):
            scales = sorted(row["guidance"], key=float)
            axes.plot([float(s) for s in scales], [row["guidance"][s].get(key, math.nan) for s in scales], "o-", ms=3)
    left.set(xscale="log", xlabel="sigma", ylabel=f"held-out loss / {next(iter(found['networks']))}'s")
    left.legend()
    for axes, key in zip(others, shown, strict=True):
        axes.set(xlabel="guidance scale", title=key.replace("_", " "))
    figure.savefig(path, dpi=110)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options; a network that cannot be loaded shows before hours of sampling."""
    parser = make_parser(__doc__.split("\n")[0])
    parser.add_argument("--stage", choices=("base", *SR_STAGES), default="base", help="the stage that is replaced")
    parser.add_argument("--networks", type=named_network, nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--guidance-scales", dest="scales", type=float, nargs="+", default=[1.0, 2.0, 3.0, 5.0])
    parser.add_argument("--num-loss-scenes", type=int, default=64, help="held-out scenes for the loss")
    parser.add_argument("--noise-level", type=float, help="of super-resolution's input (default: the model's)")
    args = parser.parse_args(arguments)
    for _, folder in args.networks:
        load_network(folder)
    return args


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measures, writes, prints and returns the figures."""
    args = parse_arguments(arguments)
    pipe, scorer, scenes = prepare(args)
    args.output.mkdir(parents=True, exist_ok=True)
    with precision(args):
        found = measure(pipe, scorer, scenes, args)
    print_table(found)
    try:
        plot(found, args.output / "results.png")
    except ImportError:
        print("No plot: it needs matplotlib (pip install matplotlib).")
    return found


if __name__ == "__main__":
    with errors_in_one_line():
        main()

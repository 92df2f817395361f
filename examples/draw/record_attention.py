# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
r"""Look at what the model attends to while it draws: Figure 3, and where in the image each phrase is looked for.

python examples/draw/record_attention.py --output attention \
    --prompt "a rocket above a red apple on a dark blue background" --phrases "rocket" "red apple"

Writes `attention.png`, the share of attention that goes to the words, to each encoder and to the null token against
the noise level, `attention_words.png`, the picture and a heat map of every phrase, and `attention.json`, the figures.
`--model` may be any pipeline of eDiff-I, Stable Diffusion or SDXL. With `--objects` (and a demo model) there are also
the mean shares of `--num-prompts` held-out prompts.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from grids_and_options import make_parser
from PIL import Image
from switched_and_recorded import LABELS, curves

from diffusers_ediffi import AttentionRecorder, EDiffIPipeline, demo_checkpoint, record_attention
from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import errors_in_one_line
from diffusers_ediffi.demo import GROUNDS, SceneGenerator, load_objects

PROMPT = "a rocket above a red apple on a dark blue background"


def draw(pipe: Any, prompts: list[str], seeds: list[int], args: argparse.Namespace, heat_maps: bool = False) -> tuple:
    """The recorder and the pictures of a call; the base stage alone where there are several."""
    size = pipe.stages[0].size if isinstance(pipe, EDiffIPipeline) else args.size
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    with record_attention(pipe, heat_maps=heat_maps) as recorder:
        images = pipe(prompts, height=size, width=size, num_inference_steps=args.steps, generator=generators).images
    return recorder, images


def held_out(args: argparse.Namespace) -> list[str]:
    """Captions of scenes whose combination was never trained on."""
    objects = load_objects(args.objects, args.phrases_of_objects)
    grounds = [ground for ground in GROUNDS if ground.kind in ("plain", "landscape")]
    scenes = SceneGenerator(
        objects, ("flat", "pencil sketch", "water colour"), grounds, 2, (0.4, 0.6), split="held_out"
    )
    return [scenes.scene(index).caption for index in range(args.num_prompts)]


def plot(found: dict[str, list[float]], title: str, path: Path) -> None:
    """Shares against sigma, high noise on the left, as time goes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for name, values in found.items():
        if name != "sigma":
            axes.plot(found["sigma"], values, "o-", ms=3, lw=2.5 if name == "words" else 1.2, label=LABELS[name])
    axes.set(title=title, xscale="log", xlabel="sigma", ylabel="share of cross-attention", ylim=(0, None))
    axes.invert_xaxis()
    figure.legend(loc="outside right upper")
    figure.savefig(path, dpi=110)


def plot_words(recorder: AttentionRecorder, picture: Image.Image, phrases: list[str], path: Path) -> None:
    """The picture, and the heat map of every phrase, each with a colour scale for itself."""
    from matplotlib.figure import Figure

    columns = min(1 + len(phrases), 6)
    rows = -(-(1 + len(phrases)) // columns)
    figure = Figure(figsize=(1.9 * columns, 2.1 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in panels:
        axes.axis("off")
    panels[0].imshow(picture)
    for axes, phrase in zip(panels[1:], phrases, strict=False):
        heat = recorder.heat_map(phrase, size=(picture.height, picture.width))
        axes.imshow(heat.numpy(), cmap="inferno")
        axes.set_title(f"{phrase}\n{heat.min():.3f} to {heat.max():.3f}", fontsize=8)
    figure.savefig(path, dpi=110)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = make_parser(__doc__, output="the path of what is written, without its suffix")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--phrases", nargs="+", help="phrases of the prompt for heat maps (default: its words)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=whole(1), default=25)
    parser.add_argument("--size", type=whole(1), help="height and width for Stable Diffusion (default: the model's)")
    parser.add_argument("--objects", type=Path, help="folder of the demo's objects, for held-out prompts")
    parser.add_argument("--phrases-of-objects", nargs="+", help="which of the objects")
    parser.add_argument("--num-prompts", type=int, default=64, help="held-out prompts")
    parser.add_argument("--batch-size", type=whole(1), default=16)
    parser.add_device("cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(arguments)


def load_pipeline(args: argparse.Namespace) -> Any:
    """The model that the options name."""
    if args.model is None:
        return EDiffIPipeline.from_pretrained(demo_checkpoint(), dtype=torch.float32).to(args.device)
    dtype = torch.float32 if args.device == "cpu" else torch.float16
    return DiffusionPipeline.from_pretrained(args.model, dtype=dtype).to(args.device)


def held_out_curves(pipe: Any, args: argparse.Namespace) -> dict[str, Any]:
    """The shares of held-out prompts, and how many there are."""
    captions = held_out(args)
    recorders = []
    for start in range(0, len(captions), args.batch_size):
        part = captions[start : start + args.batch_size]
        seeds = [args.seed * 1_000_003 + start + i for i in range(len(part))]
        recorders.append(draw(pipe, part, seeds, args)[0])
    return {"prompts": len(captions), "shares": curves(recorders)}


def save_plots(recorder: AttentionRecorder, picture: Image.Image, report: dict, args: argparse.Namespace) -> None:
    """Writes both pictures, where matplotlib is installed."""
    phrases = args.phrases or list(dict.fromkeys(args.prompt.split()))
    title = f"mean over {args.num_prompts} held-out prompts" if args.objects else args.prompt
    try:
        plot(report.get("held_out", report)["shares"], title, args.output.with_suffix(".png"))
        plot_words(recorder, picture, phrases, args.output.with_name(args.output.name + "_words.png"))
    except ImportError:
        print("No plot: it needs matplotlib (pip install matplotlib).")


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Draws, writes and returns the figures."""
    args = parse_arguments(arguments)
    pipe = load_pipeline(args)
    recorder, images = draw(pipe, [args.prompt], [args.seed], args, heat_maps=True)
    words = {f"{token.encoder} {token.column}: {token.text}": token.mass for token in recorder.words()}
    report: dict[str, Any] = {"prompt": args.prompt, "shares": curves([recorder]), "words": words}
    if args.objects:
        report["held_out"] = held_out_curves(pipe, args)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    save_plots(recorder, images[0], report, args)
    found = report.get("held_out", report)["shares"]
    for i in (0, -1):
        print("  ".join(f"{name} {values[i]:.3f}" for name, values in found.items()))
    return report


if __name__ == "__main__":
    with errors_in_one_line():
        main()

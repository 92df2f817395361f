# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`ediffi evaluate`: draws captions with a pipeline, or takes a folder of pictures, and measures what came out.

Started by torchrun or `accelerate launch`, all processes share the work.
"""

import argparse
import contextlib
import datetime
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from diffusers import DiffusionPipeline

from ..demo.checkpoint import demo_checkpoint
from ..evaluation import (
    LAYOUTS,
    METRICS,
    CLIPNetwork,
    CLIPScore,
    Evaluator,
    FeatureNetwork,
    describe_pipeline,
    draw_pictures,
    list_pictures,
    read_captions,
    read_settings,
    save_sweep,
)
from ..evaluation import evaluate as evaluate_folder
from ..evaluation.evaluator import CARD, OF_CLIP
from ..provenance import model_name
from ..training.image_folder import metadata_of
from .device import usable_device
from .messages import one_line, say
from .model import load_pipeline, quiet
from .options import DEMO, is_pipeline

CLIP = "openai/clip-vit-large-patch14-336"  # that of CMMD
FEATURE_NETWORK = "facebook/dinov2-large"  # Stein et al. 2023, arXiv 2306.04675
FOR_DRAWING = ("num_captions", "samples_per_caption", "layout", "size", "steps", "guidance_scale", "dtype")


def evaluate(args: argparse.Namespace) -> None:
    """Draws, where there is a model, measures, and prints the figures."""
    quiet()
    process = PartialState(
        cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or args.device == "cpu", timeout=datetime.timedelta(days=1)
    )
    alone = process.num_processes == 1
    # Of several processes accelerate gives each a device; it numbers CPUs, too.
    device = usable_device(args.device) if alone else "cpu" if process.device.type == "cpu" else str(process.device)
    if is_pipeline(args.source):
        _evaluate_model(args, device, process)
    else:
        _evaluate_pictures(args, device, process)


def _evaluate_pictures(args: argparse.Namespace, device: str, process: PartialState) -> None:
    """Measures a folder of pictures."""
    for name in FOR_DRAWING:
        if getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} is for drawing, and {args.source!r} holds pictures.")
    captions = None if args.captions is None else read_captions(args.captions)
    pictures, named = list_pictures(args.source), metadata_of(Path(args.source)) is not None
    metrics = _metrics(args, captions is not None or named)
    if captions is not None and CLIPScore.name in metrics:
        CLIPScore().check(len(pictures), len(captions))  # before any network is loaded
    card = evaluate_folder(args.source, args.output, _evaluator(args, metrics, device, process), captions)
    _report(card, args.output)


def _evaluate_model(args: argparse.Namespace, device: str, process: PartialState) -> None:
    """Draws captions at each guidance scale and measures the pictures of each."""
    if args.captions is None:
        raise ValueError("there is nothing to draw; give --captions FILE.")
    layout, samples = args.layout or "plain", args.samples_per_caption or 1
    captions = read_captions(args.captions).choose(args.num_captions, args.seed)
    LAYOUTS[layout].check(captions)
    settings = _by_name(args.guidance_scale or [None])
    evaluator = _evaluator(args, _metrics(args, True), device, process)
    evaluator.check(len(captions) * samples, len(captions) * samples)
    dtype = getattr(torch, args.dtype or ("float32" if device == "cpu" else "float16"))
    model = demo_checkpoint() if args.source == DEMO else args.source
    pipe = load_pipeline(model, DiffusionPipeline, dtype).to(device)
    pipe.set_progress_bar_config(disable=True)
    about = describe_pipeline(pipe, model_name(None if args.source == DEMO else model))
    texts = [text for text in captions.texts for _ in range(samples)]
    cards = []
    for name, scale in settings.items():
        folder = args.output / name if len(settings) > 1 else args.output
        with _memory_errors(args):
            pictures = draw_pictures(
                pipe,
                captions,
                folder / "pictures",
                samples_per_caption=samples,
                seed=args.seed,
                batch_size=args.batch_size,
                layout=layout,
                call=_call(args, scale),
                model=about,
                process=process,
            )
        drawn = {"drawn": read_settings(folder / "pictures")}
        cards.append((name, evaluator.measure(pictures, folder, texts, args.output / "reference", drawn)))
        _report(cards[-1][1], folder)
    if len(settings) > 1 and process.is_main_process:
        _report_sweep(args.output, cards)


def _by_name(scales: list[Any]) -> dict[str, Any]:
    """Guidance scales by what their folders are called."""
    named = {f"guidance-{_written(scale)}": scale for scale in scales}
    if len(named) < len(scales):
        raise ValueError("--guidance-scale names a scale twice; give each once.")
    return named


def _written(scale: Any) -> str:
    """A scale as it is typed: 5, 5,1,1 or t5=5,clip_text=3."""
    if isinstance(scale, dict):
        return ",".join(f"{name}={weight:g}" for name, weight in scale.items())
    return ",".join(f"{value:g}" for value in (scale if isinstance(scale, tuple) else (scale or 0,)))


def _call(args: argparse.Namespace, scale: Any) -> dict[str, Any]:
    """The arguments of the pipeline that were given; others are the model's."""
    given = {
        "guidance_scale": scale,
        "num_inference_steps": args.steps,
        "height": args.size,
        "width": args.size,
    }
    return {name: value for name, value in given.items() if value is not None}


@contextlib.contextmanager
def _memory_errors(args: argparse.Namespace) -> Iterator[None]:
    """Turns what PyTorch raises, most often for too little memory, into a `ValueError`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise ValueError(
            f"cannot draw {args.batch_size} pictures at once; a smaller --batch-size, --size or --dtype needs less "
            f"memory: {one_line(error)}"
        ) from error


def _metrics(args: argparse.Namespace, with_captions: bool) -> list[str]:
    """Those that were asked for, by default all for which there is something to compare with."""
    if args.metrics is not None:
        return list(args.metrics)
    return [name for name in METRICS if (with_captions if name == CLIPScore.name else args.reference is not None)]


def _evaluator(args: argparse.Namespace, metrics: list[str], device: str, process: PartialState) -> Evaluator:
    if not metrics and not is_pipeline(args.source):
        raise ValueError("there is nothing to measure; give --reference FOLDER, --captions FILE or both.")
    distances = [name for name in metrics if name != CLIPScore.name]
    if args.reference is None and distances:
        raise ValueError(f"--metrics {distances[0]} compares with real pictures; give --reference FOLDER.")
    if args.reference is not None:
        list_pictures(args.reference)  # before any network is loaded
    demo = args.source == DEMO
    clip = args.clip or (DEMO if demo else CLIP)
    network = args.feature_network or (DEMO if demo else FEATURE_NETWORK)
    compared = set(metrics) - set(OF_CLIP)
    return Evaluator(
        metrics,
        FeatureNetwork.from_pretrained(network, args.resize) if compared else None,
        CLIPNetwork(clip, args.resize) if set(metrics) & set(OF_CLIP) else None,
        args.reference,
        subset_size=args.subset_size,
        neighbors=args.neighbors,
        seed=args.seed,
        device=device,
        process=process,
    )


def _report(card: dict[str, Any] | None, folder: Path) -> None:
    """Prints the figures and where they stand, on the first process."""
    if card is None:
        return
    for name, value in card["metrics"].items():
        say(f"{name:<28}{value:.6g}")
    say(str(folder / CARD))


def _report_sweep(folder: Path, cards: list[tuple[str, Any]]) -> None:
    written = save_sweep(folder, [(name.removeprefix("guidance-"), card) for name, card in cards])
    for path in written:
        say(str(path))
    if len(written) < 2:
        say("No plot: it needs matplotlib (pip install matplotlib).", file=sys.stderr)

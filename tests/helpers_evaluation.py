# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What tests of evaluation share: captions, pictures, tiny feature networks, and work for several processes."""

import json
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from helpers import tiny_pipeline
from PIL import Image
from transformers import Dinov2Config, Dinov2Model, ViTImageProcessorPil

from diffusers_ediffi.evaluation import METRICS, CLIPNetwork, Evaluator, FeatureNetwork, draw_pictures

CAPTIONS = tuple(
    f"a {color} cat {place} a house" for color in ("red", "blue", "green") for place in ("above", "below")
)
SMALL = {"height": 8, "width": 8, "num_inference_steps": 2}


def write_pictures(folder: Path, count: int, seed: int = 0, size: tuple[int, int] = (24, 20)) -> Path:
    """Blots of colour, `00.png` and so on."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        blots = rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)
        Image.fromarray(blots).resize(size, Image.Resampling.BICUBIC).save(folder / f"{number:02d}.png")
    return folder


def dinov2(folder: Path, width: int = 8) -> Path:
    """A tiny DINOv2 with random weights; as on the Hub, its pictures are smaller than its configuration says."""
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=width, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7)
    Dinov2Model(config).save_pretrained(folder)
    squares = {"height": 14, "width": 14}
    processor = ViTImageProcessorPil(size=squares, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4])
    processor.save_pretrained(folder)
    return folder


def draw_tiny(folder: Path, process: PartialState | None = None, **options) -> list[Path]:
    """Twelve pictures by a tiny pipeline, two at once."""
    options = {"samples_per_caption": 2, "batch_size": 2, "seed": 5, "call": SMALL, **options}
    return draw_pictures(tiny_pipeline(), CAPTIONS, folder, process=process, **options)


def draw_and_measure(rank: int, output: Path) -> None:
    """Draws and measures as one of two processes; `reference` and `network` lie beside the output."""
    process = PartialState(cpu=True)
    assert process.num_processes == 2
    pictures = draw_tiny(output / "pictures", process)
    card = measure_tiny(tiny_evaluator(output.parent, process), pictures, output)
    assert (card is None) == (rank == 1)


def tiny_evaluator(beside: Path, process: PartialState | None = None, **options) -> Evaluator:
    """All metrics by a tiny network and the demo's CLIP; `reference` and `network` lie in the folder."""
    network, clip = FeatureNetwork.from_pretrained(beside / "network"), CLIPNetwork("demo")
    return Evaluator(METRICS, network, clip, beside / "reference", batch_size=5, process=process, **options)


def measure_tiny(evaluator: Evaluator, pictures: list[Path], output: Path):
    """The card of what `draw_tiny` drew."""
    return evaluator.measure(pictures, output, [text for text in CAPTIONS for _ in range(2)])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones included, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_geneval(path: Path) -> Path:
    """Two lines as of GenEval's `evaluation_metadata.jsonl`."""
    lines = [
        {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
        {"tag": "counting", "include": [{"class": "cow", "count": 2}], "prompt": "a photo of two cows"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path

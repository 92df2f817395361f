# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What several scripts of this folder measure: of guided pictures, of styles, of layouts, and of other networks."""

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from held_out import generators
from torch import Tensor
from tqdm import tqdm

from diffusers_ediffi import EDiffIPipeline, EDiffIUNet, ExpertRouterUNet
from diffusers_ediffi.demo import Scene
from diffusers_ediffi.demo.scorer import SceneScorer, frechet_distance
from diffusers_ediffi.training.data import scene_regions

CURVES = {"t5": ["t5"], "clip_text": ["clip_text"], "both": ["t5", "clip_text"]}


def load_network(folder: str) -> Any:
    """A network or a router of experts, in float32."""
    config = Path(folder) / "config.json"
    if not config.is_file():
        raise OSError(f"{folder} does not hold a network: there is no {config}.")
    kind = ExpertRouterUNet if "unets" in json.loads(config.read_text()) else EDiffIUNet
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


def named_network(text: str) -> tuple[str, str]:
    """Parses "single=runs/single/unet"."""
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"expected NAME=FOLDER such as single=runs/single/unet, got {text!r}")
    return name, folder


def figures(
    scorer: SceneScorer, images: torch.Tensor, batch: list[Scene], reference: torch.Tensor
) -> dict[str, float]:
    """Shares of pictures that are right, and the distance from real scenes."""
    objects = statistics.fmean(verdict["objects"] for verdict in scorer.judge(images, batch))
    distance = frechet_distance(scorer.features(images), reference)
    return {"objects": objects, **scorer.score(images, batch), "frechet": distance}


def style_rates(scorer: SceneScorer, images: Tensor, batch: list[Scene]) -> dict[str, float]:
    """The shares of pictures that have the style of their scenes, and of those that have their objects and ground."""
    verdicts = scorer.judge(images, batch)
    rates = {"style_from_image": [verdict["style"] for verdict in verdicts]}
    for style in dict.fromkeys(scene.style for scene in batch):
        rates[f"style_from_image: {style}"] = [
            v["style"] for v, scene in zip(verdicts, batch, strict=True) if scene.style == style
        ]
    rates |= {name: [verdict[name] for verdict in verdicts] for name in ("objects", "ground")}
    return {name: sum(values) / len(values) for name, values in rates.items()}


def box_masks(scene: Scene, size: int) -> dict[str, np.ndarray]:
    """The boxes of a scene's objects as masks."""
    return {region.phrase: region.coverage(size, size).numpy() for region in scene_regions(scene)}


def draw_layout(pipe: EDiffIPipeline, batch: list[Scene], strength: float, args: Any) -> torch.Tensor:
    """A base picture (3, size, size) in [-1, 1] for each scene; picture i depends on the seed and i alone."""
    parts = []
    pipe.region_normalizer = args.normalizer
    for start in tqdm(range(0, len(batch), args.batch_size), desc=f"strength {strength:g}"):
        part = batch[start : start + args.batch_size]
        paint = {"regions": [scene_regions(scene) for scene in part], "region_strength": strength} if strength else {}
        images = pipe(
            [scene.caption for scene in part],
            height=pipe.stages[0].size,
            width=pipe.stages[0].size,
            num_inference_steps=args.steps,
            guidance_scale=args.guidance_scale,
            generator=generators(args, start, len(part)),
            output_type="pt",
            **paint,
        ).images
        parts.append(images.float().cpu() * 2 - 1)
    return torch.cat(parts)


def layout_figures(
    scorer: SceneScorer, images: torch.Tensor, batch: list[Scene], reference: torch.Tensor
) -> dict[str, Any]:
    """Layout, agreement with the prompt, and distance from real scenes."""
    size = images.shape[-1]
    found = scorer.layout(images, [box_masks(scene, size) for scene in batch])
    pairs = [pair for of_image in found for pair in of_image.values()]
    shares = [share for _, share in pairs if not math.isnan(share)]
    return {
        "iou": statistics.fmean(iou for iou, _ in pairs),
        "inside": statistics.fmean(shares) if shares else math.nan,
        **scorer.score(images, batch),
        "frechet": frechet_distance(scorer.features(images), reference),
    }

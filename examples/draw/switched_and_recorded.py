# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What Figures 3 and 4 of the paper are made of: shares of attention, and pictures whose prompt was switched."""

import argparse

import torch
from torch import Tensor
from tqdm import tqdm

from diffusers_ediffi import AttentionRecorder, EDiffIPipeline

LABELS = {
    "words": "words (both encoders)",
    "text": "text",
    "clip_text": "CLIP text",
    "t5": "T5",
    "clip_image": "CLIP image",
    "null_token": "null token",
}


def schedule_of(firsts: list[str], seconds: list[str], left: float) -> list[tuple[list[str], float]]:
    """The prompt schedule whose last `left` per cent of the steps follow the second prompts."""
    if left == 100:  # the first prompts begin with share 0, where the second must begin
        return [(seconds, 0.0)]
    return [(firsts, 0.0), (seconds, 1 - left / 100)]


def draw_switched(
    pipe: EDiffIPipeline, args: argparse.Namespace, firsts: list[str], seconds: list[str], left: float
) -> Tensor:
    """Pictures (pairs, 3, size, size) in [0, 1] whose last `left` per cent of the steps follow the second prompts."""
    parts = []
    for start in tqdm(range(0, len(firsts), args.batch_size), desc=f"{left:g}%"):
        rows = slice(start, start + args.batch_size)
        seeds = [args.seed * 1_000_003 + start + i for i in range(len(firsts[rows]))]
        images = pipe(
            prompt_schedule=schedule_of(firsts[rows], seconds[rows], left),
            height=pipe.stages[0].size,
            width=pipe.stages[0].size,
            num_inference_steps=args.steps,
            guidance_scale=args.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="pt",
        ).images
        parts.append(images.float().cpu())
    return torch.cat(parts)


def curves(recorders: list[AttentionRecorder]) -> dict[str, list[float]]:
    """sigma, and for each share its mean over all images."""
    shares = [recorder.shares() for recorder in recorders]
    found = {name: torch.cat([of_call[name] for of_call in shares]).mean(0).tolist() for name in shares[0]}
    return {"sigma": recorders[0].sigmas, **found}

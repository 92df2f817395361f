# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Calls of the pipelines that start from an image, and images for them."""

import numpy as np
import torch
from diffusers import EDMDPMSolverMultistepScheduler, EDMEulerScheduler
from helpers import PROMPT, SIZES, seeded
from PIL import Image

from diffusers_ediffi import EDiffIImg2ImgPipeline, EDMDEISScheduler

BASE = SIZES[0]
STEPS = 5
SCHEDULERS = {
    "deis": EDMDEISScheduler(),
    "rho_rk": EDMDEISScheduler.from_preset("paper_base"),
    "rho_rk, sigma_min": EDMDEISScheduler.from_preset("paper_base", final_sigmas_type="sigma_min"),
    "euler": EDMEulerScheduler(),
    "dpm": EDMDPMSolverMultistepScheduler(),
}


def seeds(count):
    return [seeded(seed) for seed in range(count)]


def picture(size=BASE, seed=0):
    """Smooth, so that it looks alike in every size."""
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)


def pixels(image, size=BASE):
    """What the pipeline should make of an image: (1, 3, size, size) in [-1, 1]."""
    resized = image.resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).movedim(-1, 0)[None] / 255 * 2 - 1


def draw(pipe, prompt=PROMPT, **arguments):
    """The images of a short run of the base, before clamping, always from the same noise."""
    defaults = {"num_inference_steps": STEPS, "generator": seeded(), "output_type": "latent", "height": BASE}
    return pipe(prompt, **{**defaults, **arguments}).images


def img2img(pipe):
    pipe = EDiffIImg2ImgPipeline.from_pipe(pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe

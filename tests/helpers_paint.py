# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A prompt with its regions, and short calls of pipelines that are painted with them."""

import torch
from helpers_diffusers import SIZE

from diffusers_ediffi import PaintRegion, paint_with_words

PROMPT = "a cat and a dog"
LEFT = (0.0, 0.0, 0.5, 1.0)
RIGHT = (0.5, 0.0, 1.0, 1.0)
REGIONS = [PaintRegion("cat", LEFT), PaintRegion("dog", RIGHT)]
SWAPPED = [PaintRegion("cat", RIGHT), PaintRegion("dog", LEFT)]


def seeds(count):
    return [torch.Generator().manual_seed(i) for i in range(count)]


def draw(pipe, prompt=PROMPT, images=1, steps=3, size=(SIZE, SIZE), **arguments):
    """The latents of a guided call, each image from a generator of its own."""
    picture = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(2))
    name = type(pipe).__name__
    prompts = 1 if isinstance(prompt, str) else len(prompt)
    if any(kind in name for kind in ("Img2Img", "Inpaint", "ControlNet")):
        arguments.setdefault("image", picture.expand(prompts, -1, -1, -1))
    if "Inpaint" in name:
        arguments |= {"mask_image": (picture[:, :1] > 0.5).float().expand(prompts, -1, -1, -1)}
    if "Img2Img" in name or "Inpaint" in name:
        arguments.setdefault("strength", 0.8)
    if "Img2Img" not in name:
        arguments |= {"height": size[0], "width": size[1]}
    arguments.setdefault("generator", seeds(images))
    return pipe(prompt, num_inference_steps=steps, output_type="latent", **arguments).images


def paint(pipe, regions=REGIONS, strength=1.0, prompt=PROMPT, normalizer="max", **arguments):
    with paint_with_words(pipe, prompt, regions, strength, normalizer) as same:
        assert same is pipe
        return draw(pipe, prompt, **arguments)

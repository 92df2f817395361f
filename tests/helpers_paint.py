# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What tests of paint share: a prompt with its regions, short calls of pipelines, and a painting for one layer."""

import torch
from helpers_diffusers import SIZE

from diffusers_ediffi import PaintRegion, paint_with_words
from diffusers_ediffi.paint.painting import Painting

PROMPT = "a cat and a dog"
LEFT = (0.0, 0.0, 0.5, 1.0)
RIGHT = (0.5, 0.0, 1.0, 1.0)
REGIONS = [PaintRegion("cat", LEFT), PaintRegion("dog", RIGHT)]
SWAPPED = [PaintRegion("cat", RIGHT), PaintRegion("dog", LEFT)]

# Of the layer that `painting` is for.
HEADS = 2
COLUMNS = 7
SAMPLE = (7, 9)  # of the U-Net; the layer works at half of it, rounded up
GRID = (4, 5)
STRENGTH = 0.7
SIGMA = 3.0


def seeds(count):
    return [torch.Generator().manual_seed(i) for i in range(count)]


def draw(pipe, prompt=PROMPT, images=1, steps=3, size=(SIZE, SIZE), **arguments):
    """The latents of a guided call, each image from its generator."""
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


def painting(normalizer="max", num_columns=COLUMNS, strength=STRENGTH, further_columns=()):
    """Two prompts with two overlapping soft regions each, one token of which is shared."""
    masks = torch.rand(4, *SAMPLE, generator=torch.Generator().manual_seed(1))
    regions = [
        [PaintRegion("a", masks[0], weight=0.8), PaintRegion("b", (0.1, 0.2, 0.7, 1.0))],
        [PaintRegion("c", masks[1]), PaintRegion("d", masks[2], weight=1.7)],
    ]
    columns = [[[1, 2], [2, 4]], [[5], [1, 6]]]
    return Painting(regions, columns, num_columns, strength, normalizer, [columns, *further_columns])


def prepared(paint, images, copies, plain, sigma=SIGMA):
    paint.select(images, copies)
    paint.begin_call(torch.zeros(plain + copies * len(images), 4, *SAMPLE), torch.as_tensor(sigma))
    return paint

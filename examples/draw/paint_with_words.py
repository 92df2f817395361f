# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Draw the same prompt with its objects put left and right and the other way round, at several strengths.

python examples/draw/paint_with_words.py --output painted.png --size 64 --seeds 0 1 2 3

The first row has no paint; below it each strength has a row of its own. The outlines are those of the regions.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from diffusers_ediffi import EDiffIPipeline, PaintRegion, Provenance, demo_checkpoint, save_image
from diffusers_ediffi.provenance import model_name, region_settings

PROMPT = "a red apple next to a rocket on a dark blue background"
PHRASES = ("red apple", "rocket")
COLORS = ("red", "white")
BOXES = ((0.02, 0.2, 0.48, 0.8), (0.52, 0.2, 0.98, 0.8))


def outlined(image: Image.Image, regions: list[PaintRegion]) -> Image.Image:
    """The picture with the outlines of its regions."""
    image = image.copy()
    for region, color in zip(regions, COLORS, strict=True):
        ImageDraw.Draw(image).rectangle([round(edge * (image.width - 1)) for edge in region.mask], outline=color)
    return image


def main(arguments: list[str] | None = None) -> None:
    """Draws and writes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the PNG to write")
    parser.add_argument("--model", help="pipeline folder or Hub id (default: the one in the package)")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--phrases", nargs=2, default=PHRASES, help="two phrases of the prompt")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.0, 0.4, 1.0], help="a row for each")
    parser.add_argument("--size", type=int, help="height and width of a picture (default: the model's largest)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3], help="a column for each, and both ways")
    parser.add_argument("--no-provenance", action="store_true", help="keep out of the file how it was made")
    args = parser.parse_args(arguments)

    pipe = EDiffIPipeline.from_pretrained(args.model or demo_checkpoint())
    size = args.size or pipe.stages[-1].size
    grid = Image.new("RGB", (2 * len(args.seeds) * size, len(args.strengths) * size))
    for row, strength in enumerate(args.strengths):
        for half, boxes in enumerate((BOXES, BOXES[::-1])):
            regions = [PaintRegion(phrase, box) for phrase, box in zip(args.phrases, boxes, strict=True)]
            images = pipe(
                args.prompt,
                height=size,
                width=size,
                num_images_per_prompt=len(args.seeds),
                generator=[torch.Generator().manual_seed(seed) for seed in args.seeds],
                regions=regions,
                region_strength=strength,
            ).images
            for column, image in enumerate(images):
                grid.paste(outlined(image, regions), ((half * len(images) + column) * size, row * size))
    settings = {
        "prompt": args.prompt,
        "seeds": args.seeds,
        "model": model_name(args.model),
        "size": size,
        "regions": region_settings([PaintRegion(*pair) for pair in zip(args.phrases, BOXES, strict=True)]),
        "region_strengths": args.strengths,
    }
    save_image(grid, args.output, None if args.no_provenance else Provenance(settings))
    print(args.output)


if __name__ == "__main__":
    main()

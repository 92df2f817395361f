# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Draw the same prompt with its objects put left and right and the other way round, at several strengths.

python examples/draw/paint_with_words.py --output painted.png --size 64 --seeds 0 1 2 3

Writes OUTPUT, a PNG with a row for each strength; 0, the first, has no paint. The outlines are those of the regions.
"""

import argparse

import torch
from grids_and_options import add_picture_options, make_parser
from PIL import Image, ImageDraw

from diffusers_ediffi import EDiffIPipeline, PaintRegion, Provenance, demo_checkpoint, save_image
from diffusers_ediffi.cli.scripts import errors_in_one_line
from diffusers_ediffi.paint.regions import region_settings
from diffusers_ediffi.provenance import model_name

PROMPT = "a red apple next to a rocket on a dark blue background"
PHRASES = ("red apple", "rocket")
COLORS = ("red", "white")
BOXES = ((0.02, 0.2, 0.48, 0.8), (0.52, 0.2, 0.98, 0.8))


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = make_parser(__doc__)
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--phrases", nargs=2, default=PHRASES, help="two phrases of the prompt")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.0, 0.4, 1.0], help="a row for each")
    add_picture_options(parser, seeds=[0, 1, 2, 3], help_of_seeds="a column for each, and both ways")
    return parser.parse_args(arguments)


def regions_of(phrases: list[str], boxes: tuple[tuple[float, ...], ...]) -> list[PaintRegion]:
    """Each phrase in its box."""
    return [PaintRegion(phrase, box) for phrase, box in zip(phrases, boxes, strict=True)]


def outlined(image: Image.Image, regions: list[PaintRegion]) -> Image.Image:
    """The picture with the outlines of its regions."""
    image = image.copy()
    for region, color in zip(regions, COLORS, strict=True):
        ImageDraw.Draw(image).rectangle([round(edge * (image.width - 1)) for edge in region.mask], outline=color)
    return image


def draw(
    pipe: EDiffIPipeline, regions: list[PaintRegion], strength: float, size: int, args: argparse.Namespace
) -> list[Image.Image]:
    """A picture for each seed, with the outlines of the regions."""
    images = pipe(
        args.prompt,
        height=size,
        width=size,
        num_images_per_prompt=len(args.seeds),
        generator=[torch.Generator().manual_seed(seed) for seed in args.seeds],
        regions=regions,
        region_strength=strength,
    ).images
    return [outlined(image, regions) for image in images]


def main(arguments: list[str] | None = None) -> None:
    """Draws and writes the pictures."""
    args = parse_arguments(arguments)
    pipe = EDiffIPipeline.from_pretrained(args.model or demo_checkpoint())
    size = args.size or pipe.stages[-1].size
    both_ways = [regions_of(args.phrases, boxes) for boxes in (BOXES, BOXES[::-1])]
    grid = Image.new("RGB", (2 * len(args.seeds) * size, len(args.strengths) * size))
    for row, strength in enumerate(args.strengths):
        images = [image for regions in both_ways for image in draw(pipe, regions, strength, size, args)]
        for column, image in enumerate(images):
            grid.paste(image, (column * size, row * size))
    settings = {"prompt": args.prompt, "seeds": args.seeds, "model": model_name(args.model), "size": size}
    settings |= {"regions": region_settings(both_ways[0]), "region_strengths": args.strengths}
    save_image(grid, args.output, None if args.no_provenance else Provenance(settings))
    print(args.output)


if __name__ == "__main__":
    with errors_in_one_line():
        main()

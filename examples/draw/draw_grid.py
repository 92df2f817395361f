# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Draw a grid of prompts, a row for each seed, with the prompts written below: the picture in the README.

python examples/draw/draw_grid.py --output docs/grid.png --size 256 --seeds 0 1

Writes OUTPUT, a PNG.
"""

import argparse
import textwrap

import torch
from grids_and_options import add_picture_options, make_parser
from PIL import Image, ImageDraw, ImageFont

from diffusers_ediffi import EDiffIPipeline, Provenance, demo_checkpoint, save_image
from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import errors_in_one_line
from diffusers_ediffi.provenance import model_name

PROMPTS = (
    "a rocket above a red apple on a dark blue background",
    "a red car on a yellow background",
    "a pencil sketch of a house on a light blue background",
    "a snowman in front of mountains",
    "a night picture of a pumpkin on a beach",
    "a flat illustration of a red mushroom on a green background",
    "a water colour of a globe on a white background",
    "a yellow star left of a red heart on a purple background",
)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = make_parser(__doc__)
    parser.add_argument("--prompts", nargs="+", default=list(PROMPTS))
    parser.add_argument("--columns", type=whole(1), default=4)
    add_picture_options(parser, seeds=[0], help_of_seeds="a row for each")
    return parser.parse_args(arguments)


def caption_strip(prompts: list[str], size: int, height: int = 44) -> Image.Image:
    """The prompts, wrapped, each below its column."""
    strip = Image.new("RGB", (len(prompts) * size, height), "white")
    font = ImageFont.load_default(13)
    for i, prompt in enumerate(prompts):
        text = textwrap.fill(prompt, size // 7)
        ImageDraw.Draw(strip).text((i * size + 6, 6), text, fill="black", font=font)
    return strip


def picture_strip(images: list[Image.Image], columns: int, size: int) -> Image.Image:
    """Pictures side by side, as wide as `columns` of them."""
    strip = Image.new("RGB", (columns * size, size), "white")
    for i, image in enumerate(images):
        strip.paste(image, (i * size, 0))
    return strip


def stacked(strips: list[Image.Image], width: int) -> Image.Image:
    """The strips below each other."""
    grid = Image.new("RGB", (width, sum(strip.height for strip in strips)), "white")
    top = 0
    for strip in strips:
        grid.paste(strip, (0, top))
        top += strip.height
    return grid


def draw(pipe: EDiffIPipeline, size: int, args: argparse.Namespace) -> Image.Image:
    """The grid: for every `--columns` prompts a strip for each seed, and the prompts below."""
    strips = []
    for start in range(0, len(args.prompts), args.columns):
        prompts = args.prompts[start : start + args.columns]
        for seed in args.seeds:
            generators = [torch.Generator().manual_seed(seed) for _ in prompts]
            images = pipe(prompts, height=size, width=size, generator=generators).images
            strips.append(picture_strip(images, args.columns, size))
        strips.append(caption_strip(prompts, size))
    return stacked(strips, args.columns * size)


def main(arguments: list[str] | None = None) -> None:
    """Draws and writes the grid."""
    args = parse_arguments(arguments)
    pipe = EDiffIPipeline.from_pretrained(args.model or demo_checkpoint())
    size = args.size or pipe.stages[-1].size
    grid = draw(pipe, size, args)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    settings = {"prompts": args.prompts, "seeds": args.seeds, "model": model_name(args.model), "size": size}
    save_image(grid, args.output, None if args.no_provenance else Provenance(settings))
    print(args.output)


if __name__ == "__main__":
    with errors_in_one_line():
        main()

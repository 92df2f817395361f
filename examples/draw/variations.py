# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Draw variations of a picture from its CLIP image embedding (Figure 15): without text, with some, with all of it.

python examples/draw/variations.py --output variations.png --size 64 --seeds 0 1 2 3

Writes OUTPUT, a PNG: a row for each text, a column for each seed; the first column is the picture. Without --image the
model draws it from the full text.
"""

import argparse

import torch
from grids_and_options import add_picture_options, draw_grid, make_parser
from PIL import Image

from diffusers_ediffi import EDiffIPipeline, Provenance, demo_checkpoint, save_image
from diffusers_ediffi.cli.scripts import errors_in_one_line
from diffusers_ediffi.images import read_image
from diffusers_ediffi.provenance import model_name

TEXTS = ("a red mushroom", "a pencil sketch of a red mushroom on a green background")
SOURCE_SEED = 100  # of the picture that the model draws; none of the variations has it by default


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = make_parser(__doc__)
    parser.add_argument("--image", metavar="FILE", help="the picture (default: the last text, drawn by the model)")
    parser.add_argument("--texts", nargs="+", default=list(TEXTS), help="of the rows below the first, without text")
    parser.add_argument("--style-scale", type=float, default=1.0, help="factor on the picture's embedding")
    add_picture_options(parser, seeds=[0, 1, 2, 3], help_of_seeds="a column for each")
    return parser.parse_args(arguments)


def read_or_draw(pipe: EDiffIPipeline, size: int, args: argparse.Namespace) -> Image.Image:
    """The picture to vary."""
    if args.image:
        return read_image(args.image)
    generators = [torch.Generator().manual_seed(SOURCE_SEED)]
    return pipe(args.texts[-1:], height=size, width=size, generator=generators).images[0]


def draw(
    pipe: EDiffIPipeline, text: str | None, picture: Image.Image, size: int, args: argparse.Namespace
) -> list[Image.Image]:
    """A variation for each seed."""
    return pipe(
        text,
        style_image=picture,
        style_scale=args.style_scale,
        height=size,
        width=size,
        num_images_per_prompt=len(args.seeds),
        generator=[torch.Generator().manual_seed(seed) for seed in args.seeds],
    ).images


def save(grid: Image.Image, size: int, args: argparse.Namespace) -> None:
    """Writes the grid and how it was made."""
    settings = {
        "prompts": args.texts,
        "seeds": args.seeds,
        "model": model_name(args.model),
        "size": size,
        "style_image": True,
        "style_scale": args.style_scale,
    }
    save_image(grid, args.output, None if args.no_provenance else Provenance(settings))


def main(arguments: list[str] | None = None) -> None:
    """Draws and writes the variations."""
    args = parse_arguments(arguments)
    pipe = EDiffIPipeline.from_pretrained(args.model or demo_checkpoint())
    size = args.size or pipe.stages[-1].size
    picture = read_or_draw(pipe, size, args)
    texts = (None, *args.texts)
    first_column = [picture.resize((size, size)), *[None] * len(args.texts)]
    rows = [[first, *draw(pipe, text, picture, size, args)] for first, text in zip(first_column, texts, strict=True)]
    columns = ["picture", *(f"seed {seed}" for seed in args.seeds)]
    save(draw_grid(rows, ["without text", *args.texts], columns), size, args)
    print(args.output)


if __name__ == "__main__":
    with errors_in_one_line():
        main()

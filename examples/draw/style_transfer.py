# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Draw a prompt without a style reference and with several, at rising style_scale, and with all of them mixed.

python examples/draw/style_transfer.py --output style.png --size 64 --seeds 3 4

Writes OUTPUT, a PNG: a row for each reference and another for their mix; the first column is the reference, a scale of
0 is no style. Without --styles the model draws the references, which show other objects than the prompt names.
"""

import argparse
from typing import Any

import torch
from grids_and_options import add_picture_options, draw_grid, make_parser
from PIL import Image

from diffusers_ediffi import EDiffIPipeline, Provenance, demo_checkpoint, save_image
from diffusers_ediffi.cli.scripts import errors_in_one_line
from diffusers_ediffi.images import read_image
from diffusers_ediffi.provenance import model_name

PROMPT = "a red car on a yellow background"
REFERENCES = (
    "a pencil sketch of a snowman on a green background",
    "a night picture of a red mushroom on a green background",
    "a water colour of a globe on a white background",
)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = make_parser(__doc__)
    parser.add_argument("--prompt", default=PROMPT, help="should say nothing of the style")
    parser.add_argument("--styles", nargs="+", metavar="FILE", help="references (default: drawn by the model)")
    parser.add_argument("--weights", type=float, nargs="+", help="of the references in the mix (default: equal)")
    parser.add_argument("--scales", type=float, nargs="+", default=[0.0, 0.5, 1.0, 1.5])
    add_picture_options(parser, seeds=[3, 4], help_of_seeds="a column for each, and each scale")
    return parser.parse_args(arguments)


def draw_references(pipe: EDiffIPipeline, size: int) -> list[Image.Image]:
    """Pictures in several styles, drawn by the model."""
    generators = [torch.Generator().manual_seed(0) for _ in REFERENCES]
    return pipe(list(REFERENCES), height=size, width=size, generator=generators).images


def draw(pipe: EDiffIPipeline, style: Any, size: int, args: argparse.Namespace) -> list[Image.Image]:
    """The prompt in this style: pictures for each scale, and for each of these the seeds."""
    images = []
    for scale in args.scales:
        images += pipe(
            args.prompt,
            style_image=style,
            style_scale=scale,
            height=size,
            width=size,
            num_images_per_prompt=len(args.seeds),
            generator=[torch.Generator().manual_seed(seed) for seed in args.seeds],
        ).images
    return images


def save(grid: Image.Image, size: int, args: argparse.Namespace) -> None:
    """Writes the grid and how it was made."""
    settings = {
        "prompt": args.prompt,
        "seeds": args.seeds,
        "model": model_name(args.model),
        "size": size,
        "style_image": True,
        "style_scales": args.scales,
    }
    save_image(grid, args.output, None if args.no_provenance else Provenance(settings))


def main(arguments: list[str] | None = None) -> None:
    """Draws and writes the pictures."""
    args = parse_arguments(arguments)
    pipe = EDiffIPipeline.from_pretrained(args.model or demo_checkpoint())
    size = args.size or pipe.stages[-1].size
    names = args.styles or REFERENCES
    references = args.styles or draw_references(pipe, size)
    styles = [pipe.encode_style(reference) for reference in references]
    styles.append(pipe.encode_style(references, args.weights))
    pictures = [read_image(reference) if args.styles else reference for reference in references]
    shown = [picture.resize((size, size)) for picture in pictures]
    rows = [[image, *draw(pipe, style, size, args)] for image, style in zip([*shown, None], styles, strict=True)]
    row_labels = [f"{name} -> {args.prompt}" for name in (*names, "all of them")]
    columns = ["reference", *(f"scale {scale:g}, seed {seed}" for scale in args.scales for seed in args.seeds)]
    save(draw_grid(rows, row_labels, columns), size, args)
    print(args.output)


if __name__ == "__main__":
    with errors_in_one_line():
        main()

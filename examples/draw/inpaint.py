# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Repaint a part of a picture.

python examples/draw/inpaint.py --output inpainted.png --size 64

Writes OUTPUT, a PNG: on the left the picture with the outline of what is repainted, then a picture for each seed.
Without --image the model draws it first, of --source-prompt. The part is a box, or what --mask shows white.
"""

import argparse
from typing import Any

import torch
from grids_and_options import add_picture_options, draw_grid, make_parser
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from diffusers_ediffi import EDiffIInpaintPipeline, EDiffIPipeline, Provenance, demo_checkpoint, save_image
from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import errors_in_one_line
from diffusers_ediffi.images import read_image
from diffusers_ediffi.provenance import COMPOSITE_WITH_TRAINED_ALGORITHMIC_MEDIA as EDITED
from diffusers_ediffi.provenance import model_name


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = make_parser(__doc__)
    parser.add_argument("--image", help="a file or address (default: the model draws it)")
    parser.add_argument("--source-prompt", default="a red apple next to a cat on a dark blue background")
    parser.add_argument("--source-seed", type=int, default=0, help="of the picture that the model draws first")
    parser.add_argument("--prompt", default="a red apple next to a rocket on a dark blue background")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--mask", help="a file or address, white where to repaint")
    part.add_argument("--box", type=float, nargs=4, default=(0.5, 0.1, 0.98, 0.9), help="left, top, right, bottom")
    parser.add_argument("--strength", type=float, default=1.0, help="less follows what the picture shows there")
    parser.add_argument("--steps", type=whole(1), help="of every stage (default: the model's)")
    add_picture_options(parser, seeds=[0, 1, 2, 3, 4], help_of_seeds="a picture for each")
    return parser.parse_args(arguments)


def box_mask(box: tuple[float, ...], size: tuple[int, int]) -> Image.Image:
    """A mask that is white in a box of left, top, right, bottom in [0, 1]."""
    mask = Image.new("L", size)
    corners = [round(edge * length) for edge, length in zip(box, size * 2, strict=True)]
    ImageDraw.Draw(mask).rectangle([*corners[:2], *(corner - 1 for corner in corners[2:])], fill=255)
    return mask


def outlined(image: Image.Image, mask: Image.Image, size: int) -> Image.Image:
    """The picture with the mask's outline in white."""
    image = image.resize((size, size))
    mask = mask.resize((size, size), Image.Resampling.NEAREST)
    image.paste("white", mask=ImageChops.difference(mask, mask.filter(ImageFilter.MinFilter(3))))
    return image


def read_or_draw(pipe: EDiffIPipeline, args: argparse.Namespace, options: dict[str, Any]) -> Image.Image:
    """The picture to repaint."""
    if args.image is not None:
        return read_image(args.image)
    generator = torch.Generator().manual_seed(args.source_seed)
    return pipe(args.source_prompt, generator=generator, **options).images[0]


def repaint(
    pipe: EDiffIInpaintPipeline, source: Image.Image, mask: Image.Image, args: argparse.Namespace, options: dict
) -> list[Image.Image]:
    """A picture for each seed."""
    return pipe(
        args.prompt,
        image=source,
        mask_image=mask,
        strength=args.strength,
        num_images_per_prompt=len(args.seeds),
        generator=[torch.Generator().manual_seed(seed) for seed in args.seeds],
        **options,
    ).images


def provenance(args: argparse.Namespace, size: int) -> Provenance:
    """How the pictures were made."""
    settings = {
        "prompt": args.prompt,
        "source_prompt": args.source_prompt if args.image is None else None,
        "seeds": args.seeds,
        "model": model_name(args.model),
        "size": size,
        "steps": args.steps,
        "strength": args.strength,
    }
    return Provenance(settings, digital_source_type=EDITED)


def main(arguments: list[str] | None = None) -> None:
    """Draws and writes the pictures."""
    args = parse_arguments(arguments)
    pipe = EDiffIPipeline.from_pretrained(args.model or demo_checkpoint())
    size = args.size or pipe.stages[-1].size
    options = {"height": size, "width": size, "num_inference_steps": args.steps}
    source = read_or_draw(pipe, args, options)
    mask = read_image(args.mask).convert("L") if args.mask else box_mask(args.box, source.size)
    images = repaint(EDiffIInpaintPipeline.from_pipe(pipe), source, mask, args, options)
    columns = ["picture", *(f"seed {seed}" for seed in args.seeds)]
    grid = draw_grid([[outlined(source, mask, size), *images]], [args.prompt], columns)
    save_image(grid, args.output, None if args.no_provenance else provenance(args, size))
    print(args.output)


if __name__ == "__main__":
    with errors_in_one_line():
        main()

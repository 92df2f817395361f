# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Draw from a picture on, at several strengths.

python examples/draw/image_to_image.py --output strengths.png --size 64

Writes OUTPUT, a PNG: a row for each seed, a column for each strength, and the picture itself on the left. Without
--image the model draws it first, of --source-prompt. The noise level where each strength begins is printed.
"""

import argparse
from typing import Any

import torch
from grids_and_options import add_picture_options, draw_grid, make_parser
from PIL import Image

from diffusers_ediffi import EDiffIImg2ImgPipeline, EDiffIPipeline, Provenance, demo_checkpoint, save_image
from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import errors_in_one_line
from diffusers_ediffi.images import read_image
from diffusers_ediffi.provenance import COMPOSITE_WITH_TRAINED_ALGORITHMIC_MEDIA as EDITED
from diffusers_ediffi.provenance import model_name


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = make_parser(__doc__)
    parser.add_argument("--image", help="a file or address (default: the model draws it)")
    parser.add_argument("--source-prompt", default="a red apple on a dark blue background", help="for that picture")
    parser.add_argument("--prompt", default="a rocket on a dark blue background", help="what it is to become")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    parser.add_argument("--steps", type=whole(1), help="of every stage (default: the model's)")
    add_picture_options(parser, seeds=[0, 1, 2], help_of_seeds="a row for each")
    return parser.parse_args(arguments)


def draw_strength(
    pipe: EDiffIImg2ImgPipeline, source: Image.Image, strength: float, args: argparse.Namespace, options: dict
) -> list[Image.Image]:
    """A picture for each seed, drawn from the source on."""
    images = pipe(
        args.prompt,
        image=source,
        strength=strength,
        num_images_per_prompt=len(args.seeds),
        generator=[torch.Generator().manual_seed(seed) for seed in args.seeds],
        **options,
    ).images
    print(f"strength {strength:g}: sigma {pipe.start_sigmas[0]:.3g}, {pipe.num_timesteps} evaluations")
    return images


def provenance(args: argparse.Namespace, size: int) -> Provenance:
    """How the pictures were made."""
    settings = {
        "prompt": args.prompt,
        "source_prompt": args.source_prompt if args.image is None else None,
        "seeds": args.seeds,
        "model": model_name(args.model),
        "size": size,
        "steps": args.steps,
        "strengths": args.strengths,
    }
    return Provenance(settings, digital_source_type=EDITED)


def main(arguments: list[str] | None = None) -> None:
    """Draws and writes the pictures."""
    args = parse_arguments(arguments)
    pipe = EDiffIPipeline.from_pretrained(args.model or demo_checkpoint())
    size = args.size or pipe.stages[-1].size
    options: dict[str, Any] = {"height": size, "width": size, "num_inference_steps": args.steps}
    if args.image is None:
        source = pipe(args.source_prompt, generator=torch.Generator().manual_seed(0), **options).images[0]
    else:
        source = read_image(args.image)
    edit = EDiffIImg2ImgPipeline.from_pipe(pipe)
    columns = [draw_strength(edit, source, strength, args, options) for strength in args.strengths]
    rows = [[source.resize((size, size)), *images] for images in zip(*columns, strict=True)]
    labels = ["picture", *(f"strength {strength:g}" for strength in args.strengths)]
    grid = draw_grid(rows, [f"{args.prompt}, seed {seed}" for seed in args.seeds], labels)
    save_image(grid, args.output, None if args.no_provenance else provenance(args, size))
    print(args.output)


if __name__ == "__main__":
    with errors_in_one_line():
        main()

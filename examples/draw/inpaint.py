# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Repaint a part of a picture.

python examples/draw/inpaint.py --output inpainted.png --size 64

On the left stands the picture with the outline of what is repainted, then one picture for each seed. Without --image
the model draws it first, of --source-prompt. The part is a box, or what --mask shows white.
"""

import argparse
from pathlib import Path

import torch
from diffusers.utils import load_image
from PIL import Image, ImageChops, ImageDraw, ImageFilter
from style_transfer import draw_grid

from diffusers_ediffi import EDiffIInpaintPipeline, EDiffIPipeline, Provenance, demo_checkpoint, save_image
from diffusers_ediffi.provenance import COMPOSITE_WITH_TRAINED_ALGORITHMIC_MEDIA as EDITED
from diffusers_ediffi.provenance import model_name


def outlined(image: Image.Image, mask: Image.Image, size: int) -> Image.Image:
    """The picture with the mask's outline in white."""
    image, mask = image.resize((size, size)), mask.resize((size, size), Image.Resampling.NEAREST)
    image.paste("white", mask=ImageChops.difference(mask, mask.filter(ImageFilter.MinFilter(3))))
    return image


def main(arguments: list[str] | None = None) -> None:
    """Draws and writes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the PNG to write")
    parser.add_argument("--model", help="pipeline folder or Hub id (default: the one in the package)")
    parser.add_argument("--image", help="a file or address (default: the model draws one)")
    parser.add_argument("--source-prompt", default="a red apple next to a cat on a dark blue background")
    parser.add_argument("--prompt", default="a red apple next to a rocket on a dark blue background")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--mask", help="a file or address, white where to repaint")
    part.add_argument("--box", type=float, nargs=4, default=(0.5, 0.1, 0.98, 0.9), help="left, top, right, bottom")
    parser.add_argument("--strength", type=float, default=1.0, help="less follows what the picture shows there")
    parser.add_argument("--size", type=int, help="height and width of a picture (default: the model's largest)")
    parser.add_argument("--steps", type=int, help="of every stage (default: the model's)")
    parser.add_argument("--source-seed", type=int, default=0, help="of the picture that the model draws first")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="a picture for each")
    parser.add_argument("--no-provenance", action="store_true", help="keep out of the file how it was made")
    args = parser.parse_args(arguments)

    pipe = EDiffIPipeline.from_pretrained(args.model or demo_checkpoint())
    size = args.size or pipe.stages[-1].size
    options = {"height": size, "width": size, "num_inference_steps": args.steps}
    if args.image is None:
        generator = torch.Generator().manual_seed(args.source_seed)
        source = pipe(args.source_prompt, generator=generator, **options).images[0]
    else:
        source = load_image(args.image)
    if args.mask is None:
        mask = Image.new("L", source.size)
        corners = [round(edge * length) for edge, length in zip(args.box, source.size * 2, strict=True)]
        ImageDraw.Draw(mask).rectangle([*corners[:2], *(corner - 1 for corner in corners[2:])], fill=255)
    else:
        mask = load_image(args.mask).convert("L")

    images = EDiffIInpaintPipeline.from_pipe(pipe)(
        args.prompt,
        image=source,
        mask_image=mask,
        strength=args.strength,
        num_images_per_prompt=len(args.seeds),
        generator=[torch.Generator().manual_seed(seed) for seed in args.seeds],
        **options,
    ).images
    columns = ["picture", *(f"seed {seed}" for seed in args.seeds)]
    grid = draw_grid([[outlined(source, mask, size), *images]], [args.prompt], columns)
    settings = {
        "prompt": args.prompt,
        "source_prompt": args.source_prompt if args.image is None else None,
        "seeds": args.seeds,
        "model": model_name(args.model),
        "size": size,
        "steps": args.steps,
        "strength": args.strength,
    }
    save_image(grid, args.output, None if args.no_provenance else Provenance(settings, digital_source_type=EDITED))
    print(args.output)


if __name__ == "__main__":
    main()

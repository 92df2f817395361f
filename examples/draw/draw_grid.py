# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Draw a grid of prompts, one row for each seed, with the prompts written below: the picture in the README.

python examples/draw/draw_grid.py --output docs/grid.png --size 256 --seeds 0 1
"""

import argparse
import textwrap
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from diffusers_ediffi import EDiffIPipeline, Provenance, demo_checkpoint, save_image
from diffusers_ediffi.provenance import model_name

PROMPTS = (
    "a rocket above a red apple on a dark blue background",
    "a red car on a yellow background",
    "a pencil sketch of a house on a light blue background",
    "a snowman in front of mountains",
    "a night picture of a pumpkin on a beach",
    "pixel art of a red mushroom on a green background",
    "a water colour of a globe on a white background",
    "a yellow star left of a red heart on a purple background",
)


def caption_strip(prompts: list[str], size: int, height: int = 44) -> Image.Image:
    """The prompts, wrapped, each below its column."""
    strip = Image.new("RGB", (len(prompts) * size, height), "white")
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(13)
    for i, prompt in enumerate(prompts):
        draw.text((i * size + 6, 6), textwrap.fill(prompt, size // 7), fill="black", font=font)
    return strip


def main(arguments: list[str] | None = None) -> None:
    """Draws and writes the grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the PNG to write")
    parser.add_argument("--model", help="pipeline folder or Hub id (default: the one in the package)")
    parser.add_argument("--prompts", nargs="+", default=list(PROMPTS))
    parser.add_argument("--columns", type=int, default=4)
    parser.add_argument("--size", type=int, help="height and width of a picture (default: the model's largest)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="a row for each")
    parser.add_argument("--no-provenance", action="store_true", help="keep out of the file how it was made")
    args = parser.parse_args(arguments)

    pipe = EDiffIPipeline.from_pretrained(args.model or demo_checkpoint())
    size = args.size or pipe.stages[-1].size
    bands = []
    for start in range(0, len(args.prompts), args.columns):
        prompts = args.prompts[start : start + args.columns]
        for seed in args.seeds:
            generators = [torch.Generator().manual_seed(seed) for _ in prompts]
            images = pipe(prompts, height=size, width=size, generator=generators).images
            row = Image.new("RGB", (args.columns * size, size), "white")
            for i, image in enumerate(images):
                row.paste(image, (i * size, 0))
            bands.append(row)
        bands.append(caption_strip(prompts, size))
    grid = Image.new("RGB", (args.columns * size, sum(band.height for band in bands)), "white")
    top = 0
    for band in bands:
        grid.paste(band, (0, top))
        top += band.height
    args.output.parent.mkdir(parents=True, exist_ok=True)
    settings = {"prompts": args.prompts, "seeds": args.seeds, "model": model_name(args.model), "size": size}
    save_image(grid, args.output, None if args.no_provenance else Provenance(settings))
    print(args.output)


if __name__ == "__main__":
    main()

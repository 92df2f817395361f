# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Draw variations of a picture from its CLIP image embedding (Figure 15): without text, with some, with all of it.

python examples/draw/variations.py --output variations.png --size 64 --seeds 0 1 2 3

A row for each text, a column for each seed; the first column is the picture. Without --image the model draws it from
the full text.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image
from style_transfer import draw_grid, make_references

from diffusers_ediffi import EDiffIPipeline, Provenance, demo_checkpoint, save_image
from diffusers_ediffi.pipelines.style import read_image
from diffusers_ediffi.provenance import model_name

TEXTS = ("a red mushroom", "pixel art of a red mushroom on a green background")


def main(arguments: list[str] | None = None) -> None:
    """Draws and writes the variations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the PNG to write")
    parser.add_argument("--model", help="pipeline folder or Hub id (default: the one in the package)")
    parser.add_argument("--image", metavar="FILE", help="the picture (default: the last text, drawn by the model)")
    parser.add_argument("--texts", nargs="+", default=list(TEXTS), help="of the rows below the one without text")
    parser.add_argument("--style-scale", type=float, default=1.0, help="factor on the picture's embedding")
    parser.add_argument("--size", type=int, help="height and width of a picture (default: the model's largest)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3], help="a column for each")
    parser.add_argument("--no-provenance", action="store_true", help="keep out of the file how it was made")
    args = parser.parse_args(arguments)

    pipe = EDiffIPipeline.from_pretrained(args.model or demo_checkpoint())
    size = args.size or pipe.stages[-1].size
    # Drawn with a seed that none of the variations has by default.
    picture = read_image(args.image) if args.image else make_references(pipe, size, args.texts[-1:], seed=100)[0]
    rows: list[list[Image.Image | None]] = []
    for text in (None, *args.texts):
        images = pipe(
            text,
            style_image=picture,
            style_scale=args.style_scale,
            height=size,
            width=size,
            num_images_per_prompt=len(args.seeds),
            generator=[torch.Generator().manual_seed(seed) for seed in args.seeds],
        ).images
        rows.append([None if rows else picture.resize((size, size)), *images])
    columns = ["picture", *(f"seed {seed}" for seed in args.seeds)]
    settings = {
        "prompts": args.texts,
        "seeds": args.seeds,
        "model": model_name(args.model),
        "size": size,
        "style_image": True,
        "style_scale": args.style_scale,
    }
    grid = draw_grid(rows, ["without text", *args.texts], columns)
    save_image(grid, args.output, None if args.no_provenance else Provenance(settings))
    print(args.output)


if __name__ == "__main__":
    main()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Draw a prompt without a style reference and with several, at rising style_scale, and with all of them mixed.

python examples/draw/style_transfer.py --output style.png --size 64 --seeds 3 4

A row for each reference and one for their mix; the first column is the reference, a scale of 0 is no style. Without
--styles the model draws its own references, which show other objects than the prompt names.
"""

import argparse
import textwrap
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from diffusers_ediffi import EDiffIPipeline, Provenance, demo_checkpoint, save_image
from diffusers_ediffi.provenance import model_name

PROMPT = "a red car on a yellow background"
REFERENCES = (
    "a pencil sketch of a snowman on a green background",
    "a night picture of a red mushroom on a green background",
    "a water colour of a globe on a white background",
)
TILE = 128  # pixels of a picture in the grid, at least
LABEL = 18  # height of a line of text, at least


def draw_grid(rows: list[list[Image.Image | None]], row_labels: list[str], column_labels: list[str]) -> Image.Image:
    """Pictures of one size with a text above each row, wrapped to its width, and one above each column."""
    size = next(image.width for row in rows for image in row if image is not None)
    tile = size * max(1, TILE // size)
    line, width = max(LABEL, tile // 14), len(column_labels) * tile
    texts = [textwrap.wrap(label, round(width / (0.4 * line))) for label in row_labels]
    band = tile + line * max(map(len, texts))
    grid = Image.new("RGB", (width, line + len(rows) * band), "white")
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(2 * line / 3)
    for i, label in enumerate(column_labels):
        draw.text((i * tile + 3, 2), label, fill="black", font=font)
    for i, (row, text) in enumerate(zip(rows, texts, strict=True)):
        top = line + (i + 1) * band - tile  # of the pictures; the text ends there
        for number, part in enumerate(text):
            draw.text((3, top - (len(text) - number) * line + 2), part, fill="black", font=font)
        for j, image in enumerate(row):
            if image is not None:
                grid.paste(image.resize((tile, tile), Image.Resampling.NEAREST), (j * tile, top))
    return grid


def make_references(pipe: EDiffIPipeline, size: int, prompts: list[str], seed: int) -> list[Image.Image]:
    """Pictures that the model draws itself."""
    generators = [torch.Generator().manual_seed(seed) for _ in prompts]
    return pipe(prompts, height=size, width=size, generator=generators).images


def main(arguments: list[str] | None = None) -> None:
    """Draws and writes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the PNG to write")
    parser.add_argument("--model", help="pipeline folder or Hub id (default: the one in the package)")
    parser.add_argument("--prompt", default=PROMPT, help="should say nothing of the style")
    parser.add_argument("--styles", nargs="+", metavar="FILE", help="references (default: drawn by the model)")
    parser.add_argument("--weights", type=float, nargs="+", help="of the references in the mix (default: equal)")
    parser.add_argument("--scales", type=float, nargs="+", default=[0.0, 0.5, 1.0, 1.5])
    parser.add_argument("--size", type=int, help="height and width of a picture (default: the model's largest)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4], help="a column for each, and each scale")
    parser.add_argument("--no-provenance", action="store_true", help="keep out of the file how it was made")
    args = parser.parse_args(arguments)

    pipe = EDiffIPipeline.from_pretrained(args.model or demo_checkpoint())
    size = args.size or pipe.stages[-1].size
    names, references = args.styles, args.styles
    if references is None:
        names, references = list(REFERENCES), make_references(pipe, size, list(REFERENCES), seed=0)
    styles = {name: pipe.encode_style(one) for name, one in zip(names, references, strict=True)}
    styles["all of them"] = pipe.encode_style(references, args.weights)
    shown = [one if isinstance(one, Image.Image) else Image.open(one) for one in references]
    rows = [[one.convert("RGB").resize((size, size))] for one in shown] + [[None]]
    for row, style in zip(rows, styles.values(), strict=True):
        for scale in args.scales:
            row += pipe(
                args.prompt,
                style_image=style,
                style_scale=scale,
                height=size,
                width=size,
                num_images_per_prompt=len(args.seeds),
                generator=[torch.Generator().manual_seed(seed) for seed in args.seeds],
            ).images
    columns = ["reference", *(f"scale {scale:g}, seed {seed}" for scale in args.scales for seed in args.seeds)]
    settings = {
        "prompt": args.prompt,
        "seeds": args.seeds,
        "model": model_name(args.model),
        "size": size,
        "style_image": True,
        "style_scales": args.scales,
    }
    grid = draw_grid(rows, [f"{name} -> {args.prompt}" for name in styles], columns)
    save_image(grid, args.output, None if args.no_provenance else Provenance(settings))
    print(args.output)


if __name__ == "__main__":
    main()

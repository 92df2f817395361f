# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What the scripts of this folder share: the options that most of them have, and grids of pictures with captions."""

import argparse
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import ScriptParser

TILE = 128  # pixels of a picture in the grid, at least
LABEL = 18  # height of a line of text, at least


def make_parser(description: str, output: str = "the PNG to write") -> ScriptParser:
    """A parser with `--output` and `--model`, and the whole description in its help."""
    parser = ScriptParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help=output)
    parser.add_argument("--model", help="pipeline folder or Hub id (default: that of the package)")
    return parser


def add_picture_options(parser: argparse.ArgumentParser, seeds: list[int], help_of_seeds: str) -> None:
    """Adds `--size`, `--seeds` and `--no-provenance`."""
    parser.add_argument("--size", type=whole(1), help="height and width of a picture (default: the model's largest)")
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds, help=help_of_seeds)
    parser.add_argument("--no-provenance", action="store_true", help="keep out of the file how it was made")


def draw_grid(rows: list[list[Image.Image | None]], row_labels: list[str], column_labels: list[str]) -> Image.Image:
    """Pictures of one size with a text above each row, wrapped to its width, and a text above each column."""
    size = next(image.width for row in rows for image in row if image is not None)
    tile = size * max(1, TILE // size)
    line = max(LABEL, tile // 14)
    width = len(column_labels) * tile
    texts = [textwrap.wrap(label, round(width / (0.4 * line))) for label in row_labels]
    band = tile + line * max(map(len, texts))
    grid = Image.new("RGB", (width, line + len(rows) * band), "white")
    font = ImageFont.load_default(2 * line / 3)
    for i, label in enumerate(column_labels):
        ImageDraw.Draw(grid).text((i * tile + 3, 2), label, fill="black", font=font)
    for i, (row, text) in enumerate(zip(rows, texts, strict=True)):
        top = line + (i + 1) * band - tile  # of the pictures; the text ends there
        write_lines(grid, text, top - len(text) * line, line, font)
        paste_tiles(grid, row, top, tile)
    return grid


def write_lines(grid: Image.Image, lines: list[str], top: int, line: int, font: ImageFont.FreeTypeFont) -> None:
    """Writes lines of text of height `line`, the first at `top`."""
    for number, text in enumerate(lines):
        ImageDraw.Draw(grid).text((3, top + number * line + 2), text, fill="black", font=font)


def paste_tiles(grid: Image.Image, images: list[Image.Image | None], top: int, tile: int) -> None:
    """Puts images side by side, each enlarged to a square of `tile` pixels; None leaves its place empty."""
    for i, image in enumerate(images):
        if image is not None:
            grid.paste(image.resize((tile, tile), Image.Resampling.NEAREST), (i * tile, top))

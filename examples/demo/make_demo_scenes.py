# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Look at the demo model's scenes: a grid of them as a PNG, or a folder of pictures, captions and masks.

    python examples/demo/make_demo_scenes.py --objects OBJECTS --grid scenes.png
    python examples/demo/make_demo_scenes.py --objects OBJECTS --folder scenes --count 500 --size 256 --masks

`OBJECTS` is a folder that `make_object_folder.py` made. The folder gets `000000.png` and so on, `captions.jsonl` with
one line for each scene (file, caption, objects with boxes and spans, relation, ground, style), and with `--masks` one
gray picture for each object. Training needs none of this: it draws scenes as it goes.
"""

import argparse
import dataclasses
import json
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.demo import STYLES, Scene, SceneGenerator, load_objects

CELL = 256
CAPTION_HEIGHT = 42


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The options, checked."""
    parser = ScriptParser(description="Draw scenes of the demo model's world.")
    parser.add_argument("--objects", type=Path, required=True, help="folder of object pictures with an index.json")
    parser.add_argument("--grid", type=Path, help="write a grid of scenes with their captions, a row for each style")
    parser.add_argument("--columns", type=int, default=6, help="scenes for each style in the grid")
    parser.add_argument("--folder", type=Path, help="write scenes, captions.jsonl and masks here")
    parser.add_argument("--count", type=int, default=100, help="scenes in the folder")
    parser.add_argument("--size", type=int, default=256, help="side of the folder's pictures in pixels")
    parser.add_argument("--masks", action="store_true", help="write the objects' masks too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("train", "held_out"), default="train")
    args = parser.parse_args(argv)
    if args.grid is None and args.folder is None:
        parser.error("nothing to do: give --grid, --folder or both")
    if args.columns < 1 or args.count < 1:
        parser.error("--columns and --count must be at least 1")
    return args


def main(argv: list[str] | None = None) -> None:
    """Writes what the options ask for."""
    args = parse_arguments(argv)
    objects = load_objects(args.objects)
    if args.grid is not None:
        draw_grid(objects, args).save(args.grid)
    if args.folder is not None:
        write_folder(SceneGenerator(objects, seed=args.seed, split=args.split), args)


def draw_grid(objects: list, args: argparse.Namespace) -> Image.Image:
    """One row for each style, the scenes' captions below them."""
    grid = Image.new("RGB", (args.columns * CELL, len(STYLES) * (CELL + CAPTION_HEIGHT)), "white")
    draw = ImageDraw.Draw(grid)
    for row, style in enumerate(STYLES):
        generator = SceneGenerator(objects, styles=[style], seed=args.seed + row, split=args.split)
        for column in range(args.columns):
            scene = generator.scene(column)
            left = column * CELL
            top = row * (CELL + CAPTION_HEIGHT)
            grid.paste(generator.render(scene, CELL), (left, top))
            draw.text((left + 2, top + CELL + 2), textwrap.fill(scene.caption, 42), fill="black")
    return grid


def write_folder(generator: SceneGenerator, args: argparse.Namespace) -> None:
    """Scenes as `000000.png` and so on, their masks, and captions.jsonl."""
    args.folder.mkdir(parents=True, exist_ok=True)
    with open(args.folder / "captions.jsonl", "w", encoding="utf-8") as captions:
        for index in range(args.count):
            scene = generator.scene(index)
            stem = f"{index:06d}"
            generator.render(scene, args.size).save(args.folder / f"{stem}.png")
            captions.write(json.dumps({"file": f"{stem}.png", **dataclasses.asdict(scene)}) + "\n")
            if args.masks:
                write_masks(generator, scene, args.folder / stem, args.size)


def write_masks(generator: SceneGenerator, scene: Scene, stem: Path, size: int) -> None:
    """A gray picture for each object, `000000_red_apple.png`."""
    for phrase, mask in generator.masks(scene, size).items():
        picture = Image.fromarray(np.rint(mask * 255).astype(np.uint8))
        picture.save(stem.with_name(f"{stem.name}_{phrase.replace(' ', '_')}.png"))


if __name__ == "__main__":
    with errors_in_one_line():
        main()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Make a few pictures of an object that the packaged model has never seen, to train on.

    python examples/training/make_new_object.py --output_dir zorb_pictures

draws ten pictures of a zorb, an invented object: a green ring with orange spikes around a purple eye. With
`--picture icon.png --phrase "tin robot"` it is any picture with a transparent ground, and with `--objects noto_objects
--phrase octopus` an object of make_object_folder.py. The object stands on the grounds of the packaged model's scenes,
with `--partners sun cat` in every second picture beside one of these; `metadata.jsonl` has the captions ("a zorb on a
beach"). `--add_to_objects FOLDER` adds the object to such a folder, to train a scorer that knows it.
"""

import argparse
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw

from diffusers_ediffi.cli.options import picture, whole
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.demo import Scene, SceneGenerator, SceneObject, load_objects
from diffusers_ediffi.files import write_json
from diffusers_ediffi.images import open_image

SIDE = 512
SPIKES = 8


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="the folder to make; must not exist or be empty"
    )
    parser.add_argument("--picture", type=picture, help="of the object, with transparency (default: a zorb)")
    parser.add_argument("--phrase", default="zorb", help="what captions call it (default: %(default)s)")
    parser.add_argument("--objects", type=Path, help="folder with object images and index.json, which may have it")
    parser.add_argument(
        "--partners", nargs="+", default=[], help="other objects of --objects, in every second picture"
    )
    parser.add_argument("--add_to_objects", type=Path, help="a folder like --objects that the object is added to")
    parser.add_argument("--count", type=whole(1), default=10, help="pictures (default: %(default)s)")
    parser.add_argument("--size", type=whole(1), default=256, help="of their sides in pixels (default: %(default)s)")
    parser.add_argument("--seed", type=whole(0), default=0)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Makes the folder."""
    args = parse_arguments(arguments)
    if args.output_dir.exists() and any(args.output_dir.iterdir()):
        raise FileExistsError(f"{args.output_dir} is not empty; name a folder that is.")
    things = [object_of(args), *partners_of(args)]
    if args.add_to_objects is not None:
        add_to_folder(things[0], args.add_to_objects)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    singles = scenes_of(things[:1], (1.0,), args.seed)
    pairs = scenes_of(things, (0.0, 1.0), args.seed) if args.partners else singles
    rows = []
    for number in range(args.count):
        scenes, scene = next(pairs if number % 2 else singles)
        name = f"{number:04d}.png"
        scenes.render(scene, args.size).save(args.output_dir / name)
        rows.append(json.dumps({"file_name": name, "text": scene.caption}))
    (args.output_dir / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    print(f"{args.count} pictures of a {args.phrase} in {args.output_dir}")


def scenes_of(
    things: list[SceneObject], weights: tuple[float, ...], seed: int
) -> Iterator[tuple[SceneGenerator, Scene]]:
    """Flat scenes of the first of these objects, without end; the weights say how often there are one and two."""
    scenes = SceneGenerator(things, styles=["flat"], max_objects=len(weights), object_weights=weights, seed=seed)
    for index in itertools.count():
        scene = scenes.scene(index)
        if things[0].phrase in scene.phrases:
            yield scenes, scene


def partners_of(args: argparse.Namespace) -> list[SceneObject]:
    """The objects that stand beside the new one.

    Raises:
        ValueError: There is no folder to take them from, or they are not in it.
    """
    if not args.partners:
        return []
    if args.objects is None:
        raise ValueError("--partners are taken from a folder of objects: give it as --objects.")
    if args.phrase in args.partners:
        raise ValueError(f"--partners: {args.phrase!r} is the new object itself.")
    return load_objects(args.objects, args.partners)


def add_to_folder(thing: SceneObject, folder: Path) -> None:
    """Adds an object to a folder of objects.

    Raises:
        ValueError: The folder has the phrase already.
        OSError: It is no such folder, or cannot be written.
    """
    if thing.phrase in [known.phrase for known in load_objects(folder)]:
        raise ValueError(f"--add_to_objects {folder} has an object {thing.phrase!r} already; choose another --phrase.")
    file = f"png/{thing.phrase.replace(' ', '_')}.png"
    (folder / file).parent.mkdir(exist_ok=True)
    thing.image.save(folder / file)
    index = folder / "index.json"
    write_json(index, [*json.loads(index.read_text(encoding="utf-8")), {"file": file, "phrase": thing.phrase}])


def object_of(args: argparse.Namespace) -> SceneObject:
    """The object that the options name.

    Raises:
        ValueError: The picture cannot be read, or nothing of it is transparent, or all.
    """
    if args.picture is None and args.objects is not None and args.phrase != "zorb":
        return load_objects(args.objects, [args.phrase])[0]
    image = draw_zorb() if args.picture is None else open_image(args.picture)
    if image.mode != "RGBA" or image.getchannel("A").getextrema()[0] == 255:
        raise ValueError(f"--picture {args.picture}: nothing is transparent; give an object without its ground.")
    box = image.getchannel("A").getbbox()
    if box is None:
        raise ValueError(f"--picture {args.picture} is wholly transparent; there is no object in it.")
    return SceneObject(args.phrase, image.crop(box))


def draw_zorb() -> Image.Image:
    """A green ring with orange spikes around a purple eye, RGBA."""
    image = Image.new("RGBA", (SIDE, SIDE))
    draw = ImageDraw.Draw(image)
    middle, ring = SIDE / 2, 0.34 * SIDE
    for number in range(SPIKES):
        angle = 2 * math.pi * number / SPIKES
        tip = _around(middle, 0.49 * SIDE, angle)
        feet = [_around(middle, ring, angle + side * math.pi / SPIKES * 0.8) for side in (-1, 1)]
        draw.polygon([tip, *feet], fill=(246, 134, 20, 255))
    for radius, colour in ((ring, (24, 150, 70)), (0.22 * SIDE, (240, 240, 200)), (0.13 * SIDE, (110, 40, 170))):
        draw.ellipse((middle - radius, middle - radius, middle + radius, middle + radius), fill=(*colour, 255))
    return image


def _around(middle: float, radius: float, angle: float) -> tuple[float, float]:
    return middle + radius * math.sin(angle), middle - radius * math.cos(angle)


if __name__ == "__main__":
    with errors_in_one_line():
        main()

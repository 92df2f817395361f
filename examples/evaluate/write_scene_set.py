# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Write held-out scenes as what `ediffi evaluate` takes: captions, and real pictures to compare with.

    python examples/evaluate/write_scene_set.py --objects noto_objects --output scenes --count 300
    ediffi evaluate demo --captions scenes/captions.txt --reference scenes/reference --output runs/quality --size 64

`OUTPUT/captions.txt` has the captions of the first scenes, `OUTPUT/real` their pictures with `metadata.jsonl`, as far
from the reference as a perfect model, and `OUTPUT/reference` the pictures of as many other scenes.
"""

import argparse
import json
from pathlib import Path

from held_out import add_scene_options, first_scenes

from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.demo import GROUNDS, Scene, SceneGenerator, load_objects


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = ScriptParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="the folder to write")
    parser.add_argument("--count", type=whole(1), default=500, help="scenes of each kind (default: %(default)s)")
    parser.add_argument("--size", type=whole(1), default=64, help="of the pictures, in pixels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes (default: %(default)s)")
    add_scene_options(parser)
    return parser.parse_args(arguments)


def write_pictures(scenes: SceneGenerator, batch: list[Scene], size: int, folder: Path) -> None:
    """An image folder: pictures, and `metadata.jsonl` with their captions."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, scene in enumerate(batch):
        name = f"{number:06d}.png"
        scenes.render(scene, size).save(folder / name)
        rows.append(json.dumps({"file_name": name, "text": scene.caption}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(rows), encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    objects = load_objects(args.objects, args.phrases)[: args.num_objects]
    grounds = [ground for ground in GROUNDS if ground.kind in args.ground_kinds]
    weights = {"max_objects": len(args.object_weights), "object_weights": args.object_weights}
    scenes = SceneGenerator(objects, args.styles, grounds, **weights, seed=args.seed, split="held_out")
    judged, others = first_scenes(scenes, args.count)
    write_pictures(scenes, judged, args.size, args.output / "real")
    write_pictures(scenes, others, args.size, args.output / "reference")
    (args.output / "captions.txt").write_text("".join(f"{scene.caption}\n" for scene in judged), encoding="utf-8")


if __name__ == "__main__":
    with errors_in_one_line():
        main()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Measure what a model has learnt of a new object from a few pictures, and what it has forgotten meanwhile.

    python examples/evaluate/evaluate_new_object.py --objects noto_objects --phrase octopus --tuned runs/octopus \
        --train_data_dir octopus_pictures --output runs/octopus_figures

`--tuned` is what a script of examples/training wrote: the folder of a LoRA or of a pipeline. Both models, the one
before training and the tuned one, draw the same prompts from the same noise:

    new      100 prompts of the new object, on grounds and with partners that none of its captions names
    known    1000 prompts of the objects that the model knew before

The scorer says in how many pictures the objects are right, and of `known` how much that changed, with the 95% interval
of the paired differences. `OUTPUT/results.json` holds the figures, `OUTPUT/grid.png` in each cell the picture before,
the picture after, and the training picture that is nearest to it. Killed and started again, the script goes on.

The object must be in the object folder and known to the scorer, and not to the model. The packaged scorer knows
all objects of make_object_folder.py. Of another one, make_new_object.py --add_to_objects puts it into a copy of the
folder, on which examples/demo/train_scorer.py trains a scorer (`--scorer`).
"""

import argparse
import functools
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.utils import make_image_grid
from held_out import add_sampling_options, generators, load_pipeline, precision
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from diffusers_ediffi import EDiffIPipeline, Provenance, demo_checkpoint, save_image
from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.demo import Scene, SceneGenerator, SceneObject, load_objects
from diffusers_ediffi.demo.scenes import ground_words
from diffusers_ediffi.demo.scorer import PRESENCE_THRESHOLD, SceneScorer, images_to_tensor
from diffusers_ediffi.files import write_json
from diffusers_ediffi.provenance import model_name
from diffusers_ediffi.training import ImageFolder

MODELS = ("before", "after")
SETS = ("new", "known")
LORA = "pytorch_lora_weights.safetensors"
MOST_TRIES = 100  # scenes that are looked at for each one that fits


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="pipeline folder or Hub id before training; by default that of the package")
    parser.add_argument("--tuned", type=Path, required=True, help="folder of the LoRA or the pipeline after it")
    parser.add_argument("--train_data_dir", required=True, help="the pictures of the new object, with captions")
    parser.add_argument("--objects", type=Path, required=True, help="folder with object images and index.json")
    parser.add_argument("--phrase", required=True, help="the new object, by its phrase in index.json")
    parser.add_argument("--known", nargs="+", help="other objects (default: those of the model's vocabulary)")
    parser.add_argument("--scorer", type=Path, help="folder of a trained scorer; by default that of the package")
    parser.add_argument("--output", type=Path, required=True, help="where results and pictures go; see above")
    parser.add_argument("--num-prompts", type=whole(1), default=100, help="of the new object (default: %(default)s)")
    parser.add_argument("--num-known-prompts", type=whole(2), default=1000, help="(default: %(default)s)")
    parser.add_argument("--grid-cells", type=whole(1), default=24, help="of the grid (default: %(default)s)")
    parser.add_argument("--grid-columns", type=whole(1), default=4, help="(default: %(default)s)")
    add_sampling_options(parser)
    return parser.parse_args(arguments)


def tuned_pipeline(args: argparse.Namespace) -> EDiffIPipeline:
    """The model after training.

    Raises:
        OSError: The folder holds none.
    """
    if (args.tuned / LORA).is_file():
        pipe = load_pipeline(args)
        pipe.load_lora_weights(args.tuned)
        return pipe
    return load_pipeline(argparse.Namespace(**{**vars(args), "model": str(folder_of_tuned(args))}))


def folder_of_tuned(args: argparse.Namespace) -> Path:
    """The folder of the weights after training.

    Raises:
        OSError: There are none.
    """
    if (args.tuned / LORA).is_file():
        return args.tuned
    for folder in (args.tuned / "pipeline", args.tuned):
        if (folder / "model_index.json").is_file():
            return folder
    raise FileNotFoundError(f"--tuned {args.tuned} holds neither {LORA} nor a pipeline.")


def fingerprint(folder: Path) -> str:
    """A hash of the weights in a folder."""
    files = [folder / LORA] if (folder / LORA).is_file() else sorted(folder.rglob("*.safetensors"))
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def known_phrases(args: argparse.Namespace) -> list[str]:
    """The objects that the model knew before.

    Raises:
        ValueError: It does not say it, or the new object is one of them.
        OSError: There is no such model.
    """
    config = EDiffIPipeline.load_config(args.model or demo_checkpoint())
    phrases = args.known or ((config.get("vocabulary") or {}).get("words") or {}).get("objects")
    if not phrases:
        raise ValueError("the model has no vocabulary: name the objects that it knew before by --known.")
    if args.phrase in phrases:
        raise ValueError(f"--phrase {args.phrase!r} is an object that the model knew before; choose another.")
    return list(phrases)


def scenes_of(args: argparse.Namespace, source: ImageFolder) -> dict[str, list[Scene]]:
    """The scenes of both sets of prompts; what captions do not say is flat.

    Raises:
        ValueError: There are not enough that fit.
    """
    known = known_phrases(args)
    objects = {thing.phrase: thing for thing in load_objects(args.objects, [args.phrase, *known])}
    others = [objects[phrase] for phrase in known]
    new = _generator(
        [objects[args.phrase], *others], "train", (2, 1), args
    )  # half of those with the new object are pairs
    captions = [source[row].caption.lower() for row in range(len(source))]
    fitting = functools.partial(is_new, phrase=args.phrase, captions=captions)
    return {
        "new": list(_first(args.num_prompts, new, fitting)),
        "known": [
            _generator(others, "held_out", (1, 1), args).scene(index) for index in range(args.num_known_prompts)
        ],
    }


def _generator(
    objects: Sequence[SceneObject], split: str, weights: tuple[int, int], args: argparse.Namespace
) -> SceneGenerator:
    numbers = {"max_objects": len(weights), "object_weights": weights}
    return SceneGenerator(objects, ["flat"], **numbers, style_said=0.0, seed=args.seed, split=split)


def is_new(scene: Scene, phrase: str, captions: Sequence[str]) -> bool:
    """Whether a scene has the new object, and no ground or partner that the caption of a training picture names."""
    if phrase not in scene.phrases:
        return False
    others = [*ground_words(scene.ground), *(partner for partner in scene.phrases if partner != phrase)]
    return not any(other in caption for other in others for caption in captions)


def _first(count: int, scenes: SceneGenerator, fits: Any) -> Iterator[Scene]:
    found = 0
    for index in range(MOST_TRIES * count * len(scenes.phrases)):
        scene = scenes.scene(index)
        if fits(scene):
            found += 1
            yield scene
        if found == count:
            return
    raise ValueError(f"only {found} scenes have a ground and partners that no training picture has: leave some out.")


def open_results(args: argparse.Namespace) -> None:
    """Makes the folder of the results, or goes on with it.

    Raises:
        ValueError: It holds those of other settings.
    """
    names = ("model", "phrase", "known", "scorer", "steps", "guidance_scale", "batch_size", "bf16", "seed", "objects")
    settings = {name: getattr(args, name) for name in names} | {"tuned": fingerprint(folder_of_tuned(args))}
    settings = json.loads(json.dumps(settings, default=str))
    path = args.output / "settings.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        for name, value in settings.items():
            if before.get(name) != value:
                raise ValueError(
                    f"{args.output} holds figures with {name} = {before.get(name)!r}, now it is {value!r}: choose "
                    "another --output."
                )
    args.output.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def measure(
    pipe: Any, scorer: SceneScorer, scenes: Sequence[Scene], folder: Path, args: argparse.Namespace
) -> list[dict[str, bool]]:
    """Draws what is missing of a set of prompts and says what is right in each picture.

    Args:
        pipe (`Callable`): Gives the pipeline; called if a picture is missing.
        scorer ([`SceneScorer`]): Judges.
        scenes (list of [`Scene`]): What is asked for.
        folder (`Path`): Where pictures and verdicts are kept.
        args (`argparse.Namespace`): How they are drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    verdicts: list[dict[str, bool]] = []
    for start in tqdm(range(0, len(scenes), args.batch_size), desc=f"{folder.parent.name} {folder.name}"):
        batch = scenes[start : start + args.batch_size]
        path = folder / f"{start:05d}-{len(batch)}.json"
        if not path.exists():
            images = draw(pipe(), [scene.caption for scene in batch], start, args)
            for number, image in enumerate(images, start):
                image.save(folder / f"{number:05d}.png")
            write_json(path, verdicts_of(scorer, images, batch, args.phrase))
        verdicts += json.loads(path.read_text(encoding="utf-8"))
    return verdicts


def draw(pipe: EDiffIPipeline, captions: list[str], start: int, args: argparse.Namespace) -> list[Image.Image]:
    """Base pictures of some captions; picture i depends on the seed and i alone."""
    with precision(args):
        return pipe(
            captions,
            height=pipe.stages[0].size,
            num_inference_steps=args.steps,
            guidance_scale=args.guidance_scale,
            generator=generators(args, start, len(captions)),
        ).images


def verdicts_of(
    scorer: SceneScorer, images: list[Image.Image], scenes: Sequence[Scene], phrase: str
) -> list[dict[str, bool]]:
    """What `SceneScorer.judge` says, and `new`: whether the new object is there, partners aside."""
    index = list(scorer.config.phrases).index(phrase)
    found = []
    for verdict, scene, presence in zip(
        scorer.judge(images, scenes), scenes, scorer.predict(images)["presence"], strict=True
    ):
        likeliest = presence.topk(len(scene.objects)).indices.tolist()
        found.append({**verdict, "new": index in likeliest and bool(presence[index] >= PRESENCE_THRESHOLD)})
    return found


def rates(verdicts: Sequence[dict[str, bool]], names: Sequence[str]) -> dict[str, float]:
    """The share of pictures of which each is true, where it is asked for."""
    values = {name: [verdict[name] for verdict in verdicts if name in verdict] for name in names}
    return {name: sum(found) / len(found) for name, found in values.items() if found}


def paired_change(before: Sequence[bool], after: Sequence[bool]) -> dict[str, Any]:
    """The mean of the differences after - before, and its 95% interval as that of a normal distribution."""
    change = torch.tensor(after, dtype=torch.float64) - torch.tensor(before, dtype=torch.float64)
    mean, reach = change.mean().item(), 1.96 * change.std().item() / math.sqrt(len(change))
    return {"change": mean, "interval": [mean - reach, mean + reach]}


def nearest(pictures: Tensor, trained: Tensor) -> tuple[list[int], list[float]]:
    """For each picture the number of the nearest training picture and the root mean square of their difference.

    Args:
        pictures (`torch.Tensor`): `(pictures, 3, height, width)` in [-1, 1].
        trained (`torch.Tensor`): `(trained, 3, height, width)` in [-1, 1].
    """
    distances = torch.cdist(pictures.flatten(1), trained.flatten(1)) / math.sqrt(pictures[0].numel())
    found = distances.min(dim=1)
    return found.indices.tolist(), found.values.tolist()


def training_pictures(source: ImageFolder, size: int) -> Tensor:
    """The training pictures, `(pictures, 3, size, size)` in [-1, 1]."""
    tensors = [images_to_tensor([source[row].image()]) for row in range(len(source))]
    return torch.cat([F.interpolate(tensor, size=(size, size), mode="area") for tensor in tensors])


def read_pictures(folder: Path, count: int) -> list[Image.Image]:
    """The first pictures of a set."""
    return [Image.open(folder / f"{number:05d}.png").convert("RGB") for number in range(count)]


def write_grid(args: argparse.Namespace, source: ImageFolder) -> list[dict[str, Any]]:
    """Writes the grid, and returns the nearest training picture of each picture of the new object."""
    after = read_pictures(args.output / "after" / "new", args.num_prompts)
    before = read_pictures(args.output / "before" / "new", args.num_prompts)
    trained = training_pictures(source, after[0].width)
    rows, distances = nearest(images_to_tensor(after), trained)
    shown = EDiffIPipeline.numpy_to_pil(((trained + 1) / 2).permute(0, 2, 3, 1).numpy())
    cells = [
        make_image_grid([old, new, shown[row]], rows=1, cols=3)
        for old, new, row in zip(before, after, rows[: args.grid_cells], strict=False)
    ]
    columns = min(args.grid_columns, len(cells))
    cells += [Image.new("RGB", cells[0].size)] * (-len(cells) % columns)
    grid = make_image_grid(cells, rows=len(cells) // columns, cols=columns)
    save_image(grid, args.output / "grid.png", Provenance({"model": model_name(args.model), "phrase": args.phrase}))
    return [
        {"picture": source[row].name, "distance": round(distance, 4)}
        for row, distance in zip(rows, distances, strict=True)
    ]


def scorer_of(args: argparse.Namespace) -> SceneScorer:
    """The scorer.

    Raises:
        ValueError: It does not know the new object.
    """
    scorer = SceneScorer.from_pretrained(args.scorer or Path(demo_checkpoint()).with_name("scorer")).eval()
    if args.phrase not in scorer.config.phrases:
        raise ValueError(
            f"the scorer does not know {args.phrase!r}: train one on a folder of objects that has it, by "
            "examples/demo/train_scorer.py, and give its folder as --scorer."
        )
    return scorer


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Draws, judges, writes, prints and returns the figures."""
    args = parse_arguments(arguments)
    source = ImageFolder(args.train_data_dir)
    folder_of_tuned(args)
    scenes, scorer = scenes_of(args, source), scorer_of(args)
    pipes = {
        "before": functools.cache(lambda: load_pipeline(args)),
        "after": functools.cache(lambda: tuned_pipeline(args)),
    }
    open_results(args)
    found = {
        kind: {name: measure(pipes[name], scorer, scenes[kind], args.output / name / kind, args) for name in MODELS}
        for kind in SETS
    }
    results: dict[str, Any] = {
        "new": {name: rates(found["new"][name], ("new", "objects", "ground", "relation")) for name in MODELS},
        "known": {name: rates(found["known"][name], ("objects", "ground", "relation")) for name in MODELS},
        "change of known": {
            name: paired_change(*([verdict[name] for verdict in found["known"][model]] for model in MODELS))
            for name in ("objects", "ground")
        },
        "prompts": [scene.caption for scene in scenes["new"]],
        "nearest": write_grid(args, source),
    }
    write_json(args.output / "results.json", results)
    print_results(args, results)
    return results


def print_results(args: argparse.Namespace, results: dict[str, Any]) -> None:
    """A line for each figure."""
    for kind in SETS:
        for name in results[kind]["after"]:
            before, after = (results[kind][model][name] for model in MODELS)
            what = args.phrase if name == "new" else name
            print(f"{kind + ' prompts, ' + what:32} before {before:6.1%}  after {after:6.1%}")
    for name, change in results["change of known"].items():
        low, high = change["interval"]
        print(
            f"known {name}: {100 * change['change']:+.1f} points, 95% interval {100 * low:+.1f} to {100 * high:+.1f}"
        )


if __name__ == "__main__":
    with errors_in_one_line():
        main()

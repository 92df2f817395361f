# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`ediffi models`: what can be loaded: the packaged model, public models, and what of the Hub lies in the cache.
Imports no torch, and goes to no network."""

import argparse
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CachedRepoInfo, CacheNotFound, scan_cache_dir

from ..demo.checkpoint import demo_checkpoint
from .card import licence_in
from .messages import say, say_json
from .options import DEMO
from .words import read_index

COMMANDS = ("ediffi generate", "ediffi paint", "ediffi edit", "ediffi evaluate", "ediffi space")
IN_DIFFUSERS = ("ediffi space", "paint_with_words", "record_attention", "ExpertRouterUNet")
DEMO_MEMORY = "0.70 GB to draw 256 x 256, 1.52 GB to draw 1024 x 1024"  # measured as README says
WIDTH = 15  # of the column of names


@dataclass(frozen=True)
class PublicModel:
    """A model that others have published; docs/models.md has the same figures, and where they are from.

    Args:
        name (`str`): What it is called.
        ids (`tuple` of `str`): Its repositories on the Hub; none where it is elsewhere.
        what (`str`): What it is here.
        licence (`str`): Its licence.
        gated (`bool`): Whether the licence must be accepted on the Hub, and a token be there.
        weights_gb (`float`): Of all its weights, in 16 bit.
        largest_part_gb (`float`): Of its largest part, which a GPU has to hold with model offload.
        use (`str`): The command that makes it ready, or the class that loads it.
        works_with (`tuple` of `str`): Commands, functions and classes that take it then.
    """

    name: str
    ids: tuple[str, ...]
    what: str
    licence: str
    gated: bool
    weights_gb: float
    largest_part_gb: float
    use: str
    works_with: tuple[str, ...]


PUBLIC = (
    PublicModel(
        "DeepFloyd IF",
        ("DeepFloyd/IF-I-XL-v1.0", "DeepFloyd/IF-II-L-v1.0"),
        "base and SR256, with T5",
        "DeepFloyd IF: not commercial",
        True,
        20.5,
        9.5,
        "conversion/from_deepfloyd_if.py, or IFPipeline of diffusers",
        (*COMMANDS, *IN_DIFFUSERS[1:]),
    ),
    PublicModel(
        "Karlo",
        ("kakaobrain/karlo-v1-alpha",),
        "base on CLIP text and CLIP image, SR256 of two experts",
        "CreativeML OpenRAIL-M",
        False,
        7.0,
        2.0,
        "conversion/from_karlo.py",
        COMMANDS,
    ),
    PublicModel(
        "SDXL",
        ("stabilityai/stable-diffusion-xl-base-1.0", "stabilityai/stable-diffusion-xl-refiner-1.0"),
        "base and refiner: two experts of one U-Net",
        "CreativeML OpenRAIL++-M",
        False,
        11.4,
        5.1,
        "conversion/from_diffusers_unets.py, or StableDiffusionXLPipeline of diffusers",
        IN_DIFFUSERS,
    ),
    PublicModel(
        "Stable Diffusion 1.5",
        ("stable-diffusion-v1-5/stable-diffusion-v1-5",),
        "a U-Net to paint with words in, or to split into experts",
        "CreativeML OpenRAIL-M",
        False,
        2.1,
        1.7,
        "StableDiffusionPipeline of diffusers",
        IN_DIFFUSERS,
    ),
    PublicModel(
        "Stable Diffusion x4 upscaler",
        ("stabilityai/stable-diffusion-x4-upscaler",),
        "the third stage of DeepFloyd IF",
        "CreativeML OpenRAIL++-M",
        False,
        1.8,
        0.9,
        "examples/draw/deepfloyd_if.py --upscale",
        (),
    ),
    PublicModel(
        "OpenAI's ADM",
        (),
        "class-conditional EDiffIUNets, 64 x 64 and 64 -> 256",
        "MIT",
        False,
        1.2,
        0.6,
        "conversion/from_guided_diffusion.py",
        ("EDiffIUNet",),
    ),
    PublicModel(
        "EDM's ADM",
        (),
        "an EDiffIUNet of 64 x 64, to train from or with classes",
        "CC BY-NC-SA: not commercial",
        False,
        0.6,
        0.6,
        "conversion/from_edm.py",
        ("EDiffIUNet",),
    ),
)


def list_models(args: argparse.Namespace) -> None:
    """Prints what is here, and what can be had."""
    here, public = [_demo(), *_cached()], [asdict(model) for model in PUBLIC]
    if args.json:
        say_json({"here": here, "public": public})
        return
    say("On this machine; --model takes the name.")
    for model in here:
        _say_model(model)
    say("")
    say("Public models; weights in 16 bit. docs/models.md says more.")
    for model in public:
        _say_model(model)


def _demo() -> dict[str, Any]:
    """The packaged model."""
    folder = Path(demo_checkpoint())
    return {
        "name": DEMO,
        "what": "packaged; 64, 256 and 1024 pixels; ediffi info --words lists its words",
        "pipeline": "EDiffIPipeline",
        "licence": licence_in(folder / "README.md"),
        "memory": DEMO_MEMORY,
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        "works_with": [*COMMANDS, "record_attention"],
    }


def _cached() -> Iterator[dict[str, Any]]:
    """The pipelines in the cache of the Hub, by their names."""
    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return
    for repo in sorted(repos, key=lambda repo: repo.repo_id):
        if repo.repo_type == "model" and (model := _cached_model(repo)):
            yield model


def _cached_model(repo: CachedRepoInfo) -> dict[str, Any] | None:
    """A pipeline in the cache, of its newest revision; `None` for what is no pipeline."""
    newest = max(repo.revisions, key=lambda revision: revision.last_modified, default=None)
    if newest is None:  # a download that has not begun
        return None
    folder = newest.snapshot_path
    try:
        index = read_index(str(folder))
    except (OSError, ValueError):
        return None
    name = index.get("_class_name")
    pipeline = str(name[-1] if isinstance(name, list) and name else name)
    is_ours = pipeline == "EDiffIPipeline"
    return {
        "name": repo.repo_id,
        "what": "in the cache of the Hub",
        "pipeline": pipeline,
        "licence": licence_in(folder / "README.md"),
        "bytes": repo.size_on_disk,
        "works_with": [*COMMANDS, "record_attention"] if is_ours else list(IN_DIFFUSERS) if "unet" in index else [],
    }


def _say_model(model: dict[str, Any]) -> None:
    """A block of lines, those without a value left out."""
    gated = "; accept it on the model's page, then hf auth login" if model.get("gated") else ""
    size = f"{model['bytes'] / 1e9:.2g} GB on disk" if "bytes" in model else ""
    size = size or f"{model['weights_gb']:g} GB, {model['largest_part_gb']:g} GB the largest part"
    entries = {
        "ids": ", ".join(model.get("ids", ())),
        "pipeline": model.get("pipeline", ""),
        "licence": model["licence"] + gated,
        "weights": size,
        "memory": model.get("memory", ""),
        "use": model.get("use", ""),
        "works with": ", ".join(model["works_with"]),
    }
    say(f"{model['name']}: {model['what']}")
    columns = max(min(shutil.get_terminal_size().columns, 120), WIDTH + 40)
    for name, text in entries.items():
        for line in textwrap.wrap(
            text,
            columns,
            initial_indent=f"  {name:<{WIDTH - 2}}",
            subsequent_indent=" " * WIDTH,
            break_on_hyphens=False,
            break_long_words=False,
        ):
            say(line)

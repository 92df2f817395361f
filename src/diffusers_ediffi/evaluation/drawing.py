# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Draws the pictures of an evaluation, on one process or several, to the same bytes wherever it was cut.

Batches are cut at the same places whatever the number of processes, and each picture has noise of its own seed. A
batch that was not finished is drawn anew as a whole.
"""

import inspect
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from diffusers import SchedulerMixin
from torch import nn
from tqdm import tqdm

from ..checks import MAX_SEED
from ..files import write_json, written_whole
from ..provenance import Provenance, save_image
from ..training.parts import MANIFEST, check_manifest
from .captions import Captions
from .layouts import LAYOUTS
from .weights import weights_hash

OURS = ("prompt", "generator", "num_images_per_prompt", "output_type", "return_dict")  # not for callers to set


def describe_pipeline(pipe: Any, name: str | None = None) -> dict[str, Any]:
    """What its pictures depend on: weights, schedulers, type and device.

    Args:
        pipe (`DiffusionPipeline`): The pipeline.
        name (`str`, *optional*): What the card calls it.

    Returns:
        A dictionary as JSON has it; `sha256` is that of all weights, or `None` where they are offloaded.
    """
    parts = {part: component for part, component in pipe.components.items() if component is not None}
    networks = {part: component for part, component in parts.items() if isinstance(component, nn.Module)}
    schedulers = {
        part: {"class": type(component).__name__, "config": _public(component.config)}
        for part, component in parts.items()
        if isinstance(component, SchedulerMixin)
    }
    return {
        "name": name,
        "class": type(pipe).__name__,
        "defaults": _defaults(pipe),
        "sha256": weights_hash(networks),
        "schedulers": schedulers,
        "dtypes": sorted({str(network.dtype) for network in networks.values()}),
        "device": torch.device(pipe.device).type,
    }


def draw_pictures(
    pipe: Any,
    captions: Captions | Sequence[str],
    folder: str | os.PathLike,
    *,
    samples_per_caption: int = 1,
    seed: int = 0,
    batch_size: int = 8,
    layout: str = "plain",
    call: Mapping[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    process: PartialState | None = None,
) -> list[Path]:
    """Draws captions into a folder, or what is missing of them.

    Args:
        pipe (`DiffusionPipeline`): Any pipeline that takes `prompt` and `generator`, on its device.
        captions ([`Captions`] or `list` of `str`): What to draw.
        folder (`str` or `os.PathLike`): Where the pictures go; `manifest.json` in it says how they are drawn.
        samples_per_caption (`int`, *optional*, defaults to 1): Pictures of each caption.
        seed (`int`, *optional*, defaults to 0): Picture i is drawn from noise of seed + i, as `ediffi generate` does.
        batch_size (`int`, *optional*, defaults to 8): Pictures drawn at once.
        layout (`str`, *optional*, defaults to `"plain"`): `plain`, numbered with a `metadata.jsonl`; `geneval` or
            `t2i-compbench`.
        call (`dict`, *optional*): Further arguments of the pipeline, as JSON has them, such as `guidance_scale`.
        model (`dict`, *optional*): What [`describe_pipeline`] says of it, if that is known already.
        process (`PartialState`, *optional*): The processes that share the work; all of them must call this.

    Returns:
        The paths of all pictures in the order of the captions.

    Raises:
        ValueError: The folder holds pictures that were drawn otherwise, the pipeline does not take the arguments, or
            the layout does not take the captions.
        OSError: The folder cannot be written.
    """
    captions = captions if isinstance(captions, Captions) else Captions(tuple(captions))
    call, folder = dict(call or {}), Path(folder)
    _check(pipe, captions, samples_per_caption, batch_size, layout, call)
    settings = {
        "captions": captions.describe(),
        "samples_per_caption": samples_per_caption,
        "seed": seed,
        "batch_size": batch_size,
        "layout": layout,
        "call": json.loads(json.dumps(call)),
        "model": model or describe_pipeline(pipe),
    }
    _prepare(folder, settings, captions, process)
    names = LAYOUTS[layout].pictures(captions, samples_per_caption)
    for batch in _share(_missing(folder, names, batch_size), process):
        texts = [captions.texts[number // samples_per_caption] for number in batch]
        seeds = [(seed + number) % (MAX_SEED + 1) for number in batch]
        images = _draw(pipe, texts, seeds, call)
        for number, text, of_picture, image in zip(batch, texts, seeds, images, strict=True):
            about = {"prompt": text, "seed": of_picture, "model": settings["model"]["name"], **settings["call"]}
            save_image(image, folder / names[number], Provenance(about))
    _wait(process)
    return [folder / name for name in names]


def read_settings(folder: Path) -> dict[str, Any] | None:
    """How the pictures of a folder were drawn, `None` where that is not known."""
    path = folder / MANIFEST
    return _nested(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def _check(pipe: Any, captions: Captions, samples: int, batch_size: int, layout: str, call: dict[str, Any]) -> None:
    if min(len(captions), samples, batch_size) < 1:
        raise ValueError(
            f"There is nothing to draw: {len(captions)} captions, {samples} samples of each, {batch_size} at once."
        )
    if layout not in LAYOUTS:
        raise ValueError(f"There is no layout {layout!r}; choose from {', '.join(LAYOUTS)}.")
    LAYOUTS[layout].check(captions)
    taken = inspect.signature(type(pipe).__call__).parameters
    missing = [name for name in ("prompt", "generator", *call) if name not in taken or name in OURS and name in call]
    if missing:
        raise ValueError(f"{type(pipe).__name__} cannot be evaluated so: it takes no {missing[0]!r} here.")
    try:
        json.dumps(call, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The arguments {sorted(call)} cannot be recorded: {error}") from None


def _prepare(folder: Path, settings: dict[str, Any], captions: Captions, process: PartialState | None) -> None:
    """Checks or writes what is not pictures, before any process looks at what is missing."""
    flat = _flat(settings)
    if (folder / MANIFEST).exists():
        check_manifest(folder, flat)
    elif folder.is_dir() and any(folder.iterdir()) and _is_main(process):
        raise ValueError(f"{str(folder)!r} holds files of others and no {MANIFEST}; give a new folder for pictures.")
    if _is_main(process):
        texts = LAYOUTS[settings["layout"]].texts(captions, settings["samples_per_caption"])
        for name, text in texts.items():
            with written_whole(folder / name) as unfinished:
                unfinished.write_text(text, encoding="utf-8")
        for left in folder.rglob(".*.tmp"):  # by a process that was killed
            left.unlink(missing_ok=True)
        write_json(folder / MANIFEST, flat)
    _wait(process)


def _missing(folder: Path, names: list[str], batch_size: int) -> list[range]:
    """The batches of which a picture is missing."""
    batches = [range(first, min(first + batch_size, len(names))) for first in range(0, len(names), batch_size)]
    return [batch for batch in batches if not all((folder / names[number]).is_file() for number in batch)]


def _share(batches: list[range], process: PartialState | None) -> Any:
    """The batches of this process; none begins before all have seen what is missing."""
    _wait(process)
    rank, number = (process.process_index, process.num_processes) if process else (0, 1)
    share = batches[rank::number]
    return tqdm(share, "drawing", unit="batch", disable=rank > 0 or None)  # or where nobody watches


def _draw(pipe: Any, texts: list[str], seeds: list[int], call: dict[str, Any]) -> list[Any]:
    """The pictures of a batch; noise is drawn on the CPU, so that a seed means the same on every device."""
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    images = pipe(prompt=texts, generator=generators, **call).images
    if len(images) != len(texts):
        raise ValueError(f"{type(pipe).__name__} drew {len(images)} pictures for {len(texts)} captions.")
    return images


def _defaults(pipe: Any) -> dict[str, Any]:
    """What the pipeline does where `call` says nothing: defaults of its arguments, and of EDiffIPipeline's model."""
    arguments = inspect.signature(type(pipe).__call__).parameters
    named = ("num_inference_steps", "guidance_scale", "guidance_rescale", "height", "width")
    defaults = {name: arguments[name].default for name in named if name in arguments}
    of_model = {name: value for name, value in pipe.config.items() if name.startswith("default_")}
    return _public({name: value for name, value in (defaults | of_model).items() if value is not None})


def _public(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what diffusers keeps in it for itself, as JSON has it."""
    return {name: json.loads(json.dumps(value, default=str)) for name, value in config.items() if name[:1] != "_"}


def _flat(nested: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Entries by their whole path, so that an error names what differs and no more."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        whole = f"{before}/{name}" if before else name
        found |= _flat(value, whole) if isinstance(value, dict) and value else {whole: value}
    return found


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """What `_flat` made flat."""
    found: dict[str, Any] = {}
    for path, value in flat.items():
        *outer, name = path.split("/")
        inside = found
        for part in outer:
            inside = inside.setdefault(part, {})
        inside[name] = value
    return found


def _is_main(process: PartialState | None) -> bool:
    return process is None or process.is_main_process


def _wait(process: PartialState | None) -> None:
    if process is not None:
        process.wait_for_everyone()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What a saved pipeline needs beside its files to be loaded from the Hub by people who do not import diffusers_ediffi
themselves. Imports no torch, so that a folder is refused quickly."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files.places import configs_without_places

LIBRARY = __name__.partition(".")[0]
INDEX = "model_index.json"
MODULE = "pipeline.py"  # where diffusers looks for a `custom_pipeline`
PIPELINES = ("EDiffIPipeline", "EDiffIImg2ImgPipeline", "EDiffIInpaintPipeline")


def read_index(folder: Path) -> dict[str, Any]:
    """The components that the `model_index.json` of a saved pipeline lists.

    Raises:
        ValueError: The folder does not hold one of our pipelines, or the index, which may come from a stranger, leads
            out of it.
    """
    index = folder / INDEX
    if not index.is_file():
        raise ValueError(f"{folder} does not hold a {INDEX}: save a pipeline there with save_pretrained first.")
    components = json.loads(index.read_text(encoding="utf-8"))
    found = components.get("_class_name") if isinstance(components, dict) else type(components).__name__
    if found not in PIPELINES:
        raise ValueError(f"{folder} holds a {found}, not an {PIPELINES[0]}.")
    for name, class_name in _our_components(components).items():
        inside = (folder / name).resolve().is_relative_to(folder.resolve())
        if not (folder / name).is_dir() or not inside or not class_name.isidentifier():
            raise ValueError(f"{index} names a component {name!r} of class {class_name!r}, which is not in {folder}.")
    return components


def _our_components(components: Mapping[str, Any]) -> dict[str, str]:
    """The classes of the components that come from this package, by their folders."""
    pairs = {name: value for name, value in components.items() if isinstance(value, list) and len(value) == 2}
    return {name: str(class_name) for name, (library, class_name) in pairs.items() if library == LIBRARY}


def repository_files(folder: Path) -> dict[str, bytes]:
    """What a saved pipeline needs beside its files to be loaded by people who do not import the package: a module that
    imports the pipeline, and one in the folder of each component of ours. Configs are without the names of folders of
    this machine.

    Raises:
        ValueError: As of [`read_index`].
    """
    components = read_index(folder)
    texts = {MODULE: f"from {LIBRARY} import {components['_class_name']}  # noqa: F401\n"}
    for name, class_name in _our_components(components).items():
        # diffusers takes the component from this file, which it finds by the library's name.
        texts[f"{name}/{LIBRARY}.py"] = f"from {LIBRARY} import {class_name}  # noqa: F401\n"
    return {name: text.encode() for name, text in {**configs_without_places(folder), **texts}.items()}

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`ediffi info --words`: the words that a model knows. Reads one file and imports no torch, so that it is quick."""

import argparse
import json
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..demo.checkpoint import demo_checkpoint
from ..pipelines.vocabulary import Vocabulary
from .messages import one_line, say, say_json

MAX_BYTES = 2**23  # of model_index.json: twice a vocabulary of the most and the longest words


def list_words(args: argparse.Namespace) -> None:
    """Prints the words of `args.model`, by default of the demo model, and what it reads as them."""
    if args.picture is not None:
        raise ValueError("info --words lists the words of a --model; leave the picture out.")
    name = args.model or "demo"
    vocabulary = Vocabulary.from_config(read_index(args.model or demo_checkpoint()).get("vocabulary"))
    if vocabulary is None:
        raise ValueError(f"the model {name!r} does not list its words: its model_index.json has no vocabulary.")
    if args.json:
        words = {name: list(entries) for name, entries in vocabulary.groups.items()}
        say_json({"model": name, "words": words, "read_as": dict(vocabulary.synonyms)})
        return
    for line in _lines(vocabulary):
        say(line)


def read_index(model: str) -> dict[str, Any]:
    """What `model_index.json` says, of a folder or on the Hub."""
    path = Path(model) / "model_index.json" if Path(model).is_dir() else _download(model)
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{str(path)!r} has more than {MAX_BYTES} bytes; it is no index of a model.")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from None
    if not isinstance(index, dict):
        raise ValueError(f"{str(path)!r} is no index of a model, which is an object of JSON.")
    return index


def _download(model: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(model, "model_index.json"))
    except Exception as error:  # of the network, the Hub and its cache
        raise ValueError(
            f"there is no folder {model!r} here, and as a Hub id it could not be read: {one_line(error)}"
        ) from error


def _lines(vocabulary: Vocabulary) -> Iterator[str]:
    """A paragraph for each group, its name in a column before it."""
    understood = vocabulary.synonyms.items()
    groups = {name: ", ".join(entries) for name, entries in vocabulary.groups.items()}
    groups["read as them"] = ", ".join(f"{synonym} ({meaning})" for synonym, meaning in understood) or "no other words"
    width = max(map(len, groups)) + 2
    columns = max(min(shutil.get_terminal_size().columns, 120), width + 40)
    yield f"{len(vocabulary)} words; case does not count, and plurals are understood"
    for name, text in groups.items():
        yield from textwrap.wrap(
            text, columns, initial_indent=f"{name:<{width}}", subsequent_indent=" " * width, break_on_hyphens=False
        )

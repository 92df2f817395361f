# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The types of arguments: each reads a text of the command line, or raises `argparse.ArgumentTypeError`."""

import argparse
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..checks import MAX_STAGES
from ..models.encoder_table import ENCODERS

MAX_FACTOR = 1000  # on guidance, style, painting and noise: float16 overflows soon after
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
DEMO = "demo"  # the packaged model, where a command takes models and folders


def prompt(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; say what to draw")
    if Path(text).suffix and os.path.isfile(text):
        raise argparse.ArgumentTypeError(f"{text!r} is a file, one too many here; say what to draw in words")
    return text


def scheduled_prompt(text: str) -> tuple[str, float]:
    """SHARE:PROMPT as (prompt, share)."""
    start, _, words = text.partition(":")
    if not start.strip() or not words.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not SHARE:PROMPT, such as '0.3:a dog'")
    return words.strip(), share(start)


def legend_entry(text: str) -> tuple[str, str]:
    """COLOR=PHRASE as (colour, phrase)."""
    color, _, phrase = text.partition("=")
    if not color.strip() or not phrase.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not COLOR=PHRASE, such as red='red apple'")
    return color.strip(), phrase.strip()


def file(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text!r}")
    return path


def picture(text: str) -> Path:
    """A file where a model could have been meant."""
    path = Path(text).expanduser()
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder; for a model say --model {text}")
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no picture {text!r}; a model is named with --model")
    return path


def model(text: str) -> str | None:
    """The folder of a saved pipeline, or a Hub id; `None`, the packaged model, for `demo` where no such folder is."""
    path = Path(text).expanduser()
    if text == DEMO and not path.exists():
        return None
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise argparse.ArgumentTypeError(f"{text!r} holds no model_index.json, so it is not a saved pipeline")
        return str(path)
    if path.exists() or not HUB_ID.fullmatch(text) or text.startswith("."):
        raise argparse.ArgumentTypeError(f"there is no folder {text!r}, nor is it a Hub id such as org/name")
    return text


def model_or_pictures(text: str) -> str:
    """The packaged model (`demo`), the folder of a saved pipeline, a Hub id, or a folder of pictures."""
    if text != DEMO and Path(text).expanduser().is_dir():
        return str(Path(text).expanduser())
    return DEMO if text == DEMO else model(text) or DEMO


def is_pipeline(source: str) -> bool:
    """Whether what [`model_or_pictures`] returned is a model."""
    return source == DEMO or not Path(source).is_dir() or (Path(source) / "model_index.json").is_file()


def folder(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text!r}")
    return path


def folder_to_write(text: str) -> Path:
    path = Path(text).expanduser()
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a file; give a folder to write to")
    return path


def writable(*suffixes: str) -> Callable[[str], Path]:
    """A type of paths to new or old files of these suffixes."""

    def parse(text: str) -> Path:
        path = Path(text).expanduser()
        folder = path.absolute().parent
        if path.name.lower() in suffixes:
            raise argparse.ArgumentTypeError(f"{text!r} has no name before its dot; give one, such as a{path.name}")
        if path.suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(f"{text!r} must end in {' or '.join(suffixes)}")
        if not folder.is_dir():
            raise argparse.ArgumentTypeError(f"there is no folder {str(folder)!r}")
        if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
            raise argparse.ArgumentTypeError(f"{text!r} cannot be written")
        return path

    return parse


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """A type of whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        if not re.fullmatch(r"[+-]?\d{1,30}", text) or not low <= int(text) <= (math.inf if high is None else high):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {limits}")
        return int(text)

    return parse


def finite(text: str) -> float:
    number = _number(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return number


def factor(text: str) -> float:
    """A number that pictures survive, of any sign."""
    number = finite(text)
    if abs(number) > MAX_FACTOR:
        raise argparse.ArgumentTypeError(f"{text!r} is beyond {MAX_FACTOR}; what is usual is below 20")
    return number


def at_least_0(text: str) -> float:
    number = factor(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is below 0")
    return number


def share(text: str) -> float:
    number = finite(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} does not lie in 0 to 1")
    return number


def noise_level(text: str) -> float:
    level = _number(text)
    if not level >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a noise level; give 0 or more, or inf for all above")
    return level


def _number(text: str) -> float:
    """The number, or NaN where the text is not a number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def per_stage(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """A type of a number for all stages, or of numbers with commas for each."""

    def parse_all(text: str) -> Any:
        parts = [part.strip() for part in text.split(",")]
        if not all(parts):
            raise argparse.ArgumentTypeError(f"{text!r} leaves a number out; give one, or one per stage: 1,2,3")
        numbers = tuple(map(parse, parts))
        if len(numbers) > MAX_STAGES:
            raise argparse.ArgumentTypeError(f"{text!r} has {len(numbers)} numbers for at most {MAX_STAGES} stages")
        return numbers[0] if len(numbers) == 1 else numbers

    return parse_all


def guidance_scale(text: str) -> Any:
    """A number for all stages or each, or a weight for each encoder."""
    if "=" not in text:
        return per_stage(factor)(text)
    pairs = [part.partition("=") for part in text.split(",")]
    names = [name.strip() for name, _, _ in pairs]
    if len(set(names)) < len(names) or not set(names) <= set(ENCODERS):
        raise argparse.ArgumentTypeError(
            f"{text!r} must give {', '.join(ENCODERS)} a weight each or leave some out, such as t5=5,clip_text=3"
        )
    for name, (_, _, weight) in zip(names, pairs, strict=True):
        if not weight.strip():
            raise argparse.ArgumentTypeError(f"{text!r} gives {name} no weight; write {name}=5")
    return {name: factor(weight) for name, (_, _, weight) in zip(names, pairs, strict=True)}

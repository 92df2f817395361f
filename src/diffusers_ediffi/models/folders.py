# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Folders of saved models, which may come from strangers: what their configurations count is bounded before anything
is built, and whatever libraries raise of their files becomes an error that names the folder."""

import functools
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from ..checks import is_number

Load = TypeVar("Load", bound=Callable[..., Any])

MAX_CONFIG_BYTES = 2**24
MAX_DEPTH = 32
# Entries that say how many layers are built one by one, and several times what the largest networks have.
MAX_COUNTS = {
    re.compile(r"(num|n)_\w*(layers|heads|blocks|experts)\w*"): 256,
    re.compile(r"\w*layers_per\w*"): 32,
}
# These are not of the files.
OTHERS = (ImportError, MemoryError, NotImplementedError, torch.OutOfMemoryError)


def names_its_folder(load: Load) -> Load:
    """For a class method `from_pretrained`: turns what damaged files make libraries raise into an `OSError` that names
    the folder or Hub id. Errors of values and files stay what they are; there is no end to the others."""

    @functools.wraps(load)
    def named(cls: Any, *args: Any, **kwargs: Any) -> Any:
        with naming(args[0] if args else kwargs.get("pretrained_model_name_or_path")):
            return load(cls, *args, **kwargs)

    return cast(Load, named)


@contextmanager
def naming(name: Any) -> Iterator[None]:
    """What [`names_its_folder`] does, for the files in a folder or Hub id."""
    start = f"cannot load {str(name)!r}"
    try:
        yield
    except (OSError, *OTHERS):
        raise
    except ValueError as error:
        if str(name) in str(error):
            raise
        raise ValueError(f"{start}: {error}") from error
    except Exception as error:
        raise OSError(f"{start}: {type(error).__name__}: {error}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of a library in Rust, such as tokenizers
            raise
        raise OSError(f"{start}: {error}") from error


def check_folder(folder: str | os.PathLike) -> None:
    """Refuses configurations in a folder, and in folders of it, that are no JSON or count too much.

    Raises:
        ValueError: It names the file and the entry.
    """
    for file in sorted({*Path(folder).glob("config.json"), *Path(folder).glob("*/config.json")}):
        check_counts(_read(file), str(file))


def check_counts(config: Any, where: str, depth: int = 0) -> None:
    """Refuses entries that ask for more layers than any network has, in a configuration and what it holds.

    Raises:
        ValueError: It names the entry.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"{where} is nested more than {MAX_DEPTH} deep.")
    entries = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for name, value in entries:
        most = _most(name)
        for number in [] if most is None else value if isinstance(value, list) else [value]:
            if is_number(number, Real) and not 0 <= number <= most:
                raise ValueError(f"{where}: {name}={value!r} is not from 0 to {most}: no network has so many.")
        check_counts(value, where, depth + 1)


def _most(name: Any) -> int | None:
    """The most that an entry may count; `None` where it is no count."""
    return min((most for pattern, most in MAX_COUNTS.items() if pattern.fullmatch(str(name))), default=None)


def _read(file: Path) -> Any:
    if file.stat().st_size > MAX_CONFIG_BYTES:
        raise ValueError(f"{file} has more than {MAX_CONFIG_BYTES} bytes; no configuration is so long.")
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from None

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The one way to write a file or folder: whole or not at all. Imports nothing of this package."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a path beside `path` to write a file or a folder to; it takes the place of `path` when the block ends.

        >>> with written_whole("weights.safetensors") as unfinished:
        ...     save_file(weights, unfinished)

    After an error `path` is what it was before, and nothing is left beside it. Its folder is made. A process that is
    killed in the block may leave `.NAME.PID.tmp`; if it is killed while a folder is exchanged, neither folder may be
    left.

    Args:
        path (`str` or `os.PathLike`): The file or folder that is to be written.

    Raises:
        OSError: It cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _remove(unfinished)
    try:
        yield unfinished
        if path.is_dir():
            _remove(path)
        os.replace(unfinished, path)
    finally:
        _remove(unfinished)


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Writes a value as indented JSON, whole or not at all."""
    with written_whole(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

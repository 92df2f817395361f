# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Files: written whole or not at all, and YAML of strangers (schedules, model cards) read as plain values of a bounded
size. Imports nothing of this package."""

import json
import os
import shutil
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

MAX_CHARACTERS = 2**16  # of a YAML text
MAX_DEPTH = 20


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


def load_yaml(text: str) -> Any:
    """The value of a YAML text without aliases, which can make a short text mean an endless one.

    Raises:
        ValueError: The text is not YAML, has an alias or a key twice, is too long or nested too deeply; it names the
            line.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"This has more than {MAX_CHARACTERS} characters; write a shorter file.")
    try:
        return yaml.load(text, _Loader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(f"This is not valid YAML: a control character stands in line {line}.") from error
    except yaml.YAMLError as error:
        raise ValueError(f"This is not valid YAML: {' '.join(str(error).split())}") from error


class _Refused(ValueError):
    """What is YAML, but not of ours."""


class _Loader(yaml.SafeLoader):
    """Refuses aliases, depth, and a key that stands twice, of which YAML would silently keep the last."""

    def __init__(self, text: str):
        super().__init__(text)
        self.depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise _Refused(f"The alias *{event.anchor} in line {line} is not followed; write its value out.")
        if self.depth > MAX_DEPTH:
            raise _Refused(f"Line {line} is nested more than {MAX_DEPTH} deep.")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        line = node.start_mark.line + 1
        try:
            value = super().construct_object(node, deep)
        except (yaml.YAMLError, _Refused):
            raise
        except Exception as error:  # PyYAML trusts values to be of the type of their tags
            raise _Refused(f"Line {line} holds no {node.tag.rpartition(':')[2]}: {error}.") from error
        if isinstance(value, int) and value.bit_length() > 1024:
            raise _Refused(f"Line {line} holds a whole number beyond all floats.")
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            line = key_node.start_mark.line + 1
            key = self.construct_object(key_node)
            if not isinstance(key_node, yaml.ScalarNode) or not isinstance(key, Hashable):
                raise _Refused(f"The key in line {line} is neither a word nor a number.")
            if key in seen:
                raise _Refused(f"The key {key!r} stands twice, again in line {line}.")
            seen.add(key)
        return super().construct_mapping(node, deep)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""YAML of strangers: plain values alone, and nothing that is short and means much."""

from collections.abc import Hashable
from typing import Any

import yaml

MAX_CHARACTERS = 2**16  # of a text
MAX_DEPTH = 20


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

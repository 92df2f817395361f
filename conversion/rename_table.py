# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Tables of names: what the tensors of a checkpoint are called in the network that it is converted to."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tables import listed

from diffusers_ediffi.files import load_yaml

SECTIONS = ("exact", "patterns")


@dataclass(frozen=True)
class RenameTable:
    """New names by old names.

    Args:
        exact (`dict`): Whole names.
        patterns (`dict`): Regular expressions of whole names; in what they become, `\\1` is the first group. The first
            that matches counts, if `exact` does not have the name.
    """

    exact: dict[str, str] = field(default_factory=dict)
    patterns: dict[re.Pattern, str] = field(default_factory=dict)

    def target(self, name: str) -> str:
        """What a name becomes; itself where the table says nothing of it."""
        if name in self.exact:
            return self.exact[name]
        matches = ((pattern.fullmatch(name), target) for pattern, target in self.patterns.items())
        return next((match.expand(target) for match, target in matches if match), name)


def read_table(file: Path) -> RenameTable:
    """A table from a JSON or YAML file with the sections `exact` and `patterns`.

    Raises:
        OSError: It cannot be read.
        ValueError: It is something else; the message names the file.
    """
    text = file.read_text(encoding="utf-8")
    try:
        content = json.loads(text) if file.suffix == ".json" else load_yaml(text)
        return _table(content)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _table(content: Any) -> RenameTable:
    if not isinstance(content, dict) or set(content) - set(SECTIONS):
        there = listed(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"a table has the sections {' and '.join(SECTIONS)}, this has {there}.")
    sections = [content.get(section) or {} for section in SECTIONS]
    for section, entries in zip(SECTIONS, sections, strict=True):
        pairs = entries.items() if isinstance(entries, dict) else [(type(entries).__name__, None)]
        wrong = [str(old) for old, new in pairs if not isinstance(old, str) or not isinstance(new, str)]
        if wrong:
            raise ValueError(f"{section} must be new names by old names, see {listed(wrong)}.")
    exact, patterns = sections
    compiled = {compile_pattern(old): new for old, new in patterns.items()}
    for pattern, new in compiled.items():
        _check_template(pattern, new)
    return RenameTable(exact, compiled)


def compile_pattern(text: str) -> re.Pattern:
    """A regular expression.

    Raises:
        ValueError: It is none.
    """
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}.") from error


def _check_template(pattern: re.Pattern, template: str) -> None:
    """Refuses groups that the pattern does not have."""
    try:
        # An alternative that matches nothing, with the groups of the pattern.
        re.compile(f"(?:{pattern.pattern})|").sub(template, "")
    except (re.error, IndexError) as error:
        raise ValueError(f"{template!r} does not fit the pattern {pattern.pattern!r}: {error}.") from error


def matched(names: Iterable[str], patterns: Iterable[re.Pattern], option: str) -> list[str]:
    """The names that one of the patterns matches as a whole.

    Raises:
        ValueError: A pattern matches none of them.
    """
    names, found = list(names), set()
    for pattern in patterns:
        hits = [name for name in names if pattern.fullmatch(name)]
        if not hits:
            raise ValueError(f"{option} {pattern.pattern!r} matches none of the names, such as {listed(names)}.")
        found.update(hits)
    return [name for name in names if name in found]

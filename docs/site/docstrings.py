# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Docstrings in the style of Hugging Face, as the reStructuredText that napoleon reads.

They are Markdown in sections (`Args:`, `Raises:`): `code`, [`Name`] for a link to a public name, fenced blocks,
examples with >>>, lists without a blank line before them, and `> Heading` between groups of arguments.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes

MARKS = re.compile(
    r"""(?P<double>``.+?``)
      | \[`~?(?P<name>[\w.]+)(?:\(\))?`\]
      | `(?P<code>[^`]+)`
      | \[(?P<text>[^\]]+)\]\((?P<url>https?://[^)]+)\)
      | (?P<pipe>\|)""",
    re.VERBOSE,
)
ITEM = re.compile(r"(\s*)([-*]|\d+\.) ")
DEFINED = re.compile(r"^\s*(?:def|class) (\w+)|^(\w+)(?:: [^=]+)? = ", re.MULTILINE)
SOURCES = Path(__file__).parents[2] / "src"
LANGUAGES = {"py": "python", "": "text"}


def setup(app: Any) -> dict[str, bool]:
    """Connects this before napoleon, whose priority is 500."""
    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("missing-reference", as_code)
    return {"parallel_read_safe": True}


def process(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Rewrites the lines of a docstring in place."""
    found = list(spaced(marked(grouped([*lines, *settings_of(thing)]))))
    # napoleon takes a colon in the first line of an attribute for the end of its type: an empty comment stands before.
    lines[:] = ["..", "", *found] if what in ("attribute", "data", "property") else found


def settings_of(thing: Any) -> list[str]:
    """The arguments of a dataclass whose fields carry their help, which is what the command line says of them."""
    if not (isinstance(thing, type) and dataclasses.is_dataclass(thing)):
        return []
    helps = {field.name: field.metadata["help"] for field in dataclasses.fields(thing) if "help" in field.metadata}
    texts = [f"    {name}: {text[0].upper()}{text[1:].replace('%%', '%')}." for name, text in helps.items()]
    return ["", "Args:", *texts] if texts else []


def grouped(lines: Iterable[str]) -> Iterator[str]:
    """A `> Heading` among arguments closes their section, and opens another below the heading."""
    section, waiting = "", False
    for line in lines:
        heading = re.match(r"\s+> (\w.*)", line)
        if heading:
            yield from ("", f"**{heading[1]}**", "", section)
        elif waiting:
            yield section
        waiting = bool(re.fullmatch(r"(Args|Returns|Raises|Yields):", line))
        if waiting:
            section = line  # is kept back, since a heading may follow
        elif not heading:
            yield line


def marked(lines: Iterable[str]) -> Iterator[str]:
    """Code, links and blocks of code in reStructuredText; examples begin at the margin, so that they end a section."""
    fence: str | None = None  # the indentation of the open block
    example: int | None = None  # that of the open example
    for line in lines:
        stripped = line.strip()
        if fence is None and stripped.startswith(">>>") and example is None:
            example = len(line) - len(line.lstrip())
            yield from ("", ".. code-block:: pycon", "")
        if not stripped:
            example = None
        if example is not None:
            yield f"    {line[example:]}"
        elif stripped.startswith("```"):
            if fence is None:
                fence = line[: line.index("```")]
                language = LANGUAGES.get(stripped[3:], stripped[3:])
                yield from ("", f"{fence}.. code-block:: {language}", "")
            else:
                fence = None
                yield ""
        elif fence is not None:
            yield f"    {line}" if stripped else ""
        else:
            yield MARKS.sub(rewritten, line)


def rewritten(match: re.Match[str]) -> str:
    """A mark in reStructuredText."""
    if match["double"]:
        return match["double"]
    if match["name"]:
        return f":py:obj:`.{match['name']}`"
    if match["code"]:
        return f"``{match['code']}``"
    if match["pipe"]:
        return r"\|"
    return f"`{match['text']} <{match['url']}>`__"


def spaced(lines: Iterable[str]) -> Iterator[str]:
    """A blank line before the first item of each list."""
    before = ""
    for line in lines:
        item = ITEM.match(line)
        if item and before.strip() and not ITEM.match(before) and not before.startswith(f"{item[1]}  "):
            yield ""
        yield line
        before = line


def as_code(app: Any, env: Any, node: Any, content: Any) -> nodes.Node | None:
    """Names of the package that have no place on the site stand as code; others are left to be warned of."""
    name = node.get("reftarget", "").split(".")[-1]
    if node.get("reftype") in ("obj", "exc") and name in names_of_the_package():
        return nodes.literal(text=content.astext().lstrip("."))
    return None


@cache
def names_of_the_package() -> set[str]:
    """What the sources define: classes, functions and constants."""
    texts = [path.read_text(encoding="utf-8") for path in SOURCES.rglob("*.py")]
    return {block or module for text in texts for block, module in DEFINED.findall(text)}

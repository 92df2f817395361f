# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What a model card shows and links beside it, and what of that goes into its repository."""

import os
import warnings
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import chain
from pathlib import Path
from urllib.parse import unquote, urlsplit


class HtmlLinks(HTMLParser):
    """The addresses of what a piece of HTML shows and links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called for each tag."""
        self.found += [value for name, value in attrs if name in ("src", "href", "poster") and value]


def links(text: str) -> Iterator[str]:
    """The addresses that a Markdown text shows and links, also in HTML; those in code are none.

    Raises:
        ImportError: markdown-it-py is not installed.
    """
    try:
        from markdown_it import MarkdownIt
    except ImportError as error:
        raise ImportError("a model card is read with markdown-it-py: pip install markdown-it-py.") from error
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for token in chain(tokens, *(token.children or () for token in tokens)):
        if token.type in ("html_block", "html_inline"):
            parser = HtmlLinks()
            parser.feed(token.content)
            yield from parser.found
        elif token.type in ("link_open", "image"):
            yield str(token.attrs.get("href") or token.attrs.get("src") or "")


def linked_files(model_card: Path, parts: set[str], folder: Path | None = None) -> list[Path]:
    """The files that a card links by a path relative to it; of a linked folder all files that are not hidden.

    What lies outside of the card's folder is named in a warning and left out.

    Args:
        model_card (`Path`): The card.
        parts (`set` of `str`): Names at the top of the repository that no linked file may have.
        folder (`Path`, *optional*): A folder of the repository: what it has stays there.

    Raises:
        FileNotFoundError: There is no such card, or a file that it links is missing.
        ValueError: A file would replace a part of the model.
    """
    if not model_card.is_file():
        raise FileNotFoundError(f"there is no model card {model_card}.")
    here, files = model_card.parent, []
    for address in links(model_card.read_text(encoding="utf-8")):
        target = local_path(address)
        if target is None:
            continue
        path = here / target
        if not is_inside(path, here):
            warnings.warn(f"{model_card} links {address}, which is not in its folder: not copied.", stacklevel=2)
        elif path.exists():
            files += [part.relative_to(here) for part in files_in(path, here)]
        elif Path(target).parts[0] not in parts and not (
            folder and is_inside(folder / target, folder) and (folder / target).exists()
        ):
            raise FileNotFoundError(f"{model_card} links {target}, which is missing beside it.")
    for path in files:
        if path.parts[0] in parts:
            raise ValueError(f"the model card links {path}, which would replace a part of the pipeline: rename it.")
    return list(dict.fromkeys(files))


def local_path(address: str) -> str | None:
    """The path of an address, relative to the file that has it; `None` for other addresses."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return None
    path = unquote(parts.path)
    if parts.scheme or parts.netloc or not path or path.startswith("/") or os.path.normpath(path) == ".":
        return None
    return os.path.normpath(path)


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path lies in a folder, also behind links."""
    return path.resolve().is_relative_to(folder.resolve())


def files_in(path: Path, around: Path) -> list[Path]:
    """A file, or the files of a folder; not hidden ones, nor links that lead out of the folder around it."""
    if path.is_file():
        return [path]
    found = [part for part in sorted(path.rglob("*")) if part.is_file() and is_inside(part, around)]
    return [part for part in found if not any(name.startswith(".") for name in part.relative_to(path).parts)]

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Every picture of a page is drawn anew by docs/draw_pictures.py, with a command that stands on the page."""

import os
import runpy
import shlex
from html.parser import HTMLParser

import pytest
from helpers_docs import PAGES, ROOT, inline_commands, tokens

PICTURES = runpy.run_path(str(ROOT / "docs" / "draw_pictures.py"))["PICTURES"]
SUFFIXES = (".png", ".jpg", ".webp")


class Images(HTMLParser):
    """Collects what the `img` tags of a text show."""

    def __init__(self, html: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found += [value or "" for name, value in attrs if tag == "img" and name == "src"]


def pictures_of(page: str) -> set[str]:
    """The pictures that a page shows or links, as paths in the repository."""
    found = []
    for token in (part for whole in tokens(page) for part in (whole, *(whole.children or ()))):
        if token.type in ("html_block", "html_inline"):
            found += Images(token.content).found
        found += [str(token.attrs[name]) for name in ("src", "href") if name in token.attrs]
    folder = os.path.dirname(page)
    return {os.path.normpath(os.path.join(folder, name)) for name in found if name.endswith(SUFFIXES)}


@pytest.mark.parametrize("page", PAGES)
def test_a_script_draws_the_pictures_of_each_page(page):
    shown = pictures_of(page)
    assert shown <= {picture.path for picture in PICTURES}, f"say in docs/draw_pictures.py how {page}'s are drawn"
    assert {picture.path for picture in PICTURES if picture.page == page} <= shown, "the page does not show it"
    assert all((ROOT / name).is_file() for name in shown)


@pytest.mark.parametrize("page", sorted({picture.page for picture in PICTURES}))
def test_its_commands_stand_on_the_page(page, reader):
    here = reader(page, shell=False)
    on_page = [*here.draw_nothing(), *inline_commands(page)]
    for picture in PICTURES:
        if picture.page == page:
            assert shlex.split(picture.command) in on_page, f"{page} has another command for {picture.path}"


def test_what_is_in_the_folder_is_shown():
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").iterdir() if path.suffix in SUFFIXES}
    assert files == {picture.path for picture in PICTURES}

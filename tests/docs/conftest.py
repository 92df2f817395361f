# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A reader of a page: a folder, a shell and a Python session."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers_docs import ROOT, SHELLS, Block, Shell, blocks, pages_with_commands, recorded, run_python
from helpers_docs_short import reason_not_to_run
from helpers_docs_world import make_page_folder, make_short_demo, make_world
from PIL import Image

import diffusers_ediffi


def pytest_generate_tests(metafunc):
    """`page_that_runs` is README.md, and with --all-docs every page with commands."""
    if "page_that_runs" in metafunc.fixturenames:
        everything = metafunc.config.getoption("--all-docs")
        metafunc.parametrize("page_that_runs", pages_with_commands() if everything else ["README.md"])


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "world"
    folder.mkdir()
    make_world(folder)
    return folder


@pytest.fixture(scope="session")
def short_demo(tmp_path_factory) -> Path:
    return make_short_demo(tmp_path_factory.mktemp("demo") / "demo")


class Reader:
    """Runs the blocks of a page in order, in its folder: those of Python in one namespace.

    Args:
        page (`str`): The page.
        folder (`Path`): Where the reader works.
        shell (`bool`): Whether commands run as well. If not, there are white pictures where they would draw some.
    """

    def __init__(self, page: str, folder: Path, shell: bool):
        self.page = page
        self.blocks = [block for block in blocks(page) if not reason_not_to_run(page, block.text)]
        self.folder = folder
        self.shell = shell
        self.namespace: dict[str, Any] = {"__name__": page}

    def read(self, further: Sequence[str] = ()) -> None:
        """Runs everything, and then further commands."""
        if not self.shell:
            self.draw_nothing()
        more = [Block(self.page, 0, "bash", command) for command in further]
        with Shell(self.folder) as shell:
            for block in (*self.blocks, *more):
                if block.language == "python":
                    run_python(block, self.namespace)
                elif block.language in SHELLS and self.shell:
                    self._type(block, shell)

    def _type(self, block: Block, shell: Shell) -> None:
        """Runs the commands of a block; where the page says what they print, they print that, and maybe more."""
        ended, printed = shell.run(block.commands)
        assert ended, f"{block.place}: a command of this block fails:\n{block.commands}\n{printed[-3000:]}"
        missing = set(block.output) - set(printed.splitlines())
        assert not missing, f"{block.place}: the page shows {missing}, printed was\n{printed}"

    def draw_nothing(self) -> list[list[str]]:
        """Writes what `ediffi` would draw, in white; returns the words of all commands."""
        found = recorded([block for block in self.blocks if block.language in SHELLS], self.folder)
        for words in found:
            if words[0] == "ediffi" and "--output" in words and words[1] != "evaluate":  # which draws into a folder
                Image.new("RGB", (64, 64), "white").save(self.folder / words[words.index("--output") + 1])
        return found


@pytest.fixture
def reader(world, short_demo, tmp_path, monkeypatch):
    """Makes the reader of a page, for whom the demo model is quick."""
    monkeypatch.setattr(diffusers_ediffi, "demo_checkpoint", lambda: str(short_demo))

    def of_page(page: str, shell: bool) -> Reader:
        text = (ROOT / page).read_text(encoding="utf-8")
        make_page_folder(world, tmp_path / "page", text, shell)
        monkeypatch.chdir(tmp_path / "page")
        return Reader(page, tmp_path / "page", shell)

    return of_page

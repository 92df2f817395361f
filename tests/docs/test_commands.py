# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The commands of the documentation: every one is read by its script's parser, and README's run.

`pytest tests/docs --all-docs` runs those of all pages, in the short forms of helpers_docs_short.py.
"""

import argparse
import os
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from helpers_docs import PAGES, ROOT, blocks, inline_commands, pages_with_commands
from helpers_docs_short import NOT_RUN, SHORT_FORMS, is_long, reason_not_to_run, short_form

from diffusers_ediffi.cli.parser import command_parser

# What the tables of examples/README.md leave out.
IMPLIED = ("--objects", "--output")


class Accepted(BaseException):
    """The parser of a script has taken all arguments."""


class ParserOfScript:
    """Lets the parser of a script read the words of a command, and nothing run; adds what goes without saying."""

    def __init__(self, words: list[str], complete: bool):
        self.words = list(words)
        self.complete = complete
        self.script = ROOT / words[1]

    def read(self, monkeypatch, capsys) -> None:
        parse_args = argparse.ArgumentParser.parse_args

        def parse_only(parser, args=None, namespace=None):
            if self.complete:
                self.words += self.implied(parser)
            parse_args(parser, self.words[2:])
            raise Accepted

        known = set(sys.modules)
        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
            patch.setattr(sys, "argv", self.words[1:])
            patch.setattr("diffusers_ediffi.cli.device.usable_device", str)  # pages speak of GPUs as well
            patch.syspath_prepend(str(self.script.parent))
            try:
                runpy.run_path(str(self.script), run_name="__main__")
            except Accepted:
                return
            except SystemExit:
                pytest.fail(f"{shlex.join(self.words)}\n{capsys.readouterr().err}")
            finally:  # scripts of another folder may have helpers of the same names
                for name in set(sys.modules) - known:
                    if self.script.parent in Path(getattr(sys.modules[name], "__file__", None) or "/").parents:
                        del sys.modules[name]
        pytest.fail(f"{self.words[1]} reads no arguments")

    def implied(self, parser: argparse.ArgumentParser) -> list[str]:
        needed = {name: action for action in parser._actions if action.required for name in action.option_strings}
        found = []
        for name in IMPLIED:
            if name in needed and name not in self.words:
                picture = ".png" if "PNG" in (needed[name].help or "") else ""
                found += [name, "noto_objects" if name == "--objects" else f"runs/{self.script.stem}{picture}"]
        return found


@pytest.fixture
def parse(monkeypatch, capsys):
    """Returns the words of a command, made whole, after its parser has read them."""

    def parse(words: list[str], complete: bool = False) -> list[str]:
        if words[0] == "python":
            assert (ROOT / words[1]).is_file(), f"there is no script {words[1]}"
            parser = ParserOfScript(words, complete)
            parser.read(monkeypatch, capsys)
            return parser.words
        if words[0] == "ediffi" and "--help" not in words:
            command_parser().parse_args(words[1:])
        return words

    return parse


@pytest.mark.parametrize("page", pages_with_commands())
def test_every_command_is_read_by_its_parser(page, reader, parse):
    """As bash reads them, and with what makes them short, which is appended."""
    here = reader(page, shell=False)
    for words in [*here.draw_nothing(), *inline_commands(page)]:
        if words[0] == "ediffi":  # which asks for the files as well; that they are made is seen where it runs
            for file in (word for word in words if word.endswith((".jpg", ".png", ".json"))):
                (here.folder / file).touch()
        if words[0] in ("python", "ediffi"):
            parse(short_form(words), complete=page == "examples/README.md")


def test_every_command_runs(page_that_runs, reader, parse, request, monkeypatch):
    """Everything on a page, in order, then its inline commands."""
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    found = inline_commands(page_that_runs)
    if not request.config.getoption("--all-docs"):
        found = [words for words in found if not is_long(words)]
    here = reader(page_that_runs, shell=True)
    if page_that_runs == "examples/README.md":
        found = [parse(words, complete=True) for words in found]
    here.read([shlex.join(words) for words in found])


def test_what_does_not_run_is_on_its_page():
    for page, line in NOT_RUN:
        assert any(reason_not_to_run(page, block.text) for block in blocks(page)), f"{page} has no line {line!r}"


def test_readmes_test_command_is_the_end_of_ci():
    last = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1]
    (command,) = (line for page, line in NOT_RUN if page == "README.md")
    assert command == last


@pytest.mark.parametrize("name", [name for name in SHORT_FORMS if name.endswith(".py")])
def test_short_forms_are_of_scripts_that_exist(name):
    assert (ROOT / ("examples" if "/" in name else "benchmarks") / name).is_file()


def test_pages_are_found():
    assert {"README.md", "model_card.md", "docs/style.md", "examples/README.md"} <= set(PAGES)

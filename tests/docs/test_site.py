# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The documentation site, as far as no generator is needed: .ci/run builds it, with warnings as errors."""

import ast
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers_docs import ROOT, tokens

import diffusers_ediffi
from diffusers_ediffi import evaluation, training

SITE = ROOT / "docs" / "site"
API = ROOT / "docs" / "api"
# What the package names for diffusers alone, which documents them.
OF_DIFFUSERS = {"DiffusionPipeline", "ModelMixin", "SchedulerMixin", "__version__"}


# --- the reference ---


@pytest.mark.parametrize("module", [diffusers_ediffi, training, evaluation], ids=lambda module: module.__name__)
def test_every_public_name_is_in_the_reference_once(module):
    listed = [name for page in API.glob("*.md") for name in re.findall(r"^\.\. \S+:: (\S+)", page.read_text(), re.M)]
    for name in set(module.__all__) - OF_DIFFUSERS:
        assert listed.count(f"{module.__name__}.{name}") == 1, (
            f"{module.__name__}.{name}: put it on a page of docs/api"
        )


def test_every_page_is_in_the_table_of_contents():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^(?:.* <)?([\w./]+?)>?$", index, re.M))
    pages = [path for path in (ROOT / "docs").rglob("*.md") if path.name != "index.md"]
    missing = {path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in pages} - listed
    assert not missing, f"docs/index.md leaves out {sorted(missing)}"


@pytest.fixture
def converted(monkeypatch):
    """Rewrites a docstring as the site does."""
    pytest.importorskip("docutils")
    module = runpy.run_path(str(SITE / "docstrings.py"))

    def convert(text: str, what: str = "class") -> str:
        lines = text.strip("\n").splitlines()
        module["process"](None, what, "name", None, None, lines)
        return "\n".join(lines)

    return convert


def test_marks_of_markdown_become_those_of_restructuredtext(converted):
    found = converted("`a|b`, [`EDiffIUNet`], [`~x.Y`], |D| and [a page](https://example.org/a)")
    page = "`a page <https://example.org/a>`__"
    assert found == rf"``a|b``, :py:obj:`.EDiffIUNet`, :py:obj:`.x.Y`, \|D\| and {page}"


def test_groups_of_arguments_are_sections_of_their_own(converted):
    found = converted("Draws.\n\nArgs:\n    > What\n    a (`int`): An a.\n\n    > How\n    b (`int`): A b.\n")
    assert [line for line in found.splitlines() if line] == [
        *("Draws.", "**What**", "Args:", "    a (``int``): An a."),
        *("**How**", "Args:", "    b (``int``): A b."),
    ]


def test_an_example_ends_the_section_before_it(converted):
    found = converted("Raises:\n    ValueError: `a` is wrong.\n\n    >>> f(`1`)\n    2\n\nMore `text`.")
    assert "\n.. code-block:: pycon\n\n    >>> f(`1`)\n    2\n\nMore ``text``." in found


def test_a_fenced_block_and_a_list_stand_apart(converted):
    found = converted("Text:\n- one `a`\n- two\n```python\nx = `y`\n```\nEnd.")
    assert found == "Text:\n\n- one ``a``\n- two\n\n.. code-block:: python\n\n    x = `y`\n\nEnd."


# --- links ---


def check(folder: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SITE / "check_links.py"), str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True)


def test_links_inside_are_checked_and_those_outside_listed(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text('<h1 id="top-1">A</h1><a href="sub/b.html#here">b</a><a href="#top-1">up</a>')
    (tmp_path / "sub" / "b.html").write_text(
        '<p id="here"><a href="../index.html">a</a><img src="https://example.org/p.png">'
    )
    assert check(tmp_path).returncode == 0
    assert check(tmp_path, "--outside").stdout == "https://example.org/p.png  (sub/b.html)\n"
    (tmp_path / "sub" / "b.html").write_text('<p id="there"><img src="none.png"><a href="https://example.org">x</a>')
    done = check(tmp_path)
    assert done.returncode == 1 and done.stderr.splitlines() == [
        "error: index.html links sub/b.html#here, and that page has no such anchor.",
        "error: sub/b.html links none.png, which is no file of the site.",
    ]
    assert check(tmp_path, "--outside").stdout == "https://example.org  (sub/b.html)\n"


def test_a_folder_without_pages_is_an_error(tmp_path):
    assert "holds no pages" in check(tmp_path).stderr


# --- diagrams ---


def test_the_diagrams_are_those_of_the_script(tmp_path):
    runpy.run_path(str(ROOT / "docs" / "draw_diagrams.py"))["main"](["--output", str(tmp_path)])
    committed = {path.name: path.read_text() for path in (ROOT / "docs" / "diagrams").iterdir()}
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == committed
    ideas = (ROOT / "docs" / "ideas.md").read_text(encoding="utf-8")
    assert all(f"(diagrams/{name})" in ideas for name in committed)


# --- troubleshooting ---


def texts_of_the_package() -> str:
    """Every string of the sources, with a mark where a value is put in."""
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def quoted_messages() -> Iterator[str]:
    """The first cells of the tables of docs/troubleshooting.md that are one message of this package."""
    rows = iter(tokens("docs/troubleshooting.md"))
    for token in rows:
        if token.type == "tr_open":
            cell = next(token for token in rows if token.type == "inline")
            if [child.type for child in cell.children or ()] == ["code_inline"]:
                yield cell.content.strip("`")


def test_quoted_messages_are_those_of_the_package():
    texts, messages = texts_of_the_package(), list(quoted_messages())
    assert len(messages) > 30
    for message in messages:
        for part in filter(None, map(str.strip, message.split("…"))):
            assert part in texts, f"docs/troubleshooting.md quotes {message!r}, and nothing says {part!r}"

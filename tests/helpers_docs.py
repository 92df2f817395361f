# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The commands and snippets of the documentation: read from its Markdown, and run as a reader would run them."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "examples" / "README.md")
    if path.name != "CHANGELOG.md"
)
SHELLS = ("bash", "console")
# What stands for the program of that name in a reader's shell: tests/docs/program.py.
PROGRAMS = ("python", "ediffi", "pip", "git", "wget", "unzip", "pytest", "ruff", "mypy")
PROGRAM = """#!/bin/sh
if [ "$DOCS_RECORD" ]; then printf '%s\\0' "$(($# + 1))" {name} "$@" >>"$DOCS_RECORD"; exit; fi
exec {command} "$@"
"""
END = "the block has ended"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, or its inline code."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> str:
        """What is typed into a shell."""
        if self.language != "console":
            return self.text
        return "".join(f"{line[2:]}\n" for line in self.text.splitlines() if line.startswith("$ "))

    @property
    def output(self) -> list[str]:
        """The lines that the page says are printed."""
        lines = self.text.splitlines() if self.language == "console" else []
        return [line for line in lines if not line.startswith("$ ")]


def tokens(page: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text(encoding="utf-8"))


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = [token for token in tokens(page) if token.type == "fence"]
    return [Block(page, token.map[0] + 1 if token.map else 0, token.info.strip(), token.content) for token in found]


def inline_code(page: str) -> Iterator[Block]:
    """The inline code of a page; its language is "table" in the cells of tables."""
    line, language = 0, ""
    for token in tokens(page):
        line = token.map[0] + 1 if token.map else line
        if token.type in ("td_open", "td_close"):
            language = "table" if token.type == "td_open" else ""
        codes = [child.content for child in token.children or () if child.type == "code_inline"]
        yield from (Block(page, line, language, code) for code in codes)


def inline_commands(page: str) -> list[list[str]]:
    """The words of every inline command: a script or `ediffi COMMAND` with at least an option or a value.

    In the tables of examples/README.md a script without options is a command, too.
    """
    found = []
    for code in inline_code(page):
        listed = page == "examples/README.md" and code.language == "table"
        first, _, rest = code.text.partition(" ")
        if first == "python" or first == "ediffi" and " " in rest.strip():
            found.append(shlex.split(code.text))
        elif first.endswith(".py") and (rest or listed) and _is_program(_script(first)):
            found.append(["python", _script(first).relative_to(ROOT).as_posix(), *shlex.split(rest)])
    return found


def _script(name: str) -> Path:
    (script,) = (path for path in (ROOT / "examples").rglob("*.py") if path.as_posix().endswith(f"/{name}"))
    return script


def _is_program(path: Path) -> bool:
    return "__main__" in path.read_text(encoding="utf-8")


def pages_with_commands() -> list[str]:
    return [page for page in PAGES if inline_commands(page) or any(block.language in SHELLS for block in blocks(page))]


class Shell:
    """A terminal in a folder: bash that ends at the first command which fails, as with `bash -e`.

    Args:
        folder (`Path`): Where it starts.
        record (`Path`, *optional*): A file to which the programs append their arguments instead of running.
    """

    def __init__(self, folder: Path, record: Path | None = None):
        programs = folder / ".programs"
        programs.mkdir(exist_ok=True)
        stand_in = Path(__file__).parent / "docs" / "program.py"
        for name in PROGRAMS:
            command = shlex.join([sys.executable, str(stand_in), name])
            (programs / name).write_text(PROGRAM.format(name=name, command=command))
            (programs / name).chmod(0o755)
        environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "DOCS_RECORD": str(record or "")}
        streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self._bash = subprocess.Popen(["bash", "-e"], cwd=folder, env=environment, text=True, **streams)

    def __enter__(self) -> "Shell":
        return self

    def __exit__(self, *error: object) -> None:
        self._bash.kill()
        self._bash.communicate()

    def run(self, commands: str) -> tuple[bool, str]:
        """Whether all commands ended well, and what they printed."""
        assert self._bash.stdin and self._bash.stdout
        self._bash.stdin.write(f"{{\n{commands}\n}} </dev/null\necho; echo {shlex.quote(END)}\n")
        self._bash.stdin.flush()
        printed = []
        for line in self._bash.stdout:
            if line.rstrip("\n") == END:
                return True, "".join(printed).removesuffix("\n")
            printed.append(line)
        return False, "".join(printed)


def recorded(found: Sequence[Block], folder: Path) -> list[list[str]]:
    """The words of every command that a shell would start for these blocks of a page, as the shell reads them."""
    record = folder / ".recorded"
    record.touch()
    with Shell(folder, record) as shell:
        for block in found:
            ended, printed = shell.run(block.commands)
            assert ended, f"{block.place}: bash does not read this block:\n{printed}"
    words = record.read_text(encoding="utf-8").split("\0")[:-1]
    commands = []
    while words:
        count = int(words.pop(0))  # which stands before the words of each
        commands.append(words[:count])
        del words[:count]
    return commands


def run_python(block: Block, namespace: dict[str, Any]) -> None:
    """Runs a block; a traceback names the page and its line."""
    code = compile("\n" * block.line + block.text, block.page, "exec")
    try:
        exec(code, namespace)
    except Exception as error:
        error.add_note(f"in the block at {block.place}")
        raise

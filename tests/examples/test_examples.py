# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Every example imports, explains itself and shows how it is started."""

import ast
import runpy
import sys

import pytest
from helpers_examples import EXAMPLES, scripts


@pytest.mark.parametrize("path", scripts(), ids=lambda path: path.name)
def test_help(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    monkeypatch.syspath_prepend(str(path.parent))
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(path), run_name="__main__")
    assert stop.value.code == 0
    assert f"usage: {path.name}" in capsys.readouterr().out


@pytest.mark.parametrize("path", scripts(), ids=lambda path: path.name)
def test_launch_command_stands_at_the_top(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring and f"examples/{path.relative_to(EXAMPLES).as_posix()}" in docstring


@pytest.mark.parametrize("path", scripts(), ids=lambda path: path.name)
def test_no_script_imports_another(path):
    names = {script.stem for script in scripts()}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not names & set(imported), "what scripts share belongs into the helper file of their folder"

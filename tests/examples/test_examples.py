# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Every example imports, explains itself and shows how it is started."""

import ast
import runpy
import sys

import pytest
from helpers_examples import BENCHMARKS, EXAMPLES, scripts


@pytest.mark.parametrize("path", scripts(), ids=lambda path: path.name)
def test_help(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    monkeypatch.syspath_prepend(str(path.parent))
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(path), run_name="__main__")
    assert stop.value.code == 0
    assert f"usage: {path.name}" in capsys.readouterr().out


# What `pip install .` brings, with what PyTorch and transformers bring.
INSTALLED = {"accelerate", "diffusers", "diffusers_ediffi", "filelock", "huggingface_hub", "numpy", "PIL"}
INSTALLED |= {"safetensors", "tokenizers", "torch", "tqdm", "transformers", "yaml"}


@pytest.mark.parametrize("path", [*scripts(), *sorted(BENCHMARKS.glob("*.py"))], ids=lambda path: path.name)
def test_help_needs_no_more_than_is_installed(path):
    """What is imported at the top is there without extras; what is not is asked for in one line where it is needed."""
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    beside = {other.stem for other in path.parent.glob("*.py")}
    foreign = {name.partition(".")[0] for name in names} - beside - sys.stdlib_module_names
    assert foreign <= INSTALLED


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

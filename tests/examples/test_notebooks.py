# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The notebooks: the first runs here, the other by examples/notebooks/run_notebooks.py."""

import ast
import json

import pytest
from helpers_docs_world import make_short_demo
from helpers_examples import EXAMPLES, import_script
from PIL import Image

import diffusers_ediffi

NOTEBOOKS = sorted((EXAMPLES / "notebooks").glob("*.ipynb"))
SIZE = "SIZE = 256"


def code_cells(path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def shown_by(cell: str, namespace: dict):
    """Runs a cell; the value of its last line, if that is an expression, is what a notebook shows."""
    body = ast.parse(cell).body
    last = ast.Expression(body.pop().value) if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), namespace)
    return eval(compile(last, "cell", "eval"), namespace) if last else None


def test_start_runs_at_64_pixels(tmp_path, monkeypatch):
    """Every cell that shows a picture shows one that is not of one colour, and the same seed the same picture.

    The demo model has fewer steps here, as for the pages of the documentation.
    """
    short_demo = make_short_demo(tmp_path / "demo")
    monkeypatch.setattr(diffusers_ediffi, "demo_checkpoint", lambda: str(short_demo))
    (tmp_path / "reader").mkdir()
    monkeypatch.chdir(tmp_path / "reader")
    cells, namespace = code_cells(EXAMPLES / "notebooks" / "start.ipynb"), {}
    assert sum(SIZE in cell for cell in cells) == 1
    shown = [shown_by(cell.replace(SIZE, "SIZE = 64"), namespace) for cell in cells]
    pictures = [picture for picture in shown if isinstance(picture, Image.Image)]
    assert len(pictures) == 5 and all(len(picture.getcolors(2**20)) > 100 for picture in pictures)
    again = namespace["pipe"](namespace["prompt"], height=64, width=64, generator=namespace["seeds"](3)).images[0]
    assert again.tobytes() == pictures[0].tobytes()
    assert not any((tmp_path / "reader").iterdir())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_small_and_shows_its_pictures(path):
    assert path.stat().st_size < 300_000
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
    assert sum("image/jpeg" in output.get("data", {}) for output in outputs) == 5
    assert not any(output["output_type"] == "error" for output in outputs)
    assert "/root" not in path.read_text(encoding="utf-8") and "image/png" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_installs_the_package_where_that_is_missing(path):
    (install,) = (cell for cell in code_cells(path) if "find_spec" in cell)
    assert 'run_line_magic("pip", f"install --quiet git+{REPOSITORY}")' in install


def test_what_differs_from_run_to_run_is_not_kept(monkeypatch):
    clean = import_script("notebooks/run_notebooks", monkeypatch).clean
    data = {"image/png": "p", "image/jpeg": "j", "text/plain": "<PIL.Image.Image at 0x7f>"}
    result = {"output_type": "execute_result", "execution_count": 3, "metadata": {}, "data": data}
    warning = {"output_type": "stream", "name": "stderr", "text": "a warning of a library"}
    cell = {"cell_type": "code", "execution_count": 3, "metadata": {"execution": {"started": "now"}}, "source": []}
    notebook = {"cells": [{**cell, "outputs": [warning, result]}, {"cell_type": "markdown", "metadata": {"a": 1}}]}
    first, second = clean(notebook)["cells"]
    (kept,) = first["outputs"]
    assert kept["data"] == {"image/jpeg": "j", "text/plain": "a picture"} and kept["execution_count"] is None
    assert first["execution_count"] is None and first["metadata"] == {} == second["metadata"]

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Every example imports, explains itself and shows how it is started."""

import ast
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffusers_ediffi import EDiffIPipeline, ExpertRouterUNet

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_help(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    monkeypatch.syspath_prepend(str(path.parent))
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(path), run_name="__main__")
    assert stop.value.code == 0
    assert f"usage: {path.name}" in capsys.readouterr().out


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_launch_command_stands_at_the_top(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring and f"examples/{path.name}" in docstring


def test_the_demo_recipe_in_miniature(tmp_path, monkeypatch):
    """Every stage for one step, from the tokenizers to a pipeline that loads and draws."""
    script = EXAMPLES[0].parent / "train_demo.py"
    phrases = runpy.run_path(str(script))["PHRASES"]
    objects = tmp_path / "objects"
    objects.mkdir()
    for i in range(len(phrases)):
        Image.new("RGBA", (48, 48), (10 * i, 250 - 10 * i, 128, 255)).save(objects / f"{i}.png")
    index = [{"file": f"{i}.png", "phrase": phrase} for i, phrase in enumerate(phrases)]
    (objects / "index.json").write_text(json.dumps(index))

    networks = ["base", "base-high", "base-low", "sr256", "sr256-low", "sr1024"]
    command = [sys.executable, script, "--objects", objects, "--output", tmp_path / "run"]
    command += ["--stages", "clip", "t5", *networks, "assemble"]
    command += ["--steps", *(f"{stage}=1" for stage in ("clip", "t5", *networks))]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]

    pipe = EDiffIPipeline.from_pretrained(tmp_path / "run" / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    assert [stage.size for stage in pipe.stages] == [64, 256, 1024]
    assert isinstance(pipe.unet, ExpertRouterUNet) and len(pipe.unet_sr256.experts) == 2
    generator = torch.Generator().manual_seed(0)
    image = pipe("a rocket", height=256, width=256, num_inference_steps=2, generator=generator).images[0]
    assert image.size == (256, 256)


def test_the_demo_recipe_refuses_bad_input(tmp_path):
    for arguments, message in (
        (["--objects", tmp_path], "index.json"),
        (["--objects", tmp_path, "--minutes", "base"], "STAGE=NUMBER"),
        (["--objects", tmp_path, "--steps", "basis=3"], "STAGE=NUMBER"),
    ):
        command = [sys.executable, EXAMPLES[0].parent / "train_demo.py", "--output", tmp_path / "run", *arguments]
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert result.returncode and message in result.stderr and not (tmp_path / "run").exists()

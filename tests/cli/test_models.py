# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`ediffi models`: what can be loaded, here and elsewhere."""

import functools
import json
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from diffusers_ediffi.cli import models
from diffusers_ediffi.cli.main import main

ROOT = Path(__file__).parent.parent.parent
REVISION = "1234567890abcdef1234567890abcdef12345678"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the Hub, which is not there yet."""
    monkeypatch.setattr(models, "scan_cache_dir", functools.partial(scan_cache_dir, tmp_path / "hub"))
    return tmp_path / "hub"


def add(hub, name, folder=None, **files):
    """Puts a repository into the cache, from a folder or of files with these texts."""
    snapshot = hub / name / "snapshots" / REVISION
    if folder is not None:
        shutil.copytree(folder, snapshot)
    snapshot.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (snapshot / file.replace("__", ".")).write_text(text)
    (hub / name / "blobs").mkdir()
    (hub / name / "refs").mkdir()
    (hub / name / "refs" / "main").write_text(REVISION)


def listed(capsys):
    assert main(["models", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.count("\n") == 1
    return json.loads(out)


def test_the_packaged_model_is_there_without_a_cache(hub, capsys):
    (demo,) = listed(capsys)["here"]
    assert (demo["name"], demo["pipeline"], demo["licence"]) == ("demo", "EDiffIPipeline", "apache-2.0")
    assert 1e7 < demo["bytes"] < 1e8


def test_the_cache_is_listed(hub, model, capsys):
    """Pipelines of both kinds with what takes them; neither other models nor data, and no damaged repository."""
    add(hub, "models--org--tiny", model)
    of_diffusers = json.dumps(
        {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    )
    add(hub, "models--org--sd", model_index__json=of_diffusers)
    add(hub, "models--org--bert", config__json="{}")
    add(hub, "models--org--broken", model_index__json="no JSON")
    add(hub, "datasets--org--data", model_index__json=of_diffusers)
    (hub / "models--org--half").mkdir()
    (hub / "models--org--begun" / "snapshots").mkdir(parents=True)
    (hub / "models--org--begun" / "blobs").mkdir()
    _, sd, tiny = listed(capsys)["here"]
    assert (tiny["name"], tiny["pipeline"], tiny["licence"]) == ("org/tiny", "EDiffIPipeline", "apache-2.0")
    assert "ediffi paint" in tiny["works_with"] and tiny["bytes"] > 10_000
    assert (sd["name"], sd["pipeline"], sd["licence"]) == ("org/sd", "StableDiffusionPipeline", "not stated")
    assert "paint_with_words" in sd["works_with"] and "ediffi paint" not in sd["works_with"]


def test_it_is_readable(hub, model, capsys):
    add(hub, "models--org--tiny", model)
    assert main(["models"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == "" and max(map(len, lines)) <= 120
    assert "org/tiny: in the cache of the Hub" in lines and "  licence      apache-2.0" in lines
    assert "accept it on the model's page" in out.partition("DeepFloyd IF: base")[2].partition("Karlo")[0]


@pytest.mark.parametrize("model", models.PUBLIC, ids=lambda model: model.name)
def test_public_models_are_those_of_the_docs(model):
    """The same licence and the same memory stand in docs/models.md; scripts exist."""
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {model.name}")]
    assert model.licence.removesuffix(": not commercial") in row
    assert ("not commercial" in row) == ("not commercial" in model.licence)
    assert ("accept it" in row) == model.gated
    assert f"{model.weights_gb:.1f} GB, {model.largest_part_gb:.1f} GB" in row or (
        f"{model.weights_gb:.1f} GB" in row and model.weights_gb == model.largest_part_gb
    )
    assert all((ROOT / script).is_file() for script in re.findall(r"(?:conversion|examples)/[\w/]+\.py", model.use))


def test_the_demos_memory_is_that_of_readme():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    small, large = re.findall(r"[\d.]+ GB", models.DEMO_MEMORY)
    assert f"with at most {large.removesuffix(' GB')} and {small} of memory" in readme


def test_demo_is_a_name_of_the_packaged_model(hub, capsys):
    assert main(["info", "--words", "--model", "demo"]) == 0
    named = capsys.readouterr().out
    assert main(["info", "--words"]) == 0
    assert capsys.readouterr().out == named

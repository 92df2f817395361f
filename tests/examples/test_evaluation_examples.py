# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The examples around `ediffi evaluate`: sets of scenes for it, and schedulers of a pipeline side by side."""

import json

import pytest
from diffusers import StableDiffusionPipeline
from helpers_diffusers import build, tiny_unet
from helpers_evaluation import dinov2, write_pictures
from helpers_examples import import_script

from diffusers_ediffi.evaluation import list_pictures, read_captions
from diffusers_ediffi.images import image_size
from diffusers_ediffi.training import ImageFolder


def test_a_set_of_scenes(tmp_path, objects, monkeypatch):
    script = import_script("evaluate/write_scene_set", monkeypatch)
    options = ["--objects", objects, "--output", tmp_path / "scenes", "--count", 5, "--size", 32]
    script.main(list(map(str, [*options, "--object-weights", 1])))
    captions = read_captions(tmp_path / "scenes" / "captions.txt")
    real, reference = (ImageFolder(tmp_path / "scenes" / name) for name in ("real", "reference"))
    assert tuple(real[row].caption for row in range(5)) == captions.texts
    assert len(reference) == 5 and image_size(tmp_path / "scenes" / "real" / "000004.png") == (32, 32)
    pictures = [
        path.read_bytes() for name in ("real", "reference") for path in list_pictures(tmp_path / "scenes" / name)
    ]
    assert len(set(pictures)) == 10, "no scene is in both"


def test_schedulers_of_a_pipeline_side_by_side(tmp_path, monkeypatch, capsys):
    script = import_script("evaluate/evaluate_schedulers", monkeypatch)
    build(StableDiffusionPipeline, tiny_unet()).save_pretrained(tmp_path / "model")
    write_pictures(tmp_path / "real", 6)
    dinov2(tmp_path / "network", width=4)
    (tmp_path / "captions.txt").write_text("".join(f"{letter} cat\n" for letter in "abcdef"))
    options = [
        "--model",
        tmp_path / "model",
        "--captions",
        tmp_path / "captions.txt",
        "--reference",
        tmp_path / "real",
    ]
    options += [
        "--feature-network",
        tmp_path / "network",
        "--clip",
        "demo",
        "--steps",
        2,
        "--output",
        tmp_path / "out",
    ]
    figures = script.main(list(map(str, [*options, "--schedulers", "own", "EDMDEISScheduler"])))
    assert figures["own"]["frechet_distance"] != figures["EDMDEISScheduler"]["frechet_distance"]
    card = json.loads((tmp_path / "out" / "EDMDEISScheduler" / "card.json").read_text())
    assert card["metrics"] == figures["EDMDEISScheduler"]
    assert card["drawn"]["model"]["schedulers"]["scheduler"]["class"] == "EDMDEISScheduler"
    with pytest.raises(ValueError, match="--schedulers UNet2DModel: diffusers has no such scheduler"):
        script.main(list(map(str, [*options, "--schedulers", "UNet2DModel"])))

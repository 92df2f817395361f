# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What a model has learnt of a new object: which prompts are new, what is counted, and that a cut run goes on."""

import json
import math
from pathlib import Path

import pytest
import torch
from helpers_examples import import_script
from helpers_pictures import write_metadata
from PIL import Image
from scipy.stats import norm, sem

from diffusers_ediffi import EDiffIPipeline, demo_checkpoint
from diffusers_ediffi.training import StageNetworks
from diffusers_ediffi.training.lora import add_lora, trained_expert

CAPTIONS = {"0.png": "a rocket on a red background", "1.png": "a rocket and a sun on a beach"}


@pytest.fixture
def evaluate(objects, tmp_path, monkeypatch):
    """Evaluates a LoRA of the packaged model at one step; all pictures are drawn with the lowest of its experts."""
    script = import_script("evaluate/evaluate_new_object", monkeypatch)
    (tmp_path / "rockets").mkdir()
    for number, name in enumerate(CAPTIONS):
        Image.new("RGB", (80, 80), (200 * number, 90, 20)).save(tmp_path / "rockets" / name)
    write_metadata(tmp_path / "rockets", CAPTIONS)
    stage = StageNetworks.read(demo_checkpoint(), "unet")
    unet = stage.load(2)
    add_lora(unet, 1, only=True)
    factors = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    weights = [torch.randn(factor.shape, generator=torch.Generator().manual_seed(0)) for factor in factors]
    layers = stage.lora_layers({2: trained_expert(unet, [weight * 0.2 for weight in weights])})
    EDiffIPipeline.save_lora_weights(tmp_path / "lora", unet_lora_layers=layers)

    def run(*options):
        needed = {"--tuned": tmp_path / "lora", "--train_data_dir": tmp_path / "rockets", "--objects": objects}
        needed |= {"--phrase": "rocket", "--output": tmp_path / "figures", "--steps": 1, "--batch-size": 3}
        needed |= {"--num-prompts": 4, "--num-known-prompts": 5, "--grid-columns": 2}
        words = [word for pair in needed.items() for word in pair]
        return script.main(list(map(str, [*words, "--known", "sun", "moon", *options])))

    run.script = script
    return run


def test_both_models_are_measured_and_a_cut_run_goes_on(evaluate, tmp_path, monkeypatch, capsys):
    script, output = evaluate.script, tmp_path / "figures"
    draw, drawn = script.draw, []

    def draw_some(pipe, captions, start, args):
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(captions)
        return draw(pipe, captions, start, args)

    monkeypatch.setattr(script, "draw", draw_some)
    with pytest.raises(KeyboardInterrupt):
        evaluate()
    drawn.clear()
    monkeypatch.setattr(script, "draw", lambda *call: drawn.append(call[1]) or draw(*call))
    results = evaluate()
    assert len(drawn) == 8 - 3  # two of 3 and 1 or 2 pictures of each set and model
    assert json.loads((output / "results.json").read_text()) == results
    assert len(results["prompts"]) == 4 and all("rocket" in prompt for prompt in results["prompts"])
    assert "known objects: " in capsys.readouterr().out
    files = [(output / model / "new" / "00000.png").read_bytes() for model in ("before", "after")]
    assert files[0] != files[1]
    with Image.open(output / "grid.png") as grid:
        assert grid.size == (2 * 3 * 64, 2 * 64)
    nearest = results["nearest"]
    assert len(nearest) == 4 and {entry["picture"] for entry in nearest} <= set(CAPTIONS)
    with pytest.raises(ValueError, match="holds figures with seed = 0, now it is 1: choose another --output"):
        evaluate("--seed", 1)


def test_new_prompts_have_neither_ground_nor_partner_of_a_training_picture(evaluate, tmp_path):
    scenes = evaluate.script.scenes_of(
        evaluate.script.parse_arguments(
            [
                *("--tuned", "x", "--train_data_dir", "x", "--output", "x", "--phrase", "rocket"),
                *("--objects", str(tmp_path / "objects"), "--known", "sun", "moon", "--num-prompts", "40"),
            ]
        ),
        evaluate.script.ImageFolder(tmp_path / "rockets"),
    )
    new = scenes["new"]
    assert len(new) == 40 and all("rocket" in scene.phrases for scene in new)
    assert {phrase for scene in new for phrase in scene.phrases} == {"rocket", "moon"}  # the sun is in one
    grounds = {scene.ground.name for scene in new}
    assert len(grounds) > 10 and not grounds & {"red", "beach"}
    assert not any("rocket" in scene.phrases for scene in scenes["known"])


def test_the_paired_interval(monkeypatch):
    script = import_script("evaluate/evaluate_new_object", monkeypatch)
    before, after = [True, True, False, True, False, True], [True, False, False, False, True, True]
    differences = [int(b) - int(a) for a, b in zip(before, after, strict=True)]
    low, high = norm.interval(0.95, loc=sum(differences) / 6, scale=sem(differences))
    found = script.paired_change(before, after)
    assert math.isclose(found["change"], -1 / 6) and found["interval"] == pytest.approx([low, high], abs=1e-4)


def test_the_nearest_picture(monkeypatch):
    script = import_script("evaluate/evaluate_new_object", monkeypatch)
    trained = torch.stack([torch.full((3, 4, 4), value) for value in (-1.0, 0.0, 1.0)])
    rows, distances = script.nearest(torch.stack([trained[2] - 0.25, trained[0]]), trained)
    assert rows == [2, 0] and distances == pytest.approx([0.25, 0.0], abs=1e-6)


def test_what_does_not_fit_is_refused(evaluate, tmp_path):
    for options, error, message in (
        (("--tuned", tmp_path / "rockets"), OSError, "holds neither pytorch_lora_weights.safetensors nor a pipeline"),
        (("--known", "rocket"), ValueError, "'rocket' is an object that the model knew before"),
    ):
        with pytest.raises(error, match=message):
            evaluate(*options)
    assert not (tmp_path / "figures").exists()


def test_a_scorer_that_does_not_know_the_object_is_refused(evaluate, objects, tmp_path):
    index = Path(objects) / "index.json"
    entries = json.loads(index.read_text())
    index.write_text(json.dumps([{**entries[0], "phrase": "zorb"}, *entries[1:]]))
    with pytest.raises(ValueError, match="the scorer does not know 'zorb': train one"):
        evaluate("--phrase", "zorb")
    assert not (tmp_path / "figures").exists()

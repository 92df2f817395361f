# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The scripts that draw: what they write is what they were asked for, and says how it was made."""

import importlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from helpers import tiny_pipeline
from helpers_diffusers import build, tiny_unet
from helpers_docs_world import make_short_demo
from helpers_examples import import_script
from PIL import Image

from diffusers_ediffi import (
    read_provenance,
)


def test_paint_with_words_on_the_demo_model(tmp_path, monkeypatch):
    script = import_script("draw/paint_with_words", monkeypatch)
    script.main(["--output", str(tmp_path / "out.png"), "--size", "64", "--seeds", "3", "--strengths", "0", "1"])
    settings = read_provenance(tmp_path / "out.png").settings
    assert (settings["seeds"], settings["region_strengths"], settings["model"]) == ([3], [0.0, 1.0], "demo")
    with Image.open(tmp_path / "out.png") as grid:
        assert grid.size == (128, 128)
        pixels = torch.from_numpy(np.array(grid)).float()
    plain, painted = pixels[:64], pixels[64:]
    # without paint both halves differ in the outlines alone, which have the other's colour
    inside = slice(16, 48)
    assert torch.equal(plain[inside, 4:28], plain[inside, 68:92])
    assert (painted[inside, 4:28] - painted[inside, 68:92]).abs().max() > 30


def test_show_steps(tmp_path, monkeypatch):
    """The first sample is noise, the last nearly what the expert takes the picture for."""
    main = import_script("draw/show_steps", monkeypatch).main
    model = ["--model", str(make_short_demo(tmp_path / "demo")), "--output", str(tmp_path / "out.png")]
    main([*model, "--steps", "0", "1", "--seed", "3"])
    assert read_provenance(tmp_path / "out.png").settings["seed"] == 3
    with Image.open(tmp_path / "out.png") as grid:
        assert grid.size == (2 * 128, 18 + 2 * (128 + 36))
        pixels = np.array(grid).astype(float)
    sample, denoised = pixels[54:182], pixels[218:]
    first, last = (abs(sample[:, half] - denoised[:, half]).mean() for half in (slice(0, 128), slice(128, 256)))
    assert 4 * last < first
    with pytest.raises(ValueError, match="--steps 2: the base has the steps 0 to 1"):
        main([*model, "--steps", "2"])


def test_show_steps_names_the_expert_of_each_step(monkeypatch):
    script = import_script("draw/show_steps", monkeypatch)
    pipe = script.EDiffIPipeline.from_pretrained(script.demo_checkpoint())
    low, high = pipe.unet.boundaries
    labels = [script.label(pipe, sigma) for sigma in (low / 2, low, high, 2 * high)]
    assert [label[-1] for label in labels] == ["0", "1", "2", "2"]


@pytest.fixture
def tiny_model(tmp_path) -> Path:
    """A saved pipeline whose base draws 8 x 8 pixels."""
    tiny_pipeline(default_num_inference_steps=(4, 1, 1)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_style_transfer(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        Image.effect_noise((20, 20), 90 * number + 20).save(f"{number}.png")
    files = [f"{number}.png" for number in range(2)]
    options = ["--model", str(tiny_model), "--size", "8", "--scales", "0", "2", "--seeds", "3"]
    script = import_script("draw/style_transfer", monkeypatch)
    script.main([*options, "--styles", *files, "--weights", "0", "1", "--output", str(tmp_path / "out.png")])
    assert read_provenance(tmp_path / "out.png").settings["style_scales"] == [0.0, 2.0]
    with Image.open(tmp_path / "out.png") as grid:
        assert grid.size == (3 * 128, 18 + 3 * (128 + 18))
        rows = np.stack([np.array(grid)[36 + 146 * row : 164 + 146 * row] for row in range(3)])
    plain, styled = rows[:, :, 128:256], rows[:, :, 256:]
    assert (plain == plain[0]).all(), "a scale of 0 is no style, whatever the reference"
    assert (styled[0] != styled[1]).any() and (styled[1] == styled[2]).all(), "all weight is on the second"


def test_variations(tiny_model, tmp_path, monkeypatch):
    main = import_script("draw/variations", monkeypatch).main
    options = ["--model", str(tiny_model), "--size", "8", "--seeds", "1", "2", "--texts", "a cat", "a red cat"]
    main([*options, "--output", str(tmp_path / "out.png")])
    Image.effect_noise((20, 20), 50).save(tmp_path / "noise.png")
    main([*options, "--image", str(tmp_path / "noise.png"), "--output", str(tmp_path / "noise_out.png")])
    tiles = []
    for name in ("out.png", "noise_out.png"):
        with Image.open(tmp_path / name) as grid:
            assert grid.size == (3 * 128, 18 + 3 * (128 + 18))
            tops, lefts = [36 + 146 * row for row in range(3)], (128, 256)
            tiles += [np.array(grid)[top : top + 128, left : left + 128] for top in tops for left in lefts]
    assert len({tile.tobytes() for tile in tiles}) == 2 * 3 * 2, "picture, text and seed all matter"


def test_prompt_schedule(tiny_model, objects, tmp_path, monkeypatch):
    main = import_script("draw/prompt_schedule", monkeypatch).main
    options = ["--model", tiny_model, "--objects", objects, "--output", tmp_path / "out", "--num-pairs", "3"]
    results = main(list(map(str, [*options, "--batch-size", "2", "--left", "0", "50", "100"])))
    mean = {left: found["mean"] for left, found in results["difference"].items()}
    assert mean["0"] == 0 < mean["50"] and mean["100"] > 0
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == json.loads(json.dumps(results))
    with Image.open(tmp_path / "out" / "pairs.png") as grid:
        assert grid.size == (3 * 128, 18 + 3 * (128 + 2 * 18))  # two lines for each pair of captions
    with pytest.raises(ValueError, match="lie in 0 to 100"):
        main(list(map(str, [*options, "--left", "101"])))


def test_prompt_schedule_of_given_prompts(tiny_model, tmp_path, monkeypatch):
    """Needs no objects; 100% to the second is the second prompt, drawn from the same noise."""
    main = import_script("draw/prompt_schedule", monkeypatch).main
    options = ["--model", tiny_model, "--output", tmp_path / "out", "--left", "0", "100"]
    pairs = ["--pair", "a cat", "a red cat", "--pair", "a dog", "a dog"]
    results = main(list(map(str, [*options, *pairs])))
    assert results["captions"] == ["a cat", "a red cat", "a dog", "a dog"]
    with Image.open(tmp_path / "out" / "pairs.png") as grid:
        pictures = np.array(grid)
        assert grid.size == (2 * 128, 18 + 2 * (128 + 18))
    cat, dog = ((pictures[top : top + 128, :128], pictures[top : top + 128, 128:]) for top in (36, 182))
    assert (cat[0] != cat[1]).any() and (dog[0] == dog[1]).all()
    for wrong in ([], [*pairs, "--objects", tmp_path]):
        with pytest.raises(ValueError, match="give either --pair FIRST SECOND, or --objects"):
            main(list(map(str, [*options, *wrong])))


def test_captions_of_a_grid_are_wrapped_to_its_width(monkeypatch):
    """A long one is not cut: it has more lines, right above its own row, and the pictures stay where they belong."""
    draw_grid = import_script("draw/grids_and_options", monkeypatch).draw_grid
    red, blue = (Image.new("RGB", (64, 64), color) for color in ("red", "blue"))
    prompt = "pixel art of a red balloon to the left of a sunflower in front of a light blue background"
    grid = np.array(draw_grid([[red, blue], [blue, red]], ["short", prompt], ["picture", "seed 1"]))
    lines = (grid.shape[0] - 18) // 2 - 128  # of each row, as tall as the most lines
    assert grid.shape[1] == 256 and lines == 3 * 18
    tops = [18 + lines, 18 + 2 * lines + 128]
    for top, colors in zip(tops, ([(255, 0, 0), (0, 0, 255)], [(0, 0, 255), (255, 0, 0)]), strict=True):
        for column, color in enumerate(colors):
            assert (grid[top : top + 128, 128 * column : 128 * (column + 1)] == color).all()
    dark = (grid < 128).all(axis=2)
    written = [[dark[top - 18 * back : top - 18 * (back - 1)].any() for back in (3, 2, 1)] for top in tops]
    assert written == [[False, False, True], [True, True, True]]
    assert not dark[tops[1] - lines : tops[1], -2:].any(), "no letter touches the edge"


def test_paint_with_words_sd(tmp_path, monkeypatch):
    """On a tiny Stable Diffusion: a box, a mask and a canvas that say the same."""
    pipe = build(StableDiffusionPipeline, tiny_unet())
    pipe.save_pretrained(tmp_path / "model")
    mask = Image.new("L", (8, 8), 0)
    mask.paste(255, (0, 0, 4, 8))
    mask.save(tmp_path / "mask.png")
    canvas = Image.new("RGB", (8, 8), "white")
    canvas.paste("red", (0, 0, 4, 8))
    canvas.save(tmp_path / "canvas.png")
    script = import_script("draw/paint_with_words_sd", monkeypatch)

    def run(*options):
        fixed = [
            "--model",
            tmp_path / "model",
            "--prompt",
            "a cat",
            "--output",
            tmp_path / "out.png",
            "--device",
            "cpu",
        ]
        size = ["--height", "8", "--width", "8", "--steps", "2", "--strength", "3"]
        script.main(list(map(str, (*fixed, *size, *options))))
        with Image.open(tmp_path / "out.png") as image:
            return np.array(image)

    plain = run()
    drawn = [
        run("--region", f"cat={tmp_path / 'mask.png'}"),
        run("--canvas", tmp_path / "canvas.png", "--color", "red=cat"),
    ]
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != plain).any()
    assert str(tmp_path).encode() not in (tmp_path / "out.png").read_bytes()
    assert (run("--region", "cat=0,0,0.5,1") != plain).any()
    settings = read_provenance(tmp_path / "out.png").settings
    assert settings["regions"] == [{"phrase": "cat", "mask": [0.0, 0.0, 0.5, 1.0]}] and settings["model"] == "model"
    run("--no-provenance")
    with pytest.raises(ValueError, match="says nothing"):
        read_provenance(tmp_path / "out.png")
    with pytest.raises(SystemExit):
        run("--region", "cat=0,0,3,1")


def test_image_to_image_on_the_demo_model(tmp_path, capsys, monkeypatch):
    """A row of the picture itself, of what strength 0 leaves as it is, and of what is drawn without it."""
    Image.new("RGB", (64, 64), (255, 0, 0)).save(tmp_path / "red.png")
    script = import_script("draw/image_to_image", monkeypatch)
    paths = ["--output", tmp_path / "out.png", "--image", tmp_path / "red.png"]
    script.main([*map(str, paths), "--size", "64", "--steps", "2", "--seeds", "3", "--strengths", "0", "1"])
    assert "strength 1: sigma 80, 2 evaluations" in capsys.readouterr().out
    with Image.open(tmp_path / "out.png") as grid:
        assert grid.size == (3 * 128, 18 + 18 + 128)
        source, kept, drawn = np.split(np.array(grid)[36:], 3, axis=1)
    assert read_provenance(tmp_path / "out.png").settings["strengths"] == [0, 1]
    assert (source == (255, 0, 0)).all() and (kept == source).all() and (drawn != source).any()


def test_inpaint_on_the_demo_model(tmp_path, monkeypatch):
    script = import_script("draw/inpaint", monkeypatch)
    options = ["--size", "64", "--steps", "2", "--seeds", "3", "--box", "0.5", "0", "1", "1"]
    script.main(list(map(str, ["--output", tmp_path / "out.png", *options])))
    with Image.open(tmp_path / "out.png") as grid:
        source, drawn = np.split(np.array(grid)[-128:], 2, axis=1)
    assert (drawn[:, :64] == source[:, :64]).all()
    assert (drawn[2:-2, 68:-4] != source[2:-2, 68:-4]).any()


def test_record_attention_of_the_demo_model(objects, tmp_path, monkeypatch):
    """Shares of held-out prompts and of the picture; words that add up to theirs; both pictures."""
    script = import_script("draw/record_attention", monkeypatch)
    options = ["--objects", objects, "--num-prompts", "3", "--batch-size", "2", "--steps", "3", "--phrases", "rocket"]
    report = script.main(list(map(str, ("--output", tmp_path / "new" / "out", *options))))
    assert report["held_out"]["prompts"] == 3
    for shares in (report["shares"], report["held_out"]["shares"]):
        assert shares["sigma"] == sorted(shares["sigma"], reverse=True)
        encoders = [shares[name] for name in ("clip_text", "t5", "clip_image", "null_token")]
        np.testing.assert_allclose(np.sum(encoders, axis=0), 1, rtol=1e-4)
    assert sum(report["words"].values()) == pytest.approx(np.mean(report["shares"]["words"]), rel=1e-4)
    assert json.loads((tmp_path / "new" / "out.json").read_text()) == report
    written = {path.name for path in (tmp_path / "new").iterdir()}
    pictures = {"out.png", "out_words.png"} if importlib.util.find_spec("matplotlib") else set()
    assert written == {"out.json", *pictures}


def test_record_attention_of_stable_diffusion(tmp_path, monkeypatch):
    build(StableDiffusionPipeline, tiny_unet()).save_pretrained(tmp_path / "model")
    script = import_script("draw/record_attention", monkeypatch)
    options = ("--model", tmp_path / "model", "--prompt", "a cat", "--steps", "2", "--size", "8", "--device", "cpu")
    report = script.main(list(map(str, ("--output", tmp_path / "out", *options))))
    assert set(report["shares"]) == {"sigma", "text", "words"} and len(report["words"]) == 4  # letters
    np.testing.assert_allclose(report["shares"]["text"], 1, rtol=1e-4)

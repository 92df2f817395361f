# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The scripts that measure: what is written is what is returned, and what is there is not measured again."""

import importlib
import importlib.util
import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from helpers import tiny_pipeline, tiny_sr_unet
from helpers import tiny_unet as ediffi_unet
from helpers_coco import tiny_segmenter, write_annotations
from helpers_diffusers import build, tiny_unet
from helpers_examples import import_script
from PIL import Image

from diffusers_ediffi import (
    demo_checkpoint,
)


def test_networks_side_by_side(objects, tmp_path, monkeypatch):
    """A second call measures what is new alone; another setting does not mix with what is there."""
    script = import_script("evaluate/compare_experts", monkeypatch)
    router = Path(demo_checkpoint()) / "unet"
    single = f"single={router / 'expert.2'}"
    whole = f"whole={router}"
    output = tmp_path / "comparison"

    def compare(*networks: str, scales: str = "1", prompts: str = "4") -> dict:
        options = ["--objects", objects, "--output", output, "--num-prompts", prompts, "--num-loss-scenes", "2"]
        options += ["--steps", "1", "--networks", *networks, "--guidance-scales", *scales.split()]
        return script.main(list(map(str, options)))

    first = compare(single)
    evaluate, calls = script.evaluate_base, []
    monkeypatch.setattr(script, "evaluate_base", lambda *args: calls.append(args) or evaluate(*args))
    both = compare(single, whole, scales="1 2")
    kept = [json.dumps(found["networks"]["single"]["guidance"]["1.0"]) for found in (first, both)]
    assert len(calls) == 3 and kept[0] == kept[1], "as text, since a share of nothing is NaN"
    assert list(both["networks"]["whole"]["guidance"]) == ["1.0", "2.0"]
    losses = [both["networks"][name]["loss"] for name in ("single", "whole")]
    assert losses[0]["60.0"] == losses[1]["60.0"] and losses[0]["0.02"] > losses[1]["0.02"]
    assert (output / "results.json").read_text() == json.dumps(both, indent=2) + "\n"
    with pytest.raises(ValueError, match="choose another --output"):
        compare(single, prompts="5")
    with pytest.raises(OSError, match="does not hold a network"):
        compare(f"gone={tmp_path / 'gone'}")


def test_super_resolution_networks_side_by_side(objects, tmp_path, monkeypatch):
    script = import_script("evaluate/compare_experts", monkeypatch)
    tiny_pipeline(
        unet=ediffi_unet(4, sample_size=16),
        unet_sr256=tiny_sr_unet(5, sample_size=64),
        unet_sr1024=None,
        scheduler_sr1024=None,
    ).save_pretrained(tmp_path / "model")
    options = ["--stage", "sr256", "--num-sr256", "2", "--patches-per-image", "1", "--num-loss-scenes", "1"]
    options += ["--model", tmp_path / "model", "--objects", objects, "--output", tmp_path / "out", "--steps", "1"]
    options += ["--networks", f"same={tmp_path / 'model' / 'unet_sr256'}", "--guidance-scales", "1"]
    found = script.main(list(map(str, options)))
    assert set(found["networks"]["same"]["guidance"]["1.0"]) == {"patch_frechet", "psnr_of_downsampled", "psnr"}
    assert set(found["beside"]) == {"bicubic", "real"}


def test_layout_of_painted_scenes(objects, tmp_path, monkeypatch):
    """Strength 0 is the plain prompt; what is written is what is returned."""
    script = import_script("evaluate/evaluate_layout", monkeypatch)
    output = tmp_path / "new" / "layout"
    options = [
        "--objects",
        objects,
        "--output",
        output,
        "--num-prompts",
        "4",
        "--steps",
        "2",
        "--strengths",
        "0",
        "0.4",
    ]
    report = script.main(list(map(str, options)))
    plain, painted = report["strengths"].values()
    assert list(report["strengths"]) == ["0", "0.4"] and {*report["real"], "attention_mass"} == plain.keys()
    for sigma, mass in painted["attention_mass"].items():
        assert mass > plain["attention_mass"][sigma] + 0.01
    assert list(plain["attention_mass"]) == ["10", "3", "1"]
    assert report["strengths"]["0"]["frechet"] != report["strengths"]["0.4"]["frechet"]
    assert output.with_suffix(".json").read_text() == json.dumps(report, indent=2) + "\n"
    with Image.open(tmp_path / "new" / "layout_grid.png") as grid:
        assert grid.size == (4 * 64, 3 * 64)


def test_guidance_table(objects, tmp_path, monkeypatch):
    """What is written is what is returned; every setting draws something of its own."""
    script = import_script("evaluate/guidance_table", monkeypatch)
    output = tmp_path / "new" / "guidance"
    options = ["--objects", objects, "--output", output, "--num-prompts", 2, "--steps", 3, "--guidance-scale", 6]
    chosen = ["--curves", "both", "t5", "--scales", 0, 1, 6]
    report = script.main(list(map(str, [*options, *chosen])))
    table, curves = report["table"], report["curves"]
    assert list(table) == list(script.settings_at(1.0)) and list(curves) == ["both", "t5"]
    assert len({row["frechet"] for row in table.values()}) == len(table)
    assert curves["both"]["6"]["frechet"] == pytest.approx(table["plain"]["frechet"], rel=1e-4)
    assert curves["both"]["1"]["frechet"] == pytest.approx(table["unguided"]["frechet"], rel=1e-4)
    assert curves["both"]["0"]["frechet"] == pytest.approx(curves["t5"]["0"]["frechet"], rel=1e-4)
    assert len({row["frechet"] for row in curves["t5"].values()}) == 3
    assert output.with_suffix(".json").read_text() == json.dumps(report, indent=2) + "\n"
    assert output.with_suffix(".png").exists() == bool(importlib.util.find_spec("matplotlib"))
    with pytest.raises(ValueError, match="--scales \\[0.5\\]: guidance is 0, or at least 1"):
        script.main(list(map(str, [*options, "--scales", 0.5])))


@pytest.fixture
def coco(tmp_path, monkeypatch):
    """Runs evaluate_layout_coco.py on two pictures' worth of annotations, of a cat and of a crowd of dogs."""
    script = import_script("evaluate/evaluate_layout_coco", monkeypatch)
    build(StableDiffusionPipeline, tiny_unet()).save_pretrained(tmp_path / "model")
    write_annotations(tmp_path)
    paths = ["--annotations", tmp_path / "instances.json", "--captions", tmp_path / "captions.json"]
    paths += ["--model", tmp_path / "model", "--segmenter", tiny_segmenter(tmp_path / "segmenter")]
    # guided so much that the few bytes of a tiny picture show the paint
    fixed = ["--steps", "1", "--guidance-scale", "100", "--device", "cpu", "--output", tmp_path / "out"]

    def run(*options):
        return script.main(list(map(str, (*paths, *fixed, *options))))

    run.script = script
    return run


def test_layout_on_coco(coco, tmp_path):
    """The names in captions become regions; a rerun draws what is missing, and ends at the same figures."""
    args = coco.script.make_parser().parse_args(
        ["--model=x", f"--annotations={tmp_path / 'instances.json'}", f"--captions={tmp_path / 'captions.json'}"]
        + ["--output=x"]
    )
    first, second = coco.script.painted_captions(args)
    assert (first.id, first.text) == (52, "a hot dog and kittens") and (second.id, second.text) == (50, "dogs")
    assert {name: region.phrase for name, region in first.regions.items()} == {"cat": "kittens"}
    cat, dog = first.regions["cat"].mask, second.regions["dog"].mask
    assert cat.shape == dog.shape == (20, 20)  # the middle of 30 columns
    assert cat[:, :10].all() and not cat[:, 10:].any() and dog[:, 10:].all() and not dog[:, :10].any()

    coco("--strengths", "0", "--num-captions", "1", "--save-pictures")
    lines = (tmp_path / "out" / "figures.jsonl").read_text()
    with (tmp_path / "out" / "figures.jsonl").open("a") as file:
        file.write('{"strength": 0.4, "capt')  # a run that was cut off
    card = coco("--strengths", "0", "3", "--save-pictures")
    assert (tmp_path / "out" / "card.json").read_text() == json.dumps(card, indent=2) + "\n"
    written = (tmp_path / "out" / "figures.jsonl").read_text()
    assert written.startswith(lines) and len(written.splitlines()) == 4
    rows = [json.loads(line) for line in written.splitlines()]
    for strength, figures in card["strengths"].items():
        by_caption = {row["caption"]: row for row in rows if f"{row['strength']:g}" == strength}
        assert figures["captions"] == figures["regions"] == 2 and figures["found"] == 0.5
        ious = [by_caption["a hot dog and kittens"]["iou"]["cat"], by_caption["dogs"]["iou"]["dog"]]
        assert 0 < ious[0] < 1 and ious[1] == 0 and figures["miou"] == sum(ious) / 2
    pictures = []
    for strength in ("0", "3"):
        with Image.open(tmp_path / "out" / strength / "52.png") as image:
            pictures.append(np.array(image))
    assert not np.array_equal(*pictures)
    assert coco("--strengths", "0", "3") == {**card, "settings": {**card["settings"], "save_pictures": False}}
    assert (tmp_path / "out" / "figures.jsonl").read_text() == written
    for options, message in (
        (["--steps", "2"], "steps = 1, but now it is 2"),
        (["--strengths", "-1"], "--strengths=-1.0 must be a number of at least 0"),
        (["--captions", tmp_path / "instances.json"], "give instances_val2017.json and captions_val2017.json"),
        (["--min-area", "0.9"], "no caption names an object"),
    ):
        with pytest.raises(ValueError, match=message):
            coco(*options)
    with pytest.raises(ValueError, match="compressed"):
        coco.script.decode({"size": [2, 2], "counts": "04"}, 2, 2)


def test_samplers_at_few_evaluations_alone(monkeypatch):
    """The mean is over ten evaluations and more, or over all where there are no such."""
    best_of = import_script("evaluate/compare_samplers", monkeypatch).best_of
    errors = {("Euler", "karras", 8): 2.0, ("Euler", "karras", 20): 1.0}
    few = best_of({key: error for key, error in errors.items() if key[2] == 8}, [("Euler", "karras")], [1.0])
    both = best_of(errors, [("Euler", "karras")], [1.0, 0.25])
    assert (few["ratio_to_best_single"], both["ratio_to_best_single"]) == (0.5, 0.25)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers 0.42 on numpy 2.4
def test_samplers_of_a_model_that_predicts_noise(tmp_path, monkeypatch):
    """Every scheduler draws the demo's pictures from its noise; what is kept is not drawn again."""
    script = import_script("evaluate/compare_discrete_samplers", monkeypatch)
    demos = []
    monkeypatch.setattr(script.DiscreteDemo, "solve", lambda demo, *_: demos.append(demo) or torch.zeros(1))
    output = tmp_path / "new" / "samplers.json"
    options = ["--steps", 2, "--reference", 2, "--images", 1, "--keep", tmp_path / "kept", "--output", output]
    report = script.main(list(map(str, options)))
    assert output.read_text() == json.dumps(report, indent=2) + "\n"
    rows = {(row["sampler"], row["grid"]): row for row in report["rows"]}
    assert rows["DDIM", "trailing"]["error_to_ddim"] == 0 and rows["DDIM", "leading"]["error_to_ddim"] > 0
    assert (
        all(0 < row["error"] < float("inf") for row in rows.values())
        and len({row["error"] for row in rows.values()}) > 9
    )
    assert [row["sampler"] for row in script.best_rows(report["rows"])][0] == min(
        report["rows"], key=lambda row: row["error"]
    )["sampler"]
    monkeypatch.setattr(script.DiscreteDemo, "sample", lambda *_: pytest.fail("drawn again"))
    assert script.main(list(map(str, options))) == report

    demo, timestep = demos[0], 400
    alpha = diffusers.DDIMScheduler(**script.BETAS).alphas_cumprod[timestep].double()
    sigma = ((1 - alpha) / alpha).sqrt().item()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        noise, denoised = demo.noise(alpha.sqrt() * x, timestep), demo.denoise(x, sigma, sigma)
    torch.testing.assert_close(noise, (x - denoised) / sigma, rtol=0, atol=1e-4)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Every example imports, explains itself and shows how it is started."""

import argparse
import ast
import importlib
import importlib.util
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from diffusers import StableDiffusionPipeline
from helpers import tiny_pipeline
from helpers_diffusers import build, tiny_unet
from PIL import Image
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessorPil,
    SwinConfig,
)

from diffusers_ediffi import (
    EDiffIPipeline,
    EDiffIUNet,
    ExpertRouterUNet,
    NoiseInterval,
    demo_checkpoint,
    read_provenance,
)

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


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

    networks = ["base", "base-high", "base-middle", "base-low", "sr256", "sr256-low", "sr1024"]
    command = [sys.executable, script, "--objects", objects, "--output", tmp_path / "run"]
    command += ["--stages", "clip", "t5", *networks, "assemble"]
    command += ["--steps", *(f"{stage}=1" for stage in ("clip", "t5", *networks))]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]

    again = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-2000:]
    assert again.stdout.count("Skipped: ") == 2 + len(networks) and "Resuming" not in again.stdout

    pipe = EDiffIPipeline.from_pretrained(tmp_path / "run" / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    assert [stage.size for stage in pipe.stages] == [64, 256, 1024]
    assert [len(router.experts) for router in (pipe.unet, pipe.unet_sr256)] == [3, 2]
    generator = torch.Generator().manual_seed(0)
    image = pipe("a rocket", height=256, width=256, num_inference_steps=2, generator=generator).images[0]
    assert image.size == (256, 256)


@pytest.fixture
def objects(tmp_path) -> Path:
    """A folder of three coloured squares."""
    folder = tmp_path / "objects"
    folder.mkdir()
    for i in range(3):
        Image.new("RGBA", (48, 48), (80 * i, 255 - 80 * i, 128, 255)).save(folder / f"{i}.png")
    phrases = ("rocket", "sun", "moon")  # words that the demo's scorer knows
    index = [{"file": f"{i}.png", "phrase": phrase} for i, phrase in enumerate(phrases)]
    (folder / "index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def experts(objects, tmp_path, monkeypatch):
    """Runs examples/train_experts.py on the objects; returns the folder of its tree."""
    monkeypatch.syspath_prepend(str(EXAMPLES[0].parent))
    script = importlib.import_module("train_experts")
    (tmp_path / "two.yaml").write_text(
        "settings: {batch_size: 1, num_workers: 0, sample_every: 0}\n"
        "nodes:\n  - {name: base, node: [0, 0], steps: 2}\n"
        "  - {name: high, node: [1, 1], init_from: base@1, steps: 1}\n"
        "routes: [{expert: base, node: [1, 0]}, {expert: high, node: [1, 1]}]\n"
    )

    def run(*options: str) -> Path:
        for state in (AcceleratorState._reset_state, PartialState._reset_state):
            state()  # each run stands for a process of its own
        options = (*options, "--objects", objects, "--encoders", demo_checkpoint(), "--output", tmp_path / "tree")
        script.main(list(map(str, (tmp_path / "two.yaml", "--num-samples", "1", *options))))
        return tmp_path / "tree"

    return run


@pytest.mark.parametrize("options, size", [(["--size", "16"], 16), (["--stage", "sr256", "--crop", "64"], 64)])
def test_experts_from_one_schedule(experts, options, size, capsys):
    assert not experts(*options, "--dry-run").exists()
    assert "2 nodes, 3 steps, 3 samples" in capsys.readouterr().out
    router = ExpertRouterUNet.from_pretrained(experts(*options) / "unet")
    assert router.config.sample_size == size and router.select_expert(80.0) == 1
    assert [expert.config.trained_on for expert in router.experts][0] == [[0.0, None]]
    capsys.readouterr()
    with pytest.raises(SystemExit, match="error: Node 'base' is done with settings.batch_size = 1, but now it is 2"):
        experts(*options, "--batch-size", "2")


def test_networks_side_by_side(objects, tmp_path, monkeypatch):
    """A second call measures what is new alone; another setting does not mix with what is there."""
    monkeypatch.syspath_prepend(str(EXAMPLES[0].parent))
    script = importlib.import_module("compare_experts")
    router = Path(demo_checkpoint()) / "unet"
    one, whole, output = f"one={router / 'expert.2'}", f"whole={router}", tmp_path / "comparison"

    def compare(*networks: str, scales: str = "1", prompts: str = "4") -> dict:
        options = ["--objects", objects, "--output", output, "--num-prompts", prompts, "--num-loss-scenes", "2"]
        options += ["--steps", "1", "--networks", *networks, "--guidance-scales", *scales.split()]
        return script.main(list(map(str, options)))

    first = compare(one)
    evaluate, calls = script.evaluate_base, []
    monkeypatch.setattr(script, "evaluate_base", lambda *args: calls.append(args) or evaluate(*args))
    both = compare(one, whole, scales="1 2")
    kept = [json.dumps(found["networks"]["one"]["guidance"]["1.0"]) for found in (first, both)]
    assert len(calls) == 3 and kept[0] == kept[1], "as text, since a share of nothing is NaN"
    assert list(both["networks"]["whole"]["guidance"]) == ["1.0", "2.0"]
    losses = [both["networks"][name]["loss"] for name in ("one", "whole")]
    assert losses[0]["60.0"] == losses[1]["60.0"] and losses[0]["0.02"] > losses[1]["0.02"]
    assert (output / "results.json").read_text() == json.dumps(both, indent=2) + "\n"
    with pytest.raises(ValueError, match="choose another --output"):
        compare(one, prompts="5")
    with pytest.raises(OSError, match="holds no network"):
        compare(f"gone={tmp_path / 'gone'}")


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES[0].parent))
    return importlib.import_module("train_demo")


def test_a_network_starts_from_one_with_fewer_attention_layers(tmp_path, monkeypatch):
    """What is added starts as the identity, so that it computes what its source does; anything else is refused."""
    monkeypatch.syspath_prepend(str(EXAMPLES[0].parent))
    script = importlib.import_module("train_base")
    interval = NoiseInterval.everything()
    source = EDiffIUNet.from_preset("demo-base", attention_block="plain").eval()
    torch.nn.init.normal_(source.conv_out.weight, std=0.1)
    source.save_pretrained(tmp_path / "unet")
    args = argparse.Namespace(seed=0, preset="demo-base", init_from=tmp_path)
    built = script.build_unet(args, interval, {}).eval()
    assert built.config.attention_block == "feed_forward"
    sample, context = torch.randn(1, 3, 64, 64), torch.randn(1, 77, 128)
    with torch.no_grad():
        torch.testing.assert_close(built(sample, 0.1, context).sample, source(sample, 0.1, context).sample)
    for changes in ({"block_out_channels": (128, 256)}, {"layers_per_block": 2}):
        with pytest.raises(ValueError, match="is another network than demo-base"):
            script.build_unet(args, interval, {}, **changes)


@pytest.fixture
def stage_script(tmp_path) -> Path:
    """Counts its starts, ends with the exit code that `--code` names, and makes its folder."""
    script = tmp_path / "stage.py"
    script.write_text(
        "import pathlib, sys\n"
        "folder = pathlib.Path(sys.argv[sys.argv.index('--output') + 1])\n"
        "folder.mkdir(exist_ok=True)\n"
        "with open(folder / 'starts', 'a') as starts:\n"
        "    starts.write('x')\n"
        "sys.exit(int(sys.argv[sys.argv.index('--code') + 1]))\n"
    )
    return script


def test_a_stage_that_has_ended_is_skipped(recipe, stage_script, tmp_path, capsys):
    def starts_of(stage: str, code: int, *options: str) -> int:
        folder = tmp_path / stage
        command = [str(stage_script), "--output", str(folder), "--code", str(code), *options]
        recipe.run_stage(stage, command, tmp_path, os.environ)
        return len((folder / "starts").read_text())

    assert [starts_of("base", 0), starts_of("base", 0)] == [1, 1]
    assert "Skipped" in capsys.readouterr().out
    assert starts_of("base", 0, "--max-minutes-this-run", "9") == 2, "another command runs"
    assert starts_of("clip", 0) == 1
    assert starts_of("base", 0, "--max-minutes-this-run", "9") == 3, "its encoders may have changed"
    assert [starts_of("evaluate", 0), starts_of("evaluate", 0)] == [1, 2], "evaluates what there is now"
    shutil.rmtree(tmp_path / "clip")
    assert starts_of("clip", 0) == 1, "its folder was removed"


@pytest.mark.parametrize("code, exit_code", [(143, 143), (130, 130), (3, "error: stage base ended with exit code 3")])
def test_a_stage_that_was_cut_ends_the_recipe_and_is_not_done(recipe, stage_script, tmp_path, code, exit_code):
    command = [str(stage_script), "--output", str(tmp_path / "base"), "--code", str(code)]
    with pytest.raises(SystemExit) as stop:
        recipe.run_stage("base", command, tmp_path, os.environ)
    found = stop.value.code
    assert found == exit_code or str(found).startswith(str(exit_code))
    assert not (tmp_path / "base.done").exists()


def test_the_recipe_waits_until_its_stage_has_saved(tmp_path):
    """Ctrl-C reaches the whole process group, SIGTERM the recipe alone."""
    stage = tmp_path / "stage.py"
    stage.write_text(
        "import pathlib, signal, sys, time\n"
        "folder = pathlib.Path(sys.argv[2])\n"
        "def stop(number, frame):\n"
        "    time.sleep(1)\n"
        "    (folder / 'saved').touch()\n"
        "    sys.exit(128 + number)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "signal.signal(signal.SIGINT, stop)\n"
        "(folder / 'ready').touch()\n"
        "time.sleep(60)\n"
    )
    starter = tmp_path / "starter.py"
    starter.write_text(
        "import os, pathlib, sys, train_demo\n"
        "for name in ('base', 'sr256'):\n"
        "    folder = pathlib.Path(__file__).parent / name\n"
        "    folder.mkdir()\n"
        "    try:\n"
        "        train_demo.run_stage(name, [sys.argv[1], '--output', str(folder)], folder.parent, os.environ)\n"
        "    except SystemExit as stop:\n"
        "        print(name, stop.code)\n"
    )
    path = os.pathsep.join([str(EXAMPLES[0].parent), *filter(None, sys.path)])
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    command = [sys.executable, str(starter), str(stage)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, **pipes) as process:
        for name, send, number in (("base", os.killpg, signal.SIGINT), ("sr256", os.kill, signal.SIGTERM)):
            while not (tmp_path / name / "ready").exists() and process.poll() is None:
                time.sleep(0.05)
            if process.poll() is None:
                send(process.pid, number)
        out, err = process.communicate(timeout=60)
    assert out.splitlines() == ["base 130", "sr256 143"], err
    for name, number in (("base", "SIGINT"), ("sr256", "SIGTERM")):
        assert f"Stopped by {number} in stage {name}; the same command goes on from here." in err
        assert (tmp_path / name / "saved").exists() and not (tmp_path / f"{name}.done").exists()


def test_the_demo_recipe_refuses_bad_input(tmp_path):
    for arguments, message in (
        (["--objects", tmp_path], "index.json"),
        (["--objects", tmp_path, "--minutes", "base"], "STAGE=NUMBER"),
        (["--objects", tmp_path, "--steps", "basis=3"], "STAGE=NUMBER"),
    ):
        command = [sys.executable, EXAMPLES[0].parent / "train_demo.py", "--output", tmp_path / "run", *arguments]
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert result.returncode and message in result.stderr and not (tmp_path / "run").exists()


def test_layout_of_painted_scenes(objects, tmp_path, monkeypatch):
    """Strength 0 is the plain prompt; what is written is what is returned."""
    monkeypatch.syspath_prepend(str(EXAMPLES[0].parent))
    script = importlib.import_module("evaluate_layout")
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
    monkeypatch.syspath_prepend(str(EXAMPLES[0].parent))
    script = importlib.import_module("guidance_table")
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


def tiny_segmenter(folder: Path) -> Path:
    """A Mask2Former of COCO's kind with random weights, which takes everything for a cat."""
    torch.manual_seed(0)
    backbone = SwinConfig(
        image_size=64,
        patch_size=4,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    widths = ("feature_size", "mask_feature_size", "hidden_dim", "encoder_feedforward_dim", "dim_feedforward")
    model = Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(
            backbone_config=backbone,
            **{name: 32 for name in widths},
            encoder_layers=1,
            decoder_layers=2,
            num_attention_heads=2,
            num_queries=4,
            id2label={0: "cat", 1: "dog", 2: "hot dog"},
        )
    ).eval()
    torch.nn.init.zeros_(model.class_predictor.weight)
    model.class_predictor.bias.data = torch.tensor([9.0, 0.0, 0.0, 0.0])
    model.save_pretrained(folder)
    Mask2FormerImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@pytest.fixture
def coco(tmp_path, monkeypatch):
    """Runs examples/evaluate_layout_coco.py on two pictures' worth of annotations, of a cat and of a crowd of dogs."""
    monkeypatch.syspath_prepend(str(EXAMPLES[0].parent))
    script = importlib.import_module("evaluate_layout_coco")
    build(StableDiffusionPipeline, tiny_unet()).save_pretrained(tmp_path / "model")
    names = ("cat", "dog", "hot dog")
    crowd = {"size": [20, 30], "counts": [300, 200, 100]}  # columns 15 to 24 of 30
    instances = {
        "images": [{"id": i, "height": 20, "width": 30} for i in (7, 3, 9)],
        "categories": [{"id": 10 * i, "name": name} for i, name in enumerate(names)],
        "annotations": [
            {"image_id": 3, "category_id": 0, "segmentation": [[5, 0, 14.5, 0, 14.5, 20, 5, 20]]},
            {"image_id": 3, "category_id": 10, "segmentation": [[20, 0, 25, 0, 25, 20, 20, 20]]},
            {"image_id": 7, "category_id": 10, "segmentation": crowd},
            {"image_id": 9, "category_id": 10, "segmentation": crowd},
        ],
    }
    texts = ((51, 3, "a hot day"), (52, 3, "a  hot dog and kittens"), (50, 7, "dogs"), (53, 9, "a hotdog"))
    captions = {"annotations": [{"id": id, "image_id": image, "caption": text} for id, image, text in texts]}
    for name, content in (("instances", instances), ("captions", captions)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
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
        own = {row["caption"]: row for row in rows if f"{row['strength']:g}" == strength}
        assert figures["captions"] == figures["regions"] == 2 and figures["found"] == 0.5
        ious = [own["a hot dog and kittens"]["iou"]["cat"], own["dogs"]["iou"]["dog"]]
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


def test_paint_with_words_on_the_demo_model(tmp_path):
    script = runpy.run_path(str(EXAMPLES[0].parent / "paint_with_words.py"))
    script["main"](["--output", str(tmp_path / "out.png"), "--size", "64", "--seeds", "3", "--strengths", "0", "1"])
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


@pytest.fixture
def tiny_model(tmp_path) -> Path:
    """A saved pipeline whose base draws 8 x 8 pixels."""
    tiny_pipeline(default_num_inference_steps=(4, 1, 1)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_style_transfer(tiny_model, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES[0].parent))
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        Image.effect_noise((20, 20), 90 * number + 20).save(f"{number}.png")
    files = [f"{number}.png" for number in range(2)]
    options = ["--model", str(tiny_model), "--size", "8", "--scales", "0", "2", "--seeds", "3"]
    script = importlib.import_module("style_transfer")
    script.main([*options, "--styles", *files, "--weights", "0", "1", "--output", str(tmp_path / "out.png")])
    assert read_provenance(tmp_path / "out.png").settings["style_scales"] == [0.0, 2.0]
    with Image.open(tmp_path / "out.png") as grid:
        assert grid.size == (3 * 128, 18 + 3 * (128 + 18))
        rows = np.stack([np.array(grid)[36 + 146 * row : 164 + 146 * row] for row in range(3)])
    plain, styled = rows[:, :, 128:256], rows[:, :, 256:]
    assert (plain == plain[0]).all(), "a scale of 0 is no style, whatever the reference"
    assert (styled[0] != styled[1]).any() and (styled[1] == styled[2]).all(), "all weight is on the second"


def test_variations(tiny_model, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES[0].parent))
    main = importlib.import_module("variations").main
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
    monkeypatch.syspath_prepend(str(EXAMPLES[0].parent))
    main = importlib.import_module("prompt_schedule").main
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
    monkeypatch.syspath_prepend(str(EXAMPLES[0].parent))
    main = importlib.import_module("prompt_schedule").main
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
    monkeypatch.syspath_prepend(str(EXAMPLES[0].parent))
    draw_grid = importlib.import_module("style_transfer").draw_grid
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


def test_paint_with_words_sd(tmp_path):
    """On a tiny Stable Diffusion: a box, a mask and a canvas that say the same."""
    pipe = build(StableDiffusionPipeline, tiny_unet())
    pipe.save_pretrained(tmp_path / "model")
    mask = Image.new("L", (8, 8), 0)
    mask.paste(255, (0, 0, 4, 8))
    mask.save(tmp_path / "mask.png")
    canvas = Image.new("RGB", (8, 8), "white")
    canvas.paste("red", (0, 0, 4, 8))
    canvas.save(tmp_path / "canvas.png")
    script = runpy.run_path(str(EXAMPLES[0].parent / "paint_with_words_sd.py"))

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
        script["main"](list(map(str, (*fixed, *size, *options))))
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
    monkeypatch.syspath_prepend(str(EXAMPLES[0].parent))
    Image.new("RGB", (64, 64), (255, 0, 0)).save(tmp_path / "red.png")
    script = runpy.run_path(str(EXAMPLES[0].parent / "image_to_image.py"))
    paths = ["--output", tmp_path / "out.png", "--image", tmp_path / "red.png"]
    script["main"]([*map(str, paths), "--size", "64", "--steps", "2", "--seeds", "3", "--strengths", "0", "1"])
    assert "strength 1: sigma 80, 2 evaluations" in capsys.readouterr().out
    with Image.open(tmp_path / "out.png") as grid:
        assert grid.size == (3 * 128, 18 + 18 + 128)
        source, kept, drawn = np.split(np.array(grid)[36:], 3, axis=1)
    assert read_provenance(tmp_path / "out.png").settings["strengths"] == [0, 1]
    assert (source == (255, 0, 0)).all() and (kept == source).all() and (drawn != source).any()


def test_inpaint_on_the_demo_model(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES[0].parent))
    script = runpy.run_path(str(EXAMPLES[0].parent / "inpaint.py"))
    options = ["--size", "64", "--steps", "2", "--seeds", "3", "--box", "0.5", "0", "1", "1"]
    script["main"](list(map(str, ["--output", tmp_path / "out.png", *options])))
    with Image.open(tmp_path / "out.png") as grid:
        source, drawn = np.split(np.array(grid)[-128:], 2, axis=1)
    assert (drawn[:, :64] == source[:, :64]).all()
    assert (drawn[2:-2, 68:-4] != source[2:-2, 68:-4]).any()


def test_record_attention_of_the_demo_model(objects, tmp_path):
    """Shares of held-out prompts and of the picture; words that add up to theirs; both pictures."""
    script = runpy.run_path(str(EXAMPLES[0].parent / "record_attention.py"))
    options = ["--objects", objects, "--num-prompts", "3", "--batch-size", "2", "--steps", "3", "--phrases", "rocket"]
    report = script["main"](list(map(str, ("--output", tmp_path / "new" / "out", *options))))
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


def test_record_attention_of_stable_diffusion(tmp_path):
    build(StableDiffusionPipeline, tiny_unet()).save_pretrained(tmp_path / "model")
    script = runpy.run_path(str(EXAMPLES[0].parent / "record_attention.py"))
    options = ("--model", tmp_path / "model", "--prompt", "a cat", "--steps", "2", "--size", "8", "--device", "cpu")
    report = script["main"](list(map(str, ("--output", tmp_path / "out", *options))))
    assert set(report["shares"]) == {"sigma", "text", "words"} and len(report["words"]) == 4  # letters
    np.testing.assert_allclose(report["shares"]["text"], 1, rtol=1e-4)

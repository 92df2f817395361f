# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The demo model's whole recipe in miniature: stages that are skipped, cut and resumed, experts from a schedule."""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from helpers_docs_short import short_form
from helpers_examples import EXAMPLES, import_script, run_path, run_script
from PIL import Image

from diffusers_ediffi import (
    EDiffIPipeline,
    EDiffIUNet,
    ExpertRouterUNet,
    NoiseInterval,
    demo_checkpoint,
)
from diffusers_ediffi.demo import load_objects


@pytest.fixture
def recipe(monkeypatch):
    return import_script("demo/train_demo", monkeypatch)


def test_the_demo_recipe_in_miniature(recipe, tmp_path, monkeypatch):
    """Every stage for one step, from the tokenizers to a pipeline that loads and draws.

    With few samples, as in the commands of the documentation. The first stage has a process, as all stages have; the
    others run in this one, which has imported everything. Then the recipe itself has a process.
    """
    phrases = recipe.PHRASES
    objects = tmp_path / "objects"
    objects.mkdir()
    for i in range(len(phrases)):
        Image.new("RGBA", (48, 48), (10 * i, 250 - 10 * i, 128, 255)).save(objects / f"{i}.png")
    index = [{"file": f"{i}.png", "phrase": phrase} for i, phrase in enumerate(phrases)]
    (objects / "index.json").write_text(json.dumps(index))

    networks = ["base", "base-high", "base-middle", "base-low", "sr256", "sr256-low", "sr1024"]
    options = ["--objects", objects, "--output", tmp_path / "run", "--stages", "clip", "t5", *networks, "assemble"]
    options = list(map(str, [*options, "--steps", *(f"{stage}=1" for stage in ("clip", "t5", *networks))]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    started = []

    def run_stage(command, environment, start=recipe.run_script):
        started.append(command)
        command = short_form(command)
        if len(started) == 1:
            return start(command, environment)
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState._reset_state()
        done = run_path(command[1], command[2:], environment)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.returncode, 0

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "run_script", run_stage)
        recipe.main(options)
    assert len(started) == 2 + len(networks)

    command = [sys.executable, str(EXAMPLES / "demo" / "train_demo.py"), *options]
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-2000:]
    assert again.stdout.count("Skipped: ") == 2 + len(networks) and "Resuming" not in again.stdout

    pipe = EDiffIPipeline.from_pretrained(tmp_path / "run" / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    assert [stage.size for stage in pipe.stages] == [64, 256, 1024]
    assert [len(router.experts) for router in (pipe.unet, pipe.unet_sr256)] == [3, 2]
    generator = torch.Generator().manual_seed(0)
    image = pipe("a rocket", height=256, width=256, num_inference_steps=2, generator=generator).images[0]
    assert image.size == (256, 256)
    assert pipe.vocabulary.groups["objects"] == list(phrases)


@pytest.fixture
def experts(objects, tmp_path, monkeypatch):
    """Runs train_experts.py on the objects; returns the folder of its tree."""
    script = import_script("demo/train_experts", monkeypatch)
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
    with pytest.raises(ValueError, match="Node 'base' is done with settings.batch_size = 1, but now it is 2"):
        experts(*options, "--batch-size", "2")


def test_the_packaged_model_names_the_words_of_the_recipe(recipe):
    """What `assemble` writes; when it changes, so does the model's `model_index.json`."""
    index = json.loads((Path(demo_checkpoint()) / "model_index.json").read_text())
    assert index["vocabulary"] == recipe.vocabulary()


def test_a_network_starts_from_one_with_fewer_attention_layers(tmp_path, monkeypatch):
    """What is added starts as the identity, so that it computes what its source does; anything else is refused."""
    script = import_script("demo/scenes_and_networks", monkeypatch)
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


@pytest.mark.parametrize(
    "code, ending",
    [(143, (SystemExit, "143")), (130, (SystemExit, "130")), (3, (ValueError, "ended with exit code 3"))],
)
def test_a_stage_that_was_cut_ends_the_recipe_and_is_not_done(recipe, stage_script, tmp_path, code, ending):
    command = [str(stage_script), "--output", str(tmp_path / "base"), "--code", str(code)]
    with pytest.raises(ending[0], match=ending[1]):
        recipe.run_stage("base", command, tmp_path, os.environ)
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
    path = os.pathsep.join([str(EXAMPLES / "demo"), *filter(None, sys.path)])
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
        result = run_script("demo/train_demo", "--output", tmp_path / "run", *arguments)
        assert result.returncode == 2 and message in result.stderr and not (tmp_path / "run").exists()


def test_an_object_folder_is_made_from_a_clone(tmp_path):
    clone = tmp_path / "noto-emoji" / "png" / "512"
    clone.mkdir(parents=True)
    Image.new("RGBA", (200, 200), "red").save(clone / "emoji_u1f534.png")
    listed = tmp_path / "objects.json"
    listed.write_text(json.dumps({"red circle": "emoji_u1f534.png"}), encoding="utf-8")
    arguments = ("--noto-emoji", tmp_path / "noto-emoji", "--output", tmp_path / "made", "--objects", listed)
    made = run_script("demo/make_object_folder", *arguments)
    assert made.returncode == 0, made.stderr
    assert [thing.phrase for thing in load_objects(tmp_path / "made")] == ["red circle"]
    again = run_script("demo/make_object_folder", *arguments)
    assert again.returncode == 2 and "is not empty" in again.stderr


def test_the_listed_objects_are_single_emoji_with_names_of_their_own():
    listed = json.loads((EXAMPLES / "demo" / "demo_objects.json").read_text(encoding="utf-8"))
    assert len(listed) == len(set(listed.values())) == 106
    assert all(re.fullmatch(r"emoji_u[0-9a-f]{4,5}\.png", name) for name in listed.values())
    assert unicodedata.name(chr(int(listed["rocket"][7:-4], 16))) == "ROCKET"


def test_scenes_are_written_with_captions_and_masks(tmp_path, objects):
    out = tmp_path / "out"
    grid = tmp_path / "grid.png"
    options = ("--grid", grid, "--columns", 1, "--folder", out, "--count", 2, "--size", 64, "--masks")
    done = run_script("demo/make_demo_scenes", "--objects", objects, *options)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (out / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["file"] for line in lines] == ["000000.png", "000001.png"]
    assert len(list(out.glob("*.png"))) == 2 + sum(len(line["objects"]) for line in lines)
    with Image.open(grid) as picture:
        assert picture.width == 256

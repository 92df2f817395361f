# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The training scripts answer wrong arguments with a line, before anything is trained or written."""

import runpy
import sys

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from helpers_examples import EXAMPLES, import_script
from PIL import Image

from diffusers_ediffi import demo_checkpoint
from diffusers_ediffi.demo import SceneGenerator
from diffusers_ediffi.demo.scenes import SceneObject

SMALL = ("train_clip", "train_t5", "train_scorer")
LARGE = ("train_base", "train_sr", "train_experts")


@pytest.fixture
def ending_of(objects, tmp_path, monkeypatch, capsys):
    """Runs a script as from the command line, and returns the line with which it ended."""

    def ending(name: str, *options) -> str:
        for state in (AcceleratorState._reset_state, PartialState._reset_state):
            state()  # each run stands for a process of its own
        arguments = ["--objects", objects, "--output", tmp_path / "run"]
        if name in LARGE:
            arguments += ["--encoders", demo_checkpoint(), "--num-workers", "0"]
        first = {"train_sr": ["--stage", "sr256"], "train_experts": ["two-experts"]}.get(name, [])
        monkeypatch.syspath_prepend(str(EXAMPLES / "demo"))
        monkeypatch.setattr(sys, "argv", list(map(str, [name, *first, *arguments, *options])))
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(EXAMPLES / "demo" / f"{name}.py"), run_name="__main__")
        assert stop.value.code == 2 and not (tmp_path / "run").exists()
        return capsys.readouterr().err.removesuffix("\n")

    return ending


@pytest.mark.parametrize("name", [*SMALL, *LARGE])
def test_a_missing_folder_is_named_in_a_line(ending_of, tmp_path, name):
    ended = ending_of(name, "--objects", tmp_path / "nowhere")
    assert ended.startswith("error: ") and "nowhere" in ended and "\n" not in ended


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("option", ["--minutes", "--steps", "--batch-size", "--threads", "--num-held-out"])
def test_numbers_of_small_runs_are_above_zero(ending_of, name, option):
    assert ending_of(name, option, "0").startswith(f"error: {option} must be above 0, got 0")


@pytest.mark.parametrize("name", ["train_base", "train_experts"])
@pytest.mark.parametrize("part", ["", "unet"])
def test_a_start_with_several_experts_says_what_to_name(ending_of, name, part):
    ended = ending_of(name, "--init-from", f"{demo_checkpoint()}/{part}")
    assert ended.startswith("error: ") and "several experts: name one of them, such as" in ended
    assert "unet/expert.0" in ended


def test_a_start_that_was_not_trained_on_the_noise_levels_is_refused(ending_of):
    start = f"{demo_checkpoint()}/unet/expert.0"
    ended = ending_of("train_base", "--init-from", start, "--sigma-range", "0.2", "1")
    assert ended.startswith(f"error: --init-from {start} was not trained on sigma [0.2, 1): choose a network that was")


@pytest.mark.parametrize("name", LARGE)
def test_threads_are_above_zero(ending_of, name):
    assert ending_of(name, "--threads", "0") == "error: --threads must be above 0, got 0."


def test_encoders_go_where_the_launcher_puts_the_network(objects, monkeypatch):
    """A launcher may keep a process from the accelerator that PyTorch sees, or give it another than the first."""
    script = import_script("demo/scenes_and_networks", monkeypatch)
    asked = []
    monkeypatch.setattr(script, "ConditioningEncoder", lambda folder, device: asked.append(device))
    monkeypatch.setattr(script, "describe_data", lambda *arguments: {})
    parser = script.argparse.ArgumentParser()
    script.add_arguments(parser, "demo-base")
    needed = ["--objects", objects, "--encoders", demo_checkpoint(), "--output", "x", "--num-samples", "0"]
    args = parser.parse_args(list(map(str, needed)))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for state in (AcceleratorState._reset_state, PartialState._reset_state):
        state()
    script.load_data(args, {"size": 16})
    assert asked == [Accelerator().device] == [torch.device("cpu")]


def test_a_run_on_a_single_object_shows_scenes_that_it_is_trained_on(monkeypatch, capsys):
    """Where nothing is held out of so few combinations; other scenes than those of the training, all the same."""
    script = import_script("demo/scenes_and_networks", monkeypatch)
    picture = Image.new("RGBA", (8, 8), "red")
    shown = {}
    for phrase in (f"thing {number}" for number in range(40)):
        options = {"max_objects": 1, "object_weights": (1.0,), "grounds": script.GROUNDS[:8]}
        train = SceneGenerator([SceneObject(phrase, picture)], **options)
        samples = script.sample_scenes([SceneObject(phrase, picture)], options, seed=0)
        said = capsys.readouterr().out
        shown.setdefault(samples.split, []).append(phrase)
        assert [samples.scene(i) for i in range(3)] != [train.scene(i) for i in range(3)]
        assert (samples.split == "train") == ("combinations that are trained on" in said)
    assert len(shown) == 2, "some objects have held-out grounds, and some have none"

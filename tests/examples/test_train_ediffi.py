# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The scripts that train a stage of a pipeline further: what they write is loaded and draws, and a run that is cut
ends in the same bytes."""

import json
import os
import re
import shutil
import signal
from contextlib import chdir

import pytest
import torch
from helpers import SIZES, seeded
from helpers_examples import import_script
from PIL import Image
from safetensors.torch import load_file

from diffusers_ediffi import EDiffIPipeline, EDiffIUNet, demo_checkpoint
from diffusers_ediffi.demo import load_objects
from diffusers_ediffi.training import Trainer

BOUNDARIES = [0.3, 2.0]
WEIGHTS = "pytorch_lora_weights.safetensors"
PROMPT = "a zorb"


def load(folder):
    pipe = EDiffIPipeline.from_pretrained(folder / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe, size=SIZES[0]):
    return pipe(PROMPT, height=size, generator=seeded(), output_type="pt").images


@torch.no_grad()
def output_of(unet):
    """What a network makes of the same input."""
    generator = seeded()
    width = unet.config.encoder_hid_dim
    pooled = {"text_embeds": torch.randn(1, width, generator=generator), "image_embeds": torch.zeros(1, width)}
    return unet(
        torch.randn(1, 3, SIZES[0], SIZES[0], generator=generator),
        torch.tensor(0.1),
        torch.randn(1, 77, width, generator=generator),
        encoder_hidden_states_2=torch.randn(1, 5, width, generator=generator),
        added_cond_kwargs=pooled,
    ).sample


def test_a_lora_of_all_experts_loads_and_draws(train, folder, tmp_path, capsys):
    run = train("--rank", 3, "--validation_prompt", PROMPT, "--num_validation_images", 2)
    printed = capsys.readouterr().out
    assert "warning" not in printed
    assert re.findall(r"^(expert\.\d): loss \d\.\d+ at step 3 \(", printed, re.MULTILINE) == [
        *("expert.0", "expert.1", "expert.2"),
    ]
    pipe = load(folder)
    before, plain = drawn(pipe), [output_of(expert) for expert in pipe.unet.experts]
    pipe.load_lora_weights(run)
    assert not torch.allclose(drawn(pipe), before, atol=1e-3)
    for number, expert in enumerate(pipe.unet.experts):
        trained = EDiffIUNet.from_pretrained(run / "runs" / "unet" / f"expert.{number}" / "unet")
        assert not torch.allclose(output_of(expert), plain[number], atol=1e-4)
        torch.testing.assert_close(output_of(expert), output_of(trained), rtol=1e-4, atol=1e-4)
    with Image.open(run / "validation" / "step-0000003.png") as grid:
        assert grid.size == (2 * SIZES[0], SIZES[0])


def test_the_card_is_filled_and_its_snippet_runs(train, folder, tmp_path):
    run = train("--pretrained_model_name_or_path", folder / "pipeline")
    card = (run / "README.md").read_text()
    assert "- lora\n" in card and "| expert.1 | trained at the noise levels [0.3, 2) |" in card
    assert str(tmp_path) not in card and str(folder) not in card
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    (tmp_path / "pipeline").symlink_to(folder / "pipeline")
    with chdir(tmp_path):
        exec(snippet, {})


def test_a_run_that_is_cut_ends_in_the_same_bytes(train, folder, tmp_path, monkeypatch):
    options = ("--validation_prompt", PROMPT, "--validation_steps", 2, "--num_validation_images", 1)
    options += ("--max_train_steps", 5, "--gradient_accumulation_steps", 2, "--use_ema", "--lr_scheduler", "cosine")
    whole = train(*options, output="whole")
    steps = []

    def step(self, batch, train_step=Trainer.train_step):
        steps.append((self.node[1], self.step))
        if steps[-1] in ((1, 1), (2, 3)) and steps.count(steps[-1]) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        train_step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", step)
    for resumed in ((), ("--resume_from_checkpoint", "latest")):
        with pytest.raises(SystemExit) as stop:
            train(*options, *resumed, output="cut")
        assert stop.value.code == 143
    with pytest.raises(ValueError, match="holds a run: go on by --resume_from_checkpoint latest"):
        train(*options, output="cut")
    cut = train(*options, "--resume_from_checkpoint", "latest", output="cut")
    assert len(set(steps)) == 15
    for name in (WEIGHTS, *(f"validation/step-000000{step}.png" for step in (2, 4, 5))):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name


def test_one_of_three_experts_is_trained_and_another_later(train, folder, capsys):
    run = train("--experts", 1)
    assert "warning: expert.0, expert.2 of unet stay as they are" in capsys.readouterr().out
    pipe = load(folder)
    before = [output_of(expert) for expert in pipe.unet.experts]
    pipe.load_lora_weights(run)
    changed = [not torch.equal(output_of(expert), old) for expert, old in zip(pipe.unet.experts, before, strict=True)]
    assert changed == [False, True, False]
    first = load_file(run / WEIGHTS)
    train("--experts", 0, "--resume_from_checkpoint", "latest")
    assert "warning: expert.2 of unet stay as they are" in capsys.readouterr().out
    both = load_file(run / WEIGHTS)
    assert {name.split(".")[2] for name in both} == {"0", "1"}
    assert all(torch.equal(both[name], tensor) for name, tensor in first.items())


def test_one_lora_for_all_experts(train, folder, capsys):
    run = train("--shared_lora", "--validation_steps", 2, "--max_train_steps", 4)
    assert "warning" not in capsys.readouterr().out
    found = load_file(run / WEIGHTS)
    layers = {name.split(".", 3)[3] for name in found}
    for layer in layers:
        assert torch.equal(found[f"unet.experts.0.{layer}"], found[f"unet.experts.2.{layer}"])
    pipe = load(folder)
    before = [output_of(expert) for expert in pipe.unet.experts]
    pipe.load_lora_weights(run)
    for expert, old in zip(pipe.unet.experts, before, strict=True):
        assert not torch.allclose(output_of(expert), old, atol=1e-4)
    assert (run / "runs" / "unet" / "shared" / "samples" / "step-0000002.png").exists()
    with pytest.raises(ValueError, match="holds a run with and one without --shared_lora"):
        train("--resume_from_checkpoint", "latest")
    some = train("--shared_lora", "--experts", 1, 2, output="some")
    assert "warning: expert.0 of unet stay as they are" in capsys.readouterr().out
    assert {name.split(".")[2] for name in load_file(some / WEIGHTS)} == {"1", "2"}


@pytest.mark.parametrize("experts", [(), ("--experts", 0, 2), ("--experts", 1)])
def test_experts_that_cannot_share_a_lora_are_refused_at_once(train, tmp_path, experts):
    """The packaged model's experts are networks of several shapes."""
    with pytest.raises(ValueError, match="No LoRA can be shared: "):
        train("--pretrained_model_name_or_path", demo_checkpoint(), "--shared_lora", *experts)
    assert not (tmp_path / "run").exists()


def test_a_single_network_of_super_resolution_is_trained(train, folder):
    captions = ["--train_data_dir", folder / "captioned"]
    run = train("--stage", "unet_sr256", "--max_train_steps", 1, pictures=captions)
    assert all(name.startswith("unet_sr256.") for name in load_file(run / WEIGHTS))
    pipe = load(folder)
    before = drawn(pipe, SIZES[1])
    pipe.load_lora_weights(run)
    assert not torch.allclose(drawn(pipe, SIZES[1]), before, atol=1e-3)
    with pytest.raises(ValueError, match="is of another stage than unet: choose another"):
        train("--resume_from_checkpoint", "latest")


def test_a_fine_tuned_expert_takes_its_place(train, folder):
    run = train("--experts", 2, script="train_ediffi", output="full")
    before, after = load(folder).unet, EDiffIPipeline.from_pretrained(run / "pipeline").unet
    trained = EDiffIUNet.from_pretrained(run / "runs" / "unet" / "expert.2" / "unet")
    assert after.boundaries == BOUNDARIES
    for number in (0, 1):
        assert torch.equal(output_of(after.experts[number]), output_of(before.experts[number]))
    assert torch.equal(output_of(after.experts[2]), output_of(trained))
    assert not torch.allclose(output_of(after.experts[2]), output_of(before.experts[2]), atol=1e-3)
    assert after.experts[2].config.trained_on == [[2.0, None]]


WRONG = {
    "no folder": (["--instance_data_dir", "nowhere", "--instance_prompt", PROMPT], "There is no folder 'nowhere'"),
    "no prompt": (["--instance_data_dir", "{zorbs}"], "--instance_data_dir and --instance_prompt belong together"),
    "an empty prompt": (["--instance_data_dir", "{zorbs}", "--instance_prompt", " "], "--instance_prompt is empty"),
    "no captions": (["--train_data_dir", "{zorbs}"], "holds no captions"),
    "an unknown expert": (["--experts", 3], r"experts \[3\]: unet has the experts 0 to 2"),
    "an expert twice": (["--experts", 1, 1], "name each once"),
    "another resolution": (["--resolution", 64], "--resolution 64: unet of this pipeline draws 8 pixels"),
    "no learning rate": (["--learning_rate", 0], "learning_rate must be above 0"),
    "no pipeline": (["--pretrained_model_name_or_path", "{zorbs}"], "model_index.json is missing"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_before_anything_is_loaded(train, folder, tmp_path, name):
    options, message = WRONG[name]
    options = [str(option).format(zorbs=folder / "zorbs") for option in options]
    chosen = {"pictures": options} if options[0] in ("--instance_data_dir", "--train_data_dir") else {}
    with pytest.raises((ValueError, OSError), match=message):
        train(*(() if chosen else options), **chosen)
    assert not (tmp_path / "run").exists()


def test_a_rank_of_zero_is_refused(train, tmp_path, capsys):
    with pytest.raises(SystemExit):
        train("--rank", 0)
    assert "--rank: '0' is not a whole number of at least 1" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_another_rank_is_refused_when_a_run_goes_on(train):
    train("--rank", 2, "--experts", 0)
    with pytest.raises(ValueError, match="was trained with lora_rank = 2, but this run has 3"):
        train("--rank", 3, "--experts", 0, "--resume_from_checkpoint", "latest")
    with pytest.raises(
        ValueError, match=r"expert.0 was trained with lora_rank = 2, but this run has 3: choose the same"
    ):
        train("--rank", 3, "--experts", 1, "--resume_from_checkpoint", "latest")  # one LoRA holds both


def test_an_expert_that_draws_what_it_was_not_trained_on_is_refused(train, folder, tmp_path):
    wrong = tmp_path / "wrong"
    shutil.copytree(folder / "pipeline", wrong)
    for expert, trained_on in ((0, [[0.0, 0.3]]), (1, [[0.3, 1.0]])):
        config = json.loads((wrong / "unet" / "config.json").read_text())
        config["unets"][expert]["config"]["trained_on"] = trained_on
        (wrong / "unet" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"expert.1 is asked for the sigmas \[0.3, 2\) but was trained on \[0.3, 1\)"):
        train("--pretrained_model_name_or_path", wrong)
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_is_not_installed_is_named(train, tmp_path, monkeypatch):
    runs = import_script("training/runs_and_options", monkeypatch)
    there = ["none", "all", *map(str, runs.get_available_trackers())]
    missing = next(name for name in runs.REPORT_TO if name not in there)
    with pytest.raises(ImportError, match=f"--report_to {missing}: pip install {missing}"):
        train("--report_to", missing)
    assert not (tmp_path / "run").exists()


def test_pictures_of_a_new_object(tmp_path, monkeypatch):
    script = import_script("training/make_new_object", monkeypatch)
    script.main(["--output_dir", str(tmp_path / "zorbs"), "--count", "3", "--size", "32"])
    rows = (tmp_path / "zorbs" / "metadata.jsonl").read_text().splitlines()
    assert len(rows) == 3 and all("zorb" in row for row in rows)
    with Image.open(tmp_path / "zorbs" / "0002.png") as picture:
        assert picture.size == (32, 32)
    with pytest.raises(FileExistsError, match="zorbs is not empty"):
        script.main(["--output_dir", str(tmp_path / "zorbs")])
    Image.new("RGB", (8, 8)).save(tmp_path / "opaque.png")
    with pytest.raises(ValueError, match="nothing is transparent"):
        script.main(["--output_dir", str(tmp_path / "other"), "--picture", str(tmp_path / "opaque.png")])
    assert not (tmp_path / "other").exists()


def test_a_new_object_beside_partners_and_in_a_folder_of_objects(objects, tmp_path, monkeypatch):
    script = import_script("training/make_new_object", monkeypatch)
    options = ["--objects", str(objects), "--partners", "sun", "moon", "--count", "6", "--size", "32"]
    script.main([*options, "--output_dir", str(tmp_path / "zorbs"), "--add_to_objects", str(objects)])
    captions = [json.loads(row)["text"] for row in (tmp_path / "zorbs" / "metadata.jsonl").read_text().splitlines()]
    assert all("zorb" in caption for caption in captions)
    assert ["sun" in caption or "moon" in caption for caption in captions] == [False, True] * 3
    phrases = [thing.phrase for thing in load_objects(objects)]
    assert phrases == ["rocket", "sun", "moon", "zorb"]
    for wrong, message in (
        (["--partners", "zorb"], "'zorb' is the new object itself"),
        (["--partners", "cat"], "has no object 'cat'"),
        (["--add_to_objects", str(objects)], "has an object 'zorb' already"),
    ):
        with pytest.raises(ValueError, match=message):
            script.main([*options, *wrong, "--output_dir", str(tmp_path / "other")])
    with pytest.raises(ValueError, match="--partners are taken from a folder of objects: give it as --objects"):
        script.main(["--partners", "sun", "--output_dir", str(tmp_path / "other")])
    script.main(["--objects", str(objects), "--phrase", "rocket", "--output_dir", str(tmp_path / "rockets")])
    assert "rocket" in (tmp_path / "rockets" / "metadata.jsonl").read_text()
    assert not (tmp_path / "other").exists()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""DreamBooth: what is drawn before training, from which prompts, and what is trained on it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_examples import EXAMPLES, import_script
from helpers_pictures import write_folder
from PIL import Image
from safetensors.torch import load_file

from diffusers_ediffi import EDiffIPipeline, demo_checkpoint

WEIGHTS = "pytorch_lora_weights.safetensors"
PRIOR = ("--with_prior_preservation", "--num_class_images", 5, "--sample_batch_size", 2)
CAT = ("--class_prompt", "a cat")


@pytest.fixture
def dream(train):
    """Runs the script with a prior of five pictures."""

    def run(*options, prior=PRIOR, **where):
        return train(*prior, *options, script="train_ediffi_dreambooth", **where)

    return run


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def test_class_pictures_are_what_the_pipeline_draws(dream, folder, tmp_path):
    run = dream("--class_prompt", "a cat", "a dog", "--validation_prompt", "a zorb", "--num_validation_images", 1)
    rows = rows_of(run / "class_pictures")
    assert [row["text"] for row in rows] == ["a cat", "a dog", "a cat", "a dog", "a cat"]
    pipe = EDiffIPipeline.from_pretrained(folder / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    noise = [torch.Generator().manual_seed(number) for number in (2, 3)]
    expected = pipe(["a cat", "a dog"], height=8, generator=noise).images
    for row, image in zip(rows[2:4], expected, strict=True):
        with Image.open(run / "class_pictures" / row["file_name"]) as drawn:
            assert np.array_equal(np.asarray(drawn.convert("RGB")), np.asarray(image))
    assert "| prior preservation | 5 pictures, weight 1 |" in (run / "README.md").read_text()
    pipe.load_lora_weights(run)


def test_a_drawing_that_was_cut_goes_on_to_the_same_bytes(dream, tmp_path, monkeypatch):
    whole = dream(*CAT, output="whole")
    pictures = import_script("training/class_pictures", monkeypatch)
    save, saved = pictures.save_image, []

    def save_some(image, path, provenance):
        if len(saved) == 3:
            raise KeyboardInterrupt
        saved.append(path)
        save(image, path, provenance)

    monkeypatch.setattr(pictures, "save_image", save_some)
    with pytest.raises(KeyboardInterrupt):
        dream(*CAT, output="cut")
    drawn = {path: path.stat().st_mtime_ns for path in saved}
    monkeypatch.setattr(pictures, "save_image", save)
    cut = dream(*CAT, output="cut")
    assert {path: path.stat().st_mtime_ns == when for path, when in drawn.items()} == dict(
        zip(saved, (True, True, False), strict=True)  # two at once are drawn anew at once
    )
    for path in sorted((whole / "class_pictures").iterdir()):
        assert path.read_bytes() == (cut / "class_pictures" / path.name).read_bytes()
    assert (whole / WEIGHTS).read_bytes() == (cut / WEIGHTS).read_bytes()


def test_the_prior_is_trained_on(dream, tmp_path):
    """As much as its weight says; pictures that are there are not drawn again."""
    class_data = ("--class_data_dir", tmp_path / "cats")
    first = dream(*CAT, *class_data, output="first")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cats").iterdir() if path.suffix == ".png"}
    other = dream(*CAT, *class_data, "--prior_loss_weight", 0.1, output="other")
    without = dream(prior=(), output="without")
    assert {path: path.stat().st_mtime_ns for path in before} == before and len(before) == 5
    found = [load_file(run / WEIGHTS) for run in (first, other, without)]
    assert found[0].keys() == found[1].keys() == found[2].keys()
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert any(not np.allclose(found[a][name], found[b][name], atol=1e-4) for name in found[0])
    with pytest.raises(ValueError, match="data.prior.weight = 0.1, but this run has 1"):
        dream(*CAT, *class_data, "--resume_from_checkpoint", "latest", output="other")


def test_all_weights_are_trained_with_a_flag(dream):
    run = dream(*CAT, "--full_weights", "--experts", 1, "--max_train_steps", 1)
    pipe = EDiffIPipeline.from_pretrained(run / "pipeline")
    assert len(pipe.unet.experts) == 3 and not (run / WEIGHTS).exists()


def test_pictures_of_the_users_are_taken_as_they_are(dream, folder, tmp_path, capsys):
    own = write_folder(tmp_path / "own", 5)
    run = dream("--class_data_dir", own, *CAT)
    assert "5 pictures, weight 1" in (run / "README.md").read_text() and len(list(own.iterdir())) == 6
    plain = shutil.copytree(folder / "zorbs", tmp_path / "plain")
    for options, message in (
        (("--class_data_dir", own, *CAT, "--num_class_images", 6), "holds 5 pictures that were not drawn here"),
        (("--class_data_dir", plain, "--class_prompt", "a", "b"), "holds pictures without captions"),
    ):
        with pytest.raises(ValueError, match=message):
            dream(*options, output="other")
        assert not (tmp_path / "other").exists()


def test_other_prompts_do_not_mix_with_what_is_there(dream, tmp_path):
    dream(*CAT)
    class_data = ("--class_data_dir", tmp_path / "run" / "class_pictures")
    with pytest.raises(ValueError, match="class-00000.png shows 'a cat', and now it would be 'a dog'"):
        dream("--class_prompt", "a dog", *class_data, output="other")


def test_prompts_come_from_a_file_or_the_vocabulary(tmp_path, monkeypatch):
    pictures = import_script("training/class_pictures", monkeypatch)
    dreambooth = import_script("training/train_ediffi_dreambooth", monkeypatch)

    def prompts(*options, model=None):
        needed = ["--instance_data_dir", "x", "--output_dir", tmp_path / "run", "--with_prior_preservation"]
        args = dreambooth.parse_arguments(list(map(str, [*needed, *options])))
        return pictures.class_prompts(args, Path(model or demo_checkpoint()))

    (tmp_path / "prompts.txt").write_text("a cat\n\n a dog \n")
    assert prompts("--class_prompt_file", tmp_path / "prompts.txt", "--num_class_images", 3) == [
        *("a cat", "a dog", "a cat"),
    ]
    made = prompts("--num_class_images", 200)
    vocabulary = EDiffIPipeline.load_config(demo_checkpoint())["vocabulary"]["words"]
    assert len(set(made)) > 190 and prompts("--num_class_images", 7) == made[:7]
    assert prompts("--num_class_images", 7, "--seed", 1) != made[:7]
    named = [[name for name in vocabulary["objects"] if name in prompt] for prompt in made]
    assert all(named) and {name for names in named for name in names} == set(vocabulary["objects"])
    with pytest.raises(ValueError, match="there is no prompt in"):
        (tmp_path / "prompts.txt").write_text("\n")
        prompts("--class_prompt_file", tmp_path / "prompts.txt")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match="the model has no vocabulary, so say what it must not forget"):
        prompts(model=tmp_path)


def test_prior_options_without_a_prior_are_refused(dream, tmp_path):
    with pytest.raises(ValueError, match="--class_prompt is for --with_prior_preservation"):
        dream(*CAT, prior=())
    assert not (tmp_path / "run").exists()


def test_two_processes_draw_and_train_together(dream, folder, tmp_path):
    """Each draws its share of the class pictures, to the bytes of one process; one of them says what came out."""
    alone = dream(*CAT, "--max_train_steps", 1)
    script = EXAMPLES / "training" / "train_ediffi_dreambooth.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", 2, "--standalone", script, *CAT]
    command += ["--pretrained_model_name_or_path", folder / "pipeline", "--output_dir", tmp_path / "together", *PRIOR]
    command += ["--instance_data_dir", folder / "zorbs", "--instance_prompt", "a zorb", "--max_train_steps", 1]
    result = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("The result is in") == 1
    for path in sorted((alone / "class_pictures").iterdir()):
        assert path.read_bytes() == (tmp_path / "together" / "class_pictures" / path.name).read_bytes()
    assert (tmp_path / "together" / WEIGHTS).exists()

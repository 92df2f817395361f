# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The script that splits a U-Net into experts: from a command to a pipeline, and what it refuses."""

import json
import shutil

import pytest
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from helpers_examples import import_script
from helpers_pictures import write_folder
from helpers_split import write_model

from diffusers_ediffi import demo_checkpoint
from diffusers_ediffi.training.checkpoint import complete_checkpoints


@pytest.fixture
def split(tmp_path, monkeypatch):
    """Runs the script on six pictures; options that are given again take the place of these."""
    script = import_script("training/train_experts_from_unet", monkeypatch)
    write_folder(tmp_path / "pictures", size=(16, 16))
    options = {"--pretrained_model_name_or_path": tmp_path / "model", "--train_data_dir": tmp_path / "pictures"}
    options |= {"--output_dir": tmp_path / "run", "--resolution": 8, "--train_batch_size": 1, "--max_train_steps": 2}

    def run(*further):
        pairs = [word for pair in options.items() for word in pair]
        boundaries = () if "--boundaries" in further else ("--boundaries", 1, 5)
        script.main(list(map(str, [*pairs, *boundaries, *further])))

    return run


@pytest.mark.parametrize("pipeline", [StableDiffusionPipeline, StableDiffusionXLPipeline])
def test_a_command_makes_a_pipeline_of_diffusers(split, tmp_path, capsys, pipeline):
    write_model(tmp_path / "model", pipeline)
    split("--rank", 2, "--use_ema", "--gradient_accumulation_steps", 2, "--validation_prompt", "a cat")
    printed = capsys.readouterr().out
    assert "6 of 6 pictures are trained on." in printed
    assert "expert.0 is trained: timesteps 0 to 353, sigma 0.0292 to 0.997." in printed
    pipe = pipeline.from_pretrained(tmp_path / "run" / "pipeline")
    assert len(pipe.unet.experts) == 3
    assert pipe("a cat", height=8, width=8, num_inference_steps=2).images[0].size == (8, 8)


def test_a_run_goes_on_only_when_it_is_told_to(split, tmp_path, capsys):
    write_model(tmp_path / "model")
    split("--checkpointing_steps", 1, "--lr_scheduler", "constant_with_warmup", "--lr_warmup_steps", 4)
    assert [path.name for path in complete_checkpoints(tmp_path / "run")] == ["checkpoint-1", "checkpoint-2"]
    with pytest.raises(OSError, match="checkpoint-2 is there: give --resume_from_checkpoint latest, or another"):
        split()
    split("--max_train_steps", 3, "--resume_from_checkpoint", "latest", "--checkpoints_total_limit", 1)
    assert "Resuming from" in capsys.readouterr().out
    assert [path.name for path in complete_checkpoints(tmp_path / "run")] == ["checkpoint-3"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["learning_rate"]) for line in lines] == [(1, 2.5e-6), (2, 5e-6), (3, 1e-5)]


def change(path, **entries):
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


# What is changed in the folder of the model, or `None`, then options, then the message.
WRONG = {
    "no boundary": (None, ["--boundaries", "5", "1"], "strictly increasing"),
    "a timestep as boundary": (None, ["--boundaries", "500"], "boundary 500 lies outside the scheduler's sigmas"),
    "no such expert": (None, ["--experts", "3"], "2 boundaries make the experts 0, 1, 2"),
    "no steps": (None, ["--max_train_steps", "0"], "total_steps must be at least 1"),
    "a tracker": (None, ["--report_to", "nothing"], "--report_to nothing: accelerate has no such tracker"),
    "no pictures": (None, ["--train_data_dir", "nowhere"], "nowhere"),
    "no pipeline": (None, ["--pretrained_model_name_or_path", "./nowhere"], "there is no folder './nowhere'"),
    "another pipeline": (None, ["--pretrained_model_name_or_path", demo_checkpoint()], "is a EDiffIPipeline; it must"),
    "odd size": (
        ("vae/config.json", {"block_out_channels": [4, 4]}),
        ["--resolution", "9"],
        "must be a multiple of 2",
    ),
    "experts already": (
        ("model_index.json", {"unet": ["diffusers_ediffi", "ExpertRouterUNet"]}),
        [],
        "The unet of .*model is a ExpertRouterUNet; it must be one UNet2DConditionModel",
    ),
    "inpainting": (("unet/config.json", {"in_channels": 9}), [], "takes 9 channels and its VAE makes 4"),
    "images": (
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}),
        [],
        "predicts 'sample'; it must be",
    ),
    "flow": (
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"}),
        [],
        "the noise levels of FlowMatchEulerDiscreteScheduler are not known",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_before_anything_is_loaded_or_written(split, tmp_path, name):
    changed, options, message = WRONG[name]
    write_model(tmp_path / "model")
    for part in ("vae", "text_encoder"):  # whoever loads the pipeline fails at these
        for path in (tmp_path / "model" / part).glob("*.safetensors"):
            path.unlink()
    if changed is not None:
        change(tmp_path / "model" / changed[0], **changed[1])
    with pytest.raises((ValueError, OSError), match=message):
        split(*options)
    assert not (tmp_path / "run").exists()


def test_a_unet_without_weights_is_refused(split, tmp_path):
    write_model(tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "text_encoder")
    (tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(OSError, match="unet"):
        split()
    assert not (tmp_path / "run").exists()

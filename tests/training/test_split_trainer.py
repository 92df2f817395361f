# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""One U-Net becomes experts: what is the same before training, what changes by it, and a run that is killed."""

import json
import multiprocessing
import os
import re
import signal

import helpers_diffusers as sd
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from helpers_launch import in_two_processes
from helpers_split import BOUNDARIES, TIMESTEPS, make_trainer, train_as_one_of_two, train_until_killed, write_inputs
from helpers_training import full_disk
from PIL import Image

from diffusers_ediffi import ExpertRouterUNet
from diffusers_ediffi.training.split_trainer import SplitSettings

MODELS = {
    "epsilon": {},
    "v_prediction": {"prediction": "v_prediction"},
    "sdxl": {"pipeline": StableDiffusionXLPipeline},
}
NO_DROPOUT = {"no dropout": {"dropout": 0.0}}  # which each process draws for itself


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with model and pictures for each kind of model."""
    folders = {}
    for name, options in (MODELS | NO_DROPOUT).items():
        folders[name] = tmp_path_factory.mktemp(name)
        write_inputs(folders[name], **options)
    return folders


def load(folder, name="epsilon"):
    pipe = MODELS[name].get("pipeline", StableDiffusionPipeline).from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def weights(router, index):
    router.select_expert((0.5, 2.0, 10.0)[index])
    return {name: tensor.clone() for name, tensor in router.experts[index].state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("lora_rank", [0, 2])
@pytest.mark.parametrize("name", MODELS)
def test_before_training_the_experts_draw_what_the_unet_draws(inputs, tmp_path, name, lora_rank):
    make_trainer(inputs[name], tmp_path / "run", lora_rank=lora_rank).write()
    pipe = load(tmp_path / "run" / "pipeline", name)
    assert isinstance(pipe.unet, ExpertRouterUNet) and pipe.unet.boundaries == list(BOUNDARIES)
    assert torch.equal(sd.draw(pipe), sd.draw(load(inputs[name] / "model", name)))


@pytest.mark.parametrize("name", MODELS)
def test_each_expert_is_trained_on_timesteps_of_its_interval_alone(inputs, tmp_path, name):
    trainer = make_trainer(inputs[name], tmp_path / "run", steps=12)
    drawn = {index: [] for index in trainer.learners}
    for index, learner in trainer.learners.items():
        learner.unet.register_forward_pre_hook(lambda _, inputs, index=index: drawn[index].extend(inputs[1].tolist()))
    trainer.train()
    for (first, last), timesteps in zip(TIMESTEPS, drawn.values(), strict=True):
        assert len(timesteps) == 24 and min(timesteps) >= first and max(timesteps) <= last
        assert max(timesteps) - min(timesteps) > (last - first) / 2
    # ... which is the interval in which the router asks for it
    router = load(tmp_path / "run" / "pipeline", name).unet
    for index, (first, last) in enumerate(TIMESTEPS):
        assert {router._routes.expert_of_timestep(timestep) for timestep in (first, last)} == {index}
    before = load(inputs[name] / "model", name).unet.state_dict()
    after = [weights(router, index) for index in range(3)]
    assert not any(equal(before, state) for state in after) and not equal(after[0], after[1])
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13)) and lines[-1]["samples_per_expert"] == 24
    assert set(lines[-1]["loss"]) == {"expert.0", "expert.1", "expert.2"}


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_an_expert_alone_changes_alone_and_a_warning_says_so(inputs, tmp_path, capsys, lora_rank):
    make_trainer(inputs["epsilon"], tmp_path / "run", lora_rank=lora_rank, trained=(1,)).train()
    assert "Warning: only expert.1 changes" in capsys.readouterr().out
    router, unet = load(tmp_path / "run" / "pipeline").unet, load(inputs["epsilon"] / "model").unet
    for (first, last), changed in zip(TIMESTEPS, (False, True, False), strict=True):
        for timestep in (first, last):
            with torch.no_grad():
                outputs = [each(**sd.inputs(), timestep=torch.tensor(timestep)).sample for each in (router, unet)]
            assert torch.equal(*outputs) != changed


def test_low_rank_experts_share_the_unet_on_disk(inputs, tmp_path):
    trainer = make_trainer(inputs["epsilon"], tmp_path / "run", lora_rank=2)
    low, high = (trainer.learners[index].unet.get_submodule("conv_in").base_layer.weight for index in (0, 2))
    assert low.data_ptr() == high.data_ptr() == trainer.base.conv_in.weight.data_ptr()
    base = {name: tensor.clone() for name, tensor in trainer.base.state_dict().items()}
    trainer.train()
    folder = tmp_path / "run" / "pipeline" / "unet"
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {f"expert.{n}" for n in ("base", 0, 1, 2)}
    pipe = load(tmp_path / "run" / "pipeline")
    assert equal(pipe.unet._shared.base().state_dict(), base)
    assert not torch.equal(sd.draw(pipe), sd.draw(load(inputs["epsilon"] / "model")))


@pytest.mark.parametrize("options", [{"use_ema": True}, {"lora_rank": 2}], ids=str)
def test_a_killed_run_ends_as_one_that_was_not(inputs, tmp_path, options):
    folder, whole, cut = inputs["epsilon"], tmp_path / "whole", tmp_path / "cut"
    make_trainer(folder, whole, **options).train()
    context = multiprocessing.get_context("forkserver")
    # after the checkpoint of step 2: expert.0 has made its third step, expert.1 is at it
    process = context.Process(target=train_until_killed, args=(folder, cut, 7), kwargs=options)
    process.start()
    process.join()
    assert process.exitcode == -9 and (cut / "checkpoint-2" / "COMPLETE").exists()
    assert not (cut / "pipeline").exists() and not (cut / "checkpoint-4").exists()
    trainer = make_trainer(folder, cut, **options)
    assert trainer.train() == 4
    states = [torch.load(output / "checkpoint-4" / "state.pt", weights_only=True) for output in (whole, cut)]
    assert flat(states[0]) == flat(states[1])
    assert (whole / "log.jsonl").read_text() == (cut / "log.jsonl").read_text()
    assert torch.equal(*(sd.draw(load(output / "pipeline")) for output in (whole, cut)))


def flat(value):
    """A nested state that can be compared."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.tolist()
    if isinstance(value, dict):
        return {name: flat(entry) for name, entry in value.items()}
    return [flat(entry) for entry in value] if isinstance(value, list | tuple) else value


def test_two_processes_have_the_same_weights(inputs, tmp_path):
    """Those of one process with as many pictures a step, whatever its parts."""
    options = {"accumulation": 2, "lora_rank": 2, "use_ema": True}
    assert in_two_processes(train_as_one_of_two, tmp_path, inputs["no dropout"], options) == [0, 0]
    first, second = (torch.load(tmp_path / "run" / f"rank-{rank}.pt") for rank in (0, 1))
    assert flat(first) == flat(second)
    alone = make_trainer(inputs["no dropout"], tmp_path / "alone", **options)
    alone.train()
    assert not torch.equal(alone.learners[0].parameters[0], first[0]["parameters"][0])  # the second learnt, too
    one = make_trainer(inputs["no dropout"], tmp_path / "one", batch_size=4, **{**options, "accumulation": 1})
    one.train()
    for found, learner in zip(first, one.learners.values(), strict=True):
        trained = [*found["parameters"], *found["ema"]["shadow_params"]]
        torch.testing.assert_close(
            trained, [*learner.parameters, *learner.ema.shadow_params], rtol=0, atol=1e-5, check_stride=False
        )
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["samples_per_expert"] for line in lines] == [4, 8, 12, 16]
    assert isinstance(load(tmp_path / "run" / "pipeline", "epsilon").unet, ExpertRouterUNet)


def test_validation_draws_what_the_result_draws(inputs, tmp_path):
    trainer = make_trainer(inputs["epsilon"], tmp_path / "run", use_ema=True, validation_prompt="a cat")
    trainer.train()
    with Image.open(tmp_path / "run" / "samples" / "step-0000004.png") as drawn:
        shown = np.asarray(drawn)
    generators = [torch.Generator().manual_seed(i) for i in range(4)]
    pipe = load(tmp_path / "run" / "pipeline")
    arguments = {"height": sd.SIZE, "width": sd.SIZE, "num_inference_steps": 3, "generator": generators}
    images = pipe(["a cat"] * 4, **arguments).images
    assert np.abs(shown.astype(int) - np.concatenate([np.asarray(image, int) for image in images], axis=1)).max() <= 1
    # the result is the average, not what is trained
    for learner, expert in zip(trainer.learners.values(), pipe.unet.experts, strict=True):
        average, trained = learner.ema.shadow_params, learner.parameters
        assert all(map(torch.equal, expert.parameters(), average)) and not torch.equal(average[0], trained[0])


def test_empty_prompts_take_the_place_of_captions(inputs, tmp_path, monkeypatch):
    trainer = make_trainer(inputs["epsilon"], tmp_path / "run", steps=1, empty_prompts=1.0)
    read, conditioning = [], trainer.model.conditioning
    monkeypatch.setattr(
        trainer.model, "conditioning", lambda texts, *size: read.extend(texts) or conditioning(texts, *size)
    )
    trainer.train()
    assert read == [""] * 6


def test_a_signal_ends_the_run_with_a_checkpoint(inputs, tmp_path, capsys):
    trainer = make_trainer(inputs["epsilon"], tmp_path / "run")
    trainer.learners[0].unet.register_forward_pre_hook(lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as stop:
        trainer.train()
    assert stop.value.code == 143 and (tmp_path / "run" / "checkpoint-1" / "COMPLETE").exists()
    assert "Stopped at step 1 of 4 (SIGTERM); the checkpoint is saved." in capsys.readouterr().out


def test_a_loss_that_is_not_finite_names_expert_and_step(inputs, tmp_path):
    trainer = make_trainer(inputs["epsilon"], tmp_path / "run")
    trainer.learners[1].unet.conv_out.bias.data.fill_(torch.nan)
    with pytest.raises(
        FloatingPointError, match=r"The loss of expert.1 is not finite at step 1\. There is no check"
    ) as e:
        trainer.train()
    assert re.search(r"without bf16\. The noise levels were sigma (1-3|3-10|1-3, 3-10)\.$", str(e.value))
    assert not (tmp_path / "run" / "pipeline").exists() and not list((tmp_path / "run").glob("checkpoint-*"))


def test_a_full_disk_leaves_the_last_checkpoint(inputs, tmp_path):
    make_trainer(inputs["epsilon"], tmp_path / "run", steps=2).train()
    with full_disk(), pytest.raises(OSError, match=r"checkpoint-4 cannot be written .*make room on the disk"):
        make_trainer(inputs["epsilon"], tmp_path / "run").train()
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]
    assert make_trainer(inputs["epsilon"], tmp_path / "run").train() == 4


def test_a_run_with_other_settings_is_not_resumed(inputs, tmp_path):
    make_trainer(inputs["epsilon"], tmp_path / "run", steps=1).train()
    with pytest.raises(ValueError, match=r"was trained with snr_gamma = None, but this run has 5\.0"):
        make_trainer(inputs["epsilon"], tmp_path / "run", snr_gamma=5.0).train()
    with pytest.raises(ValueError, match="was trained with prediction = 'epsilon', but this run has 'v_prediction'"):
        make_trainer(inputs["v_prediction"], tmp_path / "run").train()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"trained": (3,)}, r"experts=\[3\]: 2 boundaries make the experts 0, 1, 2"),
        ({"trained": ()}, "name at least one of them"),
        ({"accumulation": 0}, "accumulation must be at least 1, got 0"),
        ({"validation_images": 0}, "validation_images must be at least 1"),
        ({"snr_gamma": 0.0}, "snr_gamma must be above 0"),
        ({"empty_prompts": 1.5}, "a share from 0 to 1, got 1.5"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SplitSettings(BOUNDARIES, **changes)

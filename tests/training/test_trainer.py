# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Runs that are cut and go on exactly, and what a resumed run must share."""

import json
from types import SimpleNamespace

import filelock
import pytest
import torch
from accelerate.utils import DistributedType
from diffusers import UNet2DModel
from helpers_training import HalfScenes, assert_same, full_disk, make_trainer, state_of, tiny_unet
from PIL import Image

from diffusers_ediffi import ExpertRouterUNet
from diffusers_ediffi.experts.lora import LoraExpert
from diffusers_ediffi.experts.noise_interval import NoiseInterval
from diffusers_ediffi.models.unet import EDiffIUNet
from diffusers_ediffi.provenance import read_provenance
from diffusers_ediffi.training.checkpoint import complete_checkpoints
from diffusers_ediffi.training.data import SceneDataset
from diffusers_ediffi.training.launch import check_launch


def test_a_run_that_is_cut_equals_one_that_is_not(tmp_path):
    make_trainer(tmp_path / "whole").train()
    for limit, reached in ((1, 1), (3, 4), (None, 6)):
        assert make_trainer(tmp_path / "cut", max_steps_this_run=limit).train() == reached
    assert_same(state_of(tmp_path / "whole"), state_of(tmp_path / "cut"))
    whole, cut = (EDiffIUNet.from_pretrained(tmp_path / name / "unet").state_dict() for name in ("whole", "cut"))
    assert_same(whole, cut)


def test_bf16_channels_last_checkpointing_and_grids(tmp_path):
    dataset = SceneDataset(HalfScenes(), 8, low_res_factor=4, clip_image_size=8)
    trainer = make_trainer(
        tmp_path,
        tiny_unet(in_channels=6),
        dataset,
        mixed_precision="bf16",
        channels_last=True,
        gradient_checkpointing=True,
        max_steps_this_run=2,
        sample_every=2,
        sample_steps=2,
    )
    trainer.sample_items = [dataset[100], dataset[101]]
    trainer.train()
    assert read_provenance(tmp_path / "samples" / "step-0000002.png").settings == {"step": 2}
    with Image.open(tmp_path / "samples" / "step-0000002.png") as grid:
        assert grid.size == (16, 24)  # drawn, input, real
    assert (tmp_path / "samples" / "captions.txt").read_text() == "scene 100\nscene 101\n"
    weights = EDiffIUNet.from_pretrained(tmp_path / "unet").conv_in.weight
    assert weights.dtype == torch.float32 and weights.is_contiguous()


def test_minutes_end_the_run(tmp_path):
    assert make_trainer(tmp_path, max_minutes_this_run=1e-9).train() == 1


def test_finished_run_does_nothing(tmp_path, capsys):
    make_trainer(tmp_path).train()
    before = (tmp_path / "checkpoint-6" / "state.pt").stat().st_mtime_ns
    assert make_trainer(tmp_path).train() == 6
    assert "All 6 steps are done" in capsys.readouterr().out
    assert (tmp_path / "checkpoint-6" / "state.pt").stat().st_mtime_ns == before


@pytest.mark.parametrize("change", [{"batch_size": 4}, {"seed": 1}, {"ema_decay": 0.5}])
def test_other_settings_are_refused_by_name(tmp_path, change: dict):
    make_trainer(tmp_path, max_steps_this_run=1).train()
    with pytest.raises(ValueError, match=f"trained with {next(iter(change))} = "):
        make_trainer(tmp_path, **change).train()


def test_other_data_is_refused_but_another_learning_rate_is_not(tmp_path):
    trainer = make_trainer(tmp_path, max_steps_this_run=1)
    trainer.data_settings = {"phrases": ["cat"]}
    trainer.train()
    trainer = make_trainer(tmp_path)
    trainer.data_settings = {"phrases": ["rocket"]}
    with pytest.raises(ValueError, match=r"data.phrases = \['cat'\], but this run has \['rocket'\]"):
        trainer.train()
    trainer = make_trainer(tmp_path, learning_rate=1e-4, max_steps_this_run=1, total_steps=9)
    trainer.data_settings = {"phrases": ["cat"]}
    trainer.train()
    assert state_of(tmp_path)["step"] == 2


def test_every_setting_that_differs_is_named(tmp_path, capsys):
    make_trainer(tmp_path, max_steps_this_run=1).train()
    with pytest.raises(ValueError) as error:
        make_trainer(tmp_path, batch_size=4, seed=1, ema_decay=0.5, learning_rate=1.0).train()
    assert "with batch_size = 2, but this run has 4; ema_decay = 0.9999, but this run has 0.5; seed = 0," in str(
        error.value
    )
    assert "Resume with the same batch_size, ema_decay, seed, or" in str(error.value)
    capsys.readouterr()
    make_trainer(tmp_path, learning_rate=0.5, num_workers=1, total_steps=2, max_minutes_this_run=9).train()
    printed = capsys.readouterr().out
    assert "total_steps = 6 is now 2; learning_rate = 0.01 is now 0.5; num_workers = 0 is now 1." in printed
    make_trainer(tmp_path, learning_rate=0.5, num_workers=1, total_steps=3).train()
    assert "is now" not in capsys.readouterr().out.replace("total_steps = 2 is now 3", "")


def test_nan_stops_the_run_and_saves_nothing(tmp_path):
    make_trainer(tmp_path, max_steps_this_run=2).train()
    trainer = make_trainer(tmp_path, learning_rate=float("inf"), total_steps=20)
    with pytest.raises(FloatingPointError, match="last good checkpoint is .*checkpoint-2"):
        trainer.train()
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["checkpoint-2"]


@pytest.mark.parametrize("before", [None, [[1.898, None]], [[0.0, 0.3]]])
@pytest.mark.parametrize("interval", [NoiseInterval(((0.0, 0.3),)), NoiseInterval.everything()])
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_the_config_says_what_was_trained(tmp_path, before, interval, lora_rank):
    trainer = make_trainer(
        tmp_path, tiny_unet(trained_on=before), interval=interval, total_steps=1, lora_rank=lora_rank
    )
    trainer.train()
    saved = EDiffIUNet.from_pretrained(tmp_path / "unet").config.trained_on
    assert NoiseInterval.from_config(saved).ranges == interval.ranges
    if lora_rank:
        expert = LoraExpert.load(tmp_path / "lora_expert.safetensors")
        assert NoiseInterval.from_config(expert.config["trained_on"]).ranges == interval.ranges


def test_a_checkpoint_that_says_another_interval_in_its_config_resumes(tmp_path):
    make_trainer(tmp_path, max_steps_this_run=1).train()
    path = tmp_path / "checkpoint-1" / "settings.json"
    settings = json.loads(path.read_text())
    settings["unet"]["trained_on"] = [[0.0, 1.0]]
    path.write_text(json.dumps(settings))
    assert make_trainer(tmp_path).train() == 6


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_what_is_saved_names_no_place(tmp_path, lora_rank):
    tiny_unet().save_pretrained(tmp_path / "private")
    unet = EDiffIUNet.from_pretrained(tmp_path / "private")
    make_trainer(tmp_path / "run", unet, total_steps=1, lora_rank=lora_rank).train()
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert (lora_rank > 0) == any(path.suffix == ".safetensors" for path in written if path.parent == tmp_path / "run")
    assert not any(b"private" in path.read_bytes() for path in written)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_low_precision_are_refused(tmp_path, dtype):
    with pytest.raises(ValueError, match=rf"weights of {dtype}.*give unet.float\(\)"):
        make_trainer(tmp_path, tiny_unet().to(dtype))
    partly = tiny_unet()
    partly.conv_in.to(dtype)
    with pytest.raises(ValueError, match=f"weights of {dtype}"):
        make_trainer(tmp_path, partly)


def test_other_networks_are_refused(tmp_path):
    for network in (torch.nn.Linear(1, 1), UNet2DModel(block_out_channels=(32, 32, 32, 32))):
        with pytest.raises(TypeError, match=f"A {type(network).__name__} is not an EDiffIUNet, which alone"):
            make_trainer(tmp_path, network)
    with pytest.raises(TypeError, match="ExpertRouterUNet .*train each of its experts alone"):
        make_trainer(tmp_path, ExpertRouterUNet.from_unets([tiny_unet(), tiny_unet()], boundaries=[1.0]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preconditioning": "epsilon"}, "preconditioning='epsilon', and the loss here is EDM's"),
        ({"num_class_embeds": 5}, "num_class_embeds=5, and training data here has no classes"),
    ],
)
def test_networks_of_other_losses_and_data_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, tiny_unet(**changes))


@pytest.mark.parametrize("number", [1, 2, 3, 4, 9])
def test_a_launchers_accumulation_takes_a_batch_in_parts(tmp_path, number, monkeypatch):
    """The gradient is that of the whole batch, and so are the samples of a step."""

    def gradient(name: str) -> tuple[torch.Tensor, dict]:
        trainer = make_trainer(tmp_path / name, tiny_unet(dropout=0.0), total_steps=1, batch_size=4, log_every=1)
        trainer.train()
        return trainer.learner.grad_norm, trainer.progress.log.lines()[0]

    monkeypatch.delenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", raising=False)
    whole, line = gradient("whole")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", str(number))
    parts, line_of_parts = gradient("parts")
    torch.testing.assert_close(parts, whole)
    assert line_of_parts["samples"] == line["samples"] == 4
    assert line_of_parts["loss"] == pytest.approx(line["loss"], abs=2e-5)


@pytest.mark.parametrize("asked", ["fp16", "bf16", "fp8"])
def test_another_precision_of_the_launcher_is_refused(tmp_path, asked, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", asked)
    with pytest.raises(ValueError, match=f"mixed precision '{asked}' .* mixed_precision = 'no'"):
        make_trainer(tmp_path)


def test_a_launcher_that_shards_weights_is_refused():
    for kind in (DistributedType.DEEPSPEED, DistributedType.FSDP):
        with pytest.raises(ValueError, match=f"{kind.value}, which shards"):
            check_launch(SimpleNamespace(distributed_type=kind))
        with pytest.raises(ValueError, match=r"or, .*, FSDP with fsdp_version: 2"):
            check_launch(SimpleNamespace(distributed_type=kind, is_fsdp2=False), sharded=True)


def test_pictures_of_another_type_are_refused_before_anything_is_written(tmp_path):
    class Floats(SceneDataset):
        def __getitem__(self, index):
            item = super().__getitem__(index)
            return {**item, "image": item["image"] / 255}

    with pytest.raises(ValueError, match="image of an item is torch.float32"):
        make_trainer(tmp_path, dataset=Floats(HalfScenes(), 8, clip_image_size=8)).train()
    assert not complete_checkpoints(tmp_path)


def test_a_second_process_in_a_folder_is_refused(tmp_path):
    make_trainer(tmp_path, max_steps_this_run=1).train()
    before = sorted(path.name for path in tmp_path.iterdir())
    with filelock.FileLock(tmp_path / ".lock"), pytest.raises(OSError, match="Another process trains in"):
        make_trainer(tmp_path).train()
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_run_goes_on_from_before_a_damaged_checkpoint(tmp_path, capsys):
    make_trainer(tmp_path / "whole").train()
    make_trainer(tmp_path / "cut", max_steps_this_run=4, checkpoint_every=1).train()
    (tmp_path / "cut" / "checkpoint-4" / "state.pt").write_bytes(b"")
    assert make_trainer(tmp_path / "cut", checkpoint_every=4).train() == 6
    assert "checkpoint-4/state.pt is damaged" in capsys.readouterr().out
    assert_same(state_of(tmp_path / "whole"), state_of(tmp_path / "cut"))
    assert (tmp_path / "cut" / "checkpoint-4-damaged").is_dir() and (tmp_path / "cut" / "checkpoint-4").is_dir()


def test_a_run_stops_where_it_is_told_and_trains_nothing_beyond(tmp_path):
    make_trainer(tmp_path / "whole").train()
    for until, reached in ((2, 2), (1, 2), (5, 5), (None, 6)):
        assert make_trainer(tmp_path / "cut").train(until) == reached
    assert_same(state_of(tmp_path / "whole"), state_of(tmp_path / "cut"))


def test_a_full_disk_ends_a_run_that_goes_on_when_there_is_room(tmp_path):
    make_trainer(tmp_path / "whole", checkpoint_every=2).train()
    make_trainer(tmp_path / "cut", checkpoint_every=2, max_steps_this_run=2).train()
    with full_disk(), pytest.raises(OSError, match=r"checkpoint-4 cannot be written .*make room on the disk"):
        make_trainer(tmp_path / "cut", checkpoint_every=2).train()
    assert [path.name for path in complete_checkpoints(tmp_path / "cut")] == ["checkpoint-2"]
    assert make_trainer(tmp_path / "cut", checkpoint_every=2).train() == 6
    assert_same(state_of(tmp_path / "whole"), state_of(tmp_path / "cut"))

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Runs that are cut and go on exactly, and what a resumed run must share."""

import pytest
import torch
from helpers_training import HalfScenes, assert_same, make_trainer, state_of, tiny_unet
from PIL import Image

from diffusers_ediffi.models.unet import EDiffIUNet
from diffusers_ediffi.provenance import read_provenance
from diffusers_ediffi.training.checkpoint import complete_checkpoints
from diffusers_ediffi.training.data import SceneDataset


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


def test_nan_stops_the_run_and_saves_nothing(tmp_path):
    make_trainer(tmp_path, max_steps_this_run=2).train()
    trainer = make_trainer(tmp_path, learning_rate=float("inf"), total_steps=20)
    with pytest.raises(FloatingPointError, match="last good checkpoint is .*checkpoint-2"):
        trainer.train()
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["checkpoint-2"]

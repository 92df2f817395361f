# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What a launcher asks of a run: several processes, and batches in parts."""

import json
import signal
from pathlib import Path

import pytest
import torch
import yaml
from helpers_launch import (
    BF16_STEP,
    in_two_processes,
    train,
    train_in_pieces,
    train_sharded,
    train_share,
    train_until_one_is_killed,
    train_until_told,
    train_whole,
    train_with_spoilt_pictures,
)
from helpers_training import assert_same, make_trainer, state_of, tiny_unet

from diffusers_ediffi.models.unet import EDiffIUNet
from diffusers_ediffi.training import TrainingSettings
from diffusers_ediffi.training.launch import losses_named, part_of, parts
from diffusers_ediffi.training.sharded import check_sharded

NO_ATTENTION = {"self_attention_factors": (), "cross_attention_factors": ()}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("network", [{}, NO_ATTENTION], ids=["attention", "no attention"])
@pytest.mark.parametrize("accumulation", ["1", "2"])
def test_two_processes_train(tmp_path, optimizer, network, accumulation):
    """Also a network with parameters that no gradient reaches, and with layers for Muon."""
    settings = {"optimizer": optimizer, "checkpoint_every": 2}
    asked = {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": accumulation}
    assert in_two_processes(train, tmp_path, network, settings, **asked) == [0, 0]
    assert state_of(tmp_path / "run")["step"] == 3


def tensors(state):
    """The weights and averages of a state."""
    return [*state["model"].values(), *state["ema"]["shadow_params"]]


@pytest.mark.parametrize("kind", [{}, {"lora_rank": 2, "lora_only": True}], ids=["all weights", "lora"])
def test_two_processes_equal_one_with_the_same_images(tmp_path, monkeypatch, kind):
    """At once or in parts; and a single one goes on where two were."""
    assert in_two_processes(train_share, tmp_path, {"batch_size": 4, **kind}) == [0, 0]
    train_share(0, tmp_path / "one", {"batch_size": 8, **kind})
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    train_share(0, tmp_path / "parts", {"batch_size": 8, **kind})
    train_share(0, tmp_path / "run", {"batch_size": 8, **kind})
    expected = tensors(state_of(tmp_path / "one" / "whole"))
    for found in (tmp_path / "run" / "whole", tmp_path / "run" / "cut", tmp_path / "parts" / "whole"):
        for tensor, right in zip(tensors(state_of(found)), expected, strict=True):
            torch.testing.assert_close(tensor, right, rtol=0, atol=1e-5)


def test_two_processes_share_the_weights_out(tmp_path):
    """By the file that the documentation shows: they train what one does, go on exactly, and one goes on with it."""
    config = yaml.safe_load((Path(__file__).parents[2] / "examples" / "training" / "fsdp2.yaml").read_text())
    asked = {name.upper(): str(value) for name, value in config["fsdp_config"].items()}
    assert in_two_processes(train_sharded, tmp_path, ACCELERATE_USE_FSDP="true", **asked) == [0, 0]
    run = tmp_path / "run"
    assert_same(state_of(run / "whole"), state_of(run / "cut"))
    settings = {"total_steps": 4, "learning_rate": 1e-3, "batch_size": 8, "log_every": 1}
    one = make_trainer(tmp_path / "one", tiny_unet(dropout=0.0), **settings)
    one.train()
    for tensor, right in zip(tensors(state_of(run / "whole")), tensors(state_of(tmp_path / "one")), strict=True):
        torch.testing.assert_close(tensor, right, rtol=0, atol=1e-5)
    saved = EDiffIUNet.from_pretrained(run / "whole" / "unet")
    assert_same(list(saved.parameters()), state_of(run / "whole")["ema"]["shadow_params"])
    on = make_trainer(run / "cut", tiny_unet(dropout=0.0), **{**settings, "total_steps": 5})
    assert on.train() == 5
    make_trainer(tmp_path / "bf16", tiny_unet(dropout=0.0), **{**settings, **BF16_STEP}).train()
    first, second = (json.loads((folder / "log.jsonl").read_text()) for folder in (run / "bf16", tmp_path / "bf16"))
    assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=1e-2)
    assert (run / "bf16" / "samples" / "step-0000001.png").exists()


@pytest.mark.parametrize(
    "settings", [{"optimizer": "muon"}, {"lora_rank": 2}, {"channels_last": True}, {"compile": True}], ids=str
)
def test_settings_that_do_not_go_with_shared_out_weights_are_named(settings):
    (name, value), *_ = settings.items()
    with pytest.raises(ValueError, match=f"{name} = {value!r} does not go with FSDP2"):
        check_sharded(TrainingSettings(**settings))


def test_a_log_line_counts_the_losses_of_both_processes_before_the_cut(tmp_path):
    assert in_two_processes(train_in_pieces, tmp_path) == [0, 0]
    logs = [(tmp_path / "run" / name / "log.jsonl").read_text() for name in ("whole", "cut")]
    whole, cut = (json.loads(log.splitlines()[-1]) for log in logs)
    assert whole["step"] == cut["step"] == 4
    assert whole["loss"] == cut["loss"] and whole["loss_per_sigma"] == cut["loss_per_sigma"]


@pytest.mark.parametrize("receivers", [(0, 1), (0,), (1,)])
def test_a_signal_to_any_process_stops_all_at_the_same_step(tmp_path, receivers):
    """At once, whatever it waits for."""
    assert in_two_processes(train_until_told, tmp_path, receivers) == [143, 143]
    assert state_of(tmp_path / "run")["step"] == 2


def test_parts_of_a_batch():
    assert [(part.start, part.stop) for part in parts(5, 2)] == [(0, 3), (3, 5)]
    assert len(parts(2, 4)) == 2
    batch = {"images": torch.arange(5), "captions": list("abcde"), "more": ({"x": torch.ones(5, 2)}, None, 0.5)}
    found = [part_of(batch, part) for part in parts(5, 2)]
    assert "".join("".join(part["captions"]) for part in found) == "abcde"
    assert found[1]["images"].tolist() == [3, 4]
    assert found[1]["more"][0]["x"].shape == (2, 2) and found[1]["more"][1:] == (None, 0.5)


def test_one_process_is_killed_and_the_other_ends_with_a_line(tmp_path):
    """Within a minute, and both go on from the last checkpoint as if nothing had happened."""
    assert in_two_processes(train_until_one_is_killed, tmp_path) == [2, -signal.SIGKILL]
    seconds, said = (tmp_path / "run" / "said").read_text().split(" ", 1)
    assert float(seconds) < 60 and "Another process of this run has ended" in said and "\n" not in said
    assert f"The last good checkpoint is {tmp_path / 'run' / 'checkpoint-2'}. Start all processes again" in said
    assert in_two_processes(train_whole, tmp_path) == [0, 0]
    (tmp_path / "whole").mkdir()
    assert in_two_processes(train_whole, tmp_path / "whole") == [0, 0]
    assert_same(state_of(tmp_path / "run"), state_of(tmp_path / "whole" / "run"))


def test_other_errors_of_a_run_stay_what_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="out of memory") as error, losses_named(tmp_path):
        raise RuntimeError("CUDA out of memory")
    assert not isinstance(error.value, OSError)


def test_a_loss_that_is_not_finite_on_one_process_is_named_by_both(tmp_path):
    assert in_two_processes(train_with_spoilt_pictures, tmp_path) == [2, 2]
    first, second = ((tmp_path / "run" / f"said-{rank}").read_text() for rank in (0, 1))
    assert first == second and "not finite since step 3, first at noise levels sigma " in first
    assert f"as is seen at step 4; nothing of it was saved. The last good checkpoint is {tmp_path}" in first

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The arithmetic of the plan for many GPUs, held against a run."""

import importlib

import pytest
from helpers_examples import ROOT
from helpers_training import make_trainer, tiny_unet

ARGUMENTS = ["--parameters", "1000000000", "--gpus", "4", "--images_per_gpu", "8", "--seconds_per_step", "0.8"]
ARGUMENTS += ["--steps", "864000", "--gigabytes_per_second", "30", "--kilobytes_per_sample", "300"]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("plan_for_gpus")


def test_the_plan_of_a_network_of_a_billion_parameters(script, capsys):
    script.main([*ARGUMENTS, "--dollars_per_hour", "2"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[4:]]
    assert [[cell.strip("| ") for cell in row[1:]] for row in rows] == [
        ["20.00 GB", "5.00 GB"],
        ["6.00 GB", "9.00 GB"],  # 2 and 3 times three quarters of 4 GB
        ["1.000 s", "1.100 s"],
        ["80%", "73%"],
        ["0.010 GB/s", "0.009 GB/s"],
        ["16.0 GB", "16.0 GB"],
        ["10.0 days", "11.0 days"],
        ["960", "1,056"],
        ["$1,920", "$2,112"],
    ]


def test_what_a_run_keeps_and_saves_is_what_the_plan_says(script, tmp_path):
    trainer = make_trainer(tmp_path, tiny_unet(block_out_channels=(64, 128)), total_steps=1)
    trainer.train()
    parameters = sum(parameter.numel() for parameter in trainer.unet.parameters())
    moments = [each for state in trainer.learner.optimizer.state.values() for each in state.values() if each.ndim]
    weights = [*trainer.unet.parameters(), *trainer.ema.shadow_params, *moments]
    kept = sum(each.numel() * each.element_size() for each in weights) + 4 * parameters  # and the gradients
    assert kept == script.KEPT * parameters
    saved = (tmp_path / "checkpoint-1" / "state.pt").stat().st_size
    assert saved == pytest.approx(script.SAVED * parameters, rel=0.05)
    assert script.count_parameters("paper-table1") == 999_947_011


def test_a_number_of_zero_is_refused(script, capsys):
    with pytest.raises(SystemExit):
        script.main([*ARGUMENTS, "--dollars_per_hour", "0"])
    assert "--dollars_per_hour: '0' is not above 0" in capsys.readouterr().err

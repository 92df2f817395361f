# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Log lines and training time."""

import json

from helpers_training import make_trainer

from diffusers_ediffi.training.checkpoint import complete_checkpoints, training_seconds


def test_log_lines(tmp_path):
    make_trainer(tmp_path, max_steps_this_run=4).train()
    line = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert line["step"] == 4 and line["samples"] == 8 and line["images_per_second"] > 0
    assert line["learning_rate"] == 1e-2 and line["loss_per_sigma"] and line["minutes_left"] >= 0


def test_training_time_counts_over_all_runs(tmp_path):
    seconds = []
    for limit in (3, None):
        trainer = make_trainer(tmp_path, max_steps_this_run=limit)
        trainer.train()
        seconds.append(training_seconds(complete_checkpoints(tmp_path)[-1]))
    assert 0 < seconds[0] < seconds[1] <= trainer.seconds

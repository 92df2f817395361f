# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Log lines and training time."""

import json

from accelerate.tracking import GeneralTracker
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


class Lines(GeneralTracker):
    """A tracker that keeps what it is told."""

    name, requires_logging_directory, main_process_only = "lines", False, True

    def __init__(self):
        super().__init__()
        self.lines = []

    @property
    def tracker(self):
        return self.lines

    def log(self, values, step, **kwargs):
        self.lines.append((step, values))


def test_trackers_are_told_what_the_log_says(tmp_path):
    trainer, tracker = make_trainer(tmp_path), Lines()
    trainer.progress.title = "expert.1"
    trainer.accelerator.trackers = [tracker]
    trainer.train()
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(step, values["expert.1/loss"]) for step, values in tracker.lines] == [
        (line["step"], line["loss"]) for line in log
    ]
    assert len(log) == 3

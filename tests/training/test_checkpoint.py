# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Checkpoint folders: complete or not counted, rotated or kept."""

from diffusers_ediffi.training.checkpoint import MARKER, complete_checkpoints, save_checkpoint


def test_incomplete_checkpoints_do_not_count(tmp_path):
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, step, {"step": step}, {}, keep_last=2)
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-4"]
    (tmp_path / "checkpoint-4" / MARKER).unlink()
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["checkpoint-3"]
    assert not (tmp_path / "checkpoint-1").exists()


def test_steps_that_other_runs_start_from_are_not_rotated_away(tmp_path):
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, step, {"step": step}, {}, keep_last=1, keep_steps=(2,))
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-4"]

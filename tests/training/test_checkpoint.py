# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Checkpoint folders: complete or not counted, rotated or kept."""

import errno
import os
import shutil

import pytest
import torch
from helpers_training import full_disk

from diffusers_ediffi.training.checkpoint import (
    MARKER,
    averaged_weights,
    complete_checkpoints,
    load_newest,
    remove_incomplete,
    save_checkpoint,
    set_aside_after,
    writing,
)

STATE = {"ema": {"shadow_params": [torch.arange(1000.0)]}}


def save(folder, *steps, keep_last=9):
    for step in steps:
        save_checkpoint(folder, step, {"step": step, **STATE}, {"seed": 0}, keep_last=keep_last)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


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


def test_what_is_removed_has_the_very_name_of_a_checkpoint(tmp_path):
    """Copies, archives and notes of a user stay, whatever they look like."""
    save(tmp_path, 1, 2)
    for name in ("checkpoint-2-backup", "checkpoint-best", "checkpoint-02", "checkpoint-2.old", "my checkpoint-2"):
        shutil.copytree(tmp_path / "checkpoint-2", tmp_path / name)
        (tmp_path / name / MARKER).unlink()
    for name in ("checkpoint-2.tar.gz", "checkpoint-7", ".notes.tmp", ".checkpoint-best.tmp"):
        (tmp_path / name).write_text("theirs")
    theirs = set(names(tmp_path)) - {"checkpoint-1", "checkpoint-2"}
    (tmp_path / ".checkpoint-3.123.tmp").mkdir()
    (tmp_path / ".log.jsonl.123-456.tmp").touch()
    (tmp_path / ".checkpoint-2.123-456.old").mkdir()
    remove_incomplete(tmp_path)
    save(tmp_path, 3, keep_last=1)
    assert set(names(tmp_path)) == theirs | {"checkpoint-3"}


def test_of_a_link_the_link_alone_is_removed(tmp_path):
    elsewhere, run = tmp_path / "elsewhere", tmp_path / "run"
    run.mkdir()
    save(elsewhere, 1)
    (run / "checkpoint-1").symlink_to(elsewhere / "checkpoint-1", target_is_directory=True)
    assert load_newest(run, {"seed": 0})[1]["step"] == 1
    save(run, 2, keep_last=1)
    assert names(run) == ["checkpoint-2"] and (elsewhere / "checkpoint-1" / MARKER).exists()


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "cut": ("state.pt", cut),
    "empty": ("state.pt", lambda path: path.write_bytes(b"")),
    "one bit": ("state.pt", flip),
    "missing": ("state.pt", lambda path: path.unlink()),
    "another file": ("state.pt", lambda path: torch.save([1], path)),
    "settings": ("settings.json", cut),
    "no settings": ("settings.json", lambda path: path.unlink()),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_an_older_one(tmp_path, name):
    file, damage = DAMAGES[name]
    said = []
    save(tmp_path, 1, 2, 3)
    damage(tmp_path / "checkpoint-3" / file)
    folder, state = load_newest(tmp_path, {"seed": 0}, said.append)
    assert folder.name == "checkpoint-2" and state["step"] == 2
    assert len(said) == 1 and f"checkpoint-3/{file} is damaged" in said[0]
    if file == "state.pt":
        with pytest.raises(OSError, match=r"checkpoint-3/state.pt is damaged"):
            averaged_weights(tmp_path / "checkpoint-3")
    set_aside_after(folder)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2", "checkpoint-3-damaged"]
    for step in (1, 2):
        damage(tmp_path / f"checkpoint-{step}" / file)
    with pytest.raises(OSError, match=rf"checkpoint-2/{file} is damaged .* no older one: copy it here again"):
        load_newest(tmp_path, {"seed": 0}, said.append)


def test_other_settings_are_no_damage(tmp_path):
    save(tmp_path, 1, 2)
    with pytest.raises(ValueError, match="seed = 0, but this run has 1"):
        load_newest(tmp_path, {"seed": 1})
    assert load_newest(tmp_path / "new", {}) is None


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    with full_disk(), pytest.raises(OSError, match=r"checkpoint-1 cannot be written .*make room on the disk, or"):
        save(tmp_path, 1)
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError("unexpected pos 64 vs 0"), OSError(errno.ENOSPC, "No space left")])
def test_errors_of_writing_name_the_path(tmp_path, error):
    with pytest.raises(OSError, match="weights cannot be written"), writing(tmp_path / "weights"):
        raise error


def test_files_are_on_the_disk_before_the_marker(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def note(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        synced.append((os.path.basename(path), (tmp_path / "checkpoint-1" / MARKER).exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    save(tmp_path, 1)
    before = {name for name, marked in synced if not marked}
    assert {"state.pt", "settings.json", "seconds.json", tmp_path.name} <= before
    assert synced[-1] == ("checkpoint-1", True)

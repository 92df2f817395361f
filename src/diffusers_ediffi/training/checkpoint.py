# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Checkpoint folders that are either complete or do not count."""

import json
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from ..files import write_json, written_whole

MARKER = "COMPLETE"
_NAME = re.compile(r"checkpoint-(\d+)")


def save_checkpoint(
    output: Path,
    step: int,
    state: dict[str, Any],
    settings: dict[str, Any],
    keep_last: int,
    keep_steps: Collection[int] = (),
    seconds: float = 0.0,
) -> Path:
    """Writes `output/checkpoint-<step>`: in a temporary folder, then renamed, the completion marker last.

    Args:
        output (`Path`): The run's folder.
        step (`int`): Optimiser steps done.
        state (`dict`): Tensors and numbers for `torch.save`.
        settings (`dict`): What a resumed run must share.
        keep_last (`int`): Older checkpoints beyond so many are removed.
        keep_steps (collection of `int`, *optional*): Checkpoints of these steps are never removed, nor counted: other
            runs start from them.
        seconds (`float`, *optional*, defaults to 0.0): Training time so far; beside the state, so that equal runs have
            equal states.

    Returns:
        `Path`: The checkpoint's folder.
    """
    folder = output / f"checkpoint-{step}"
    with written_whole(folder) as unfinished:
        unfinished.mkdir()
        torch.save(state, unfinished / "state.pt")
        write_json(unfinished / "settings.json", settings)
        (unfinished / "seconds.json").write_text(f"{seconds:.3f}\n")
    (folder / MARKER).touch()
    _rotate(output, keep_last, keep_steps)
    return folder


def _rotate(output: Path, keep_last: int, keep_steps: Collection[int]) -> None:
    """Removes the oldest checkpoints."""
    rotating = [path for path in complete_checkpoints(output) if step_of(path) not in keep_steps]
    for old in rotating[:-keep_last]:
        (old / MARKER).unlink()  # first, so that a half-removed folder does not count
        shutil.rmtree(old)


def complete_checkpoints(output: Path) -> list[Path]:
    """The complete checkpoints of a run, by step."""
    named = [path for path in output.glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    return [path for path in sorted(named, key=step_of) if (path / MARKER).exists()]


def step_of(checkpoint: Path) -> int:
    """The step in the name of a checkpoint folder."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def remove_incomplete(output: Path) -> None:
    """Removes what a killed process left half-written or half-removed."""
    complete = complete_checkpoints(output)
    for path in (*output.glob("checkpoint-*"), *output.glob(".*.tmp")):
        if path not in complete:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def averaged_weights(checkpoint: Path) -> list[torch.Tensor]:
    """The averaged (EMA) weights of a checkpoint, in the order of the network's `parameters()`."""
    state = torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=True, mmap=True)
    return state["ema"]["shadow_params"]


def training_seconds(checkpoint: Path) -> float:
    """The training time that led to a checkpoint; 0 for one that does not say."""
    path = checkpoint / "seconds.json"
    return float(path.read_text()) if path.exists() else 0.0


def load_checkpoint(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The saved state.

    Raises:
        ValueError: The run's settings are not those of the checkpoint; the message names the first difference.
    """
    saved = json.loads((folder / "settings.json").read_text())
    difference = first_difference(saved, settings)
    if difference is not None:
        name, before, now = difference
        raise ValueError(
            f"{folder} was trained with {name} = {before!r}, but this run has {now!r}. "
            f"Resume with the same {name}, or choose another output folder and start from this run's unet/."
        )
    return torch.load(folder / "state.pt", map_location="cpu", weights_only=True)


def first_difference(saved: dict[str, Any], now: dict[str, Any]) -> tuple[str, Any, Any] | None:
    """The first entry in which `now` differs from what was saved as JSON.

    Returns:
        Its name, such as `data.phrases`, the value before and the value now; `None` if nothing differs.
    """
    return _difference(saved, json.loads(json.dumps(now)), "")


def _difference(saved: Any, now: Any, name: str) -> tuple[str, Any, Any] | None:
    if isinstance(saved, dict) and isinstance(now, dict):
        for key in saved:  # what is only in `now` was introduced after the checkpoint was written
            found = _difference(saved[key], now.get(key), f"{name}.{key}" if name else key)
            if found:
                return found
        return None
    return None if saved == now else (name, saved, now)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Checkpoint folders that are either complete or do not count."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch

MARKER = "COMPLETE"
_NAME = re.compile(r"checkpoint-(\d+)")


def save_checkpoint(output: Path, step: int, state: dict[str, Any], settings: dict[str, Any], keep_last: int) -> Path:
    """Writes `output/checkpoint-<step>`: in a temporary folder, then renamed, the completion marker last.

    Args:
        output: the run's folder.
        step: optimiser steps done.
        state: tensors and numbers for `torch.save`.
        settings: what a resumed run must share.
        keep_last: older checkpoints beyond so many are removed.
    """
    folder, temporary = output / f"checkpoint-{step}", output / f".checkpoint-{step}.tmp"
    for old in (temporary, folder):
        shutil.rmtree(old, ignore_errors=True)
    temporary.mkdir(parents=True)
    torch.save(state, temporary / "state.pt")
    (temporary / "settings.json").write_text(json.dumps(settings, indent=2) + "\n")
    temporary.rename(folder)
    (folder / MARKER).touch()
    for old in complete_checkpoints(output)[:-keep_last]:
        (old / MARKER).unlink()  # first, so that a half-removed folder does not count
        shutil.rmtree(old)
    return folder


def complete_checkpoints(output: Path) -> list[Path]:
    """The complete checkpoints of a run, by step."""
    named = [(int(m[1]), path) for path in output.glob("checkpoint-*") if (m := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(named) if (path / MARKER).exists()]


def load_checkpoint(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The saved state.

    Raises:
        ValueError: if the run's settings are not those of the checkpoint; the message names the first difference.
    """
    saved = json.loads((folder / "settings.json").read_text())
    difference = _first_difference(saved, json.loads(json.dumps(settings)))
    if difference is not None:
        name, before, now = difference
        raise ValueError(
            f"{folder} was trained with {name} = {before!r}, but this run has {now!r}. "
            f"Resume with the same {name}, or choose another output folder and start from this run's unet/."
        )
    return torch.load(folder / "state.pt", map_location="cpu", weights_only=True)


def _first_difference(saved: Any, now: Any, name: str = "") -> tuple[str, Any, Any] | None:
    if isinstance(saved, dict) and isinstance(now, dict):
        for key in saved:  # what is only in `now` was introduced after the checkpoint was written
            found = _first_difference(saved[key], now.get(key), f"{name}.{key}" if name else key)
            if found:
                return found
        return None
    return None if saved == now else (name, saved, now)

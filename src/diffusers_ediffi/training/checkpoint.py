# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Checkpoint folders that are either complete or do not count."""

import json
import math
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ..files import write_json, written_whole

MARKER = "COMPLETE"
_NAME = re.compile(r"checkpoint-(0|[1-9]\d*)")
# What `written_whole` leaves of the files and folders of a run when the process is killed.
_UNFINISHED = re.compile(
    r"\.(?P<name>checkpoint-\d+|unet|pipeline|log\.jsonl|plan\.json|done\.json|lora_expert\.safetensors)"
    r"(\.\d+(-\d+)?)?\.(?P<ending>tmp|old)"
)
# Settings that a resumed run may change, which are kept to say so.
FREE = "free"
SHOWN = 8  # of the settings that were changed
# What older checkpoints note twice: `interval` says it, and what was trained is what counts.
_SAID_TWICE = ("unet.trained_on",)
# What PyTorch and Python say of a file that is cut, empty or has other bytes.
_DAMAGE = (RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile)


Difference = tuple[str, Any, Any]  # the name of a setting, its value before and its value now
IMAGES_OF_A_STEP = ("batch_size", "num_processes")


class DamagedError(OSError):
    """A complete checkpoint cannot be read."""


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
        settings (`dict`): What a resumed run must share and, as `free`, what it may change.
        keep_last (`int`): Older checkpoints beyond so many are removed.
        keep_steps (collection of `int`, *optional*): Checkpoints of these steps are never removed, nor counted: other
            runs start from them.
        seconds (`float`, *optional*, defaults to 0.0): Training time so far; beside the state, so that equal runs have
            equal states.

    Returns:
        `Path`: The checkpoint's folder.

    Raises:
        OSError: It cannot be written; nothing of it is left.
    """
    folder = output / f"checkpoint-{step}"
    with writing(folder), written_whole(folder) as unfinished:
        unfinished.mkdir()
        torch.save(state, unfinished / "state.pt")
        write_json(unfinished / "settings.json", settings)
        (unfinished / "seconds.json").write_text(f"{seconds:.3f}\n")
        for path in (*unfinished.iterdir(), unfinished):
            _sync(path)
    with writing(folder):
        _sync(output)
        (folder / MARKER).touch()
        _sync(folder)
    _rotate(output, keep_last, keep_steps)
    return folder


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A block that writes a file or a folder; PyTorch and safetensors do not say what they could not write.

    Raises:
        OSError: It cannot be written.
    """
    try:
        yield
    except (RuntimeError, OSError, SafetensorError) as error:
        raise OSError(
            f"{path} cannot be written ({_first_line(error)}): make room on the disk, or choose another folder. "
            "What was saved before is whole."
        ) from error


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk and would survive a power cut."""
    if path.is_dir() and os.name == "nt":  # which cannot open folders
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__


def _rotate(output: Path, keep_last: int, keep_steps: Collection[int]) -> None:
    """Removes the oldest checkpoints."""
    rotating = [path for path in complete_checkpoints(output) if step_of(path) not in keep_steps]
    for old in rotating[:-keep_last]:
        _remove(old)


def _remove(path: Path) -> None:
    """Removes a file or folder; of a link the link alone."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    (path / MARKER).unlink(missing_ok=True)  # first, so that a half-removed folder does not count
    shutil.rmtree(path)


def _checkpoints(output: Path) -> list[Path]:
    """Every folder with the name of a checkpoint, by step. Copies and archives beside them have other names."""
    named = [path for path in output.glob("checkpoint-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(named, key=step_of)


def complete_checkpoints(output: Path) -> list[Path]:
    """The complete checkpoints of a run, by step."""
    return [path for path in _checkpoints(output) if (path / MARKER).exists()]


def last_good(output: Path) -> str:
    """A sentence that names the last complete checkpoint of a run."""
    found = complete_checkpoints(output)
    return f"The last good checkpoint is {found[-1]}." if found else "There is no checkpoint yet."


def step_of(checkpoint: Path) -> int:
    """The step in the name of a checkpoint folder."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def remove_incomplete(output: Path) -> None:
    """Removes what a killed process left half-written or half-removed, and nothing else."""
    complete = complete_checkpoints(output)
    for path in (*_checkpoints(output), *filter(_is_left_over, output.glob(".*"))):
        if path not in complete:
            _remove(path)


def _is_left_over(path: Path) -> bool:
    """Whether a file or folder is unfinished, or the older one of what has taken its place."""
    match = _UNFINISHED.fullmatch(path.name)
    return match is not None and (match["ending"] == "tmp" or path.with_name(match["name"]).exists())


def averaged_weights(checkpoint: Path) -> list[torch.Tensor]:
    """The averaged (EMA) weights of a checkpoint, in the order of the network's `parameters()`.

    Raises:
        OSError: It is damaged.
    """
    return _read_state(checkpoint, mmap=True)["ema"]["shadow_params"]


def training_seconds(checkpoint: Path) -> float:
    """The training time that led to a checkpoint; 0 for one that does not say."""
    path = checkpoint / "seconds.json"
    return float(path.read_text()) if path.exists() else 0.0


def load_newest(
    output: Path, settings: dict[str, Any], say: Callable[[str], None] = print
) -> tuple[Path, dict[str, Any]] | None:
    """The newest complete checkpoint that can be read, and its state; `None` if there is no checkpoint.

    Args:
        output (`Path`): The run's folder.
        settings (`dict`): What the run must share with its checkpoint and, as `free`, what it may change.
        say (`Callable`, *optional*, defaults to `print`): Is told of damaged ones, and of what was changed.

    Raises:
        OSError: There are checkpoints, and all of them are damaged.
        ValueError: The run's settings are not those of the checkpoint.
    """
    damage: DamagedError | None = None
    for folder in reversed(complete_checkpoints(output)):
        try:
            state, changes = load_checkpoint(folder, settings)
        except DamagedError as error:
            damage = damage or error
            say(f"{error} Looking for an older checkpoint.")
        else:
            if changes:
                say(f"This run has other settings than {folder}: {_listed(changes, '{} = {!r} is now {!r}')}.")
            return folder, state
    if damage is None:
        return None
    raise OSError(f"{damage} There is no older one: copy it here again, or remove it to start anew.")


def set_aside_after(checkpoint: Path) -> None:
    """Renames the checkpoints after one, which are damaged: their steps are trained anew."""
    for folder in complete_checkpoints(checkpoint.parent):
        if step_of(folder) > step_of(checkpoint):
            names = (f"{folder.name}-damaged{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 1000))))
            folder.rename(next(path for name in names if not (path := folder.with_name(name)).exists()))


def load_checkpoint(folder: Path, settings: dict[str, Any]) -> tuple[dict[str, Any], list[Difference]]:
    """The saved state, and what was changed of the settings that may be.

    Raises:
        OSError: The checkpoint is damaged.
        ValueError: The run's settings are not those of the checkpoint; the message names the differences.
    """
    try:
        saved = json.loads((folder / "settings.json").read_text())
    except (ValueError, FileNotFoundError) as error:
        raise DamagedError(f"{folder / 'settings.json'} is damaged ({_first_line(error)}).") from error
    now_free = settings.get(FREE, {})
    free = {name: saved.pop(name) for name in now_free if name in saved} | saved.pop(FREE, {})
    changes = differences(free, now_free)
    shared = differences(saved, settings)
    if _same_images(saved, settings):  # however many processes share them
        changes += [change for change in shared if change[0] in IMAGES_OF_A_STEP]
        shared = [change for change in shared if change[0] not in IMAGES_OF_A_STEP]
    if shared:
        names = ", ".join(name for name, _, _ in shared[:SHOWN])
        raise ValueError(
            f"{folder} was trained with {_listed(shared, '{} = {!r}, but this run has {!r}')}. "
            f"Resume with the same {names}, or choose another output folder and start from this run's unet/."
        )
    return _read_state(folder), changes


def _same_images(saved: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether a step takes as many images, on all processes together."""
    first, second = (math.prod(each.get(name, 0) for name in IMAGES_OF_A_STEP) for each in (saved, now))
    return first == second > 0


def _listed(changes: list[Difference], sentence: str) -> str:
    """What was changed, and how many more there are of such a list that is long."""
    further = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
    return "; ".join(sentence.format(*change) for change in changes[:SHOWN]) + further


def _read_state(folder: Path, mmap: bool = False) -> dict[str, Any]:
    """What `save_checkpoint` was given as state."""
    path = folder / "state.pt"
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()  # PyTorch does not look at the checksums that it writes
        if wrong is not None:
            raise ValueError(f"the checksum of {wrong} is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        if not isinstance(state, dict) or "step" not in state:
            raise ValueError("it is not the state of a run")
        return state
    except (*_DAMAGE, FileNotFoundError) as error:
        if "memory" in str(error):  # there is too little of it
            raise
        raise DamagedError(f"{path} is damaged ({_first_line(error)}).") from error


def differences(saved: dict[str, Any], now: dict[str, Any]) -> list[Difference]:
    """The entries in which `now` differs from what was saved as JSON.

    Returns:
        Of each its name, such as `data.phrases`, the value before and the value now.
    """
    return list(_differences(saved, json.loads(json.dumps(now)), ""))


def _differences(saved: Any, now: Any, name: str) -> Iterator[Difference]:
    if isinstance(saved, dict) and isinstance(now, dict):
        for key in saved:  # what is only in `now` was introduced after the checkpoint was written
            path = f"{name}.{key}" if name else key
            if path not in _SAID_TWICE:
                yield from _differences(saved[key], now.get(key), path)
    elif saved != now:
        yield name, saved, now

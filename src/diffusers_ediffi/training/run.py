# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What surrounds a training run: signals that end it, the lock on its folder, and the file of its log."""

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import filelock

from ..files import written_whole
from .checkpoint import writing


class Abandoned(BaseException):
    """A signal came in a block of `SignalGuard.abandons`."""


class SignalGuard:
    """Turns SIGTERM and Ctrl-C in its block into the exit codes that shells give them, 143 and 130.

        >>> with SignalGuard() as guard:
        ...     while not guard.received:
        ...         train_step()
        ...     save()

    Outside of the main thread, which alone may handle signals, it does nothing.

    Args:
        at_once (`bool`, *optional*, defaults to `False`): Whether a signal ends the block where it is. By default the
            block asks for `received`, ends as it likes, and is followed by the exit; a second Ctrl-C interrupts it.

    Raises:
        SystemExit: A signal came, and the block did not fail.
    """

    def __init__(self, at_once: bool = False) -> None:
        self.at_once = at_once
        self._abandons = False
        self.received: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "SignalGuard":
        self.received = None
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if kind is None and self.received is not None:
            raise SystemExit(128 + self.received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if self.at_once:
            raise SystemExit(128 + number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._abandons:
            self._abandons = False
            raise Abandoned

    @contextmanager
    def abandons(self) -> Iterator[None]:
        """A block whose work may be lost: a signal ends it where it is, however long it would take.

        Raises:
            Abandoned: A signal came.
        """
        self._abandons = True
        try:
            if self.received is not None:
                raise Abandoned
            yield
        finally:
            self._abandons = False


class RunLog:
    """`log.jsonl` of a run: a JSON object on each line, each with its `step`.

    Args:
        folder (`Path`): The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "log.jsonl"

    def append(self, line: dict[str, Any]) -> None:
        """Writes one line."""
        with writing(self.path), self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def cut_back(self, step: int) -> None:
        """Removes the lines behind a step, and what a kill cut off in the middle of a line, which is behind it too."""
        if not self.path.exists():
            return
        lines = [line for line in self.path.read_text().splitlines(keepends=True) if line.endswith("}\n")]
        with written_whole(self.path) as shorter:
            shorter.write_text("".join(line for line in lines if json.loads(line)["step"] <= step))

    def lines(self) -> list[dict[str, Any]]:
        """All lines, the oldest first."""
        return [json.loads(line) for line in self.path.read_text().splitlines()]


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps other processes from a folder; the system drops the lock when a process dies.

    Args:
        folder (`Path`): The folder, which is made if it does not exist.

    Raises:
        OSError: Another process is in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise OSError(f"Another process trains in {folder}; wait for it or choose another output.") from None
    try:
        yield
    finally:
        lock.release()

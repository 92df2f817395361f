# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Ctrl-C. Imports little, so that it is there at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INTERRUPTED = 130  # the exit code, as in shells
LINE = "ediffi: interrupted"


@contextmanager
def interrupts_end_it() -> Iterator[None]:
    """Lets Ctrl-C end the process at once while modules are imported or a model is loaded.

    A `KeyboardInterrupt` there may be raised in libraries that take it for something else. Nothing is written
    meanwhile, so that nothing is left half done.
    """
    waits = signal.getsignal(signal.SIGINT) is not signal.default_int_handler  # ignored, or somebody else's
    if waits or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(*_: Any) -> None:
    try:
        os.write(2, f"{LINE}\n".encode())
    finally:
        os._exit(INTERRUPTED)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""How a script says what is wrong with its arguments or files: in one line. Those of examples/,
conversion/ and benchmarks/ do."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from .messages import one_line, say


class ScriptParser(argparse.ArgumentParser):
    """A parser that leaves out the usage: one line says what is wrong."""

    def add_device(self, default: str = "cpu") -> None:
        """Adds `--device`, which is refused where it cannot be used."""
        devices = "cpu, cuda, cuda:1, mps, ... (default: %(default)s)"
        self.add_argument("--device", type=_device, default=default, help=devices)

    def error(self, message: str) -> NoReturn:
        """Ends the script."""
        _end(ValueError(f"{message} (see {self.prog} --help)"))


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """A block of a script. If an argument or file is wrong, or a library is missing, the script ends with a line.

        >>> if __name__ == "__main__":
        ...     with errors_in_one_line():
        ...         main()

    Raises:
        SystemExit: With 2, after the line on standard error.
    """
    try:
        yield
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        _end(error)


def _device(name: str) -> str:
    from .device import usable_device  # torch takes a second

    try:
        return usable_device(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _end(error: Exception) -> NoReturn:
    say(f"error: {one_line(error)}", file=sys.stderr)
    sys.exit(2)

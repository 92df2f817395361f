# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The command line: `ediffi generate` draws images, `ediffi paint` puts phrases where a scene says, `ediffi edit`
changes an image or a part of it, `ediffi info` says what a model consists of, or how a picture was made.

Arguments are checked before the module of the command is imported, which takes seconds where it draws.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from .messages import one_line
from .parser import command_parser, refuse_rest


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv (`list` of `str`, *optional*): The arguments without the program's name; by default those of the process.

    Returns:
        0, or 2 after one line about a bad input on standard error; as in shells, 130 after Ctrl-C and 141 where the
        reader of the output has gone.
    """
    try:
        _run(argv)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (OSError, ValueError) as error:
        print(f"ediffi: error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _run(argv: Sequence[str] | None) -> None:
    try:
        args, rest = command_parser().parse_known_args(argv)
        refuse_rest(args.command, rest)
        _command(args)(args)
    finally:  # what is buffered, that of --help too, must fail here and not when Python ends
        sys.stdout.flush()


def _command(args: argparse.Namespace) -> Callable[[argparse.Namespace], None]:
    """The function of the command, whose module is imported only now."""
    module, function = "draw", args.command
    if args.command == "info":
        module, function = ("model_info", "describe_model") if args.picture is None else ("info", "describe_picture")
    return getattr(importlib.import_module(f".{module}", __package__), function)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The command line: `ediffi generate` draws images, `ediffi paint` puts phrases where a scene says, `ediffi edit`
changes an image or a part of it, `ediffi evaluate` measures models and pictures, `ediffi space` does all of it in
the browser, `ediffi info` says what a model consists of, or how a picture was made, `ediffi models` what models there
are.

Standard output holds the results alone, with --json as JSON; progress and messages go to standard error.

Arguments are checked before the module of the command is imported, which takes seconds where it draws.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from .interrupts import INTERRUPTED, LINE, interrupts_end_it
from .messages import one_line, say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Loggers that speak of a library's optional parts while diffusers is imported; nobody who draws can use what they say.
SILENT = ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv (`list` of `str`, *optional*): The arguments without the program's name; by default those of the process.

    Returns:
        0, or 2 after one line about a bad input on standard error; as in shells, 130 after Ctrl-C and 141 where the
        reader of the output has gone.
    """
    # Python has no standard output or error where the process was started without them.
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")
    if sys.stdout is None:
        say("ediffi: error: standard output is closed; redirect it to /dev/null to do without", file=sys.stderr)
        return 2
    try:
        _run(argv)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (OSError, ValueError) as error:
        say(f"ediffi: error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say(LINE, file=sys.stderr)
        return INTERRUPTED
    return 0


def _run(argv: Sequence[str] | None) -> None:
    try:
        with interrupts_end_it():
            command, args = _command(argv)
        command(args)
    finally:  # what is buffered, that of --help too, must fail here and not when Python ends
        sys.stdout.flush()


def _command(argv: Sequence[str] | None) -> tuple[Callable[[Any], None], Any]:
    """The function of the command, whose module is imported only now, and its arguments."""
    import importlib
    import logging

    from .parser import command_parser, refuse_rest

    args, rest = command_parser().parse_known_args(argv)
    refuse_rest(args.command, rest)
    module = args.command if args.command in ("evaluate", "space") else "draw"
    function = args.command
    if args.command == "info":
        module, function = ("model_info", "describe_model") if args.picture is None else ("info", "describe_picture")
        module, function = ("words", "list_words") if args.words else (module, function)
    elif args.command == "models":
        module, function = "models", "list_models"
    for name in SILENT:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        return getattr(importlib.import_module(f".{module}", __package__), function), args
    except ModuleNotFoundError as error:
        extra = "demo" if args.command == "space" else "eval"
        raise ValueError(f"{error}; ediffi {args.command} needs pip install 'diffusers_ediffi[{extra}]'") from None

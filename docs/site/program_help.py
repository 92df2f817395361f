# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The directive `program-help`: what `ediffi COMMAND --help` prints, from the parser itself."""

import argparse
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

from diffusers_ediffi.cli.parser import command_parser


class ProgramHelp(Directive):
    """Shows the help of `ediffi`, or of one of its commands, as a block of text."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        parser = command_parser()
        if self.arguments:
            parser = commands_of(parser)[self.arguments[0]]
        text = parser.format_help()
        return [nodes.literal_block(text, text, language="text")]


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    (found,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return found.choices


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("program-help", ProgramHelp)
    return {"parallel_read_safe": True}

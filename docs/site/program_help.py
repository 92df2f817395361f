# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The directive `program-help`: what `ediffi --help` and `ediffi COMMAND --help` print, from the parsers."""

import argparse
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

from diffusers_ediffi.cli.parser import command_parser


class ProgramHelp(Directive):
    """Shows the help of `ediffi`, and below it a section for each command."""

    def run(self) -> list[nodes.Node]:
        parser = command_parser()
        return [help_of(parser), *(section_of(name, command) for name, command in commands_of(parser).items())]


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    (found,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return found.choices


def help_of(parser: argparse.ArgumentParser) -> nodes.literal_block:
    text = parser.format_help()
    return nodes.literal_block(text, text, language="text")


def section_of(name: str, command: argparse.ArgumentParser) -> nodes.section:
    """The help of a command below its name."""
    return nodes.section("", nodes.title(text=f"ediffi {name}"), help_of(command), ids=[name], names=[name])


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("program-help", ProgramHelp)
    return {"parallel_read_safe": True}

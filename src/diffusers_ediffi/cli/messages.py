# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Errors of libraries as messages for a terminal."""


def one_line(error: BaseException) -> str:
    """The message of an error on one line; the name of its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What is printed: all of it passes here, since a terminal obeys control characters, and a stranger may have put some
into a name of a model or a licence. Imports nothing, so that it is there at once."""

import sys
from typing import Any, TextIO

MAX_MESSAGE = 2000


def say(line: str, file: TextIO | None = None) -> None:
    """Prints a line, on standard output by default."""
    file = file or sys.stdout
    encoding = file.encoding or "utf-8"
    print(printable(line).encode(encoding, "backslashreplace").decode(encoding), file=file)


def say_json(value: Any) -> None:
    """Prints JSON on one line of standard output, which a program reads: ASCII alone, and no NaN."""
    import json

    say(json.dumps(value, allow_nan=False).replace("\x7f", "\\u007f"))


def printable(text: str) -> str:
    """A text with escapes such as \\x1b in the place of characters that are none to be seen, line breaks included."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(error: BaseException) -> str:
    """The message of an error on one line, shortened in its middle; the name of its class where it has none."""
    message = printable(" ".join(str(error).split())) or type(error).__name__
    if len(message) <= MAX_MESSAGE:
        return message
    return f"{message[: MAX_MESSAGE // 2]} ... {message[-MAX_MESSAGE // 2 :]}"

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Stands for a program in the shell of a page: python and ediffi run in their short forms, what needs a network not.

program.py NAME ARGUMENT ...
"""

import os
import resource
import sys
from importlib.metadata import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from helpers_docs_short import FETCHED, short_form  # noqa: E402

LIMIT = 300  # seconds of a processor that a short form may take


def install(arguments: list[str]) -> None:
    """Refuses what pip would: constraints that are not there, and extras that the package does not have."""
    assert arguments[0] == "install", arguments
    extras = set(metadata("diffusers_ediffi").get_all("Provides-Extra"))
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if before == "-c" and not Path(argument).is_file():
            sys.exit(f"there is no {argument}")
        if argument.startswith(".["):
            unknown = set(argument[2:-1].split(",")) - extras
            if unknown:
                sys.exit(f"the package has no extra {', '.join(sorted(unknown))}")


def fetch(words: list[str]) -> None:
    """Takes what needs a network for done where the page's folder holds what it would bring."""
    for address, brought in FETCHED.items():
        if any(address in word for word in words) and Path(brought).exists():
            return
    sys.exit(f"FETCHED in helpers_docs_short.py does not say what {' '.join(words)!r} brings")


def main(words: list[str]) -> None:
    """Does what the program of this name would do."""
    name, *arguments = words
    if name == "pip":
        return install(arguments)
    if name in ("git", "wget", "unzip"):
        return fetch(words)
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT))
    if name == "python":
        os.execv(sys.executable, [sys.executable, *short_form(words)[1:]])
    elif name == "ediffi":
        os.execv(sys.executable, [sys.executable, "-m", "diffusers_ediffi", *short_form(words)[1:]])
    else:
        sys.exit(f"{name} does not run here; say in NOT_RUN of helpers_docs_short.py why")


if __name__ == "__main__":
    main(sys.argv[1:])

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The scripts of examples/, conversion/ and benchmarks/: where they are, and how a test imports or starts one."""

import importlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def scripts():
    """Every script, without what scripts share."""
    others = [path for folder in ("benchmarks", "conversion") for path in (ROOT / folder).glob("*.py")]
    paths = sorted([*EXAMPLES.rglob("*.py"), *others])
    return [path for path in paths if "__main__" in path.read_text(encoding="utf-8")]


def import_script(name, monkeypatch):
    """The module of a script such as "draw/inpaint", imported as if it had been started from its folder."""
    folder, _, module = name.rpartition("/")
    monkeypatch.syspath_prepend(str(EXAMPLES / folder))
    return importlib.import_module(module)


def run_script(name, *arguments):
    """Starts a script such as "draw/inpaint" in a process of its own; returns it with its output as text."""
    command = [sys.executable, EXAMPLES / f"{name}.py", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)

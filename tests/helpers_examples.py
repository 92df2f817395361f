# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The scripts of examples/, conversion/ and benchmarks/: where they are, and how a test imports or starts one."""

import contextlib
import importlib
import io
import runpy
import subprocess
import sys
import traceback
from pathlib import Path
from unittest import mock

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


def run_path(path, arguments, environment=None):
    """Runs a script as from the command line, but in this process, which has imported everything; returns what
    `subprocess.run` would: its exit code and its output as text."""
    out, err = io.StringIO(), io.StringIO()
    words = [str(path), *map(str, arguments)]
    code = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "argv", words))
        stack.enter_context(mock.patch.object(sys, "path", [str(Path(path).parent), *sys.path]))
        stack.enter_context(mock.patch.dict("os.environ", environment or {}))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
        except Exception:
            traceback.print_exc()
            code = 1
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def run_script(name, *arguments):
    """Runs a script such as "draw/inpaint" as from the command line; see `run_path`."""
    return run_path(EXAMPLES / f"{name}.py", arguments)


def start_script(name, *arguments):
    """Starts it in a process of its own; returns it with its output as text."""
    command = [sys.executable, EXAMPLES / f"{name}.py", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)

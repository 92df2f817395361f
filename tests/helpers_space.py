# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The Space: its visitor, which the scripts of benchmarks/ share, and the page in a process of its own."""

import importlib.util
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def visitor_module():
    """benchmarks/space_visitor.py."""
    spec = importlib.util.spec_from_file_location("space_visitor", BENCHMARKS / "space_visitor.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def served():
    """Runs `ediffi space` on a free port, and says where."""
    command = [sys.executable, "-u", "-m", "diffusers_ediffi", "space", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        address = re.search(r"http://\S+", process.stdout.readline())
        assert address, "ediffi space did not start"
        yield address[0]
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()

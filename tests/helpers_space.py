# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The Space: its visitor, which the scripts of benchmarks/ share, and short requests."""

import importlib.util
from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def visitor_module():
    """benchmarks/space_visitor.py."""
    spec = importlib.util.spec_from_file_location("space_visitor", BENCHMARKS / "space_visitor.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The scripts of conversion/: where they are, and how a test imports one."""

import importlib
from pathlib import Path

CONVERSION = Path(__file__).parent.parent / "conversion"


def import_converter(name, monkeypatch):
    """The module of a converter such as "from_diffusers_unets", imported as if it had been started."""
    monkeypatch.syspath_prepend(str(CONVERSION))
    return importlib.import_module(name)

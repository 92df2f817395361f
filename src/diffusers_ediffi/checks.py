# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What all rooms ask of their arguments. Imports nothing of this package."""

from typing import Any


def is_number(value: Any, kind: type) -> bool:
    """Whether a value is a number of this kind of `numbers`, `Real` or `Integral`; `True` and `False` are not."""
    return isinstance(value, kind) and not isinstance(value, bool)

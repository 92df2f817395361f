# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What all rooms ask of their arguments. Imports nothing of this package, and no torch."""

import math
from numbers import Real
from typing import Any

MAX_SEED = 2**63 - 1  # of a `torch.Generator`
MAX_STAGES = 3  # base, SR256, SR1024
MAX_INFERENCE_STEPS = 1000
MAX_IMAGES = 10_000  # of a prompt
MAX_FILES = 1000  # of a command, which draws all of its images at once
MAX_CLASSES = 2**20  # of a class-conditional network


def is_number(value: Any, kind: type) -> bool:
    """Whether a value is a number of this kind of `numbers`, `Real` or `Integral`; `True` and `False` are not."""
    return isinstance(value, kind) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Whether a value is a real number that a float holds: not NaN, not infinite, and no whole number beyond 1.8e308.
    JSON can hold such numbers; `float` and `math.isfinite` raise OverflowError for them."""
    try:
        return is_number(value, Real) and math.isfinite(value)
    except OverflowError:
        return False


def as_float(name: str, value: Any) -> float:
    """`float(value)` of what calls itself `name`.

    Raises:
        ValueError: It is not a number, or one that no float holds.
    """
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name}={value!r} must be a number that a float holds, at most 1.8e308.") from error

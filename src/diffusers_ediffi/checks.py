# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What all rooms ask of their arguments. Imports nothing of this package, and no torch."""

import sys
from numbers import Real
from typing import Any

MAX_SEED = 2**63 - 1  # of a `torch.Generator`
MAX_STAGES = 3  # base, SR256, SR1024
MAX_INFERENCE_STEPS = 1000


def is_number(value: Any, kind: type) -> bool:
    """Whether a value is a number of this kind of `numbers`, `Real` or `Integral`; `True` and `False` are not."""
    return isinstance(value, kind) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Whether a value is a real number that a float holds: not NaN, not infinite, and no whole number beyond 1.8e308.
    JSON can hold such numbers; `float` and `math.isfinite` raise OverflowError for them."""
    return is_number(value, Real) and abs(value) <= sys.float_info.max

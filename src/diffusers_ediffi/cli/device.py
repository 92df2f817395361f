# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Which device the commands and scripts draw on."""

import torch

from .messages import one_line


def usable_device(name: str | None) -> str:
    """A device after a first calculation on it; without a name the fastest there is.

    Raises:
        ValueError: The device cannot be used here.
    """
    if name is None:
        mps = torch.backends.mps.is_available()
        return "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        torch.empty(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {name!r} is not usable here: {one_line(error)}") from error
    return name

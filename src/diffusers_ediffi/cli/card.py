# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What a model's card says of its licence. Imports no torch, so that it is quick."""

from pathlib import Path
from typing import Any

from ..files import MAX_CHARACTERS, load_yaml

MAX_LICENCE = 200  # characters of its name that are shown
NOT_STATED = "not stated"


def licence_in(card: str | Path) -> str:
    """The licence that a card (README.md) names."""
    try:
        licence = _front_matter(card).get("license")
    except Exception:  # a model without a readable card is still a model
        licence = None
    return licence[:MAX_LICENCE] if licence and isinstance(licence, str) else NOT_STATED


def _front_matter(card: str | Path) -> Any:
    """The YAML between two lines of `---` at the beginning of a model card."""
    with open(card, encoding="utf-8-sig") as file:
        before, opening, rest = file.read(MAX_CHARACTERS).partition("---\n")
    return load_yaml(rest.partition("\n---")[0]) if opening and not before.strip() else {}

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Which columns of the text that a U-Net attends to belong to a region: those of its phrase's tokens."""

from collections.abc import Sequence

from diffusers.utils import logging

from ..phrases import PromptTokens, find_phrase, quoted
from .regions import PaintRegion

logger = logging.get_logger(__name__)


def region_columns(
    prompt: str, regions: Sequence[PaintRegion], encoders: Sequence[tuple[str, PromptTokens, int]]
) -> list[list[int]]:
    """The columns of every region's phrase.

    Args:
        prompt (`str`): The text.
        regions (`list` of [`PaintRegion`]): Its regions.
        encoders (`list` of `tuple`): For each text encoder its name, the prompt's tokens and the first of its columns.

    Returns:
        For each region the columns of its phrase, encoder by encoder.

    Raises:
        ValueError: No encoder sees the phrase, or there are more regions than tokens.
    """
    most = max(len(tokens) for _, tokens, _ in encoders)
    if len(regions) > most:
        raise ValueError(f"there are {len(regions)} regions for the {most} tokens of {quoted(prompt)}; give fewer.")
    return [_phrase_columns(prompt, region, encoders) for region in regions]


def _phrase_columns(prompt: str, region: PaintRegion, encoders: Sequence[tuple[str, PromptTokens, int]]) -> list[int]:
    spans = find_phrase(prompt, region.phrase, region.occurrence)
    columns = [first + column for _, tokens, first in encoders for column in tokens.columns(spans)]
    if not columns:
        raise ValueError(f"the end of {quoted(prompt)} is cut off, with it {region.phrase!r}; write a shorter prompt.")
    cut = [name for name, tokens, _ in encoders if not tokens.holds(spans)]
    if cut:
        logger.warning(
            f"{' and '.join(cut)} cut the end off {quoted(prompt)} and do not see all of {region.phrase!r}."
        )
    return columns

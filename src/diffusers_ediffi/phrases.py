# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Words of a prompt: where a phrase stands in it, and which tokens of a text encoder it is.

Imports nothing of this package.
"""

import re
from collections.abc import Sequence
from typing import Any

# Scripts that set no spaces between words: Thai to Myanmar, Khmer, kana, Han.
_UNSPACED = r"\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"


def find_phrase(prompt: str, phrase: str, occurrence: int | None = None) -> list[tuple[int, int]]:
    """Where a phrase stands in a prompt, in whole words: the first and the last + 1 character of each occurrence.

    Args:
        prompt (`str`), phrase (`str`): A text and words of it; case and the width of spaces do not count.
        occurrence (`int`, *optional*): Which occurrence, counted from 0; all by default.

    Raises:
        ValueError: The prompt does not have the phrase.
    """
    spans = [match.span() for match in re.finditer(_pattern(phrase), prompt, re.IGNORECASE)]
    if not spans:
        raise ValueError(f"the phrase {phrase!r} is not in the prompt {prompt!r}{_hint(prompt, phrase)}.")
    if occurrence is None:
        return spans
    if occurrence < len(spans):
        return [spans[occurrence]]
    raise ValueError(
        f"occurrence={occurrence} of {phrase!r}: the prompt {prompt!r} has it {len(spans)} times, counted from 0."
    )


def _hint(prompt: str, phrase: str) -> str:
    """What a prompt has instead of a phrase, if that is a part of a word."""
    inside = re.search(rf"\w*{re.escape(phrase.strip())}\w*", prompt, re.IGNORECASE)
    return f"; it has only {inside[0]!r}: write the whole word" if inside else ""


def _pattern(phrase: str) -> str:
    """The regular expression of a phrase in whole words, where its script has spaces between words."""
    words = phrase.split()
    pattern = r"\s+".join(map(re.escape, words))
    if re.fullmatch(rf"[^\W{_UNSPACED}]", words[0][0]):
        pattern = r"(?<!\w)" + pattern
    if re.fullmatch(rf"[^\W{_UNSPACED}]", words[-1][-1]):
        pattern += r"(?!\w)"
    return pattern


class PromptTokens:
    """The tokens of a prompt as one text encoder sees them, each with its place in the text.

    Places are compared rather than token ids, since words tokenise differently in different company.

    Args:
        prompt (`str`): The text.
        tokenizer: A fast tokenizer of `transformers`, of CLIP or T5.
        max_length (`int`): Columns of the encoder's output.

    Raises:
        ValueError: The tokenizer cannot tell where tokens come from.
    """

    def __init__(self, prompt: str, tokenizer: Any, max_length: int):
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(
                f"{type(tokenizer).__name__} is a slow tokenizer, which does not say where tokens come from; "
                "load the fast one (use_fast=True)."
            )
        # Padded and cut as pipelines do, so that places in the list are columns.
        settings = {"padding": "max_length", "max_length": max_length, "truncation": True}
        offsets = tokenizer(prompt, return_offsets_mapping=True, **settings).offset_mapping
        self.prompt = prompt
        self.places = [_strip(prompt, *place) for place in offsets]
        self.end = max(stop for _, stop in self.places)

    def __len__(self) -> int:
        return sum(start < stop for start, stop in self.places)

    def columns(self, spans: Sequence[tuple[int, int]]) -> list[int]:
        """The columns of all tokens that lie in the spans, at least in part; none where the text was cut before."""
        return [
            column
            for column, (start, stop) in enumerate(self.places)
            if any(start < last and first < stop for first, last in spans) and start < stop
        ]

    def holds(self, spans: Sequence[tuple[int, int]]) -> bool:
        """Whether the encoder sees the spans to their end."""
        return all(last <= self.end for _, last in spans)


def _strip(text: str, start: int, stop: int) -> tuple[int, int]:
    """A token's place without its white space, which the marks of T5 for the beginnings of words include."""
    while start < stop and text[start].isspace():
        start += 1
    while start < stop and text[stop - 1].isspace():
        stop -= 1
    return start, stop

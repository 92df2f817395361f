# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Words of a prompt: where a phrase stands in it, and which tokens of a text encoder it is.

Imports nothing of this package.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

# Scripts that set no spaces between words: Thai to Myanmar, Khmer, kana, Han.
_UNSPACED = r"\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"


_LETTER = re.compile(r"\w")
MAX_QUOTED = 300


def quoted(text: str) -> str:
    """A text in quotes, for a message; of a long one its beginning."""
    return repr(text) if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]!r}... ({len(text)} characters)"


def find_phrase(prompt: str, phrase: str, occurrence: int | None = None) -> list[tuple[int, int]]:
    """Where a phrase stands in a prompt, in whole words: the first and the last + 1 character of each occurrence.

    Args:
        prompt (`str`), phrase (`str`): A text and words of it; case and the width of spaces do not count.
        occurrence (`int`, *optional*): Which occurrence, counted from 0; all by default.

    Raises:
        ValueError: The prompt does not have the phrase.
    """
    text, places = _single_spaced(prompt)
    small, _ = _single_spaced(phrase)
    spans = [(places[start], places[stop - 1] + 1) for start, stop in _occurrences(text, small)]
    if not spans:
        hint = _hint(text, small)
        raise ValueError(f"the phrase {quoted(phrase)} is not in the prompt {quoted(prompt)}{hint}.")
    if occurrence is None:
        return spans
    if occurrence < len(spans):
        return [spans[occurrence]]
    raise ValueError(
        f"occurrence={occurrence} of {quoted(phrase)}: the prompt {quoted(prompt)} has it {len(spans)} times, counted "
        "from 0."
    )


def _single_spaced(text: str) -> tuple[str, list[int]]:
    """A text in small letters with one space between words, and the place of each of its characters in the text."""
    words = [(match[0], match.start()) for match in re.finditer(r"\S+", text)]
    places = [place for word, start in words for place in range(start, start + len(word) + 1)]
    return " ".join("".join(map(_small, word)) for word, _ in words), places[:-1]


def _small(character: str) -> str:
    """A character in small, if that is one character as well."""
    small = character.casefold()
    return small if len(small) == 1 else character.lower() if len(character.lower()) == 1 else character


def _occurrences(text: str, phrase: str) -> Iterator[tuple[int, int]]:
    """The places of a phrase in a text, in whole words where its script has spaces between words."""
    if not phrase:
        return
    begins, ends = (re.fullmatch(rf"[^\W{_UNSPACED}]", phrase[edge]) for edge in (0, -1))
    stop = 0
    for start in _places(text, phrase):
        after = start + len(phrase)
        if start < stop or begins and _LETTER.match(text[start - 1 : start]) or ends and _LETTER.match(text, after):
            continue
        stop = after
        yield start, stop


def _places(text: str, phrase: str) -> Iterator[int]:
    """All places of a phrase in a text, in a time that grows with both alone (Knuth, Morris and Pratt): that of a
    regular expression may grow with their product."""
    borders = [0]  # of each beginning of the phrase, the length of its longest end that is a beginning, too
    for character in phrase[1:]:
        borders.append(_matched(phrase, borders, borders[-1], character))
    length = 0
    for i, character in enumerate(text):
        length = _matched(phrase, borders, length, character)
        if length == len(phrase):
            yield i + 1 - length
            length = borders[-1]


def _matched(phrase: str, borders: list[int], length: int, character: str) -> int:
    """How much of a phrase matches after one more character, where `length` characters matched before it."""
    while length and character != phrase[length]:
        length = borders[length - 1]
    return length + (character == phrase[length])


def _hint(text: str, phrase: str) -> str:
    """What a text has instead of a phrase, if that is a part of a word."""
    start = text.find(phrase)
    if not phrase or start < 0:
        return ""
    before, after = re.match(r"\w*", text[:start][::-1]), re.match(r"\w*", text[start + len(phrase) :])
    assert before and after
    whole = before[0][::-1] + phrase + after[0]
    return f"; it has only {quoted(whole)}: write the whole word"


class PromptTokens:
    """The tokens of a prompt as one text encoder sees them, each with its place in the prompt.

    Places are compared rather than token ids, since words tokenise differently in different company.

    Args:
        prompt (`str`): The text.
        tokenizer: A fast tokenizer of `transformers`, of CLIP or T5.
        max_length (`int`): Columns of the encoder's output.
        reading (*optional*): Of a prompt that is encoded in other words its `text`, and `place`, which says where in
            the prompt a part of it comes from ([`Reading`]).

    Raises:
        ValueError: The tokenizer cannot tell where tokens come from.
    """

    def __init__(self, prompt: str, tokenizer: Any, max_length: int, reading: Any = None):
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(
                f"{type(tokenizer).__name__} is a slow tokenizer, which does not say where tokens come from; "
                "load the fast one (use_fast=True)."
            )
        # Padded and cut as pipelines do, so that places in the list are columns.
        settings = {"padding": "max_length", "max_length": max_length, "truncation": True}
        text = prompt if reading is None else reading.text
        offsets = tokenizer(text, return_offsets_mapping=True, **settings).offset_mapping
        places = [_strip(text, *place) for place in offsets]
        self.prompt = prompt
        self.places = places if reading is None else [reading.place(*place) for place in places]
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

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The words that a model knows: prompts are read in them, and words that it does not know are named.

A model of few words says in its `model_index.json` which they are (`vocabulary` of [`EDiffIPipeline`]). A prompt may
write them in small letters or capitals, in singular or plural, and use the synonyms that the model lists. What a model
knows as it is written stays as it is. The rules for plurals are those of English; exceptions, and other languages, are
a matter of synonyms. Imports no torch, so that `ediffi info --words` is quick.
"""

import difflib
import reprlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, Self

from ..phrases import quoted

MAX_ENTRIES = 4000  # of all groups together, and of synonyms
MAX_GROUPS = 100
MAX_LENGTH = 100  # characters of an entry
MAX_SYNONYM = 6  # words of a synonym
MAX_NAMED = 5  # unknown words that a message names
FORM = '{"words": {"objects": ["red apple", ...], ...}, "synonyms": {"automobile": "car", ...}}'

# How words end in the plural, and in the singular.
_ENDINGS = (
    *(("ies", "y"), ("ves", "f"), ("ves", "fe"), ("men", "man"), ("s", "")),
    *((f"{ending}es", ending) for ending in ("s", "x", "z", "ch", "sh", "o")),
)
_APOSTROPHES = ("'", "\u2019")
_JOINTS = "-\u2010_" + "".join(_APOSTROPHES)
_EMOJI_JOINTS = ("\u200d", "\ufe0f")

Place = tuple[int, int]  # the first and the last + 1 character


@dataclass(frozen=True)
class Reading:
    """A prompt in the words of a vocabulary.

    Args:
        text (`str`): What is encoded.
        unknown (`tuple` of `str`): The words that the vocabulary does not have, as the prompt writes them.
        changes (`tuple`): Of each part that was changed, in their order, its place in the prompt and that in `text`.
    """

    text: str
    unknown: tuple[str, ...] = ()
    changes: tuple[tuple[Place, Place], ...] = ()

    @classmethod
    def in_small_letters(cls, prompt: str) -> "Reading":
        """A prompt in small letters, without the white space around it, as T5 of DeepFloyd IF has learned to read."""
        before = len(prompt) - len(prompt.lstrip())
        small = "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in prompt)
        return cls(small.strip(), changes=(((0, before), (0, 0)),))

    def place(self, start: int, stop: int) -> Place:
        """Where in the prompt a part of `text` comes from; what was changed comes from all that stood there."""
        if start == stop:  # as tokens of padding
            return start, stop
        return self._place(start)[0], self._place(stop - 1)[1]

    def _place(self, position: int) -> Place:
        """Where a character of `text` comes from."""
        shift = 0
        for (start, stop), (first, last) in self.changes:
            if position < first:
                break
            if position < last:
                return start, stop
            shift = stop - last
        return position + shift, position + shift + 1


class Vocabulary:
    """The words that a model knows.

    Args:
        words (`dict`): Groups of words or phrases, as the training wrote them: `{"objects": ["red apple"]}`.
        synonyms (`dict`, *optional*): What else is understood, words of up to six in a row, and what they are read
            as, in words of the model: `{"kitten": "cat"}`. Of a word that the model knows in a phrase alone, that is
            the phrase: `{"apple": "red apple"}`; then "a green apple" has an unknown word.

    Raises:
        ValueError: A value is none of these, there are too many, or a synonym has no use.
    """

    def __init__(self, words: Mapping[str, Sequence[str]], synonyms: Mapping[str, str] | None = None):
        self.groups = _checked_groups(words)
        self.synonyms = _checked_synonyms({} if synonyms is None else synonyms)
        self._spellings = {part for group in self.groups.values() for entry in group for part in _parts(entry)}
        # By their keys; of two spellings that differ in case alone the smaller one.
        self._known = {_key(spelling): spelling for spelling in sorted(self._spellings)}
        self._count = len(self._known)
        read_as = {_key(synonym): meaning for synonym, meaning in self.synonyms.items()}
        # What is known in a phrase alone is no word by itself.
        phrases = {key: meaning for key, meaning in read_as.items() if _key(meaning).endswith(f" {key}")}
        self._known = {key: spelling for key, spelling in self._known.items() if key not in phrases}
        self._kept = {spelling for spelling in self._spellings if _key(spelling) in self._known}
        for synonym, meaning in self.synonyms.items():
            self._check_synonym(synonym, meaning)
        self._meanings = {**{_key(phrase): phrase for phrase in phrases.values()}, **read_as, **self._known}
        self._most_words = max(key.count(" ") + 1 for key in self._meanings)
        self._beginnings = {phrase: next(_parts(phrase)) for phrase in phrases.values()}
        self._alike = [(set(group), {_key(entry).split()[-1] for entry in group}) for group in self.groups.values()]

    @classmethod
    def from_config(cls, value: Any) -> Self | None:
        """The vocabulary that a configuration holds, `None` where it holds none.

        Raises:
            ValueError: The value is not a vocabulary.
        """
        if value is None:
            return None
        if not isinstance(value, Mapping) or "words" not in value or set(value) - {"words", "synonyms"}:
            raise ValueError(f"vocabulary={reprlib.repr(value)} must be {FORM}.")
        return cls(**value)

    def to_config(self) -> dict[str, Any]:
        """What `from_config` reads."""
        return {"words": self.groups, "synonyms": self.synonyms}

    def __len__(self) -> int:
        """How many words the model knows."""
        return self._count

    def read(self, prompt: str) -> Reading:
        """A prompt in the words of the model."""
        unknown: list[str] = []
        replaced: list[tuple[Place, str]] = []
        for places, meaning in self._rows(prompt):
            written = prompt[places[0][0] : places[-1][1]]
            if meaning is None:
                unknown.append(written)
            elif written not in self._kept:
                replaced += _in_pairs(places, meaning)
        text, changes = _replace(prompt, replaced)
        return Reading(text, tuple(unknown), tuple(changes))

    def _rows(self, prompt: str) -> Iterator[tuple[list[Place], str | None]]:
        """The places of words that belong together, and what they are read as, if they are known."""
        places = list(_places(prompt))
        keys = [_small(prompt[start:stop]) for start, stop in places]
        start = 0
        while start < len(places):
            most = _in_a_row(prompt, places[start : start + self._most_words])
            count, meaning = self._match(keys[start : start + most])
            before, stop = max(start - 1, 0), start + count
            if self._begins_otherwise(keys[before], meaning) and _in_a_row(prompt, places[before:stop]) > 1:
                yield places[before:stop], None  # a blue car, where the model knows a red one
            else:
                yield places[start:stop], meaning
            start = stop

    def _begins_otherwise(self, word: str, phrase: str | None) -> bool:
        """Whether a word is of a group with that which begins a phrase, as "blue" is with the first of "red car"."""
        first = self._beginnings.get(phrase or "")
        if first is None or word == _small(first):
            return False
        return any(first in entries and word in ends for entries, ends in self._alike)

    def _match(self, keys: Sequence[str]) -> tuple[int, str | None]:
        """How many words at the beginning of a row belong together, and what they are read as, if they are known."""
        for count in range(len(keys), 0, -1):
            *before, last = keys[:count]
            if before and all(key in self._known for key in keys[:count]):
                continue  # words of the model stay as they are
            for form in _forms(last):
                meaning = self._meanings.get(" ".join((*before, form)))
                if meaning is not None:
                    return count, meaning
        return 1, None

    def complaint(self, prompts: Iterable[str]) -> str:
        """What the model does not know of prompts, such as `does not know 'rokcet' (nearest: 'rocket')`; empty where
        it knows all their words."""
        unknown: dict[str, str] = {}
        for word in (word for prompt in prompts for word in self.read(prompt).unknown):
            unknown.setdefault(_small(word), word)
        if not unknown:
            return ""
        named = [self._named(word) for word in list(unknown.values())[:MAX_NAMED]]
        more = f" and {len(unknown) - MAX_NAMED} other words" if len(unknown) > MAX_NAMED else ""
        return f"does not know {', '.join(named)}{more}"

    def _named(self, word: str) -> str:
        nearest = self.nearest(word)
        return quoted(word) if nearest is None else f"{quoted(word)} (nearest: {quoted(nearest)})"

    def nearest(self, word: str) -> str | None:
        """A word that is understood and spelled similarly, if there is one."""
        word = _small(word)
        if " " in word:  # of "blue car" what is known as "car"
            return self._match(word.split()[-1:])[1]
        # Of two letters there is always one that is near.
        similar = [key for key in self._meanings if len(key) > 2 and abs(len(key) - len(word)) <= 2 and " " not in key]
        found = difflib.get_close_matches(word, similar, 1, cutoff=0.65)
        return self._known.get(found[0], found[0]) if found else None

    def _check_synonym(self, synonym: str, meaning: str) -> None:
        """Refuses a synonym that says nothing, or says it of words that the model knows already."""
        shown = f"vocabulary: the synonym {quoted(synonym)} of {quoted(meaning)}"
        keys = _key(synonym).split()
        if len(keys) > MAX_SYNONYM:
            raise ValueError(f"{shown} has {len(keys)} words; write at most {MAX_SYNONYM}.")
        if all(key in self._known for key in keys):
            raise ValueError(f"{shown} is in words that the model knows, which stay as they are; leave it out.")
        unknown = [part for part in _parts(meaning) if part not in self._spellings]
        if unknown:
            raise ValueError(
                f"{shown}: the model does not know {quoted(unknown[0])}; use its words, as it writes them."
            )


def _checked_groups(words: Any) -> dict[str, list[str]]:
    """Groups of words as plain lists."""
    lists = isinstance(words, Mapping) and all(isinstance(group, list | tuple) for group in words.values())
    if not lists:
        raise ValueError(f"vocabulary: words={reprlib.repr(words)} must be groups of words, {FORM}.")
    count = sum(map(len, words.values()))
    if not 1 <= count <= MAX_ENTRIES or len(words) > MAX_GROUPS:
        raise ValueError(
            f"vocabulary: there are {count} words in {len(words)} groups; list 1 to {MAX_ENTRIES} words in up to "
            f"{MAX_GROUPS} groups."
        )
    for text in (*words, *(entry for group in words.values() for entry in group)):
        _check_entry(text)
    return {name: list(group) for name, group in words.items()}


def _checked_synonyms(synonyms: Any) -> dict[str, str]:
    """Synonyms as a plain dictionary."""
    if not isinstance(synonyms, Mapping):
        raise ValueError(f"vocabulary: synonyms={reprlib.repr(synonyms)} must be a dictionary, {FORM}.")
    if len(synonyms) > MAX_ENTRIES:
        raise ValueError(f"vocabulary: there are {len(synonyms)} synonyms; list at most {MAX_ENTRIES}.")
    for text in (*synonyms, *synonyms.values()):
        _check_entry(text)
    return dict(synonyms)


def _check_entry(text: Any) -> None:
    if not isinstance(text, str) or not 1 <= len(text) <= MAX_LENGTH or not text.isprintable() or not _key(text):
        shown = reprlib.repr(text)
        raise ValueError(f"vocabulary: {shown} must be words on one line, of at most {MAX_LENGTH} characters.")


def _places(text: str) -> Iterator[Place]:
    """The places of words, numbers and emoji; punctuation is none, nor what is left of "rocket's" and "don't"."""
    start = 0
    for kind, characters in groupby(text, _kind):
        word = "".join(characters)
        is_ending = len(word) <= 2 and text[max(start - 1, 0) : start] in _APOSTROPHES
        if kind and not is_ending and any(unicodedata.category(character)[0] in "LNS" for character in word):
            yield start, start + len(word)
        start += len(word)


def _kind(character: str) -> str:
    """What a character may be a part of, if it may be of something."""
    category = unicodedata.category(character)
    if category == "So" or character in _EMOJI_JOINTS:
        return "emoji"
    return "word" if category[0] in "LMN" else ""


def _small(word: str) -> str:
    """A word without the differences that do not count: of case, and of the ways to encode the same letters."""
    return unicodedata.normalize("NFKC", word).casefold()


def _key(text: str) -> str:
    """The words of a text, small and with single spaces."""
    return " ".join(_small(text[start:stop]) for start, stop in _places(text))


def _parts(entry: str) -> Iterator[str]:
    """The words of an entry, those with a hyphen as a whole: "8-bit"."""
    for part in entry.split():
        places = list(_places(part))
        if places:
            yield part[places[0][0] : places[-1][1]]


def _in_a_row(text: str, places: Sequence[Place]) -> int:
    """How many words, from the first on, have no more than spaces, hyphens and the like between them."""
    for count, ((_, stop), (start, _)) in enumerate(pairwise(places), 1):
        if "".join(text[stop:start].split()).strip(_JOINTS):
            return count
    return len(places)


def _in_pairs(places: Sequence[Place], meaning: str) -> list[tuple[Place, str]]:
    """Words and what they are read as: each as one, where there are as many."""
    parts = list(_parts(meaning))
    return (
        list(zip(places, parts, strict=True))
        if len(parts) == len(places)
        else [((places[0][0], places[-1][1]), meaning)]
    )


def _replace(prompt: str, replaced: Sequence[tuple[Place, str]]) -> tuple[str, list[tuple[Place, Place]]]:
    """A prompt with words in the place of others, and of those that differ their places in both."""
    text, end = "", 0  # up to which place of the prompt
    changes = []
    for (start, stop), word in replaced:
        if word != prompt[start:stop]:
            text += prompt[end:start] + word
            changes.append(((start, stop), (len(text) - len(word), len(text))))
            end = stop
    return text + prompt[end:], changes


def _forms(word: str) -> Iterator[str]:
    """A word, and what may be its singular or plural."""
    yield word
    for plural, singular in _ENDINGS:
        for ending, other in ((plural, singular), (singular, plural)):
            form = word.removesuffix(ending) + other
            if word.endswith(ending) and min(len(word), len(form)) > 2:
                yield form

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Model cards: one template for all that is uploaded, measured results in it, and cards of others, which are kept."""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from .. import __version__
from .licences import CARD, LICENCES, Duties, licence_of_card, read_card, section

TAGS = ("diffusers", "diffusers_ediffi", "ediffi")
MEASURED = "Measured"
CONVERTED = "Converted from"
LICENCE = "Licence"
MAX_RESULT_BYTES = 2**23
SIGNATURE = re.compile(r"\n<!-- written by diffusers_ediffi [^ ]+, ([0-9a-f]{16}): [^>]*-->\s*\Z")


@dataclass(frozen=True)
class Result:
    """What `ediffi evaluate` measured.

    Args:
        name (`str`): Its file in the repository.
        text (`str`): The file.
        figures (`dict`): The values by the names of the metrics.
        about (`str`): What was measured, in words.
    """

    name: str
    text: str
    figures: dict[str, float]
    about: str


@dataclass(frozen=True)
class CardText:
    """What a model card says.

    Args:
        title (`str`): The name of the model.
        summary (`str`): A sentence or two below it.
        usage (`list` of `tuple`): What is said before each snippet of Python, and the snippet.
        sections (`dict`): Further parts in Markdown, by their headings; one may say of the licence what `duties` do
            not know.
        picture (`tuple` of `str`, *optional*): What a picture shows, and where it lies relative to the card.
        data (`dict`): The metadata, as `ModelCardData` takes it.
        results (`list` of [`Result`]): What was measured.
        duties ([`Duties`]): What has to go along with the weights.
    """

    title: str
    summary: str
    usage: Sequence[tuple[str, str]]
    sections: Mapping[str, str] = field(default_factory=dict)
    picture: tuple[str, str] | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    results: Sequence[Result] = ()
    duties: Duties = field(default_factory=Duties)

    def text(self) -> str:
        """The card in Markdown, with its metadata."""
        picture = [f"![{self.picture[0]}]({self.picture[1]})"] if self.picture else []
        snippets = [part for words, code in self.usage for part in (words, f"```python\n{code.rstrip()}\n```")]
        known = {**results_section(self.results), **duties_sections(self.duties)}
        sections = {**{name: words for name, words in self.sections.items() if name not in known}, **known}
        sections |= {name: words for name, words in self.sections.items() if name in known}
        parts = [f"# {self.title}", self.summary, *picture, "## How to use", *snippets]
        parts += [part for heading, words in sections.items() for part in (f"## {heading}", words)]
        body = "\n\n".join(parts)
        return signed(f"---\n{self._metadata().to_yaml()}\n---\n\n{body}\n")

    def _metadata(self) -> ModelCardData:
        measured: dict[str, Any] = {}
        if self.results:
            measured = {"model_name": self.title, "eval_results": eval_results(self.results)}
        data = {"library_name": "diffusers", **self.data, **licence_data(self.duties.licence)}
        return ModelCardData(**{**data, "tags": [*TAGS, *data.get("tags", ())], **measured})


def licence_data(licence: str | None) -> dict[str, str]:
    """The metadata of a licence: one that the Hub may not know has the name "other" there."""
    if licence is None:
        return {}
    known = licence.lower() in LICENCES or licence == "other"
    return {"license": licence} if known else {"license": "other", "license_name": licence}


def signed(text: str) -> str:
    """A card with a last line that tells later whether anybody has changed it."""
    line = f"<!-- written by diffusers_ediffi {__version__}, {_digest(text)}: it is kept once you change the card -->"
    return f"{text.rstrip()}\n\n{line}\n"


def is_untouched(text: str) -> bool:
    """Whether a card is one of this package that nobody has changed."""
    match = SIGNATURE.search(text.replace("\r\n", "\n"))
    return match is not None and match[1] == _digest(text.replace("\r\n", "\n")[: match.start()])


def _digest(text: str) -> str:
    return hashlib.sha256(text.rstrip().encode()).hexdigest()[:16]


def results_section(results: Sequence[Result]) -> dict[str, str]:
    """The table of what was measured; none without."""
    rows = [
        f"| {name} | {value:.4g} | {result.about} | [{result.name}]({result.name}) |"
        for result in results
        for name, value in result.figures.items()
    ]
    return {MEASURED: "\n".join(["| metric | value | of | file |", "|---|---|---|---|", *rows])} if rows else {}


def duties_sections(duties: Duties) -> dict[str, str]:
    """Where the weights come from, and their licence."""
    words = f"The licence of the weights is {duties.licence}." if duties.licence else "No licence is stated."
    notices = [name for name in duties.files if "/" not in name and not name.endswith(".json")]
    if notices:
        words += f" It comes with {', '.join(f'[{name}]({name})' for name in notices)}."
    converted = {CONVERTED: section(duties.sources)} if duties.sources else {}
    return {**converted, LICENCE: words}


def eval_results(results: Sequence[Result]) -> list[EvalResult]:
    """What was measured, in the form of the Hub's metadata."""
    return [
        EvalResult(
            task_type="text-to-image",
            dataset_type=re.sub(r"\W+", "-", Path(result.name).stem),
            dataset_name=result.about,
            metric_type=name,
            metric_value=value,
        )
        for result in results
        for name, value in result.figures.items()
    ]


def read_results(paths: str | os.PathLike | Iterable[str | os.PathLike]) -> list[Result]:
    """Reads cards of `ediffi evaluate`.

    Args:
        paths (`list` of `str` or `os.PathLike`): Their files, or the folders that hold a `card.json`.

    Raises:
        OSError: A file is missing.
        ValueError: A file is none of these, or two would have the same name.
    """
    found: list[Result] = []
    for given in [paths] if isinstance(paths, str | os.PathLike) else paths:
        path = Path(given) / "card.json" if Path(given).is_dir() else Path(given)
        stem = path.resolve().parent.name if path.stem == "card" else path.stem
        result = _read_result(path, f"evaluation/{re.sub(r'[^A-Za-z0-9._-]+', '-', stem)}.json")
        if any(result.name == other.name for other in found):
            raise ValueError(f"two of the results would be {result.name} in the repository: rename {str(path)!r}.")
        found.append(result)
    return found


def _read_result(path: Path, name: str) -> Result:
    if not path.is_file():
        raise FileNotFoundError(f"there are no results {str(path)!r}: give a card.json of ediffi evaluate.")
    try:
        if path.stat().st_size > MAX_RESULT_BYTES:
            raise ValueError(f"it has more than {MAX_RESULT_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
        card = json.loads(text)
        figures = {_cell(metric): float(value) for metric, value in card["metrics"].items()}
        if not figures or not all(map(math.isfinite, figures.values())):
            raise ValueError("its metrics are none or not finite")
        about = f"{int(card['pictures']['count'])} pictures"
        if "reference" in card:
            about += f", beside {int(card['reference']['count'])} of {card['reference']['name']}"
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is no card of ediffi evaluate ({type(error).__name__}: {error}).") from error
    return Result(name, text, figures, _cell(about))


def _cell(text: str) -> str:
    """A text as it can stand in a table of Markdown."""
    return " ".join(text.replace("|", "/").split())


def kept_card(card: str, results: Sequence[Result], duties: Duties) -> str:
    """A card of somebody else with what it lacks: the library, a licence, and new results and sources.

    Raises:
        ValueError: Its metadata cannot be read.
    """
    found = read_card(card)
    data: Any = found.data
    changes: dict[str, Any] = {} if data.library_name else {"library_name": "diffusers"}
    changes |= {} if data.license else licence_data(duties.licence)
    if results:
        ours = eval_results(results)
        places = {result.unique_identifier for result in ours}
        theirs = [result for result in data.eval_results or () if result.unique_identifier not in places]
        changes |= {"model_name": data.model_name or "model", "eval_results": theirs + ours}
    for name, value in changes.items():
        setattr(data, name, value)
    text = str(found) if changes else card
    for heading, words in results_section(results).items():  # what somebody wrote under this heading stays
        text = with_section(text, heading, words, first_line=words.splitlines()[0])
    return with_section(text, CONVERTED, section(duties.sources)) if duties.sources else text


def with_section(card: str, heading: str, words: str, first_line: str = "") -> str:
    """A model card with this part at its end, instead of an earlier one that begins with `first_line`."""
    start = re.escape(f"## {heading}\n" + (f"\n{first_line}\n" if first_line else ""))
    kept = re.sub(rf"(?ms)^{start}.*?(?=^## |\Z)", "", card).rstrip()
    added = f"## {heading}\n\n{words}\n"
    return f"{kept}\n\n{added}" if kept else added


def choose_card(
    write: Callable[[], CardText],
    given: Path | None,
    existing: Sequence[str],
    results: Sequence[Result],
    duties: Duties,
) -> str:
    """The text of the card: the one that was given, or that was there and that somebody wrote, or else a new one.

    Args:
        write (`Callable`): Makes the new one.
        given (`Path`, *optional*): A file.
        existing (`list` of `str`): Those that were there, the first that counts before the others.
        results (`list` of [`Result`]), duties ([`Duties`]): What it says of them.
    """
    if given is not None:
        return kept_card(given.read_text(encoding="utf-8"), results, duties)
    of_others = [text for text in existing if not is_untouched(text)]
    if not any(read_card(text).text.strip() for text in of_others[:1]):  # the Hub's form makes cards of metadata alone
        licence = next((licence_of_card(text) for text in of_others), None) or duties.licence
        licence = licence or next(filter(None, map(_stated_licence, existing)), None)
        return replace(write(), results=results, duties=replace(duties, licence=licence)).text()
    return kept_card(of_others[0], results, duties)


def _stated_licence(card: str) -> str | None:
    """The licence of a card, by its name where the Hub may not know it."""
    name = read_card(card, ignore_metadata_errors=True).data.get("license_name")
    return name if isinstance(name, str) and name else licence_of_card(card)


__all__ = ["CARD", "CardText", "Result", "choose_card", "is_untouched", "kept_card", "read_results", "with_section"]

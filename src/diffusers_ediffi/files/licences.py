# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Whether weights may be passed on: what conversion.json says of the sources of a converted model, their licences, the
notices that go along, and the part of a model card that says so."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard

RECORD = "conversion.json"
CARD = "README.md"
NOTICES = ("LICENSE*", "LICENCE*", "NOTICE*")
HEADING = "## Converted from"


@dataclass(frozen=True)
class Licence:
    """What a licence says of passing on.

    Args:
        terms (`str`): What whoever passes the weights on, and whoever gets them, has to do.
        refusal (`str`): Why they may not be passed on by a public repository; empty where they may.
        is_share_alike (`bool`): Whether what is made of them has to have the same licence.
    """

    terms: str = ""
    refusal: str = ""
    is_share_alike: bool = False


NOTICE = "keep the copyright notice and the text of the licence"
NO_ADAPTATIONS = "it lets nobody share what was changed (section 2a), as converted weights are"
RESTRICTIONS = "pass on the licence with its restrictions of use"
# By the names that the Hub has for them in the metadata of model cards.
LICENCES = {
    "mit": Licence(NOTICE),
    "apache-2.0": Licence(f"{NOTICE}, and say what was changed"),
    "bsd-3-clause": Licence(NOTICE),
    "cc0-1.0": Licence("none"),
    "cc-by-4.0": Licence("name the authors, and say what was changed"),
    "cc-by-sa-4.0": Licence("name the authors, and say what was changed; the same licence", is_share_alike=True),
    "cc-by-nc-4.0": Licence("name the authors, and say what was changed; no commercial use"),
    "cc-by-nc-sa-4.0": Licence(
        "name the authors, and say what was changed; no commercial use; the same licence", is_share_alike=True
    ),
    "cc-by-nd-4.0": Licence(refusal=NO_ADAPTATIONS),
    "cc-by-nc-nd-4.0": Licence(refusal=NO_ADAPTATIONS),
    "openrail": Licence(RESTRICTIONS),
    "openrail++": Licence(RESTRICTIONS),
    "creativeml-openrail-m": Licence(RESTRICTIONS),
    "bigscience-openrail-m": Licence(RESTRICTIONS),
    "deepfloyd-if-license": Licence(
        refusal="its grant is personal, cannot be sublicensed, and covers distribution for your own non-commercial "
        "research alone (sections 1a and 2a), while a repository offers the weights to everyone"
    ),
}


@dataclass(frozen=True)
class ConvertedSource:
    """A checkpoint that a model was made of.

    Args:
        name (`str`): Hub id, or name of a file or folder.
        licence (`str`, *optional*): As the Hub names it.
        hashes (`dict`): SHA-256 of its files.
    """

    name: str
    licence: str | None
    hashes: dict[str, str]


def converted_sources(folder: Path) -> list[ConvertedSource]:
    """The sources that the records of conversions in a folder name; none where nothing was converted.

    Raises:
        ValueError: A record is damaged.
    """
    found: list[ConvertedSource] = []
    for file in sorted(folder.rglob(RECORD)):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            sources = list(_sources(record, None))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} is no record of a conversion ({error}): convert the model again.") from error
        if not sources:
            raise ValueError(f"{file} names no source: convert the model again.")
        found += sources
    return found


def _sources(entry: Any, licence: str | None) -> Iterator[ConvertedSource]:
    """What has a name and hashes; its licence may stand around it."""
    if isinstance(entry, dict):
        licence = entry.get("license", licence)
        if "name" in entry and "sha256" in entry:
            hashes = entry["sha256"]
            hashes = hashes if isinstance(hashes, dict) else {str(entry["name"]): hashes}
            yield ConvertedSource(str(entry["name"]), licence, {str(k): str(v) for k, v in hashes.items()})
            return
    for part in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
        yield from _sources(part, licence)


def check_shareable(sources: Sequence[ConvertedSource], licence_of_card: str | None) -> None:
    """Refuses to pass on what a licence forbids to pass on, or what nobody said the licence of.

    Args:
        sources (`list` of [`ConvertedSource`]): Of the model.
        licence_of_card (`str`, *optional*): What its model card says.

    Raises:
        ValueError: One of them may not be passed on, or not under this licence.
    """
    for source in sources:
        if source.licence is None:
            raise ValueError(
                f"{source.name} is of no known licence, and so may not be passed on: convert it again with --license, "
                "or from a folder with its model card."
            )
        licence = LICENCES.get(str(source.licence).lower())
        if licence is None:
            raise ValueError(
                f"{source.name} is under {source.licence!r}, which diffusers_ediffi.files.licences does not know: "
                "read it, and add it to LICENCES there with its terms if it allows to pass the weights on."
            )
        if licence.refusal:
            raise ValueError(f"{source.name} is under {source.licence!r} and is not uploaded: {licence.refusal}.")
        if licence.is_share_alike and licence_of_card not in (None, source.licence):
            raise ValueError(
                f"{source.name} is under {source.licence!r}, which asks for the same licence; the model card says "
                f"{licence_of_card!r}: write license: {source.licence} in it."
            )


def licence_of(sources: Sequence[ConvertedSource]) -> str:
    """The licence for a card that does not say it: that which asks for the same, the only one, or "other"."""
    names = list(dict.fromkeys(str(source.licence) for source in sources))
    alike = [name for name in names if LICENCES.get(name, Licence()).is_share_alike]
    return (alike or names)[0] if len(alike or names) == 1 else "other"


def section(sources: Sequence[ConvertedSource]) -> str:
    """The part of a model card with the sources, their licences and hashes, without its heading."""
    rows = ["| source | licence | terms | file | SHA-256 |", "|---|---|---|---|---|"]
    for source in sources:
        licence = LICENCES.get(str(source.licence).lower(), Licence())
        for file, digest in source.hashes.items():
            cells = (source.name, source.licence or "not known", licence.terms or licence.refusal, file, f"`{digest}`")
            rows.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    text = "The weights are those of these files, converted; what holds for them holds for this model."
    return "\n".join([text, "", *rows])


@dataclass(frozen=True)
class Duties:
    """What has to go along with weights.

    Args:
        sources (`list` of [`ConvertedSource`]): What they were converted from.
        licence (`str`, *optional*): That of the model they were loaded from, or that the sources ask for; `None` where
            nobody said it.
        files (`dict`): Records of conversions, texts of licences and notices, by their places in a repository.
    """

    sources: list[ConvertedSource] = field(default_factory=list)
    licence: str | None = None
    files: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def of(cls, folders: Mapping[Path, str]) -> "Duties":
        """Those of weights that were loaded from these folders.

        Args:
            folders (`dict`): For each folder of a model or of a part of it where it goes in the repository; the top is
                an empty text.

        Raises:
            ValueError: The record of a conversion is damaged.
        """
        sources: list[ConvertedSource] = []
        licences: list[str | None] = []
        files: dict[str, Path] = {}
        for folder, place in folders.items():
            sources += [source for source in converted_sources(folder) if source not in sources]
            root = folder.parent if (folder.parent / "model_index.json").is_file() else folder
            notices = [path for name in NOTICES for path in root.glob(name)]
            found = {(Path(place) / path.relative_to(folder)).as_posix(): path for path in folder.rglob(RECORD)}
            found |= {path.name: path for path in sorted(notices) if path.is_file()}
            files = {**found, **files}
            licences.append(licence_of_card(root / CARD))
        stated = list(dict.fromkeys(licence for licence in licences if licence))
        of_origin = stated[0] if len(stated) == 1 else None
        return cls(sources, licence_of(sources) if sources else of_origin, files)


def licence_of_card(card: Path | str) -> str | None:
    """What the metadata of a model card, a file or a text, says; `None` where it says nothing that is a name.

    Raises:
        ValueError: The metadata cannot be read.
    """
    if isinstance(card, Path):
        if not card.is_file():
            return None
        card = card.read_text(encoding="utf-8")
    found = read_card(card, ignore_metadata_errors=True).data.get("license")
    return found if isinstance(found, str) and found else None


def read_card(text: str, **options: Any) -> ModelCard:
    """A model card, with the options of `ModelCard`.

    Raises:
        ValueError: The metadata cannot be read.
    """
    try:
        return ModelCard(text, **options)
    except (ValueError, yaml.YAMLError) as error:
        start, why = " ".join(text.split())[:40], " ".join(str(error).split())
        raise ValueError(f"the metadata of the model card {start!r}... cannot be read, correct it: {why}") from None

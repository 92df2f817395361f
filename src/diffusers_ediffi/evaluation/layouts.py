# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Where drawn pictures lie: as one folder with captions, or as the programs of GenEval and T2I-CompBench want them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..phrases import quoted
from .captions import Captions

MAX_NAME_BYTES = 255  # of a file, on most file systems
NEEDED_BY_GENEVAL = ("tag", "prompt")


@dataclass(frozen=True)
class Layout:
    """The files of an evaluation, relative to a folder.

    Args:
        name (`str`): What it is called.
        picture (`Callable`): From the numbers of a caption, of its sample and of the picture, and the caption, to the
            picture's path.
        texts (`Callable`): From captions and samples per caption to the text files beside the pictures by their paths.
        check (`Callable`): Refuses captions that it cannot hold.
    """

    name: str
    picture: Callable[[int, int, int, str], str]
    texts: Callable[[Captions, int], dict[str, str]]
    check: Callable[[Captions], None]

    def pictures(self, captions: Captions, samples: int) -> list[str]:
        """The paths of all pictures: all samples of the first caption, then those of the second."""
        return [
            self.picture(number // samples, number % samples, number, captions.texts[number // samples])
            for number in range(len(captions) * samples)
        ]


def _plain(caption: int, sample: int, number: int, text: str) -> str:
    return f"{number:06d}.png"


def _plain_texts(captions: Captions, samples: int) -> dict[str, str]:
    """The table of an image folder, as `datasets` reads it."""
    names = PLAIN.pictures(captions, samples)
    rows = [{"file_name": name, "text": captions.texts[i // samples]} for i, name in enumerate(names)]
    return {"metadata.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)}


def _geneval(caption: int, sample: int, number: int, text: str) -> str:
    """As `evaluation/evaluate_images.py` of github.com/djghosh13/geneval walks through them."""
    return f"{caption:05d}/samples/{sample:05d}.png"


def _geneval_texts(captions: Captions, samples: int) -> dict[str, str]:
    return {f"{i:05d}/metadata.jsonl": json.dumps(entry) for i, entry in enumerate(captions.entries)}


def _check_geneval(captions: Captions) -> None:
    for number in range(len(captions)):
        entry: dict[str, Any] = captions.entries[number] if captions.entries else {}
        missing = [name for name in NEEDED_BY_GENEVAL if name not in entry]
        if missing:
            raise ValueError(
                f"The layout geneval needs {missing[0]!r} of each caption, which {quoted(captions.texts[number])} has "
                "not; give GenEval's prompts/evaluation_metadata.jsonl as captions."
            )


def _compbench(caption: int, sample: int, number: int, text: str) -> str:
    """As github.com/Karine-Huang/T2I-CompBench saves them: the caption up to the first underscore, and a number."""
    return f"samples/{text}_{number:06d}.png"


def _check_compbench(captions: Captions) -> None:
    for text in captions.texts:
        name = _compbench(0, 0, 0, text).removeprefix("samples/")
        if any(mark in text for mark in "/\\_\0") or len(name.encode()) > MAX_NAME_BYTES or text.startswith("."):
            raise ValueError(
                f"The layout t2i-compbench makes captions the names of files, and {quoted(text)} can be none: they "
                f"hold no /, \\ or _, begin with no dot, and are at most {MAX_NAME_BYTES - 11} bytes long."
            )


PLAIN = Layout("plain", _plain, _plain_texts, lambda captions: None)
GENEVAL = Layout("geneval", _geneval, _geneval_texts, _check_geneval)
COMPBENCH = Layout("t2i-compbench", _compbench, lambda captions, samples: {}, _check_compbench)
LAYOUTS = {layout.name: layout for layout in (PLAIN, GENEVAL, COMPBENCH)}

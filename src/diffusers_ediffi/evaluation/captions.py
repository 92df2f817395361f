# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The captions of an evaluation: read from a file, chosen by a seed, and known by a hash."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = ("prompt", "caption", "text")  # what the entries of files call a caption


@dataclass(frozen=True)
class Captions:
    """Captions in the order in which they are drawn.

    Args:
        texts (`tuple` of `str`): The captions.
        entries (`tuple` of `dict`, *optional*): What their file says of each, where it says more.
        source (`str`, *optional*): The name of their file.
        seed (`int`, *optional*): What chose them; without, they are those of the file in its order.
    """

    texts: tuple[str, ...]
    entries: tuple[dict[str, Any], ...] = ()
    source: str | None = None
    seed: int | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def choose(self, count: int | None, seed: int) -> "Captions":
        """So many of them, in an order by chance.

        Args:
            count (`int`, *optional*): How many; all in their order without.
            seed (`int`): Chooses them; the same seed, count and captions give the same.

        Raises:
            ValueError: There are not so many.
        """
        if count is None:
            return self
        if not 1 <= count <= len(self):
            raise ValueError(f"{count} captions were asked for, and {self.source or 'the list'} has {len(self)}.")
        rows = np.random.default_rng(seed).permutation(len(self))[:count].tolist()
        entries = tuple(self.entries[row] for row in rows) if self.entries else ()
        return Captions(tuple(self.texts[row] for row in rows), entries, self.source, seed)

    def describe(self) -> dict[str, Any]:
        """What the card says of them."""
        return {"source": self.source, "count": len(self), "seed": self.seed, "sha256": self.sha256}

    @property
    def sha256(self) -> str:
        """The hash of the captions in their order, as a JSON list."""
        return hashlib.sha256(json.dumps(self.texts, ensure_ascii=False).encode()).hexdigest()


def read_captions(path: str | os.PathLike) -> Captions:
    """Reads a list of captions.

    Args:
        path (`str` or `os.PathLike`): A `.txt` with a caption on each line; a `.jsonl` of objects, or a `.json` list
            of texts or objects, with `prompt`, `caption` or `text`, such as GenEval's `evaluation_metadata.jsonl`; or
            COCO's `captions_*.json`.

    Raises:
        ValueError: It holds no captions, or something else.
    """
    path = Path(path).expanduser()
    try:
        rows = _rows(path.read_text(encoding="utf-8-sig"), path.suffix.lower())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as a list of captions: {error}") from None
    entries = [{"prompt": row} if isinstance(row, str) else row for row in rows]
    texts = tuple(_caption(entry, number, path) for number, entry in enumerate(entries, start=1))
    if not texts:
        raise ValueError(f"{str(path)!r} holds no captions.")
    further = tuple(entries) if any(set(entry) - set(COLUMNS) for entry in entries) else ()
    return Captions(texts, further, path.name)


def _rows(text: str, suffix: str) -> Sequence[Any]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if suffix == ".txt":
        return lines
    if suffix == ".jsonl":
        return [json.loads(line) for line in lines]
    if suffix == ".json":
        content = json.loads(text)
        content = content.get("annotations") if isinstance(content, dict) else content
        if isinstance(content, list):
            return content
        raise ValueError("it is neither a list nor COCO's annotations")
    raise ValueError("its name must end in .txt, .jsonl or .json")


def _caption(entry: Any, number: int, path: Path) -> str:
    found = [entry[name] for name in COLUMNS if name in entry] if isinstance(entry, dict) else []
    if not found or not isinstance(found[0], str) or not found[0].strip():
        raise ValueError(f"Entry {number} of {str(path)!r} has no {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}.")
    return found[0].strip()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Which pictures of a source are trained on: each is read once, and what is left out is counted and named."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image
from tqdm.auto import tqdm

from ..models.conditioning import longest
from .filters import PictureFilter
from .parts import Parts, check_manifest, part_bounds, read_manifest
from .picture import Picture, PictureSource, check_ground

ROWS = 512  # of a part
PICTURES_AT_ONCE = 32  # that a filter gives scores
NO_CAPTION, UNREADABLE, TOO_SMALL = "no caption", "unreadable", "shortest side"
SHOWN = 10  # pictures that a report names


@dataclass(frozen=True)
class Selection:
    """The rows of a source that are trained on.

    Args:
        rows (`numpy.ndarray`): Their numbers in ascending order, int64 `(pictures,)`.
        sizes (`numpy.ndarray`): Height and width of each, int32 `(pictures, 2)`.
        chunks (`tuple` of `int`): How many there are of each chunk of the source.
        counts (`dict`): How many pictures are left out, by the reason.
        left_out (`list` of `tuple`): Name, reason and details of each.
        long_captions (`dict`): How many captions of those that are kept are longer than an encoder takes, by encoder.
        fingerprint (`str`): A hash of all that it was made from.
    """

    rows: np.ndarray
    sizes: np.ndarray
    chunks: tuple[int, ...]
    counts: dict[str, int]
    left_out: list[tuple[str, str, str]]
    long_captions: dict[str, int]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.rows)

    def report(self) -> list[str]:
        """What is kept, what is left out and why, in lines to print."""
        lines = [f"{len(self)} of {len(self) + sum(self.counts.values())} pictures are trained on{self._reasons()}."]
        lines += [f"left out: {name}: {_reason(why, details)}" for name, why, details in self.left_out[:SHOWN]]
        if len(self.left_out) > SHOWN:
            lines.append(f"left out: {len(self.left_out) - SHOWN} more")
        for encoder, count in self.long_captions.items():
            if count:
                lines.append(f"{encoder} does not see the end of {count} captions, which are longer than it takes.")
        return lines

    def _reasons(self) -> str:
        return "".join(f", {count} left out for: {reason}" for reason, count in self.counts.items())


def _reason(reason: str, details: str) -> str:
    return f"{reason} ({details})" if details else reason


def select_pictures(
    source: PictureSource,
    folder: str | Path,
    min_side: int = 1,
    filters: Sequence[PictureFilter] = (),
    ground: str = "white",
    tokenizers: Mapping[str, tuple[Any, int]] | None = None,
    strict: bool = False,
    process: PartialState | None = None,
) -> Selection:
    """Reads every picture and decides which are trained on.

    What is found is kept in a folder, in parts of 512 rows: a run that is cut goes on, and one that comes later reads
    the result alone. Of several processes each reads its share.

    Args:
        source ([`PictureSource`]): The pictures.
        folder (`str` or `Path`): Where the result is kept.
        min_side (`int`, *optional*, defaults to 1): The fewest pixels of the shorter side.
        filters (`list` of [`PictureFilter`], *optional*): Scores that a picture must reach, such as [`ClipScore`].
        ground (`str`, *optional*, defaults to `"white"`): The colour behind what is transparent, for the filters.
        tokenizers (`dict`, *optional*): Tokenizers with the number of tokens that their encoders take, by the name of
            the encoder, to count captions that are longer; see [`caption_tokenizers`].
        strict (`bool`, *optional*, defaults to `False`): Whether pictures that cannot be read or have no caption are
            refused.
        process (`PartialState`, *optional*): The processes that share the work; all of them must call this.

    Raises:
        ValueError: No picture is left, or with `strict` one is unreadable or has no caption; or the folder was made
            from other pictures.
        OSError: The folder cannot be written.
    """
    if min_side < 1:
        raise ValueError(f"min_side must be at least 1 pixel, got {min_side}.")
    check_ground(ground)
    parts = Parts(Path(folder), part_bounds(source.chunks, ROWS))
    manifest = {
        "pictures": source.fingerprint(),
        "min_side": min_side,
        "ground": ground,
        "filters": {each.name: each.describe() for each in filters},
        "encoders": {name: longest(*entry) for name, entry in (tokenizers or {}).items()},
    }
    scan = _Scan(source, min_side, filters, ground, tokenizers or {})
    share = (process.process_index, process.num_processes) if process else (0, 1)
    built = parts.build(manifest, scan.part, *share)
    number = len(range(share[0], len(parts.bounds), share[1]))
    for _ in tqdm(built, "reading pictures", number, unit="part", disable=share[0] > 0 or number < 2):
        pass
    if process:
        process.wait_for_everyone()
    selection = _read(parts, source, manifest, _unnamed(source))
    _check(selection, strict)
    return selection


def _check(selection: Selection, strict: bool) -> None:
    """Refuses a selection of nothing, and a strict one that leaves out what should have been mended."""
    faults = [entry for entry in selection.left_out if entry[1] in (NO_CAPTION, UNREADABLE)]
    if strict and faults:
        named = "; ".join(f"{name}: {_reason(why, details)}" for name, why, details in faults[:SHOWN])
        raise ValueError(f"{len(faults)} pictures cannot be trained on (strict): {named}. Mend or remove them.")
    if not len(selection):
        raise ValueError(f"No picture is left to train on: {' '.join(selection.report())}")


def load_selection(folder: str | Path, source: PictureSource) -> Selection:
    """What [`select_pictures`] found, without its filters; pictures that no metadata name are not looked for again.

    Args:
        folder (`str` or `Path`): Where it is kept.
        source ([`PictureSource`]): The pictures.

    Raises:
        ValueError: It is not complete, damaged, or made from other pictures.
    """
    manifest = read_manifest(Path(folder))
    check_manifest(Path(folder), {**manifest, "pictures": source.fingerprint()})
    if not isinstance(manifest.get("encoders"), dict):
        raise ValueError(f"The manifest of {folder} has encoders {manifest.get('encoders')!r}: it is damaged.")
    return _read(Parts(Path(folder), part_bounds(source.chunks, ROWS)), source, manifest, [])


@dataclass(frozen=True)
class _Scan:
    """Reads rows and says what speaks against each."""

    source: PictureSource
    min_side: int
    filters: Sequence[PictureFilter]
    ground: str
    tokenizers: Mapping[str, tuple[Any, int]]

    def part(self, first: int, last: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The sizes of rows, of those that are left out zeros, and what is noted about these."""
        sizes = torch.zeros(last - first, 2, dtype=torch.int32)
        left_out: list[tuple[int, str, str, str]] = []
        captions = []
        for rows in _batches(range(first, last)):
            kept = []
            for row in rows:
                picture = self.source[row]
                image, fault = self._look_at(picture)
                if image is None:
                    left_out.append((row, picture.name, *fault))
                else:
                    kept.append((row, picture, image))
            for row, picture, image, fault in self._filtered(kept):
                if fault is not None:
                    left_out.append((row, picture.name, *fault))
                    continue
                sizes[row - first] = torch.tensor([image.height, image.width])
                captions.append(picture.caption)
        long = {name: too_long(captions, *entry) for name, entry in self.tokenizers.items()}
        return {"sizes": sizes}, {"left_out": sorted(left_out), "long_captions": long}

    def _look_at(self, picture: Picture) -> tuple[Image.Image | None, tuple[str, str]]:
        """The picture, or why there is none to train on."""
        if not picture.caption:
            return None, (NO_CAPTION, "")
        try:
            image = picture.image(self.ground)
        except ValueError as error:
            return None, (UNREADABLE, str(error))
        if min(image.size) < self.min_side:
            return None, (TOO_SMALL, f"{image.width} x {image.height} pixels")
        return image, ("", "")

    def _filtered(self, kept: list[tuple[int, Picture, Image.Image]]) -> Iterator[tuple]:
        """Rows with what the first filter says that one does not pass, or `None`."""
        faults: list[tuple[str, str] | None] = [None] * len(kept)
        for each in self.filters if kept else ():
            scores = each([image for _, _, image in kept], [picture.caption for _, picture, _ in kept])
            for place, score in enumerate(scores.tolist()):
                if not score >= each.minimum and faults[place] is None:
                    faults[place] = (each.name, f"{score:.3f}")
        for (row, picture, image), fault in zip(kept, faults, strict=True):
            yield row, picture, image, fault


def _batches(rows: range) -> Iterator[range]:
    for first in range(0, len(rows), PICTURES_AT_ONCE):
        yield rows[first : first + PICTURES_AT_ONCE]


def too_long(captions: list[str], tokenizer: Any, tokens: int) -> int:
    """How many captions have more tokens than an encoder takes."""
    if not captions:
        return 0
    return sum(len(ids) > longest(tokenizer, tokens) for ids in tokenizer(captions, verbose=False).input_ids)


def _read(parts: Parts, source: PictureSource, manifest: dict[str, Any], unnamed: list[str]) -> Selection:
    """The selection out of all parts."""
    digest = hashlib.blake2b(json.dumps(manifest).encode(), digest_size=8)
    sizes, left_out, long = [], [], Counter({name: 0 for name in manifest["encoders"]})
    for number in range(len(parts.bounds)):
        tensors, notes = parts.read(number)
        digest.update(notes["digest"].encode())
        sizes.append(tensors["sizes"].numpy())
        left_out += [tuple(entry[1:]) for entry in notes["left_out"]]
        long.update(notes["long_captions"])
    left_out += [(name, NO_CAPTION, "its folder's metadata do not name it") for name in unnamed]
    of_all = np.concatenate(sizes)
    rows = np.flatnonzero(of_all[:, 0])
    ends = np.searchsorted(rows, np.cumsum([0, *source.chunks]))
    return Selection(
        rows,
        of_all[rows],
        tuple(np.diff(ends).tolist()),
        dict(Counter(reason for _, reason, _ in left_out)),
        left_out,
        dict(long),
        digest.hexdigest(),
    )


def _unnamed(source: PictureSource) -> list[str]:
    """Pictures of a folder that no row of its metadata names."""
    find = getattr(source, "unnamed", None)
    return find() if find else []

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Embeddings of captions and pictures, encoded once and kept in files: training then needs no encoders.

T5's tokens are kept without padding: of T5-XXL a caption of 16 tokens is 131 kB instead of 926 kB. CLIP's are kept
with it, since the networks attend to it. A row is bound to its caption, picture and encoders by hashes.
"""

import hashlib
import zlib
from collections.abc import Iterator
from functools import lru_cache
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open

from ..checks import is_number
from .crops import clip_view
from .parts import Parts, as_bytes, check_manifest, damaged, part_bounds, read_manifest
from .picture import Picture, PictureSource, check_ground
from .selection import Selection

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
FORMAT = 1
OPEN_FILES = 64
# What one row of each has, beside T5's tokens.
PER_ROW = ("clip_text", "clip_text_pooled", "clip_image", "caption_hash", "picture_hash")
Embeddings = dict[str, torch.Tensor]


def build_embedding_cache(
    folder: str | Path,
    source: PictureSource,
    selection: Selection,
    encoder: Any,
    dtype: str = "float16",
    batch_size: int = 32,
    ground: str = "white",
    rows_per_part: int = 512,
    rank: int = 0,
    num_processes: int = 1,
) -> Iterator[bool]:
    """Encodes all captions and pictures of a selection; cut anywhere, it goes on where it was, to the same bytes.

    Of several processes each makes its share of the parts; none waits for the others.

    Args:
        folder (`str` or `Path`): Where the cache is kept.
        source ([`PictureSource`]): The pictures.
        selection ([`Selection`]): Those that are trained on.
        encoder ([`ConditioningEncoder`]): Encodes them.
        dtype (`str`, *optional*, defaults to `"float16"`): What is kept, `float16` or `bfloat16`, which is coarser and
            holds larger numbers.
        batch_size (`int`, *optional*, defaults to 32): Rows that are encoded at once.
        ground (`str`, *optional*, defaults to `"white"`): The colour behind what is transparent.
        rows_per_part (`int`, *optional*, defaults to 512): Pictures in a part, which is what a process that is killed
            loses; the embeddings of a part are in memory while it is made, of T5-XXL and CLIP about 0.2 MB of each.
        rank (`int`, *optional*, defaults to 0): The number of this process.
        num_processes (`int`, *optional*, defaults to 1): How many there are.

    Yields:
        `bool`: For each part of this process whether it had to be made.

    Raises:
        ValueError: The folder holds a cache of something else, an embedding is not finite in 16 bits, or a picture
            changed since it was selected.
        OSError: A part cannot be written.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be {' or '.join(DTYPES)}, got {dtype!r}.")
    if min(batch_size, rows_per_part) < 1:
        raise ValueError(f"batch_size {batch_size} and rows_per_part {rows_per_part} must be at least 1.")
    manifest = {
        "format": FORMAT,
        "chunks": list(selection.chunks),
        "rows_per_part": rows_per_part,
        "pictures": source.fingerprint(),
        "selection": selection.fingerprint,
        "encoders": encoder.fingerprint(),
        "dtype": dtype,
        "batch_size": batch_size,
        "clip_image_size": encoder.clip_image_size,
        "ground": check_ground(ground),
        "widths": encoder.widths,
    }
    build = _Build(source, selection.rows, encoder, DTYPES[dtype], batch_size, ground)
    yield from _parts(Path(folder), manifest).build(manifest, build.part, rank, num_processes)


def _parts(folder: Path, manifest: dict[str, Any]) -> Parts:
    return Parts(folder, part_bounds(manifest["chunks"], manifest["rows_per_part"]))


def _check_numbers(folder: Path, manifest: dict[str, Any]) -> None:
    """Refuses a manifest that does not say what parts there are."""
    chunks, rows = manifest.get("chunks"), manifest.get("rows_per_part")
    numbers: list[Any] = [rows, *chunks] if isinstance(chunks, list) else [None]
    if not all(is_number(number, Integral) and number >= 0 for number in numbers) or not rows:
        raise ValueError(f"The manifest of {folder} has chunks {chunks!r} and rows_per_part {rows!r}: it is damaged.")


class _Build:
    """Makes the parts of a cache."""

    def __init__(
        self,
        source: PictureSource,
        rows: np.ndarray,
        encoder: Any,
        dtype: torch.dtype,
        batch_size: int,
        ground: str,
    ) -> None:
        self.source, self.rows, self.encoder = source, rows, encoder
        self.dtype, self.batch_size, self.ground = dtype, batch_size, ground

    def part(self, first: int, last: int) -> tuple[Embeddings, dict[str, Any]]:
        """The embeddings of some pictures of the selection."""
        batches = [
            self._encode(self.rows[start : min(start + self.batch_size, last)])
            for start in range(first, last, self.batch_size)
        ]
        part = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        part["checksum"] = torch.tensor([_checksum(_row(part, row)) for row in range(last - first)])
        return part, {}

    def _encode(self, rows: np.ndarray) -> Embeddings:
        pictures = [self.source[int(row)] for row in rows]
        contents = [picture.content() for picture in pictures]
        seen = [
            clip_view(picture.image(self.ground, content), self.encoder.clip_image_size)
            for picture, content in zip(pictures, contents, strict=True)
        ]
        encoded = self.encoder([picture.caption for picture in pictures], torch.stack(seen))
        mask = encoded["encoder_attention_mask_2"].cpu().bool()
        found = {
            "t5": encoded["encoder_hidden_states_2"].cpu()[mask],
            "clip_text": encoded["encoder_hidden_states"].cpu(),
            "clip_text_pooled": encoded["added_cond_kwargs"]["text_embeds"].cpu(),
            "clip_image": encoded["added_cond_kwargs"]["image_embeds"].cpu(),
        }
        for name, tensor in found.items():
            found[name] = tensor.to(self.dtype)
            if not torch.isfinite(found[name]).all():
                raise ValueError(
                    f"An embedding ({name}) of the captions from {pictures[0].name!r} on is not finite in "
                    f"{self.dtype}: use dtype bfloat16, and load T5 in bfloat16 or float32."
                )
        found["t5_length"] = mask.sum(dim=1).int()
        found["caption_hash"] = torch.tensor([caption_hash(picture.caption) for picture in pictures])
        found["picture_hash"] = torch.tensor([_hash(content) for content in contents])
        return found


def _row(part: Embeddings, row: int) -> Embeddings:
    """What a part holds of a row."""
    lengths = part["t5_length"]
    start = int(lengths[:row].sum())
    return {"t5": part["t5"][start : start + int(lengths[row])], **{name: part[name][row] for name in PER_ROW}}


def _checksum(row: Embeddings) -> int:
    """CRC-32 of all that is kept of a row."""
    value = 0
    for name in ("t5", *PER_ROW):
        value = zlib.crc32(as_bytes(row[name]), value)
    return value


def caption_hash(caption: str) -> int:
    """64 bits, signed."""
    return _hash(caption.encode())


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)


class EmbeddingCache:
    """The embeddings that [`build_embedding_cache`] wrote.

    Args:
        folder (`str` or `Path`): Where they are kept.

    Raises:
        ValueError: A part is missing or damaged, or it is no such folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder, self.manifest = Path(folder), read_manifest(Path(folder))
        if self.manifest.get("format") != FORMAT:
            raise ValueError(f"{folder} holds no embeddings of the format {FORMAT}; make them anew.")
        _check_numbers(self.folder, self.manifest)
        self.parts = _parts(self.folder, self.manifest)
        self.parts.check()
        self.firsts = np.array([first for first, _ in self.parts.bounds])
        self._remember_files()

    def _remember_files(self) -> None:
        self._open = lru_cache(maxsize=OPEN_FILES)(self._opened)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_open"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._remember_files()

    @property
    def widths(self) -> dict[str, int]:
        """The widths that a network for these embeddings needs, as arguments of `EDiffIUNet`."""
        return dict(self.manifest["widths"])

    def check(self, source: PictureSource, selection: Selection, encoders: str | None = None) -> None:
        """Refuses to be used for what it was not made from.

        Args:
            source ([`PictureSource`]): The pictures to train on.
            selection ([`Selection`]): Those of them that are trained on.
            encoders (`str`, *optional*): What [`encoder_fingerprint`] says of the encoders of the model.

        Raises:
            ValueError: It names what differs.
        """
        expected = {**self.manifest, "pictures": source.fingerprint(), "selection": selection.fingerprint}
        check_manifest(self.folder, expected if encoders is None else {**expected, "encoders": encoders})

    def read(self, place: int, picture: Picture, content: bytes) -> Embeddings:
        """The embeddings of a picture: T5 `(tokens, width)`, CLIP text `(77, width)`, its pooled one and that of the
        CLIP image encoder `(width,)`, in 16 bits.

        Args:
            place (`int`): Its place in the selection.
            picture ([`Picture`]): The picture, whose hashes must be those of the embeddings.
            content (`bytes`): The bytes of its file.

        Raises:
            ValueError: They are those of another caption or picture, or damaged.
        """
        number = int(np.searchsorted(self.firsts, place, side="right")) - 1
        try:
            slices, starts, checksums = self._open(number)
            row = place - int(self.firsts[number])
            found = {"t5": slices["t5"][int(starts[row]) : int(starts[row + 1])]}
            found |= {name: slices[name][row] for name in PER_ROW}
            whole = int(checksums[row]) == _checksum(found)
        except Exception as error:  # of a damaged file safetensors raises many things
            raise damaged(self.parts.path(number), str(error)) from None
        if not whole:
            raise damaged(self.parts.path(number), f"the bytes of row {row} are others than those that were written")
        of_caption, of_picture = int(found.pop("caption_hash")), int(found.pop("picture_hash"))
        for what, expected, hashed in (
            ("caption", of_caption, caption_hash(picture.caption)),
            ("picture", of_picture, _hash(content)),
        ):
            if hashed != expected:
                raise ValueError(
                    f"{self.folder} holds the embeddings of another {what} than that of {picture.name!r}, which has "
                    "changed: remove the folder and make them anew."
                )
        return found

    def _opened(self, number: int) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
        """The tensors of a part, mapped, where T5's tokens of each row begin, and the checksums."""
        file = safe_open(self.parts.path(number), "pt")
        ends = file.get_tensor("t5_length").cumsum(0)
        slices = {name: file.get_slice(name) for name in ("t5", *PER_ROW)}
        return slices, F.pad(ends, (1, 0)), file.get_tensor("checksum")


def stack_embeddings(rows: list[Embeddings]) -> dict[str, Any]:
    """The embeddings of a batch as keyword arguments of `EDiffIUNet.forward`; T5's are padded to the longest."""
    lengths = [len(row["t5"]) for row in rows]
    longest = max(lengths)
    return {
        "encoder_hidden_states": torch.stack([row["clip_text"] for row in rows]),
        "encoder_hidden_states_2": torch.stack(
            [F.pad(row["t5"], (0, 0, 0, longest - length)) for row, length in zip(rows, lengths, strict=True)]
        ),
        "encoder_attention_mask_2": (torch.arange(longest) < torch.tensor(lengths)[:, None]).long(),
        "added_cond_kwargs": {
            "text_embeds": torch.stack([row["clip_text_pooled"] for row in rows]),
            "image_embeds": torch.stack([row["clip_image"] for row in rows]),
        },
    }


def in_single_precision(embeddings: dict[str, Any]) -> dict[str, Any]:
    """The 16 bits of a cache in 32; masks stay."""
    return {name: _single(value) for name, value in embeddings.items()}


def _single(value: Any) -> Any:
    if isinstance(value, dict):
        return in_single_precision(value)
    return value.float() if value.is_floating_point() else value

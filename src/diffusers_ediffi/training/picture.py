# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A picture with its caption, as the sources of training data give it."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image, ImageColor

from ..images import as_rgb, open_image
from ..phrases import quoted

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")


@dataclass(frozen=True)
class Picture:
    """A row of a source.

    Args:
        name (`str`): What messages call it.
        caption (`str`): Without spaces at its ends; empty where there is none.
        file (`Path` or `bytes`): The picture's file, or what it holds.
    """

    name: str
    caption: str
    file: Path | bytes

    def content(self) -> bytes:
        """The bytes of the file.

        Raises:
            ValueError: It cannot be read.
        """
        if isinstance(self.file, bytes):
            return self.file
        if not os.path.isfile(self.file):  # one that is no regular file might be waited for
            raise ValueError(f"cannot read {quoted(self.name)}: there is no such file")
        try:
            return self.file.read_bytes()
        except OSError as error:
            raise ValueError(f"cannot read {quoted(self.name)}: {error.strerror}") from None

    def image(self, ground: str = "white", content: bytes | None = None) -> Image.Image:
        """The picture in RGB, as [`~images.as_rgb`] makes it, turned as its camera was held.

        Args:
            ground (`str`, *optional*, defaults to `"white"`): The colour behind what is transparent.
            content (`bytes`, *optional*): What `content()` gave, where it is there already.

        Raises:
            ValueError: It cannot be read, or is damaged.
        """
        name = quoted(self.name)
        return as_rgb(open_image(io.BytesIO(self.content() if content is None else content), name), name, ground)


class PictureSource(Protocol):
    """Rows of pictures with captions: [`ImageFolder`], [`HubImages`] or [`ImageShards`].

    `chunks` are the numbers of rows that lie together, such as those of each shard; they sum up to its length.
    """

    @property
    def chunks(self) -> Sequence[int]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Picture: ...

    def fingerprint(self) -> str:
        """A hash that changes with the rows and their captions."""
        ...


def check_ground(ground: str) -> str:
    """A colour that Pillow knows.

    Raises:
        ValueError: It does not know it.
    """
    try:
        ImageColor.getrgb(ground)
    except ValueError:
        raise ValueError(f"The ground {ground!r} is not a colour; give a name such as white, or #rrggbb.") from None
    return ground


def as_caption(value: Any) -> str:
    """The caption in a column: a text, or the first of a list of texts; anything else is none."""
    if isinstance(value, list | tuple) and value:
        value = value[0]
    return value.strip() if isinstance(value, str) else ""

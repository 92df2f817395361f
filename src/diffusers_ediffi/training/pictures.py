# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Training data of pictures with captions: a map-style data set without end."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import find_nearest_bucket
from diffusers.utils import logging
from PIL import Image
from torch.utils.data import Dataset

from .crops import clip_view, picture_to_tensor, resized_crop
from .data import item_generator, low_resolution, random_patch
from .embedding_cache import EmbeddingCache
from .order import BucketOrder, EpochOrder
from .picture import Picture, PictureSource, check_ground
from .selection import Selection

logger = logging.get_logger(__name__)

CROPS = ("center", "random")
TRIES = 100  # rows one behind the other that cannot be read


@dataclass(frozen=True)
class PictureSettings:
    """What a picture becomes as a training item.

    Args:
        size (`int`): Side in pixels of the square that a picture is resized and cropped to.
        crop (`str`, *optional*, defaults to `"center"`): Which part of a picture is left, `center` or `random`.
        random_flip (`bool`, *optional*, defaults to `False`): Whether half of the pictures are mirrored, which makes
            captions with left and right wrong, and letters unreadable.
        ground (`str`, *optional*, defaults to `"white"`): The colour behind what is transparent.
        buckets (`tuple` of `(int, int)`, *optional*): Heights and widths of aspect-ratio buckets, instead of the
            square, such as `diffusers.training_utils.generate_aspect_ratio_buckets(size)` gives them.
        batch_size (`int`, *optional*, defaults to 1): With buckets the batch size of the run: each batch is of one.
        patch (`int`, *optional*): Side of a random patch of the cropped picture to train on, for super-resolution.
        low_res_factor (`int`, *optional*): The factor of a super-resolution stage.
        degradation_strength (`float`, *optional*, defaults to 0.3): See [`degrade`].
        distortion_strength (`float`, *optional*, defaults to 0.0): See [`distort`].
        clip_image_size (`int`, *optional*, defaults to 224): Side in pixels of what the CLIP image encoder sees.
        seed (`int`, *optional*, defaults to 0): Of the order, crops, flips and degradation.

    Raises:
        ValueError: A number makes no sense, or does not go with another.
    """

    size: int
    crop: str = "center"
    random_flip: bool = False
    ground: str = "white"
    buckets: tuple[tuple[int, int], ...] = ()
    batch_size: int = 1
    patch: int | None = None
    low_res_factor: int | None = None
    degradation_strength: float = 0.3
    distortion_strength: float = 0.0
    clip_image_size: int = 224
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "buckets", tuple(tuple(map(int, shape)) for shape in self.buckets))
        for name in ("size", "batch_size", "clip_image_size", "patch", "low_res_factor"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if self.crop not in CROPS:
            raise ValueError(f"crop must be {' or '.join(CROPS)}, got {self.crop!r}.")
        for name in ("degradation_strength", "distortion_strength"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} lies in [0, 1], got {getattr(self, name)}.")
        check_ground(self.ground)
        for shape in self.shapes:
            self._check_shape(*shape)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Heights and widths that pictures are cropped to."""
        return self.buckets or ((self.size, self.size),)

    def _check_shape(self, height: int, width: int) -> None:
        if min(height, width) < 1:
            raise ValueError(f"The bucket {height} x {width} is no size of a picture.")
        if self.patch is not None and self.patch > min(height, width):
            raise ValueError(f"The patch of {self.patch} pixels is larger than the picture, {height} x {width}.")
        sides = (height, width) if self.patch is None else (self.patch,)
        if self.low_res_factor is not None and any(side % self.low_res_factor for side in sides):
            raise ValueError(
                f"{' x '.join(map(str, sides))} pixels are not a multiple of low_res_factor={self.low_res_factor}."
            )


class PictureDataset(Dataset):
    """Item i is a function of i and the seed alone, as of [`SceneDataset`]; every picture comes once an epoch, in
    another order each time. What an item costs does not grow with the number of pictures.

    An item is a dictionary of `image` (uint8 `(3, height, width)`), `caption`, and `clip_image` (uint8, the square in
    the middle, as the CLIP image encoder sees it) or with a cache `embeddings`; for super-resolution also `low_res`.

    Args:
        source ([`PictureSource`]): The pictures, such as [`open_pictures`] finds.
        settings ([`PictureSettings`]): What they become.
        selection ([`Selection`], *optional*): Which are trained on. Without one, all of them; of these, such
            as cannot be read or have no caption are met on the way: each is named in a warning, counted in `skipped`
            of the process that met it, and another takes its place. Needed for buckets and embeddings.
        embeddings ([`EmbeddingCache`], *optional*): Of the pictures of this selection.

    Raises:
        ValueError: The selection is missing, or the embeddings are those of other pictures.
    """

    def __init__(
        self,
        source: PictureSource,
        settings: PictureSettings,
        selection: Selection | None = None,
        embeddings: EmbeddingCache | None = None,
    ) -> None:
        self.source, self.settings = source, settings
        self.selection, self.embeddings = selection, embeddings
        self.skipped: Counter[str] = Counter()
        if selection is None and (embeddings or settings.buckets):
            raise ValueError("Embeddings and aspect-ratio buckets need a selection: call select_pictures first.")
        if embeddings is not None and selection is not None:
            embeddings.check(source, selection)
        if len(settings.buckets) > 1 and selection is not None:
            self.buckets: BucketOrder | None = _bucket_order(selection, settings)
        else:
            self.buckets = None
        self.order = EpochOrder(source.chunks if selection is None else selection.chunks, settings.seed)

    @property
    def num_pictures(self) -> int:
        """How many there are: the items of an epoch."""
        return self.order.length

    def describe(self) -> dict[str, Any]:
        """What decides what item i is; a resumed run must have the same."""
        return {
            **asdict(self.settings),
            "pictures": self.source.fingerprint(),
            "selection": None if self.selection is None else self.selection.fingerprint,
            "encoders": None if self.embeddings is None else self.embeddings.manifest["encoders"],
        }

    def __getitem__(self, index: int) -> dict[str, Any]:
        settings, generator = self.settings, item_generator(self.settings.seed, index)
        place, shape = self._place(index)
        picture, content, seen = self._read(index, place)
        part = float(torch.rand(1, generator=generator)) if settings.crop == "random" else 0.5
        image = picture_to_tensor(resized_crop(seen, *shape, part))
        if settings.random_flip and torch.rand(1, generator=generator) < 0.5:
            image = image.flip(2)
        if settings.patch is not None:
            image = random_patch(image, settings.patch, generator)
        item: dict[str, Any] = {"image": image, "caption": picture.caption}
        if self.embeddings is None:
            item["clip_image"] = clip_view(seen, settings.clip_image_size)
        else:
            item["embeddings"] = self.embeddings.read(place, picture, content)
        if settings.low_res_factor is not None:
            strengths = (settings.degradation_strength, settings.distortion_strength)
            item["low_res"] = low_resolution(image, settings.low_res_factor, generator, *strengths)
        return item

    def _place(self, index: int) -> tuple[int, tuple[int, int]]:
        """Which picture of the selection, or row of the source, an item is, and its height and width."""
        if self.buckets is None:
            return self.order.row(index), self.settings.shapes[0]
        place, bucket = self.buckets.row(index)
        return place, self.settings.shapes[bucket]

    def _read(self, index: int, place: int) -> tuple[Picture, bytes, Image.Image]:
        """A picture, the bytes of its file, and what they show."""
        if self.selection is not None:
            picture = self.source[int(self.selection.rows[place])]
            content = picture.content()
            return picture, content, picture.image(self.settings.ground, content)
        reason = ""
        for further in range(TRIES):
            picture = self.source[self.order.row(index + further)]
            try:
                if not picture.caption:
                    raise ValueError(f"{picture.name!r} has no caption")
                content = picture.content()
                return picture, content, picture.image(self.settings.ground, content)
            except ValueError as error:
                reason = str(error)
            if picture.name not in self.skipped:
                logger.warning(f"{reason}; it is not trained on.")
            self.skipped[picture.name] += 1
        raise ValueError(f"{TRIES} pictures one behind the other cannot be trained on, the last one since: {reason}.")


def _bucket_order(selection: Selection, settings: PictureSettings) -> BucketOrder:
    """The pictures of each bucket: that of the nearest ratio of sides, as diffusers' scripts choose it."""
    sizes, inverse = np.unique(selection.sizes, axis=0, return_inverse=True)
    nearest = np.array([find_nearest_bucket(int(height), int(width), settings.buckets) for height, width in sizes])
    of_picture = nearest[inverse.reshape(-1)]
    rows = [np.flatnonzero(of_picture == bucket) for bucket in range(len(settings.buckets))]
    return BucketOrder(rows, settings.batch_size, settings.seed)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Training data of the demo domain: rendered scenes as a map-style data set without end, and a loader that resumes."""

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from ..paint.regions import PaintRegion
from ..phrases import find_phrase
from .crops import picture_to_tensor
from .degradation import degrade, distort, downsample
from .embedding_cache import stack_embeddings

# The arguments of `SceneDataset` that decide what its items are.
SETTINGS = (
    *("size", "crop", "crops_per_scene"),
    *("low_res_factor", "degradation_strength", "distortion_strength"),
    *("clip_image_size", "style_references", "painted_share", "seed"),
)

SECONDS_TO_END = 3.0  # of a worker process after SIGTERM
PICTURES = ("image", "clip_image", "low_res")
MUST_BE = (
    "give a uint8 tensor (3, height, width) with values from 0 to 255, such as "
    "torch.from_numpy(np.array(picture.convert('RGB'))).permute(2, 0, 1) of a PIL picture"
)


class SceneSource(Protocol):
    """What the data set needs of `demo.scenes.SceneGenerator`."""

    def scene(self, index: int) -> Any: ...

    def render(self, scene: Any, size: int) -> Image.Image: ...


class SceneDataset(Dataset):
    """Item i is a function of i and the seed alone, so a run resumes at its position and any worker can make it.

    An item is a dictionary of `image` (uint8 `(3, crop, crop)`), `caption`, `clip_image` (uint8, the whole picture as
    the CLIP image encoder sees it, or another one in its style), for super-resolution `low_res` (uint8, the degraded
    small image) and with a `painted_share` `regions` (a list of `PaintRegion`).

    Args:
        generator ([`SceneSource`]): Makes the scenes; their captions are read from `scene.caption`, with a
            `painted_share` their objects from `scene.objects`: phrase, box, and span, its place in the caption, where
            they have it.
        size (`int`): Height and width of a rendering in pixels.
        crop (`int`, *optional*): Side of the random patches to train on; by default the whole picture.
        crops_per_scene (`int`, *optional*, defaults to 1): Patches taken from a rendering, since large ones are slow.
        low_res_factor (`int`, *optional*): The factor of the super-resolution stage, for such a stage.
        degradation_strength (`float`, *optional*, defaults to 0.3): See [`degrade`].
        distortion_strength (`float`, *optional*, defaults to 0.0): See [`distort`].
        clip_image_size (`int`, *optional*, defaults to 64): Side of `clip_image` in pixels.
        style_references (`float`, *optional*, defaults to 0.0): Share of scenes whose `clip_image` is another scene in
            the same style, so that a network learns to take from it what the caption does not say. In the paper it is
            always the picture itself.
        painted_share (`float`, *optional*, defaults to 0.0): Share of scenes that are painted with words, the box of
            each object as the region of its phrase, with a weight drawn from [0, 1] for the scene, so that a network
            learns to obey the paint. In the paper no network is trained for it.
        seed (`int`, *optional*, defaults to 0): Of crops, degradation, references and paint.

    Raises:
        ValueError: A number makes no sense, or does not go with another.
    """

    def __init__(
        self,
        generator: SceneSource,
        size: int,
        crop: int | None = None,
        crops_per_scene: int = 1,
        low_res_factor: int | None = None,
        degradation_strength: float = 0.3,
        distortion_strength: float = 0.0,
        clip_image_size: int = 64,
        style_references: float = 0.0,
        painted_share: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.generator, self.size = generator, size
        self.crop, self.crops_per_scene = crop, crops_per_scene
        self.low_res_factor, self.degradation_strength = low_res_factor, degradation_strength
        self.distortion_strength = distortion_strength
        self.clip_image_size, self.style_references = clip_image_size, style_references
        self.painted_share, self.seed = painted_share, seed
        self._check()
        self._remember_renderings()

    def _remember_renderings(self) -> None:
        """Neighbouring items share a rendering; two, since a batch may start in the middle of a scene."""
        self._rendering = lru_cache(maxsize=2)(self._render)

    def __getstate__(self) -> dict[str, Any]:
        """What a spawned worker process is sent: it renders for itself."""
        return {name: value for name, value in vars(self).items() if name != "_rendering"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._remember_renderings()

    def _check(self) -> None:
        patch = self.crop or self.size
        if self.crop is not None and not 0 < self.crop <= self.size:
            raise ValueError(f"The crop must be between 1 and the picture's size {self.size}, got {self.crop}.")
        if self.crops_per_scene < 1:
            raise ValueError(f"crops_per_scene must be at least 1, got {self.crops_per_scene}.")
        if self.low_res_factor is not None and patch % self.low_res_factor:
            raise ValueError(f"The patch of {patch} pixels is not a multiple of the factor {self.low_res_factor}.")
        for name in ("style_references", "painted_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share between 0 and 1, got {getattr(self, name)}.")
        if not 0 <= self.distortion_strength <= 1:
            raise ValueError(f"The strength of the distortion lies in [0, 1], got {self.distortion_strength}.")
        if self.painted_share and self.crop is not None:
            raise ValueError("painted_share needs whole pictures: a crop would leave its boxes behind.")

    def describe(self) -> dict[str, Any]:
        """The settings that decide what item i is; a resumed run must have the same."""
        return {name: getattr(self, name) for name in SETTINGS}

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, clip_image, caption = self._rendering(index // self.crops_per_scene)
        generator = item_generator(self.seed, index)
        if self.crop is not None:
            image = random_patch(image, self.crop, generator)
        item = {"image": image, "caption": caption, "clip_image": clip_image}
        if self.low_res_factor is not None:
            strengths = (self.degradation_strength, self.distortion_strength)
            item["low_res"] = low_resolution(image, self.low_res_factor, generator, *strengths)
        if self.painted_share:
            item["regions"] = self._regions(index // self.crops_per_scene)
        return item

    def _regions(self, scene_index: int) -> list[PaintRegion]:
        """The boxes of a scene that is painted, all of the same weight."""
        is_painted, weight = np.random.default_rng([self.seed, scene_index, 1]).random(2)
        if is_painted >= self.painted_share:
            return []
        return scene_regions(self.generator.scene(scene_index), weight)

    def _render(self, scene_index: int) -> tuple[torch.Tensor, torch.Tensor, str]:
        """The picture of a scene, what the CLIP image encoder sees of it, and its caption."""
        scene = self.generator.scene(scene_index)
        picture = self.generator.render(scene, self.size).convert("RGB")
        side, seen = self.clip_image_size, picture
        if self.style_references:
            draw = np.random.default_rng([self.seed, scene_index])
            if draw.random() < self.style_references:
                other = self.generator.scene(int(draw.integers(2**31)))
                seen = self.generator.render(replace(other, style=scene.style), self.size).convert("RGB")
        small = seen if seen.width == side else seen.resize((side, side), Image.Resampling.BICUBIC)
        return picture_to_tensor(picture), picture_to_tensor(small), scene.caption


def item_generator(seed: int, index: int) -> torch.Generator:
    """The random numbers of an item."""
    # Two words, since torch.Generator takes one number and (seed, index) must not collide with its neighbours.
    state = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)


def random_patch(image: torch.Tensor, side: int, generator: torch.Generator) -> torch.Tensor:
    """A square of an image `(3, height, width)`."""
    top, left = (int(torch.randint(0, length - side + 1, (1,), generator=generator)) for length in image.shape[1:])
    return image[:, top : top + side, left : left + side]


def low_resolution(
    image: torch.Tensor,
    factor: int,
    generator: torch.Generator,
    degradation_strength: float,
    distortion_strength: float = 0.0,
) -> torch.Tensor:
    """The input of a super-resolution stage, uint8, from an image uint8 `(3, height, width)`; see [`degrade`] and
    [`distort`]."""
    small = downsample(image_to_float(image[None]), factor, generator)
    if distortion_strength:
        small = distort(small, generator, distortion_strength)
    return float_to_image(degrade(small, generator, degradation_strength))[0]


def scene_regions(scene: Any, weight: float = 1.0) -> list[PaintRegion]:
    """The boxes of a scene's objects as regions of their phrases, where the scene put these: a "palm tree" has a
    "tree" as well."""
    regions = []
    for thing in scene.objects:
        span = getattr(thing, "span", None)  # without it all places are painted
        occurrence = None if span is None else find_phrase(scene.caption, thing.phrase).index(span)
        regions.append(PaintRegion(thing.phrase, thing.box, weight, occurrence))
    return regions


class StepBatchSampler(Sampler[list[int]]):
    """Batches of consecutive item numbers: step s on rank r takes items (s * ranks + r) * batch_size and following.

    Args:
        batch_size (`int`): Items per process and step.
        first_step (`int`): Where a resumed run starts.
        total_steps (`int`): Where the run ends.
        rank (`int`, *optional*, defaults to 0): The number of this process.
        num_processes (`int`, *optional*, defaults to 1): How many processes there are.
        first_item (`int`, *optional*, defaults to 0): Added to every item number.
    """

    def __init__(
        self,
        batch_size: int,
        first_step: int,
        total_steps: int,
        rank: int = 0,
        num_processes: int = 1,
        first_item: int = 0,
    ) -> None:
        self.batch_size, self.first_item = batch_size, first_item
        self.first_step, self.total_steps = first_step, total_steps
        self.rank, self.num_processes = rank, num_processes

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.total_steps):
            first = self.first_item + (step * self.num_processes + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))

    def __len__(self) -> int:
        return max(0, self.total_steps - self.first_step)


def make_loader(dataset: Dataset, sampler: StepBatchSampler, num_workers: int, pin_memory: bool = False) -> DataLoader:
    """A loader that renders ahead in `num_workers` processes (0: in this one)."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        prefetch_factor=8 if num_workers else None,
        worker_init_fn=_handle_signals,
    )


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Stacks the tensors of items and their embeddings, and lists everything else."""
    check_items(items)
    columns = {key: [item[key] for item in items] for key in items[0]}
    batch: dict[str, Any] = {
        key: torch.stack(values) if isinstance(values[0], torch.Tensor) else values for key, values in columns.items()
    }
    if "embeddings" in columns:
        batch["embeddings"] = stack_embeddings(columns["embeddings"])
    return batch


def check_items(items: list[dict[str, Any]]) -> None:
    """Refuses pictures that would be read wrong, or not at all.

    Raises:
        ValueError: It names the entry, what it is, and what it must be.
    """
    for name in PICTURES:
        pictures = [item[name] for item in items if name in item]
        for picture in pictures:
            if not isinstance(picture, torch.Tensor):
                raise ValueError(f"{name} of an item is a {type(picture).__name__}; {MUST_BE}.")
            if picture.dtype != torch.uint8 or picture.ndim != 3 or len(picture) != 3:
                raise ValueError(f"{name} of an item is {picture.dtype} {tuple(picture.shape)}; {MUST_BE}.")
        if len({picture.shape for picture in pictures}) > 1:
            shapes = sorted({tuple(picture.shape) for picture in pictures})
            raise ValueError(f"{name} has the shapes {shapes} in one batch; make them equal.")


def image_to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 0 to 255 -> float32 -1 to 1."""
    return images.float() / 127.5 - 1


def float_to_image(images: torch.Tensor) -> torch.Tensor:
    """float -1 to 1 -> uint8 0 to 255, clamped."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte()


def _handle_signals(worker: int) -> None:
    """A signal to the whole process group must reach the trainer, which saves; its workers end with it, or soon after
    SIGTERM, whatever they do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_soon)


def _end_soon(*_: Any) -> None:
    """Ends a worker as if it were done, for PyTorch lets no trainer go on after one that failed; and not before the
    trainer has its own signal, for it would take the worker for lost."""
    end = threading.Timer(SECONDS_TO_END, os._exit, (0,))
    end.daemon = True
    end.start()

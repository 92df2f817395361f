# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Training data of the demo domain: rendered scenes as a map-style data set without end, and a loader that resumes."""

import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from ..paint.regions import PaintRegion
from .degradation import degrade, distort, downsample


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
        generator: makes the scenes; its captions are read from `scene.caption`.
        size: height and width of a rendering in pixels.
        crop: side of the random patches to train on, or None for the whole picture.
        crops_per_scene: patches taken from one rendering, since large renderings are slow.
        low_res_factor: None, or the factor of the super-resolution stage.
        degradation_strength: see `degrade`.
        distortion_strength: see `distort`.
        clip_image_size: side of `clip_image` in pixels.
        style_references: share of scenes whose `clip_image` is another scene in the same style, so that a network
            learns to take from it what the caption does not say. In the paper it is always the picture itself.
        painted_share: share of scenes that are painted with words, the box of each object as the region of its phrase,
            with a weight drawn from [0, 1] for the scene, so that a network learns to obey the paint. In the paper no
            network is trained for it.
        seed: of crops, degradation, references and paint.
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
        if crop is not None and not 0 < crop <= size:
            raise ValueError(f"The crop must be between 1 and the picture's size {size}, got {crop}.")
        if crops_per_scene < 1:
            raise ValueError(f"crops_per_scene must be at least 1, got {crops_per_scene}.")
        if low_res_factor is not None and (crop or size) % low_res_factor:
            raise ValueError(f"The patch of {crop or size} pixels is not a multiple of the factor {low_res_factor}.")
        for name, share in (("style_references", style_references), ("painted_share", painted_share)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is a share between 0 and 1, got {share}.")
        if not 0 <= distortion_strength <= 1:
            raise ValueError(f"The strength of the distortion lies in [0, 1], got {distortion_strength}.")
        if painted_share and crop is not None:
            raise ValueError("painted_share needs whole pictures: a crop would leave its boxes behind.")
        self.generator = generator
        self.size, self.crop, self.crops_per_scene = size, crop, crops_per_scene
        self.low_res_factor, self.degradation_strength = low_res_factor, degradation_strength
        self.distortion_strength = distortion_strength
        self.clip_image_size, self.style_references = clip_image_size, style_references
        self.painted_share, self.seed = painted_share, seed
        # Neighbouring items share a rendering; two, since a batch may start in the middle of one.
        self._rendering = lru_cache(maxsize=2)(self._render)

    def describe(self) -> dict[str, Any]:
        """The settings that decide what item i is; a resumed run must have the same."""
        names = (
            "size",
            "crop",
            "crops_per_scene",
            "low_res_factor",
            "degradation_strength",
            "distortion_strength",
            "clip_image_size",
            "style_references",
            "painted_share",
            "seed",
        )
        return {name: getattr(self, name) for name in names}

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, clip_image, caption = self._rendering(index // self.crops_per_scene)
        # Two words, since torch.Generator takes one number and (seed, index) must not collide with its neighbours.
        state = np.random.SeedSequence([self.seed, index]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0]) >> 1)
        if self.crop is not None:
            image = self._random_crop(image, generator)
        item = {"image": image, "caption": caption, "clip_image": clip_image}
        if self.low_res_factor is not None:
            small = downsample(image_to_float(image[None]), self.low_res_factor, generator)
            if self.distortion_strength:
                small = distort(small, generator, self.distortion_strength)
            item["low_res"] = float_to_image(degrade(small, generator, self.degradation_strength))[0]
        if self.painted_share:
            item["regions"] = self._regions(index // self.crops_per_scene)
        return item

    def _regions(self, scene_index: int) -> list[PaintRegion]:
        """The boxes of a scene that is painted, all of one weight."""
        is_painted, weight = np.random.default_rng([self.seed, scene_index, 1]).random(2)
        if is_painted >= self.painted_share:
            return []
        return [PaintRegion(one.phrase, one.box, weight=weight) for one in self.generator.scene(scene_index).objects]

    def _render(self, scene_index: int) -> tuple[torch.Tensor, torch.Tensor, str]:
        scene = self.generator.scene(scene_index)
        picture = self.generator.render(scene, self.size).convert("RGB")
        side, seen = self.clip_image_size, picture
        if self.style_references:
            draw = np.random.default_rng([self.seed, scene_index])
            if draw.random() < self.style_references:
                other = self.generator.scene(int(draw.integers(2**31)))
                seen = self.generator.render(replace(other, style=scene.style), self.size).convert("RGB")
        small = seen if seen.width == side else seen.resize((side, side), Image.Resampling.BICUBIC)
        return _to_tensor(picture), _to_tensor(small), scene.caption

    def _random_crop(self, image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        assert self.crop is not None
        top, left = torch.randint(0, self.size - self.crop + 1, (2,), generator=generator).tolist()
        return image[:, top : top + self.crop, left : left + self.crop]


class StepBatchSampler(Sampler[list[int]]):
    """Batches of consecutive item numbers: step s on rank r takes items (s * ranks + r) * batch_size and following.

    Args:
        batch_size: items per process and step.
        first_step: where a resumed run starts.
        total_steps: where the run ends.
        rank: this process.
        num_processes: all processes.
        first_item: added to every item number.
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
        self.batch_size, self.first_step, self.total_steps = batch_size, first_step, total_steps
        self.rank, self.num_processes, self.first_item = rank, num_processes, first_item

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
        worker_init_fn=_ignore_signals,
    )


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Stacks tensors and lists everything else."""
    columns = {key: [item[key] for item in items] for key in items[0]}
    return {key: torch.stack(v) if isinstance(v[0], torch.Tensor) else v for key, v in columns.items()}


def image_to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 0 to 255 -> float32 -1 to 1."""
    return images.float() / 127.5 - 1


def float_to_image(images: torch.Tensor) -> torch.Tensor:
    """float -1 to 1 -> uint8 0 to 255, clamped."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte()


def _to_tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def _ignore_signals(worker: int) -> None:
    """A signal to the whole process group must reach the trainer, which saves; its workers end with it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

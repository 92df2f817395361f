# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What a call starts from that is given an image: its pixels in every stage, the steps left out, what a mask keeps.

The image takes the place of the clean image in x = x_clean + sigma * noise (SDEdit, arXiv 2108.01073): a stage begins
at a lower noise level than its first, and what the noise there does not hide stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import logging

from ..checks import MAX_STAGES, is_finite, is_number
from ..images import as_pil_images
from ..paint.masks import as_mask, resize_mask, same_aspect
from .stages import Stage

logger = logging.get_logger(__name__)

# Noise levels of a grid are float32 in diffusers' schedulers.
TOLERANCE = 1e-6
# Pillow antialiases where it shrinks; the same filter enlarges the image of one stage for the next.
_PROCESSOR = VaeImageProcessor(vae_scale_factor=1, resample="bicubic")


@dataclass(frozen=True)
class StageStart:
    """Where a stage begins.

    Args:
        begin (`int`): Its first timestep, counted from the first of the scheduler.
        sigmas (`list` of `float`): The noise level of every timestep, then 0.
        from_noise (`bool`): Whether what is painted begins as pure noise, without the image.
    """

    begin: int
    sigmas: list[float]
    from_noise: bool

    @property
    def sigma(self) -> float:
        """The noise that the image gets; 0 where no step is left."""
        return self.sigmas[self.begin]


class ImageStart:
    """The images of one call, its masks, and where each of its stages begins.

    Args:
        image: What `as_pil_images` takes; one image for all prompts, or one for each.
        strength (`float` or `tuple`): Share of the steps that run, in [0, 1]; a number is for the base stage alone.
        sigma_start (`float` or `tuple`, *optional*): Noise level to begin at instead, `None` in stages that go by
            strength.
        mask_image (*optional*): Any mask of [`PaintRegion`] except a box, or a list of masks; 1 is repainted.
        unsaid (`float`, *optional*): The strength of a call that says none; beside another, `sigma_start` is refused.

    Raises:
        ValueError: An argument is wrong, `sigma_start` leaves no stage to a strength, or a mask has other
            proportions than its image.
    """

    def __init__(
        self, image: Any, strength: Any, sigma_start: Any = None, mask_image: Any = None, unsaid: float | None = None
    ):
        self._strengths = _strengths(strength)
        self._sigmas = _sigmas_to_start_at(sigma_start)
        if strength != unsaid:
            _check_strength_counts(strength, self._sigmas)
        self._images = as_pil_images(image)
        if not self._images or not all(min(picture.size) for picture in self._images):
            raise ValueError("image holds no pixels; pass one image for all prompts, or one for each.")
        self._masks = None if mask_image is None else _masks(mask_image)
        self._sizes = [(image.height, image.width) for image in self._images]
        self._check_masks()
        self._starts: dict[str, StageStart] = {}
        # Of the running stage: (1 or batch, 3, size, size) in [-1, 1], and (1 or batch, 1, size, size) in [0, 1].
        self._pixels = self._mask = torch.empty(0)

    def prepare(self, stages: list[Stage], batch_size: int) -> tuple[float, ...]:
        """Finds where the stages begin, whose timesteps are set, and returns the noise levels there.

        Raises:
            ValueError: Images or masks do not fit the prompts, or a noise level is outside of a stage's grid.
        """
        self._check_counts(batch_size)
        drawn = False
        for stage, strength, sigma in zip(stages, self._strengths, self._sigmas, strict=False):
            start = _stage_start(stage, strength, sigma)
            left_out = start.begin == len(stage.scheduler.timesteps)
            if left_out and drawn:
                raise ValueError(
                    f"strength 0 in {stage.label} would put the input in the place of what the stages before it drew; "
                    "pass more than 0 there, or a smaller height and width to end before it."
                )
            drawn = drawn or not left_out
            self._starts[stage.label] = start
        return tuple(start.sigma for start in self._starts.values())

    def _check_masks(self) -> None:
        """A mask has the proportions of its image; either may be one for all of the other."""
        sizes, masks = self._sizes, [tuple(mask.shape) for mask in self._masks or []]
        for i in range(max(len(sizes), len(masks)) if masks else 0):
            size, mask = sizes[i % len(sizes)], masks[i % len(masks)]
            if not same_aspect(size, mask):
                raise ValueError(
                    f"mask_image is {mask[1]} x {mask[0]} (width x height), which does not cover an image of "
                    f"{size[1]} x {size[0]}; draw it over that image, in any size of the same shape."
                )

    def _check_counts(self, batch_size: int) -> None:
        for name, values in (("image", self._images), ("mask_image", self._masks or self._images)):
            if len(values) not in (1, batch_size):
                raise ValueError(
                    f"{name} holds {len(values)} pictures for {batch_size} prompts; pass one for all, or one for each."
                )
        for size in {size for size in self._sizes if not same_aspect(size, (1, 1))}:
            logger.warning(
                f"the image is {size[1]} x {size[0]} (width x height) and is squeezed to a square; crop it first to "
                "keep its proportions."
            )

    def begin(self, stage: Stage) -> int:
        """The timestep that a stage begins with; their number where all are left out."""
        return self._starts[stage.label].begin

    def enter(self, stage: Stage, noise: torch.Tensor) -> torch.Tensor | None:
        """Brings image and mask to a stage and to the device of its noise (batch, 3, size, size).

        Returns:
            The images (batch, 3, size, size) if the stage has no step to do, else `None`.
        """
        self._pixels = _for_each(_PROCESSOR.preprocess(self._images, stage.size, stage.size), noise)
        if self._masks is not None:
            masks = torch.stack([resize_mask(mask, stage.size, stage.size)[None] for mask in self._masks])
            # White stays exactly 1 in another size, too.
            self._mask = _for_each(masks.masked_fill(masks > 1 - TOLERANCE, 1.0), noise)
        left_out = self.begin(stage) == len(stage.scheduler.timesteps)
        return self._pixels.expand_as(noise).clone() if left_out else None

    def first_sample(self, stage: Stage, noise: torch.Tensor, pure: torch.Tensor) -> torch.Tensor:
        """The sample that the stage begins with; `pure` is that of text-to-image."""
        start = self._starts[stage.label]
        noisy = stage.as_sample(self._pixels + start.sigma * noise, start.sigma)
        if not start.from_noise:
            return noisy
        return pure if self._masks is None else noisy.lerp(pure, self._mask)

    def keep_unmasked(self, stage: Stage, sample: torch.Tensor, noise: torch.Tensor, index: int) -> torch.Tensor:
        """The sample after the step of timestep `index`, with the image at the same noise level where nothing is
        painted; after the last step with the image itself."""
        sigma = self._starts[stage.label].sigmas[index + 1]
        # lerp is exact where the mask is 0 and where it is 1.
        return stage.as_sample(self._pixels + sigma * noise, sigma).lerp(sample, self._mask)


def _for_each(rows: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """A single row serves all images of the batch; rows for each prompt are repeated for its images."""
    # Contiguous as noise is, or the sample would take over the layout of a picture, and kernels would round otherwise.
    rows = rows.to(noise).contiguous()
    return rows if len(rows) == 1 else rows.repeat_interleave(len(noise) // len(rows), dim=0)


def _stage_values(value: Any, later: Any) -> list[Any]:
    """The values of three stages; super-resolution has the value `later` where it is not given."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not 1 <= len(values) <= MAX_STAGES:
        raise ValueError(f"{value!r} must be one number for the base stage, or one for each stage in a tuple.")
    return values + [later] * (MAX_STAGES - len(values))


def _strengths(strength: float | Sequence[float]) -> list[float]:
    values = _stage_values(strength, 1.0)
    if not all(is_number(share, Real) and 0 <= share <= 1 for share in values):
        raise ValueError(f"strength={strength!r} must lie in [0, 1]: 0 keeps the image, 1 draws without it.")
    return values


def _sigmas_to_start_at(sigma_start: float | Sequence[float | None] | None) -> list[float | None]:
    values = _stage_values(sigma_start, None)
    if not all(sigma is None or (is_finite(sigma) and sigma > 0) for sigma in values):
        raise ValueError(f"sigma_start={sigma_start!r} must be a noise level above 0, or None to go by strength.")
    return values


def _check_strength_counts(strength: Any, sigmas: list[float | None]) -> None:
    """Refuses a strength that counts in no stage, since noise levels to begin at are given for all that it is for."""
    stages = len(strength) if isinstance(strength, list | tuple) else 1
    if None not in sigmas[:stages]:
        raise ValueError(
            f"strength={strength!r} and sigma_start={sigmas[0]!r} both say where a stage begins; give one of them, "
            "and in a tuple of sigma_start None for a stage that goes by strength."
        )


def _masks(mask_image: Any) -> list[torch.Tensor]:
    """Masks (height, width) in [0, 1], from a mask for all images, a list, or a batch (n, 1, height, width)."""
    batched = isinstance(mask_image, list | tuple) or getattr(mask_image, "ndim", 2) == 4
    try:
        masks = [as_mask(mask) for mask in (mask_image if batched else [mask_image])]
    except ValueError as error:
        raise ValueError(f"mask_image {error}") from None
    if not masks:
        raise ValueError("mask_image is empty; pass one mask for all images, or one for each.")
    return masks


def _stage_start(stage: Stage, strength: float, sigma_start: float | None) -> StageStart:
    scheduler = stage.scheduler
    entries, order = len(scheduler.timesteps), scheduler.order
    sigmas = stage.sigmas
    if sigma_start is None:
        steps = scheduler.num_inference_steps
        # As in diffusers, but for a strength above 0 at least one step runs. 100 * 0.29 is 28.999999999999996.
        running = max(1, int(steps * strength + TOLERANCE)) if strength > 0 else 0
        begin = (steps - running) * order if running else entries
        return StageStart(begin, sigmas, from_noise=strength == 1)
    grid = range(0, entries, order)  # between these a Runge-Kutta step is under way
    begins = [i for i in grid if sigmas[i] <= sigma_start * (1 + TOLERANCE)]
    if not begins or sigma_start > sigmas[0] * (1 + TOLERANCE):
        raise ValueError(
            f"sigma_start={sigma_start!r} is not a noise level of {stage.label}, whose steps go from {sigmas[0]:.4g} "
            f"to {sigmas[grid[-1]]:.4g}; choose one in between, or strength=0 to run none."
        )
    return StageStart(begins[0], sigmas, from_noise=False)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What the pictures look like while they are drawn."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Self

import torch
from PIL import Image

from ..foreign_pipelines import replaced
from ..pipelines.pipeline_ediffi import EDiffIPipeline

LATENT_PREVIEWS = 5  # of a latent model, whose decoder takes as long as a step
SIDE = 256  # of a preview; larger ones are shown at the end of their stage alone


class StepPreview:
    """A `with` block around a pipeline's call that turns the sample after each step into pictures.

    Within it the schedulers are watched: those that say what the denoised picture looks like (`pred_original_sample`,
    [`EDMDEISScheduler`] among them) give much better previews than the noisy sample. A model with a safety checker has
    no previews, since the checker sees finished pictures alone.

    Args:
        pipe: The pipeline.
        plan (`list` of `tuple`): Height and number of steps of each stage that runs.
    """

    def __init__(self, pipe: Any, plan: Sequence[tuple[int, int]]):
        self.pipe = pipe
        self.plan = plan
        self.steps = plan[0][1]
        self._stage = 0
        self._step = 0
        self._denoised: torch.Tensor | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        is_ediffi = isinstance(self.pipe, EDiffIPipeline)
        schedulers = [stage.scheduler for stage in self.pipe.stages] if is_ediffi else [self.pipe.scheduler]
        for scheduler in schedulers:
            self._stack.enter_context(replaced(scheduler, "step", self._watched))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def _watched(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        self._denoised = result[1] if isinstance(result, tuple) and len(result) > 1 else None
        return result

    def after_step(self, sample: torch.Tensor) -> dict[str, Any]:
        """The fields of a [`Progress`] after a step whose sample is (images, channels, height, width)."""
        self._begin_stage(sample)
        self._step += 1
        size, steps = self.plan[self._stage]
        is_end = self._step >= steps
        best = sample if is_end or self._denoised is None or self._denoised.shape != sample.shape else self._denoised
        self.steps = max(steps, self._step)
        return {
            "images": self._pictures(best, is_end),
            "size": size,
            "step": self._step,
            "steps": self.steps,
            "share": self._share(),
            "is_stage_end": is_end,
        }

    def _begin_stage(self, sample: torch.Tensor) -> None:
        """Counts from 0 where the sample is that of a later stage."""
        sizes = [size for size, _ in self.plan]
        stage = sizes.index(sample.shape[-1]) if sample.shape[-1] in sizes else self._stage
        if stage != self._stage:
            self._stage, self._step = stage, 0

    def _share(self) -> float:
        """A step costs about as much as its picture is wide, with the demo model on a CPU."""
        done = sum(size * steps for size, steps in self.plan[: self._stage])
        size, steps = self.plan[self._stage]
        done += size * min(self._step, steps)
        return done / sum(size * steps for size, steps in self.plan)

    def _pictures(self, sample: torch.Tensor, is_end: bool) -> list[Image.Image]:
        if getattr(self.pipe, "safety_checker", None) is not None:
            return []
        if sample.shape[1] != 3:
            return self._decoded(sample)
        pixels = sample.detach().float()
        if not is_end and pixels.shape[-1] > SIDE:
            pixels = torch.nn.functional.interpolate(pixels, (SIDE, SIDE), mode="area")
        return _as_pil(pixels)

    def _decoded(self, latents: torch.Tensor) -> list[Image.Image]:
        """The pictures of latents, now and then; none in between."""
        every = max(1, self.plan[0][1] // LATENT_PREVIEWS)
        vae = getattr(self.pipe, "vae", None)
        if vae is None or self._step % every:
            return []
        with torch.no_grad():
            pixels = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
        return _as_pil(torch.nn.functional.interpolate(pixels.float(), (SIDE, SIDE), mode="area"))


def _as_pil(pixels: torch.Tensor) -> list[Image.Image]:
    """Pictures of (images, 3, height, width) in [-1, 1]."""
    values = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).cpu().numpy()
    return [Image.fromarray(value) for value in values]

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The safety checkers of Stable Diffusion and DeepFloyd IF, on the images of `EDiffIPipeline`."""

from typing import Any

import numpy as np
import torch

from ..images import clip_pixels


def check_safety_checker(pipe: Any) -> None:
    """Refuses a safety checker that does not say at which size it sees images."""
    if pipe.safety_checker is not None and not hasattr(pipe.safety_checker.config, "vision_config"):
        raise ValueError(
            f"safety_checker is a {type(pipe.safety_checker).__name__}, whose config has no vision_config; pass "
            "Stable Diffusion's or DeepFloyd IF's, or safety_checker=None."
        )


def run_safety_checker(pipe: Any, image: torch.Tensor) -> tuple[torch.Tensor, list[bool] | None]:
    """Lets a pipeline's safety checker see images (batch, 3, height, width) in [-1, 1], and blacken some.

    Returns:
        The images, those without objection untouched, and for each whether there was an objection; `None` without a
        checker. A checker may have several reasons (that of DeepFloyd IF blackens watermarks as well); any of them
        counts.
    """
    if pipe.safety_checker is None:
        return image, None
    arrays = pipe.image_processor.postprocess(image, output_type="np")
    clip_input = clip_pixels(pipe.numpy_to_pil(arrays), pipe.safety_checker.config.vision_config.image_size)
    clip_input = clip_input.to(pipe._execution_device, pipe.safety_checker.dtype)
    arrays, *reasons = pipe.safety_checker(images=arrays, clip_input=clip_input)
    detected = [any(of_image) for of_image in zip(*reasons, strict=True)]
    checked = torch.from_numpy(np.stack(arrays)).movedim(-1, 1).to(image) * 2 - 1
    return torch.where(torch.tensor(detected, device=image.device)[:, None, None, None], checked, image), detected

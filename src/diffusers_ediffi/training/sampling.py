# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Small sample grids during a run: the shortest loop around a diffusers scheduler, not the pipeline."""

from typing import Any

import torch
from diffusers import EDMEulerScheduler
from PIL import Image

from .dropout import drop_everything


@torch.no_grad()
def sample_images(
    unet: torch.nn.Module,
    conditioning: dict[str, Any],
    noise: torch.Tensor,
    low_res: torch.Tensor | None = None,
    num_inference_steps: int = 25,
    guidance_scale: float = 3.0,
) -> torch.Tensor:
    """Draws one image per condition with Euler steps and classifier-free guidance.

    Args:
        unet: called like `EDiffIUNet`.
        conditioning: its keyword arguments.
        noise: standard normal, `(batch, 3, height, width)`.
        low_res: for super-resolution the upsampled low-resolution images, of the noise's shape.
        num_inference_steps: steps from sigma 80 to 0.
        guidance_scale: 1 is no guidance.

    Returns:
        `(batch, 3, height, width)` in [-1, 1].
    """
    scheduler = EDMEulerScheduler()
    scheduler.set_timesteps(num_inference_steps, device=noise.device)
    unconditional = drop_everything(conditioning)
    sample = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        model_input = scheduler.scale_model_input(sample, timestep)
        if low_res is not None:
            model_input = torch.cat([model_input, low_res], dim=1)
        model_output = unet(model_input, timestep, return_dict=False, **conditioning)[0].float()
        if guidance_scale != 1:
            base = unet(model_input, timestep, return_dict=False, **unconditional)[0].float()
            model_output = base + guidance_scale * (model_output - base)
        sample = scheduler.step(model_output, timestep, sample, return_dict=False)[0]
    return sample.clamp(-1, 1)


def image_grid(rows: list[torch.Tensor]) -> Image.Image:
    """One picture out of rows of images, each row uint8 `(columns, 3, height, width)` of the same size."""
    grid = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    return Image.fromarray(grid.permute(1, 2, 0).cpu().numpy())

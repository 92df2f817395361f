# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Small sample grids during a run: the shortest loop around a diffusers scheduler, not the pipeline."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import EDMEulerScheduler
from PIL import Image

from ..edm import c_in, c_noise, denoised_from_model_output, expand_as, karras_sigmas
from ..provenance import Provenance, save_image
from .data import float_to_image
from .dropout import drop_everything
from .noise_augmentation import with_noise
from .settings import TrainingSettings

if TYPE_CHECKING:
    from ..experts.noise_interval import NoiseInterval
    from ..models.unet import EDiffIUNet


@torch.no_grad()
def sample_images(
    unet: torch.nn.Module,
    conditioning: dict[str, Any],
    noise: torch.Tensor,
    low_res: torch.Tensor | None = None,
    num_inference_steps: int = 25,
    guidance_scale: float = 3.0,
) -> torch.Tensor:
    """Draws an image for each condition with Euler steps and classifier-free guidance.

    Args:
        unet (`torch.nn.Module`): Called like [`EDiffIUNet`].
        conditioning (`dict`): Its keyword arguments.
        noise (`torch.Tensor`): Standard normal, `(batch, 3, height, width)`.
        low_res (`torch.Tensor`, *optional*): For super-resolution the upsampled low-resolution images, of the noise's
            shape.
        num_inference_steps (`int`, *optional*, defaults to 25): Steps from sigma 80 to 0.
        guidance_scale (`float`, *optional*, defaults to 3.0): 1 leaves guidance out.

    Returns:
        `torch.Tensor`: `(batch, 3, height, width)` in [-1, 1].
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


@torch.no_grad()
def sample_rows(
    unet: "EDiffIUNet",
    interval: "NoiseInterval",
    settings: TrainingSettings,
    images: torch.Tensor,
    low_res: torch.Tensor | None,
    conditioning: dict[str, Any],
) -> list[torch.Tensor]:
    """The rows of a sample grid: what the network draws, for super-resolution its input, and the real images.

    Args:
        unet ([`EDiffIUNet`]): The network, on the images' device.
        interval ([`NoiseInterval`]): What it is trained on. An expert that cannot sample alone shows noisy images of
            the median noise level of its interval and, in a second row, what it makes of them.
        settings ([`TrainingSettings`]): Their seed and the steps and guidance of samples.
        images (`torch.Tensor`): Real images, `(batch, 3, height, width)` in [-1, 1].
        low_res (`torch.Tensor`, *optional*): The upsampled low-resolution images.
        conditioning (`dict`): Keyword arguments of the network.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    if low_res is not None and unet.config.max_noise_level is not None:
        level = torch.full((len(images),), unet.config.max_noise_level / 2, device=images.device)
        noise_of_input = torch.randn(low_res.shape, generator=generator)
        low_res, conditioning = with_noise(low_res, level, noise_of_input, conditioning)
    if interval.contains_range(float(karras_sigmas(2)[-1]), float(karras_sigmas(2)[0])):
        steps, guidance = settings.sample_steps, settings.sample_guidance
        drawn = [sample_images(unet, conditioning, noise, low_res, steps, guidance)]
    else:
        draws = interval.sample((1001,), generator=torch.Generator().manual_seed(settings.seed))
        sigma = draws.median().to(images.device).expand(len(images))
        drawn = _denoised(unet, images + expand_as(sigma, images) * noise, sigma, low_res, conditioning)
    return [*drawn, *([] if low_res is None else [low_res]), images]


def _denoised(
    unet: "EDiffIUNet",
    noisy: torch.Tensor,
    sigma: torch.Tensor,
    low_res: torch.Tensor | None,
    conditioning: dict[str, Any],
) -> list[torch.Tensor]:
    """Noisy images of the levels `(batch,)`, scaled as the network sees them, and denoised in one step."""
    scaled = c_in(expand_as(sigma, noisy), unet.config.sigma_data) * noisy
    model_input = scaled if low_res is None else torch.cat([scaled, low_res], dim=1)
    model_output = unet(model_input, c_noise(sigma), return_dict=False, **conditioning)[0].float()
    return [scaled, denoised_from_model_output(model_output, noisy, sigma, unet.config.sigma_data)]


def write_grid(rows: list[torch.Tensor], captions: list[str], folder: Path, step: int) -> None:
    """Writes rows of images in [-1, 1] as `step-<step>.png`, and their captions beside it."""
    folder.mkdir(exist_ok=True)
    grid = image_grid([float_to_image(row) for row in rows])
    save_image(grid, folder / f"step-{step:07d}.png", Provenance({"step": step}))
    (folder / "captions.txt").write_text("\n".join(captions) + "\n")


def image_grid(rows: list[torch.Tensor]) -> Image.Image:
    """A picture out of rows of images, each row uint8 `(columns, 3, height, width)` of the same size."""
    grid = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    return Image.fromarray(grid.permute(1, 2, 0).cpu().numpy())

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Random blind degradation of the low-resolution input of super-resolution training (paper, appendix A).

After BSRGAN (Zhang et al. 2021) and Real-ESRGAN (Wang et al. 2021): blur, resize, noise and JPEG in random order with
random parameters, so that the network learns to refine the imperfect output of the stage before it, not only clean
images.
Imports nothing of this package.
"""

import io
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

KERNELS = ("bilinear", "bicubic", "area")
PROBABILITY = 0.5  # of each of the four degradations


def degrade(images: torch.Tensor, generator: torch.Generator, strength: float = 1.0) -> torch.Tensor:
    """Degrades each image of a batch in its own way.

    Args:
        images (`torch.Tensor`): Low-resolution images, `(batch, 3, height, width)` in [-1, 1], on the CPU.
        generator (`torch.Generator`): A CPU generator, which decides everything.
        strength (`float`, *optional*, defaults to 1.0): 0 changes nothing, 1 is the usual range of restoration
            training; a cascade with a good first stage needs little, such as 0.3.

    Returns:
        `torch.Tensor`: Images of the same shape in [-1, 1], float32.

    Raises:
        ValueError: `strength` is outside [0, 1], or the images are not a batch of RGB images.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"The strength of the degradation lies in [0, 1], got {strength}.")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"Expected images of shape (batch, 3, height, width), got {tuple(images.shape)}.")
    return torch.cat([_degrade_image(image, generator, strength) for image in images.float().split(1)])


def distort(images: torch.Tensor, generator: torch.Generator, strength: float = 1.0) -> torch.Tensor:
    """Gives each image of a batch some of the errors that a base model makes, for the next stage to repair.

    Outlines are bent by a smooth field of displacements; patches lose their detail; the picture goes to blocks of two
    pixels. Each happens to about half, a quarter and a quarter of the images.

    Args:
        images (`torch.Tensor`): Low-resolution images, `(batch, 3, height, width)` in [-1, 1], on the CPU.
        generator (`torch.Generator`): A CPU generator, which decides everything.
        strength (`float`, *optional*, defaults to 1.0): 0 changes nothing; 1 bends by about 1 pixel in 64 at most.

    Returns:
        `torch.Tensor`: Images of the same shape in [-1, 1], float32.

    Raises:
        ValueError: `strength` is outside [0, 1].
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"The strength of the distortion lies in [0, 1], got {strength}.")
    return torch.cat([_distort_image(image, generator, strength) for image in images.float().split(1)])


def warp(image: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """Moves the pixels of `(1, 3, height, width)` by a field `(1, 2, rows, columns)` of x and y in pixels, which is
    enlarged smoothly to the image."""
    height, width = image.shape[-2:]
    field = F.interpolate(displacement, (height, width), mode="bicubic", align_corners=True)
    rows, columns = ((torch.arange(n, dtype=image.dtype) + 0.5) * 2 / n - 1 for n in (height, width))
    grid = torch.stack(torch.broadcast_tensors(columns[None], rows[:, None]), dim=-1)
    moved = grid + field[0].movedim(0, -1) * torch.tensor([2 / width, 2 / height])
    return F.grid_sample(image, moved[None], mode="bilinear", padding_mode="reflection", align_corners=False)


def blur_patch(image: torch.Tensor, top: int, left: int, side: int) -> torch.Tensor:
    """Takes the detail from a square of `(1, 3, height, width)`; what sticks out of the image does not count."""
    blurred, result = blur(image, side / 3, side / 3), image.clone()
    here = (..., slice(top, top + side), slice(left, left + side))
    result[here] = blurred[here]
    return result


def downsample(images: torch.Tensor, factor: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Reduces images by a whole factor, antialiased; by area or bicubic at random, if a generator is given.

    Args:
        images (`torch.Tensor`): `(batch, 3, height, width)` in [-1, 1].
        factor (`int`): Height and width are multiples of it.
        generator (`torch.Generator`, *optional*): A CPU generator; without it the images are reduced bicubic.

    Raises:
        ValueError: Height or width is not a multiple of the factor.
    """
    height, width = images.shape[-2:]
    if height % factor or width % factor:
        raise ValueError(f"{height} x {width} is not a multiple of the factor {factor}.")
    size = (height // factor, width // factor)
    if generator is not None and _uniform(generator, 0, 1) < 0.5:
        return F.interpolate(images, size, mode="area")
    return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(-1, 1)


def blur(image: torch.Tensor, sigma_y: float, sigma_x: float) -> torch.Tensor:
    """Gaussian blur of `(1, 3, height, width)` with standard deviations in pixels, edges reflected."""
    radius = max(1, math.ceil(3 * max(sigma_y, sigma_x)))
    radius = min(radius, image.shape[-1] - 1, image.shape[-2] - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=image.dtype)
    kernels = [torch.softmax(-0.5 * (offsets / max(sigma, 1e-3)) ** 2, dim=0) for sigma in (sigma_y, sigma_x)]
    kernel = torch.outer(*kernels).expand(3, 1, -1, -1)
    return F.conv2d(F.pad(image, [radius] * 4, mode="reflect"), kernel, groups=3)


def resize_and_back(image: torch.Tensor, scale: float, kernel: str, kernel_back: str) -> torch.Tensor:
    """Resizes `(1, 3, height, width)` by `scale` and back to its size."""
    height, width = image.shape[-2:]
    small = _resize(image, (max(1, round(height * scale)), max(1, round(width * scale))), kernel)
    return _resize(small, (height, width), kernel_back)


def jpeg(image: torch.Tensor, quality: int) -> torch.Tensor:
    """Compresses `(1, 3, height, width)` in [-1, 1] as JPEG of `quality` 1 to 95 and decodes it."""
    pixels = ((image[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    decoded = np.array(Image.open(buffer))
    return torch.from_numpy(decoded).permute(2, 0, 1)[None].float() / 127.5 - 1


def _degrade_image(image: torch.Tensor, generator: torch.Generator, strength: float) -> torch.Tensor:
    """Blurs, resizes, adds noise to and compresses `(1, 3, height, width)`, each or not, in random order."""
    for kind in torch.randperm(4, generator=generator).tolist():
        applied = _uniform(generator, 0, 1) < PROBABILITY * min(1.0, 4 * strength)
        # All parameters are drawn even when unused: one image's luck then never shifts another's.
        a, b, c = (_uniform(generator, 0, 1) for _ in range(3))
        noise = torch.randn(image.shape, generator=generator)
        if not applied:
            continue
        if kind == 0:
            image = blur(image, 0.1 + 1.4 * strength * a, 0.1 + 1.4 * strength * b)
        elif kind == 1:
            image = resize_and_back(image, 1 + strength * (a - 0.5), KERNELS[int(3 * b)], KERNELS[int(3 * c)])
        elif kind == 2:
            gray = noise.mean(dim=1, keepdim=True) * math.sqrt(3)
            image = image + 0.1 * strength * a * (gray if b < 0.3 else noise)
        else:
            image = jpeg(image, round(95 - 60 * strength * a))
        image = image.clamp(-1, 1)
    return image


def _distort_image(image: torch.Tensor, generator: torch.Generator, strength: float) -> torch.Tensor:
    height, width = image.shape[-2:]
    """Takes `(1, 3, height, width)` to blocks, bends it and blurs patches of it, each or not."""
    # All parameters are drawn even when unused, as in `_degrade_image`.
    bends, loses, blocks, amount = (_uniform(generator, 0, 1) for _ in range(4))
    nodes = 3 + int(6 * _uniform(generator, 0, 1))
    field = torch.randn((1, 2, nodes, nodes), generator=generator)
    places = torch.rand((4, 3), generator=generator).tolist()
    if blocks < 0.25 * strength and not (height % 2 or width % 2):
        image = F.interpolate(F.avg_pool2d(image, 2), scale_factor=2.0, mode="nearest")
    if bends < 0.5 * min(1.0, 4 * strength):
        image = warp(image, field * (strength * amount * height / 64))
    if loses < 0.25 * min(1.0, 4 * strength):
        for y, x, size in places[: 1 + int(4 * amount)]:
            image = blur_patch(image, int(y * height), int(x * width), 1 + round(strength * size * height / 8))
    return image.clamp(-1, 1)


def _resize(image: torch.Tensor, size: tuple[int, int], kernel: str) -> torch.Tensor:
    if kernel == "area":
        return F.interpolate(image, size, mode="area")
    return F.interpolate(image, size, mode=kernel, antialias=True)


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The one place that reads pictures, from files and from memory. Imports nothing of this package.

What takes long to import is imported where it is used, so that a file's provenance is read without PyTorch.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:
    import torch


def open_image(path: str | os.PathLike) -> Image.Image:
    """Reads a picture of a sane size, with what its file says about it in `info`.

    Args:
        path (`str` or `os.PathLike`): The file.

    Raises:
        ValueError: The file is not a picture, is damaged, too large or not readable.
    """
    with reading_image(str(path)), Image.open(path) as image:
        image.load()
        return image.copy()


def read_image(path: str | os.PathLike) -> Image.Image:
    """Reads a file or an http(s) address as an RGB picture of a sane size, turned as its camera was held.

    Args:
        path (`str` or `os.PathLike`): The file, where ~ is the home folder, or the address.

    Raises:
        ValueError: Nothing is there, it is not a picture, or it has more pixels than Pillow trusts.
    """
    from diffusers.utils import load_image

    name = os.fspath(path)
    if not name.startswith(("http://", "https://")):
        return load_image(open_image(os.path.expanduser(name)))
    with reading_image(name):
        return load_image(name)


@contextmanager
def reading_image(name: str) -> Iterator[None]:
    """Turns all that a bad picture of this name raises, or a picture with more pixels than Pillow trusts, into a
    `ValueError`."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            yield
        except UnidentifiedImageError:
            raise ValueError(f"{name!r} is not an image") from None
        except (
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
            Image.DecompressionBombWarning,
        ) as error:
            raise ValueError(f"cannot read {name!r}: {error}") from None


def as_pil_images(images: Any) -> list[Image.Image]:
    """Turns pictures in any form into a list of RGB images.

    Args:
        images: A PIL image, an array (height, width, 3), a tensor (3, height, width), a batch of these or a list of
            them. Floats lie in [0, 1], integers in [0, 255].

    Raises:
        ValueError: Something else was given.
    """
    from diffusers.utils import numpy_to_pil

    if isinstance(images, list | tuple):
        return [pil for image in images for pil in as_pil_images(image)]
    if isinstance(images, Image.Image):
        return [images.convert("RGB")]
    return numpy_to_pil(_in_unit_range(_as_array(images)))


def _as_array(images: Any) -> np.ndarray:
    """An array or tensor as an array (height, width, 3) or (batch, height, width, 3)."""
    import torch

    array = images
    if isinstance(array, torch.Tensor) and array.ndim in (3, 4):
        array = array.detach().cpu().movedim(-3, -1)
        array = (array.float() if array.is_floating_point() else array).numpy()
    if not isinstance(array, np.ndarray) or array.ndim not in (3, 4) or array.shape[-1] != 3:
        got = f"shape {tuple(images.shape)}" if hasattr(images, "shape") else repr(images)
        raise ValueError(
            f"an image must be a PIL image, an array (height, width, 3) or a tensor (3, height, width), got {got}; "
            "read files and addresses with diffusers.utils.load_image."
        )
    return array


def _in_unit_range(array: np.ndarray) -> np.ndarray:
    """Floats as they are, integers divided by 255."""
    is_float = np.issubdtype(array.dtype, np.floating)
    if not array.size or not np.isfinite(array).all() or array.min() < 0 or array.max() > (1 if is_float else 255):
        raise ValueError("the pixels of an image must lie in [0, 1] as floats or in [0, 255] as integers.")
    return array if is_float else array.astype(np.float32) / 255


def clip_pixels(images: list[Image.Image], size: int) -> torch.Tensor:
    """Square RGB images as OpenAI's CLIP takes them.

    The pipeline's feature extractor is made for the pipeline's image encoder; another CLIP may need another size.

    Args:
        images (`list` of `PIL.Image.Image`): RGB images.
        size (`int`): Height and width that this CLIP takes.

    Returns:
        float32 (batch, 3, size, size).
    """
    from transformers import CLIPImageProcessorPil

    squares = {"height": size, "width": size}
    return CLIPImageProcessorPil(size=squares, crop_size=squares)(images, return_tensors="pt").pixel_values

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The one place that reads pictures, from files, addresses and memory. Imports nothing of this package.

What takes long to import is imported where it is used, so that a file's provenance is read without PyTorch.
"""

from __future__ import annotations

import functools
import io
import os
import queue
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:
    import torch


# What is read: formats whose decoders run in Pillow itself. Of its others, PostScript would start a program, and none
# is one that people keep pictures in.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
# Of a picture behind an address; who sends more, or sends it more slowly, is not waited for.
MAX_DOWNLOAD_BYTES = 2**25
MAX_DOWNLOAD_SECONDS = 15.0
_WARNINGS = threading.RLock()


def open_image(file: str | os.PathLike | io.BytesIO, name: str | None = None) -> Image.Image:
    """Reads a picture of a sane size, turned as its camera was held, with what its file says about it in `info`.

    Args:
        file (`str`, `os.PathLike` or `io.BytesIO`): The file, or what it holds.
        name (`str`, *optional*): What errors call it, by default its path.

    Raises:
        ValueError: The file is not a picture of `FORMATS`, is damaged, too large or not readable.
    """
    with _opened(file, name or repr(str(file))) as image:
        return ImageOps.exif_transpose(image)


def image_size(file: str | os.PathLike | io.BytesIO, name: str | None = None) -> tuple[int, int]:
    """Width and height of a picture, as the head of its file says; its pixels are not read.

    Args:
        file (`str`, `os.PathLike` or `io.BytesIO`): The file, or what it holds.
        name (`str`, *optional*): What errors call it, by default its path.

    Raises:
        ValueError: As of [`open_image`].
    """
    with _opened(file, name or repr(str(file))) as image:
        return image.size


def file_in_folder(folder: str | os.PathLike, name: str) -> Path:
    """The path of a file that another file names, which must lie in the folder of that file.

    Args:
        folder (`str` or `os.PathLike`): The folder of the file that names it.
        name (`str`): The name, which may lead into folders of the folder but neither by `..` nor by links out of it.

    Raises:
        ValueError: The path leads elsewhere.
    """
    path = Path(folder) / name
    try:
        inside = path.resolve().is_relative_to(Path(folder).resolve())
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a name with a zero byte
        raise ValueError(f"{name!r} is not the name of a file: {error}") from None
    if not inside:
        raise ValueError(f"{name!r} leads out of the folder {str(folder)!r}; copy the file into it.")
    return path


def read_image(path: str | os.PathLike) -> Image.Image:
    """Reads a file or an http(s) address as an RGB picture of a sane size, as [`as_rgb`] makes it.

    Args:
        path (`str` or `os.PathLike`): The file, where ~ is the home folder, or the address.

    Raises:
        ValueError: Nothing is there, it is not a picture, or it has more pixels than Pillow trusts; an address sends
            more than `MAX_DOWNLOAD_BYTES` or takes longer than `MAX_DOWNLOAD_SECONDS`.
    """
    name = os.fspath(path)
    if not name.startswith(("http://", "https://")):
        name = os.path.expanduser(name)
        return as_rgb(open_image(name), repr(name))
    with _naming(repr(name)):
        file = _download(name)
    with _opened(file, repr(name)) as image:
        image = ImageOps.exif_transpose(image)
    return as_rgb(image, repr(name))


def as_rgb(image: Image.Image, name: str = "the picture", ground: str = "white") -> Image.Image:
    """A picture of any mode in RGB, 8 bits deep: behind what is transparent is a ground, 16 bits are rounded.

    A picture that is as its file has it, so that its `format` is known, is turned as its camera was held.

    Args:
        image (`PIL.Image.Image`): The picture.
        name (`str`): What errors call it.
        ground (`str`, *optional*, defaults to `"white"`): The colour behind it, as Pillow names colours.

    Raises:
        ValueError: Its file is damaged, or its values have no meaning as a picture: floats outside of [0, 1], 32-bit
            integers outside of [0, 255].
    """
    with _naming(name):
        image = upright(image)
        if image.mode.startswith(("I", "F")):
            return _bytes_of_deep(image, ground)
        if not image.has_transparency_data:
            return image.convert("RGB")
        seen, rgba = Image.new("RGB", image.size, ground), as_rgba(image)
        seen.paste(rgba, mask=rgba)
        return seen


def as_rgba(image: Image.Image) -> Image.Image:
    """A picture of any mode in RGBA, 8 bits deep, as it is stored."""
    if image.mode.startswith(("I", "F")):
        return _bytes_of_deep(image).convert("RGBA")
    if image.mode == "RGBA":
        return image
    # Of gray with premultiplied alpha Pillow knows the way to gray with alpha alone.
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def upright(image: Image.Image) -> Image.Image:
    """A picture turned as its camera was held, if it is as its file has it; others are as their makers want them."""
    return ImageOps.exif_transpose(image) if image.format else image


def _bytes_of_deep(image: Image.Image, ground: str = "white") -> Image.Image:
    """A picture of one channel of 16 bits, 32 bits or floats in RGB."""
    values = np.asarray(image)
    deepest = 65535 if image.mode.startswith("I;16") else 1 if image.mode == "F" else 255
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > deepest:
        raise ValueError(f"pixels of the mode {image.mode} must lie in 0 to {deepest}; save it with 8 or 16 bits")
    seen = Image.fromarray(np.rint(values * np.float32(255 / deepest)).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info:
        seen.paste(ground, mask=Image.fromarray(np.uint8(255) * (values == image.info["transparency"])))
    return seen


@functools.cache
def _formats() -> list[str]:
    """`FORMATS` without those that this Pillow cannot read."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


@contextmanager
def _opened(file: str | os.PathLike | io.BytesIO, name: str) -> Iterator[Image.Image]:
    """A picture's file, of which nothing but the head is read so far."""
    # Filters of warnings are those of the whole process.
    with _naming(name), _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what breaks a rule of its format, and can be read all the same
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        if not isinstance(file, io.BytesIO) and os.path.exists(file) and not os.path.isfile(file):
            raise OSError("it is not a regular file")
        with Image.open(file, formats=_formats()) as image:
            yield image


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Turns all that a bad picture raises into a `ValueError` with its name."""
    try:
        yield
    except UnidentifiedImageError:
        raise ValueError(f"{name} is not an image; give a {', '.join(FORMATS[:-1])} or {FORMATS[-1]}") from None
    except Exception as error:  # there is no end to what decoders raise of damaged files
        raise ValueError(f"cannot read {name}: {str(error) or type(error).__name__}") from None


def _download(address: str) -> io.BytesIO:
    """What an address sends.

    Raises:
        OSError: It cannot be reached, or is too slow.
        ValueError: It sends too much.
    """
    received: queue.Queue[io.BytesIO | Exception] = queue.Queue()

    def receive() -> None:
        try:
            received.put(_receive(address))
        except Exception as error:
            received.put(error)

    # In a thread, since timeouts of connections begin anew with each byte; one that is stuck does not keep Python up.
    threading.Thread(target=receive, daemon=True).start()
    try:
        result = received.get(timeout=MAX_DOWNLOAD_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"it has not come within {MAX_DOWNLOAD_SECONDS:g} seconds; download it first") from None
    if isinstance(result, Exception):
        raise result
    return result


def _receive(address: str) -> io.BytesIO:
    import requests

    data, end = io.BytesIO(), time.monotonic() + MAX_DOWNLOAD_SECONDS
    with requests.get(address, stream=True, timeout=MAX_DOWNLOAD_SECONDS) as response:
        response.raise_for_status()
        for chunk in response.iter_content(1024):
            data.write(chunk)
            if data.tell() > MAX_DOWNLOAD_BYTES:
                raise ValueError(f"it sends more than {MAX_DOWNLOAD_BYTES} bytes")
            if time.monotonic() > end:
                break
    return data


def as_pil_images(images: Any) -> list[Image.Image]:
    """Turns pictures in any form into a list of RGB images.

    Args:
        images: A PIL image, an array (height, width, 3), a tensor (3, height, width), a batch of these or a list of
            them. Floats lie in [0, 1], integers in [0, 255]; PIL images may be of any mode, see [`as_rgb`].

    Raises:
        ValueError: Something else was given, or the file of a picture is damaged.
    """
    from diffusers.utils import numpy_to_pil

    if isinstance(images, list | tuple):
        return [pil for image in images for pil in as_pil_images(image)]
    if isinstance(images, Image.Image):
        return [as_rgb(images)]
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
            "read files and addresses with diffusers_ediffi.images.read_image."
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

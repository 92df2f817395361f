# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Hostile pictures, what they say of their provenance, masks and canvases."""

import io
from pathlib import Path

import numpy as np
import torch
from helpers import picture
from helpers_fuzz import Case, damaged, damaged_bytes
from hypothesis import strategies as st
from PIL import Image

from diffusers_ediffi import PaintRegion, Provenance, read_provenance, regions_from_color_map, save_image
from diffusers_ediffi.images import FORMATS, as_rgb, open_image, read_image
from diffusers_ediffi.pipelines.image_start import ImageStart

MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "I;16", "I", "F", "CMYK")
# The first bytes of formats that are not read, and of some that are.
BEGINNINGS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n",
    b"P6 9 9 255\n",
    b"RIFF\0\0\0\0WEBPVP8 ",
    b"\xff\xd8\xff",
    b"II*\0",
    b"MM\0*",
)
REGION = {"phrase": "cat", "mask": [0.1, 0.2, 0.8, 0.9], "weight": 1.5, "occurrence": 0, "seed": 3}


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def in_mode(mode):
    """A picture in a mode; Pillow makes deep ones of gray alone."""
    deep = mode.startswith(("I", "F"))
    return (picture().convert("L") if deep else picture()).convert(mode)


def pictures():
    """A file of each format in each mode that it can hold, turned; some hold several pictures."""
    turned = Image.Exif()
    turned[0x0112] = 6
    found = [encoded(picture(), kind, save_all=True, append_images=[picture(1)]) for kind in ("GIF", "TIFF", "WEBP")]
    for kind in FORMATS:
        for mode in MODES:
            try:
                found.append(encoded(in_mode(mode), kind, exif=turned))
            except (OSError, ValueError, DeprecationWarning):  # this format has not this mode, or not for long
                continue
    return found


def heads():
    """Beginnings of files that say they have 60000 x 60000 pixels."""
    side = 60000
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + side.to_bytes(4) * 2 + b"\x08\x02\0\0\0"
    gif = b"GIF89a" + side.to_bytes(2, "little") * 2 + b"\xf7\0\0" + b"\0" * 768 + b"," + b"\0" * 4
    gif += side.to_bytes(2, "little") * 2 + b"\0\x08"
    bmp = b"BM" + b"\xff" * 4 + b"\0" * 4 + b"\x36\0\0\0\x28\0\0\0" + side.to_bytes(4, "little") * 2 + b"\x01\0\x18\0"
    return [head + b"\0" * 99 for head in (png, gif, bmp)]


FILES = [*pictures(), *heads()]


def contents():
    """What a file that is called a picture may hold."""
    begun = st.builds(bytes.__add__, st.sampled_from(BEGINNINGS), st.binary(max_size=200))
    return damaged_bytes(FILES) | begun | st.sampled_from(FILES)


def saved(content, folder):
    path = Path(folder, "stranger.png")
    path.write_bytes(content)
    return path


def read(content, folder):
    path = saved(content, folder)
    image, rgb = open_image(path), read_image(path)
    assert rgb.mode == "RGB" and rgb.size == image.size == as_rgb(image).size


def test_pictures(fuzz):
    cases = contents().map(lambda content: Case(content, ("stranger.png", "the picture")))
    fuzz("pictures", cases, read, share=0.1)


def use(content, folder):
    """A picture as a mask, a canvas, and an image to change."""
    path = saved(content, folder)
    coverage = PaintRegion("cat", open_image(path)).coverage(5, 7)
    assert coverage.shape == (5, 7) and 0 <= coverage.min() <= coverage.max() <= 1
    assert regions_from_color_map(open_image(path), {"red": "a cat", "#112233": "a dog"}, tolerance=500)
    ImageStart(open_image(path), 0.5, mask_image=open_image(path))


def test_pictures_as_masks_and_canvases(fuzz):
    cases = contents().map(lambda content: Case(content, ("stranger.png", "'cat'", "canvas", "image")))
    fuzz("pictures as masks and canvases", cases, use, share=0.05)


def packet(folder):
    """What we write into pictures."""
    path = Path(folder, "ours.webp")
    save_image(picture(), path, Provenance({"prompt": "a cat", "seed": 3}))
    return open_image(path).info["xmp"]


def read_packet(content, folder):
    path = Path(folder, "stranger.webp")
    picture().save(path, xmp=content)
    assert isinstance(read_provenance(path).settings, dict)


def test_provenance(fuzz, tmp_path):
    bombs = [b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><x>&b;</x>', b"<a>" * 5000]
    contents = damaged_bytes([packet(tmp_path), *bombs])
    cases = contents.map(lambda content: Case(content, ("stranger.webp",)))
    fuzz("provenance of pictures", cases, read_packet, share=0.03)


@st.composite
def arrays(draw):
    """Masks as lists, arrays and tensors of any type, shape and values."""
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    value = draw(st.sampled_from([0, 1, 255, 256, -1, 0.5, float("nan"), float("inf"), 1e300]))
    kinds = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int64, torch.bool]
    tensor = torch.full(shape, value, dtype=torch.float64).to(draw(st.sampled_from([*kinds, torch.complex64])))
    plain = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    kind = draw(st.sampled_from([None, "U3", "O"] if tensor.is_complex() else [None, ">f4", "U3", "O"]))
    with np.errstate(over="ignore"):
        array = plain.numpy().astype(kind or plain.numpy().dtype)
    mask = draw(st.sampled_from([tensor, array, array.tolist()]))
    return Case({**REGION, "mask": mask}, ("mask",))


def cover(entries, folder):
    coverage = PaintRegion(**{name: entries.get(name) for name in REGION}).coverage(5, 7)
    assert coverage.shape == (5, 7) and 0 <= coverage.min() <= coverage.max() <= 1


def test_masks(fuzz):
    fuzz("masks", damaged(REGION) | arrays(), cover, share=0.08)


CANVAS = np.array([[[255, 0, 0], [255, 255, 255]], [[0, 0, 255], [0, 0, 255]]], np.uint8)


def find(arguments, folder):
    for region in regions_from_color_map(CANVAS, arguments.get("legend"), arguments.get("tolerance", 48.0)):
        assert region.mask.shape == CANVAS.shape[:2] and region.mask.any()


def test_legends_of_canvases(fuzz):
    legend = {"red": "cat", "#0000ff": {"phrase": "dog", "weight": 2.0, "seed": 3}}
    cases = damaged({"legend": legend, "tolerance": 48.0}, further=("blue", "#zzz", "rgb(999,0,0)", "hsl(1e9,2%,3%)"))
    cases = cases.map(lambda case: Case(case.value, (*case.words, "phrase")))
    fuzz("legends of canvases", cases, find, share=0.03)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Pictures in all their forms, and what is refused."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import picture

from diffusers_ediffi.images import as_pil_images, clip_pixels, open_image, read_image


def test_images_come_in_many_forms():
    pil = picture()
    array = np.asarray(pil)
    floats = array.astype(np.float32) / 255
    tensor = torch.from_numpy(floats).movedim(-1, 0)
    for form in (pil, array, floats, tensor, [pil], tensor[None], [array]):
        (image,) = as_pil_images(form)
        np.testing.assert_array_equal(np.asarray(image), array)
    assert len(as_pil_images([pil, tensor[None].repeat(2, 1, 1, 1)])) == 3


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (3, "got 3"),
        (np.zeros((4, 4)), r"got shape \(4, 4\)"),
        (torch.zeros(4, 4, 3), r"got shape \(4, 4, 3\)"),
        (np.full((4, 4, 3), 1.5), "must lie in"),
        (np.full((4, 4, 3), np.nan), "must lie in"),
        (np.full((4, 4, 3), 256), "must lie in"),
        (np.zeros((0, 4, 3)), "must lie in"),
    ],
)
def test_what_is_not_an_image_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        as_pil_images(images)


def test_files_keep_their_pixels_and_say_what_is_wrong_with_them(tmp_path):
    picture().save(tmp_path / "picture.png")
    for read in (open_image, read_image):
        np.testing.assert_array_equal(np.asarray(read(tmp_path / "picture.png")), np.asarray(picture()))
        with pytest.raises(ValueError, match="cannot read '.*nothing.png'"):
            read(tmp_path / "nothing.png")
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(ValueError, match="'.*text.png' is not an image"):
        open_image(tmp_path / "text.png")


def test_clip_takes_squares():
    pixels = clip_pixels([picture(), picture().resize((9, 20))], 32)
    assert pixels.shape == (2, 3, 32, 32) and pixels.dtype == torch.float32


def test_reading_a_file_needs_no_pytorch():
    code = """
import sys
import diffusers_ediffi.images, diffusers_ediffi.provenance
assert not {"torch", "diffusers", "transformers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)

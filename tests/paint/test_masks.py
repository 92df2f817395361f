# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Masks of every kind, as regions take them."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from diffusers_ediffi import PaintRegion


def picture(mode, value):
    image = Image.new(mode, (6, 4))
    ImageDraw.Draw(image).rectangle((0, 0, 2, 3), fill=value)
    return image


@pytest.mark.parametrize(
    "mask",
    [
        picture("1", 1),
        picture("L", 255),
        picture("RGB", "white"),
        picture("RGBA", "white"),
        picture("L", 255).convert("P"),
        picture("I", 255),
        picture("F", 1.0),
        picture("I;16", 65535),
        np.tile([True, True, True, False, False, False], (4, 1)),
        np.tile(np.uint8([255, 255, 255, 0, 0, 0]), (4, 1)),
        np.tile(np.array([1, 1, 1, 0, 0, 0], dtype=">i4"), (1, 4, 1)),
        np.tile([1.0, 1, 1, 0, 0, 0], (4, 1))[..., None],
        [[1, 1, 1, 0, 0, 0]] * 4,
        torch.tensor([[1, 1, 1, 0, 0, 0]] * 4, dtype=torch.float16)[None, None],
    ],
)
def test_masks_of_many_kinds_are_the_same(mask):
    expected = torch.tensor([[1.0, 1, 1, 0, 0, 0]] * 4)
    assert torch.equal(PaintRegion("a", mask).mask, expected)


def test_soft_masks_and_boxes():
    assert PaintRegion("a", np.uint8([[0, 51, 255]])).mask.tolist() == [[0, pytest.approx(0.2), 1]]
    transparent = Image.new("RGBA", (2, 1), (255, 255, 255, 51))
    assert PaintRegion("a", transparent).mask.flatten().tolist() == pytest.approx([0.2, 0.2])
    # a box covers parts of cells exactly
    coverage = PaintRegion("a", (0.25, 0.0, 0.625, 0.5)).coverage(2, 4)
    assert torch.equal(coverage, torch.tensor([[0, 1, 0.5, 0], [0, 0, 0, 0]]))
    assert PaintRegion("a", (0.5, 0.5, 0.501, 0.501)).coverage(1, 1).item() == pytest.approx(1e-6, rel=1e-3)
    torch.testing.assert_close(PaintRegion("a", torch.ones(300, 200)).coverage(7, 5), torch.ones(7, 5))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((4, 4)), "is zero everywhere"),
        (np.zeros((0, 4)), r"has the shape \(0, 4\)"),
        (np.full((4, 4), np.nan), "holds NaN"),
        (np.full((4, 4), -0.1), r"from -0.1 to -0.1; they must lie in \[0, 1\]"),
        (np.full((4, 4), 255.0), r"must lie in \[0, 1\] as torch.float"),
        (np.full((4, 4), 300), r"must lie in \[0, 255\]"),
        (np.ones((3, 4, 4)), r"shape \(3, 4, 4\)"),
        (np.array([["a"]]), "dtype"),
        (torch.ones(4, 4, dtype=torch.complex64), "dtype torch.complex64"),
        (np.full((4, 4), 1j), "dtype complex128"),
        ([[1, 0], [1]], "ragged"),
        ("mask.png", "is of type str"),
        (None, "is of type NoneType"),
        ([0, 0, 0.5], "has 3 numbers; a box has four"),
        ((0, 0, 10**400, 1), "is the box"),
        ((0, 0, 2, 1), r"is the box \(0, 0, 2, 1\)"),
        ((0.5, 0, 0.5, 1), "with area inside"),
        ((0, 0, float("nan"), 1), "is the box"),
        (torch.ones(1, 1).expand(2**14, 2**14), "16384 x 16384 pixels; more than"),
    ],
)
def test_bad_masks_are_refused(mask, message):
    with pytest.raises(ValueError, match=f"the mask of 'cat' .*{message}"):
        PaintRegion("cat", mask)


def test_a_value_that_is_transparent_is_outside():
    mask = Image.new("L", (2, 1), 255)
    mask.putpixel((1, 0), 254)
    mask.info["transparency"] = 254
    assert PaintRegion("a", mask).mask.tolist() == [[1, 0]]


def test_a_tall_mask_with_colours_is_read_to_its_end():
    gray = np.random.default_rng(0).integers(0, 256, (600, 3), dtype=np.uint8)
    found = PaintRegion("a", Image.fromarray(gray).convert("RGBA")).mask
    assert torch.equal(found, torch.from_numpy(gray.astype(np.float32) * np.uint8(255) / 255**2))


def test_a_file_that_ends_early_is_refused(tmp_path):
    Image.effect_noise((64, 64), 50).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    with Image.open(tmp_path / "a.png") as unread, pytest.raises(ValueError, match="mask of 'cat' cannot be read"):
        PaintRegion("cat", unread)


def test_a_mask_is_kept_as_it_was():
    array = np.ones((2, 2), dtype=np.float32)
    region = PaintRegion("a", array)
    array[:] = 0
    assert region.mask.min() == 1

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Regions: their arguments, the noise of their seeds, and how they are read from a canvas."""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from diffusers_ediffi import PaintRegion, regions_from_color_map
from diffusers_ediffi.paint.masks import MAX_ADDRESS_CHARACTERS
from diffusers_ediffi.paint.regions import check_canvas, mix_noise, region_settings
from diffusers_ediffi.paint.scene_file import scene_from_json

COLORS = [(255, 0, 0), (0, 0, 255), (255, 255, 255)]
BOX = (0.0, 0.0, 0.5, 1.0)


# --- regions ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"phrase": " "}, "phrase ' '"),
        ({"phrase": 3}, "phrase 3"),
        ({"weight": -1}, "weight=-1 of 'cat'"),
        ({"weight": float("inf")}, "weight=inf"),
        ({"occurrence": -1}, "occurrence=-1"),
        ({"occurrence": True}, "occurrence=True"),
        ({"seed": 1.5}, "seed=1.5"),
    ],
)
def test_bad_regions_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PaintRegion(**{"phrase": "cat", "mask": BOX, **arguments})


def test_another_aspect_ratio_is_warned_of(warnings):
    PaintRegion("cat", torch.ones(65, 97)).check_aspect(520, 776)
    PaintRegion("cat", BOX).check_aspect(520, 776)
    assert not warnings.records
    PaintRegion("cat", torch.ones(64, 64)).check_aspect(520, 776)
    assert "the mask of 'cat' is 64 x 64 (width x height) and is stretched" in warnings.text


# --- noise ---


def test_mixed_noise_stays_standard_normal():
    noise = torch.randn(4, 128, 128, generator=torch.Generator().manual_seed(0))
    mask = torch.linspace(0, 1, 128).repeat(128, 1)
    mixed = mix_noise(noise, [PaintRegion("a", mask, seed=1), PaintRegion("b", (0.4, 0.1, 0.9, 0.8), seed=2)])
    assert abs(mixed.mean()) < 0.02 and abs(mixed.std() - 1) < 0.02
    assert abs(mixed[:, :, 60:100].std() - 1) < 0.03
    drawn = torch.randn(4, 128, 128, generator=torch.Generator().manual_seed(1))
    assert torch.equal(mix_noise(noise, [PaintRegion("a", (0, 0, 1, 1), seed=1)]), drawn)
    assert mix_noise(noise, [PaintRegion("a", BOX)]) is noise


# --- canvases ---


def canvas(size=(40, 30)):
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 9, 29), fill="red")
    draw.rectangle((20, 0, 29, 29), fill=(0, 0, 250))
    return image


def test_a_canvas_becomes_regions():
    legend = {"red": "red apple", "#0000ff": {"phrase": "rocket", "weight": 1.5, "seed": 3}}
    apple, rocket = regions_from_color_map(canvas(), legend)
    assert (apple.phrase, rocket.phrase, rocket.weight, rocket.seed) == ("red apple", "rocket", 1.5, 3)
    assert apple.mask[:, :10].all() and not apple.mask[:, 10:].any()
    assert rocket.mask[:, 20:30].all() and rocket.mask.sum() == 300
    again = regions_from_color_map(np.asarray(canvas()), {(255, 0, 0): "red apple", (0, 0, 255): "rocket"})
    assert torch.equal(again[1].mask, rocket.mask)


def test_transparent_is_unpainted_and_smoothed_edges_fall_to_the_nearest():
    image = canvas((400, 300)).convert("RGBA")
    image.putpixel((10, 3), (255, 100, 100, 255))
    image.putpixel((11, 3), (255, 200, 200, 255))
    image.paste((255, 0, 0, 0), (100, 100, 200, 200))
    apple, _ = regions_from_color_map(image, {"red": "apple", "blue": "rocket"})
    assert apple.mask[3, 10] == 1 and apple.mask[3, 11] == 0 and apple.mask.sum() == 301


@pytest.mark.parametrize(
    ("image", "legend", "message"),
    [
        (canvas(), {"red": "apple"}, "300 pixels of the colour #0000fa, which is not in the legend .#ff0000."),
        (canvas(), {"red": "apple", "blue": "rocket", "lime": "owl"}, "no pixel of the colour 'lime'"),
        (canvas(), {"reddish": "apple"}, "'reddish' in the legend is not a colour"),
        (canvas(), {(0, 0, 300): "apple"}, "is not a colour"),
        (canvas(), {"red": "apple", "#ff0000": "owl"}, "names a colour twice"),
        (canvas(), {}, "must map colours to phrases"),
        (canvas(), {"red": 5, "blue": "rocket"}, "the legend says 5 for 'red'"),
        (canvas(), {"red": {"phrase": "x", "size": 1}, "blue": "rocket"}, "it needs phrase and mask"),
        (np.zeros((4, 4)), {"red": "apple"}, "give a PIL image, or bytes"),
        (np.broadcast_to(np.uint8(0), (2**14, 2**14, 3)), {"red": "apple"}, "the canvas has 16384 x 16384 pixels"),
    ],
)
def test_bad_canvases_are_refused(image, legend, message):
    with pytest.raises(ValueError, match=message):
        regions_from_color_map(image, legend)


@pytest.mark.parametrize(("colors", "side"), [(1, 4096), (4, 4096), (16, 2048), (64, 1024)])
def test_a_canvas_is_bounded_by_the_pixels_of_all_its_masks(colors, side):
    check_canvas(side, side, colors)
    with pytest.raises(ValueError, match=f"the canvas has {side + 1} x {side} pixels; .* make it smaller"):
        check_canvas(side, side + 1, colors)


def test_a_canvas_of_very_many_colours_is_read():
    """As each pixel by itself would be."""
    canvas = np.random.default_rng(0).integers(0, 256, (300, 300, 4), dtype=np.uint8)
    canvas[:40] = (255, 0, 0, 255)
    red, blue = regions_from_color_map(canvas, {"red": "apple", "blue": "rocket"})
    distances = [np.linalg.norm(canvas[..., :3] - np.array(c, dtype=int), axis=-1) for c in COLORS]
    nearest = np.where(canvas[..., 3] < 128, 2, np.argmin(distances, axis=0))
    for number, region in enumerate((red, blue)):
        assert np.array_equal(region.mask.numpy() == 1, nearest == number)


def test_regions_as_settings():
    """Boxes as they are, masks as small pictures that a scene file may hold."""
    mask = np.linspace(0, 1, 16).reshape(4, 4)
    settings = region_settings(
        [PaintRegion("cat", (0, 0, 0.5, 1), seed=1, occurrence=1), PaintRegion("sun", mask, weight=0.5)]
    )
    assert settings[0] == {"phrase": "cat", "mask": [0, 0, 0.5, 1], "seed": 1, "occurrence": 1}
    assert {**settings[1], "mask": None} == {"phrase": "sun", "mask": None, "weight": 0.5}
    scene = scene_from_json(json.dumps({"prompt": "a cat in the sun", "regions": settings}).encode(), "it")
    assert np.abs(scene["regions"][1].mask.numpy() - mask).max() <= 0.5 / 255 + 1e-6


def test_masks_in_settings_are_bounded():
    """A picture's file holds little: noise, which no PNG makes smaller, is written coarsely, or not at all."""
    noise = np.random.default_rng(0).random((600, 300))
    for count, sides in ((1, (128, 64)), (8, (64, 32)), (20, (32, 16))):
        settings = region_settings([PaintRegion("cat", noise)] * count)
        assert len(json.dumps(settings)) <= MAX_ADDRESS_CHARACTERS + 60 * count
        for region in scene_from_json(json.dumps({"regions": settings}).encode(), "it")["regions"]:
            assert region.mask.shape == sides
    assert region_settings([PaintRegion("cat", noise)] * 60)[0]["mask"] == "picture"


@pytest.mark.parametrize("tolerance", [-1, float("nan"), float("inf"), 10**400, "48", [48.0], None], ids=str)
def test_the_tolerance_of_a_canvas_is_a_distance(tolerance):
    with pytest.raises(ValueError, match="tolerance="):
        regions_from_color_map(np.zeros((2, 2, 3), np.uint8), {"black": "cat"}, tolerance)

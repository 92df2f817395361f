# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Regions in a picture's provenance: what is kept of them, and how they come back."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_ediffi import PaintRegion
from diffusers_ediffi.paint.masks import MAX_ADDRESS_CHARACTERS
from diffusers_ediffi.paint.regions import region_settings
from diffusers_ediffi.paint.scene_file import regions_from_settings

PREFIX = "data:image/png;base64,"


def test_regions_come_back_from_their_settings():
    """As they were, by way of JSON."""
    soft = np.round(np.random.default_rng(0).random((9, 7)) * 255) / 255
    regions = [
        PaintRegion("a cat", (0.1, 0, 0.5, 1), occurrence=1, seed=3),
        PaintRegion("sun", np.eye(300, dtype=bool), weight=0.0),
        PaintRegion("sea", soft),
    ]
    for again, region in zip(
        regions_from_settings(json.loads(json.dumps(region_settings(regions)))), regions, strict=True
    ):
        for name in ("phrase", "weight", "occurrence", "seed"):
            assert getattr(again, name) == getattr(region, name)
        assert again.mask == region.mask if isinstance(region.mask, tuple) else torch.equal(again.mask, region.mask)


def test_all_masks_of_a_picture_fit_into_its_file():
    """Of many details they become smaller and stay where they were; of very many they are left out."""
    noise = np.random.default_rng(0).random((2000, 1000)) * np.linspace(0, 1, 1000)
    for count in (1, 4):
        settings = region_settings([PaintRegion("cat", noise)] * count)
        assert sum(len(entry["mask"]) for entry in settings) <= MAX_ADDRESS_CHARACTERS
        for region in regions_from_settings(settings):
            assert region.mask.shape[0] == pytest.approx(2 * region.mask.shape[1], abs=1)
            assert region.coverage(8, 4) == pytest.approx(PaintRegion("cat", noise).coverage(8, 4), abs=0.02)
    settings = region_settings([PaintRegion("cat", noise)] * 1000)
    assert settings[0] == {"phrase": "cat", "mask": "picture"}
    with pytest.raises(ValueError, match="the mask of 'cat' is not in the scene; paint it again"):
        regions_from_settings(settings)


def text_of(size):
    file = io.BytesIO()
    Image.new("1", size, 1).save(file, "PNG")
    return PREFIX + base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, "the regions of the scene must be a list"),
        (["cat"], "the regions of the scene must be a list"),
        ([{"phrase": "cat"}], "needs phrase and mask"),
        ([{"phrase": "cat", "mask": "cat.png"}], "the mask 'cat.png' is a file beside the scene, which is not here"),
        ([{"phrase": "cat", "mask": "data:text/html,<b>"}], "which is not here"),
        ([{"phrase": "cat", "mask": PREFIX + "?"}], "is damaged"),
        ([{"phrase": "cat", "mask": PREFIX + "AAAA"}], "a mask in the scene is not an image"),
        ([{"phrase": "cat", "mask": text_of((4100, 4100))}] * 4, "all its masks has 67240000 pixels"),
        ([{"phrase": "cat", "mask": text_of((20_000, 20_000))}], "a mask in the scene: .*decompression bomb"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        regions_from_settings(settings)


def test_a_mask_too_faint_for_bytes_is_not_kept_as_an_empty_one():
    assert region_settings([PaintRegion("cat", np.full((9, 9), 1e-4))]) == [{"phrase": "cat", "mask": "picture"}]

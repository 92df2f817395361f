# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
import json

import numpy as np
import pytest
from PIL import Image

from diffusers_ediffi import PaintRegion, Provenance, save_image
from diffusers_ediffi.paint.regions import region_settings
from diffusers_ediffi.space.drawing import DrawRequest
from diffusers_ediffi.space.limits import Limits
from diffusers_ediffi.space.opening import open_file
from diffusers_ediffi.space.picture_files import provenance_of
from diffusers_ediffi.space.scene import COLORS, Scene
from diffusers_ediffi.space.uploads import read_picture

LIMITS = Limits()
EMPTY = Scene()


def test_a_scene_file(tmp_path):
    file = tmp_path / "scene.json"
    file.write_text(
        json.dumps({"prompt": "a cat", "regions": [{"phrase": "cat", "mask": [0, 0, 1, 1]}], "strength": 1})
    )
    opened = open_file(str(file), EMPTY, LIMITS)
    assert (opened.scene.prompt, opened.scene.strength, opened.scene.regions[0].phrase) == ("a cat", 1, "cat")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_picture_drawn_before_brings_its_painting_back(tmp_path, suffix):
    mask = np.zeros((64, 64), np.float32)
    mask[:20, 10:] = 1
    regions = [PaintRegion("cat", mask), PaintRegion("dog", (0, 0.5, 1, 1))]
    request = DrawRequest("a cat and a dog", seed=7, arguments={"regions": regions, "region_strength": 0.3})
    save_image(Image.new("RGB", (64, 64)), tmp_path / f"it{suffix}", provenance_of(request, "demo", index=2))
    opened = open_file(str(tmp_path / f"it{suffix}"), EMPTY, LIMITS)
    assert opened.settings["seed"] == 9 and opened.scene.strength == 0.3
    assert [region.phrase for region in opened.scene.regions] == ["cat", "dog"]
    assert np.array_equal(opened.scene.regions[0].mask.numpy(), mask)


def test_masks_that_are_not_in_the_file_are_told(tmp_path):
    settings = {"prompt": "a cat", "regions": [{"phrase": "cat", "mask": "picture"}]}
    save_image(Image.new("RGB", (8, 8)), tmp_path / "it.png", Provenance(settings))
    opened = open_file(str(tmp_path / "it.png"), EMPTY, LIMITS)
    assert not opened.scene.layers and "1 of its masks are not in the file" in opened.note


def test_a_painted_canvas_is_read_by_the_colours_of_the_list(tmp_path):
    canvas = Image.new("RGB", (100, 100), "white")
    canvas.paste(COLORS[0], (0, 0, 50, 100))
    canvas.save(tmp_path / "canvas.png")
    with pytest.raises(ValueError, match="make the phrases first"):
        open_file(str(tmp_path / "canvas.png"), EMPTY, LIMITS)
    layers = [{"phrase": phrase, "color": COLORS[i], "mask": None} for i, phrase in enumerate(("cat", "dog"))]
    current = Scene.from_canvas({"prompt": "a cat and a dog", "layers": layers}, LIMITS)
    scene = open_file(str(tmp_path / "canvas.png"), current, LIMITS).scene
    assert [region.phrase for region in scene.regions] == ["cat"]
    assert scene.regions[0].mask.mean() == 0.5
    assert [layer["phrase"] for layer in scene.to_canvas()["layers"]] == ["cat", "dog"]


@pytest.mark.parametrize("settings", [{}, {"prompt": 7}, {"prompt": "a cat", "regions": "all"}, {"prompt": "a" * 501}])
def test_a_strangers_provenance_is_a_message(tmp_path, settings):
    save_image(Image.new("RGB", (8, 8)), tmp_path / "it.png", Provenance(settings))
    with pytest.raises(ValueError):
        open_file(str(tmp_path / "it.png"), EMPTY, LIMITS)


def test_uploads_are_bounded(tmp_path):
    Image.new("L", (5000, 5000)).save(tmp_path / "wide.png")
    (tmp_path / "huge.png").write_bytes(bytes(LIMITS.upload_bytes + 1))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    (tmp_path / "text.png").write_text("<svg/>")
    for name, message in (
        ("wide.png", "5000 x 5000 pixels"),
        ("huge.png", "larger than 8 MB"),
        ("broken.png", "the file"),
        ("text.png", "the file is not an image"),
        ("missing.png", "has not arrived"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            read_picture(str(tmp_path / name), LIMITS)
        assert str(tmp_path) not in str(error.value)  # nothing of the server


def test_what_is_written_is_what_a_picture_says():
    regions = [PaintRegion("cat", (0, 0, 1, 1))]
    arguments = {
        "regions": regions,
        "region_strength": 0.2,
        "style_image": Image.new("RGB", (8, 8)),
        "style_scale": 0.5,
    }
    request = DrawRequest(
        "a cat", negative_prompt="a dog", seed=1, steps=5, guidance_scale=2.0, size=64, arguments=arguments
    )
    said = {key: value for key, value in provenance_of(request, "demo").settings.items() if value is not None}
    assert said == {
        **{"prompt": "a cat", "negative_prompt": "a dog", "seed": 1, "model": "demo", "size": 64, "steps": 5},
        **{"guidance_scale": 2.0, "style_image": True, "style_scale": 0.5, "region_strength": 0.2},
        "regions": region_settings(regions),
    }
    edited = provenance_of(DrawRequest("a cat", kind="image", arguments={"image": Image.new("RGB", (8, 8))}), "demo")
    assert edited.settings["image"] is True and "composite" in edited.digital_source_type

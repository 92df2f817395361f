# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
import base64
import io
import json
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_ediffi import PaintRegion
from diffusers_ediffi.paint.regions import region_settings
from diffusers_ediffi.paint.scene_file import read_scene
from diffusers_ediffi.space.limits import Limits
from diffusers_ediffi.space.scene import COLORS, Layer, Scene

LIMITS = Limits()
PROMPT = "a cat, a dog and a cat"


def png(mask):
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


@pytest.fixture
def soft():
    """A layer as the canvas sends it: white, and opaque where it is painted, with a soft edge."""
    layer = np.full((512, 512, 4), 255, np.uint8)
    layer[..., 3] = np.linspace(0, 255, 512)[None]
    return layer


def canvas(*layers, prompt=PROMPT):
    usual = {"occurrence": None, "color": COLORS[0], "visible": True, "weight": 1, "mask": [0, 0, 0.5, 1]}
    return {"prompt": prompt, "layers": [{**usual, **layer} for layer in layers]}


def test_layers_of_the_canvas_are_regions(soft):
    value = canvas(
        {"phrase": "cat", "occurrence": 1, "mask": png(soft)}, {"phrase": "dog"}, {"phrase": "a", "mask": None}
    )
    cat, dog = Scene.from_canvas(value, LIMITS).regions
    assert (cat.phrase, cat.occurrence, dog.phrase, dog.mask) == ("cat", 1, "dog", (0, 0, 0.5, 1))
    assert np.allclose(cat.mask.numpy(), soft[..., 3] / 255, atol=1e-6)  # the soft edge counts


def test_what_is_left_out_does_not_count_and_is_kept(soft):
    scene = Scene.from_canvas(canvas({"phrase": "cat", "visible": False}, {"phrase": "dog"}), LIMITS)
    assert [region.phrase for region in scene.regions] == ["dog"]
    assert [layer["phrase"] for layer in scene.to_canvas()["layers"]] == ["cat", "dog"]


def test_a_painted_word_that_is_deleted_is_named():
    with pytest.raises(ValueError, match="“dog” is painted, but not in the prompt any more"):
        _ = Scene.from_canvas(canvas({"phrase": "dog"}, prompt="a cat"), LIMITS).regions
    hidden = canvas({"phrase": "dog", "visible": False}, prompt="a cat")
    assert Scene.from_canvas(hidden, LIMITS).regions == []


def test_the_scene_file_is_that_of_ediffi_paint(soft, tmp_path):
    value = canvas({"phrase": "cat", "occurrence": 1, "mask": png(soft)}, {"phrase": "dog", "visible": False})
    scene = Scene.from_canvas(value, LIMITS)
    text = scene.to_json(strength=0.3)
    (tmp_path / "scene.json").write_text(text)
    read = read_scene(tmp_path / "scene.json")
    assert read["prompt"] == PROMPT and read["strength"] == 0.3
    assert [(region.phrase, region.weight, region.occurrence) for region in read["regions"]] == [
        ("cat", 1, 1),
        ("dog", 0, None),
    ]
    again = Scene.from_json(text.encode(), LIMITS)
    assert again.strength == 0.3 and [layer.visible for layer in again.layers] == [True, False]
    assert torch.allclose(again.layers[0].region.mask, scene.layers[0].region.mask, atol=1e-6)
    assert Scene.from_canvas(again.to_canvas(), LIMITS).to_json(0.3) == text


def test_provenance_brings_a_scene_back(soft):
    regions = Scene.from_canvas(canvas({"phrase": "cat", "mask": png(soft)}, {"phrase": "dog"}), LIMITS).regions
    settings = json.loads(json.dumps({"prompt": PROMPT, "seed": 3, "regions": region_settings(regions)}))
    scene = Scene.from_settings(settings, LIMITS)
    assert scene.prompt == PROMPT
    cat, dog = (layer.region for layer in scene.layers)
    assert dog.mask == (0, 0, 0.5, 1)
    assert (cat.coverage(64, 64) - regions[0].coverage(64, 64)).abs().max() < 0.01


def test_a_picture_without_its_masks_brings_back_what_it_has():
    settings = {
        "prompt": PROMPT,
        "regions": [{"phrase": "cat", "mask": "picture"}, {"phrase": "dog", "mask": [0, 0, 1, 1]}],
    }
    assert [layer.region.phrase for layer in Scene.from_settings(settings, LIMITS).layers] == ["dog"]


def bomb(side):
    """A PNG of a few kilobytes that has side x side pixels."""
    rows = zlib.compress(bytes((side + 7) // 8 + 1) * side, 9)

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    "value",
    [
        7,
        "canvas",
        [],
        {"prompt": 7},
        {"prompt": "a cat", "layers": 7},
        {"prompt": "a cat", "layers": [7]},
        canvas(*({"phrase": "cat"} for _ in range(13))),
        canvas({"phrase": 7}),
        canvas({"phrase": ""}),
        canvas({"phrase": "cat", "mask": 7}),
        canvas({"phrase": "cat", "mask": "/etc/passwd"}),
        canvas({"phrase": "cat", "mask": "https://example.org/mask.png"}),
        canvas({"phrase": "cat", "mask": "data:image/png;base64,AAAA"}),
        canvas({"phrase": "cat", "mask": "data:image/png;base64,?"}),
        canvas({"phrase": "cat", "mask": [0, 0, float("nan"), 1]}),
        canvas({"phrase": "cat", "mask": {"path": "/etc/passwd"}}),
        canvas({"phrase": "cat", "weight": -1}),
        canvas({"phrase": "cat", "weight": "1"}),
        canvas({"phrase": "cat", "occurrence": 0.5}),
        canvas({"phrase": "cat", "mask": png(np.zeros((8, 8), np.uint8))}),
        canvas({"phrase": "cat", "mask": bomb(30_000)}),
        canvas({"phrase": "cat", "mask": bomb(4000)}),
    ],
    ids=lambda value: str(value)[-60:],
)
def test_what_is_no_canvas_is_refused(value):
    with pytest.raises(ValueError):
        Scene.from_canvas(value, LIMITS)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"regions": []}',
        b'{"prompt": "", "regions": []}',
        b'{"prompt": 7, "regions": []}',
        b'{"prompt": "a cat", "regions": 7}',
        b'{"prompt": "a cat", "regions": [], "more": 1}',
        json.dumps({"prompt": "a" * 501, "regions": []}).encode(),
        json.dumps({"prompt": "a cat", "regions": [{"phrase": "dog", "mask": [0, 0, 1, 1]}]}).encode(),
        json.dumps({"prompt": "a cat", "regions": [{"phrase": "cat", "mask": "/etc/passwd"}]}).encode(),
        json.dumps({"prompt": "a cat", "regions": [{"phrase": "cat", "mask": "mask.png"}]}).encode(),
        json.dumps({"prompt": "a cat", "regions": [{"phrase": "cat", "mask": bomb(5000)}]}).encode(),
        json.dumps({"prompt": "a cat", "regions": [{"phrase": "cat", "mask": [0, 0, 1, 1]}] * 13}).encode(),
        json.dumps({"prompt": "a cat", "regions": [{"phrase": "cat", "mask": [0, 0, 1, 1], "seed": -1}]}).encode(),
        b" " * (2**23 + 1),
    ],
    ids=lambda data: str(data)[:60],
)
def test_a_strangers_scene_is_refused_with_one_message(data):
    with pytest.raises(ValueError) as error:
        Scene.from_json(data, LIMITS)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("regions", [7, [7], [{"phrase": "cat"}], [{"phrase": "cat", "mask": [[1, 0]] * 3, "x": 1}]])
def test_a_strangers_provenance_is_refused(regions):
    with pytest.raises(ValueError):
        Scene.from_settings({"prompt": "a cat", "regions": regions}, LIMITS)


def test_strength_of_a_file_is_taken_where_it_can_be():
    for strength, taken in (
        (0.4, 0.4),
        ([0.3, 0, 0], 0.3),
        (9, None),
        ("x", None),
        (float("inf"), None),
        (None, None),
    ):
        scene = {"prompt": "a cat", "regions": [], "strength": strength}
        assert Scene.from_json(json.dumps(scene).encode(), LIMITS).strength == taken


def test_layers_have_the_colours_of_the_canvas():
    """Colours are the canvas's own alone: a stranger's go no further."""
    scene = Scene.from_canvas(canvas({"phrase": "cat", "color": "red; background: url(x)"}), LIMITS)
    assert scene.layers[0].color == COLORS[0]
    assert Layer(PaintRegion("cat", (0, 0, 1, 1)), COLORS[1]).visible

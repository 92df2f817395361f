# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Items that depend on their number alone, and batches that take each of them once."""

import multiprocessing
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers_training import HalfScenes
from PIL import Image

from diffusers_ediffi.training.data import (
    SceneDataset,
    StepBatchSampler,
    collate,
    float_to_image,
    image_to_float,
    make_loader,
    scene_regions,
)


def test_items_depend_on_their_number_alone():
    make = lambda: SceneDataset(HalfScenes(), 16, crop=8, crops_per_scene=3, low_res_factor=4, seed=5)  # noqa: E731
    in_order, alone = make(), make()
    items = [in_order[i] for i in range(7)]
    for i in (6, 2, 4):
        assert all(torch.equal(items[i][key], alone[i][key]) for key in ("image", "low_res", "clip_image"))
    assert items[0]["image"].shape == (3, 8, 8) and items[0]["low_res"].shape == (3, 2, 2)
    assert items[0]["clip_image"].shape == (3, 64, 64) and items[5]["caption"] == "scene 1"
    assert in_order.generator.renderings == 3  # seven patches of three scenes


def test_crops_of_one_scene_differ():
    items = [SceneDataset(HalfScenes(), 16, crop=9, crops_per_scene=8)[i]["image"] for i in range(8)]
    assert len({tuple(item.flatten().tolist()) for item in items}) > 1


def test_pixels_survive_the_way_to_floats_and_back():
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(float_to_image(image_to_float(pixels)), pixels)


def test_ranks_and_steps_take_every_item_once():
    items = [
        item
        for rank in range(2)
        for first, last in ((0, 2), (2, 5))
        for batch in StepBatchSampler(3, first, last, rank, 2)
        for item in batch
    ]
    assert sorted(items) == list(range(30))


def test_items_may_start_further_on():
    assert list(StepBatchSampler(2, 1, 3, first_item=100)) == [[102, 103], [104, 105]]


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_worker_processes_give_the_same_batches(method):
    """Also those that are sent the data set, which is how all systems start them but Linux before Python 3.14."""
    dataset = SceneDataset(HalfScenes(), 8, low_res_factor=4)
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(method, force=True)
    try:
        batches = [list(make_loader(dataset, StepBatchSampler(2, 1, 4), workers)) for workers in (0, 1)]
    finally:
        multiprocessing.set_start_method(before, force=True)
    for here, there in zip(*batches, strict=True):
        assert here["caption"] == there["caption"] and torch.equal(here["low_res"], there["low_res"])


def test_a_worker_process_may_be_spawned():
    """It is sent the data set, also one that has rendered."""
    dataset = SceneDataset(HalfScenes(), 8)
    item = dataset[0]
    sent = pickle.loads(pickle.dumps(dataset))
    assert sent[0]["caption"] == "scene 0" and torch.equal(sent[0]["image"], item["image"])
    assert sent.generator.renderings == 2, "what was rendered here stays here"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"crop": 32}, "crop"),
        ({"crops_per_scene": 0}, "crops_per_scene"),
        ({"low_res_factor": 3}, "factor 3"),
        ({"distortion_strength": 2.0}, "distortion lies in"),
    ],
)
def test_data_set_rejects(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        SceneDataset(HalfScenes(), 16, **options)


@pytest.mark.parametrize("place, occurrence", [({}, None), ({"span": (7, 11)}, 0), ({"span": (22, 26)}, 1)])
def test_a_region_has_the_place_of_its_phrase_where_the_scene_says_it(place, occurrence):
    thing = SimpleNamespace(phrase="tree", box=(0, 0, 1, 1), **place)
    scene = SimpleNamespace(caption="a palm tree left of a tree", objects=[thing])
    assert [region.occurrence for region in scene_regions(scene)] == [occurrence]


def test_items_of_a_batch_are_stacked():
    batch = collate([{"image": PICTURE, "caption": "a"}, {"image": PICTURE, "caption": "b"}])
    assert batch["image"].shape == (2, 3, 8, 8) and batch["caption"] == ["a", "b"]


PICTURE = torch.zeros(3, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize("name", ["image", "clip_image", "low_res"])
@pytest.mark.parametrize(
    "picture, found",
    [
        (PICTURE / 255, "float32"),
        (PICTURE.half(), "float16"),
        (PICTURE.int() * 257, "int32"),
        (PICTURE.to(torch.uint16), "uint16"),
        (PICTURE > 0, "bool"),
        (PICTURE[:1], r"\(1, 8, 8\)"),
        (PICTURE.permute(1, 2, 0), r"\(8, 8, 3\)"),
        (PICTURE[0], r"\(8, 8\)"),
        (torch.zeros(4, 8, 8, dtype=torch.uint8), r"\(4, 8, 8\)"),
        (PICTURE.numpy(), "ndarray"),
        (Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)), "Image"),
    ],
)
def test_pictures_of_another_kind_are_refused(name, picture, found):
    """Floats in [0, 1] or [-1, 1] and sixteen bits would be trained on as if they were dark or bright."""
    item = {"image": PICTURE, "clip_image": PICTURE, "caption": "a"}
    with pytest.raises(ValueError, match=rf"{name} of an item is a? ?.*{found}.*; give a uint8 tensor \(3, height"):
        collate([item, {**item, name: picture}])


def test_pictures_of_several_sizes_are_refused():
    with pytest.raises(ValueError, match=r"image has the shapes \[\(3, 8, 4\), \(3, 8, 8\)\] in one batch"):
        collate([{"image": PICTURE}, {"image": PICTURE[:, :, :4]}])

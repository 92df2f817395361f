# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Pictures with captions as training items, and runs on them."""

import json
import logging

import numpy as np
import pytest
import torch
from diffusers.training_utils import generate_aspect_ratio_buckets
from helpers_pictures import (
    build,
    cached_dataset,
    caption_of,
    demo_encoder,
    selected,
    settings_of,
    write_folder,
    write_metadata,
)
from helpers_training import assert_same, make_trainer, state_of, tiny_unet
from PIL import Image

from diffusers_ediffi import EDiffIPipeline, EDiffIUNet, demo_checkpoint
from diffusers_ediffi.training import ImageFolder, PictureDataset, PictureSettings
from diffusers_ediffi.training.crops import clip_view, resized_crop
from diffusers_ediffi.training.data import StepBatchSampler, collate, make_loader


@pytest.fixture
def source(tmp_path):
    return ImageFolder(write_folder(tmp_path / "pictures"))


def stripes(width, height):
    """Red grows from left to right, green from the top down."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.linspace(0, 255, width)
    picture[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(picture)


# --- items ---


def test_items_depend_on_their_number_alone(source):
    settings = settings_of(size=32, crop="random", random_flip=True, patch=16, low_res_factor=4, seed=5)
    in_order, alone = PictureDataset(source, settings), PictureDataset(source, settings)
    items = [in_order[i] for i in range(14)]
    for i in (11, 2, 7):
        assert_same(alone[i], items[i])
    assert items[0]["image"].shape == (3, 16, 16) and items[0]["low_res"].shape == (3, 4, 4)
    assert items[0]["clip_image"].shape == (3, 64, 64) and items[0]["image"].dtype == torch.uint8
    for epoch in (items[:6], items[6:12]):
        assert sorted(item["caption"] for item in epoch) == sorted(caption_of(i) for i in range(6))


def test_a_crop_keeps_the_ratio_of_sides():
    for size in ((64, 32), (32, 64), (97, 31)):
        seen = np.asarray(resized_crop(stripes(*size), 24, 24)).astype(int)
        middle = seen[12, 12, :2]
        assert abs(middle - 127.5).max() < 9, "the middle stays"
        cut = [abs(int(seen[12, 0, 0]) - int(seen[12, -1, 0])), abs(int(seen[0, 12, 1]) - int(seen[-1, 12, 1]))]
        expected = [255 * min(size) / side for side in size]
        assert np.abs(np.subtract(cut, expected)).max() < 16
    left, right = (np.asarray(resized_crop(stripes(64, 32), 16, 16, place))[8, :, 0] for place in (0.0, 1.0))
    assert left.min() < 8 and right.max() > 247 and abs(int(left.max()) - int(right.min())) < 16
    assert clip_view(stripes(64, 32), 16).shape == (3, 16, 16)


def test_random_crops_and_flips_move_the_picture(tmp_path):
    folder = write_folder(tmp_path / "pictures", 1)
    stripes(64, 32).save(folder / "0.png")

    def reds(**settings):
        dataset = PictureDataset(ImageFolder(folder), settings_of(size=16, **settings))
        return [dataset[i]["image"][0, 8].tolist() for i in range(20)]

    assert len(set(map(tuple, reds()))) == 1
    crops = reds(crop="random")
    assert len({row[0] for row in crops}) > 10 and all(row[0] < row[-1] for row in crops)
    flips = [row[0] > row[-1] for row in reds(random_flip=True)]
    assert 4 < sum(flips) < 16


def test_what_cannot_be_read_is_named_and_another_takes_its_place(source, tmp_path):
    (tmp_path / "pictures" / "2.png").write_bytes(b"no picture")
    dataset = PictureDataset(source, settings_of())
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("diffusers_ediffi").addHandler(handler)
    try:
        captions = [dataset[i]["caption"] for i in range(12)]
    finally:
        logging.getLogger("diffusers_ediffi").removeHandler(handler)
    assert caption_of(2) not in captions and len(set(captions)) == 5
    assert dataset.skipped == {"2.png": 2}
    assert len(lines) == 1 and "'2.png' is not an image" in lines[0], "named once"
    for path in (tmp_path / "pictures").glob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="100 pictures one behind the other cannot be trained on, the last one since"):
        dataset[0]


def test_a_picture_that_breaks_after_its_selection_is_an_error(tmp_path):
    write_folder(tmp_path / "pictures", 1)
    source, selection = selected(tmp_path)
    (tmp_path / "pictures" / "0.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="'0.png' is not an image"):
        PictureDataset(source, settings_of(), selection)[0]


def test_batches_of_aspect_ratio_buckets_have_one_shape(tmp_path):
    """Each picture has the bucket that is nearest to its shape, whole batches go through the loader's processes."""
    folder = write_folder(tmp_path / "pictures", 12)
    sizes = [(64, 64), (96, 64), (64, 128)]
    for i in range(12):
        stripes(*sizes[i % 3]).save(folder / f"{i}.png")
    source, selection = selected(tmp_path)
    buckets = generate_aspect_ratio_buckets(64, 8)
    settings = settings_of(buckets=buckets, batch_size=2)
    dataset = PictureDataset(source, settings, selection)
    shapes = {}
    for batch in make_loader(dataset, StepBatchSampler(2, 0, 6), num_workers=1):
        for caption in batch["caption"]:
            shapes[caption] = tuple(batch["image"].shape[2:])
    assert {shapes[caption_of(i)] for i in (0, 3, 6, 9)} == {(64, 64)}
    wide, tall = ({shapes[caption_of(i)] for i in range(first, 12, 3)} for first in (1, 2))
    assert len(wide) == len(tall) == 1 and {*wide, *tall} <= set(buckets)
    ((height, width),), ((height_2, width_2),) = wide, tall
    assert 1.3 < width / height < 1.7 and 1.7 < height_2 / width_2 < 2.3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size must be at least 1"),
        ({"crop": "middle"}, "crop must be center or random, got 'middle'"),
        ({"ground": "glass"}, "ground 'glass' is not a colour"),
        ({"patch": 65}, "patch of 65 pixels is larger"),
        ({"low_res_factor": 3}, "64 x 64 pixels are not a multiple of low_res_factor=3"),
        ({"degradation_strength": 2}, "degradation_strength lies in"),
        ({"buckets": ((64, 0),)}, "bucket 64 x 0 is no size"),
        ({"buckets": ((64, 66),), "low_res_factor": 4}, "64 x 66 pixels are not a multiple"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PictureSettings(**{"size": 64, **settings})


def test_buckets_need_a_selection(source):
    with pytest.raises(ValueError, match="need a selection: call select_pictures first"):
        PictureDataset(source, settings_of(buckets=((64, 64), (32, 128))))


def test_ten_million_rows_are_only_looked_at_when_they_are_read(tmp_path):
    """Here they are ten million times the same line of the metadata."""
    folder = write_folder(tmp_path / "pictures", 1)
    source = ImageFolder(folder)
    source.rows.places = np.broadcast_to(source.rows.places, (10**7, 2))
    source.chunks = (len(source),)
    dataset = PictureDataset(source, settings_of())
    assert dataset.num_pictures == 10**7 and dataset[10**9]["caption"] == caption_of(0)


# --- runs ---


def demo_unet():
    return EDiffIUNet.from_pretrained(f"{demo_checkpoint()}/unet/expert.0")


def trained(output, dataset, encoder, **settings):
    options = {"total_steps": 3, "learning_rate": 1e-4, "num_workers": 1, "log_every": 1, **settings}
    trainer = make_trainer(output, demo_unet(), dataset, encoder, **options)
    trainer.data_settings = dataset.describe()
    return trainer.train()


def test_the_demo_trains_on_a_folder_and_on_its_cached_embeddings(tmp_path):
    """With the encoders, and without them loaded: the losses are the same to what 16 bits change."""
    write_folder(tmp_path / "pictures")
    build(tmp_path)
    cached = cached_dataset(tmp_path)
    plain = PictureDataset(cached.source, cached.settings, cached.selection)
    assert trained(tmp_path / "plain", plain, demo_encoder()) == 3
    assert trained(tmp_path / "cached", cached, None) == 3
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("plain", "cached")
    ]
    assert len(losses[0]) == 3
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
    weights = EDiffIUNet.from_pretrained(tmp_path / "cached" / "unet").state_dict()
    assert any(not torch.equal(weights[name], tensor) for name, tensor in demo_unet().state_dict().items())


def test_a_network_trains_on_aspect_ratio_buckets(tmp_path):
    """Of both shapes in one run, and mixed with a cut."""
    folder = write_folder(tmp_path / "pictures")
    for i in range(6):
        stripes(16 if i % 2 else 8, 8).save(folder / f"{i}.png")
    write_metadata(folder, {f"{i}.png": f"scene {i}" for i in range(6)})
    source, selection = selected(tmp_path)
    settings = settings_of(buckets=((8, 8), (8, 16)), batch_size=2, clip_image_size=8)
    dataset = PictureDataset(source, settings, selection)
    assert {dataset[i]["image"].shape for i in range(8)} == {(3, 8, 8), (3, 8, 16)}
    for limit, name in ((None, "whole"), (1, "cut"), (None, "cut")):
        make_trainer(tmp_path / name, dataset=dataset, total_steps=4, max_steps_this_run=limit).train()
    assert_same(state_of(tmp_path / "whole"), state_of(tmp_path / "cut"))


def test_super_resolution_trains_on_patches_of_pictures(tmp_path):
    folder = write_folder(tmp_path / "pictures", 2)
    write_metadata(folder, {f"{i}.png": f"scene {i}" for i in range(2)})
    dataset = PictureDataset(ImageFolder(folder), settings_of(size=32, patch=8, low_res_factor=4, clip_image_size=8))
    assert make_trainer(tmp_path / "run", tiny_unet(in_channels=6), dataset, total_steps=2).train() == 2


def test_a_run_on_pictures_that_is_cut_equals_one_that_is_not(tmp_path):
    write_folder(tmp_path / "pictures")
    build(tmp_path)
    settings = {"crop": "random", "random_flip": True, "size": 32}
    for limit, reached in ((None, 3), (1, 1), (None, 3)):
        output = tmp_path / ("whole" if not (tmp_path / "whole").exists() else "cut")
        assert trained(output, cached_dataset(tmp_path, **settings), None, max_steps_this_run=limit) == reached
    assert_same(state_of(tmp_path / "whole"), state_of(tmp_path / "cut"))


def test_a_run_goes_on_with_the_same_pictures_alone(tmp_path):
    write_folder(tmp_path / "pictures")
    source, selection = selected(tmp_path)
    trained(tmp_path / "run", PictureDataset(source, settings_of(), selection), demo_encoder(), max_steps_this_run=1)
    with pytest.raises(ValueError, match="data.random_flip = False"):
        trained(tmp_path / "run", PictureDataset(source, settings_of(random_flip=True), selection), demo_encoder())
    write_folder(tmp_path / "more" / "pictures", 7)
    other = PictureDataset(*selected(tmp_path / "more")[:1], settings_of(), selected(tmp_path / "more")[1])
    with pytest.raises(ValueError, match="data.pictures = "):
        trained(tmp_path / "run", other, demo_encoder())


def test_samples_are_drawn_without_encoders(tmp_path):
    write_folder(tmp_path / "pictures")
    build(tmp_path)
    dataset = cached_dataset(tmp_path)
    trainer = make_trainer(tmp_path / "run", demo_unet(), dataset, None, sample_steps=2)
    trainer.sample_items = [dataset[0], dataset[1]]
    trainer.output.mkdir()
    trainer.write_samples()
    assert (tmp_path / "run" / "samples" / "step-0000000.png").is_file()


def test_columns_of_a_batch_are_those_of_the_pipeline(tmp_path):
    """What a cached batch gives the network is what the pipeline gives it for the same captions."""
    write_folder(tmp_path / "pictures")
    build(tmp_path)
    dataset, pipe = cached_dataset(tmp_path), EDiffIPipeline.from_pretrained(demo_checkpoint())
    batch = collate([dataset[i] for i in range(4)])
    tokens, pooled, tokens_2, mask_2 = pipe.encode_prompt(batch["caption"])[:4]
    found = batch["embeddings"]
    torch.testing.assert_close(found["encoder_hidden_states"].float(), tokens, rtol=2**-10, atol=1e-4)
    torch.testing.assert_close(found["added_cond_kwargs"]["text_embeds"].float(), pooled, rtol=2**-10, atol=1e-4)
    width = found["encoder_hidden_states_2"].shape[1]
    torch.testing.assert_close(found["encoder_hidden_states_2"].float(), tokens_2[:, :width], rtol=2**-10, atol=1e-4)
    assert torch.equal(found["encoder_attention_mask_2"], mask_2[:, :width]) and not mask_2[:, width:].any()

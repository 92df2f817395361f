# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Style references in all their forms, their scale, and several of them in one."""

import copy
import functools
import http.server
import threading

import numpy as np
import pytest
import torch
from helpers import SIZES, WIDTH, draw, picture, seeded, tiny_components, tiny_pipeline
from PIL import Image

from diffusers_ediffi import PaintRegion
from diffusers_ediffi.images import read_image
from diffusers_ediffi.pipelines.style import mix_embeds, read_references


@pytest.fixture
def file(tmp_path):
    picture().save(tmp_path / "style.png")
    return tmp_path / "style.png"


def embed(pipe, seed=0):
    return pipe.encode_style(picture(seed))


# --- forms ---


def test_every_form_of_a_reference_is_the_same_style(base_pipe, file):
    expected = draw(base_pipe, style_image=picture())
    array = np.array(picture())
    tensor = torch.from_numpy(array).movedim(-1, 0)
    for form in (array, tensor, tensor[None], file, str(file), [file], [[file]], embed(base_pipe)):
        assert torch.equal(draw(base_pipe, style_image=form), expected)
    assert not torch.allclose(draw(base_pipe), expected)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_an_address_is_read(file, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = functools.partial(QuietHandler, directory=file.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        assert np.array_equal(read_image(address + "style.png"), picture())
        with pytest.raises(ValueError, match="cannot read 'http.*nothing.png': 404"):
            read_image(address + "nothing.png")
        server.shutdown()


def test_a_picture_is_turned_as_its_camera_was_held(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (4, 2)).save(tmp_path / "photo.jpg", exif=exif)
    assert read_image(tmp_path / "photo.jpg").size == (2, 4)


def test_rows_of_references(file):
    nested = read_references([picture(0), [picture(1), file], torch.zeros(2, 3, 4, 4)])
    assert [len(row) for row in nested] == [1, 2, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype, file):
    parts = {
        name: copy.deepcopy(part).to(dtype)
        for name, part in tiny_components().items()
        if isinstance(part, torch.nn.Module)
    }
    pipe = tiny_pipeline(**parts)
    style = pipe.encode_style([picture(1), file], weights=[1, 3])
    assert style.dtype == dtype and style.shape == (1, WIDTH)
    run = {"height": SIZES[0], "num_images_per_prompt": 2, "generator": [seeded(1), seeded(2)]}
    images = draw(pipe, style_image=style, style_scale=0.5, **run)
    assert images.shape[0] == 2 and images.isfinite().all() and not torch.equal(images, draw(pipe, **run))


def test_every_stage_sees_the_style(pipe):
    regions = [PaintRegion("blue house", (0.0, 0.5, 1.0, 1.0))]
    for size in SIZES:
        plain, styled = (draw(pipe, height=size, regions=regions, style_image=s) for s in (None, picture()))
        assert not torch.allclose(plain, styled)


# --- scale ---


def test_the_scale_is_a_factor_on_the_embedding(base_pipe):
    embeds = embed(base_pipe)
    for scale in (0.5, 1, 1.5):
        expected = draw(base_pipe, image_embeds=scale * embeds)
        assert torch.equal(draw(base_pipe, style_image=picture(), style_scale=scale), expected)
        assert torch.equal(draw(base_pipe, image_embeds=embeds, style_scale=scale), expected)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_a_scale_of_zero_is_no_style(pipe, guidance_scale):
    plain = draw(pipe, guidance_scale=guidance_scale)
    assert torch.equal(draw(pipe, guidance_scale=guidance_scale, style_image=picture(), style_scale=0), plain)
    assert torch.equal(draw(pipe, guidance_scale=guidance_scale, style_scale=0.3), plain), "no style to scale"


# --- several references ---


def test_a_mix_has_the_direction_of_the_mean_and_the_length_of_its_references():
    embeds = torch.tensor([[3.0, 0.0], [0.0, 5.0]])
    (mixed,) = mix_embeds(embeds, [3, 1])
    torch.testing.assert_close(mixed / mixed.norm(), torch.nn.functional.normalize(torch.tensor([9.0, 5.0]), dim=0))
    torch.testing.assert_close(mixed.norm(), torch.tensor(0.75 * 3.0 + 0.25 * 5.0))
    assert embeds.mean(0).norm() < 0.75 * 4.0, "which the mean itself is not"
    torch.testing.assert_close(mix_embeds(embeds, [30, 10]), mixed[None])
    torch.testing.assert_close(mix_embeds(embeds, [0, 2]), embeds[1:])
    assert mix_embeds(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).isfinite().all(), "opposites have no direction"


def test_references_are_mixed_in_any_order(base_pipe):
    both = base_pipe.encode_style([picture(0), picture(1)])
    torch.testing.assert_close(base_pipe.encode_style([picture(1), picture(0)]), both)
    assert torch.equal(base_pipe.encode_style([picture(0), picture(1)], [2.0, 2.0]), both)
    first, second = embed(base_pipe, 0), embed(base_pipe, 1)
    assert torch.nn.functional.cosine_similarity(both, first) > torch.nn.functional.cosine_similarity(second, first)


def test_a_list_in_the_list_is_a_mix(base_pipe):
    def two(style_image):
        return draw(base_pipe, ["a cat", "a dog"], generator=[seeded(1), seeded(2)], style_image=style_image)

    mixed = torch.cat([base_pipe.encode_style([picture(0), picture(1)]), embed(base_pipe, 2)])
    images = two([[picture(0), picture(1)], picture(2)])
    torch.testing.assert_close(images, two(mixed), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(images, two([picture(0), picture(2)]), atol=1e-2)


# --- variations ---


def test_a_picture_alone_or_with_some_words_draws(base_pipe):
    alone, some, words = (
        draw(base_pipe, prompt, style_image=style)
        for prompt, style in ((None, picture()), ("a cat", picture()), ("a cat", None))
    )
    assert not torch.allclose(alone, some) and not torch.allclose(some, words)
    assert torch.equal(draw(base_pipe, None, style_image=embed(base_pipe)), alone)


def test_variations_of_several_pictures_by_several_seeds(base_pipe):
    generators = [seeded(seed) for seed in (1, 2, 1, 2)]
    images = draw(base_pipe, None, style_image=[picture(0), picture(1)], num_images_per_prompt=2, generator=generators)
    for number, (style, seed) in enumerate(((0, 1), (0, 2), (1, 1), (1, 2))):
        one = draw(base_pipe, None, style_image=picture(style), generator=seeded(seed))
        torch.testing.assert_close(images[number], one[0], atol=1e-3, rtol=1e-3)


# --- bad input ---


def write(folder, name, content=b""):
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nowhere.png", "cannot read '.*nowhere.png'"),
        (lambda folder: folder, "cannot read"),
        (lambda folder: write(folder, "a.png", b"text"), "'.*a.png' is not an image"),
        (
            lambda folder: write(folder, "cut.png", (folder / "style.png").read_bytes()[:200]),
            "cannot read '.*cut.png'",
        ),
        (lambda folder: [[picture()], []], "empty list"),
        (lambda folder: [[]], "empty list"),
        (lambda folder: 3, "got 3"),
        (lambda folder: torch.zeros(2, WIDTH), r"style_image or image_embeds has shape \(2, 16\), not \(1, 16\)"),
        (lambda folder: torch.zeros(1, 5), r"style_image or image_embeds has shape \(1, 5\)"),
    ],
)
def test_what_is_no_reference_is_refused(pipe, file, make, message):
    def ran(*_):
        raise AssertionError("a network ran")

    pipe.text_encoder = copy.deepcopy(pipe.text_encoder)
    pipe.text_encoder.register_forward_pre_hook(ran)
    with pytest.raises(ValueError, match=message):
        draw(pipe, style_image=make(file.parent))


def test_a_picture_whose_file_ends_early_is_refused(base_pipe, file):
    with Image.open(write(file.parent, "cut.png", file.read_bytes()[:200])) as unread:
        with pytest.raises(ValueError, match="cannot read the picture: .* truncated"):
            draw(base_pipe, style_image=unread)


@pytest.mark.parametrize("limit", [300, 100])  # of 400 pixels: Pillow's warning, and its error
def test_decompression_bombs_are_refused(base_pipe, file, monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ValueError, match="exceeds limit"):
        draw(base_pipe, style_image=file)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "lists 1 numbers for 2 references"),
        ([0.0, 0.0], "not all of them 0"),
        ([1.0, -1.0], "at least 0"),
        ([1.0, float("inf")], "at least 0"),
        ("ab", "must be a list"),
    ],
)
def test_bad_weights_are_refused(base_pipe, weights, message):
    with pytest.raises(ValueError, match=message):
        base_pipe.encode_style([picture(0), picture(1)], weights)


def test_no_reference_is_refused(base_pipe):
    with pytest.raises(ValueError, match="holds no reference; give at least one"):
        base_pipe.encode_style([])


def test_without_an_image_encoder_nothing_is_embedded():
    with pytest.raises(ValueError, match="load both"):
        tiny_pipeline(image_encoder=None).encode_style(picture())


@pytest.mark.parametrize(("scale", "warned"), [(0.0, False), (1.5, False), (2.0, False), (2.1, True), (5, True)])
def test_a_style_beyond_what_networks_know_is_said(base_pipe, caplog, scale, warned):
    draw(base_pipe, style_image=picture(), style_scale=scale)
    assert (f"style_scale={scale:g}: networks know 1" in caplog.text) == warned

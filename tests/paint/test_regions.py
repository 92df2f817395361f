# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Regions: which tokens a phrase is, and where a mask is at every resolution of a U-Net."""

import logging
import random

import numpy as np
import PIL.Image
import pytest
import torch
from PIL import ImageDraw
from transformers import CLIPTokenizer, T5Tokenizer

from diffusers_ediffi import PaintRegion, demo_checkpoint, regions_from_color_map
from diffusers_ediffi.paint.painting import Painting
from diffusers_ediffi.paint.regions import (
    PromptTokens,
    find_phrase,
    mix_noise,
    paint_matrix,
    region_columns,
    region_settings,
)

BOX = (0.0, 0.0, 0.5, 1.0)
WORDS = "a an the red apple rocket rabbit rabbits (rabbit, big-eared owl's 12 moon. on of blue café ÜBER snow".split(
    " "
)


@pytest.fixture(scope="module")
def tokenizers():
    """Real ones, with words of several tokens and marks for spaces."""
    folder = demo_checkpoint()
    return [
        ("CLIP", CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer"), 77),
        ("T5", T5Tokenizer.from_pretrained(folder, subfolder="tokenizer_2"), 113),
    ]


@pytest.fixture
def warnings(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("diffusers_ediffi"), "propagate", True)
    return caplog


def text_of(tokenizer, ids):
    return "".join(tokenizer.decode(ids, skip_special_tokens=True).split()).lower()


# --- the sweep over sizes, prompts and masks ---


def test_two_hundred_random_prompts_find_the_tokens_of_their_phrases(tokenizers):
    """What stands in the columns, before and behind them, decodes to the phrase and to the text around it."""
    rng = random.Random(0)
    for _ in range(200):
        words = rng.choices(WORDS, k=rng.randint(1, 9))
        first = rng.randrange(len(words))
        last = rng.randint(first + 1, min(len(words), first + 3))
        parts = ["", "", ""]
        for i, part in enumerate((words[:first], words[first:last], words[last:])):
            parts[i] = "".join(word + rng.choice([" ", " ", "  "]) for word in part)
        prompt, phrase = "".join(parts), parts[1].strip()
        occurrence = [start for start, _ in find_phrase(prompt, phrase)].index(len(parts[0]))
        spans = find_phrase(prompt, phrase, occurrence)
        for name, tokenizer, length in tokenizers:
            if name == "T5" and ("Ü" in prompt or "é" in prompt):
                continue  # unknown to the demo's T5, so that it does not decode to them
            columns = PromptTokens(prompt, tokenizer, length).columns(spans)
            ids = tokenizer(prompt).input_ids
            assert columns == list(range(columns[0], columns[-1] + 1))
            around = ids[: columns[0]], ids[columns[0] : columns[-1] + 1], ids[columns[-1] + 1 :]
            for own, part in zip(around, parts, strict=True):
                assert text_of(tokenizer, own) == "".join(part.split()).lower(), (prompt, phrase)


def test_two_hundred_random_sizes_keep_rows_and_columns_in_place():
    """Grids are those of a chain of real strided convolutions, and a spot stays where it is in all of them."""
    rng = random.Random(1)
    for _ in range(200):
        height, width = rng.randint(2, 150), rng.randint(2, 150)
        rows, columns = rng.randint(8, 300), rng.randint(8, 300)
        mask = torch.zeros(rows, columns)
        y, x = rng.randrange(rows), rng.randrange(columns)
        mask[y, x] = 1  # a stroke of one pixel
        region = PaintRegion("a", mask)
        painting = Painting([[region]], [[[2]]], 5, 0.4)
        painting.begin_call(torch.zeros(1, 4, height, width), torch.tensor(1.0))
        sample = torch.zeros(1, 1, height, width)
        for _ in range(4):
            h, w = sample.shape[-2:]
            grid = painting.matrix(h * w)[0].reshape(h, w, 5)
            assert not grid[..., [0, 1, 3, 4]].any() and grid[..., 2].max() > 0
            row, column = divmod(grid[..., 2].argmax().item(), w)
            assert abs((row + 0.5) / h - (y + 0.5) / rows) <= 1 / h + 0.5 / rows
            assert abs((column + 0.5) / w - (x + 0.5) / columns) <= 1 / w + 0.5 / columns
            sample = torch.nn.functional.conv2d(sample, torch.zeros(1, 1, 3, 3), stride=2, padding=1)


# --- phrases ---


def columns_of(tokenizers, prompt, phrase, occurrence=None):
    encoders = [(name, PromptTokens(prompt, t, length), 77 * i) for i, (name, t, length) in enumerate(tokenizers)]
    return region_columns(prompt, [PaintRegion(phrase, BOX, occurrence=occurrence)], encoders)[0]


def test_all_occurrences_or_one(tokenizers):
    prompt = "a red apple and a Red  Apple"
    every = columns_of(tokenizers[:1], prompt, "red apple")
    assert every == sorted(sum((columns_of(tokenizers[:1], prompt, "red apple", i) for i in range(2)), []))
    assert columns_of(tokenizers[:1], prompt, "red apple", 0) == [2, 3]
    with pytest.raises(ValueError, match="occurrence=2 of 'red apple': .* has it 2 times, counted from 0"):
        columns_of(tokenizers, prompt, "red apple", 2)


def test_whole_words_alone_are_phrases():
    assert find_phrase("rabbits and a rabbit", "rabbit") == [(14, 20)]
    assert find_phrase("the cat's hat", "cat") == [(4, 7)]
    assert find_phrase("红色的苹果和火箭", "苹果") == [(3, 5)]
    with pytest.raises(ValueError, match="it has only 'pineapple': write the whole word"):
        find_phrase("a pineapple", "apple")
    with pytest.raises(ValueError, match="the phrase 'owl' is not in the prompt 'a cat'"):
        find_phrase("a cat", "owl")
    with pytest.raises(ValueError, match="not in the prompt"):
        find_phrase("a cat", "c.t")


def test_a_cut_prompt(tokenizers, warnings):
    prompt = "the " * 80 + "red apple"
    columns = columns_of(tokenizers, prompt, "red apple")
    assert columns and min(columns) >= 77
    assert "CLIP cut the end off" in warnings.text
    with pytest.raises(ValueError, match="is cut off, with it 'red apple'; write a shorter prompt"):
        columns_of(tokenizers[:1], prompt, "red apple")


def test_more_regions_than_tokens(tokenizers):
    name, tokenizer, length = tokenizers[0]
    with pytest.raises(ValueError, match="3 regions for the 2 tokens of 'a apple'"):
        region_columns(
            "a apple", [PaintRegion("apple", BOX)] * 3, [(name, PromptTokens("a apple", tokenizer, length), 0)]
        )


def test_slow_tokenizers_are_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="Slow is a slow tokenizer"):
        PromptTokens("a", Slow(), 77)


# --- masks ---


def picture(mode, value):
    image = PIL.Image.new(mode, (6, 4))
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
    transparent = PIL.Image.new("RGBA", (2, 1), (255, 255, 255, 51))
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
        ([[1, 0], [1]], "ragged"),
        ("mask.png", "is of type str"),
        (None, "is of type NoneType"),
        ((0, 0, 2, 1), r"is the box \(0, 0, 2, 1\)"),
        ((0.5, 0, 0.5, 1), "with area inside"),
        ((0, 0, float("nan"), 1), "is the box"),
        (torch.ones(1, 1).expand(2**14, 2**14), "16384 x 16384 pixels; more than"),
    ],
)
def test_bad_masks_are_refused(mask, message):
    with pytest.raises(ValueError, match=f"the mask of 'cat' .*{message}"):
        PaintRegion("cat", mask)


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


def test_a_mask_is_kept_as_it_was():
    array = np.ones((2, 2), dtype=np.float32)
    region = PaintRegion("a", array)
    array[:] = 0
    assert region.mask.min() == 1


def test_another_aspect_ratio_is_warned_of(warnings):
    PaintRegion("cat", torch.ones(65, 97)).check_aspect(520, 776)
    PaintRegion("cat", BOX).check_aspect(520, 776)
    assert not warnings.records
    PaintRegion("cat", torch.ones(64, 64)).check_aspect(520, 776)
    assert "the mask of 'cat' is 64 x 64 (width x height) and is stretched" in warnings.text


def test_a_shared_token_takes_the_larger_of_weight_times_mask():
    first = PaintRegion("a", np.float32([[0.5, 1.0]]), weight=0.8)
    second = PaintRegion("b", np.float32([[1.0, 0.0]]), weight=0.5)
    for order in ([first, second], [second, first]):
        columns = [[1, 2] if region is first else [2, 3] for region in order]
        matrix = paint_matrix(order, columns, 4, 1, 2)
        torch.testing.assert_close(matrix, torch.tensor([[0, 0.4, 0.5, 0.5], [0, 0.8, 0.8, 0]]))


# --- noise ---


def test_mixed_noise_stays_standard_normal():
    noise = torch.randn(4, 128, 128, generator=torch.Generator().manual_seed(0))
    mask = torch.linspace(0, 1, 128).repeat(128, 1)
    mixed = mix_noise(noise, [PaintRegion("a", mask, seed=1), PaintRegion("b", (0.4, 0.1, 0.9, 0.8), seed=2)])
    assert abs(mixed.mean()) < 0.02 and abs(mixed.std() - 1) < 0.02
    assert abs(mixed[:, :, 60:100].std() - 1) < 0.03
    own = torch.randn(4, 128, 128, generator=torch.Generator().manual_seed(1))
    assert torch.equal(mix_noise(noise, [PaintRegion("a", (0, 0, 1, 1), seed=1)]), own)
    assert mix_noise(noise, [PaintRegion("a", BOX)]) is noise


# --- canvases ---


def canvas(size=(40, 30)):
    image = PIL.Image.new("RGB", size, "white")
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
        (canvas(), {"reddish": "apple"}, "'reddish' in the legend is no colour"),
        (canvas(), {(0, 0, 300): "apple"}, "is no colour"),
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


def test_regions_as_settings():
    regions = [PaintRegion("cat", (0, 0, 0.5, 1), seed=3), PaintRegion("sun", np.ones((4, 4)), weight=0.5)]
    assert region_settings(regions) == [
        {"phrase": "cat", "mask": [0, 0, 0.5, 1], "seed": 3},
        {"phrase": "sun", "mask": "picture", "weight": 0.5},
    ]

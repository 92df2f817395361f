# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The tabs style, change a picture, prompt schedule and inside: what each asks of the engine, with the demo model, and
what each says of input that cannot be drawn."""

import base64
import io
import json

import gradio as gr
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from helpers import tiny_pipeline
from helpers_diffusers import build, unet_for
from PIL import Image

from diffusers_ediffi import EDiffIImg2ImgPipeline, EDiffIInpaintPipeline, read_provenance, record_attention
from diffusers_ediffi.space import edit_tab, inside_tab, schedule_tab, style_tab
from diffusers_ediffi.space.app import build_app
from diffusers_ediffi.space.drawing import Drawer
from diffusers_ediffi.space.example_pictures import FOLDER, example_address, example_picture
from diffusers_ediffi.space.picture_files import provenance_of
from diffusers_ediffi.space.space_app import SpaceApp

SETTINGS = (3, 1, 64, 2, None, "")  # seed, pictures, size, steps, guidance, negative prompt
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Gradio
TABS = {"style": style_tab, "edit": edit_tab, "schedule": schedule_tab, "inside": inside_tab}


@pytest.fixture(scope="module")
def drawer():
    return Drawer.load(device="cpu")


@pytest.fixture
def app(drawer):
    with gr.Blocks():
        return SpaceApp(drawer)


def last(drawer, request):
    return list(drawer.draw(request))[-1]


def expected(pipe, *args, steps=2, **call):
    """The picture that a pipeline draws with SETTINGS."""
    steps = (steps, *pipe.config.default_num_inference_steps[1:])
    generator = torch.Generator().manual_seed(3)
    return pipe(*args, height=64, num_inference_steps=steps, generator=generator, **call).images[0]


def equal(image, other):
    return np.array_equal(np.asarray(image), np.asarray(other))


def address_of(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


# --- examples ---


@pytest.mark.parametrize("name", ["sailboat", "mushroom", "penguin", "cat", "apple"])
def test_example_pictures_say_how_they_were_drawn(name):
    settings = read_provenance(FOLDER / f"{name}.webp").settings
    assert (settings["model"], settings["size"]) == ("demo", 256) and name in settings["prompt"]
    assert example_picture(name).size == (256, 256)


@pytest.mark.parametrize("tab", TABS.values(), ids=TABS)
def test_examples_are_in_words_that_the_model_knows(tab, drawer):
    for example in tab.EXAMPLES:
        texts = [value for value in example.values if isinstance(value, str)]
        assert texts and not any(map(drawer.complaint, texts))


# --- style ---


def test_style_draws_what_the_pipeline_draws(drawer):
    picture = example_picture("sailboat")
    request = style_tab.styled_request(picture, " a red car ", 0.8, *SETTINGS)
    same = expected(drawer.pipe, "a red car", style_image=picture, style_scale=0.8)
    assert equal(last(drawer, request).images[0], same)
    settings = provenance_of(request, "demo").settings
    assert (settings["prompt"], settings["style_image"], settings["style_scale"]) == ("a red car", True, 0.8)


def test_variations_need_no_prompt(drawer):
    picture = example_picture("mushroom")
    image = last(drawer, style_tab.styled_request(picture, "  ", 1, *SETTINGS)).images[0]
    assert equal(image, expected(drawer.pipe, style_image=picture))


@pytest.mark.parametrize(
    ("picture", "scale", "message"),
    [
        (None, 1, "There is no style picture yet"),
        (Image.new("RGB", (8, 8)), 3, "How much of the style is 3; choose from 0 to 2"),
        (Image.new("RGB", (8, 8)), None, "How much of the style is None"),
        (Image.new("RGB", (8, 8)), float("nan"), "How much of the style is nan"),
    ],
)
def test_style_says_what_is_missing(picture, scale, message):
    with pytest.raises(ValueError, match=message):
        style_tab.styled_request(picture, "a car", scale, *SETTINGS)


# --- image to image, and inpainting ---


def test_a_whole_picture_is_changed_as_the_pipeline_does(app, drawer):
    value = {"picture": example_address("apple"), "mask": None}
    request = edit_tab.edit_request(app, value, "a red balloon", 0.75, *SETTINGS)
    edit = EDiffIImg2ImgPipeline.from_pipe(drawer.pipe)
    same = expected(edit, "a red balloon", image=example_picture("apple"), strength=0.75)
    assert equal(last(drawer, request).images[0], same)
    assert provenance_of(request, "demo").digital_source_type.endswith("compositeWithTrainedAlgorithmicMedia")


def test_what_is_painted_over_is_drawn_anew_and_nothing_else(app, drawer):
    painted = Image.new("L", (512, 512))
    painted.paste(255, (320, 0, 512, 256))
    value = {"picture": example_address("cat"), "mask": address_of(painted)}
    request = edit_tab.edit_request(app, value, "a red balloon", 1.0, *SETTINGS)
    image = last(drawer, request).images[0]
    inpaint = EDiffIInpaintPipeline.from_pipe(drawer.pipe)
    mask = painted.resize((256, 256), Image.Resampling.BILINEAR)
    assert equal(image, expected(inpaint, "a red balloon", image=example_picture("cat"), mask_image=mask))
    kept = np.asarray(example_picture("cat").resize((64, 64), Image.Resampling.BICUBIC)).astype(int)
    difference = np.abs(np.asarray(image).astype(int) - kept).max(axis=-1)
    assert difference[:, :38].max() <= 2 and difference[34:].max() <= 2  # outside of what is painted
    assert difference[2:30, 44:].max() > 30
    assert provenance_of(request, "demo").settings["mask_image"] is True


def test_the_box_of_an_example_is_a_mask(app):
    for example in edit_tab.EXAMPLES:
        value, prompt, strength, _ = (part() if callable(part) else part for part in example.values)
        request = edit_tab.edit_request(app, value, prompt, strength, *SETTINGS)
        assert request.kind == ("inpaint" if value["mask"] else "image")
        if value["mask"]:
            left, top, right, bottom = (round(256 * edge) for edge in value["mask"])
            assert request.arguments["mask_image"].getbbox() == (left, top, right, bottom)


BOMB = Image.new("1", (20_000, 20_000))


@pytest.mark.parametrize(
    ("value", "prompt", "strength", "message"),
    [
        (None, "a car", 0.8, "There is no picture yet"),
        ({"picture": None}, "a car", 0.8, "There is no picture yet"),
        ({"picture": 3}, "a car", 0.8, "the picture has not arrived"),
        ({"picture": "/etc/passwd"}, "a car", 0.8, "is no picture"),
        ({"picture": "data:image/png;base64,AAAA"}, "a car", 0.8, "the picture is not an image"),
        ({"picture": "data:image/png;base64,?"}, "a car", 0.8, "is damaged"),
        ({"picture": address_of(Image.new("1", (1025, 8)))}, "a car", 0.8, "more than 1024 x 1024 pixels"),
        ({"picture": address_of(BOMB)}, "a car", 0.8, "decompression bomb"),
        ({"picture": example_address("cat")}, "", 0.8, "write what the picture becomes"),
        ({"picture": example_address("cat")}, "a car", 0, "How much is changed is 0"),
        ({"picture": example_address("cat")}, "a car", "x", "How much is changed is 'x'"),
        ({"picture": example_address("cat"), "mask": [0, 0, 2, 1]}, "a car", 0.8, "is no box"),
        ({"picture": example_address("cat"), "mask": address_of(BOMB)}, "a car", 0.8, "decompression bomb"),
    ],
    ids=range(13),
)
def test_edit_says_what_is_wrong(app, value, prompt, strength, message):
    with pytest.raises(ValueError, match=message):
        edit_tab.edit_request(app, value, prompt, strength, *SETTINGS)


# --- prompt schedule ---


def test_a_schedule_draws_what_the_pipeline_draws(app, drawer):
    request = schedule_tab.scheduled_request(app, "a red mushroom", "a red heart", " ", 30, 70, *SETTINGS)
    schedule = [("a red mushroom", 0.0), ("a red heart", 0.3)]
    assert equal(last(drawer, request).images[0], expected(drawer.pipe, prompt_schedule=schedule))
    assert provenance_of(request, "demo").settings["prompt_schedule"] == schedule


def test_a_schedule_may_leave_the_second_out(app):
    request = schedule_tab.scheduled_request(app, "a cat", "", "a sun", 50, 20, *SETTINGS)
    assert request.arguments["prompt_schedule"] == [("a cat", 0.0), ("a sun", 0.2)]


@pytest.mark.parametrize(
    ("prompts", "places", "message"),
    [
        (("", "a cat", ""), (30, 70), "The first prompt is empty"),
        (("a cat", "a sun", "a moon"), (70, 70), "“a moon” must begin after the prompt before it"),
        (("a cat", "a sun", ""), (0, 70), "0 is no percentage of the steps"),
        (("a cat", "a sun", ""), (None, 70), "None is no percentage of the steps"),
    ],
)
def test_a_schedule_says_what_is_wrong(app, prompts, places, message):
    with pytest.raises(ValueError, match=message):
        schedule_tab.scheduled_request(app, *prompts, *places, *SETTINGS)


# --- inside ---

PROMPT = "a red car above a cat and a cat"


@pytest.fixture(scope="module")
def inside(drawer):
    """The request, and what the component shows of it."""
    request = inside_tab.inside_request(PROMPT, 3, 1, 64, 4, None, "")
    progress = last(drawer, request)
    return request, progress, inside_tab.inside_report(progress, request)[0]


def test_looking_inside_changes_no_picture(drawer, inside):
    _, progress, _ = inside
    assert equal(progress.images[0], expected(drawer.pipe, PROMPT, steps=4))


def test_each_word_has_its_own_heat_map(drawer, inside):
    """That of the recorder; the two cats have one each."""
    _, _, shown = inside
    assert [word["text"] for word in shown["words"]] == PROMPT.split()
    with record_attention(drawer.pipe, heat_maps=True) as recorder:
        expected(drawer.pipe, PROMPT, steps=4)
    for index, (word, occurrence) in {2: ("car", 0), 5: ("cat", 0), 8: ("cat", 1)}.items():
        heat = recorder.heat_map(word, size=(64, 64), occurrence=occurrence)
        data = base64.b64decode(shown["words"][index]["heat"].partition(",")[2])
        alpha = torch.from_numpy(np.asarray(Image.open(io.BytesIO(data)).getchannel("A")) / 235)
        assert alpha == pytest.approx((heat - heat.min()) / (heat.max() - heat.min()), abs=0.01)
    assert shown["words"][5]["heat"] != shown["words"][8]["heat"]


def test_attention_is_that_of_the_recorder(drawer, inside):
    _, _, shown = inside
    with record_attention(drawer.pipe) as recorder:
        expected(drawer.pipe, PROMPT, steps=4)
    assert shown["sigmas"] == pytest.approx(recorder.sigmas, rel=1e-3)
    assert shown["shares"]["T5"] == pytest.approx(recorder.shares()["t5"][0].tolist(), rel=1e-3)
    total = np.sum([word["masses"] for word in shown["words"]], axis=0)
    assert total == pytest.approx(recorder.shares()["words"][0].tolist(), rel=0.01)  # each token is of one word


def test_every_step_has_its_expert(drawer, inside):
    """Those that were called, that of the most noise first; the stages that were not asked for are left out."""
    _, _, shown = inside
    (base,) = shown["stages"]
    called = []
    handles = [
        expert.register_forward_pre_hook(lambda *_, i=i: called.append(2 - i))
        for i, expert in enumerate(drawer.pipe.unet.experts)
    ]
    expected(drawer.pipe, PROMPT, steps=4)
    for handle in handles:
        handle.remove()
    assert (base["size"], base["experts"]) == (64, 3)
    assert [step["expert"] for step in base["steps"]] == called == [0, 1, 2, 2]


def test_what_is_shown_is_plain_and_small(inside):
    _, _, shown = inside
    assert len(json.dumps(shown, allow_nan=False)) < 200_000


def test_a_long_prompt_shows_the_words_that_are_read(drawer):
    request = inside_tab.inside_request("a cat and a sun " * 25, *SETTINGS)
    progress = last(drawer, request)
    assert 10 < len(inside_tab.inside_report(progress, request)[0]["words"]) <= 60


def test_inside_draws_one_picture_and_needs_a_prompt():
    assert inside_tab.inside_request("a cat", 3, 4, 64, 4, None, "").num_images == 1
    with pytest.raises(ValueError, match="write what the picture shows"):
        inside_tab.inside_request(" ", *SETTINGS)


# --- the page ---


def labels(drawer):
    config = build_app(drawer).get_config_file()
    return [part["props"]["label"] for part in config["components"] if part["type"] == "tabitem"]


def test_the_page_has_the_tabs_that_the_model_can_have(drawer):
    assert labels(drawer) == ["Paint", "Style", "Change a picture", "Prompt schedule", "Inside"]


def test_a_model_without_image_encoder_has_no_style():
    pipe = tiny_pipeline(image_encoder=None, feature_extractor=None)
    assert labels(Drawer(pipe)) == [
        "Paint",
        "Change a picture",
        "Prompt schedule",
        "Inside",
    ]


def test_stable_diffusion_has_the_paint_tab_alone():
    assert labels(Drawer(build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline)))) == ["Paint"]

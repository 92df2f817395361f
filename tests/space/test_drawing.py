# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from helpers_diffusers import build, unet_for
from PIL import Image
from transformers import CLIPConfig

from diffusers_ediffi import EDiffIPipeline, PaintRegion, paint_with_words
from diffusers_ediffi.space.drawing import Drawer, DrawRequest, dtypes_on
from diffusers_ediffi.space.limits import Limits

PROMPT = "a cat and a dog"


@pytest.fixture
def drawer(pipe):
    return Drawer(pipe, "org/tiny")


def drawn(drawer, **fields):
    return list(drawer.draw(DrawRequest(**{"prompt": PROMPT, "steps": 3, **fields})))


def pixels(images):
    return np.stack([np.asarray(image) for image in images])


def test_every_step_is_told_and_the_last_has_what_the_pipeline_draws(drawer):
    events = drawn(drawer, num_images=2, seed=5)
    steps = drawer.pipe.config.default_num_inference_steps
    assert [(event.size, event.step) for event in events[:-1]] == [
        (size, step + 1) for size, count in zip((8, 32, 128), (3, *steps[1:]), strict=True) for step in range(count)
    ]
    shares = [event.share for event in events]
    assert shares == sorted(shares) and shares[0] > 0 and shares[-1] == 1
    assert [event.size for event in events if event.is_stage_end] == [8, 32, 128, 128]
    assert [event.is_last for event in events] == [False] * (len(events) - 1) + [True]
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    same = drawer.pipe(PROMPT, num_images_per_prompt=2, num_inference_steps=(3, *steps[1:]), generator=generators)
    assert np.array_equal(pixels(events[-1].images), pixels(same.images))


def test_the_picture_of_a_stage_is_what_the_next_begins_with(drawer):
    """The last preview of the base is its picture, that of a step before it the denoised guess."""
    base = [event for event in drawn(drawer, size=32) if event.size == 8]
    alone = drawn(drawer, size=8)[-1]
    assert np.array_equal(pixels(base[-1].images), pixels(alone.images))
    assert base[0].images[0].size == (8, 8)


def test_a_scheduler_is_what_it_was(drawer):
    drawn(drawer, size=8)
    assert all("step" not in vars(stage.scheduler) for stage in drawer.pipe.stages)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"prompt": ""}, "nothing to draw"),
        ({"prompt": " \n"}, "nothing to draw"),
        ({"prompt": None}, "nothing to draw"),
        ({"prompt": "a" * 501}, "at most 500"),
        ({"negative_prompt": "a" * 501}, "at most 500"),
        ({"size": 64}, "draws 8, 32, 128 pixels, not 64"),
        ({"num_images": 5}, "choose from 1 to 4"),
        ({"num_images": 1.5}, "choose from 1 to 4"),
        ({"seed": -1}, "seed"),
        ({"seed": None}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"steps": 0}, "steps"),
        ({"steps": 10**9}, "steps"),
        ({"guidance_scale": float("nan")}, "guidance"),
        ({"guidance_scale": "5"}, "guidance"),
        ({"arguments": {"region_strength": 50}}, "strength"),
        ({"arguments": {"regions": [PaintRegion("bird", (0, 0, 1, 1))]}}, "bird"),
        ({"arguments": {"regions": [PaintRegion("cat", (0, 0, 1, 1))] * 13}}, "at most 12"),
        ({"arguments": {"prompt_schedule": [("a cat", 0), ("", 0.5)]}}, "nothing to draw"),
    ],
)
def test_wrong_requests_are_refused_before_anything_runs(drawer, monkeypatch, fields, message):
    monkeypatch.setattr(threading, "Thread", None)
    with pytest.raises(ValueError, match=message):
        drawn(drawer, **fields)


def test_all_pictures_together_have_a_limit(pipe):
    drawer = Drawer(pipe, limits=Limits(pixels=2 * 128**2))
    drawer.check(DrawRequest(PROMPT, num_images=2))
    with pytest.raises(ValueError, match="3 pictures of 128 x 128 are too much"):
        drawer.check(DrawRequest(PROMPT, num_images=3))
    drawer.check(DrawRequest(PROMPT, num_images=3, size=32))


def test_an_error_of_the_pipeline_reaches_the_visitor_and_the_next_draws(drawer):
    with pytest.raises(ValueError, match="style_scale"):
        drawn(drawer, arguments={"style_image": Image.new("RGB", (8, 8)), "style_scale": -1.0})
    assert drawn(drawer)[-1].is_last


@pytest.mark.parametrize("by", ["cancel", "close", "another"])
def test_a_drawing_ends_after_the_step_that_runs(drawer, by):
    """Where its visitor cancels it, closes the page, or draws anew."""
    events = drawer.draw(DrawRequest(PROMPT, steps=100, size=8), "visitor")
    next(events)
    if by == "cancel":
        assert drawer.cancel("visitor")
        assert len(list(events)) < 90
    elif by == "close":
        events.close()
    else:
        assert list(drawer.draw(DrawRequest(PROMPT, steps=1, size=8), "visitor"))[-1].is_last
        assert not any(event.is_last for event in events)
    with drawer._turn:  # the thread has let it go
        assert not drawer.cancel("visitor")


def test_cancelling_ends_the_own_drawing_alone(drawer):
    first, second = (drawer.draw(DrawRequest(PROMPT, steps=5, size=8), name) for name in ("first", "second"))
    next(first)
    assert not drawer.cancel("nobody")
    assert [event.is_last for event in first][-1]
    next(second)
    drawer.cancel("second")
    assert not any(event.is_last for event in second)


def test_visitors_at_once_get_their_own_pictures(drawer):
    alone = [pixels(drawn(drawer, seed=seed, size=8)[-1].images) for seed in range(4)]
    together: dict[int, np.ndarray] = {}

    def visit(seed):
        events = drawer.draw(DrawRequest(PROMPT, seed=seed, steps=3, size=8), f"visitor {seed}")
        together[seed] = pixels(list(events)[-1].images)

    threads = [threading.Thread(target=visit, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(alone[seed], together[seed]) for seed in range(4))


def test_image_to_image_shares_the_model(drawer):
    image = Image.new("RGB", (128, 128), "orange")
    events = drawn(drawer, kind="image", arguments={"image": image, "strength": 0.7})
    assert events[-1].images[0].size == (128, 128) and events[-1].share == 1
    assert drawer._pipe("image").unet is drawer.pipe.unet
    white = Image.new("L", (128, 128), "white")
    assert drawn(drawer, kind="inpaint", size=128, arguments={"image": image, "mask_image": white})[-1].is_last


@contextmanager
def counting(pipe):
    calls = []
    hook = pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    yield lambda: len(calls)
    hook.remove()


def test_what_is_recorded_within_the_call_comes_with_the_last_event(drawer):
    *before, last = drawn(drawer, size=8, within=counting)
    assert last.record == 3 and all(event.record is None for event in before)


def test_the_defaults_are_the_models(drawer):
    config = drawer.pipe.config
    assert drawer.sizes == [8, 32, 128] and drawer.model == "org/tiny"
    assert drawer.default_steps == config.default_num_inference_steps[0]
    assert drawer.default_guidance_scale == config.default_guidance_scale[0]
    assert drawer.default_region_strength == config.default_region_strength
    assert drawer.takes_style and drawer.words == {} and drawer.complaint("a dragon") == ""


def test_stable_diffusion_is_painted_by_paint_with_words():
    pipe = build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline))
    drawer = Drawer(pipe, "org/sd")
    assert not drawer.takes_style and len(drawer.sizes) == 1
    regions = [PaintRegion("cat", (0, 0, 0.5, 1))]
    request = DrawRequest(PROMPT, steps=5, arguments={"regions": regions, "region_strength": 1.0})
    *steps, last = drawer.draw(request)
    assert [event.step for event in steps] == [1, 2, 3, 4, 5] and last.is_last
    assert steps[-1].images  # decoded now and then
    with paint_with_words(pipe, PROMPT, regions, strength=1.0):
        same = pipe(PROMPT, num_inference_steps=5, guidance_scale=7.5, generator=[torch.Generator().manual_seed(0)])
    assert np.array_equal(pixels(last.images), pixels(same.images))
    plain = list(drawer.draw(DrawRequest(PROMPT, steps=5)))[-1]
    assert not np.array_equal(pixels(last.images), pixels(plain.images))
    with pytest.raises(ValueError, match="draws from text alone"):
        list(drawer.draw(DrawRequest(PROMPT, kind="image", steps=1)))


def test_a_picture_is_not_shown_before_the_safety_checker_has_seen_it(drawer):
    vision = {**drawer.pipe.image_encoder.config.to_dict(), "image_size": 24}
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8)).eval()
    checker.concept_embeds_weights.data.fill_(-10.0)  # thresholds of a cosine: it objects to all pictures
    drawer.pipe.register_modules(safety_checker=checker)
    *before, last = drawn(drawer, size=32, num_images=2)
    assert before and not any(image for event in before for image in event.images)
    assert last.blackened == [True, True] and not pixels(last.images).any()
    drawer.pipe.register_modules(safety_checker=None)
    *before, last = drawn(drawer, size=32)
    assert before[0].images and last.blackened == []


def test_t5_is_not_loaded_in_float16(pipe, tmp_path):
    """It overflows there. SDXL's second encoder is another, and its two must agree."""
    pipe.save_pretrained(tmp_path / "tiny")
    tiny = str(tmp_path / "tiny")
    loaded = EDiffIPipeline.from_pretrained(tiny, dtype=dtypes_on("cuda", tiny))
    assert (loaded.text_encoder_2.dtype, loaded.unet.dtype) == (torch.bfloat16, torch.float16)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    assert dtypes_on("cuda", str(tmp_path)) == {"default": torch.float16}
    assert dtypes_on("cpu", tiny) == {"default": torch.float32}


def test_a_pipeline_that_cannot_be_painted_is_refused():
    with pytest.raises(ValueError, match="cannot draw with DDPMPipeline; choose"):
        Drawer(DDPMPipeline(unet_for(StableDiffusionPipeline), DDPMScheduler()))


def test_on_zero_gpu_nothing_is_drawn_where_no_gpu_is(pipe, tmp_path, monkeypatch):
    """The process that loads the model has none, elsewhere it draws a first step."""
    pipe.save_pretrained(tmp_path)
    assert Drawer.load(str(tmp_path), "cpu").pipe.scheduler.num_inference_steps == 1
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert Drawer.load(str(tmp_path), "cpu").pipe.scheduler.num_inference_steps is None

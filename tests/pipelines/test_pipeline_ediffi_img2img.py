# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""From an image on, on networks that are tiny and random but real."""

import inspect
import logging

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from helpers import PROMPT, SIZES, as_id, seeded, tiny_pipeline, tiny_unet
from helpers_editing import SCHEDULERS, STEPS, draw, img2img, picture, pixels, seeds
from PIL import Image

from diffusers_ediffi import (
    EDiffIImg2ImgPipeline,
    EDiffIPipeline,
    EDMDEISScheduler,
    ExpertRouterUNet,
    PaintRegion,
)

BASE, SR256, SR1024 = SIZES


@pytest.fixture
def edit(pipe):
    return img2img(pipe)


# --- what strength means ---


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_it_is_the_last_steps_from_the_image_with_their_noise(scheduler):
    """Against the loop written out: x = image + sigma * noise at the first step that runs, and no step before."""
    scheduler = type(scheduler).from_config(scheduler.config)
    pipe = img2img(tiny_pipeline(scheduler=scheduler))
    image, noise = picture(), torch.randn(1, 3, BASE, BASE, generator=seeded(1))
    steps = []
    changed = draw(
        pipe,
        image=image,
        strength=0.6,
        latents=noise,
        guidance_scale=1.0,
        callback_on_step_end=lambda pipe, step, timestep, tensors: steps.append((step, timestep.item())) or {},
    )
    scheduler.set_timesteps(STEPS)
    begin = 2 * scheduler.order  # of 5 steps 3 run
    names = ("encoder_hidden_states", "pooled", "encoder_hidden_states_2", "encoder_attention_mask_2")
    text = dict(zip(names, pipe.encode_prompt(PROMPT)[:4], strict=True))
    added = {"text_embeds": text.pop("pooled"), "image_embeds": None}
    sample = pixels(image) + scheduler.sigmas[begin].float() * noise
    scheduler.set_begin_index(begin)
    for timestep in scheduler.timesteps[begin:]:
        model_input = scheduler.scale_model_input(sample, timestep)
        with torch.no_grad():
            output = pipe.unet(model_input, timestep, **text, added_cond_kwargs=added).sample
        sample = scheduler.step(output, timestep, sample).prev_sample
    torch.testing.assert_close(changed, sample)
    assert steps == list(enumerate(scheduler.timesteps[begin:].tolist()))
    assert pipe.num_timesteps == len(steps)
    assert pipe.start_sigmas == (float(scheduler.sigmas[begin]),)


def test_strength_1_is_text_to_image_in_every_stage(pipe, edit):
    plain = draw(pipe, height=SR1024, num_inference_steps=2)
    for strength in (1.0, 1, (1.0, 1.0), [1, 1.0, 1]):
        assert torch.equal(draw(edit, image=picture(), strength=strength, height=SR1024, num_inference_steps=2), plain)
    assert edit.num_timesteps == 6


def test_at_the_highest_sigma_the_trace_of_the_image_is_left():
    """What `sigma_start` adds to text-to-image is the image itself, below the noise."""
    pipe = tiny_pipeline(scheduler=EDMDEISScheduler())
    first = {}

    def watch(unet, arguments):
        first.setdefault("input", arguments[0])

    noise, image = torch.randn(1, 3, BASE, BASE, generator=seeded(1)), picture()
    inputs = []
    for pipeline, arguments in ((pipe, {}), (img2img(pipe), {"image": image, "sigma_start": 80.0})):
        handle = pipe.unet.register_forward_pre_hook(watch)
        draw(pipeline, latents=noise, guidance_scale=1.0, **arguments)
        handle.remove()
        inputs.append(first.pop("input"))
    scale = (80.0**2 + 0.5**2) ** 0.5
    torch.testing.assert_close((inputs[1] - inputs[0]) * scale, pixels(image), atol=1e-4, rtol=0)


def test_strength_0_hands_the_image_on(edit):
    large = picture(200)
    assert torch.equal(draw(edit, image=large, strength=0), pixels(large))
    assert edit.num_timesteps == 0 and edit.start_sigmas == (0.0,)
    assert torch.equal(draw(edit, image=large, strength=(0, 0, 0), height=SR1024), pixels(large, SR1024))
    # an image in the size of a stage comes out as it went in
    original = picture(SR256)
    images = draw(edit, image=original, strength=(0, 0), height=SR256, output_type="pil", num_images_per_prompt=2)
    assert len(images) == 2 and all((np.array(image) == np.array(original)).all() for image in images)


def test_strength_0_in_the_base_enlarges_the_image(pipe, edit):
    """Super-resolution of a given image is that of a base image which a callback puts in its place."""
    image = picture()

    def replace(pipe, step, timestep, tensors):
        return {"latents": pixels(image)} if step == STEPS - 1 else {}

    noise = torch.randn(1, 3, BASE, BASE, generator=seeded(1))
    run = {"latents": noise, "height": SR256}  # as both are to draw the same noise for SR256
    expected = draw(pipe, callback_on_step_end=replace, **run)
    assert torch.equal(draw(edit, image=image, strength=0, **run), expected)
    assert edit.num_timesteps == STEPS


def test_the_less_strength_the_closer_to_the_image(edit):
    image = picture()
    far = [
        (draw(edit, image=image, strength=share, num_inference_steps=20) - pixels(image)).abs().mean().item()
        for share in (0.01, 0.3, 0.6, 0.9)
    ]
    # the last step begins at sigma_min, 0.002, and changes the image by the network's output times that
    assert edit.start_sigmas[0] > 10 and far == sorted(far) and far[0] < 0.01 < far[1]


def test_some_strength_runs_at_least_one_step(edit):
    draw(edit, image=picture(), strength=0.01)
    assert edit.num_timesteps == 1
    draw(edit, image=picture(), strength=0.29, num_inference_steps=100)  # 28.999999999999996
    assert edit.num_timesteps == 29


def test_super_resolution_stages_take_a_strength_of_their_own(edit):
    """They keep what the base cannot show: a strength near 0 leaves the image in its full detail."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (SR1024, SR1024, 3), dtype=np.uint8))
    run = {"image": image, "height": SR1024}
    kept = draw(edit, strength=(0.01, 0.01, 0.01), **run)
    assert (kept - pixels(image, SR1024)).abs().mean() < 0.05
    assert edit.num_timesteps == 3
    lost = draw(edit, strength=0.01, **run)
    assert (lost - pixels(image, SR1024)).abs().mean() > 0.2
    assert edit.num_timesteps == 1 + 2 * STEPS
    assert edit.start_sigmas[1:] == (80.0, 80.0) and edit.start_sigmas[0] < 0.01


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_sigma_start_takes_the_first_step_at_or_below_it(scheduler):
    scheduler = type(scheduler).from_config(scheduler.config)
    edit = img2img(tiny_pipeline(scheduler=scheduler))
    scheduler.set_timesteps(STEPS)
    steps = [float(sigma) for sigma in scheduler.sigmas[: len(scheduler.timesteps) : scheduler.order]]
    for position, sigma in enumerate(steps):
        draw(edit, image=picture(), sigma_start=sigma)
        assert edit.start_sigmas == (sigma,)
        assert edit.num_timesteps == len(scheduler.timesteps) - position * scheduler.order
    draw(edit, image=picture(), sigma_start=(steps[1] + steps[2]) / 2)
    assert edit.start_sigmas == (steps[2],)
    # strength says the same in steps
    by_sigma = draw(edit, image=picture(), sigma_start=(steps[2], None, None))
    assert torch.equal(by_sigma, draw(edit, image=picture(), strength=0.6))


def test_noise_is_that_of_the_generator(edit):
    first, again, other = (draw(edit, image=picture(), generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and (first - other).abs().max() > 1e-2


# --- what an image may be ---


def test_arrays_and_tensors_are_the_same_image(edit):
    image = picture(20)
    array = np.array(image)
    forms = (
        array,
        array.astype(np.float32) / 255,
        torch.from_numpy(array).movedim(-1, 0),
        torch.from_numpy(array).movedim(-1, 0).double() / 255,
        array[None],
        [image],
        image.convert("RGBA"),
    )
    expected = draw(edit, image=image)
    assert all(torch.equal(draw(edit, image=form), expected) for form in forms)


@pytest.mark.parametrize("shape", [(20, 40), (40, 20)])
def test_what_is_not_square_is_squeezed_with_a_warning(edit, caplog, monkeypatch, shape):
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("diffusers_ediffi"), "propagate", True)
    image = picture(40).resize(shape)
    assert torch.equal(draw(edit, image=image, strength=0), pixels(image))
    assert f"the image is {shape[0]} x {shape[1]} (width x height) and is squeezed" in caplog.text
    caplog.clear()
    draw(edit, image=picture(40), strength=0)
    assert "squeezed" not in caplog.text


# --- batches and everything else that a call may say ---


def test_one_image_for_all_prompts_or_one_for_each(edit):
    prompts, images = ["a red cat", "a blue house"], [picture(seed=0), picture(seed=1)]
    run = {"strength": (0.6, 0.6), "height": SR256, "num_inference_steps": 3}
    for image in (images, images[:1], images[0]):
        batch = draw(edit, prompts, image=image, num_images_per_prompt=2, generator=seeds(4), **run)
        for i in range(4):
            of_prompt = image[min(i // 2, len(image) - 1)] if isinstance(image, list) else image
            single = draw(edit, prompts[i // 2], image=of_prompt, generator=seeded(i), **run)
            torch.testing.assert_close(batch[i : i + 1], single, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "arguments",
    [
        {"guidance_scale": 3.0},
        {"negative_prompt": "a house"},
        {"style_image": picture(20, seed=3)},
        {"regions": [PaintRegion("red cat", (0.0, 0.0, 0.5, 1.0))], "region_strength": 5.0},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_it_takes_the_arguments_of_text_to_image(edit, arguments):
    run = {"image": picture(), "strength": 0.8, "guidance_scale": 2.0}
    changed = draw(edit, **{**run, **arguments})
    assert changed.isfinite().all() and (changed - draw(edit, **run)).abs().max() > 1e-4
    # none of it is left of a call that fails
    with pytest.raises(TypeError, match="steps"):
        draw(edit, steps=3, **run)
    assert not hasattr(edit, "_start")


def test_experts_are_chosen_by_the_noise_level():
    """The expert of the high noise is not called when no such step runs."""
    low, high = tiny_unet(4), tiny_unet(7)
    pipe = tiny_pipeline(unet=ExpertRouterUNet.from_unets([low, high], [1.0]))
    calls = []
    for name, expert in (("low", low), ("high", high)):
        expert.register_forward_hook(lambda *_, name=name: calls.append(name))
    edit = img2img(pipe)
    draw(edit, image=picture(), sigma_start=0.9, num_inference_steps=10)
    assert set(calls) == {"low"}
    calls.clear()
    draw(edit, image=picture(), sigma_start=20.0, num_inference_steps=10)
    assert set(calls) == {"low", "high"} and calls == sorted(calls)


def test_a_callback_counts_what_runs_and_may_interrupt(edit):
    seen = []

    def watch(pipe, step, timestep, tensors):
        seen.append(step)
        pipe._interrupt = step == 3
        return {}

    draw(edit, image=picture(), strength=0.6, height=SR256, callback_on_step_end=watch)
    assert seen == [0, 1, 2, 3]
    assert edit.num_timesteps == 3 + STEPS


def test_half_precision(pipe):
    """The sample stays in float32: only what the network returns is coarser, here times sigma_min."""
    half = img2img(tiny_pipeline(unet=tiny_unet(4).to(torch.bfloat16)))
    run = {"image": picture(), "guidance_scale": 1.0}
    image = draw(half, strength=0.6, **run)
    assert image.dtype == torch.float32 and image.isfinite().all()
    exact = draw(img2img(pipe), strength=0.01, **run)
    torch.testing.assert_close(draw(half, strength=0.01, **run), exact, atol=0.02, rtol=0)
    assert torch.equal(draw(half, strength=0, **run), pixels(picture()))


# --- a pipeline of diffusers ---


def test_from_pipe_shares_everything_there_and_back(pipe):
    pipe = tiny_pipeline(default_num_inference_steps=(2, 1, 1), unet=tiny_unet(4).to(torch.bfloat16))
    edit = EDiffIImg2ImgPipeline.from_pipe(pipe)
    back = EDiffIPipeline.from_pipe(edit)
    assert type(edit) is EDiffIImg2ImgPipeline and type(back) is EDiffIPipeline
    for other in (edit, back):
        assert all(other.components[name] is part for name, part in pipe.components.items())
        assert other.config.default_num_inference_steps == (2, 1, 1)
    # diffusers casts to float32, the shared weights of the first pipeline, too
    assert pipe.unet.dtype == torch.bfloat16 and pipe.text_encoder.dtype == torch.float32
    EDiffIPipeline.from_pipe(edit, dtype=torch.float32)
    assert pipe.unet.dtype == torch.float32
    assert EDiffIImg2ImgPipeline.from_pipe(pipe, unet_sr1024=None).unet_sr1024 is None


def test_offload_goes_on_in_the_other_pipeline():
    """To accelerate `cpu:0` is another device than `cpu`, so the hooks run without an accelerator, too."""
    pipe = tiny_pipeline(text_encoder=tiny_pipeline().text_encoder)
    pipe.enable_model_cpu_offload(device="cpu:0")
    hook = pipe.unet._hf_hook
    edit = img2img(pipe)
    try:
        assert edit.unet._hf_hook is hook and edit._execution_device == torch.device("cpu:0")
        assert draw(edit, image=picture()).isfinite().all()
        edit.enable_model_cpu_offload(device="cpu:0")
        assert draw(edit, image=picture()).isfinite().all()
    finally:
        edit.remove_all_hooks()


def test_the_same_folders_make_all_pipelines(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "text")
    loaded = EDiffIImg2ImgPipeline.from_pretrained(tmp_path / "text")
    loaded.set_progress_bar_config(disable=True)
    expected = draw(img2img(pipe), image=picture())
    assert torch.equal(draw(loaded, image=picture()), expected)
    loaded.save_pretrained(tmp_path / "image")
    assert type(DiffusionPipeline.from_pretrained(tmp_path / "image")) is EDiffIImg2ImgPipeline
    assert type(EDiffIPipeline.from_pretrained(tmp_path / "image")) is EDiffIPipeline
    assert diffusers.EDiffIImg2ImgPipeline is EDiffIImg2ImgPipeline


def test_the_signature_names_all_arguments():
    base = inspect.signature(EDiffIPipeline.__call__).parameters
    arguments = inspect.signature(EDiffIImg2ImgPipeline.__call__).parameters
    assert list(arguments)[:5] == ["self", "prompt", "image", "strength", "sigma_start"]
    assert set(arguments) == {*base, "image", "strength", "sigma_start"}
    assert all(arguments[name].default == base[name].default for name in base)


# --- bad input ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": None}, "an image must be a PIL image.*got None"),
        ({"image": "cat.png"}, "got 'cat.png'; read files"),
        ({"image": []}, "image holds no pixels"),
        ({"image": Image.new("RGB", (0, 8))}, "image holds no pixels"),
        ({"image": np.full((8, 8, 3), 2.0)}, r"must lie in \[0, 1\]"),
        ({"image": np.full((8, 8, 3), np.nan)}, r"must lie in \[0, 1\]"),
        ({"image": [picture()] * 3}, "image holds 3 pictures for 1 prompts"),
        ({"strength": 1.1}, r"strength=1.1 must lie in \[0, 1\]"),
        ({"strength": -0.1}, "strength=-0.1"),
        ({"strength": float("nan")}, "strength=nan"),
        ({"strength": True}, "strength=True"),
        ({"strength": "0.7"}, "strength='0.7'"),
        ({"strength": None}, "strength=None"),
        ({"strength": (0.5, 2)}, r"strength=\(0.5, 2\)"),
        ({"strength": ()}, r"\(\) must be one number"),
        ({"strength": (1, 1, 1, 1)}, "one for each stage"),
        ({"strength": (0.5, 0), "height": SR256}, "strength 0 in SR256 would put the input"),
        ({"sigma_start": 81.0}, r"sigma_start=81.0 is not a noise level of base 8x8, whose steps go from 80 to 0.002"),
        ({"sigma_start": 0.001}, "choose one in between, or strength=0"),
        ({"sigma_start": 2.5, "strength": 0.5}, "strength=0.5 and sigma_start=2.5 both say where a stage begins"),
        ({"sigma_start": (2.5, 1), "strength": (0.5, 1)}, r"strength=\(0.5, 1\) and sigma_start=2.5 both say"),
        ({"sigma_start": 0}, "sigma_start=0 must be a noise level above 0"),
        ({"sigma_start": float("inf")}, "sigma_start=inf"),
        ({"sigma_start": (None, 90), "height": SR256}, "sigma_start=90 is not a noise level of SR256"),
        ({"height": 9}, "height=9"),
        ({"prompt": ""}, "prompt='' is empty"),
    ],
    ids=as_id,
)
def test_bad_input_is_refused_before_anything_runs(edit, monkeypatch, arguments, message):
    monkeypatch.setattr(edit, "encode_prompt", None)  # what is expensive begins here
    prompt = arguments.pop("prompt", PROMPT)
    with pytest.raises(ValueError, match=message):
        draw(edit, prompt, **{"image": picture(), **arguments})
    assert not hasattr(edit, "_start")

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Repainting a part of an image, on networks that are tiny and random but real."""

import inspect

import diffusers
import numpy as np
import pytest
import torch
from helpers import PROMPT, SIZES, as_id, seeded, tiny_pipeline, tiny_unet
from helpers_editing import SCHEDULERS, STEPS, draw, img2img, picture, pixels, seeds
from PIL import Image

from diffusers_ediffi import EDiffIInpaintPipeline, EDiffIPipeline, ExpertRouterUNet, PaintRegion

BASE, SR256, SR1024 = SIZES


def inpaint(pipe):
    pipe = EDiffIInpaintPipeline.from_pipe(pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def fill(pipe):
    return inpaint(pipe)


def mask(size=BASE):
    """The left half is repainted."""
    half = Image.new("L", (size, size))
    half.paste(255, (0, 0, size // 2, size))
    return half


def noise_picture(size):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8))


# --- what is kept and what is drawn ---


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
@pytest.mark.parametrize("size", [BASE, SR256])
def test_what_is_not_masked_keeps_its_very_pixels(scheduler, size):
    """Of an image in the size of the output, in any solver, whether or not it ends at zero noise."""
    parts = {name: type(scheduler).from_config(scheduler.config) for name in ("scheduler", "scheduler_sr256")}
    fill = inpaint(tiny_pipeline(**parts))
    image = noise_picture(size)
    run = {"image": image, "mask_image": mask(size), "height": size, "num_inference_steps": 2, "output_type": "pil"}
    for strength in (1.0, (0.5, 0.5)):
        drawn, original = np.array(draw(fill, strength=strength, **run)[0]), np.array(image)
        half = size // 2
        assert (drawn[:, half:] == original[:, half:]).all() and (drawn[:, :half] != original[:, :half]).any()


def test_a_larger_image_is_kept_in_the_size_of_the_output(fill):
    image = noise_picture(100)
    drawn = draw(fill, image=image, mask_image=mask(300), height=SR1024, num_inference_steps=2)
    assert torch.equal(drawn[..., SR1024 // 2 + 1 :], pixels(image, SR1024)[..., SR1024 // 2 + 1 :])


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_an_all_white_mask_is_text_to_image(scheduler):
    pipe = tiny_pipeline(scheduler=type(scheduler).from_config(scheduler.config))
    run = {"height": SR256, "num_inference_steps": 2}
    white = Image.new("1", (8, 8), 1)
    assert torch.equal(draw(inpaint(pipe), image=picture(), mask_image=white, **run), draw(pipe, **run))


def test_an_all_white_mask_is_image_to_image_at_less_strength(pipe, fill):
    run = {"image": picture(), "height": SR256, "strength": (0.6, 0.4)}
    assert torch.equal(draw(fill, mask_image=np.ones((8, 8)), **run), draw(img2img(pipe), **run))
    assert fill.start_sigmas[0] < 80 and fill.num_timesteps == 3 + 2


def test_the_network_sees_the_image_at_the_noise_level_of_each_step(fill):
    image, noise = picture(), torch.randn(1, 3, BASE, BASE, generator=seeded(1))
    seen = []
    handle = fill.unet.register_forward_pre_hook(lambda unet, arguments: seen.append(arguments[0][:1]))
    draw(fill, image=image, mask_image=mask(), latents=noise)
    handle.remove()
    assert len(seen) == STEPS
    for model_input, sigma in zip(seen, fill.scheduler.sigmas, strict=False):
        expected = (pixels(image) + sigma * noise) / (sigma**2 + 0.5**2) ** 0.5
        torch.testing.assert_close(model_input[..., 4:], expected[..., 4:])


def test_super_resolution_refines_what_the_base_painted(fill):
    """Its low-resolution input is the base image with the part that was kept."""
    seen = []
    handle = fill.unet_sr256.register_forward_pre_hook(lambda unet, arguments: seen.append(arguments[0][:1, 3:]))
    base = {}

    def watch(pipe, step, timestep, tensors):
        base.setdefault(step, tensors["latents"])
        return {}

    draw(fill, image=picture(), mask_image=mask(), height=SR256, callback_on_step_end=watch)
    handle.remove()
    assert torch.equal(base[STEPS - 1][..., 4:], pixels(picture())[..., 4:])
    upsampled = torch.nn.functional.interpolate(base[STEPS - 1].clamp(-1, 1), size=SR256, mode="bicubic")
    torch.testing.assert_close(seen[0], upsampled.clamp(-1, 1))


def test_grey_blends(fill):
    """By its share, in one step from the same sample: (1 - m) image + m (what a white mask would draw)."""
    run = {"image": picture(), "num_inference_steps": 1, "sigma_start": 80.0}
    shares = np.tile(np.linspace(0, 1, BASE, dtype=np.float32), (BASE, 1))
    white = draw(fill, mask_image=np.ones((BASE, BASE)), **run)
    blended = draw(fill, mask_image=shares, **run)
    torch.testing.assert_close(blended, pixels(picture()).lerp(white, torch.from_numpy(shares)))


def test_strength_0_paints_nothing(fill):
    assert torch.equal(draw(fill, image=picture(), mask_image=mask(), strength=0), pixels(picture()))


# --- what a mask may be ---


def test_forms_of_a_mask(fill):
    array = np.array(mask())
    forms = (
        array,
        array == 255,
        array.astype(np.float64) / 255,
        torch.from_numpy(array)[None],
        torch.from_numpy(array)[None, None] / 255,
        [mask()],
        mask().convert("1"),
        mask().convert("RGB"),
    )
    expected = draw(fill, image=picture(), mask_image=mask())
    assert all(torch.equal(draw(fill, image=picture(), mask_image=form), expected) for form in forms)


def test_a_mask_follows_the_image_that_it_was_drawn_over(fill):
    """Both are squeezed to the square of the stage alike."""
    image = noise_picture(64).resize((64, 32))
    wide = Image.new("L", (32, 16))
    wide.paste(255, (0, 0, 16, 16))
    drawn = draw(fill, image=image, mask_image=wide)
    assert torch.equal(drawn[..., 5:], pixels(image)[..., 5:])


# --- batches and everything else that a call may say ---


@pytest.mark.parametrize("shared", ["neither", "image", "mask"])
def test_one_image_and_mask_for_all_prompts_or_one_for_each(fill, shared):
    prompts, images = ["a red cat", "a blue house"], [picture(seed=0), picture(seed=1)]
    masks = [mask(), mask().transpose(Image.Transpose.ROTATE_90)]
    images = images[:1] * 2 if shared == "image" else images
    masks = masks[:1] * 2 if shared == "mask" else masks
    run = {"strength": (1, 0.6), "height": SR256, "num_inference_steps": 2}
    batch = draw(
        fill,
        prompts,
        image=images[0] if shared == "image" else images,
        mask_image=masks[0] if shared == "mask" else masks,
        num_images_per_prompt=2,
        generator=seeds(4),
        **run,
    )
    for i in (0, 3):
        alone = {"image": images[i // 2], "mask_image": masks[i // 2], "generator": seeded(i)}
        single = draw(fill, prompts[i // 2], **alone, **run)
        torch.testing.assert_close(batch[i : i + 1], single, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "arguments",
    [
        {"guidance_scale": 3.0},
        {"style_image": picture(20, seed=3)},
        {"regions": [PaintRegion("red cat", (0.0, 0.0, 0.5, 1.0), seed=3)], "region_strength": 5.0},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_it_takes_the_arguments_of_text_to_image(fill, arguments):
    run = {"image": picture(), "mask_image": mask(), "guidance_scale": 2.0}
    changed, plain = draw(fill, **{**run, **arguments}), draw(fill, **run)
    assert (changed - plain)[..., :4].abs().max() > 1e-4 and torch.equal(changed[..., 4:], plain[..., 4:])


def test_experts_and_half_precision():
    experts = [tiny_unet(seed).to(torch.bfloat16) for seed in (4, 7)]
    fill = inpaint(tiny_pipeline(unet=ExpertRouterUNet.from_unets(experts, [1.0])))
    drawn = draw(fill, image=picture(), mask_image=mask())
    assert drawn.isfinite().all() and torch.equal(drawn[..., 4:], pixels(picture())[..., 4:])


def test_callbacks_see_the_blended_sample(fill):
    image, seen = picture(), []

    def watch(pipe, step, timestep, tensors):
        seen.append(tensors["latents"])
        return {"latents": torch.zeros_like(tensors["latents"])} if step == STEPS - 1 else {}

    drawn = draw(fill, image=image, mask_image=mask(), callback_on_step_end=watch)
    assert len(seen) == STEPS and not drawn.any()  # what the last one says, counts
    assert torch.equal(seen[-1][..., 4:], pixels(image)[..., 4:])


def test_from_pipe_from_pretrained_and_the_signature(pipe, tmp_path):
    back = EDiffIPipeline.from_pipe(EDiffIInpaintPipeline.from_pipe(img2img(pipe)))
    assert all(back.components[name] is part for name, part in pipe.components.items())
    pipe.save_pretrained(tmp_path)
    loaded = EDiffIInpaintPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    run = {"image": picture(), "mask_image": mask()}
    assert torch.equal(draw(loaded, **run), draw(inpaint(pipe), **run))
    arguments = inspect.signature(EDiffIInpaintPipeline.__call__).parameters
    assert list(arguments)[:6] == ["self", "prompt", "image", "mask_image", "strength", "sigma_start"]
    assert {*inspect.signature(EDiffIPipeline.__call__).parameters} < {*arguments}
    assert diffusers.EDiffIInpaintPipeline is EDiffIInpaintPipeline


# --- bad input ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_image": None}, "mask_image is missing"),
        ({"mask_image": []}, "mask_image is empty"),
        ({"mask_image": "mask.png"}, "mask_image is of type str; give an image"),
        ({"mask_image": np.zeros((8, 8))}, "mask_image is zero everywhere; paint white"),
        ({"mask_image": Image.new("L", (8, 8))}, "mask_image is zero everywhere"),
        ({"mask_image": np.full((8, 8), np.nan)}, "mask_image holds NaN"),
        ({"mask_image": np.full((8, 8), 2.0)}, "mask_image has values from 2 to 2"),
        ({"mask_image": np.ones((8, 8, 3))}, r"mask_image has the shape \(8, 8, 3\)"),
        ({"mask_image": np.ones((8, 16))}, r"mask_image is 16 x 8 \(width x height\), which does not cover an image"),
        ({"mask_image": [np.ones((8, 8))] * 2}, "mask_image holds 2 pictures for 1 prompts"),
        ({"image": None}, "an image must be a PIL image"),
        ({"strength": 2}, "strength=2"),
        ({"sigma_start": 2.5, "strength": 0.5}, "strength=0.5 and sigma_start=2.5 both say where a stage begins"),
        ({"sigma_start": 100}, "sigma_start=100"),
    ],
    ids=as_id,
)
def test_bad_input_is_refused_before_anything_runs(fill, monkeypatch, arguments, message):
    monkeypatch.setattr(fill, "encode_prompt", None)  # what is expensive begins here
    with pytest.raises(ValueError, match=message):
        draw(fill, PROMPT, **{"image": picture(), "mask_image": mask(), **arguments})

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What each encoder contributes, where guidance acts, and what it costs: on one Euler step, which is linear in F."""

import copy
import logging
import math

import pytest
import torch
from diffusers.guiders.guider_utils import rescale_noise_cfg
from helpers import SIZES, draw, embeddings, picture, seeded, tiny_components, tiny_pipeline

from diffusers_ediffi import EDMDEISScheduler, ExpertRouterUNet, PaintRegion, record_attention
from diffusers_ediffi.edm import denoised_from_model_output
from diffusers_ediffi.models.encoder_table import ENCODERS
from diffusers_ediffi.pipelines.guidance import Guidance
from diffusers_ediffi.pipelines.parametrization import Parametrization

BASE, SR256, SR1024 = SIZES
PROMPTS = ["a red cat above a house", "a dog"]
REGIONS = [[PaintRegion("red cat", (0.0, 0.0, 0.5, 1.0))], [PaintRegion("dog", (0.3, 0.2, 1.0, 0.9))]]
WEIGHTS = {"t5": 5.0, "clip_text": -3.0, "clip_image": 1.5}
NEGATIVE = "an owl"


def batch(pipe, prompt=PROMPTS, **arguments):
    """One step for two prompts with a style each."""
    run = {"num_inference_steps": 1, "generator": [seeded(), seeded(1)], "style_image": [picture(0), picture(1)]}
    return draw(pipe, list(prompt), **{**run, **arguments})


def rows_of_calls(pipe, run):
    """How many rows every call of the base network had."""
    rows = []
    handle = pipe.unet.register_forward_pre_hook(lambda unet, args: rows.append(len(args[0])))
    try:
        run()
    finally:
        handle.remove()
    return rows


# --- encoders ---


def test_all_encoders_are_the_default(base_pipe):
    plain = batch(base_pipe, negative_prompt=NEGATIVE)
    assert torch.equal(batch(base_pipe, negative_prompt=NEGATIVE, encoders=["clip_image", "t5", "clip_text"]), plain)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_what_is_switched_off_is_the_dropped_condition(base_pipe, encoder):
    """The same as passing the embeddings of this encoder alone, in the negative prompt as well."""
    names = ["prompt_embeds", "pooled_prompt_embeds", "prompt_embeds_2", "prompt_attention_mask_2"]
    names += [f"negative_{name}" for name in names]
    encoded = dict(zip(names, base_pipe.encode_prompt(PROMPTS, NEGATIVE), strict=True))
    pixels = base_pipe.feature_extractor(images=[picture(0), picture(1)], return_tensors="pt").pixel_values
    encoded["image_embeds"] = base_pipe.image_encoder(pixels).image_embeds.detach()
    names = ENCODERS[encoder].embeddings
    alone = {name: value for name, value in encoded.items() if name.removeprefix("negative_") in names}

    def of_embeddings(**arguments):
        return draw(base_pipe, None, generator=[seeded(), seeded(1)], **arguments)

    alone = of_embeddings(**alone)
    assert torch.equal(of_embeddings(**encoded, encoders=(encoder,)), alone)
    assert torch.equal(batch(base_pipe, negative_prompt=NEGATIVE, encoders=[encoder], num_inference_steps=2), alone)
    assert not torch.equal(batch(base_pipe, negative_prompt=NEGATIVE, num_inference_steps=2), alone)


def test_an_encoder_that_is_switched_off_does_not_run(base_pipe):
    def ran(*_):
        raise AssertionError("it ran")

    expected = batch(base_pipe, encoders=["clip_text"])
    for name in ("text_encoder_2", "image_encoder"):
        setattr(base_pipe, name, copy.deepcopy(getattr(base_pipe, name)))
        getattr(base_pipe, name).register_forward_pre_hook(ran)
    assert torch.equal(batch(base_pipe, encoders=["clip_text"], negative_prompt=None), expected)


def test_every_stage_sees_the_chosen_encoders_alone(pipe):
    plain = draw(pipe, encoders=["t5", "clip_text"])
    assert torch.equal(draw(pipe, style_image=picture(), encoders=["t5", "clip_text"]), plain)
    seen = []
    for unet in (pipe.unet_sr256, pipe.unet_sr1024):
        seen.append(unet.register_forward_pre_hook(check_that_clip_is_dropped, with_kwargs=True))
    try:
        draw(pipe, encoders=["t5"])
    finally:
        for handle in seen:
            handle.remove()


def test_a_scheduled_prompt_is_read_by_the_chosen_encoders_alone(base_pipe):
    schedule = [("a red cat", 0.0), ("a dog", 0.5)]
    handle = base_pipe.unet.register_forward_pre_hook(check_that_clip_is_dropped, with_kwargs=True)
    try:
        images = draw(
            base_pipe, None, prompt_schedule=schedule, encoders=["t5"], regions=[PaintRegion("a", (0, 0, 1, 1))]
        )
    finally:
        handle.remove()
    assert not torch.equal(images, draw(base_pipe, "a red cat", encoders=["t5"]))


def check_that_clip_is_dropped(unet, args, kwargs):
    assert kwargs["encoder_hidden_states"] is None and kwargs["encoder_hidden_states_2"] is not None
    assert set(kwargs["added_cond_kwargs"].values()) == {None}


# --- a weight for each encoder ---


@pytest.mark.parametrize("regions", [None, REGIONS], ids=["plain", "painted"])
@pytest.mark.parametrize("negative_prompt", [None, NEGATIVE])
def test_weights_are_the_sum_over_separate_calls(base_pipe, regions, negative_prompt):
    """D_none + sum of w_k (D_k - D_none); the unconditional row and that of the image have no text to paint."""

    def alone(encoder):
        painted = regions if encoder != "clip_image" else None
        return batch(base_pipe, guidance_scale=1.0, encoders=[encoder], regions=painted)

    if negative_prompt is None:
        zeros = {name: torch.zeros_like(value) for name, value in embeddings(base_pipe, PROMPTS).items()}
        zeros["prompt_attention_mask_2"] += 1
        run = {"num_inference_steps": 1, "generator": [seeded(), seeded(1)], "output_type": "latent"}
        none = base_pipe(**zeros, guidance_scale=1.0, **run).images
    else:
        none = batch(base_pipe, [negative_prompt] * 2, guidance_scale=1.0, encoders=["t5", "clip_text"])
    expected = none + sum(weight * (alone(encoder) - none) for encoder, weight in WEIGHTS.items())
    got = batch(base_pipe, guidance_scale=WEIGHTS, negative_prompt=negative_prompt, regions=regions)
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=1e-3)
    if regions:
        plain = batch(base_pipe, guidance_scale=WEIGHTS, negative_prompt=negative_prompt)
        assert (got - plain).abs().max() > 0.1, "paint shows"


def test_one_call_per_step_with_a_row_for_each_weight(base_pipe):
    for scale, rows in (
        (1.0, 1),
        (5.0, 2),
        ({"t5": 5}, 2),
        ({"t5": 5, "clip_text": 3}, 3),
        ({"t5": 5, "clip_text": 0, "clip_image": 1}, 3),
        (WEIGHTS, 4),
        ({"t5": 0}, 1),
    ):
        calls = rows_of_calls(base_pipe, lambda scale=scale: batch(base_pipe, guidance_scale=scale))
        assert calls == [2 * rows], scale


def test_one_weight_is_guidance_by_this_encoder(base_pipe):
    for encoder in ENCODERS:
        by_weight = batch(base_pipe, guidance_scale={encoder: 4.0}, num_inference_steps=2)
        expected = batch(base_pipe, guidance_scale=4.0, encoders=[encoder], num_inference_steps=2)
        assert torch.equal(by_weight, expected)


@pytest.mark.parametrize("regions", [None, REGIONS])
def test_without_any_weight_the_model_is_unconditional(base_pipe, regions):
    nothing = batch(base_pipe, guidance_scale={"t5": 0.0}, negative_prompt=NEGATIVE, regions=regions)
    negative = batch(base_pipe, [NEGATIVE] * 2, guidance_scale=1.0, encoders=["t5", "clip_text"])
    torch.testing.assert_close(nothing, negative, atol=1e-4, rtol=1e-4)


def test_weights_are_for_the_base(pipe):
    """Alone they leave the other stages their defaults; in a tuple these have numbers."""
    weights = {"t5": 3.0, "clip_text": 2.0}
    default = pipe.config.default_guidance_scale
    alone = draw(pipe, guidance_scale=weights)
    assert torch.equal(alone, draw(pipe, guidance_scale=(weights, *default[1:])))
    assert not torch.equal(alone, draw(pipe, guidance_scale=(weights, 2.0, 1.0)))
    assert pipe.guidance_scale == 1.0, "the stage that ran last"


@pytest.mark.parametrize("others", [(), (1.0,), (1.0, "5")])
def test_the_error_names_the_weights_that_were_passed(pipe, others):
    with pytest.raises(ValueError, match=r"guidance_scale=\(\{'t5': 5\}"):
        draw(pipe, guidance_scale=({"t5": 5}, *others))


def test_a_callback_may_change_a_weight(base_pipe):
    def change(pipe, step, timestep, tensors):
        assert pipe.do_classifier_free_guidance and pipe.guidance_scale is pipe._guidance_scale
        pipe._guidance_scale = {**pipe.guidance_scale, "t5": 0.0} if step else {"t5": 2.0, "clip_text": 1.0}
        return {}

    weights = {"t5": 1.0}
    changed = []
    calls = rows_of_calls(
        base_pipe,
        lambda: changed.append(
            batch(base_pipe, guidance_scale=weights, num_inference_steps=3, callback_on_step_end=change)
        ),
    )
    assert calls == [4, 6, 4] and weights == {"t5": 1.0}
    assert not torch.equal(changed[0], batch(base_pipe, guidance_scale=weights, num_inference_steps=3))


@pytest.mark.parametrize("regions", [None, REGIONS])
def test_a_batch_in_parts_is_the_same_and_no_part_is_larger(base_pipe, regions):
    """Four rows for each image: half as many images pass at a time."""
    run = {"guidance_scale": WEIGHTS, "num_images_per_prompt": 2, "regions": regions, "negative_prompt": NEGATIVE}

    def four():
        return batch(base_pipe, generator=[seeded(i) for i in range(4)], **run)

    whole, parts = four(), []
    base_pipe.pixels_per_call = 3 * BASE**2
    calls = rows_of_calls(base_pipe, lambda: parts.append(four()))
    assert calls == [4, 4, 4, 4]
    torch.testing.assert_close(parts[0], whole, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("regions", [None, REGIONS])
def test_attention_is_recorded_for_the_last_weight(base_pipe, regions):
    """In the first step the input is the same, whatever the guidance."""

    def shares(**arguments):
        with record_attention(base_pipe) as recorder:
            batch(base_pipe, regions=regions, **arguments)
        return recorder.shares()

    weighted = shares(guidance_scale={"clip_image": 2.0, "t5": 3.0, "clip_text": 4.0})
    clip_text, t5 = (shares(guidance_scale=1.0, encoders=[name]) for name in ("clip_text", "t5"))
    for name, share in weighted.items():
        torch.testing.assert_close(share, clip_text[name], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(weighted["t5"], t5["t5"], atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    parts = tiny_components().items()
    networks = {name: copy.deepcopy(part).to(dtype) for name, part in parts if isinstance(part, torch.nn.Module)}
    half, full = tiny_pipeline(**networks), tiny_pipeline()
    run = {"height": BASE, "guidance_scale": WEIGHTS, "guidance_rescale": 0.7, "regions": REGIONS}
    images, expected = batch(half, **run), batch(full, **run)
    assert images.dtype == torch.float32
    assert (images - expected).norm() < 0.1 * expected.norm()


# --- an interval, and rescaling ---


def test_off_is_the_plain_call(base_pipe):
    plain = batch(base_pipe, num_inference_steps=3)
    off = {"guidance_interval": None, "guidance_rescale": 0.0, "encoders": None}
    assert torch.equal(batch(base_pipe, num_inference_steps=3, **off), plain)
    assert torch.equal(batch(base_pipe, num_inference_steps=3, guidance_interval=(0, math.inf)), plain)


def test_outside_of_the_interval_there_is_no_guidance_at_half_the_cost(base_pipe):
    """Steps at sigma 80, 2.5 and 0.002."""
    run = {"num_inference_steps": 3, "guidance_scale": 6.0}

    def guided_in_the_middle(pipe, step, timestep, tensors):
        pipe._guidance_scale = 6.0 if step == 0 else 1.0
        return {}

    images = []
    calls = rows_of_calls(
        base_pipe, lambda: images.append(batch(base_pipe, **{**run, "guidance_interval": (0.1, 10.0)}))
    )
    assert calls == [2, 4, 2]
    by_callback = {**run, "guidance_scale": 1.0, "callback_on_step_end": guided_in_the_middle}
    # Both know the negative prompt, which is nothing here.
    assert torch.equal(images[0], batch(base_pipe, **by_callback))
    unguided = batch(base_pipe, **{**run, "guidance_scale": 1.0})
    assert torch.equal(batch(base_pipe, **run, guidance_interval=(100.0, math.inf)), unguided)


def test_the_interval_holds_its_upper_end_alone():
    for sigma, rows in ((1.0, 1), (1.1, 2), (2.0, 2), (2.1, 1)):
        assert len(Guidance.at(sigma, 5.0, (1.0, 2.0)).rows) == rows


def test_outside_of_the_interval_weights_mean_all_that_guide(base_pipe):
    weights = {"t5": 5.0, "clip_text": 0.0, "clip_image": 2.0}
    outside = batch(base_pipe, guidance_scale=weights, guidance_interval=(0, 1), regions=REGIONS)
    expected = batch(base_pipe, guidance_scale=1.0, encoders=["t5", "clip_image"], regions=REGIONS)
    torch.testing.assert_close(outside, expected, atol=1e-4, rtol=1e-4)


def test_all_stages_of_a_runge_kutta_step_are_guided_or_none(base_pipe):
    """Steps begin at 80 and 0.4; the second stage of the first one lies at half of 80."""
    base_pipe.scheduler = EDMDEISScheduler.from_preset("paper_base")
    run = {"num_inference_steps": 2, "guidance_scale": 6.0}
    calls = rows_of_calls(base_pipe, lambda: batch(base_pipe, **run, guidance_interval=(60.0, 100.0)))
    assert calls == [4, 4, 4, 2, 2, 2, 2]


def test_an_experts_own_scale_holds_for_numbers_and_inside_of_the_interval(base_pipe):
    """Two steps, at sigma 80 and 0.002, go to two experts."""
    unet = base_pipe.unet
    base_pipe.unet = ExpertRouterUNet.from_unets([unet, unet], [1.0], guidance_scales=[None, 3.0])
    run = {"num_inference_steps": 2, "guidance_rescale": 0.5}
    first_only = {"guidance_interval": (1.0, math.inf)}
    guided_by_experts = batch(base_pipe, **run, **first_only)
    calls = rows_of_calls(base_pipe, lambda: batch(base_pipe, **run, **first_only))
    assert calls == [4, 2]
    calls = rows_of_calls(base_pipe, lambda: batch(base_pipe, **run, guidance_interval=(0.0, 1.0)))
    assert calls == [2, 4]
    by_weights = batch(base_pipe, **run, guidance_scale=WEIGHTS)
    base_pipe.unet = unet
    assert torch.equal(batch(base_pipe, **run, **first_only, guidance_scale=3.0), guided_by_experts)
    assert torch.equal(batch(base_pipe, **run, guidance_scale=WEIGHTS), by_weights)


def predictions(rows=3):
    """F of two images in `rows` rows, the noisy images, and what F says of the denoised ones."""
    output, sample = torch.randn(2 * rows, 3, 8, 8, generator=seeded()), torch.randn(2, 3, 8, 8, generator=seeded(1))
    sigma = 0.8
    return output, sigma * sample, Parametrization("edm", 0.5).coefficients(torch.tensor(sigma)), sigma


def stds(images):
    return images.std(dim=(1, 2, 3))


@pytest.mark.parametrize("phi", [0.3, 1.0])
def test_rescaling_is_diffusers_function_on_the_denoised_image(phi):
    output, sample, coefficients, sigma = predictions(2)
    guidance = Guidance.at(sigma, 7.0)
    rescaled, guided = (guidance.combine(output, sample, coefficients, r) for r in (phi, 0.0))
    conditional = output[2:]
    rescaled, guided, conditional = (
        denoised_from_model_output(f, sample, sigma) for f in (rescaled, guided, conditional)
    )
    torch.testing.assert_close(rescaled, rescale_noise_cfg(guided, conditional, phi), atol=1e-5, rtol=1e-5)
    if phi == 1:
        torch.testing.assert_close(stds(rescaled), stds(conditional))
        assert (stds(guided) > 2 * stds(conditional)).all()


def test_rescaling_of_weights_goes_by_the_mean_of_the_conditional_images():
    output, sample, coefficients, sigma = predictions(3)
    guidance = Guidance.at(sigma, {"t5": 6.0, "clip_text": -2.0})
    rescaled = guidance.combine(output, sample, coefficients, 1.0)
    t5, clip_text = (denoised_from_model_output(f, sample, sigma) for f in (output[2:4], output[4:]))
    expected = stds(0.75 * t5 + 0.25 * clip_text)
    torch.testing.assert_close(stds(denoised_from_model_output(rescaled, sample, sigma)), expected)


def test_rescaling_in_the_pipeline(pipe):
    def run(guidance_scale, guidance_rescale, seeds=(0, 1)):
        generator = [seeded(seed) for seed in seeds]
        scales = {"guidance_scale": guidance_scale, "guidance_rescale": guidance_rescale}
        steps = {"num_inference_steps": (3, 2, 1), "num_images_per_prompt": len(seeds)}
        return draw(pipe, generator=generator, **scales, **steps)

    images = run((8.0, 4.0, 1.0), 0.7)
    assert pipe.guidance_rescale == 0.7
    assert not torch.equal(images, run((8.0, 4.0, 1.0), 0.0))
    torch.testing.assert_close(images[1:], run((8.0, 4.0, 1.0), 0.7, seeds=(1,)), atol=1e-3, rtol=1e-3)
    assert torch.equal(run(1.0, 0.7), run(1.0, 0.0)), "there is nothing to bring back"


def test_static_thresholding_keeps_a_strongly_guided_image_in_range(base_pipe):
    """Euler's last step ends in D itself."""
    run = {"num_inference_steps": 6, "guidance_scale": 30.0}
    base_pipe.scheduler = EDMDEISScheduler(degree=0, corrector=False)
    assert batch(base_pipe, **run).abs().max() > 2
    base_pipe.scheduler = EDMDEISScheduler(degree=0, corrector=False, thresholding=True)
    assert batch(base_pipe, **run).abs().max() <= 1


# --- words that do not fit ---


def test_words_that_are_lost_are_named_in_every_text(base_pipe, caplog, monkeypatch):
    """The tiny tokenizers spend a token on each letter: CLIP reads 75 of them, T5 112."""
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    long, longer = "a" * 80 + " zebra", "b" * 130 + " yak"
    run = {"num_inference_steps": 1, "guidance_scale": 2.0}

    def lost(prompt, **arguments):
        caplog.clear()
        draw(base_pipe, prompt, **run, **arguments)
        messages = [record.getMessage() for record in caplog.records]
        return [(message.split()[0], message.split(": ")[-1]) for message in messages]

    assert lost("a cat", negative_prompt="a dog") == []
    assert lost(long) == [("CLIP", "'aaaaa zebra'.")]
    clip, t5 = lost(longer)
    assert clip[0] == "CLIP" and t5[0] == "T5" and clip[1].endswith("b yak'.") and t5[1].endswith("b yak'.")
    assert len(t5[1]) < len(clip[1])
    assert lost("a cat", negative_prompt=long) == [("CLIP", "'aaaaa zebra'.")]
    assert lost(["a cat", "a dog"], negative_prompt=["a", longer], generator=[seeded()] * 2) == [clip, t5]
    two = {"prompt": ["a cat", "a dog"], "generator": [seeded()] * 2}
    assert lost(**two, negative_prompt=longer) == [clip, t5], "once, not for each image"
    assert lost(longer, encoders=["t5"]) == [t5], "an encoder that is switched off loses nothing"
    assert lost("a cat", negative_prompt=long, encoders=["t5"]) == []

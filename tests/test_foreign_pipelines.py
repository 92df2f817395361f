# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What is asked of the pipelines of diffusers: the noise level of a timestep, for every scheduler,
and what the rows of a batch are, for every form of it."""

from concurrent.futures import ThreadPoolExecutor

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPanoramaPipeline,
    StableDiffusionPipeline,
    StableDiffusionSAGPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
    StableDiffusionXLPipeline,
)
from helpers_diffusers import SD_BETAS, SDXL_BASE, SIZE, build, tiny_unet, unet_for
from helpers_paint import PROMPT, REGIONS, draw, paint, seeds

from diffusers_ediffi import paint_with_words, record_attention
from diffusers_ediffi.foreign_pipelines import NoiseLevels

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # diffusers 0.42, numpy 2.4


def schedulers():
    names = {scheduler.__name__ for scheduler in EulerDiscreteScheduler().compatibles}
    return sorted({name for name in names if not name.startswith("EDM")} | {"LCMScheduler", "TCDScheduler"})


@pytest.mark.parametrize("name", schedulers())
@pytest.mark.filterwarnings("ignore")
def test_sigma_is_that_of_the_timestep_which_the_unet_receives(name):
    kind = getattr(diffusers, name)
    try:
        pipe = build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline))
        pipe.scheduler = kind(**SD_BETAS)
        draw(pipe, steps=4)
    except (ImportError, ValueError) as error:  # torchsde
        pytest.skip(str(error))
    seen = []
    block = paint_with_words(pipe, PROMPT, REGIONS, strength=2.0)
    with block:
        record = lambda _, args, kwargs: seen.append((float(args[1]), block.painting.coefficient.item()))  # noqa: E731
        handle = pipe.unet.register_forward_pre_hook(record, with_kwargs=True)
        draw(pipe, steps=4)
    handle.remove()
    alphas = pipe.scheduler.alphas_cumprod.double().numpy()
    sigmas = np.sqrt((1 - alphas) / alphas)
    assert seen
    for timestep, coefficient in seen:
        sigma = min(np.interp(timestep, np.arange(1000), sigmas), 80)
        assert coefficient == pytest.approx(2 * np.log(1 + sigma), rel=1e-4)


def test_zero_terminal_snr_is_clamped():
    pipe = build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline))
    pipe.scheduler = DDIMScheduler(**SD_BETAS, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    assert NoiseLevels(pipe)(torch.tensor(999)) == 80
    assert paint(pipe).isfinite().all()


def test_edm_schedulers_say_sigma_in_their_timesteps():
    pipe = build(StableDiffusionXLPipeline, unet_for(StableDiffusionXLPipeline))
    pipe.scheduler = EDMEulerScheduler()
    assert NoiseLevels(pipe)(torch.tensor(80.0).log() / 4).item() == pytest.approx(80, rel=1e-5)
    assert (paint(pipe) - draw(pipe)).abs().max() > 1e-3


def test_a_scheduler_without_noise_levels_is_refused():
    pipe = build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline))
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match="noise levels of FlowMatchEulerDiscreteScheduler are not known"):
        paint_with_words(pipe, PROMPT, REGIONS)


# --- what the rows of a batch are ---

SHORT = {"num_inference_steps": 3, "height": SIZE, "width": SIZE, "output_type": "latent"}


def embeds_of(pipe, rows):
    return {"prompt_embeds": pipe.encode_prompt(PROMPT, "cpu", 1, False)[0].expand(rows, -1, -1)}


def without_guidance(pipe, step, timestep, tensors):
    if pipe.do_classifier_free_guidance:
        pipe._guidance_scale = 1.0
        tensors["prompt_embeds"] = tensors["prompt_embeds"][len(tensors["prompt_embeds"]) // 2 :]
    return tensors


def without_perturbation(pipe, step, timestep, tensors):
    pipe._pag_scale = 0.0
    return tensors


@pytest.mark.parametrize("images", [1, 2, 3])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("ends", [False, True], ids=["", "guidance ends"])
@pytest.mark.parametrize("form", ["texts", "images of a prompt", "embeddings"])
def test_every_image_is_painted_and_recorded_as_if_alone(form, ends, guidance, images):
    pipe = build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline))

    def run(count):
        given = {
            "texts": {"prompt": [PROMPT] * count},
            "images of a prompt": {"prompt": PROMPT, "num_images_per_prompt": count},
            "embeddings": {"prompt": None, **embeds_of(pipe, count)},
        }[form]
        if form == "embeddings" and guidance > 1:
            given["negative_prompt_embeds"] = 0 * given["prompt_embeds"]
        ended = {"callback_on_step_end": without_guidance, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
        given |= ended if ends and guidance > 1 else {}
        generator = [torch.Generator().manual_seed(3) for _ in range(count)]
        with paint_with_words(pipe, PROMPT, REGIONS, 1.0), record_attention(pipe) as recorder:
            drawn = pipe(guidance_scale=guidance, generator=generator, **given, **SHORT).images
        return drawn, recorder.masses()

    image, mass = run(1)
    batch, masses = run(images)
    torch.testing.assert_close(batch, image.expand_as(batch), rtol=0, atol=1e-4)
    torch.testing.assert_close(masses, mass.expand_as(masses), rtol=1e-3, atol=1e-5)


def uses(pipe):
    return paint_with_words(pipe, PROMPT, REGIONS, 1.0), record_attention(pipe)


def test_a_pipeline_with_three_rows_for_each_image_is_refused():
    """InstructPix2Pix's are [text, image, unconditional]."""
    parts = build(StableDiffusionPipeline, tiny_unet(in_channels=8)).components
    pipe = StableDiffusionInstructPix2PixPipeline(**parts, requires_safety_checker=False)
    for use in (lambda: uses(pipe)[0], lambda: uses(pipe)[1].__enter__()):
        with pytest.raises(ValueError, match="InstructPix2PixPipeline does not say which rows"):
            use()
    parts = build(StableDiffusionXLPipeline, tiny_unet(in_channels=8, **SDXL_BASE)).components
    pipe = StableDiffusionXLInstructPix2PixPipeline(
        **{name: part for name, part in parts.items() if name not in ("image_encoder", "feature_extractor")}
    )
    picture = torch.rand(1, 3, SIZE, SIZE)
    for block in uses(pipe):
        with block, pytest.raises(ValueError, match="with 3 rows where its 1 images and its guidance make 2"):
            draw(pipe, image=picture)


def test_crops_of_an_image_are_refused():
    pipe = StableDiffusionPanoramaPipeline(
        **build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline)).components, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    for block in uses(pipe):
        with block, pytest.raises(ValueError, match="draws crops of 64 x 64 of an image of 64 x 72"):
            draw(pipe, size=(64, 72), steps=1)


def test_rows_that_are_all_unconditional_are_refused():
    """Self-attention guidance calls the U-Net once more, with the unconditional rows alone."""
    pipe = StableDiffusionSAGPipeline(
        **build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline)).components, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    for block in uses(pipe):
        with block, pytest.raises(ValueError, match="with 1 rows where its 1 images and its guidance make 2"):
            draw(pipe, sag_scale=0.7)


def test_perturbation_that_ends_during_the_call_is_refused():
    pipe = build(StableDiffusionPAGPipeline, unet_for(StableDiffusionPAGPipeline))
    for block in uses(pipe):
        with block, pytest.raises(ValueError, match="with 2 rows where its 1 images and its guidance make 1"):
            draw(pipe, guidance_scale=1.0, pag_scale=2.0, callback_on_step_end=without_perturbation)


def test_a_loop_that_encodes_in_the_block_says_which_rows_are_unconditional():
    pipe = build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline))
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with paint_with_words(pipe, PROMPT, REGIONS, 1.0), torch.no_grad():
        text, negative = pipe.encode_prompt(PROMPT, "cpu", 1, True)
        guided = pipe.unet(torch.cat([latents] * 2), 500, torch.cat([negative, text])).sample
        pipe.encode_prompt(PROMPT, "cpu", 1, False)
        alone = pipe.unet(latents, 500, text).sample
    torch.testing.assert_close(guided[1:], alone, rtol=0, atol=1e-4)
    torch.testing.assert_close(guided[:1], pipe.unet(latents, 500, negative).sample, rtol=0, atol=1e-4)
    with paint_with_words(pipe, PROMPT, REGIONS, 1.0), pytest.raises(ValueError, match="encoding the prompt in the"):
        pipe.unet(torch.cat([latents] * 2), 500, torch.cat([negative, text]))


@pytest.mark.parametrize("rows", [2, 4])
def test_embeddings_of_another_number_of_prompts_are_refused(rows):
    pipe = build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline))
    embeds = embeds_of(pipe, rows)
    with paint_with_words(pipe, [PROMPT] * 3, REGIONS):
        with pytest.raises(ValueError, match=f"called with {rows} rows of prompt_embeds"):
            pipe(guidance_scale=1.0, generator=seeds(rows), **embeds, **SHORT)


# --- whose call it is ---


def twins():
    pipe = build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline))
    twin = StableDiffusionPipeline.from_pipe(pipe)
    twin.set_progress_bar_config(disable=True)
    return pipe, twin


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_a_twin_is_not_painted(guidance):
    pipe, twin = twins()
    plain, painted = draw(twin, guidance_scale=guidance), paint(pipe, guidance_scale=guidance)
    with paint_with_words(pipe, PROMPT, REGIONS, strength=1.0):
        for _ in range(2):  # before and after a call of the pipeline
            with pytest.raises(ValueError, match="another pipeline or thread calls this U-Net while it is painted"):
                draw(twin, guidance_scale=guidance)
            assert torch.equal(draw(pipe, guidance_scale=guidance), painted)
    assert torch.equal(draw(twin, guidance_scale=guidance), plain)


@pytest.mark.parametrize("block", [record_attention, lambda pipe: paint_with_words(pipe, PROMPT, REGIONS)])
@pytest.mark.parametrize("calls_twin", [False, True])
def test_two_threads_in_one_call_of_a_network_with_hooks_are_refused(block, calls_twin):
    """The call that is under way goes on, also where it is the last one."""
    pipe, twin = twins()
    with block(pipe):
        expected = draw(pipe, steps=1)
    refused = []

    def call(*_):
        handle.remove()
        with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="another (pipeline or )?thread") as error:
            pool.submit(draw, twin if calls_twin else pipe, steps=1).result()
        refused.append(error)

    with block(pipe):
        handle = pipe.unet.conv_out.register_forward_pre_hook(call)
        assert torch.equal(draw(pipe, steps=1), expected)
        assert torch.equal(draw(pipe, steps=1), expected) and len(refused) == 1

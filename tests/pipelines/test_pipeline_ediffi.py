# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The cascade, on networks that are tiny and random but real."""

import contextlib
import copy
import inspect
import io
import logging
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    ModelMixin,
    PipelineQuantizationConfig,
)
from diffusers.callbacks import SDCFGCutoffCallback
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.pipelines.deepfloyd_if import IFSafetyChecker
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from helpers import PROMPT, SIZES, WIDTH, draw, embeddings, picture, seeded, tiny_components, tiny_pipeline, tiny_unet
from torchao.quantization import Int8Tensor, Int8WeightOnlyConfig
from transformers import CLIPConfig, CLIPImageProcessorPil, TorchAoConfig

from diffusers_ediffi import EDiffIPipeline, EDiffIUNet, EDMDEISScheduler, ExpertRouterUNet, PaintRegion
from diffusers_ediffi.edm import SIGMA_DATA, c_in, c_out, c_skip
from diffusers_ediffi.models.conditioning import as_pil_images, encode_clip_text, encode_t5

BASE, SR256, SR1024 = SIZES


# --- what comes out ---


def test_output_types(pipe):
    run = {"num_inference_steps": 1, "num_images_per_prompt": 2}
    pil = draw(pipe, output_type="pil", **run)
    assert [image.size for image in pil] == [(SR1024, SR1024)] * 2
    array, tensor = draw(pipe, output_type="np", **run), draw(pipe, output_type="pt", **run)
    assert array.shape == (2, SR1024, SR1024, 3) and tensor.shape == (2, 3, SR1024, SR1024)
    assert 0 <= array.min() and array.max() <= 1
    np.testing.assert_array_equal(array, tensor.movedim(1, -1).numpy())
    np.testing.assert_array_equal(np.asarray(pil[1]), (array[1] * 255).round())
    latent = draw(pipe, output_type="latent", **run)
    torch.testing.assert_close((latent / 2 + 0.5).clamp(0, 1), tensor)


def test_tuple_output_holds_the_same_images(base_pipe):
    images, nsfw = base_pipe(
        PROMPT, num_inference_steps=1, generator=seeded(), output_type="latent", return_dict=False
    )
    assert nsfw is None
    assert torch.equal(images, draw(base_pipe, num_inference_steps=1))


@pytest.mark.parametrize("size", SIZES)
def test_size_chooses_the_last_stage(pipe, size):
    assert draw(pipe, height=size, width=size).shape[-2:] == (size, size)
    assert draw(pipe, width=size).shape[-2:] == (size, size)


def test_default_size_is_that_of_the_largest_loaded_stage():
    without_sr1024 = tiny_pipeline(unet_sr1024=None, scheduler_sr1024=None)
    assert draw(without_sr1024).shape[-1] == SR256
    # A stage can only refine the image of the one before it.
    without_sr256 = tiny_pipeline(unet_sr256=None, scheduler_sr256=None)
    assert draw(without_sr256).shape[-1] == BASE


def test_super_resolution_follows_its_low_resolution_input(pipe):
    """Two base images that differ only in the starting noise give different large images from the same SR noise."""
    noise = torch.randn(2, 3, BASE, BASE, generator=seeded(1))
    first, second = (draw(pipe, height=SR256, latents=noise[i : i + 1]) for i in range(2))
    assert (first - second).abs().max() > 1e-2


def test_super_resolution_sees_an_image_and_not_a_sample(pipe):
    """What overshoots [-1, 1] is clamped first, as in training."""
    sample = 3 * torch.randn(1, 3, BASE, BASE, generator=seeded(1))

    def draw_from(base):
        def replace(pipe, step, timestep, tensors):
            return {"latents": base} if step == 1 else {}

        return draw(pipe, height=SR256, callback_on_step_end=replace)

    assert torch.equal(draw_from(sample), draw_from(sample.clamp(-1, 1)))


def test_defaults_are_the_papers_steps(pipe):
    pipe(PROMPT, generator=seeded(), height=SR256)
    assert pipe.num_timesteps == 25 + 10
    assert pipe.config.default_num_inference_steps == (25, 10, 10)
    assert pipe.config.default_guidance_scale == (5.0, 1.0, 1.0)


def test_steps_and_guidance_per_stage(pipe):
    draw(pipe, num_inference_steps=(3, 2, 1))
    assert pipe.num_timesteps == 6
    draw(pipe, num_inference_steps=2)
    assert pipe.num_timesteps == 6
    scalar = draw(pipe, guidance_scale=3.0)
    assert torch.equal(scalar, draw(pipe, guidance_scale=(3.0, 3.0, 3.0)))
    assert not torch.equal(scalar, draw(pipe, guidance_scale=(3.0, 1.0, 1.0)))


# --- noise ---


def test_the_seed_decides(pipe):
    first = draw(pipe, generator=seeded(1))
    assert torch.equal(first, draw(pipe, generator=seeded(1)))
    assert not torch.equal(first, draw(pipe, generator=seeded(2)))


def test_batch_equals_single_images(pipe):
    prompts = ["a cat", "a very long red house on a green hill", "two owls"]
    batch = draw(pipe, prompts, generator=[seeded(i) for i in range(3)], guidance_scale=2.0)
    for i, prompt in enumerate(prompts):
        single = draw(pipe, prompt, generator=[seeded(i)], guidance_scale=2.0)
        torch.testing.assert_close(batch[i : i + 1], single, atol=1e-3, rtol=1e-3)


def test_a_batch_that_passes_the_network_in_parts_is_the_same(pipe):
    run = {"num_images_per_prompt": 3, "guidance_scale": 2.0, "negative_prompt": "a dog"}
    whole = draw(pipe, **run)
    pipe.pixels_per_call = 2 * SR256**2  # two images at SR256, one at SR1024
    torch.testing.assert_close(draw(pipe, **run), whole, atol=1e-3, rtol=1e-3)


def test_num_images_per_prompt(base_pipe):
    prompts = ["a cat", "a house"]
    four = draw(base_pipe, prompts, num_images_per_prompt=2, generator=[seeded(i) for i in range(4)])
    assert len(four) == 4
    torch.testing.assert_close(four[2:3], draw(base_pipe, "a house", generator=seeded(2)), atol=1e-4, rtol=1e-4)


def test_latents_replace_the_noise_of_the_base(base_pipe):
    latents = torch.randn(1, 3, BASE, BASE, generator=seeded(3))
    assert torch.equal(draw(base_pipe, latents=latents), draw(base_pipe, generator=seeded(3)))


# --- conditions ---


def test_the_prompt_matters_in_every_stage(pipe):
    """With one conditioning for the base and another for the rest, every stage shows."""

    def switch_after_the_base(pipe, step, timestep, tensors):
        return other if step == 1 else {}

    other = embeddings(pipe, "two owls")
    plain = draw(pipe)
    assert not torch.equal(draw(pipe, "two owls"), plain)
    assert not torch.equal(draw(pipe, callback_on_step_end=switch_after_the_base), plain)


def test_guidance_of_one_is_none(base_pipe):
    unguided = draw(base_pipe, guidance_scale=1.0)
    assert torch.equal(unguided, draw(base_pipe, guidance_scale=1.0, negative_prompt="a dog"))
    assert torch.equal(unguided, draw(base_pipe, guidance_scale=0))
    assert not torch.allclose(unguided, draw(base_pipe, guidance_scale=5.0))


def test_guidance_extrapolates_from_unconditional_to_conditional(base_pipe):
    """One Euler step is linear in F, so guidance on F shows in the image: u + g (c - u)."""
    one_step = {"num_inference_steps": 1}
    conditional = draw(base_pipe, guidance_scale=1.0, **one_step)
    zeros = {name: torch.zeros_like(value) for name, value in embeddings(base_pipe).items()}
    zeros["prompt_attention_mask_2"] += 1
    unconditional = draw(base_pipe, None, guidance_scale=1.0, **zeros, **one_step)
    guided = draw(base_pipe, guidance_scale=4.0, **one_step)
    torch.testing.assert_close(guided, unconditional + 4 * (conditional - unconditional), atol=1e-3, rtol=1e-3)


def test_negative_prompts(base_pipe):
    nothing, empty, dog = (draw(base_pipe, negative_prompt=text) for text in (None, "", "a dog"))
    assert not torch.allclose(nothing, empty), "None is zeroed embeddings, an empty text is encoded"
    assert not torch.allclose(empty, dog)
    two = draw(base_pipe, ["a cat", "a cat"], negative_prompt=["a dog", ""], generator=[seeded(), seeded()])
    assert not torch.allclose(two[0], two[1])


def test_an_expert_is_called_with_its_own_guidance(base_pipe):
    """Two steps, at sigma 80 and 0.002, go to two experts; `None` leaves the pipeline's scale."""
    experts, run = [base_pipe.unet, base_pipe.unet], {"negative_prompt": "a dog"}

    def drawn(guidance_scales, **arguments):
        base_pipe.unet = ExpertRouterUNet.from_unets(experts, [1.0], guidance_scales=guidance_scales)
        return draw(base_pipe, **run, **arguments)

    def change(pipe, step, timestep, tensors):
        pipe._guidance_scale = 2.0

    changed = draw(base_pipe, guidance_scale=6.0, **run, callback_on_step_end=change)
    assert torch.equal(drawn([2.0, None], guidance_scale=6.0), changed)
    assert torch.equal(drawn([2.0, 6.0], guidance_scale=1.0), changed)
    assert not torch.equal(drawn([None, None], guidance_scale=6.0), changed)
    assert torch.equal(drawn([1.0, 1.0], guidance_scale=6.0), drawn(None, guidance_scale=1.0))
    assert base_pipe.guidance_scale == 1.0


def test_the_prompt_as_negative_prompt_cancels_guidance(base_pipe):
    cancelled = draw(base_pipe, negative_prompt=PROMPT, guidance_scale=7.0)
    torch.testing.assert_close(cancelled, draw(base_pipe, guidance_scale=1.0), atol=1e-3, rtol=1e-3)


def test_embeddings_equal_the_prompt(pipe):
    names = [f"negative_{name}" for name in embeddings(pipe)]
    negative = dict(zip(names, pipe.encode_prompt(None, "a dog")[4:], strict=True))
    expected = draw(pipe, negative_prompt="a dog", num_images_per_prompt=2)
    without_encoders = tiny_pipeline(
        tokenizer=None, text_encoder=None, tokenizer_2=None, text_encoder_2=None, image_encoder=None
    )
    got = draw(without_encoders, None, **embeddings(pipe), **negative, num_images_per_prompt=2)
    assert torch.equal(got, expected)


def test_unpadded_t5_embeddings_equal_padded_ones(base_pipe):
    padded = embeddings(base_pipe)
    count = int(padded["prompt_attention_mask_2"].sum())
    short = {**padded, "prompt_embeds_2": padded["prompt_embeds_2"][:, :count], "prompt_attention_mask_2": None}
    torch.testing.assert_close(draw(base_pipe, None, **short), draw(base_pipe, None, **padded))


@pytest.mark.parametrize("missing", [("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")])
def test_without_one_text_encoder(missing):
    everything = draw(tiny_pipeline())
    pipe = tiny_pipeline(**dict.fromkeys(missing))
    image = draw(pipe)
    assert image.shape == everything.shape and not torch.equal(image, everything)
    assert not torch.equal(image, draw(pipe, "two owls")), "the other encoder still reads the prompt"


def test_style_image(base_pipe):
    plain, first, second = (draw(base_pipe, style_image=style) for style in (None, picture(0), picture(1)))
    assert not torch.allclose(plain, first) and not torch.allclose(first, second)
    pixels = base_pipe.feature_extractor(images=picture(0), return_tensors="pt").pixel_values
    image_embeds = base_pipe.image_encoder(pixels).image_embeds.detach()
    assert torch.equal(draw(base_pipe, image_embeds=image_embeds), first)


def test_one_style_for_all_prompts_or_one_for_each(base_pipe):
    def two_cats(style_image):
        return draw(base_pipe, ["a cat", "a cat"], generator=[seeded(), seeded()], style_image=style_image)

    shared, each = two_cats(picture(0)), two_cats([picture(0), picture(1)])
    torch.testing.assert_close(shared[0], shared[1], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(each[0], shared[0], atol=1e-3, rtol=1e-3)
    assert not torch.allclose(each[1], shared[1])


def test_a_style_alone_draws(base_pipe):
    assert len(draw(base_pipe, None, style_image=[picture(0), picture(1)], negative_prompt="a dog")) == 2


def test_images_come_in_many_forms():
    pil = picture()
    array = np.asarray(pil)
    floats = array.astype(np.float32) / 255
    tensor = torch.from_numpy(floats).movedim(-1, 0)
    for form in (pil, array, floats, tensor, [pil], tensor[None], [array]):
        (image,) = as_pil_images(form)
        np.testing.assert_array_equal(np.asarray(image), array)
    assert len(as_pil_images([pil, tensor[None].repeat(2, 1, 1, 1)])) == 3


def test_truncated_words_are_named(base_pipe, caplog):
    """CLIP reads 77 tokens, T5 113; the tiny tokenizers spend one on each letter (and T5 one on each space)."""
    text = "a" * 80 + " zebra"
    encode_clip_text([text], base_pipe.tokenizer, base_pipe.text_encoder)
    assert "zebra" in caplog.records[-1].message.removeprefix(text)
    caplog.clear()
    tokens, mask = encode_t5([text], base_pipe.tokenizer_2, base_pipe.text_encoder_2)
    assert not caplog.records, "it fits T5"
    assert tokens.shape == (1, 113, WIDTH) and mask.sum() < 113
    assert (tokens[0, int(mask.sum()) :] == 0).all() and (tokens[0, : int(mask.sum())] != 0).any(-1).all()


def noise_aware_pipeline(**changes):
    """SR256 has learned with noise on its input, SR1024 has not."""
    plain = tiny_components()["unet_sr256"].config
    unet = tiny_unet(5, **{name: value for name, value in plain.items() if name[0] != "_"} | {"max_noise_level": 0.5})
    return tiny_pipeline(unet_sr256=unet, **changes)


def test_super_resolution_sees_noise_and_is_told_how_much():
    pipe = noise_aware_pipeline()
    seen = []
    hook = pipe.unet_sr256.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args[0][:, 3:], kwargs.get("class_labels"))), with_kwargs=True
    )
    run = {"height": SR256, "num_images_per_prompt": 2, "guidance_scale": (1, 3, 1)}
    draw(pipe, noise_level=0.0, **run)
    clean = seen.pop()
    draw(pipe, noise_level=0.25, **run)
    first, noisy = seen[-2:]
    assert torch.equal(first[0], noisy[0])  # one noise for all steps
    assert torch.equal(noisy[0][:2], noisy[0][2:])  # and for both rows of guidance
    assert noisy[1].tolist() == [0.25] * 4 and clean[1].tolist() == [0.0] * 4
    assert 0.22 < (noisy[0] - clean[0]).std() < 0.28
    hook.remove()


def test_noise_level_comes_from_the_configuration_and_is_saved(tmp_path):
    pipe = noise_aware_pipeline(default_noise_level=(0.25, 0.0))
    wanted = draw(pipe)
    assert not torch.equal(draw(pipe, noise_level=0.0), wanted)
    torch.testing.assert_close(draw(pipe, noise_level=(0.25, 0)), wanted, rtol=0, atol=0)
    pipe.save_pretrained(tmp_path)
    again = EDiffIPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    torch.testing.assert_close(draw(again), wanted, rtol=0, atol=0)


def test_noise_level_keeps_images_of_a_batch_apart():
    """With a generator for each image, the noise of its input is that of the image alone, too."""
    pipe, run = noise_aware_pipeline(), {"height": SR256, "noise_level": 0.25}
    both = draw(pipe, [PROMPT] * 2, generator=[seeded(0), seeded(1)], **run)
    torch.testing.assert_close(both[1:], draw(pipe, generator=[seeded(1)], **run), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "noise_level, message",
    [
        (-0.1, "noise_level=-0.1 must be one number of at least 0"),
        (math.nan, "noise_level=nan must be"),
        ("high", "noise_level='high' must be"),
        ((0.1,), "one for each of SR256 and SR1024"),
        ((0.1, 0, 0), "one for each of SR256 and SR1024"),
        ((0.6, 0), "SR256 was trained with noise up to 0.5; pass at most 0.5"),
        (0.2, "SR1024 was trained without noise; pass at most 0"),
    ],
)
def test_a_wrong_noise_level_is_refused(noise_level, message):
    with pytest.raises(ValueError, match=message):
        noise_aware_pipeline()(PROMPT, noise_level=noise_level)


def test_experts_have_the_same_noise_level():
    noisy, plain = noise_aware_pipeline().unet_sr256, tiny_components()["unet_sr256"]
    with pytest.raises(ValueError, match="the experts differ in max_noise_level"):
        ExpertRouterUNet.from_unets([noisy, plain], [1.0])
    pipe = noise_aware_pipeline()
    wanted = draw(pipe, noise_level=(0.2, 0))
    pipe.unet_sr256 = ExpertRouterUNet.from_unets([pipe.unet_sr256] * 2, [1.0])
    torch.testing.assert_close(draw(pipe, noise_level=(0.2, 0)), wanted, rtol=0, atol=0)


# --- schedulers and experts ---


@pytest.mark.parametrize("std", [0.5, 0.1])
@pytest.mark.parametrize(
    "make_scheduler",
    [
        EDMEulerScheduler,
        EDMDPMSolverMultistepScheduler,
        EDMDEISScheduler,
        lambda: EDMDEISScheduler.from_preset("paper_base"),
    ],
)
def test_gaussian_data_come_out_with_their_standard_deviation(make_scheduler, std):
    """Closed form: for data N(0, s^2) the best denoiser is D(x) = s^2 / (s^2 + sigma^2) x."""
    pipe = EDiffIPipeline(unet=GaussianDenoiser(std), scheduler=make_scheduler())
    pipe.set_progress_bar_config(disable=True)
    run = {"num_inference_steps": 100, "guidance_scale": 1.0, "output_type": "latent", "generator": seeded()}
    sample = pipe(prompt_embeds=torch.zeros(1, 77, WIDTH), pooled_prompt_embeds=torch.zeros(1, WIDTH), **run).images
    noise = torch.randn(sample.shape, generator=seeded())
    # The flow of a Gaussian is linear: it scales the noise; Euler's 100 steps fall short by a few per cent.
    assert sample.std().item() == pytest.approx(std * noise.std().item(), rel=0.05)
    assert torch.corrcoef(torch.stack([sample.flatten(), noise.flatten()]))[0, 1] > 0.9999


class GaussianDenoiser(ModelMixin, ConfigMixin):
    """The best F for pixels from N(0, std^2)."""

    @register_to_config
    def __init__(
        self,
        std,
        sample_size=64,
        out_channels=3,
        sigma_data=SIGMA_DATA,
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_2=WIDTH,
        pooled_projection_dim=WIDTH,
        image_embed_dim=WIDTH,
    ):
        super().__init__()
        self.data_std = torch.nn.Parameter(torch.tensor(std))

    def forward(self, sample, timestep, encoder_hidden_states, return_dict=True, **conditions):
        sigma = math.exp(4 * float(timestep))
        x = sample / c_in(sigma)
        denoised = self.data_std**2 / (self.data_std**2 + sigma**2) * x
        return ((denoised - c_skip(sigma) * x) / c_out(sigma),)


@pytest.mark.parametrize("scheduler", [EDMEulerScheduler, EDMDPMSolverMultistepScheduler, EDMDEISScheduler])
def test_every_edm_scheduler_drops_in(scheduler):
    schedulers = {name: scheduler() for name in ("scheduler", "scheduler_sr256", "scheduler_sr1024")}
    images = draw(tiny_pipeline(**schedulers), num_inference_steps=3)
    assert images.shape[-1] == SR1024 and images.isfinite().all()


def test_missing_super_resolution_schedulers_are_copies_of_the_first():
    scheduler = EDMEulerScheduler(sigma_max=70.0)
    pipe = tiny_pipeline(scheduler=scheduler, scheduler_sr256=None, scheduler_sr1024=None)
    assert pipe.scheduler_sr256.config.sigma_max == pipe.scheduler_sr1024.config.sigma_max == 70.0
    assert len({id(stage.scheduler) for stage in pipe.stages}) == 3
    assert draw(pipe).shape[-1] == SR1024


def test_a_runge_kutta_scheduler_runs_every_evaluation():
    pipe = tiny_pipeline(scheduler=EDMDEISScheduler.from_preset("paper_base"))
    steps = []
    draw(pipe, height=BASE, callback_on_step_end=lambda pipe, i, t, tensors: steps.append(i) or {})
    assert steps == list(range(pipe.num_timesteps)) and pipe.num_timesteps == 3 * 2 + 1


def test_a_router_with_identical_experts_gives_the_same_image():
    components = tiny_components()
    routed = {
        name: ExpertRouterUNet.from_unets([copy.deepcopy(components[name]) for _ in range(3)], [0.0757, 9.61])
        for name in ("unet", "unet_sr256", "unet_sr1024")
    }
    run = {"num_inference_steps": 5, "guidance_scale": 3.0}
    assert torch.equal(draw(tiny_pipeline(**routed), **run), draw(tiny_pipeline(), **run))


def test_each_step_goes_to_the_expert_of_its_noise_level(base_pipe):
    """Of Karras's 25 steps from 80, 9 lie above 9.61, 11 in the middle, 5 below 0.0757."""
    experts = [copy.deepcopy(base_pipe.unet) for _ in range(3)]
    calls = [0, 0, 0]
    for i, expert in enumerate(experts):

        def count(*_, i=i):
            calls[i] += 1

        expert.register_forward_pre_hook(count)
    base_pipe.unet = ExpertRouterUNet.from_unets(experts, [0.0757, 9.61])
    draw(base_pipe, num_inference_steps=25)
    assert calls == [5, 11, 9]
    # Afterwards the router is free again and goes by the timestep.
    base_pipe.unet(torch.zeros(1, 3, BASE, BASE), math.log(80.0) / 4, torch.zeros(1, 77, WIDTH))
    assert calls == [5, 11, 10]


# --- running ---


def test_callback_sees_every_step_of_every_stage(pipe):
    seen = []

    def remember(pipe, step, timestep, tensors):
        assert set(tensors) == {"latents", "prompt_embeds"}
        seen.append((step, tensors["latents"].shape[-1], round(math.exp(4 * float(timestep)), 3)))
        return tensors

    inputs = ["latents", "prompt_embeds"]
    draw(pipe, callback_on_step_end=remember, callback_on_step_end_tensor_inputs=inputs)
    sizes = [BASE, BASE, SR256, SR256, SR1024, SR1024]
    assert seen == [(i, size, 80.0 if i % 2 == 0 else 0.002) for i, size in enumerate(sizes)]


def test_callback_may_replace_the_sample(base_pipe):
    def zero_at_the_end(pipe, step, timestep, tensors):
        return {"latents": torch.zeros_like(tensors["latents"])} if step == pipe.num_timesteps - 1 else {}

    assert (draw(base_pipe, callback_on_step_end=zero_at_the_end) == 0).all()


def test_every_callback_tensor_can_be_asked_for(base_pipe):
    def check(pipe, step, timestep, tensors):
        assert list(tensors) == pipe._callback_tensor_inputs

    draw(
        base_pipe,
        style_image=picture(),
        callback_on_step_end=check,
        callback_on_step_end_tensor_inputs=base_pipe._callback_tensor_inputs,
    )


def test_callback_may_change_the_guidance(base_pipe):
    def increase(pipe, step, timestep, tensors):
        pipe._guidance_scale += 1.0
        return tensors

    draw(base_pipe, guidance_scale=2.0, callback_on_step_end=increase)
    assert base_pipe.guidance_scale == 2.0 + base_pipe.num_timesteps
    run = {"guidance_scale": 2.0, "num_inference_steps": 4}
    cut = draw(base_pipe, callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=0.25), **run)
    assert not torch.equal(cut, draw(base_pipe, **run))


@pytest.mark.parametrize(("last_step", "size"), [(0, BASE), (3, SR256)])
def test_interrupt_returns_the_running_stage(pipe, last_step, size):
    samples = []

    def stop(pipe, step, timestep, tensors):
        samples.append(tensors["latents"])
        pipe._interrupt = step == last_step
        return {}

    images = draw(pipe, callback_on_step_end=stop)
    assert images.shape[-1] == size and len(samples) == last_step + 1
    assert torch.equal(images, samples[-1])
    assert draw(pipe).shape[-1] == SR1024, "the next call is whole"


def test_progress_bars_name_their_stage(pipe):
    pipe.set_progress_bar_config()
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        draw(pipe, num_inference_steps=(3, 2, 1))
    for label, steps in ((f"base {BASE}x{BASE}", 3), ("SR256", 2), ("SR1024", 1)):
        assert any(line.startswith(label) and f"{steps}/{steps}" in line for line in stderr.getvalue().split("\r"))


def tiny_checker(kind, objects=False, watermarks=False):
    """A real safety checker for pictures of 24 pixels, whose thresholds let it object to all pictures or to none."""
    torch.manual_seed(7)
    vision = {**tiny_components()["image_encoder"].config.to_dict(), "image_size": 24}
    checker = kind(CLIPConfig(vision_config=vision, projection_dim=WIDTH)).eval()
    if kind is StableDiffusionSafetyChecker:
        checker.concept_embeds_weights.data.fill_(-10.0 if objects else 10.0)  # thresholds of a cosine
    else:
        checker.p_head.bias.data.fill_(1e4 if objects else -1e4)
        checker.w_head.bias.data.fill_(1e4 if watermarks else -1e4)
    return checker


CHECKERS = [StableDiffusionSafetyChecker, IFSafetyChecker]


@pytest.mark.parametrize("kind", CHECKERS)
def test_safety_checker_blackens(base_pipe, kind):
    run = {"num_inference_steps": 2, "output_type": "np"}
    expected = base_pipe(PROMPT, generator=seeded(), **run).images
    for objects in (True, False):
        base_pipe.safety_checker = tiny_checker(kind, objects)
        output = base_pipe(PROMPT, generator=seeded(), **run)
        assert output.nsfw_content_detected == [objects]
        np.testing.assert_array_equal(output.images, np.zeros_like(expected) if objects else expected)
    base_pipe.safety_checker = tiny_checker(kind, objects=True)
    latent = base_pipe(PROMPT, num_inference_steps=2, generator=seeded(), output_type="latent")
    assert latent.nsfw_content_detected is None and latent.images.std() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_safety_checker_blackens_watermarks(base_pipe, dtype):
    base_pipe.safety_checker = tiny_checker(IFSafetyChecker, watermarks=True).to(dtype)
    output = base_pipe(PROMPT, num_inference_steps=2, generator=seeded(), output_type="pt")
    assert output.nsfw_content_detected == [True] and not output.images.any()


def test_safety_checker_blackens_one_of_a_batch(base_pipe):
    """It sees every picture as a CLIP of the checker's size does, and the thresholds decide for each."""
    pictures = base_pipe([PROMPT, "z"], num_inference_steps=2, generator=seeded(), output_type="pt").images
    checker = tiny_checker(StableDiffusionSafetyChecker)
    to_checker = CLIPImageProcessorPil(size={"height": 24, "width": 24}, crop_size={"height": 24, "width": 24})
    as_pil = base_pipe.numpy_to_pil(pictures.permute(0, 2, 3, 1).numpy())
    seen = to_checker(as_pil, return_tensors="pt").pixel_values
    directions = checker.visual_projection(checker.vision_model(seen)[1])
    checker.concept_embeds.data[0] = directions[1] - directions[0]
    cosines = torch.nn.functional.normalize(directions) @ torch.nn.functional.normalize(checker.concept_embeds[:1]).T
    assert cosines[1] - cosines[0] > 0.01
    checker.concept_embeds_weights.data[0] = cosines.mean()
    base_pipe.safety_checker = checker
    output = base_pipe([PROMPT, "z"], num_inference_steps=2, generator=seeded(), output_type="pt")
    assert output.nsfw_content_detected == [False, True]
    assert torch.equal(output.images[0], pictures[0]) and not output.images[1].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_safety_checker_is_saved_loaded_and_left_out(base_pipe, dtype, tmp_path):
    checker = tiny_checker(StableDiffusionSafetyChecker, objects=True)
    base_pipe.register_modules(safety_checker=checker, feature_extractor=None)
    base_pipe.save_pretrained(tmp_path)
    loaded = EDiffIPipeline.from_pretrained(tmp_path, dtype=dtype)
    assert loaded.safety_checker.dtype == dtype
    without = EDiffIPipeline.from_pretrained(tmp_path, dtype=dtype, safety_checker=None)
    for pipe, detected in ((loaded, [True]), (without, None)):
        pipe.set_progress_bar_config(disable=True)
        assert pipe(PROMPT, num_inference_steps=1, output_type="pt").nsfw_content_detected == detected
    assert EDiffIPipeline.from_pipe(loaded).safety_checker is loaded.safety_checker
    assert EDiffIPipeline.from_pipe(loaded, safety_checker=None).safety_checker is None


@pytest.mark.xfail(strict=True, reason="IFSafetyChecker lacks post_init, without which transformers 5 loads no model")
def test_if_safety_checker_is_loaded(tmp_path):
    tiny_checker(IFSafetyChecker).save_pretrained(tmp_path)
    IFSafetyChecker.from_pretrained(tmp_path)


def test_safety_checker_stays_where_it_is_under_model_offload(base_pipe):
    base_pipe.safety_checker = tiny_checker(StableDiffusionSafetyChecker, objects=True)
    base_pipe.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        assert base_pipe(PROMPT, num_inference_steps=1, output_type="pt").nsfw_content_detected == [True]
    assert not hasattr(base_pipe.safety_checker, "_hf_hook") and hasattr(base_pipe.text_encoder, "_hf_hook")


@pytest.mark.parametrize("load", [EDiffIPipeline, DiffusionPipeline])
def test_t5_is_never_float16(load, tmp_path):
    """Whichever way a pipeline gets to float16, T5 is bfloat16 in it."""
    tiny_pipeline(unet_sr256=None, unet_sr1024=None).save_pretrained(tmp_path)
    pipe = load.from_pretrained(tmp_path, dtype=torch.float16)
    assert (pipe.unet.dtype, pipe.text_encoder.dtype) == (torch.float16, torch.float16)
    assert {parameter.dtype for parameter in pipe.text_encoder_2.parameters()} == {torch.bfloat16}
    pipe = load.from_pretrained(tmp_path)
    assert pipe.text_encoder_2.dtype == torch.float32
    for convert in (lambda: pipe.to(torch.float16), lambda: pipe.to("cpu", torch.float16)):
        assert convert() is pipe
        assert (pipe.unet.dtype, pipe.text_encoder_2.dtype) == (torch.float16, torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    assert draw(pipe).isfinite().all()


def test_a_quantised_t5(tmp_path, caplog):
    """Through the settings of diffusers; in a float16 pipeline it may be told to compute in bfloat16."""
    tiny_pipeline(unet_sr256=None, unet_sr1024=None).save_pretrained(tmp_path)
    plain = EDiffIPipeline.from_pretrained(tmp_path)
    config = PipelineQuantizationConfig(quant_mapping={"text_encoder_2": TorchAoConfig(Int8WeightOnlyConfig())})
    load = partial(EDiffIPipeline.from_pretrained, tmp_path, quantization_config=config)
    pipe = load()
    assert isinstance(pipe.text_encoder_2.encoder.block[0].layer[0].SelfAttention.q.weight, Int8Tensor)
    (expected, found) = (each.encode_prompt(PROMPT)[2] for each in (plain, pipe))
    assert 0 < (found - expected).norm() < 0.02 * expected.norm()
    pipe.set_progress_bar_config(disable=True)
    torch.testing.assert_close(draw(pipe), draw(plain), atol=0.02, rtol=0)
    half = load(dtype={"default": torch.float16, "text_encoder_2": torch.bfloat16})
    assert (half.unet.dtype, half.encode_prompt(PROMPT)[2].dtype) == (torch.float16, torch.bfloat16)
    load(dtype=torch.float16)
    assert any("computes in float16, where T5 overflows" in record.message for record in caplog.records)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_networks(dtype):
    networks = {
        name: copy.deepcopy(part).to(dtype)
        for name, part in tiny_components().items()
        if isinstance(part, torch.nn.Module)
    }
    images = draw(tiny_pipeline(**networks), height=SR256, style_image=picture())
    # Only the networks run in half precision; the sample does not.
    assert images.dtype == torch.float32 and images.isfinite().all()


# --- saving ---


def test_save_and_load_give_the_same_image(pipe, tmp_path):
    router = ExpertRouterUNet.from_unets([copy.deepcopy(pipe.unet), copy.deepcopy(pipe.unet)], [1.0])
    with torch.no_grad():
        router.experts[1].conv_in.weight.mul_(0.5)
    pipe = tiny_pipeline(unet=router, default_num_inference_steps=(3, 2, 1), default_guidance_scale=(2.0, 1.0, 1.5))
    run = {"num_inference_steps": None, "style_image": picture()}
    expected = draw(pipe, **run)
    pipe.save_pretrained(tmp_path)
    for cls in (EDiffIPipeline, DiffusionPipeline):
        loaded = cls.from_pretrained(tmp_path)
        loaded.set_progress_bar_config(disable=True)
        assert isinstance(loaded, EDiffIPipeline)
        assert torch.equal(draw(loaded, **run), expected)
        assert loaded.num_timesteps == 6


def test_loading_warns_of_nothing(pipe, tmp_path):
    """diffusers compares what it reads from model_index.json with the annotations of `__init__`."""
    pipe.save_pretrained(tmp_path)
    records = io.StringIO()
    handler = logging.StreamHandler(records)
    logging.getLogger("diffusers").addHandler(handler)
    try:
        EDiffIPipeline.from_pretrained(tmp_path)
    finally:
        logging.getLogger("diffusers").removeHandler(handler)
    assert records.getvalue() == ""


def test_save_and_load_without_the_optional_components(tmp_path):
    parts = tiny_components()
    EDiffIPipeline(unet=parts["unet"], scheduler=parts["scheduler"]).save_pretrained(tmp_path)
    loaded = EDiffIPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert all(getattr(loaded, name) is None for name in EDiffIPipeline._optional_components)
    assert draw(loaded, None, **embeddings(tiny_pipeline())).shape[-1] == BASE


def test_components_make_another_pipeline(pipe):
    assert torch.equal(draw(EDiffIPipeline(**pipe.components)), draw(pipe))


def test_from_pipe_takes_over_all_components(pipe):
    pipe = tiny_pipeline(unet=ExpertRouterUNet.from_unets([pipe.unet], []), default_num_inference_steps=(2, 1, 1))
    other = EDiffIPipeline.from_pipe(pipe)
    other.set_progress_bar_config(disable=True)
    assert all(other.components[name] is part for name, part in pipe.components.items())
    assert torch.equal(draw(other, num_inference_steps=None), draw(pipe, num_inference_steps=None))


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/x", "~x", "a/b/c", Path("nowhere")])
def test_a_missing_folder_is_named(name):
    with pytest.raises(OSError, match=f"no folder '{name}'"):
        EDiffIPipeline.from_pretrained(name)


def test_a_hub_id_is_no_missing_folder(pipe, tmp_path, monkeypatch):
    """Offline, from the cache of the Hub's client."""
    snapshot = tmp_path / "models--org--name" / "snapshots" / "0"
    pipe.save_pretrained(snapshot)
    (tmp_path / "models--org--name" / "refs").mkdir()
    (tmp_path / "models--org--name" / "refs" / "main").write_text("0")
    loaded = EDiffIPipeline.from_pretrained("org/name", cache_dir=tmp_path, local_files_only=True)
    assert isinstance(loaded.unet, EDiffIUNet)


def test_text_encoders_alone_make_a_pipeline():
    parts = {**dict.fromkeys(tiny_components()), **{k: v for k, v in tiny_components().items() if "text" in k}}
    parts |= {k: v for k, v in tiny_components().items() if "tokenizer" in k}
    encoded = EDiffIPipeline(**parts).encode_prompt(PROMPT)
    assert [tuple(tensor.shape) for tensor in encoded[:4]] == [(1, 77, WIDTH), (1, WIDTH), (1, 113, WIDTH), (1, 113)]
    assert encoded[4:] == (None,) * 4


# --- the interface ---


def test_the_signatures_are_what_diffusers_expects():
    call = inspect.signature(EDiffIPipeline.__call__).parameters
    assert len(call) - 1 <= 31
    expected = "prompt negative_prompt height width guidance_scale prompt_embeds negative_prompt_embeds latents "
    expected += "num_inference_steps num_images_per_prompt generator output_type return_dict"
    assert set(expected.split()) <= set(call)
    assert set(EDiffIPipeline._callback_tensor_inputs) <= set(call)
    encode = inspect.signature(EDiffIPipeline.encode_prompt).parameters
    assert all(
        parameter.default is not inspect.Parameter.empty for name, parameter in encode.items() if name != "self"
    )
    init = inspect.signature(EDiffIPipeline.__init__).parameters
    optional = {name for name, parameter in init.items() if parameter.default is None}
    assert optional == set(EDiffIPipeline._optional_components), "what is missing there would not be saved"


def test_numbers_of_numpy_are_numbers(base_pipe):
    base_pipe.scheduler = EDMDEISScheduler()
    size, steps, images = np.int64(BASE), np.int32(2), np.int64(2)
    run = {"num_inference_steps": 2, "guidance_scale": 3.0, "num_images_per_prompt": 2}
    given = {"num_inference_steps": steps, "guidance_scale": np.float32(3), "num_images_per_prompt": images}
    assert torch.equal(draw(base_pipe, **given, height=size, width=size), draw(base_pipe, **run))


def backends(unet):
    return {processor._attention_backend for processor in unet.attn_processors.values()}


def test_attention_backend_of_every_unet(pipe):
    names = ("unet", "unet_sr256", "unet_sr1024")
    unets = {name: copy.deepcopy(getattr(pipe, name)) for name in names}
    unets["unet"] = ExpertRouterUNet.from_unets([unets["unet"], copy.deepcopy(unets["unet"])], [1.0])
    pipe = tiny_pipeline(**unets)
    expected = draw(pipe)
    try:
        pipe.set_attention_backend("_native_math")
        assert all(backends(unet) == {"_native_math"} for unet in unets.values())
        torch.testing.assert_close(draw(pipe), expected, atol=1e-3, rtol=1e-3)
    finally:
        pipe.set_attention_backend("native")  # diffusers also keeps a default for the whole process
    with pytest.raises(ValueError, match="must be one of"):
        pipe.set_attention_backend("nonsense")


def test_xformers_reaches_every_unet(pipe):
    """It needs the package and a GPU; without, the error says so and nothing changes."""
    pipe = tiny_pipeline(**{name: copy.deepcopy(getattr(pipe, name)) for name in ("unet", "unet_sr256")})
    try:
        pipe.enable_xformers_memory_efficient_attention()
    except (ModuleNotFoundError, ValueError) as error:
        assert "xformers" in str(error) and backends(pipe.unet) == {None}
    else:
        assert backends(pipe.unet) == backends(pipe.unet_sr256) == {"xformers"}


# --- bad input ---

BAD_INPUT = {
    "empty prompt": ({"prompt": ""}, "prompt='' is empty"),
    "blank prompt": ({"prompt": ["a cat", "  "]}, "is empty"),
    "no prompt": ({"prompt": None}, "nothing to draw"),
    "no prompts": ({"prompt": []}, "must be a text"),
    "prompt is a number": ({"prompt": 3}, "prompt=3 must be a text"),
    "list holds a number": ({"prompt": ["a cat", 3]}, "must be a text"),
    "negative prompt is a number": ({"negative_prompt": 3}, "negative_prompt=3"),
    "negative prompts do not match": ({"negative_prompt": ["a", "b"]}, "lists 2 texts for 1 prompts"),
    "unknown size": ({"height": 16}, "8, 32, 128"),
    "size of no loaded stage": ({"height": 1024, "width": 1024}, "8, 32, 128"),
    "size is a list": ({"height": [8]}, "height=[8]"),
    "not square": ({"height": BASE, "width": SR256}, "square"),
    "no steps": ({"num_inference_steps": 0}, "from 1 to 1000"),
    "too many steps": ({"num_inference_steps": 1001}, "from 1 to 1000"),
    "half a step": ({"num_inference_steps": 2.5}, "from 1 to 1000"),
    "a bad step count among others": ({"num_inference_steps": (2, -1, 2)}, "from 1 to 1000"),
    "too few step counts": ({"num_inference_steps": (2, 2)}, "each of the 3 stages"),
    "steps are a text": ({"num_inference_steps": "2"}, "each of the 3 stages"),
    "NaN guidance": ({"guidance_scale": math.nan}, "guidance_scale=nan"),
    "infinite guidance": ({"guidance_scale": (5.0, math.inf, 1.0)}, "finite"),
    "a weight that is NaN": ({"guidance_scale": {"t5": math.nan}}, "finite weight"),
    "a weight that is a text": ({"guidance_scale": {"t5": "5"}}, "finite weight"),
    "no weights": ({"guidance_scale": {}}, "at least one encoder (t5, clip_text, clip_image)"),
    "weight for an unknown encoder": ({"guidance_scale": {"t5": 5, "clip": 1}}, "'clip' is unknown; choose from t5"),
    "weight without a style": (
        {"guidance_scale": {"clip_image": 2}},
        "'clip_image', which has no condition: pass style",
    ),
    "weight for what is switched off": (
        {"guidance_scale": {"clip_text": 2}, "encoders": ["t5"]},
        "weight for 'clip_text', which encoders=['t5'] switches off: name it there",
    ),
    "weights for SR256": ({"guidance_scale": (5.0, {"t5": 5}, 1.0)}, "only the base takes them"),
    "weights for SR1024, too": ({"guidance_scale": ({"t5": 5}, 1.0, {"t5": 5})}, "only the base takes them"),
    "too few scales beside weights": ({"guidance_scale": ({"t5": 5}, 1.0)}, "each of the 3 stages"),
    "interval is a number": ({"guidance_interval": 1.0}, "guidance_interval=1.0"),
    "interval of three": ({"guidance_interval": (0, 1, 2)}, "two noise levels"),
    "interval the wrong way round": ({"guidance_interval": (5.0, 0.3)}, "0 <= low < high"),
    "empty interval": ({"guidance_interval": (1.0, 1.0)}, "0 <= low < high"),
    "interval below 0": ({"guidance_interval": (-1.0, 5.0)}, "0 <= low < high"),
    "interval holds NaN": ({"guidance_interval": (0.0, math.nan)}, "0 <= low < high"),
    "rescale above 1": ({"guidance_rescale": 1.5}, "guidance_rescale=1.5 must lie in [0, 1]"),
    "rescale below 0": ({"guidance_rescale": -0.1}, "must lie in [0, 1]"),
    "rescale is NaN": ({"guidance_rescale": math.nan}, "must lie in [0, 1]"),
    "rescale is None": ({"guidance_rescale": None}, "must lie in [0, 1]"),
    "unknown encoder": (
        {"encoders": ["t5", "clip"]},
        "encoders='clip' is unknown; choose from t5, clip_text, clip_image",
    ),
    "encoders are a text": ({"encoders": "t5"}, "encoders='t5' must be a list"),
    "no encoders": ({"encoders": []}, "at least one of t5, clip_text, clip_image"),
    "encoder without a style": ({"encoders": ["t5", "clip_image"]}, "pass style_image or image_embeds"),
    "regions without text": (
        {"encoders": ["clip_image"], "style_image": picture(), "regions": [PaintRegion("red cat", (0, 0, 1, 1))]},
        "regions need an encoder that reads the prompt",
    ),
    "too many guidance scales": ({"guidance_scale": (5.0,) * 4}, "each of the 3 stages"),
    "no images": ({"num_images_per_prompt": 0}, "num_images_per_prompt=0"),
    "generators do not match": ({"generator": [seeded()] * 3}, "3 generators for 1 images"),
    "generator is a seed": ({"generator": 0}, "torch.Generator"),
    "latents of numpy": ({"latents": np.zeros((1, 3, 8, 8))}, "latents is of type ndarray"),
    "latents hold NaN": ({"latents": torch.full((1, 3, 8, 8), math.nan)}, "latents holds NaN"),
    "embeddings are a list": ({"prompt": None, "image_embeds": [0.0] * WIDTH}, "image_embeds is of type list"),
    "embeddings are a number": ({"prompt": None, "image_embeds": torch.tensor(1.0)}, "image_embeds has shape ()"),
    "no embeddings": ({"prompt": None, "prompt_embeds_2": torch.zeros(0, 9, WIDTH)}, "shape (0, 9, 16)"),
    "infinite embeddings": (
        {"negative_prompt_embeds_2": torch.full((1, 9, WIDTH), math.inf)},
        "negative_prompt_embeds_2 holds NaN or infinity",
    ),
    "too few CLIP tokens": (
        {
            "prompt": None,
            "prompt_embeds": torch.zeros(1, 76, WIDTH),
            "pooled_prompt_embeds": torch.zeros(1, WIDTH),
        },
        "not (1, 77, 16)",
    ),
    "latents of a wrong shape": ({"latents": torch.zeros(1, 3, 16, 16)}, "(1, 3, 8, 8)"),
    "unknown output type": ({"output_type": "jpeg"}, "pil, np, pt, latent"),
    "unknown callback tensor": ({"callback_on_step_end_tensor_inputs": ["sample"]}, "'sample' is unknown"),
    "style is no path": ({"style_image": "nowhere.png"}, "cannot read 'nowhere.png'"),
    "style scale below 0": ({"style_scale": -0.1}, "style_scale=-0.1"),
    "infinite style scale": ({"style_scale": math.inf}, "style_scale=inf"),
    "style scale is a text": ({"style_scale": "1"}, "style_scale='1'"),
    "schedule and prompt": ({"prompt_schedule": [("a cat", 0.0)]}, "either prompt_schedule or prompt"),
    "schedule out of order": ({"prompt": None, "prompt_schedule": [("a cat", 0.5)]}, "out of order"),
    "styles do not match": ({"style_image": [picture()] * 3}, "3 images for 1 prompts"),
    "no styles": ({"style_image": []}, "0 images"),
    "style out of range": ({"style_image": np.full((4, 4, 3), 200.0)}, "[0, 1]"),
    "style twice": ({"style_image": picture(), "image_embeds": torch.zeros(1, WIDTH)}, "not both"),
    "image_embeds of a wrong shape": ({"image_embeds": torch.zeros(1, 5)}, "image_embeds has shape (1, 5)"),
    "prompt twice": ({"prompt_embeds_2": torch.zeros(1, 4, WIDTH)}, "not both"),
    "tokens without pooled": ({"prompt": None, "prompt_embeds": torch.zeros(1, 77, WIDTH)}, "belong together"),
    "mask without tokens": ({"prompt_attention_mask_2": torch.zeros(1, 77)}, "pass both"),
    "T5 tokens of a wrong width": ({"prompt": None, "prompt_embeds_2": torch.zeros(1, 9, 7)}, "up to 113, 16"),
    "too many T5 tokens": ({"prompt": None, "prompt_embeds_2": torch.zeros(1, 114, WIDTH)}, "up to 113, 16"),
    "mask of a wrong shape": (
        {
            "prompt": None,
            "prompt_embeds_2": torch.zeros(1, 9, WIDTH),
            "prompt_attention_mask_2": torch.zeros(1, 8),
        },
        "not (1, 9)",
    ),
    "pooled of a wrong batch": (
        {
            "prompt": None,
            "prompt_embeds": torch.zeros(2, 77, WIDTH),
            "pooled_prompt_embeds": torch.zeros(1, WIDTH),
        },
        "pooled_prompt_embeds has shape (1, 16), not (2, 16)",
    ),
    "negative tokens of a wrong batch": (
        {
            "negative_prompt_embeds": torch.zeros(3, 77, WIDTH),
            "negative_pooled_prompt_embeds": torch.zeros(3, WIDTH),
        },
        "negative_prompt_embeds has shape",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused_before_anything_runs(pipe, case):
    arguments, message = BAD_INPUT[case]

    def ran(*_):
        raise AssertionError("a network ran")

    for name in ("unet", "text_encoder", "text_encoder_2", "image_encoder"):
        setattr(pipe, name, copy.deepcopy(getattr(pipe, name)))
        getattr(pipe, name).register_forward_pre_hook(ran)
    with pytest.raises(ValueError) as error:
        draw(pipe, **arguments)
    assert message in str(error.value)


def test_bad_components_are_refused(pipe):
    for changes, arguments, message in (
        ({"unet": None}, {}, "unet and scheduler are needed"),
        ({"scheduler_sr256": EulerDiscreteScheduler()}, {}, "scheduler of SR256 is EulerDiscreteScheduler"),
        ({"scheduler": EDMEulerScheduler(sigma_data=1.0)}, {}, "sigma_data=0.5"),
        ({"scheduler": EDMEulerScheduler(prediction_type="v_prediction")}, {}, "prediction_type='v_prediction'"),
        ({"tokenizer": None}, {}, "text_encoder needs tokenizer,"),
        ({"tokenizer_2": None}, {}, "text_encoder_2 needs tokenizer_2,"),
        ({"feature_extractor": None}, {"style_image": picture()}, "needs image_encoder and feature_extractor"),
        ({"text_encoder": None, "text_encoder_2": None}, {}, "none is loaded"),
        ({"image_encoder": None}, {"style_image": picture()}, "pass image_embeds"),
        ({"text_encoder": None}, {"encoders": ["clip_text"]}, "load text_encoder and pass a prompt"),
        ({"text_encoder_2": None}, {"guidance_scale": {"t5": 5.0}}, "load text_encoder_2 and pass a prompt"),
        (
            {"safety_checker": tiny_components()["image_encoder"]},
            {},
            "safety_checker is a CLIPVisionModelWithProjection",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            draw(tiny_pipeline(**changes), **arguments)


def test_a_shared_scheduler_is_refused(pipe):
    pipe.scheduler_sr256 = pipe.scheduler
    with pytest.raises(ValueError, match="its own scheduler"):
        draw(pipe)


def test_t5_that_overflows_is_refused(pipe):
    pipe.text_encoder_2 = copy.deepcopy(pipe.text_encoder_2)
    with torch.no_grad():
        pipe.text_encoder_2.shared.weight.fill_(math.inf)
    with pytest.raises(ValueError, match="overflows"):
        draw(pipe)

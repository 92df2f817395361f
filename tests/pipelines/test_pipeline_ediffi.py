# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The cascade, on networks that are tiny and random but real."""

import contextlib
import copy
import inspect
import io
import math

import numpy as np
import pytest
import torch
from diffusers import EDMDPMSolverMultistepScheduler, EDMEulerScheduler, ModelMixin
from diffusers.callbacks import SDCFGCutoffCallback
from diffusers.configuration_utils import ConfigMixin, register_to_config
from helpers import PROMPT, SIZES, WIDTH, draw, embeddings, picture, seeded, tiny_components, tiny_pipeline, tiny_unet

from diffusers_ediffi import EDiffIPipeline, EDMDEISScheduler, ExpertRouterUNet, PaintRegion
from diffusers_ediffi.edm import SIGMA_DATA, c_in, c_out, c_skip
from diffusers_ediffi.models.conditioning import encode_clip_text, encode_t5

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
        in_channels=3,
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


@pytest.mark.parametrize("settings", [{"sigma_max": -80.0}, {"sigma_min": 0.0}, {"sigma_max": float("inf")}])
def test_noise_levels_that_a_scheduler_does_not_check_are_refused(settings):
    pipe = tiny_pipeline(scheduler=EDMEulerScheduler())
    pipe.scheduler.register_to_config(**settings)  # as a configuration of somebody else's
    with pytest.raises(ValueError, match=rf"of base 8x8 has {next(iter(settings))}=.*, which is no noise level"):
        draw(pipe)


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


def test_a_call_leaves_on_the_pipeline_what_callbacks_read(base_pipe):
    before = set(vars(base_pipe))
    arguments = {"prompt_schedule": [("a cat", 0.0), ("a dog", 0.5)], "guidance_interval": (0.1, 50.0)}
    draw(base_pipe, None, regions=[PaintRegion("dog", (0.0, 0.0, 0.5, 1.0))], **arguments)
    states = {"_guidance_scale", "_guidance_rescale", "_num_timesteps", "_interrupt", "_prompt_schedule"}
    assert set(vars(base_pipe)) - before <= states


def test_progress_bars_name_their_stage(pipe):
    pipe.set_progress_bar_config()
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        draw(pipe, num_inference_steps=(3, 2, 1))
    for label, steps in ((f"base {BASE}x{BASE}", 3), ("SR256", 2), ("SR1024", 1)):
        assert any(line.startswith(label) and f"{steps}/{steps}" in line for line in stderr.getvalue().split("\r"))


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


# --- the interface ---


def test_the_signatures_are_what_diffusers_expects():
    call = inspect.signature(EDiffIPipeline.__call__).parameters
    assert len(call) - 1 <= 32
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
    optional -= {"vocabulary", "conditioning"}  # settings
    assert optional == set(EDiffIPipeline._optional_components), "what is missing there would not be saved"


def test_numbers_of_numpy_are_numbers(base_pipe):
    base_pipe.scheduler = EDMDEISScheduler()
    size, steps, images = np.int64(BASE), np.int32(2), np.int64(2)
    run = {"num_inference_steps": 2, "guidance_scale": 3.0, "num_images_per_prompt": 2}
    given = {"num_inference_steps": steps, "guidance_scale": np.float32(3), "num_images_per_prompt": images}
    assert torch.equal(draw(base_pipe, **given, height=size, width=size), draw(base_pipe, **run))

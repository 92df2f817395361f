# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Stages with networks of diffusers that work in discrete time: their parametrisations, schedulers and conditions."""

import re

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    IFPipeline,
    IFSuperResolutionPipeline,
    KandinskyPriorPipeline,
    UnCLIPPipeline,
    UnCLIPScheduler,
)
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models import ModelMixin
from diffusers.utils.torch_utils import randn_tensor
from helpers import PROMPT, SIZES, WIDTH, picture, seeded, tiny_components, tiny_sr_unet, tiny_unet
from helpers_cascades import (
    IF_BETAS,
    IF_CONDITIONING,
    KARLO_CONDITIONING,
    if_sr_unet,
    if_unet,
    karlo_prior,
    karlo_sr_unet,
    karlo_text_proj,
    karlo_unet,
    text_parts,
)
from safetensors.torch import load_file, save_file

from diffusers_ediffi import (
    EDiffIImg2ImgPipeline,
    EDiffIInpaintPipeline,
    EDiffIPipeline,
    EDMDEISScheduler,
    ExpertRouterUNet,
    PaintRegion,
    UnCLIPTextProjection,
    record_attention,
)
from diffusers_ediffi.discrete_time import log_sigmas

# diffusers' DPMSolverMultistepScheduler makes an array of a tensor
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
LEARNED = {"variance_type": "learned_range", "thresholding": True}
IF_I = {**IF_BETAS, **LEARNED, "dynamic_thresholding_ratio": 0.95, "sample_max_value": 1.5}
IF_II = {**IF_BETAS, **LEARNED, "dynamic_thresholding_ratio": 0.95, "sample_max_value": 1.0}


def if_pipeline(make_scheduler, **changes):
    parts = {
        **text_parts(),
        "unet": if_unet(),
        "unet_sr256": if_sr_unet(),
        "scheduler": make_scheduler(**IF_I),
        "scheduler_sr256": make_scheduler(**IF_II),
        "conditioning": IF_CONDITIONING,
        "default_guidance_scale": (7.0, 4.0),
    }
    pipe = EDiffIPipeline(**{**parts, **changes})
    pipe.set_progress_bar_config(disable=True)
    return pipe


class GivenNoise(IFSuperResolutionPipeline):
    """Starts from noise that a test gives."""

    def prepare_intermediate_images(self, *args):
        return self.given_noise


def test_if_as_one_call_equals_the_two_pipelines_of_diffusers():
    timestep, run = 250, {"num_inference_steps": 4, "negative_prompt": "a dog", "output_type": "pt"}
    pipe = if_pipeline(DPMSolverMultistepScheduler)
    level = float(torch.tensor(log_sigmas(IF_BETAS)[timestep]).exp())
    generator = seeded()
    ours = pipe(
        "  " + PROMPT.title(), **{**run, "output_type": "latent"}, noise_level=level, generator=generator
    ).images

    t5 = {"tokenizer": pipe.tokenizer_2, "text_encoder": pipe.text_encoder_2}
    rest = dict.fromkeys(("safety_checker", "feature_extractor", "watermarker")) | {"requires_safety_checker": False}
    base = IFPipeline(unet=pipe.unet, scheduler=DPMSolverMultistepScheduler(**IF_I), **t5, **rest)
    noises = seeded()
    image = base(PROMPT, **run, generator=noises, clean_caption=False).images
    refine = GivenNoise(
        unet=pipe.unet_sr256,
        scheduler=DPMSolverMultistepScheduler(**IF_II),
        image_noising_scheduler=DDPMScheduler(**IF_BETAS),
        **t5,
        **rest,
    )
    for other in (base, refine):
        other.set_progress_bar_config(disable=True)
    of_low_res, state = noises.get_state(), (1, 3, SIZES[1], SIZES[1])
    randn_tensor(state, noises)
    refine.given_noise = randn_tensor(state, noises)
    noises.set_state(of_low_res)
    theirs = refine(
        PROMPT, image=image.clamp(-1, 1), **run, generator=noises, noise_level=timestep, clean_caption=False
    ).images
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert ours.std() > 0.05


# --- what the output means, and what the sample is ---


class GaussianDenoiser(ModelMixin, ConfigMixin):
    """What the best network predicts for pixels from N(0, 0.3^2), and a variance besides."""

    @register_to_config
    def __init__(self, kind, sample_size=8, in_channels=3, out_channels=6):
        super().__init__()
        self.steps = torch.nn.Parameter(torch.tensor(log_sigmas(IF_BETAS)))

    def forward(self, sample, timestep, return_dict=True):
        low = timestep.long().clamp(max=len(self.steps) - 2)
        sigma = self.steps[low].lerp(self.steps[low + 1], timestep.double() - low).exp().float()
        x = sample * (1 + sigma**2).sqrt()
        image = STD**2 / (STD**2 + sigma**2) * x
        noise = (x - image) / sigma
        output = {"sample": image, "epsilon": noise, "v_prediction": (noise - sigma * image) / (1 + sigma**2).sqrt()}
        return (torch.cat([output[self.config.kind], torch.full_like(sample, 9.0)], dim=1),)


STD = 0.3
SCHEDULERS = {
    "ours": EDMDEISScheduler,
    "rho_rk": lambda **settings: EDMDEISScheduler.from_preset("paper_sr", **settings),
    "Euler (x = image + sigma * noise)": lambda **settings: EulerDiscreteScheduler(**settings),
    "Heun": HeunDiscreteScheduler,
    "DPM-Solver++ (constant variance)": DPMSolverMultistepScheduler,
    "DDIM (without sigmas)": lambda **settings: DDIMScheduler(
        **settings, clip_sample=False, timestep_spacing="trailing", set_alpha_to_one=True
    ),
}
KINDS = ["epsilon", "v_prediction", "sample"]


def gaussian_pipeline(kind, scheduler, cls=EDiffIPipeline):
    settings = {**IF_BETAS, "prediction_type": kind}
    conditioning = {"unets": {"unet": {"arguments": {}}}}
    pipe = cls(unet=GaussianDenoiser(kind), scheduler=SCHEDULERS[scheduler](**settings), conditioning=conditioning)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe, **arguments):
    defaults = {"num_inference_steps": 60, "guidance_scale": 1.0, "output_type": "latent", "generator": seeded()}
    return pipe(**{**defaults, **arguments}).images


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_gaussian_data_come_out_with_their_standard_deviation(kind, scheduler):
    """The flow of a Gaussian is linear: it scales the noise."""
    sample = run(gaussian_pipeline(kind, scheduler), num_images_per_prompt=4)
    noise = torch.randn(sample.shape, generator=seeded())
    assert sample.shape == (4, 3, 8, 8)
    assert sample.std().item() == pytest.approx(STD * noise.std().item(), rel=0.05)
    assert torch.corrcoef(torch.stack([sample.flatten(), noise.flatten()]))[0, 1] > 0.9999


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_from_an_image_on_as_much_of_it_is_kept_as_the_noise_leaves(kind, scheduler):
    """From image + sigma * noise the flow of N(0, s^2) leads to that times s / sqrt(s^2 + sigma^2)."""
    pipe = gaussian_pipeline(kind, scheduler, EDiffIImg2ImgPipeline)
    image = torch.full((1, 3, 8, 8), 0.75)
    sample = run(pipe, image=image, sigma_start=1.5, num_inference_steps=200)
    (sigma,) = pipe.start_sigmas
    noise = torch.randn(sample.shape, generator=seeded())
    expected = (2 * image - 1 + sigma * noise) * STD / (STD**2 + sigma**2) ** 0.5
    torch.testing.assert_close(sample, expected, atol=0.02, rtol=0)
    assert 1.3 < sigma <= 1.5


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_inpainting_keeps_what_is_black_in_the_mask(scheduler):
    pipe = gaussian_pipeline("epsilon", scheduler, EDiffIInpaintPipeline)
    image = torch.rand(1, 3, 8, 8, generator=seeded(1))
    mask = torch.zeros(8, 8)
    mask[:, 4:] = 1
    sample = run(pipe, image=image, mask_image=mask)
    torch.testing.assert_close(sample[..., :4], 2 * image[..., :4] - 1, atol=1e-2, rtol=0)  # image is 8 bit
    drawn = run(gaussian_pipeline("epsilon", scheduler))
    torch.testing.assert_close(sample[..., 4:], drawn[..., 4:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_coefficients_say_what_the_output_means(kind, scheduler):
    pipe = gaussian_pipeline(kind, scheduler)
    (stage,) = pipe.stages
    stage.scheduler.set_timesteps(30)
    timestep = stage.scheduler.timesteps[min(range(30), key=lambda i: abs(stage.sigmas[i] - 1.5))]
    sigma = stage.parametrization.sigma_of(timestep)
    x = torch.randn(2, 3, 8, 8, generator=seeded()) * (STD**2 + sigma**2) ** 0.5
    output = pipe.unet(x / (1 + sigma**2) ** 0.5, timestep)[0][:, :3]
    skip, out = stage.parametrization.coefficients(sigma)
    rounding = 1e-6 * max(10.0, float(sigma))  # of image + sigma * noise in float32
    torch.testing.assert_close(skip * x + out * output, STD**2 / (STD**2 + sigma**2) * x, atol=rounding, rtol=1e-5)
    torch.testing.assert_close(stage.from_sample(stage.as_sample(x, float(sigma)), sigma), x)


# --- DeepFloyd IF in the cascade: all that eDiff-I's networks do ---


def test_our_scheduler_in_the_pipeline_of_diffusers():
    """It drops the learned variance there as well, as IFPipeline hands it on."""
    pipe = if_pipeline(EDMDEISScheduler, unet_sr256=None)
    theirs = IFPipeline(
        unet=pipe.unet,
        scheduler=EDMDEISScheduler(**IF_I),
        tokenizer=pipe.tokenizer_2,
        text_encoder=pipe.text_encoder_2,
        **dict.fromkeys(("safety_checker", "feature_extractor", "watermarker")),
        requires_safety_checker=False,
    )
    theirs.set_progress_bar_config(disable=True)
    run = {"num_inference_steps": 3, "guidance_scale": 7.0, "generator": seeded()}
    images = theirs(PROMPT, **run, clean_caption=False, output_type="pt").images
    ours = draw(pipe, **{**run, "generator": seeded()})
    torch.testing.assert_close(ours, images, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make", [DDPMScheduler, UnCLIPScheduler])
def test_schedulers_that_add_noise_read_the_learned_variance(make):
    """The loop of diffusers' pipelines: the variance of the row with the text, and where the step ends."""
    learned = {"variance_type": "learned_range"} | ({"beta_schedule": IF_BETAS["beta_schedule"]})
    pipe = if_pipeline(EDMDEISScheduler, unet_sr256=None, scheduler=make(**learned))
    ours = draw(pipe, num_inference_steps=3, guidance_scale=3.0)
    embeds, scheduler, generator = pipe.encode_prompt(PROMPT), make(**learned), seeded()
    scheduler.set_timesteps(3)
    text = torch.cat([embeds[6], embeds[2]])
    sample = torch.randn(ours.shape, generator=generator)
    for t, end in zip(scheduler.timesteps, [*scheduler.timesteps[1:], None], strict=True):
        with torch.no_grad():
            none, full = pipe.unet(torch.cat([sample, sample]), t, text).sample.chunk(2)
        output = torch.cat([none[:, :3] + 3 * (full - none)[:, :3], full[:, 3:]], dim=1)
        told = {"prev_timestep": end} if make is UnCLIPScheduler else {}
        sample = scheduler.step(output, t, sample, generator=generator, **told).prev_sample
    torch.testing.assert_close(ours, sample, atol=1e-4, rtol=1e-4)


def test_if_is_saved_and_loaded(tmp_path):
    pipe = if_pipeline(EDMDEISScheduler)
    pipe.save_pretrained(tmp_path / "if")
    loaded = EDiffIPipeline.from_pretrained(tmp_path / "if")
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(draw(loaded, noise_level=0.3), draw(pipe, noise_level=0.3))
    assert EDiffIImg2ImgPipeline.from_pipe(pipe)._conditioning == pipe._conditioning


def test_without_a_negative_prompt_if_is_guided_from_the_empty_text():
    pipe = if_pipeline(EDMDEISScheduler)
    assert torch.equal(draw(pipe), draw(pipe, negative_prompt=""))
    assert not torch.equal(draw(pipe), draw(pipe, negative_prompt="a dog"))
    embeds = pipe.encode_prompt(PROMPT)
    given = {"prompt": None, "prompt_embeds_2": embeds[2], "negative_prompt_embeds_2": embeds[6]}
    assert torch.equal(draw(pipe, **given), draw(pipe))
    assert embeds[2].shape == (1, 77, WIDTH) and embeds[0] is None


def test_a_weight_for_the_encoder_of_if_is_its_guidance():
    pipe = if_pipeline(EDMDEISScheduler, unet_sr256=None)
    torch.testing.assert_close(draw(pipe, guidance_scale={"t5": 7.0}), draw(pipe, guidance_scale=7.0))


@pytest.mark.parametrize("scheduler", [name for name in SCHEDULERS if "Heun" not in name and name != "rho_rk"])
def test_rescaled_guidance_brings_back_the_deviation_of_the_denoised_image(scheduler):
    """The sample after one step is the denoised image, whatever the scheduler's samples are."""
    pipe = if_pipeline(EDMDEISScheduler, unet_sr256=None, scheduler=SCHEDULERS[scheduler](**IF_BETAS))
    settings = {"num_inference_steps": 1, "negative_prompt": "a dog"}
    plain, guided = draw(pipe, **settings, guidance_scale=1.0), draw(pipe, **settings, guidance_scale=7.0)
    rescaled = draw(pipe, **settings, guidance_scale=7.0, guidance_rescale=1.0)
    assert not torch.allclose(guided.std(), plain.std(), rtol=0.01)
    torch.testing.assert_close(rescaled.std(), plain.std(), rtol=1e-3, atol=0)


def test_experts_of_if_take_turns_by_noise_level():
    pipe = if_pipeline(EDMDEISScheduler, unet_sr256=None)
    high, low = if_unet(7), if_unet(8)
    router = ExpertRouterUNet.from_unets([low, high], [1.0], scheduler=pipe.scheduler)
    pipe.scheduler.set_timesteps(4)
    levels = pipe.scheduler.routing_sigmas
    mixed = draw(if_pipeline(EDMDEISScheduler, unet=router, unet_sr256=None), num_inference_steps=4)
    calls = []
    hooks = [unet.register_forward_hook(lambda *_, name=name: calls.append(name)) for name, unet in named(low, high)]
    assert torch.equal(draw(if_pipeline(EDMDEISScheduler, unet=router, unet_sr256=None), num_inference_steps=4), mixed)
    assert calls == ["high" if sigma > 1 else "low" for sigma in levels]
    for hook in hooks:
        hook.remove()


def named(low, high):
    return ("low", low), ("high", high)


def test_if_is_painted_and_recorded():
    pipe = if_pipeline(EDMDEISScheduler)
    cat = [PaintRegion("red cat", (0.0, 0.0, 0.5, 1.0))]
    plain, painted = draw(pipe, noise_level=0.3), draw(pipe, regions=cat, region_strength=1.0, noise_level=0.3)
    assert not torch.equal(plain, painted)
    with record_attention(pipe, heat_maps=True) as recorder:
        assert torch.equal(draw(pipe, noise_level=0.3), plain)
    assert recorder.heat_map("red cat").shape[-2:] == (4, 4)
    assert recorder.sigmas == pytest.approx([min(sigma, 80) for sigma in pipe.scheduler.routing_sigmas], rel=1e-4)
    with record_attention(pipe, "unet_sr256") as recorder:
        draw(pipe, noise_level=0.3)
    assert "t5" in recorder.shares() and "text" not in recorder.shares()


# --- Karlo: unCLIP's decoder, and two experts of super-resolution ---


class GivenSteps(DPMSolverMultistepScheduler):
    """A deterministic solver that UnCLIPPipeline calls as its own."""

    def step(self, *args, prev_timestep=None, **kwargs):
        return super().step(*args, **kwargs)


def karlo_pipeline():
    """The pipeline, and its two experts of super-resolution."""
    settings = {**IF_BETAS, **LEARNED, "sample_max_value": 4.0}
    first, last = karlo_sr_unet(5), karlo_sr_unet(6)
    text_proj = UnCLIPTextProjection.from_config(karlo_text_proj().config)
    text_proj.load_state_dict(karlo_text_proj().state_dict())
    router = ExpertRouterUNet.from_unets([last, first], [300], unit="timestep", scheduler=GivenSteps(**settings))
    components = tiny_components()
    pipe = EDiffIPipeline(
        unet=karlo_unet(),
        unet_sr256=router,
        scheduler=GivenSteps(**settings),
        text_proj=text_proj,
        conditioning=KARLO_CONDITIONING,
        default_guidance_scale=(8.0, 1.0),
        **{name: components[name] for name in ("tokenizer", "text_encoder", "image_encoder", "feature_extractor")},
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe, first, last


def test_karlo_equals_its_pipeline_in_diffusers():
    pipe, first, last = karlo_pipeline()
    shared = {"text_encoder": pipe.text_encoder, "tokenizer": pipe.tokenizer, "prior": karlo_prior()}
    of_prior = UnCLIPScheduler(prediction_type="sample", clip_sample_range=5.0, variance_type="fixed_small_log")
    prompts = [PROMPT, "a dog"]

    prior = KandinskyPriorPipeline(
        **shared, scheduler=of_prior, image_encoder=pipe.image_encoder, image_processor=pipe.feature_extractor
    )
    prior.set_progress_bar_config(disable=True)
    embeds = prior(prompts, num_inference_steps=3, generator=seeded()).image_embeds
    latents = torch.randn(2, 3, SIZES[0], SIZES[0], generator=seeded(1))
    run = {"num_inference_steps": (4, 5), "output_type": "np"}
    ours = pipe(prompts, image_embeds=embeds, latents=latents, generator=seeded(2), **run).images

    theirs = UnCLIPPipeline(
        **shared,
        decoder=pipe.unet,
        text_proj=karlo_text_proj(),
        super_res_first=first,
        super_res_last=last,
        prior_scheduler=of_prior,
        decoder_scheduler=pipe.scheduler,
        super_res_scheduler=pipe.scheduler_sr256,
    )
    theirs.set_progress_bar_config(disable=True)
    used = []
    for name, unet in (("first", first), ("last", last)):
        unet.register_forward_hook(lambda *_, name=name: used.append(name))
    steps = dict(zip(("prior", "decoder", "super_res"), (3, 4, 5), strict=True))
    images = theirs(
        prompts,
        generator=seeded(),
        decoder_latents=latents,
        super_res_latents=torch.randn(2, 3, SIZES[1], SIZES[1], generator=seeded(2)),
        output_type="np",
        **{f"{name}_num_inference_steps": number for name, number in steps.items()},
    ).images
    assert abs(ours - images).max() < 1e-4 and ours.std() > 0.05
    used.clear()
    pipe(prompts, image_embeds=embeds, latents=latents, generator=seeded(2), **run)
    assert used == ["first"] * 4 + ["last"]


def test_karlo_is_saved_and_loaded(tmp_path):
    pipe, _, _ = karlo_pipeline()
    pipe.scheduler = EDMDEISScheduler.from_config(pipe.scheduler.config)
    pipe.scheduler_sr256 = EDMDEISScheduler.from_config(pipe.scheduler.config)
    pipe.save_pretrained(tmp_path / "karlo")
    loaded = EDiffIPipeline.from_pretrained(tmp_path / "karlo")
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(draw(loaded, style_image=picture()), draw(pipe, style_image=picture()))


@pytest.mark.parametrize("component", ["unet", "text_proj"])
def test_half_a_network_of_diffusers_is_refused(tmp_path, component):
    pipe, _, _ = karlo_pipeline()
    pipe.scheduler, pipe.scheduler_sr256 = (EDMDEISScheduler(**IF_BETAS) for _ in range(2))
    pipe.save_pretrained(tmp_path / "karlo")
    (file,) = (tmp_path / "karlo" / component).glob("*.safetensors")
    weights = load_file(file)
    name = max(weights)
    save_file({key: tensor for key, tensor in weights.items() if key != name}, file)
    with pytest.raises(OSError, match=f"lacks {re.escape(name)} of the network"):
        EDiffIPipeline.from_pretrained(tmp_path / "karlo")
    save_file({**weights, name: weights[name] * torch.nan}, file)
    with pytest.raises(OSError, match="not finite in"):
        EDiffIPipeline.from_pretrained(tmp_path / "karlo")


def test_karlo_needs_a_picture_or_its_embedding():
    pipe, _, _ = karlo_pipeline()
    with pytest.raises(ValueError, match="reads image_embeds, which is missing: pass style_image"):
        draw(pipe)
    assert not torch.equal(draw(pipe, style_image=picture()), draw(pipe, style_image=picture(1)))
    with pytest.raises(ValueError, match=re.escape("encoders=['clip_image'] leaves out 'clip_text', which base 8x8")):
        draw(pipe, style_image=picture(), encoders=["clip_image"])


def test_karlo_is_painted_where_it_reads_text():
    pipe, _, _ = karlo_pipeline()
    run = {"style_image": picture(), "height": SIZES[0], "region_strength": 1.0}
    cat = [PaintRegion("red cat", (0.0, 0.0, 0.5, 1.0))]
    assert not torch.equal(draw(pipe, **run), draw(pipe, **run, regions=cat))
    with pytest.raises(ValueError, match="paints SR256, which reads no text: give it 0"):
        draw(pipe, style_image=picture(), regions=cat, region_strength=(1.0, 1.0))


def test_without_the_picture_karlo_reads_what_it_has_learned_for_that():
    pipe, _, _ = karlo_pipeline()
    one, other = (draw(pipe, style_image=picture(i), encoders=["clip_text"]) for i in range(2))
    assert torch.equal(one, other)
    learned = pipe.text_proj.learned_classifier_free_guidance_embeddings.detach()[None]
    torch.testing.assert_close(draw(pipe, image_embeds=learned), one, atol=1e-5, rtol=1e-5)


def test_weights_for_karlos_encoders():
    """D_k is conditioned on encoder k, and on the other as the unconditional model is."""
    pipe, _, _ = karlo_pipeline()
    learned = pipe.text_proj.learned_classifier_free_guidance_embeddings.detach()[None]
    style = {"style_image": picture(), "height": SIZES[0]}
    torch.testing.assert_close(
        draw(pipe, **style, guidance_scale={"clip_text": 5.0}),
        draw(pipe, height=SIZES[0], image_embeds=learned, guidance_scale=5.0),
        rtol=1e-3,
        atol=1e-3,
    )
    by_picture = draw(pipe, **style, guidance_scale={"clip_image": 5.0}, negative_prompt="")
    torch.testing.assert_close(by_picture, draw(pipe, prompt=" .", **style, guidance_scale={"clip_image": 5.0}))
    both = draw(pipe, **style, guidance_scale={"clip_text": 5.0, "clip_image": 5.0})
    assert not torch.allclose(both, by_picture, atol=1e-2)


# --- wrong inputs ---

WRONG_CONDITIONING = {
    "no dictionary": (3, "conditioning is 3"),
    "an unknown entry": ({"encoder": {}}, "unknown entries ['encoder']"),
    "an unknown encoder": ({"encoders": {"bert": {}}}, "unknown entries ['bert']"),
    "no columns": ({"encoders": {"t5": {"widths": {"prompt_embeds_2": 8}}}}, "columns=None"),
    "columns the wrong way round": (
        {"encoders": {"t5": {"columns": [3, 3], "widths": {"prompt_embeds_2": 8}}}},
        "columns=[3, 3]",
    ),
    "too many columns": (
        {"encoders": {"t5": {"columns": [0, 10**9], "widths": {"prompt_embeds_2": 8}}}},
        "at most 16384",
    ),
    "a width that is no number": (
        {"encoders": {"t5": {"columns": [0, 3], "widths": {"prompt_embeds_2": "8"}}}},
        "the width '8'",
    ),
    "an embedding of another encoder": (
        {"encoders": {"t5": {"columns": [0, 3], "widths": {"prompt_embeds": 8}}}},
        "give a width for some of prompt_embeds_2",
    ),
    "an unknown network": ({"unets": {"prior": {}}}, "unknown entries ['prior']"),
    "no arguments": ({"unets": {"unet": {}}}, "arguments of unet of conditioning is None"),
    "an unknown argument": ({"unets": {"unet": {"arguments": {"x": "y"}}}}, "unknown entries ['x']"),
    "an embedding of no encoder": (
        {"unets": {"unet": {"arguments": {"encoder_hidden_states": "prompt_embeds_2"}}}},
        "reads 'prompt_embeds_2'; choose from noise_level",
    ),
    "an unknown filter": (
        {"unets": {"unet_sr256": {"arguments": {}, "low_res_filter": "lanczos"}}},
        "low_res_filter='lanczos'",
    ),
    "betas of nothing": (
        {"unets": {"unet_sr256": {"arguments": {}, "noise_betas": IF_BETAS}}},
        "give both or neither",
    ),
    "no betas": (
        {"unets": {"unet_sr256": {"arguments": {"class_labels": "noise_timestep"}, "noise_betas": {"x": 1}}}},
        "noise_betas={'x': 1}",
    ),
    "unknown betas": (
        {
            "unets": {
                "unet_sr256": {
                    "arguments": {"class_labels": "noise_timestep"},
                    "noise_betas": {"beta_schedule": "sine"},
                }
            }
        },
        "beta_schedule='sine'",
    ),
}


@pytest.mark.parametrize("name", WRONG_CONDITIONING)
def test_wrong_conditioning_is_refused_by_name(name):
    conditioning, message = WRONG_CONDITIONING[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        EDiffIPipeline(unet=if_unet(), scheduler=EDMDEISScheduler(**IF_BETAS), conditioning=conditioning)


def test_what_does_not_fit_is_refused_before_anything_runs():
    pipe = if_pipeline(EDMDEISScheduler)
    t5 = torch.zeros(1, 77, WIDTH)
    refused = {
        "is not read by this model, whose encoders are t5": {
            "prompt": None,
            "prompt_embeds": t5,
            "prompt_embeds_2": t5,
        },
        "not (1, 77, 16)": {"prompt": None, "prompt_embeds_2": t5[:, :76]},
        "choose from t5": {"encoders": ["clip_text"]},
        "class_labels=[3] are not read by any network that runs": {"class_labels": 3},
        "class_labels=-1 must be whole numbers from 0": {"class_labels": -1},
        "noise_level=30000.0: SR256 was trained with noise up to 20291": {"noise_level": 30000.0},
    }
    for message, arguments in refused.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            draw(pipe, **arguments)
    with pytest.raises(ValueError, match="say what it reads by conditioning="):
        draw(if_pipeline(EDMDEISScheduler, conditioning=None))
    with pytest.raises(ValueError, match="in_channels=3 and out_channels=6; a super-resolution network"):
        draw(if_pipeline(EDMDEISScheduler, unet_sr256=if_unet(sample_size=SIZES[1], class_embed_type="timestep")))
    with pytest.raises(ValueError, match="the scheduler of base 8x8 does not fit: .*FlowMatchEuler"):
        draw(if_pipeline(EDMDEISScheduler, scheduler=FlowMatchEulerDiscreteScheduler()))
    pipe.text_encoder_2 = None
    with pytest.raises(ValueError, match="reads negative_prompt_embeds_2, which is missing: load text_encoder_2"):
        draw(pipe, prompt=None, prompt_embeds_2=t5)


def test_classes_are_told_to_every_row():
    conditioning = {
        "encoders": {"t5": {"columns": [0, 77], "widths": {"prompt_embeds_2": WIDTH}}},
        "unets": {"unet": {"arguments": {"encoder_hidden_states": "prompt_embeds_2", "class_labels": "class_labels"}}},
    }
    unet = if_unet(num_class_embeds=5)
    pipe = if_pipeline(EDMDEISScheduler, unet=unet, unet_sr256=None, conditioning=conditioning)
    both = draw(pipe, [PROMPT, PROMPT], class_labels=[1, 4], latents=torch.ones(2, 3, 8, 8))
    fourth = draw(pipe, PROMPT, class_labels=4, latents=torch.ones(1, 3, 8, 8))
    torch.testing.assert_close(both[1:], fourth, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(both[0], both[1], atol=1e-2)
    with pytest.raises(ValueError, match=re.escape("class_labels=[5]: base 8x8 knows 5 classes, counted from 0")):
        draw(pipe, class_labels=5)
    with pytest.raises(ValueError, match="base 8x8 reads class_labels, which are missing"):
        draw(pipe)


def draw(pipe, prompt=PROMPT, **arguments):
    defaults = {"num_inference_steps": 2, "generator": seeded(), "output_type": "latent", "noise_level": 0.0}
    return pipe(**{"prompt": prompt, **defaults, **arguments}).images


# --- ADM: classes, the noise, and a bilinear image between the stages ---

ADM_BASE = {**IF_BETAS, "thresholding": True}
ADM_SR = {"beta_schedule": "linear", "thresholding": True}
ADM = {"preconditioning": "epsilon", "num_class_embeds": 5}
ADM_CONDITIONING = {
    "unets": {
        "unet": {"arguments": {"class_labels": "class_labels"}},
        "unet_sr256": {"arguments": {"class_labels": "class_labels"}, "low_res_filter": "bilinear"},
    }
}


def adm_pipeline(**changes):
    parts = {
        "unet": tiny_unet(1, **ADM),
        "unet_sr256": tiny_sr_unet(2, SIZES[1], **ADM),
        "scheduler": EDMDEISScheduler(**ADM_BASE),
        "scheduler_sr256": EDMDEISScheduler(**ADM_SR),
        "conditioning": ADM_CONDITIONING,
        "default_guidance_scale": (1.0, 1.0),
    }
    pipe = EDiffIPipeline(**{**parts, **changes})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_adm_draws_classes():
    """As a loop over both networks draws them."""
    pipe = adm_pipeline()
    labels = torch.tensor([3, 0])
    ours = draw(pipe, prompt=None, class_labels=[3, 0])
    generator, low_res = seeded(), None
    for unet, settings in ((pipe.unet, ADM_BASE), (pipe.unet_sr256, ADM_SR)):
        scheduler = EDMDEISScheduler(**settings)
        scheduler.set_timesteps(2)
        size = unet.config.sample_size
        sample = torch.randn(2, 3, size, size, generator=generator) * scheduler.init_noise_sigma
        if low_res is not None:
            low_res = torch.nn.functional.interpolate(low_res.clamp(-1, 1), size=(size, size), mode="bilinear")
        for t in scheduler.timesteps:
            x = scheduler.scale_model_input(sample, t)
            x = x if low_res is None else torch.cat([x, low_res], dim=1)
            with torch.no_grad():
                sample = scheduler.step(unet(x, t, class_labels=labels).sample, t, sample).prev_sample
        low_res = sample
    torch.testing.assert_close(ours, sample, atol=1e-4, rtol=1e-4)


def test_classes_of_ediffs_networks_need_no_conditioning():
    described = adm_pipeline(unet_sr256=None)
    pipe = adm_pipeline(conditioning=None, unet=described.unet, unet_sr256=None)
    assert torch.equal(draw(pipe, prompt=None, class_labels=3), draw(described, prompt=None, class_labels=3))
    with pytest.raises(ValueError, match="predicts 'epsilon'; build its scheduler with prediction_type='epsilon'"):
        draw(adm_pipeline(scheduler=EDMDEISScheduler()), class_labels=3)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The router: who owns which noise level, what is on disk, and what is refused."""

import json
import math
import shutil

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from helpers_diffusers import SD_BETAS, constant_unet, inputs, tiny_ediffi_unet, tiny_unet, trace
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import diffusers_ediffi  # noqa: F401  registers the library with diffusers
from diffusers_ediffi.experts.router import ExpertRouterUNet
from diffusers_ediffi.models.unet import EDiffIUNet


def c_noise(sigma: float) -> torch.Tensor:
    return 0.25 * torch.tensor(sigma).log()


@pytest.fixture
def router() -> ExpertRouterUNet:
    return ExpertRouterUNet.from_unets([tiny_unet(0), tiny_unet(1), tiny_unet(2)], boundaries=[0.1, 10.0])


def stable_diffusion(unet, folder) -> StableDiffusionPipeline:
    folder.mkdir(exist_ok=True)
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "b</w>": 3}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    torch.manual_seed(0)
    clip = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    tokens = {"vocab_size": 4, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=16),
        text_encoder=CLIPTextModel(CLIPTextConfig(**clip, **tokens)),
        tokenizer=CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77),
        unet=unet,
        scheduler=DDIMScheduler(**SD_BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(pipe, steps: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return pipe("a b", num_inference_steps=steps, generator=generator, output_type="latent").images


# --- routing ---


def test_identical_experts_are_one_model():
    unet = tiny_unet()
    router = ExpertRouterUNet.from_unets([unet, unet, unet], boundaries=[0.1, 10.0])
    for sigma in (0.01, 1.0, 80.0):
        expected = unet(**inputs(), timestep=c_noise(sigma)).sample
        assert torch.equal(router(**inputs(), timestep=c_noise(sigma)).sample, expected)
        router.select_expert(sigma)
        assert torch.equal(router(**inputs(), timestep=c_noise(sigma), return_dict=False)[0], expected)
        router.reset_expert()


def test_router_of_ediff_i_unets_is_called_like_one():
    low, high = tiny_ediffi_unet(0), tiny_ediffi_unet(1)
    router = ExpertRouterUNet.from_unets([low, high], boundaries=[1.0])
    added = {"text_embeds": torch.randn(1, 16), "image_embeds": torch.randn(1, 16)}
    arguments = {**inputs(channels=3), "encoder_hidden_states_2": torch.randn(1, 5, 16), "added_cond_kwargs": added}
    for sigma, expert in ((0.5, low), (2.0, high)):
        routed = router(**arguments, timestep=c_noise(sigma)).sample
        assert torch.equal(routed, expert(**arguments, timestep=c_noise(sigma)).sample)
    assert not torch.equal(low(**arguments, timestep=0.0).sample, high(**arguments, timestep=0.0).sample)


@pytest.mark.parametrize("num_experts", [1, 2, 3, 4])
def test_an_expert_owns_its_lower_boundary(num_experts):
    boundaries = [0.0757, 1.0, 9.61][: num_experts - 1]
    router = ExpertRouterUNet.from_unets([constant_unet(i) for i in range(num_experts)], boundaries)
    assert router.select_expert(0.0) == 0 and router.select_expert(80.0) == num_experts - 1
    router.reset_expert()
    for i, boundary in enumerate(boundaries):
        assert router.select_expert(boundary) == i + 1
        assert router.select_expert(math.nextafter(boundary, 0)) == i
        router.reset_expert()
        assert router(**inputs(), timestep=c_noise(boundary)).sample.mean() == i + 1
        assert router(**inputs(), timestep=c_noise(boundary * 0.9999)).sample.mean() == i


def test_selected_expert_stays_until_reset():
    router = ExpertRouterUNet.from_unets([constant_unet(0), constant_unet(1)], boundaries=[1.0])
    router.select_expert(5.0)
    assert router(**inputs(), timestep=c_noise(0.01)).sample.mean() == 1  # a later stage of a Runge-Kutta step
    router.reset_expert()
    assert router(**inputs(), timestep=c_noise(0.01)).sample.mean() == 0


def test_every_step_of_an_edm_scheduler_goes_to_the_owner_of_its_sigma():
    """Page 1's count: of 25 Karras steps from 80, 9 fall to E(9,511), 11 to the middle and 5 to E(3,0)."""
    router = ExpertRouterUNet.from_unets([constant_unet(i) for i in range(3)], boundaries=[0.0757, 9.61])
    scheduler = EDMEulerScheduler(sigma_max=80.0)
    scheduler.set_timesteps(25)
    ran = trace(router)
    for timestep in scheduler.timesteps:
        router(**inputs(), timestep=timestep)
    assert ran == [2] * 9 + [1] * 11 + [0] * 5
    assert [router.select_expert(sigma) for sigma in scheduler.sigmas.tolist()[:-1]] == ran


def test_boundaries_in_sigma_on_a_discrete_time_model():
    """Timestep t of a discrete model has sigma = sqrt((1 - alpha_bar) / alpha_bar)."""
    scheduler = DDPMScheduler(**SD_BETAS)
    sigmas = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt()
    boundary = sigmas[600].item()
    router = ExpertRouterUNet.from_unets([constant_unet(0), constant_unet(1)], [boundary], scheduler=scheduler)
    outputs = [router(**inputs(), timestep=torch.tensor(t)).sample.mean() for t in (0, 599, 599.9, 600, 601, 999)]
    assert outputs == [0, 0, 0, 1, 1, 1]
    assert [router.select_expert(s) for s in (boundary * 0.999, boundary)] == [0, 1]


def test_boundaries_in_timesteps():
    unets = [constant_unet(0), constant_unet(1)]
    router = ExpertRouterUNet.from_unets(unets, [200], unit="timestep")
    assert [router(**inputs(), timestep=t).sample.mean() for t in (1, 199, 200, 999)] == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="scheduler="):
        router.select_expert(1.0)
    scheduler = DDPMScheduler(**SD_BETAS)
    sigma = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt()[[199, 201]].tolist()
    router = ExpertRouterUNet.from_unets(unets, [200], unit="timestep", scheduler=scheduler)
    assert [router.select_expert(s) for s in sigma] == [0, 1]


def test_the_guidance_scale_is_that_of_the_selected_expert():
    router = ExpertRouterUNet.from_unets([tiny_unet(), tiny_unet()], [1.0], guidance_scales=[3, None])
    assert router.guidance_scales == [3.0, None] and router.guidance_scale is None
    router.select_expert(5.0)
    assert router.guidance_scale is None
    router.select_expert(0.5)
    assert router.guidance_scale == 3.0
    router.reset_expert()
    assert router.guidance_scale is None


# --- training ---


def test_a_mixed_batch_is_split_in_training_and_comes_back_in_order():
    experts = [tiny_unet(i) for i in range(3)]
    router = ExpertRouterUNet.from_unets(experts, boundaries=[0.1, 10.0]).train()
    batch, timesteps = inputs(4), c_noise(1.0) + torch.tensor([1.0, -2.0, 0.9, 0.0])
    output = router(**batch, timestep=timesteps).sample
    for row, i in enumerate([2, 0, 2, 1]):
        alone = {name: tensor[row : row + 1] for name, tensor in batch.items()}
        torch.testing.assert_close(output[row : row + 1], experts[i](**alone, timestep=timesteps[row]).sample)


def test_gradients_reach_only_the_experts_that_were_drawn(router):
    router.train()
    router(**inputs(3), timestep=torch.stack([c_noise(50.0), c_noise(0.01), c_noise(50.0)])).sample.sum().backward()
    reached = [any(p.grad is not None for p in expert.parameters()) for expert in router.experts]
    assert reached == [True, False, True]


def test_a_mixed_batch_is_refused_in_inference(router):
    timesteps = torch.stack([c_noise(50.0), c_noise(0.01)])
    with pytest.raises(ValueError, match=r"experts \[0, 2\]"):
        router.eval()(**inputs(2), timestep=timesteps)
    with torch.no_grad(), pytest.raises(ValueError, match="once for each noise level"):
        router.train()(**inputs(2), timestep=timesteps)


def test_gradient_checkpointing_does_not_change_gradients(router):
    router.train()
    gradients = []
    for switch in (router.disable_gradient_checkpointing, router.enable_gradient_checkpointing):
        switch()
        router.zero_grad()
        router(**inputs(), timestep=c_noise(1.0)).sample.sum().backward()
        gradients.append(router.experts[1].conv_in.weight.grad.clone())
    assert router.is_gradient_checkpointing
    torch.testing.assert_close(*gradients)


# --- what a pipeline reads ---


def test_looks_like_a_unet(router):
    assert router.config.in_channels == 4 and router.config.time_cond_proj_dim is None
    assert router.config.boundaries == [0.1, 10.0] and router.config.unit == "sigma"
    assert router.dtype == torch.float32 and router.device.type == "cpu"
    assert router.encoder_hid_proj is None
    with pytest.raises(AttributeError):
        _ = router.add_embedding


def test_what_experts_refuse_to_split_or_cast_holds_for_the_router():
    router = ExpertRouterUNet.from_unets([tiny_ediffi_unet(), tiny_unet(in_channels=3, out_channels=3)], [1.0])
    for name in ("_no_split_modules", "_skip_layerwise_casting_patterns", "_repeated_blocks"):
        assert set(getattr(router, name)) == {*getattr(EDiffIUNet, name), *getattr(UNet2DConditionModel, name)}


def test_sdxl_conditioning_is_passed_on():
    """StableDiffusionXLPipeline reads the width of its time ids from `add_embedding`."""
    sdxl = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    unet = tiny_unet(**sdxl, projection_class_embeddings_input_dim=6 * 8 + 16)
    router = ExpertRouterUNet.from_unets([unet, unet], [1.0])
    assert router.config.addition_time_embed_dim == 8
    assert router.add_embedding.linear_1.in_features == 64


def test_one_expert_without_boundaries_takes_any_timestep():
    unet = tiny_unet()
    router = ExpertRouterUNet.from_unets([unet], [])
    assert torch.equal(router(**inputs(), timestep=801).sample, unet(**inputs(), timestep=801).sample)


def test_attention_processors_are_set_in_all_experts(router):
    from diffusers.models.attention_processor import AttnProcessor

    before = router.attn_processors
    assert len(before) == 3 * len(router.experts[0].attn_processors)
    single = AttnProcessor()
    router.set_attn_processor(single)
    assert all(processor is single for processor in router.attn_processors.values())
    router.set_attn_processor(before)
    assert router.attn_processors == before
    router.set_attention_backend("native")
    router.reset_attention_backend()


@pytest.mark.parametrize("unit", ["sigma", "timestep"])
def test_stable_diffusion_runs_with_a_router(unit, tmp_path):
    single = stable_diffusion(tiny_unet(), tmp_path / "tokenizer")
    scheduler = single.scheduler if unit == "sigma" else None
    boundaries = [1.0, 5.0] if unit == "sigma" else [300, 700]
    router = ExpertRouterUNet.from_unets([tiny_unet() for _ in range(3)], boundaries, unit, scheduler)
    pipe = stable_diffusion(router, tmp_path / "tokenizer")
    ran = trace(router)
    assert torch.equal(latents(pipe), latents(single))
    # steps at t = 801, 601, 401, 201, 1, of sigma 6.6, 2.9, 1.5, 0.76, 0.04
    assert ran == ([2, 1, 1, 0, 0] if unit == "sigma" else [2, 1, 1, 0, 0])


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers 0.42 on numpy 2.4
def test_boundaries_in_sigma_hold_for_another_scheduler(tmp_path):
    router = ExpertRouterUNet.from_unets(
        [constant_unet(0), constant_unet(1)], [2.0], scheduler=DDPMScheduler(**SD_BETAS)
    )
    pipe = stable_diffusion(router, tmp_path / "tokenizer")
    pipe.scheduler = EulerDiscreteScheduler(**SD_BETAS, use_karras_sigmas=True)
    ran = trace(router)
    latents(pipe, steps=8)
    assert ran == [int(sigma >= 2.0) for sigma in pipe.scheduler.sigmas[:-1]]
    assert 0 in ran and 1 in ran


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_pipeline_with_a_router_survives_saving(variant, tmp_path):
    router = ExpertRouterUNet.from_unets([tiny_unet(0), tiny_unet(1)], [500], unit="timestep")
    pipe = stable_diffusion(router, tmp_path / "tokenizer")
    pipe.save_pretrained(tmp_path / "pipe", variant=variant)
    index = json.loads((tmp_path / "pipe" / "model_index.json").read_text())
    assert index["unet"] == ["diffusers_ediffi", "ExpertRouterUNet"]
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "pipe", variant=variant)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(latents(loaded), latents(pipe))


# --- on disk ---


def same_weights(module: torch.nn.Module, other: torch.nn.Module) -> bool:
    first, second = module.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_layout_on_disk(router, tmp_path):
    router.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json",
        "expert.0",
        "expert.1",
        "expert.2",
        "experts.json",
    ]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["boundaries"] == [0.1, 10.0] and "in_channels" not in config
    assert [expert["class_name"] for expert in config["unets"]] == ["UNet2DConditionModel"] * 3
    alone = UNet2DConditionModel.from_pretrained(tmp_path / "expert.1")
    assert same_weights(alone, router.experts[1])


def test_save_and_load_give_the_same_router(tmp_path):
    low, high = tiny_unet(0), tiny_ediffi_unet(1, in_channels=4, out_channels=4)
    router = ExpertRouterUNet.from_unets([low, high], [1.0])
    router.save_pretrained(tmp_path / "unet", max_shard_size="30KB")
    assert len(list((tmp_path / "unet" / "expert.0").glob("*-of-*.safetensors"))) > 1
    for loaded in (
        ExpertRouterUNet.from_pretrained(tmp_path / "unet"),
        ExpertRouterUNet.from_pretrained(str(tmp_path), subfolder="unet"),
    ):
        assert same_weights(loaded, router) and not loaded.training
        assert [type(expert) for expert in loaded.experts] == [UNet2DConditionModel, EDiffIUNet]
        assert loaded.config.boundaries == [1.0] and loaded.select_expert(1.0) == 1


def test_betas_survive_saving(tmp_path):
    scheduler = DDPMScheduler(**SD_BETAS)
    router = ExpertRouterUNet.from_unets([constant_unet(0), constant_unet(1)], [2.0], scheduler=scheduler)
    router.save_pretrained(tmp_path)
    loaded = ExpertRouterUNet.from_pretrained(tmp_path)
    assert loaded.config.betas == router.config.betas
    assert [loaded(**inputs(), timestep=t).sample.mean() for t in (400, 600)] == [0, 1]


def test_config_alone_builds_all_experts(router, tmp_path):
    router.save_pretrained(tmp_path)
    built = ExpertRouterUNet.from_config(ExpertRouterUNet.load_config(tmp_path))
    assert [p.shape for p in built.parameters()] == [p.shape for p in router.parameters()]
    assert built.boundaries == router.boundaries


def test_variants_share_a_folder_and_can_keep_their_stored_dtype(tmp_path):
    router = ExpertRouterUNet.from_unets([tiny_unet(0), tiny_unet(1)], [1.0])
    router.save_pretrained(tmp_path)
    for variant, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        ExpertRouterUNet.from_pretrained(tmp_path, dtype=dtype).save_pretrained(tmp_path, variant=variant)
        assert (tmp_path / f"experts.{variant}.json").is_file()
        assert ExpertRouterUNet.from_pretrained(tmp_path, variant=variant, dtype="auto").dtype == dtype
        # float32 by default, as in every model of diffusers
        assert ExpertRouterUNet.from_pretrained(tmp_path, variant=variant).dtype == torch.float32
    assert same_weights(ExpertRouterUNet.from_pretrained(tmp_path), router)


def test_loads_from_the_hub_s_cache(router, tmp_path):
    """A repository as the Hub's client caches it, read without network."""
    commit = "0" * 40
    repository = tmp_path / "cache" / "models--org--name"
    snapshot = repository / "snapshots" / commit
    router.save_pretrained(snapshot / "unet")
    router.half().save_pretrained(snapshot / "unet", variant="fp16")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    hub = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    loaded = ExpertRouterUNet.from_pretrained("org/name", subfolder="unet", variant="fp16", **hub)
    assert same_weights(loaded, router)
    with pytest.raises(OSError):
        ExpertRouterUNet.from_pretrained("org/other", **hub)


# --- refusals ---


@pytest.mark.parametrize(
    ("boundaries", "message"),
    [
        ([1.0], "2 boundaries|N - 1"),
        ([1.0, 2.0, 3.0], "N - 1"),
        ([2.0, 1.0], "strictly increasing"),
        ([1.0, 1.0], "strictly increasing"),
        ([0.0, 1.0], "positive"),
        ([1.0, math.inf], "finite"),
        ([1.0, math.nan], "finite"),
        ([1.0, "x"], "numbers"),
    ],
)
def test_refuses_boundaries(boundaries, message):
    with pytest.raises(ValueError, match=message):
        ExpertRouterUNet.from_unets([tiny_unet()] * 3, boundaries)


@pytest.mark.parametrize(
    ("boundaries", "unit", "scheduler", "message"),
    [
        ([0.875], "timestep", None, r"\[0.875\] are not timesteps"),  # a fraction of the steps
        ([9.61], "timestep", None, 'sigmas with unit="sigma"'),
        ([1000], "timestep", DDPMScheduler(**SD_BETAS), "above the scheduler's last timestep, 999"),
        ([500], "sigma", DDPMScheduler(**SD_BETAS), 'a timestep needs unit="timestep"'),
    ],
)
def test_refuses_boundaries_in_the_wrong_unit(boundaries, unit, scheduler, message):
    with pytest.raises(ValueError, match=message):
        ExpertRouterUNet.from_unets([tiny_unet()] * 2, boundaries, unit, scheduler)


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ([1.0], "for each of the 2 experts"),
        (5.0, "for each of the 2 experts"),
        ([math.nan, None], "finite"),
        (["5", 1], "finite"),
    ],
)
def test_refuses_guidance_scales(scales, message):
    with pytest.raises(ValueError, match=message):
        ExpertRouterUNet.from_unets([tiny_unet()] * 2, [1.0], guidance_scales=scales)


def test_refuses_experts_that_do_not_fit():
    with pytest.raises(ValueError, match="N - 1"):
        ExpertRouterUNet.from_unets([], [])
    with pytest.raises(ValueError, match="boundaries=1.0 must be a list"):
        ExpertRouterUNet.from_unets([tiny_unet(), tiny_unet()], 1.0)
    with pytest.raises(ValueError, match="sigma_data"):
        ExpertRouterUNet.from_unets([tiny_ediffi_unet(), tiny_ediffi_unet(sigma_data=1.0)], [1.0])
    with pytest.raises(ValueError, match="in_channels"):
        ExpertRouterUNet.from_unets([tiny_unet(), tiny_unet(in_channels=9)], [1.0])
    with pytest.raises(TypeError, match="expert.1 is a Linear"):
        ExpertRouterUNet.from_unets([tiny_unet(), torch.nn.Linear(1, 1)], [1.0])


def test_refuses_a_unit_that_is_not_the_experts():
    with pytest.raises(ValueError, match="unit='fraction'"):
        ExpertRouterUNet.from_unets([tiny_unet()], [], unit="fraction")
    with pytest.raises(ValueError, match="EDM experts"):
        ExpertRouterUNet.from_unets([tiny_ediffi_unet()], [], unit="timestep")
    with pytest.raises(ValueError, match="outside the scheduler's sigmas"):
        ExpertRouterUNet.from_unets([tiny_unet()] * 2, [50.0], scheduler=DDPMScheduler(**SD_BETAS))
    router = ExpertRouterUNet.from_unets([tiny_unet()] * 2, [1.0])
    with pytest.raises(ValueError, match="timestep 801 is not c_noise"):
        router(**inputs(), timestep=torch.tensor(801))


@pytest.mark.parametrize("sigma", [-1.0, math.nan])
def test_refuses_what_is_not_a_sigma(router, sigma):
    with pytest.raises(ValueError, match="not a noise level"):
        router.select_expert(sigma)


def test_refuses_an_interval_outside_of_training():
    low, high = tiny_ediffi_unet(trained_on=[[0.0, 1.0]]), tiny_ediffi_unet(trained_on=[[1.0, None]])
    ExpertRouterUNet.from_unets([low, high], [1.0])
    ExpertRouterUNet.from_unets([low, high], [1.001])  # a boundary rounded to three digits
    with pytest.raises(ValueError, match=r"expert.0 is asked for the sigmas .* 2\) but was trained on \[0, 1\)"):
        ExpertRouterUNet.from_unets([low, high], [2.0])
    with pytest.raises(ValueError, match=r"expert.1 is asked for the sigmas .* was trained on \[1, inf\)"):
        ExpertRouterUNet.from_unets([low, high], [0.5])
    with pytest.raises(ValueError, match="expert.0 is asked for"):
        ExpertRouterUNet.from_unets([high, low], [1.0])
    middle = tiny_ediffi_unet(trained_on=[[0.5, 1.0], [2.0, 3.0]])  # a complement with a gap
    with pytest.raises(ValueError, match="expert.1 is asked for"):
        ExpertRouterUNet.from_unets([tiny_ediffi_unet(), middle, tiny_ediffi_unet()], [0.7, 2.5])


def test_refuses_a_step_outside_of_training():
    low, high = tiny_ediffi_unet(trained_on=[[0.002, 1.0]]), tiny_ediffi_unet(trained_on=[[1.0, 80.0]])
    router = ExpertRouterUNet.from_unets([low, high], [1.0])
    assert [router.select_expert(sigma) for sigma in (0.002, 1.0, 80.0)] == [0, 1, 1]
    with pytest.raises(ValueError, match=r"expert.1 is asked for sigma 200 but was trained on \[1, 80\)"):
        router.select_expert(200.0)
    router.reset_expert()
    with pytest.raises(ValueError, match="expert.0 is asked for sigma 0.001"):
        router(**inputs(channels=3), timestep=c_noise(0.001))


def test_trained_on_of_a_discrete_model_needs_its_scheduler():
    low, high = tiny_unet(), tiny_unet()
    low.register_to_config(trained_on=[[0.0, 2.0]])
    with pytest.raises(ValueError, match="scheduler="):
        ExpertRouterUNet.from_unets([low, high], [100], unit="timestep")
    scheduler = DDPMScheduler(**SD_BETAS)
    ExpertRouterUNet.from_unets([low, high], [100], unit="timestep", scheduler=scheduler)
    with pytest.raises(ValueError, match="expert.0 is asked for"):
        ExpertRouterUNet.from_unets([low, high], [900], unit="timestep", scheduler=scheduler)


def test_does_not_save_what_could_not_be_loaded(tmp_path):
    class MyUNet(UNet2DConditionModel):
        pass

    router = ExpertRouterUNet.from_unets([MyUNet(**dict(tiny_unet().config))], [])
    with pytest.raises(ValueError, match="MyUNet"):
        router.save_pretrained(tmp_path / "unet")
    assert not (tmp_path / "unet").exists()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="is a file"):
        router.save_pretrained(tmp_path / "file")


@pytest.fixture
def saved(router, tmp_path):
    router.save_pretrained(tmp_path)
    return tmp_path


def _edit_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config["unets"][1].update(folder="../elsewhere"), "'../elsewhere'; only 'expert.1'"),
        (lambda config: config["unets"][1].update(folder="expert_1"), "'expert_1'"),
        (lambda config: config["unets"][1].update(library="os"), "'os'; experts come from"),
        (lambda config: config["unets"][1].update(class_name="logging"), "no model named 'logging'"),
        (lambda config: config.update(boundaries=[10.0, 0.1]), "strictly increasing"),
        (lambda config: config["unets"].pop(), "2 experts and 2 boundaries"),
        (lambda config: config.pop("unets"), "does not hold a router"),
        (lambda config: config.update(unets="both"), "does not hold a router: unets='both' is no list"),
    ],
)
def test_refuses_a_stranger_s_config(saved, change, message):
    _edit_config(saved, change)
    with pytest.raises(ValueError, match=message):
        ExpertRouterUNet.from_pretrained(saved)


def test_refuses_missing_experts_and_variants(saved):
    with pytest.raises(OSError, match=r"expert.0 has no weights of variant 'fp16'"):
        ExpertRouterUNet.from_pretrained(saved, variant="fp16")
    shutil.rmtree(saved / "expert.1")
    with pytest.raises(OSError, match="expert.1 has no weights"):
        ExpertRouterUNet.from_pretrained(saved)
    with pytest.raises(OSError, match="neither a folder nor"):
        ExpertRouterUNet.from_pretrained(saved / "not" / "there")


def test_refuses_truncated_weights(saved):
    file = saved / "expert.2" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(OSError, match=r"expert.2/diffusion_pytorch_model.safetensors is damaged or truncated"):
        ExpertRouterUNet.from_pretrained(saved)


def test_refuses_a_missing_shard(router, tmp_path):
    router.save_pretrained(tmp_path, max_shard_size="30KB")
    shards = sorted((tmp_path / "expert.1").glob("*.safetensors"))
    shards[1].unlink()
    with pytest.raises(OSError, match=shards[1].name):
        ExpertRouterUNet.from_pretrained(tmp_path)


def test_a_compiled_router_follows_the_selection():
    """It is captured whole, with experts of diffusers that are."""
    small = {
        "block_out_channels": (8,),
        "down_block_types": ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",),
        "mid_block_type": None,
    }
    router = ExpertRouterUNet.from_unets([tiny_unet(0, **small), tiny_unet(1, **small)], [1.0])
    compiled = torch.compile(router, backend="eager", fullgraph=True)
    call = {**inputs(), "timestep": torch.tensor([0.1]), "return_dict": False}
    for sigma in (0.01, 50.0, 0.01):
        router.select_expert(sigma)
        with torch.no_grad():
            assert torch.equal(compiled(**call)[0], router(**call)[0])

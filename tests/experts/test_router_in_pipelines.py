# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A router as the `unet` of diffusers' own pipelines, with LoRA, ControlNet and IP-Adapter loaded."""

import json
import math

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from helpers import WIDTH
from helpers_diffusers import (
    PIPELINES,
    SD_BETAS,
    SDXL_BASE,
    build,
    constant_unet,
    draw,
    inputs,
    ip_adapter,
    is_sdxl,
    lora,
    three_experts,
    tiny_ediffi_unet,
    tiny_unet,
    trace,
    unet_for,
)
from peft import LoraConfig

from diffusers_ediffi import ExpertAdapter, ExpertRouterUNet
from diffusers_ediffi.experts.adapter import _warn_of_zeros

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # diffusers 0.42 on numpy 2.4
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),  # of peft, for a second LoRA
]

SCHEDULERS = [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler]
SDXL_REFINER = {**SDXL_BASE, "cross_attention_dim": WIDTH, "projection_class_embeddings_input_dim": 5 * 8 + WIDTH}
# The refiner reads the second text encoder's columns, and an aesthetic score instead of the target size.
REFINER_ADAPTER = ExpertAdapter((WIDTH, 2 * WIDTH), (0, 1, 2, 3), aesthetic_score=6.0, negative_aesthetic_score=2.5)


# --- every pipeline ---


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: pipeline.__name__)
def test_identical_experts_draw_the_image_of_one_model(pipeline):
    router = three_experts(pipeline)
    ran = trace(router)
    routed = draw(build(pipeline, router))
    assert torch.equal(routed, draw(build(pipeline, unet_for(pipeline))))
    assert len(ran) >= 3 and {0, 1} <= set(ran) and ran == sorted(ran, reverse=True)


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: pipeline.__name__)
def test_identical_experts_draw_the_image_of_one_model_with_lora_and_ip_adapter(pipeline):
    image = {"ip_adapter_image_embeds": [torch.randn(2, 1, WIDTH, generator=torch.Generator().manual_seed(6))]}
    drawn = []
    for unet in (three_experts(pipeline), unet_for(pipeline)):
        pipe = build(pipeline, unet)
        pipe.load_lora_weights(lora(pipeline), adapter_name="style")
        pipe.set_adapters("style", 0.7)
        pipe.load_ip_adapter(ip_adapter(unet_for(pipeline)), subfolder="", weight_name="", image_encoder_folder=None)
        drawn.append(draw(pipe, **image))
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], draw(build(pipeline, unet_for(pipeline))))


def test_inpainting_experts_read_nine_channels():
    """The mask and the masked image come as channels beside the noisy latents."""
    router = ExpertRouterUNet.from_unets([tiny_unet(0, in_channels=9) for _ in range(2)], [500], unit="timestep")
    routed = draw(build(StableDiffusionInpaintPipeline, router), strength=1.0)
    assert torch.equal(routed, draw(build(StableDiffusionInpaintPipeline, tiny_unet(0, in_channels=9)), strength=1.0))


@pytest.mark.parametrize("pipeline", [StableDiffusionControlNetPipeline, StableDiffusionXLControlNetPipeline])
def test_a_controlnet_reaches_the_experts(pipeline):
    pipe = build(pipeline, three_experts(pipeline))
    assert not torch.equal(draw(pipe), draw(pipe, controlnet_conditioning_scale=0.0))


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda scheduler: scheduler.__name__)
@pytest.mark.parametrize("pipeline", [StableDiffusionPipeline, StableDiffusionXLPipeline])
def test_each_step_goes_to_the_owner_of_its_sigma_whatever_the_scheduler(pipeline, scheduler):
    """The boundary is a sigma: schedulers with other timesteps hand over at another step, at the same noise."""
    sdxl = SDXL_BASE if is_sdxl(pipeline) else {}
    experts = [constant_unet(value, **sdxl) for value in (0.0, 1.0)]
    router = ExpertRouterUNet.from_unets(experts, [2.0], scheduler=DDPMScheduler(**SD_BETAS))
    ran, outputs = trace(router), []
    router.register_forward_hook(lambda *call: outputs.append(call[2][0].unique().item()))
    pipe = build(pipeline, router, scheduler)
    draw(pipe, steps=10)
    alphas = pipe.scheduler.alphas_cumprod
    sigmas = ((1 - alphas) / alphas).sqrt()[pipe.scheduler.timesteps.round().long()]
    assert ran == [int(sigma >= 2.0) for sigma in sigmas]
    assert outputs == ran and 0 in ran and 1 in ran


def test_a_pipeline_with_sigma_boundaries_survives_saving(tmp_path):
    pipe = build(StableDiffusionXLPipeline, three_experts(StableDiffusionXLPipeline))
    pipe.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    # not bit for bit: where weights are mapped from a file, sums may be taken in another order
    torch.testing.assert_close(draw(loaded), draw(pipe), rtol=0, atol=1e-3)


def test_what_a_pipeline_switches_reaches_all_experts():
    single, routed = (
        build(StableDiffusionPipeline, unet)
        for unet in (unet_for(StableDiffusionPipeline), three_experts(StableDiffusionPipeline))
    )
    plain = draw(single)
    switches = {
        "slices": lambda pipe: pipe.enable_attention_slicing("max"),
        "no slices": lambda pipe: pipe.disable_attention_slicing(),
        "FreeU": lambda pipe: pipe.enable_freeu(s1=0.1, s2=0.2, b1=1.5, b2=1.6),
        "no FreeU": lambda pipe: pipe.disable_freeu(),
        "default": lambda pipe: pipe.unet.set_default_attn_processor(),
    }
    for name, switch in switches.items():
        for pipe in (single, routed):
            switch(pipe)
        assert torch.equal(draw(routed), draw(single)), name
    assert torch.allclose(draw(routed), plain, atol=1e-3)


# --- LoRA ---


@pytest.mark.parametrize("pipeline", [StableDiffusionPipeline, StableDiffusionXLPipeline])
def test_one_lora_goes_into_all_experts(pipeline):
    """Loaded, weighted, switched off, fused, unfused and unloaded, a router follows the single model."""
    single, routed = (build(pipeline, unet) for unet in (unet_for(pipeline), three_experts(pipeline)))
    plain = draw(single)
    for pipe in (single, routed):
        pipe.load_lora_weights(lora(pipeline), adapter_name="style")
    assert routed.get_list_adapters()["unet"] == ["style"]
    steps = {
        "loaded": lambda pipe: None,
        "weighted": lambda pipe: pipe.set_adapters("style", 0.5),
        "by block": lambda pipe: pipe.set_adapters("style", {"unet": {"down": 0.2, "mid": 0.0, "up": 1.0}}),
        "off": lambda pipe: pipe.disable_lora(),
        "on": lambda pipe: pipe.enable_lora(),
        "fused": lambda pipe: pipe.fuse_lora(components=["unet"]),
        "unfused": lambda pipe: pipe.unfuse_lora(components=["unet"]),
        "second": lambda pipe: pipe.load_lora_weights(lora(pipeline, 1), adapter_name="light"),
        "both": lambda pipe: pipe.set_adapters(["style", "light"], [1.0, 0.3]),
        "one left": lambda pipe: pipe.delete_adapters("style"),
        "unloaded": lambda pipe: pipe.unload_lora_weights(),
    }
    for name, step in steps.items():
        for pipe in (single, routed):
            step(pipe)
        expected = draw(single)
        assert torch.equal(draw(routed), expected), name
        assert torch.allclose(expected, plain, atol=1e-3) == (name in ("off", "unloaded")), name
    assert not hasattr(routed.unet, "peft_config")


def outputs_of(router) -> list[torch.Tensor]:
    return [expert(**inputs(), timestep=500).sample for expert in router.experts]


@pytest.mark.parametrize("route", ["keyword", "pipeline"])
def test_a_lora_goes_into_the_experts_that_are_named(route):
    router = three_experts(StableDiffusionPipeline)
    pipe, weights = build(StableDiffusionPipeline, router), lora(StableDiffusionPipeline)
    plain = outputs_of(router)
    if route == "keyword":
        router.load_lora_adapter(weights, prefix="unet", adapter_name="details", experts=[0, 2])
    else:
        with router.loading_into([0, 2]):
            pipe.load_lora_weights(weights, adapter_name="details")
    changed = [not torch.equal(*pair) for pair in zip(outputs_of(router), plain, strict=True)]
    assert changed == [True, False, True]
    # the selection ends with its block, and an adapter that an expert lacks leaves that expert plain
    pipe.load_lora_weights(lora(StableDiffusionPipeline, 1), adapter_name="all")
    pipe.set_adapters("details")
    changed = [not torch.equal(*pair) for pair in zip(outputs_of(router), plain, strict=True)]
    assert changed == [True, False, True]
    pipe.delete_adapters(["all", "details"])
    assert all(torch.equal(*pair) for pair in zip(outputs_of(router), plain, strict=True))


def test_a_lora_is_swapped_in_the_experts_that_have_it():
    router, swapped = three_experts(StableDiffusionPipeline), three_experts(StableDiffusionPipeline)
    plain, (first, second) = outputs_of(router), (lora(StableDiffusionPipeline, seed) for seed in range(2))
    router.load_lora_adapter(second, prefix="unet", adapter_name="style", experts=[1])
    swapped.load_lora_adapter(first, prefix="unet", adapter_name="style", experts=[1])
    swapped.load_lora_adapter(second, prefix="unet", adapter_name="style", hotswap=True)
    for output, expected in zip(outputs_of(swapped), outputs_of(router), strict=True):
        assert torch.equal(output, expected)
    assert [torch.equal(*pair) for pair in zip(outputs_of(swapped), plain, strict=True)] == [True, False, True]


def test_a_lora_that_fits_only_some_experts_changes_none():
    """The base's LoRA has the wrong width for the refiner's attention: it says so and leaves the base as it was."""
    router = base_and_refiner()
    names = [name for name, _ in router.named_parameters()]
    with pytest.raises(RuntimeError, match="size mismatch"):
        router.load_lora_adapter(lora(StableDiffusionXLPipeline), prefix="unet", adapter_name="style")
    assert not hasattr(router, "peft_config")
    router.load_lora_adapter(lora(StableDiffusionXLPipeline), prefix="unet", adapter_name="style", experts=[1])
    assert len(names) < len(list(router.named_parameters()))


def test_experts_do_not_share_the_weights_of_a_lora():
    router = three_experts(StableDiffusionPipeline)
    build(StableDiffusionPipeline, router).load_lora_weights(lora(StableDiffusionPipeline))
    layers = [[p for name, p in expert.named_parameters() if "lora_A" in name] for expert in router.experts]
    assert all(first.data_ptr() != second.data_ptr() for first, second in zip(layers[0], layers[1], strict=True))


def test_the_lora_of_each_expert_is_saved_and_loads_again(tmp_path):
    router = three_experts(StableDiffusionPipeline)
    for index in (0, 2):
        weights = lora(StableDiffusionPipeline, index)
        router.load_lora_adapter(weights, prefix="unet", adapter_name="details", experts=[index])
    router.save_lora_adapter(tmp_path, "details")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expert.0", "expert.2"]
    loaded = three_experts(StableDiffusionPipeline)
    for index in (0, 2):
        source = {"pretrained_model_name_or_path_or_dict": tmp_path / f"expert.{index}", "use_safetensors": True}
        loaded.load_lora_adapter(**source, prefix=None, adapter_name="details", experts=[index])
    assert all(torch.equal(*pair) for pair in zip(outputs_of(loaded), outputs_of(router), strict=True))


def test_a_lora_is_trained_in_the_experts_that_are_named():
    router = three_experts(StableDiffusionPipeline)
    with router.loading_into([1]):
        router.add_adapter(LoraConfig(r=2, target_modules=["to_q"]), "new")
    router.set_adapter("new")
    assert router.active_adapters() == ["new"]
    named = [[name for name, _ in expert.named_parameters() if "lora" in name] for expert in router.experts]
    assert [bool(names) for names in named] == [False, True, False]


def test_refuses_a_lora_for_no_expert():
    router = three_experts(StableDiffusionPipeline)
    weights = lora(StableDiffusionPipeline)
    for experts in ([3], [-1], [], ["0"], "0", 0):
        with pytest.raises(ValueError, match="must list indices from 0 to 2"):
            router.load_lora_adapter(weights, prefix="unet", experts=experts)
    with pytest.raises(ValueError, match=r"no expert has the adapters \['style'\]"):
        router.set_adapters("style")
    router.load_lora_adapter(weights, prefix="unet", adapter_name="style", experts=[1])
    with pytest.raises(ValueError, match="'style' is in use"):
        router.load_lora_adapter(weights, prefix="unet", adapter_name="style")
    with pytest.raises(ValueError, match="1 adapters and 2 weights"):
        router.set_adapters(["style"], [1.0, 2.0])
    assert [hasattr(expert, "peft_config") for expert in router.experts] == [False, True, False]


# --- IP-Adapter ---


@pytest.mark.parametrize("pipeline", [StableDiffusionPipeline, StableDiffusionXLPipeline])
def test_an_ip_adapter_goes_into_all_experts(pipeline):
    single, routed = (build(pipeline, unet) for unet in (unet_for(pipeline), three_experts(pipeline)))
    image = {"ip_adapter_image_embeds": [torch.randn(2, 1, WIDTH, generator=torch.Generator().manual_seed(6))]}
    plain = draw(single)
    for pipe in (single, routed):
        pipe.load_ip_adapter(ip_adapter(unet_for(pipeline)), subfolder="", weight_name="", image_encoder_folder=None)
    by_block = {"up": {"block_0": [0.0, 1.0]}, "down": 0.7}
    for scale in (1.0, 0.3, by_block):
        for pipe in (single, routed):
            pipe.set_ip_adapter_scale(scale)
        assert torch.equal(draw(routed, **image), draw(single, **image)), scale
        assert not torch.equal(draw(routed, **image), plain)
    routed.unload_ip_adapter()
    assert torch.equal(draw(routed), plain)


def test_an_ip_adapter_goes_into_the_experts_that_are_named():
    pipe = build(StableDiffusionPipeline, three_experts(StableDiffusionPipeline))
    unet = unet_for(StableDiffusionPipeline)
    with pipe.unet.loading_into([2]):
        pipe.load_ip_adapter(ip_adapter(unet), subfolder="", weight_name="", image_encoder_folder=None)
    assert [expert.encoder_hid_proj is not None for expert in pipe.unet.experts] == [False, False, True]
    assert len(pipe.unet.encoder_hid_proj.image_projection_layers) == 1
    image = {"ip_adapter_image_embeds": [torch.randn(2, 1, WIDTH)]}
    assert not torch.equal(draw(pipe, **image), draw(build(StableDiffusionPipeline, unet)))
    with pytest.raises(ValueError, match="EDiffIUNet takes no IP-Adapter"):
        ExpertRouterUNet.from_unets([tiny_ediffi_unet()], [])._load_ip_adapter_weights([])


# --- guidance ---


@pytest.mark.parametrize("pipeline", [StableDiffusionPipeline, StableDiffusionXLPipeline])
def test_a_pipeline_follows_the_guidance_of_each_expert(pipeline):
    """As if a callback had changed the pipeline's scale where the next expert takes over."""
    single, unets = build(pipeline, unet_for(pipeline)), [unet_for(pipeline), unet_for(pipeline)]

    def change(pipe, step, timestep, tensors):
        pipe._guidance_scale = 3.0 if pipe.scheduler.timesteps[min(step + 1, 4)] < 500 else 6.0
        return tensors

    changed = draw(single, guidance_scale=6.0, callback_on_step_end=change)
    assert not torch.allclose(changed, draw(single, guidance_scale=6.0), atol=1e-2)
    for scales in ([3.0, 6.0], [3.0, None]):
        router = ExpertRouterUNet.from_unets(unets, [500], unit="timestep", guidance_scales=scales)
        pipe = build(pipeline, router)
        assert torch.equal(draw(pipe, guidance_scale=6.0), draw(single, guidance_scale=6.0))
        router.rescale_guidance(6.0)
        torch.testing.assert_close(draw(pipe, guidance_scale=6.0), changed, rtol=0, atol=1e-3)
    router.rescale_guidance(None)
    assert torch.equal(draw(pipe, guidance_scale=6.0), draw(single, guidance_scale=6.0))


def test_rescaling_keeps_the_unconditional_half_and_the_form_of_the_output():
    unet = tiny_unet()
    router = ExpertRouterUNet.from_unets([unet], [], guidance_scales=[3.0])
    router.rescale_guidance(6.0)
    guided = inputs(2) | {"sample": inputs(1)["sample"].expand(2, -1, -1, -1)}
    unconditional, conditional = unet(**guided, timestep=1).sample
    expected = torch.stack([unconditional, unconditional + (conditional - unconditional) / 2])
    torch.testing.assert_close(router(**guided, timestep=1).sample, expected)
    torch.testing.assert_close(router(**guided, timestep=1, return_dict=False)[0], expected)
    router.select_expert(1.0)  # whoever selects reads `guidance_scale`
    assert torch.equal(router(**guided, timestep=1).sample, unet(**guided, timestep=1).sample)


def test_refuses_to_rescale_what_is_not_guided():
    router = ExpertRouterUNet.from_unets([tiny_unet()], [], guidance_scales=[3.0])
    for scale in (1.0, 0, -2.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="must be above 1"):
            router.rescale_guidance(scale)
    router.rescale_guidance(6.0)
    for rows in (1, 2, 4):  # two images without guidance are no halves either
        with pytest.raises(ValueError, match=rf"a batch of {rows} is not \[unconditional, conditional\]"):
            router(**inputs(rows), timestep=1)


@pytest.mark.parametrize("images", [1, 2, 3])
@pytest.mark.parametrize("expert", ["refiner", "rescaled"])
def test_without_guidance_no_image_is_taken_for_an_unconditional_one(expert, images):
    scales = [3.0, None] if expert == "rescaled" else None
    adapters = [ExpertAdapter.from_config(REFINER_ADAPTER) if expert == "refiner" else None, None]
    unets = [tiny_unet(1, **(SDXL_REFINER if expert == "refiner" else SDXL_BASE)), tiny_unet(0, **SDXL_BASE)]
    router = ExpertRouterUNet.from_unets(unets, [400], unit="timestep", adapters=adapters, guidance_scales=scales)
    router.rescale_guidance(6.0)
    pipe = build(StableDiffusionXLPipeline, router)
    draw(pipe, num_images_per_prompt=images)
    with pytest.raises(ValueError, match="unconditional"):
        draw(pipe, num_images_per_prompt=images, guidance_scale=1.0)


def test_the_same_image_twice_is_not_guided():
    adapter = ExpertAdapter((0, WIDTH), (0,), 6.0, 2.5)
    sample, states = inputs(1)["sample"].expand(2, -1, -1, -1), torch.ones(2, 7, WIDTH)
    with pytest.raises(ValueError, match="have the same text, so that none is unconditional"):
        adapter.apply((sample, 1, states), {"added_cond_kwargs": {"time_ids": torch.ones(2, 6)}})


# --- SDXL base and refiner ---


def base_and_refiner(**changes) -> ExpertRouterUNet:
    """The refiner owns the timesteps below 400, as `denoising_end=0.6` says it to diffusers."""
    unets = [tiny_unet(1, **SDXL_REFINER), tiny_unet(0, **SDXL_BASE)]
    settings = {"boundaries": [400], "unit": "timestep", "adapters": [REFINER_ADAPTER, None]}
    return ExpertRouterUNet.from_unets(unets, **{**settings, **changes})


def handed_over(base, refiner, scheduler, **arguments) -> torch.Tensor:
    """diffusers' own way: two pipelines, the base ending where the refiner starts."""
    first = build(StableDiffusionXLPipeline, base, scheduler)
    second = build(StableDiffusionXLImg2ImgPipeline, refiner, scheduler)
    second = StableDiffusionXLImg2ImgPipeline(
        **{**second.components, "text_encoder": None, "tokenizer": None},
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
    )
    second.set_progress_bar_config(disable=True)
    latents = draw(first, steps=10, denoising_end=0.6, **arguments)
    return draw(second, steps=10, denoising_start=0.6, image=latents, **arguments)


@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler])
def test_sdxl_base_and_refiner_in_one_call(scheduler):
    router = base_and_refiner()
    ran = trace(router)
    routed = draw(build(StableDiffusionXLPipeline, router, scheduler), steps=10)
    assert ran == [1] * 6 + [0] * 4
    expected = handed_over(router.experts[1], router.experts[0], scheduler)
    torch.testing.assert_close(routed, expected, rtol=0, atol=1e-5)
    plain = ExpertRouterUNet.from_unets([router.experts[1]] * 2, [400], unit="timestep")
    assert not torch.allclose(routed, draw(build(StableDiffusionXLPipeline, plain, scheduler), steps=10), atol=1e-2)


def with_empty_text(router) -> ExpertRouterUNet:
    adapter = REFINER_ADAPTER.with_empty_text(build(StableDiffusionXLPipeline, router))
    return ExpertRouterUNet.from_unets(list(router.experts), [400], unit="timestep", adapters=[adapter, None])


@pytest.mark.parametrize("prompts", [1, 2])
@pytest.mark.parametrize("build_router", [base_and_refiner, lambda: with_empty_text(base_and_refiner())])
def test_the_refiner_reads_the_encoded_empty_text_where_the_base_reads_zeros(prompts, build_router, caplog):
    router, prompt = build_router(), ["a red apple", "a blue house"][:prompts]
    arguments = {"prompt": prompt, "negative_prompt": None}
    expected = handed_over(router.experts[1], router.experts[0], EulerDiscreteScheduler, **arguments)
    pipe = build(StableDiffusionXLPipeline, router, EulerDiscreteScheduler)
    for _ in range(2):
        torch.testing.assert_close(draw(pipe, steps=10, **arguments), expected, rtol=0, atol=1e-5)
    assert not caplog.records


def test_the_empty_text_is_saved_with_the_router(tmp_path):
    router, arguments = with_empty_text(base_and_refiner()), {"negative_prompt": None}
    pipe = build(StableDiffusionXLPipeline, router)
    pipe.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    torch.testing.assert_close(draw(loaded, **arguments), draw(pipe, **arguments), rtol=0, atol=1e-3)
    asked = build(StableDiffusionXLPipeline, base_and_refiner())
    draw(asked, **arguments)
    for known in (router, asked.unet):
        known.save_pretrained(tmp_path / "again", variant="fp16")
        assert ExpertRouterUNet.from_pretrained(tmp_path / "again", variant="fp16")._adapters[0].empty_text is not None
    base_and_refiner().save_pretrained(tmp_path / "again", variant="fp16")
    assert ExpertRouterUNet.from_pretrained(tmp_path / "again", variant="fp16")._adapters[0].empty_text is None
    file = tmp_path / "unet" / "expert.0" / "empty_text.safetensors"
    for damage, message in ((lambda: file.write_bytes(b"0"), "is damaged"), (file.unlink, "is missing")):
        damage()
        with pytest.raises(OSError, match=f"empty_text.safetensors {message}.*: download or copy it again"):
            ExpertRouterUNet.from_pretrained(tmp_path / "unet")


def test_zeros_where_no_pipeline_can_be_asked_are_said_once(caplog):
    _warn_of_zeros.cache_clear()
    router = base_and_refiner()
    added = {"time_ids": torch.zeros(2, 6), "text_embeds": torch.zeros(2, WIDTH)}
    texts = torch.stack([torch.zeros(7, 2 * WIDTH), torch.ones(7, 2 * WIDTH)])
    for _ in range(2):
        with torch.no_grad():
            router(inputs(1)["sample"].repeat(2, 1, 1, 1), 100, texts, added_cond_kwargs=added)
    assert ["ExpertAdapter.with_empty_text(pipe)" in record.message for record in caplog.records] == [True]


def test_the_empty_text_is_that_of_sdxl():
    with pytest.raises(ValueError, match="a StableDiffusionPipeline encodes no text as SDXL does"):
        REFINER_ADAPTER.with_empty_text(build(StableDiffusionPipeline, tiny_unet(0)))


def test_an_empty_text_of_another_size_is_refused():
    adapter = REFINER_ADAPTER.with_empty_text(build(StableDiffusionXLPipeline, base_and_refiner()))
    tokens = len(adapter.empty_text["encoder_hidden_states"])
    added = {"time_ids": torch.zeros(2, 6), "text_embeds": torch.zeros(2, WIDTH)}
    for length in (tokens, 3 * tokens):  # of a long prompt
        texts = torch.stack([torch.zeros(length, 2 * WIDTH), torch.ones(length, 2 * WIDTH)])
        (*_, text), _ = adapter.apply((torch.zeros(2), 1, texts), {"added_cond_kwargs": added})
        assert torch.equal(text[0], adapter.empty_text["encoder_hidden_states"].repeat(length // tokens, 1))
        assert (text[1] == 1).all()
    with pytest.raises(ValueError, match=rf"the text is \({tokens + 1}, 16\), the empty text \({tokens}, 16\)"):
        adapter.apply((torch.zeros(2), 1, torch.randn(2, tokens + 1, 2 * WIDTH)), {"added_cond_kwargs": added})


def test_adapters_survive_saving_as_data(tmp_path):
    pipe = build(StableDiffusionXLPipeline, base_and_refiner(guidance_scales=[3.0, None]))
    pipe.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "unet" / "config.json").read_text())
    assert config["adapters"] == [
        {
            "hidden_states_columns": [16, 32],
            "time_ids": [0, 1, 2, 3],
            "aesthetic_score": 6.0,
            "negative_aesthetic_score": 2.5,
        },
        None,
    ]
    assert config["guidance_scales"] == [3.0, None]
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    # not bit for bit: where weights are mapped from a file, sums may be taken in another order
    torch.testing.assert_close(draw(loaded), draw(pipe), rtol=0, atol=1e-3)


def test_a_pipeline_prepares_its_arguments_for_the_expert_without_an_adapter():
    router = base_and_refiner()
    assert router.config.cross_attention_dim == 2 * WIDTH
    assert router.add_embedding is router.experts[1].add_embedding


def test_adapters_hold_where_a_training_batch_is_split():
    router = base_and_refiner(adapters=[ExpertAdapter((WIDTH, 2 * WIDTH), (0, 1, 2, 3), 6.0), None]).train()
    batch = inputs(3)
    states, time_ids, pooled = torch.randn(3, 77, 2 * WIDTH), torch.rand(3, 6), torch.randn(3, WIDTH)
    added = {"time_ids": time_ids, "text_embeds": pooled}
    sample, timesteps = batch["sample"], torch.tensor([100, 900, 399])
    output = router(sample, timesteps, states, added_cond_kwargs=added).sample
    refined = {"time_ids": torch.cat([time_ids[:, :4], torch.full((3, 1), 6.0)], 1), "text_embeds": pooled}
    low = router.experts[0](sample, timesteps, states[..., WIDTH:], added_cond_kwargs=refined).sample
    high = router.experts[1](sample, timesteps, states, added_cond_kwargs=added).sample
    torch.testing.assert_close(output, torch.stack([low[0], high[1], low[2]]))


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        ([REFINER_ADAPTER], "for each of the 2 experts"),
        (REFINER_ADAPTER, "for each of the 2 experts"),
        ([{"columns": [0, 1]}, None], r"unknown entries \['columns'\]; there are hidden_states_columns"),
        (["os.system", None], "unknown entries 'os.system'"),
        ([{"hidden_states_columns": [5, 5]}, None], r"hidden_states_columns=\[5, 5\] must be \[start, stop\]"),
        ([{"hidden_states_columns": 5}, None], "hidden_states_columns=5"),
        ([{"time_ids": [0, -1]}, None], r"time_ids=\[0, -1\] must list columns"),
        ([{"time_ids": [0], "aesthetic_score": "high"}, None], "aesthetic_score='high' must be a finite number"),
        ([{"time_ids": [0], "aesthetic_score": -1e175}, None], "aesthetic_score=-1e.175 must be .* at most 65504"),
        ([{"aesthetic_score": 6.0}, None], "say which columns"),
        ([{"time_ids": [0], "negative_aesthetic_score": 2.5}, None], "pass both"),
    ],
)
def test_refuses_adapters(adapters, message):
    with pytest.raises(ValueError, match=message):
        base_and_refiner(adapters=adapters)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (ExpertAdapter(hidden_states_columns=(768, 2048)), "columns 768 to 2048 of encoder_hidden_states 16 wide"),
        (ExpertAdapter(time_ids=(0, 1)), "which this call does not pass"),
        (ExpertAdapter(time_ids=(0, 6)), r"columns \[0, 6\] of time_ids, which have 6"),
        (
            ExpertAdapter(time_ids=(0,), aesthetic_score=6.0, negative_aesthetic_score=2.5),
            "is not \\[unconditional, conditional\\], twice the same images",
        ),
    ],
)
def test_refuses_calls_that_do_not_fit_an_adapter(adapter, message):
    added = {} if "does not pass" in message else {"added_cond_kwargs": {"time_ids": torch.rand(1, 6)}}
    router = ExpertRouterUNet.from_unets([tiny_unet()], [], adapters=[adapter])
    with pytest.raises(ValueError, match=message):
        router(**inputs(), timestep=1, **added)

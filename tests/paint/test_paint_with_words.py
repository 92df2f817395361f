# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Paint-with-words in the pipelines of diffusers, on networks that are tiny and random but real."""

import inspect
import logging

import numpy as np
import pytest
import torch
from diffusers import (
    DDPMScheduler,
    IFPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.callbacks import SDCFGCutoffCallback
from diffusers.models.attention_processor import AttnProcessor2_0, SlicedAttnProcessor
from helpers import WIDTH, tiny_t5_tokenizer, tiny_text_encoder_2
from helpers_diffusers import PIPELINES, SIZE, build, ip_adapter, lora, three_experts, unet_for
from helpers_paint import LEFT, PROMPT, REGIONS, SWAPPED, draw, paint, seeds

from diffusers_ediffi import PaintRegion, paint_with_words
from diffusers_ediffi.paint.processor import PaintWithWordsAttnProcessor

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # diffusers 0.42 on numpy 2.4
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),  # of peft, for a second LoRA
]


def state(pipe):
    """What painting could leave behind."""
    processors = {name: id(processor) for name, processor in pipe.unet.attn_processors.items()}
    hooks = [len(module._forward_pre_hooks) for module in pipe.unet.modules()]
    methods = [name for name, value in vars(pipe).items() if inspect.isroutine(value)]
    return processors, hooks, methods, list(pipe.unet.state_dict())


# --- every pipeline ---


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: pipeline.__name__)
def test_regions_change_the_image_and_nothing_else(pipeline):
    pipe = build(pipeline, unet_for(pipeline))
    plain, before = draw(pipe), state(pipe)
    image = paint(pipe)
    assert (image - plain).abs().max() > 1e-3
    assert (image - paint(pipe, SWAPPED)).abs().max() > 1e-3
    hardly = paint(pipe, strength=1e-6)
    assert 0 < (hardly - plain).abs().max() < 1e-4
    for regions, strength in (([], 1.0), (REGIONS, 0.0), ([PaintRegion("cat", LEFT, weight=0.0)], 1.0)):
        assert torch.equal(paint(pipe, regions, strength), plain)
    assert state(pipe) == before
    assert torch.equal(draw(pipe), plain)


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: pipeline.__name__)
def test_a_batch_of_layouts_equals_the_single_calls(pipeline):
    pipe = build(pipeline, unet_for(pipeline))
    prompts, layouts = [PROMPT, "a dog and a cat", "an owl"], [REGIONS, SWAPPED[:1], []]
    batch = paint(pipe, layouts, prompt=prompts, generator=seeds(3))
    for i, (prompt, regions) in enumerate(zip(prompts, layouts, strict=True)):
        single = paint(pipe, regions, prompt=prompt, generator=[seeds(3)[i]])
        torch.testing.assert_close(batch[i : i + 1], single, rtol=0, atol=1e-4)


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: pipeline.__name__)
def test_several_images_of_a_prompt_without_guidance_and_with_a_negative_prompt(pipeline):
    pipe = build(pipeline, unet_for(pipeline))
    for arguments in ({"guidance_scale": 1.0}, {"negative_prompt": "an owl"}):
        images = paint(pipe, num_images_per_prompt=2, images=2, **arguments)
        # diffusers draws the picture's latents for inpainting from the first generator alone
        for i in range(1 if "Inpaint" in pipeline.__name__ else 2):
            single = paint(pipe, generator=[seeds(2)[i]], **arguments)
            torch.testing.assert_close(images[i : i + 1], single, rtol=0, atol=1e-4)
        assert (images[:1] - draw(pipe, **arguments)).abs().max() > 1e-4


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: pipeline.__name__)
def test_adapters_and_routers_are_painted(pipeline):
    """With LoRA and IP-Adapter loaded, and through a router of identical experts: the same image."""
    images = {"ip_adapter_image_embeds": [torch.randn(2, 1, WIDTH, generator=torch.Generator().manual_seed(6))]}
    drawn = []
    for unet in (three_experts(pipeline), unet_for(pipeline)):
        pipe = build(pipeline, unet)
        pipe.load_lora_weights(lora(pipeline), adapter_name="style")
        pipe.load_ip_adapter(ip_adapter(unet_for(pipeline)), subfolder="", weight_name="", image_encoder_folder=None)
        before = state(pipe)
        drawn.append(paint(pipe, **images))
        assert state(pipe) == before
        assert (drawn[-1] - draw(pipe, **images)).abs().max() > 1e-3
    torch.testing.assert_close(*drawn, rtol=0, atol=1e-5)


def test_deepfloyd_if():
    """Its attention has keys of the pixels beside those of the text."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=3,
        out_channels=6,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        cross_attention_dim=WIDTH,
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="text_proj",
        attention_head_dim=8,
        norm_num_groups=4,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        resnet_time_scale_shift="scale_shift",
        time_embedding_act_fn="gelu",
        act_fn="gelu",
        class_embed_type=None,
    ).eval()
    tokenizer = tiny_t5_tokenizer()
    pipe = IFPipeline(
        tokenizer=tokenizer,
        text_encoder=tiny_text_encoder_2(tokenizer),
        unet=unet,
        scheduler=DDPMScheduler(variance_type="learned_range"),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)

    def run(count=1, first=0, **arguments):
        generator = seeds(4)[first : first + count]
        arguments |= {"num_images_per_prompt": count, "generator": generator, "height": 14, "width": 8}
        return pipe(PROMPT, num_inference_steps=2, output_type="pt", **arguments).images

    for guidance in (1.0, 7.0):
        plain = run(guidance_scale=guidance)
        with paint_with_words(pipe, PROMPT, REGIONS, strength=1.0):
            both = run(2, guidance_scale=guidance)
            second = run(1, 1, guidance_scale=guidance)
        torch.testing.assert_close(both[1:], second, rtol=0, atol=1e-4)
        assert (both[:1] - plain).abs().max() > 1e-3
        assert torch.equal(run(guidance_scale=guidance), plain)


@pytest.mark.parametrize("adaptive", [0.0, 1.0])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_perturbed_attention_guidance(guidance, adaptive):
    pipe = build(StableDiffusionPAGPipeline, unet_for(StableDiffusionPAGPipeline))
    arguments = {"guidance_scale": guidance, "pag_scale": 2.0, "pag_adaptive_scale": adaptive}
    plain, before = draw(pipe, **arguments), state(pipe)
    images = paint(pipe, images=2, num_images_per_prompt=2, **arguments)
    torch.testing.assert_close(images[:1], paint(pipe, **arguments), rtol=0, atol=1e-4)
    assert (images[:1] - plain).abs().max() > 1e-3 and state(pipe) == before


def test_guidance_that_ends_during_the_call():
    """The batch loses its unconditional half on the way."""
    pipe = build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline))
    callback = SDCFGCutoffCallback(cutoff_step_ratio=0.4)
    images = paint(pipe, images=2, num_images_per_prompt=2, steps=5, callback_on_step_end=callback)
    single = paint(pipe, steps=5, callback_on_step_end=callback)
    torch.testing.assert_close(images[:1], single, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(65, 97), (9, 40)])
@torch.no_grad()
def test_sizes_that_halve_unevenly(size, caplog, monkeypatch):
    """65 x 97 are the latents of an image of 520 x 776; the mask is one pixel wide."""
    monkeypatch.setattr(logging.getLogger("diffusers_ediffi"), "propagate", True)
    pipe = build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline))
    latents = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(0))
    states = torch.randn(1, 77, WIDTH, generator=torch.Generator().manual_seed(1))
    mask = np.zeros((520, 776), np.float32)
    mask[:, 300] = 1.0
    plain = pipe.unet(latents, 500, states).sample
    with paint_with_words(pipe, PROMPT, [PaintRegion("cat", mask)], strength=1.0):
        for _ in range(2):
            assert (pipe.unet(latents, 500, states).sample - plain).abs().max() > 1e-5
    stretched = [record for record in caplog.records if "is stretched" in record.getMessage()]
    assert len(stretched) == (size == (9, 40))


# --- the with block ---


def test_the_pipeline_is_restored_whatever_happens():
    pipe = build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline))
    pipe.unet.set_attn_processor(SlicedAttnProcessor(2))
    before = state(pipe)
    with pytest.raises(RuntimeError, match="mine"), paint_with_words(pipe, PROMPT, REGIONS):
        assert state(pipe) != before
        raise RuntimeError("mine")
    assert state(pipe) == before


def test_blocks_are_neither_nested_nor_entered_twice():
    pipe = build(StableDiffusionPipeline, three_experts(StableDiffusionPipeline))
    before, block = state(pipe), paint_with_words(pipe, PROMPT, REGIONS)
    with block:
        with pytest.raises(ValueError, match="painted already: leave the other"):
            with paint_with_words(pipe, PROMPT, SWAPPED):
                pass
        with pytest.raises(ValueError, match="entered before"):
            with block:
                pass
        painted_state = state(pipe)
        assert painted_state != before
    with pytest.raises(ValueError, match="entered before"):
        with block:
            pass
    assert state(pipe) == before


def test_another_prompt_is_refused_before_any_network_runs():
    pipe = build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline))
    ran = []
    pipe.text_encoder.register_forward_hook(lambda *_: ran.append(1))
    with paint_with_words(pipe, PROMPT, REGIONS):
        with pytest.raises(ValueError, match="called with 'a bird', but the regions belong to"):
            draw(pipe, "a bird")
        assert not ran
        draw(pipe, [PROMPT] * 2, generator=seeds(2))


def test_processors_that_are_replaced_in_the_block_are_an_error():
    pipe = build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline))
    with paint_with_words(pipe, PROMPT, REGIONS):
        pipe.unet.set_attn_processor(AttnProcessor2_0())
        with pytest.raises(ValueError, match="processors were replaced"):
            draw(pipe)
    assert not any(isinstance(p, PaintWithWordsAttnProcessor) for p in pipe.unet.attn_processors.values())


def test_embeddings_instead_of_the_prompt():
    pipe = build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline))
    embeds = dict(
        zip(("prompt_embeds", "negative_prompt_embeds"), pipe.encode_prompt(PROMPT, "cpu", 1, True), strict=True)
    )
    expected = paint(pipe)
    with paint_with_words(pipe, PROMPT, REGIONS, 1.0):
        image = pipe(
            num_inference_steps=3, output_type="latent", generator=seeds(1), height=SIZE, width=SIZE, **embeds
        )
    torch.testing.assert_close(image.images, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": "an owl"}, "phrase 'cat' is not in the prompt 'an owl'"),
        ({"prompt": []}, r"prompt=\[\] must be a text"),
        ({"strength": -0.1}, "strength=-0.1 must be a number of at least 0"),
        ({"strength": float("nan")}, "strength=nan"),
        ({"normalizer": "mean"}, "normalizer='mean' is unknown"),
        ({"regions": "cat"}, "must be a list of PaintRegion"),
        ({"regions": [("cat", LEFT)]}, "regions has 1 lists|not a PaintRegion"),
        ({"regions": [REGIONS, REGIONS]}, "2 lists for 1 prompts"),
        ({"regions": [PaintRegion("a", LEFT)] * 80}, "80 regions for the"),
        ({"prompt": "x" * 90 + " a cat and a dog"}, "is cut off, with it 'cat'"),
    ],
)
def test_bad_input_is_refused_before_the_block(arguments, message):
    pipe = build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline))
    with pytest.raises(ValueError, match=message):
        paint_with_words(pipe, **{"prompt": PROMPT, "regions": REGIONS, **arguments})


def test_pipelines_that_cannot_be_painted_are_refused(base_pipe):
    with pytest.raises(ValueError, match="EDiffIPipeline paints itself"):
        paint_with_words(base_pipe, PROMPT, REGIONS)
    pipe = build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline))
    pipe.unet = None
    with pytest.raises(ValueError, match="has no U-Net"):
        paint_with_words(pipe, PROMPT, REGIONS)


def test_region_seeds_keep_a_region_where_the_rest_changes():
    pipe = build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline))
    regions = [PaintRegion("cat", LEFT, seed=5)]
    first, noise = [], []
    pipe.unet.register_forward_pre_hook(lambda _, args: noise.append(args[0][-1].clone()))
    for seed in (0, 1):
        noise.clear()
        paint(pipe, regions, steps=1, generator=torch.Generator().manual_seed(seed), strength=0.0)
        first.append(noise[0])
    half = SIZE // 2
    assert torch.equal(first[0][..., :half], first[1][..., :half])
    assert not torch.equal(first[0][..., half:], first[1][..., half:])
    with pytest.raises(ValueError, match="does not start from noise alone"):
        paint_with_words(build(StableDiffusionImg2ImgPipeline, pipe.unet), PROMPT, regions)


def test_a_compiled_unet():
    pipe = build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline))
    expected = paint(pipe, steps=2)
    torch._dynamo.reset()
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    torch.testing.assert_close(paint(pipe, steps=2), expected, rtol=0, atol=1e-5)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Paint-with-words in the pipelines of eDiff-I, on networks that are tiny and random but real."""

import logging

import pytest
import torch
from helpers import SIZES, tiny_unet
from helpers_paint import LEFT, PROMPT, REGIONS, SWAPPED, seeds

from diffusers_ediffi import EDiffIInpaintPipeline, EDiffIPipeline, ExpertRouterUNet, PaintRegion
from diffusers_ediffi.paint.processor import PaintWithWordsAttnProcessor, painted
from diffusers_ediffi.pipelines.paintings import paintings_per_stage


def ediffi(pipe, regions=None, prompt=PROMPT, count=1, **arguments):
    arguments = {"num_inference_steps": 2, "generator": seeds(count), "output_type": "latent", **arguments}
    return pipe(prompt, regions=regions, **arguments).images


def test_ediffi_paints_what_regions_say(base_pipe, monkeypatch):
    plain = ediffi(base_pipe)
    assert torch.equal(ediffi(base_pipe, []), plain)
    assert torch.equal(ediffi(base_pipe, REGIONS, region_strength=0), plain)
    image = ediffi(base_pipe, REGIONS)
    assert (image - plain).abs().max() > 1e-3 and (image - ediffi(base_pipe, SWAPPED)).abs().max() > 1e-3
    assert 0 < (ediffi(base_pipe, REGIONS, region_strength=1e-6) - plain).abs().max() < 1e-4
    assert torch.equal(ediffi(base_pipe), plain)
    monkeypatch.setattr(base_pipe, "region_normalizer", "std")
    assert not torch.equal(ediffi(base_pipe, REGIONS), image)
    monkeypatch.setattr(base_pipe, "region_normalizer", "mean")
    with pytest.raises(ValueError, match="normalizer='mean' is unknown; choose from max, std"):
        ediffi(base_pipe, REGIONS)
    assert not any(isinstance(p, PaintWithWordsAttnProcessor) for p in base_pipe.unet.attn_processors.values())


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_ediffi_batches_of_layouts_in_parts(base_pipe, guidance):
    prompts, layouts = [PROMPT, "a dog and a cat"], [REGIONS, SWAPPED[:1]]
    batch = {"prompt": prompts, "num_images_per_prompt": 2, "count": 4, "guidance_scale": guidance}
    whole = ediffi(base_pipe, layouts, **batch)
    for i in range(4):
        single = ediffi(base_pipe, layouts[i // 2], prompts[i // 2], generator=[seeds(4)[i]], guidance_scale=guidance)
        torch.testing.assert_close(whole[i : i + 1], single, rtol=0, atol=1e-3)
    base_pipe.pixels_per_call = 3 * SIZES[0] ** 2
    torch.testing.assert_close(ediffi(base_pipe, layouts, **batch), whole, rtol=0, atol=1e-3)


def test_super_resolution_is_painted_on_request(pipe):
    base, size = ediffi(pipe, REGIONS, height=SIZES[0]), {"height": SIZES[1]}
    default = ediffi(pipe, REGIONS, **size)
    assert torch.equal(default, ediffi(pipe, REGIONS, region_strength=(0.4, 0.0), **size))
    assert not torch.equal(default, ediffi(pipe, REGIONS, region_strength=(0.4, 0.4), **size))
    plain = ediffi(pipe, height=SIZES[0])
    assert torch.equal(ediffi(pipe, REGIONS, region_strength=(0, 1), height=SIZES[0]), plain)
    assert not torch.equal(base, plain)


def test_a_model_brings_its_own_default_strength(base_pipe, tmp_path):
    explicit = {strength: ediffi(base_pipe, REGIONS, region_strength=strength) for strength in (0.4, 0.1)}
    assert torch.equal(ediffi(base_pipe, REGIONS), explicit[0.4]) and not torch.equal(*explicit.values())
    base_pipe.register_to_config(default_region_strength=0.1)
    base_pipe.save_pretrained(tmp_path)
    for pipe in (base_pipe, EDiffIPipeline.from_pretrained(tmp_path), EDiffIInpaintPipeline.from_pipe(base_pipe)):
        assert pipe.config.default_region_strength == 0.1
    assert torch.equal(ediffi(base_pipe, REGIONS), explicit[0.1])
    base_pipe.register_to_config(default_region_strength="much")
    with pytest.raises(ValueError, match="region_strength='much'"):
        ediffi(base_pipe, REGIONS)


def test_an_expert_that_folds_pixels_is_painted_on_its_own_grid(base_pipe):
    """Experts of one router may work at different resolutions, or have no attention at all."""
    folded = tiny_unet(1, patch_size=2, self_attention_factors=(4,), cross_attention_factors=(4,))
    blind = tiny_unet(2, self_attention_factors=(), cross_attention_factors=())
    base_pipe.unet = ExpertRouterUNet.from_unets([blind, base_pipe.unet, folded], [0.1, 5.0])
    run = {"num_inference_steps": 6}
    assert not torch.equal(ediffi(base_pipe, REGIONS, **run), ediffi(base_pipe, **run))
    painting = paintings_per_stage(base_pipe, base_pipe.stages, PROMPT, REGIONS, 0.4)[0]
    with painted(base_pipe.unet, painting), torch.no_grad():
        folded(torch.randn(1, 3, 8, 8), torch.tensor(0.5), None)
        assert set(painting._matrices) == {16, 4, 1}
        left, right = painting.columns[0]
        expected = torch.tensor([1.0, 0, 1, 0])  # 2 x 2 pixels, row by row: the cat is on the left
        for columns, column in ((left, expected), (right, 1 - expected)):
            assert all(torch.equal(painting.matrix(4)[0, :, i], column) for i in columns)


def test_ediffi_region_seeds(base_pipe):
    latents = {}
    for seed in (0, 1):
        noise = latents[seed] = []
        handle = base_pipe.unet.register_forward_pre_hook(lambda _, args, noise=noise: noise.append(args[0][-1]))
        generator = [torch.Generator().manual_seed(seed)]
        ediffi(base_pipe, [PaintRegion("cat", LEFT, seed=3)], generator=generator)
        handle.remove()
    latents = [noise[0] for noise in latents.values()]
    half = SIZES[0] // 2
    assert torch.equal(latents[0][..., :half], latents[1][..., :half])
    assert not torch.equal(latents[0][..., half:], latents[1][..., half:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"regions": [PaintRegion("owl", LEFT)]}, "'owl' is not in the prompt"),
        ({"region_strength": -1}, "region_strength=-1 must be"),
        ({"region_strength": (0.1,) * 4}, "one number, or one for each stage"),
        ({"region_strength": "much"}, "region_strength='much'"),
        ({"regions": [REGIONS, REGIONS]}, "2 lists for 1 prompts"),
        ({"regions": [PaintRegion("a", LEFT)] * 80}, "80 regions for the"),
    ],
)
def test_ediffi_refuses_bad_input_before_any_network_runs(base_pipe, arguments, message):
    for network in (base_pipe.unet, base_pipe.text_encoder, base_pipe.text_encoder_2):
        handle = network.register_forward_pre_hook(lambda *_: pytest.fail("a network ran"))
        try:
            with pytest.raises(ValueError, match=message):
                ediffi(base_pipe, **{"regions": REGIONS, **arguments})
        finally:
            handle.remove()


def test_regions_need_their_prompt(base_pipe):
    names = ("prompt_embeds", "pooled_prompt_embeds", "prompt_embeds_2", "prompt_attention_mask_2")
    embeds = dict(zip(names, base_pipe.encode_prompt(PROMPT)[:4], strict=True))
    with pytest.raises(ValueError, match="regions need the prompt"):
        ediffi(base_pipe, REGIONS, None, **embeds)


def test_a_phrase_that_clip_cuts_off_is_painted_for_t5(base_pipe, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    long = "a" * 80 + " cat"
    with pytest.raises(ValueError, match="is cut off, with it 'owl'"):
        ediffi(base_pipe, [PaintRegion("owl", LEFT)], "a" * 120 + " owl")
    plain = ediffi(base_pipe, prompt=long)
    assert not torch.equal(ediffi(base_pipe, [PaintRegion("cat", LEFT)], long), plain)
    assert any("CLIP cut the end off" in record.getMessage() for record in caplog.records)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Safety checkers of Stable Diffusion and DeepFloyd IF, which see and blacken what the pipeline draws."""

import numpy as np
import pytest
import torch
from diffusers.pipelines.deepfloyd_if import IFSafetyChecker
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from helpers import PROMPT, WIDTH, seeded, tiny_components
from transformers import CLIPConfig, CLIPImageProcessorPil

from diffusers_ediffi import EDiffIPipeline


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

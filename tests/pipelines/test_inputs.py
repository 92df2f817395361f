# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What cannot be drawn is refused, with the argument, its value and the remedy, before any network runs."""

import copy
import math

import numpy as np
import pytest
import torch
from diffusers import EDMEulerScheduler, EulerDiscreteScheduler
from helpers import SIZES, WIDTH, draw, picture, seeded, tiny_components, tiny_pipeline

from diffusers_ediffi import PaintRegion

BASE, SR256, SR1024 = SIZES


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


@pytest.mark.parametrize("callback", [3, "print", ["print"], object()], ids=lambda value: type(value).__name__)
def test_a_callback_can_be_called(base_pipe, callback):
    with pytest.raises(ValueError, match="callback_on_step_end=.* must be a function"):
        base_pipe("a cat", callback_on_step_end=callback)


@pytest.mark.parametrize("names", [3, 0.5, None, "latents", {"latents": 1}, [3], ["x"]], ids=str)
def test_a_callback_is_given_tensors_by_a_list_of_names(base_pipe, names):
    with pytest.raises(ValueError, match="callback_on_step_end_tensor_inputs="):
        base_pipe("a cat", callback_on_step_end_tensor_inputs=names)


@pytest.mark.parametrize("name", ["height", "width", "regions", "num_inference_steps", "guidance_scale", "encoders"])
@pytest.mark.parametrize("value", [torch.zeros(2, 2), np.zeros(3), torch.zeros(0)], ids=lambda value: str(value.shape))
def test_tensors_in_the_place_of_numbers_and_lists_are_refused_by_name(base_pipe, name, value):
    with pytest.raises(ValueError, match=name):
        base_pipe("a cat", **{name: value})

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Tiny DeepFloyd IF and Karlo with random weights: the very classes, blocks and settings of the published ones."""

import json

import torch
from diffusers import (
    DDPMScheduler,
    IFPipeline,
    IFSuperResolutionPipeline,
    PriorTransformer,
    UnCLIPPipeline,
    UnCLIPScheduler,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from helpers import SIZES, WIDTH, tiny_components

IF_BETAS = {"beta_schedule": "squaredcos_cap_v2"}
IF_CONDITIONING = {
    "encoders": {"t5": {"columns": [0, 77], "widths": {"prompt_embeds_2": WIDTH}, "lowercase": True}},
    "empty_text": True,
    "unets": {
        "unet": {"arguments": {"encoder_hidden_states": "prompt_embeds_2"}},
        "unet_sr256": {
            "arguments": {"encoder_hidden_states": "prompt_embeds_2", "class_labels": "noise_timestep"},
            "low_res_filter": "bilinear_align_corners",
            "noise_betas": IF_BETAS,
        },
    },
}


def randomized(network, seed):
    """A network whose output depends on all its inputs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def if_unet(seed=0, **changes):
    """The U-Net of IF-I."""
    config = {
        "sample_size": SIZES[0],
        "layers_per_block": 1,
        "block_out_channels": (8, 32),
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "in_channels": 3,
        "out_channels": 6,
        "cross_attention_dim": 32,  # its norm has 32 groups
        "encoder_hid_dim": WIDTH,
        "attention_head_dim": 8,
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 2,
        "cross_attention_norm": "group_norm",
        "resnet_time_scale_shift": "scale_shift",
        "act_fn": "gelu",
        "norm_num_groups": 4,
    }
    torch.manual_seed(seed)
    return randomized(UNet2DConditionModel(**{**config, **changes}), seed)


def if_sr_unet(seed=1, **changes):
    """The U-Net of IF-II, which is told the noise on its low-resolution image."""
    config = {
        "sample_size": SIZES[1],
        "in_channels": 6,
        "class_embed_type": "timestep",
        "mid_block_scale_factor": 1.414,
        "time_embedding_act_fn": "gelu",
        "time_embedding_dim": 32,
        "resnet_skip_time_act": True,
        "resnet_out_scale_factor": 1.414,
    }
    return if_unet(seed, **{**config, **changes})


def text_parts():
    """T5 and its tokenizer."""
    components = tiny_components()
    return {name: components[name] for name in ("tokenizer_2", "text_encoder_2")}


def karlo_sr_unet(seed=2):
    """A super-resolution U-Net of Karlo, without text."""
    config = {
        "sample_size": SIZES[1],
        "layers_per_block": 1,
        "down_block_types": ("ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D"),
        "up_block_types": ("ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"),
        "block_out_channels": (8, 16),
        "in_channels": 6,
        "out_channels": 3,
        "norm_num_groups": 4,
        "add_attention": False,
    }
    torch.manual_seed(seed)
    return randomized(UNet2DModel(**config), seed)


KARLO_CONDITIONING = {
    "encoders": {
        "clip_text": {
            "columns": [4, 81],
            "widths": {"prompt_embeds": WIDTH, "pooled_prompt_embeds": WIDTH},
            "masks_padding": True,
        },
        "clip_image": {"columns": [0, 4], "widths": {"image_embeds": WIDTH}},
    },
    "empty_text": True,
    "unets": {
        "unet": {
            "arguments": {
                "text_proj.image_embeds": "image_embeds",
                "text_proj.text_embeds": "pooled_prompt_embeds",
                "text_proj.encoder_hidden_states": "prompt_embeds",
                "attention_mask": "prompt_attention_mask",
            }
        },
        "unet_sr256": {"arguments": {}, "low_res_filter": "bicubic_antialias"},
    },
}


def karlo_unet(seed=0):
    """The decoder of Karlo."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=SIZES[0],
        in_channels=3,
        out_channels=6,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=8,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="identity",
    )
    return randomized(unet, seed)


def karlo_text_proj(seed=3):
    """What makes the decoder's inputs of CLIP's embeddings."""
    torch.manual_seed(seed)
    proj = UnCLIPTextProjModel(clip_embeddings_dim=WIDTH, time_embed_dim=128, cross_attention_dim=32)
    return randomized(proj, seed)


def karlo_prior(seed=4):
    """The prior, which makes an image embedding of a text."""
    torch.manual_seed(seed)
    prior = PriorTransformer(
        num_attention_heads=2, attention_head_dim=8, embedding_dim=WIDTH, num_layers=1, additional_embeddings=4
    )
    return randomized(prior, seed)


LEARNED = {"variance_type": "learned_range", "thresholding": True, "dynamic_thresholding_ratio": 0.95}


def save_models(root, variant=None):
    """Saves IF's two stages and Karlo to folders as the published ones are: `if-1`, `if-2` and `karlo`, IF's weights
    as this variant."""
    t5 = {name.removesuffix("_2"): part for name, part in text_parts().items()}
    none = dict.fromkeys(("safety_checker", "feature_extractor", "watermarker")) | {"requires_safety_checker": False}
    schedulers = [DDPMScheduler(**IF_BETAS, **LEARNED, sample_max_value=value) for value in (1.5, 1.0)]
    IFPipeline(unet=if_unet(), scheduler=schedulers[0], **t5, **none).save_pretrained(root / "if-1", variant=variant)
    noising = {"image_noising_scheduler": DDPMScheduler(**IF_BETAS)}
    second = IFSuperResolutionPipeline(unet=if_sr_unet(), scheduler=schedulers[1], **noising, **t5, **none)
    second.save_pretrained(root / "if-2", variant=variant)
    components = tiny_components()
    UnCLIPPipeline(
        **{name: components[name] for name in ("tokenizer", "text_encoder")},
        prior=karlo_prior(),
        decoder=karlo_unet(),
        text_proj=karlo_text_proj(),
        super_res_first=karlo_sr_unet(5),
        super_res_last=karlo_sr_unet(6),
        prior_scheduler=UnCLIPScheduler(prediction_type="sample", clip_sample_range=5.0),
        decoder_scheduler=UnCLIPScheduler(variance_type="learned_range"),
        super_res_scheduler=UnCLIPScheduler(),
    ).save_pretrained(root / "karlo")
    for name in ("image_encoder", "feature_extractor"):
        components[name].save_pretrained(root / "karlo" / name)
    index = json.loads((root / "karlo" / "model_index.json").read_text())
    index |= {"image_encoder": ["transformers", "CLIPVisionModelWithProjection"]}
    index |= {"feature_extractor": ["transformers", "CLIPImageProcessor"]}
    (root / "karlo" / "model_index.json").write_text(json.dumps(index))

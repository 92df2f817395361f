# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Configurations of `EDiffIUNet` by name: the paper's models (appendix A, Tables 2-4), ADM's, and the demo's."""

from typing import Any

_CLIP_L_T5_11B = {
    "encoder_hid_dim": 768,
    "encoder_hid_dim_2": 1024,
    "pooled_projection_dim": 768,
    "image_embed_dim": 768,
}
_ADM = {
    "sample_size": 64,
    "block_out_channels": (256, 512, 1024, 1024),
    "layers_per_block": 3,
    "self_attention_factors": (2, 4, 8),
    "cross_attention_factors": (2, 4, 8),
    **_CLIP_L_T5_11B,
}
_EFFICIENT = {
    "structure": "efficient",
    "in_channels": 6,
    "layers_per_block": (2, 4, 8, 8),
    "self_attention_factors": (8,),
    "cross_attention_factors": (8,),
    **_CLIP_L_T5_11B,
}
_DEMO = {
    "attention_head_dim": 32,
    "norm_num_groups": 8,
    "time_embed_dim": 256,
    "cross_attention_dim": 128,
    "encoder_hid_dim": 128,
    "encoder_hid_dim_2": 128,
    "pooled_projection_dim": 128,
    "image_embed_dim": 128,
    "timestep_scale": 16.0,
}
PRESETS: dict[str, dict[str, Any]] = {
    # Appendix A word for word: a cross-attention behind every self-attention and nothing else. 0.70B parameters,
    # but the paper's Table 1 grows by 1.0B with each base expert ...
    "paper-literal": {**_ADM, "attention_block": "plain", "cross_attention_dim": 768},
    # ... which the transformer block of latent diffusion gives to the digit: 1.006B.
    "paper-table1": {**_ADM, "attention_block": "stacked", "cross_attention_dim": 2048},
    # The layout of the public ADM-64 and EDM weights, with eDiff-I's conditioning added.
    "adm64": {
        **_ADM,
        "attention_block": "plain",
        "cross_attention_dim": 768,
        "block_out_channels": (192, 384, 576, 768),
    },
    # ADM's upsampler from 64 to 256, which also takes the class of the picture.
    "adm256-upsampler": {
        **_ADM,
        "sample_size": 256,
        "in_channels": 6,
        "block_out_channels": (192, 192, 384, 384, 768, 768),
        "layers_per_block": 2,
        "self_attention_factors": (8, 16, 32),
        "cross_attention_factors": (),
        "num_attention_heads": 4,
        "num_class_embeds": 1000,
        "preconditioning": "epsilon",
    },
    "paper-sr256": {**_EFFICIENT, "sample_size": 256, "block_out_channels": (128, 256, 512, 1024)},
    "paper-sr1024": {
        **_EFFICIENT,
        "sample_size": 256,  # trained on 256 patches, applied at 1024
        "block_out_channels": (128, 256, 512, 512),
        "self_attention_factors": (),
    },
    "demo-base": {
        **_DEMO,
        "sample_size": 64,
        "patch_size": 4,
        "block_out_channels": (128, 192),
        "attention_head_dim": 64,
        "layers_per_block": 1,
        "self_attention_factors": (8,),
        "cross_attention_factors": (8,),
        "attention_block": "feed_forward",
    },
    # The expert for middle noise, where outlines are drawn: finer patches.
    "demo-base-middle": {
        **_DEMO,
        "sample_size": 64,
        "patch_size": 2,
        "block_out_channels": (96, 128, 160),
        "layers_per_block": 1,
        "self_attention_factors": (8,),
        "cross_attention_factors": (8,),
        "attention_block": "feed_forward",
    },
    "demo-sr256": {
        **_DEMO,
        "structure": "efficient",
        "sample_size": 256,
        "in_channels": 6,
        "patch_size": 2,
        "block_out_channels": (64, 64, 96, 128),
        "layers_per_block": 1,
        "self_attention_factors": (16,),
        "cross_attention_factors": (16,),
        "sigma_residual": 0.1,
    },
    "demo-sr1024": {
        **_DEMO,
        "structure": "efficient",
        "sample_size": 256,
        "in_channels": 6,
        "block_out_channels": (32, 64, 96, 128),
        "layers_per_block": 1,
        "self_attention_factors": (),
        "cross_attention_factors": (8,),
        "sigma_residual": 0.05,
    },
    # Experts for low noise, where the text hardly counts (Figure 3) but single pixels do: no patches, no attention.
    "demo-base-low": {
        **_DEMO,
        "sample_size": 64,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "self_attention_factors": (),
        "cross_attention_factors": (),
    },
    "demo-sr256-low": {
        **_DEMO,
        "structure": "efficient",
        "sample_size": 256,
        "in_channels": 6,
        "block_out_channels": (32, 64, 64),
        "layers_per_block": 1,
        "self_attention_factors": (),
        "cross_attention_factors": (),
        "sigma_residual": 0.1,
    },
}

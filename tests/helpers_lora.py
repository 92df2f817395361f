# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Networks of a single block, and low-rank experts of them."""

import copy

import torch
from diffusers import UNet2DConditionModel
from helpers import tiny_unet as tiny_ediffi_unet

from diffusers_ediffi import ExpertRouterUNet, factorize_expert

BOUNDARIES = [0.1, 10.0]
SIGMAS = (0.01, 1.0, 80.0)  # one for each of three experts


def tiny_unet(seed: int = 0, **changes) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    config = {
        "sample_size": 8,
        "block_out_channels": (8,),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D",),
        "mid_block_type": None,
        "up_block_types": ("CrossAttnUpBlock2D",),
        "cross_attention_dim": 16,
        "attention_head_dim": 8,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**{**config, **changes}).eval()


KINDS = {"ediffi": tiny_ediffi_unet, "diffusers": tiny_unet}


@torch.no_grad()
def trained(base, seed: int):
    """A network in which every tensor has moved away from the base's, as training moves them."""
    expert, generator = copy.deepcopy(base), torch.Generator().manual_seed(seed)
    for parameter in expert.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return expert


def inputs(unet) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "sample": torch.randn(2, unet.config.in_channels, 8, 8, generator=generator),
        "encoder_hidden_states": torch.randn(2, 77, 16, generator=generator),
    }


@torch.no_grad()
def output(unet, sigma: float, **changes) -> torch.Tensor:
    return unet(**{**inputs(unet), **changes}, timestep=0.25 * torch.tensor(sigma).log()).sample


def low_rank_router(base, rank: int = 2, **kwargs) -> ExpertRouterUNet:
    experts = [factorize_expert(base, trained(base, seed), rank) for seed in (1, 2, 3)]
    return ExpertRouterUNet.from_lora_experts(base, experts, BOUNDARIES, **kwargs)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Scenes, encoders and a network for training runs of seconds."""

from types import SimpleNamespace

import torch
from PIL import Image

from diffusers_ediffi.models.unet import EDiffIUNet

WIDTH = 16


class HalfScenes:
    """One half black, the other white: the smallest thing that has what `SceneDataset` asks for."""

    def __init__(self) -> None:
        self.renderings = 0

    def scene(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(index=index, caption=f"scene {index}")

    def render(self, scene: SimpleNamespace, size: int) -> Image.Image:
        self.renderings += 1
        picture = Image.new("RGB", (size, size), "black")
        left = scene.index % 2 * size // 2
        picture.paste("white", (left, 0, left + size // 2, size))
        return picture


def encode(captions: list[str], images: torch.Tensor, keep_image: torch.Tensor | None = None) -> dict:
    """Embeddings that depend on the caption alone."""
    seeds = [int(caption.split()[1]) for caption in captions]
    embeds = torch.stack([torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    return {
        "encoder_hidden_states": embeds[:, None].expand(-1, 77, -1),
        "encoder_hidden_states_2": embeds[:, None].expand(-1, 5, -1),
        "encoder_attention_mask_2": torch.ones(len(seeds), 5),
        "added_cond_kwargs": {"text_embeds": embeds, "image_embeds": embeds + images.float().mean((1, 2, 3))[:, None]},
    }


def tiny_unet(**changes) -> EDiffIUNet:
    torch.manual_seed(0)
    return EDiffIUNet(
        **{
            "sample_size": 8,
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "self_attention_factors": (2,),
            "cross_attention_factors": (2,),
            "attention_head_dim": 8,
            "cross_attention_dim": WIDTH,
            "encoder_hid_dim": WIDTH,
            "encoder_hid_dim_2": WIDTH,
            "pooled_projection_dim": WIDTH,
            "image_embed_dim": WIDTH,
            "norm_num_groups": 4,
            "dropout": 0.1,  # so that exact resume covers the network's own random numbers
            **changes,
        }
    )


def assert_same(one, two) -> None:
    """Bit for bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_same(one[key], two[key])
    elif isinstance(one, list | tuple):
        for a, b in zip(one, two, strict=True):
            assert_same(a, b)
    else:
        assert one == two

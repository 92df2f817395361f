# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Tiny, complete parts of a pipeline with random weights, real classes throughout, and short calls of it."""

import functools
import re
import string

import numpy as np
import PIL.Image
import torch
from diffusers import EDMEulerScheduler
from torch import nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from diffusers_ediffi import EDiffIPipeline, EDiffIUNet

WIDTH = 16  # of every encoder
SIZES = (8, 32, 128)  # of base, SR256 and SR1024
LETTERS = string.ascii_lowercase + string.digits + ".,"


def tiny_unet(seed=0, **changes):
    """An `EDiffIUNet` whose output depends on all its inputs: a fresh one starts with zeros and returns zeros."""
    config = {
        "sample_size": SIZES[0],
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
    }
    unet = EDiffIUNet(**{**config, **changes}).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return unet


def tiny_sr_unet(seed, sample_size, **changes):
    # Cross-attention at a sixteenth of the image keeps 128 x 128 cheap.
    channels, factors = (8, 8, 8, 16), (8,)
    return tiny_unet(
        seed,
        sample_size=sample_size,
        in_channels=6,
        structure="efficient",
        block_out_channels=channels,
        self_attention_factors=(),
        cross_attention_factors=factors,
        **changes,
    )


def tiny_clip_tokenizer():
    """Spells: a token for each letter, and one for each letter at the end of a word."""
    tokens = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


def tiny_t5_tokenizer():
    pieces = ["<pad>", "</s>", "<unk>", "▁", *LETTERS]
    return T5Tokenizer(vocab=[(piece, -2.0) for piece in pieces], extra_ids=0, model_max_length=512)


def tiny_text_encoder(tokenizer):
    torch.manual_seed(1)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=77,
        initializer_factor=10.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config).eval()


def tiny_text_encoder_2(tokenizer):
    torch.manual_seed(2)
    config = T5Config(vocab_size=len(tokenizer), d_model=WIDTH, d_kv=8, d_ff=WIDTH, num_layers=1, num_heads=2)
    return T5EncoderModel(config).eval()


def tiny_image_encoder():
    torch.manual_seed(3)
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        initializer_factor=10.0,
    )
    return CLIPVisionModelWithProjection(config).eval()


@functools.cache
def _networks():
    tokenizer, tokenizer_2 = tiny_clip_tokenizer(), tiny_t5_tokenizer()
    size = {"height": 16, "width": 16}
    return {
        "tokenizer": tokenizer,
        "text_encoder": tiny_text_encoder(tokenizer),
        "tokenizer_2": tokenizer_2,
        "text_encoder_2": tiny_text_encoder_2(tokenizer_2),
        "feature_extractor": CLIPImageProcessorPil(size=size, crop_size=size),
        "image_encoder": tiny_image_encoder(),
        "unet": tiny_unet(4),
        "unet_sr256": tiny_sr_unet(5, sample_size=SIZES[1]),
        # Trained on patches as large as the image of the stage before.
        "unet_sr1024": tiny_sr_unet(6, sample_size=SIZES[1]),
    }


def tiny_components(**changes):
    """All components of a three-stage pipeline. The networks are shared by all tests: copy one to change it."""
    schedulers = {name: EDMEulerScheduler() for name in ("scheduler", "scheduler_sr256", "scheduler_sr1024")}
    return {**_networks(), **schedulers, **changes}


def forget_hooked_parts():
    """Networks on which a test left hooks of offload, or a LoRA, are built anew for the next test."""
    parts = _networks().values() if _networks.cache_info().currsize else ()
    modules = (module for part in parts if isinstance(part, nn.Module) for module in part.modules())
    if any(hasattr(module, "_hf_hook") or hasattr(module, "peft_config") for module in modules):
        _networks.cache_clear()


def tiny_pipeline(**changes):
    pipe = EDiffIPipeline(**tiny_components(**changes))
    pipe.set_progress_bar_config(disable=True)
    return pipe


PROMPT = "a red cat above a blue house"


def as_id(value):
    """The name of a parameter, the same in every process."""
    return re.sub(r" at 0x\w+", "", str(value))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(pipe, prompt=PROMPT, **arguments):
    """The images of a short run, before clamping, always from the same noise."""
    defaults = {"num_inference_steps": 2, "generator": seeded(), "output_type": "latent"}
    return pipe(prompt, **{**defaults, **arguments}).images


def embeddings(pipe, prompt=PROMPT, **arguments):
    """What `encode_prompt` returns, by the names that `__call__` takes."""
    names = ["prompt_embeds", "pooled_prompt_embeds", "prompt_embeds_2", "prompt_attention_mask_2"]
    return dict(zip(names, pipe.encode_prompt(prompt, **arguments)[:4], strict=True))


def picture(seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Tiny U-Nets and pipelines of diffusers with random weights, and short calls of them."""

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from helpers import WIDTH, tiny_clip_tokenizer, tiny_text_encoder
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from transformers import CLIPTextConfig, CLIPTextModel

import diffusers_ediffi  # noqa: F401  registers the library with diffusers
from diffusers_ediffi import ExpertRouterUNet
from diffusers_ediffi.models.unet import EDiffIUNet

SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def tiny_unet(seed: int = 0, **changes) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    config = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 8,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**{**config, **changes}).eval()


def constant_unet(value: float, **changes) -> UNet2DConditionModel:
    """A U-Net whose output is `value` everywhere: it shows which expert ran."""
    unet = tiny_unet(**changes)
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.constant_(unet.conv_out.bias, value)
    return unet


def tiny_ediffi_unet(seed: int = 0, **changes) -> EDiffIUNet:
    torch.manual_seed(seed)
    widths = ("cross_attention_dim", "encoder_hid_dim", "encoder_hid_dim_2", "pooled_projection_dim")
    unet = EDiffIUNet(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        self_attention_factors=(2,),
        cross_attention_factors=(2,),
        attention_head_dim=8,
        image_embed_dim=16,
        norm_num_groups=4,
        **{name: 16 for name in widths},
        **changes,
    ).eval()
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return unet


def inputs(batch_size: int = 1, channels: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "sample": torch.randn(batch_size, channels, 8, 8, generator=generator),
        "encoder_hidden_states": torch.randn(batch_size, 77, 16, generator=generator),
    }


def trace(router: ExpertRouterUNet) -> list[int]:
    """The experts that run from now on, in order."""
    ran: list[int] = []
    for i, expert in enumerate(router.experts):
        expert.register_forward_hook(lambda *_, i=i: ran.append(i))
    return ran


SIZE = 8  # of an image; the tiny autoencoder does not shrink it
PIPELINES = [
    StableDiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
]
SDXL_BASE = {
    "cross_attention_dim": 2 * WIDTH,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,  # six time ids
}


def is_sdxl(pipeline) -> bool:
    return "XL" in pipeline.__name__


def unet_for(pipeline, seed: int = 0):
    return tiny_unet(seed, **(SDXL_BASE if is_sdxl(pipeline) else {}))


def tiny_controlnet(unet) -> ControlNetModel:
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16,)).eval()
    for parameter in controlnet.parameters():  # a fresh one adds zeros
        torch.nn.init.normal_(parameter, std=0.1)
    return controlnet


def build(pipeline, unet, scheduler=DDIMScheduler):
    """A pipeline with random weights around `unet`."""
    tokenizer = tiny_clip_tokenizer()
    torch.manual_seed(0)
    clip = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = CLIPTextConfig(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, pad_token_id=1, **clip)
    settings = {"clip_sample": False, "set_alpha_to_one": False} if scheduler is DDIMScheduler else {}
    components = {
        "vae": AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=SIZE),
        "text_encoder": CLIPTextModel(config).eval(),
        "tokenizer": tokenizer,
        "unet": unet,
        "scheduler": scheduler(**SD_BETAS, steps_offset=1, **settings),
    }
    if is_sdxl(pipeline):
        components |= {"tokenizer_2": tokenizer, "text_encoder_2": tiny_text_encoder(tokenizer)}
    else:
        components |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if "ControlNet" in pipeline.__name__:
        torch.manual_seed(1)
        components["controlnet"] = tiny_controlnet(unet_for(pipeline))
    pipe = pipeline(**components)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, steps: int = 5, **arguments) -> torch.Tensor:
    """The latents of a guided call; image and mask for the pipelines that need them."""
    picture = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    name = type(pipe).__name__
    if any(kind in name for kind in ("Img2Img", "Inpaint", "ControlNet")):
        arguments.setdefault("image", picture)
    if "Inpaint" in name:
        arguments |= {"mask_image": (picture[:, :1] > 0.5).float(), "height": SIZE, "width": SIZE}
    if "Img2Img" in name or "Inpaint" in name:
        arguments.setdefault("strength", 0.8)
    return pipe(
        **{"prompt": "a cat", "negative_prompt": "b", **arguments},
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    ).images


def three_experts(pipeline, boundaries=(1.0, 5.0)) -> ExpertRouterUNet:
    unets = [unet_for(pipeline) for _ in range(3)]
    return ExpertRouterUNet.from_unets(unets, list(boundaries), scheduler=DDPMScheduler(**SD_BETAS))


def lora(pipeline, seed: int = 0) -> dict[str, torch.Tensor]:
    """A LoRA file of a pipeline: random, in the attention of its U-Net."""
    unet = unet_for(pipeline)
    torch.manual_seed(seed)
    unet.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    return {f"unet.{name}": tensor for name, tensor in get_peft_model_state_dict(unet, adapter_name="default").items()}


def ip_adapter(unet) -> dict[str, dict[str, torch.Tensor]]:
    """An IP-Adapter file for one image embedding of width `WIDTH`: random."""
    torch.manual_seed(5)
    width = unet.config.cross_attention_dim
    projections, number = {}, 1
    for name, processor in unet.attn_processors.items():
        if name.endswith("attn1.processor"):
            continue
        hidden = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
        assert processor is not None
        for kind in ("to_k_ip", "to_v_ip"):
            projections[f"{number}.{kind}.weight"] = torch.randn(hidden, width)
        number += 2
    image_proj = {
        "proj.weight": torch.randn(4 * width, WIDTH),
        "proj.bias": torch.randn(4 * width),
        "norm.weight": torch.randn(width),
        "norm.bias": torch.randn(width),
    }
    return {"image_proj": image_proj, "ip_adapter": projections}

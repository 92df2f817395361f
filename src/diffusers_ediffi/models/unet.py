# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`EDiffIUNet`: the denoiser of every stage of eDiff-I (appendix A, Tables 2-4).

Two structures: `adm`, the U-Net of Dhariwal and Nichol for the base model, and `efficient`, the block order of
Imagen's Efficient U-Net for the super-resolution models. Both return the raw output F of equation 1, or what a
discrete-time model predicts, where they have the weights of such a model (`preconditioning`).
"""

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import nn

from ..edm import c_in, noisy_residual, residual_coefficients, sigma_from_c_noise
from ..files import saved_whole
from ..files.hub import Model, PushToHub
from .attention import AttentionBlock, zero
from .blocks import ResnetBlock, build_adm, build_efficient
from .card import unet_model
from .conditioning import ConditioningFusion
from .folders import names_its_folder
from .network_config import check_network
from .presets import PRESETS
from .weight_files import check_complete, check_finite, check_without_adapters, default_dtype_kept, read_lora


class EDiffIUNet(PushToHub, ModelMixin, AttentionMixin, ConfigMixin, PeftAdapterMixin):
    """The denoising network F of eDiff-I, for the base and the super-resolution stages.

    Attention is placed by downsampling factor: a level works at `sample_size / factor`. With `patch_size` 2 the first
    convolution already works at half the resolution, a saving that the demo models use and the paper does not.

    Args:
        sample_size (`int`): Height and width the model was trained at; it runs at others too.
        in_channels (`int`): 3, or 6 where the upsampled low-resolution image is concatenated.
        out_channels (`int`): Channels of the image.
        structure (`str`): `adm` or `efficient`.
        patch_size (`int`): Pixels that are folded into channels before the first convolution.
        block_out_channels (`tuple`): Channels of each level, highest resolution first.
        layers_per_block (`int` or `tuple`): Residual blocks of each level.
        self_attention_factors, cross_attention_factors (`tuple`): Downsampling factors at which each attention stands.
        attention_block (`str`): `plain`, `feed_forward` or `stacked`, see [`AttentionBlock`].
        attention_head_dim (`int`): Width of one attention head.
        num_attention_heads (`int`, *optional*): Heads at every level, in place of heads of one width.
        cross_attention_dim (`int`): Width of the context.
        encoder_hid_dim, encoder_hid_dim_2 (`int`): Widths of the CLIP and the T5 text tokens (T5-11B: 1024,
            T5 v1.1-XXL: 4096; nobody knows which the paper used).
        pooled_projection_dim, image_embed_dim (`int`): Widths of the pooled CLIP text and of the CLIP image embedding.
        time_embed_dim (`int`, *optional*): Width of the global vector; four times the first level by default.
        timestep_scale (`float`): Factor on the timestep before its sinusoidal embedding; 1 as in EDM.
        norm_num_groups (`int`): Groups of the group normalisation.
        dropout (`float`): Dropout in the residual blocks.
        preconditioning (`str`): What the network returns: `edm`, F of equation 1, or what a discrete-time model
            predicts, `epsilon`, `v_prediction` or `sample` (diffusers' names). Such a network takes
            x / sqrt(1 + sigma^2) and a discrete timestep, and is drawn with by a scheduler with its betas; it is not
            trained here.
        sigma_data (`float`): Standard deviation of the data in equation 1; of no account for the other three.
        sigma_residual (`float`, *optional*): For super-resolution, the standard deviation of the image minus the
            upsampled low-resolution one. With it the network denoises that difference and starts from the enlarged
            image instead of from nothing ([`~edm.residual_coefficients`]); what it takes and returns stays the same.
            The paper's models denoise the image itself (`None`).
        max_noise_level (`float`, *optional*): For super-resolution, the strongest noise of training on the
            low-resolution image ([`~low_res.augment_low_res`]), as its standard deviation. Such a network is told the
            level in `class_labels`; a network without (`None`) takes clean images alone.
        num_class_embeds (`int`, *optional*): Labels that such a network is told one of in `class_labels`. A network
            that also draws without a class has a label for that, by convention the last; ADM's networks have none.
        trained_on (`list`, *optional*): Noise levels of training as `[low, high]` pairs in sigma, `None` for infinity.
            [`ExpertRouterUNet`] refuses to use the model outside.
    """

    _supports_gradient_checkpointing = True
    _supports_group_offloading = True
    _no_split_modules = ["ResnetBlock", "AttentionBlock"]
    _skip_layerwise_casting_patterns = ["conv_in", "conv_norm_out", "conv_out", "norm", "null_token"]
    _repeated_blocks = ["AttentionBlock"]

    @register_to_config
    def __init__(
        self,
        sample_size: int = 64,
        in_channels: int = 3,
        out_channels: int = 3,
        structure: str = "adm",
        patch_size: int = 1,
        block_out_channels: tuple[int, ...] = (256, 512, 1024, 1024),
        layers_per_block: int | tuple[int, ...] = 3,
        self_attention_factors: tuple[int, ...] = (2, 4, 8),
        cross_attention_factors: tuple[int, ...] = (2, 4, 8),
        attention_block: str = "plain",
        attention_head_dim: int = 64,
        num_attention_heads: int | None = None,
        cross_attention_dim: int = 768,
        encoder_hid_dim: int = 768,
        encoder_hid_dim_2: int = 1024,
        pooled_projection_dim: int = 768,
        image_embed_dim: int = 768,
        time_embed_dim: int | None = None,
        timestep_scale: float = 1.0,
        norm_num_groups: int = 32,
        dropout: float = 0.0,
        preconditioning: str = "edm",
        sigma_data: float = 0.5,
        sigma_residual: float | None = None,
        max_noise_level: float | None = None,
        num_class_embeds: int | None = None,
        trained_on: list | None = None,
    ):
        super().__init__()
        layers = check_network(self.config)
        channels, folded = block_out_channels[0], patch_size**2
        time_embed_dim = time_embed_dim or 4 * channels

        self.time_proj = Timesteps(channels, flip_sin_to_cos=True, downscale_freq_shift=0, scale=timestep_scale)
        self.time_embedding = TimestepEmbedding(channels, time_embed_dim)
        if max_noise_level is not None:
            self.noise_level_proj = Timesteps(channels, flip_sin_to_cos=True, downscale_freq_shift=0, scale=1000)
            self.noise_level_embedding = TimestepEmbedding(channels, time_embed_dim)
            # A network that was trained without noise on its input starts as it is.
            zero(self.noise_level_embedding.linear_2)
        if num_class_embeds is not None:
            self.class_embedding = nn.Embedding(num_class_embeds, time_embed_dim)
        self.fusion = ConditioningFusion(
            cross_attention_dim,
            encoder_hid_dim,
            encoder_hid_dim_2,
            pooled_projection_dim,
            image_embed_dim,
            time_embed_dim,
        )
        self.conv_in = nn.Conv2d(in_channels * folded, channels, 3, padding=1)
        resnet = partial(ResnetBlock, time_embed_dim=time_embed_dim, groups=norm_num_groups, dropout=dropout)
        build = build_adm if structure == "adm" else build_efficient
        self.down_blocks, self.mid_block, self.up_blocks = build(
            block_out_channels, layers, patch_size, self._attention_at, resnet
        )
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, channels)
        self.conv_out = nn.Conv2d(channels, out_channels * folded, 3, padding=1)
        zero(self.conv_out)
        self.gradient_checkpointing = False

    def _attention_at(self, width: int, factor: int) -> AttentionBlock | None:
        """The attention block of a level, or `None` where the configuration asks for none."""
        config = self.config
        self_attention = factor in config.self_attention_factors
        cross_attention = factor in config.cross_attention_factors
        if not (self_attention or cross_attention):
            return None
        heads = config.num_attention_heads
        return AttentionBlock(
            width,
            config.attention_head_dim if heads is None else width // heads,
            config.cross_attention_dim,
            config.attention_block,
            self_attention,
            cross_attention,
            config.norm_num_groups,
        )

    @classmethod
    def from_preset(cls, name: str, **changes) -> "EDiffIUNet":
        """Builds an untrained network, for example `EDiffIUNet.from_preset("paper-table1", encoder_hid_dim_2=4096)`.

        Args:
            name (`str`): `paper-literal` (0.70B) and `paper-table1` (1.01B) are two readings of the base model;
                `adm64` takes public ADM-64 weights, `adm256-upsampler` those of ADM's upsampler from 64 to 256;
                `paper-sr256` and `paper-sr1024` are the super-resolution models; `demo-base`, `demo-sr256` and
                `demo-sr1024` the small ones of the packaged demo, `demo-base-middle`, `demo-base-low` and
                `demo-sr256-low` their experts for middle and low noise.
            changes: Configuration entries that differ from the preset.
        """
        if name not in PRESETS:
            raise ValueError(f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}.")
        return cls(**{**PRESETS[name], **changes})

    @classmethod
    @names_its_folder
    def from_pretrained(cls, *args, mapped: bool = False, **kwargs) -> Any:
        """Loads what `save_pretrained` wrote, as every model of diffusers does.

        Args:
            args, kwargs: As in diffusers.
            mapped (`bool`): Whether weights that need no conversion stay mapped from the file, so that they take no
                memory before they are used. By default they are copied to aligned memory (see [`align_weights`]).

        Raises:
            OSError: The weights lack tensors of the network (unless the caller asks for `output_loading_info`, to see
                to it), or have values that are not finite, for which mapped weights are not read.
        """
        with_info = kwargs.pop("output_loading_info", False)
        with default_dtype_kept():
            loaded, info = super().from_pretrained(*args, **kwargs, output_loading_info=True)
        where = loaded.config.get("_name_or_path")
        if not with_info:
            check_complete(info["missing_keys"], where)
        if not mapped:
            align_weights(loaded)
            check_finite(loaded, where)
        return (loaded, info) if with_info else loaded

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        save_function: Any = None,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str = "10GB",
        push_to_hub: bool = False,
        use_flashpack: bool = False,
        **kwargs,
    ) -> None:
        """Saves the network, as every model of diffusers does, but all of it or, after an error or a kill, nothing.

        Args:
            save_directory (`str` or `Path`): The folder; made if it does not exist.
            is_main_process (`bool`): Whether this process writes, in distributed training.
            save_function, safe_serialization, variant, max_shard_size, push_to_hub, use_flashpack, kwargs: As in
                diffusers.

        Raises:
            OSError: The folder cannot be written.
            ValueError: The network has adapters, which would not be loaded again.
        """
        check_without_adapters(self, f"this {type(self).__name__}")
        if not is_main_process:  # which writes all of it
            return
        how = {"safe_serialization": safe_serialization, "variant": variant}
        push = self._push_of(save_directory, kwargs) if push_to_hub else None
        with saved_whole(save_directory, self.config_name, variant) as unfinished:
            super().save_pretrained(
                unfinished, True, save_function, max_shard_size=max_shard_size, use_flashpack=use_flashpack, **how
            )
        if push is not None:
            push.upload_saved(save_directory)

    def _hub_model(self) -> Model:
        return unet_model(self)

    def load_lora_adapter(
        self,
        pretrained_model_name_or_path_or_dict: str | os.PathLike | dict[str, torch.Tensor],
        prefix: str | None = "transformer",
        hotswap: bool = False,
        **kwargs,
    ) -> None:
        """Loads a LoRA, as every model of diffusers does, but none that is damaged.

        Args:
            pretrained_model_name_or_path_or_dict (`str`, `os.PathLike` or `dict`): A Hub id, a folder, a file, or the
                weights.
            prefix (`str`, *optional*): Only keys that begin with it are read.
            hotswap (`bool`): Whether to replace the adapter of this name in place.
            kwargs: `adapter_name`, `weight_name`, ... as in diffusers.

        Raises:
            OSError: Weights are missing or not finite; then nothing is changed.
        """
        weights, settings = read_lora(pretrained_model_name_or_path_or_dict, kwargs)
        super().load_lora_adapter(weights, prefix, hotswap, **settings)

    @property
    def total_stride(self) -> int:
        """Height and width of the input must be multiples of this."""
        levels = len(self.config.block_out_channels)
        return self.config.patch_size * 2 ** (levels - 1)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_hidden_states_2: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        encoder_attention_mask_2: torch.Tensor | None = None,
        added_cond_kwargs: dict[str, torch.Tensor] | None = None,
        class_labels: torch.Tensor | float | None = None,
        return_dict: bool = True,
    ) -> UNet2DConditionOutput | tuple[torch.Tensor]:
        """Returns F of shape (batch, out_channels, height, width).

        Args:
            sample (`torch.Tensor`): c_in x (x / sqrt(1 + sigma^2) for discrete timesteps) of shape (batch, 3, height,
                width); in super-resolution models (batch, 6, height, width), the upsampled low-resolution image in
                [-1, 1] behind it.
            timestep (`float` or `torch.Tensor`): c_noise = ln(sigma) / 4, or a discrete timestep where
                `preconditioning` is not `edm`; one number or (batch,).
            encoder_hidden_states (`torch.Tensor`, *optional*): CLIP text tokens (batch, 77, encoder_hid_dim).
            encoder_hidden_states_2 (`torch.Tensor`, *optional*): T5 tokens (batch, up to 113, encoder_hid_dim_2).
            encoder_attention_mask, encoder_attention_mask_2 (`torch.Tensor`, *optional*): (batch, tokens), 1 where
                a token counts.
            added_cond_kwargs (`dict`, *optional*): `text_embeds` (batch, pooled_projection_dim) and `image_embeds`
                (batch, image_embed_dim). What is absent counts as zeros.
            class_labels (`float` or `torch.Tensor`, *optional*): Classes from 0, one whole number or (batch,), for
                networks with `num_class_embeds`, which need them. Noise level of the low-resolution image, one number
                or (batch,), for networks with `max_noise_level`; none is a clean image. The name is that of
                `UNet2DConditionModel`, which is told both by it.
            return_dict (`bool`): Whether to return an output object instead of a tuple.

        Raises:
            ValueError: A shape is wrong, a noise level or a class is given to a network that was trained without, or
                a class is missing or unknown.
        """
        self._check_sample(sample)
        added = added_cond_kwargs or {}
        timesteps = torch.as_tensor(timestep, device=sample.device).reshape(-1).expand(sample.shape[0])
        context, context_mask, pooled = self.fusion(
            encoder_hidden_states,
            encoder_hidden_states_2,
            encoder_attention_mask,
            encoder_attention_mask_2,
            added.get("text_embeds"),
            added.get("image_embeds"),
            sample.shape[0],
        )
        noise_level, classes = self._noise_level(class_labels, sample), self._classes(class_labels, sample)
        temb = self._global_vector(timesteps, noise_level, classes, pooled, sample.dtype)
        residual = self._sigma_residual(noise_level)
        x = sample if residual is None else self._residual_input(sample, timesteps, residual)
        x = self._predict(x, temb, context, context_mask)
        if residual is not None:
            x = self._residual_output(x, sample, timesteps, residual)
        return UNet2DConditionOutput(sample=x) if return_dict else (x,)

    def _global_vector(
        self,
        timesteps: torch.Tensor,
        noise_level: torch.Tensor | None,
        classes: torch.Tensor | None,
        pooled: torch.Tensor,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """What every residual block is told, (batch, time_embed_dim): noise levels, class and pooled embeddings."""
        temb = self.time_embedding(self.time_proj(timesteps).to(dtype)) + pooled
        if noise_level is not None:
            temb = temb + self.noise_level_embedding(self.noise_level_proj(noise_level).to(dtype))
        if classes is not None:
            temb = temb + self.class_embedding(classes)
        return F.silu(temb)

    def _predict(
        self, x: torch.Tensor, temb: torch.Tensor, context: torch.Tensor, context_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """The U-Net itself: down, middle and up, between the folding of pixels into channels and back."""
        patch_size, is_adm = self.config.patch_size, self.config.structure == "adm"
        x = F.pixel_unshuffle(x, patch_size) if patch_size > 1 else x
        x = stem = self.conv_in(x)
        skips: tuple[torch.Tensor, ...] = (stem,) if is_adm else ()
        checkpoint = self._gradient_checkpointing_func if self._is_checkpointing() else None
        for level in (*self.down_blocks, *([self.mid_block] if is_adm else []), *self.up_blocks):
            kept = len(skips) - level.num_taken
            x, left = level(x, temb, context, context_mask, skips[kept:], checkpoint)
            skips = (*skips[:kept], *left)
        x = x if is_adm else x + stem.to(x.device)  # the levels may be spread over devices
        x = self.conv_out(F.silu(self.conv_norm_out(x)))
        return F.pixel_shuffle(x, patch_size) if patch_size > 1 else x

    def _noise_level(self, class_labels: torch.Tensor | float | None, sample: torch.Tensor) -> torch.Tensor | None:
        """(batch,) in float32; `None` for a network without this condition."""
        if self.config.max_noise_level is None:
            if class_labels is not None and self.config.num_class_embeds is None:
                raise ValueError("class_labels is a noise level, and this network was trained without: leave it out.")
            return None
        level = torch.as_tensor(0.0 if class_labels is None else class_labels, device=sample.device)
        return level.float().reshape(-1).expand(sample.shape[0])

    def _classes(self, class_labels: torch.Tensor | float | None, sample: torch.Tensor) -> torch.Tensor | None:
        """(batch,), whole numbers; `None` for a network without classes."""
        number = self.config.num_class_embeds
        if number is None:
            return None
        known = f"whole numbers from 0 to {number - 1}, one or (batch,)"
        if class_labels is None:
            raise ValueError(f"class_labels is missing: this network draws one of {number} classes; pass {known}.")
        labels = torch.as_tensor(class_labels)
        is_whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
        if not is_whole or labels.numel() not in (1, len(sample)) or labels.ndim > 1:
            raise ValueError(f"class_labels of {labels.dtype} and shape {tuple(labels.shape)} must be {known}.")
        # On a GPU a wrong index would end the process.
        if not (0 <= int(labels.min()) and int(labels.max()) < number):
            raise ValueError(f"class_labels {labels.tolist()} must be {known}.")
        return labels.to(sample.device, torch.long).reshape(-1).expand(len(sample))

    def _sigma_residual(self, noise_level: torch.Tensor | None) -> float | torch.Tensor | None:
        """Standard deviation of the image minus the noisy low-resolution image, which broadcasts."""
        if self.config.sigma_residual is None or noise_level is None:
            return self.config.sigma_residual
        return noisy_residual(self.config.sigma_residual, noise_level)[:, None, None, None]

    def _residual_input(
        self, sample: torch.Tensor, timesteps: torch.Tensor, residual: float | torch.Tensor
    ) -> torch.Tensor:
        """c_in x and low_res -> the noisy difference x - low_res at unit variance, and low_res."""
        sigma = sigma_from_c_noise(timesteps.float())[:, None, None, None]
        scaled, low_res = sample.float().chunk(2, dim=1)
        noisy = scaled / c_in(sigma, self.config.sigma_data)
        difference = c_in(sigma, residual) * (noisy - low_res)
        return torch.cat([difference, low_res], dim=1).to(sample.dtype)

    def _residual_output(
        self, x: torch.Tensor, sample: torch.Tensor, timesteps: torch.Tensor, residual: float | torch.Tensor
    ) -> torch.Tensor:
        """F_r -> F."""
        sigma = sigma_from_c_noise(timesteps.float())[:, None, None, None]
        scaled, low_res = sample.float().chunk(2, dim=1)
        skip, shift, scale = residual_coefficients(sigma, self.config.sigma_data, residual)
        return (skip * scaled + shift * low_res + scale * x.float()).to(sample.dtype)

    def _is_checkpointing(self) -> bool:
        return torch.is_grad_enabled() and self.gradient_checkpointing

    def _check_sample(self, sample: torch.Tensor) -> None:
        if sample.ndim != 4 or sample.shape[1] != self.config.in_channels:
            raise ValueError(
                f"sample has shape {tuple(sample.shape)}, expected (batch, {self.config.in_channels}, height, width)."
            )
        if any(size % self.total_stride for size in sample.shape[-2:]):
            raise ValueError(
                f"height and width {tuple(sample.shape[-2:])} must be multiples of {self.total_stride} for this model."
            )


def align_weights(module: nn.Module) -> None:
    """Copies what does not begin at a multiple of 64 bytes, as weights that are mapped from a file do anywhere.

    On some processors kernels sum in another order there, and a loaded model would not draw the very image that the
    saved model draws.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        plain = type(tensor.data) is torch.Tensor and tensor.device.type == "cpu"  # neither quantised nor elsewhere
        if plain and tensor.data_ptr() % 64:
            tensor.data = tensor.data.clone()

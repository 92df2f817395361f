# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`EDiffIUNet`: the denoiser of every stage of eDiff-I (appendix A, Tables 2-4).

Two structures: `adm`, the U-Net of Dhariwal and Nichol for the base model, and `efficient`, the block order of
Imagen's Efficient U-Net for the super-resolution models. Both return the raw output F of equation 1.
"""

from typing import Any

import torch
import torch.nn.functional as nnf
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import nn

from ..edm import c_in, noisy_residual, residual_coefficients, sigma_from_c_noise
from .attention import AttentionBlock
from .conditioning import ConditioningFusion

STRUCTURES = ("adm", "efficient")

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


class EDiffIUNet(ModelMixin, AttentionMixin, ConfigMixin, PeftAdapterMixin):
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
        cross_attention_dim (`int`): Width of the context.
        encoder_hid_dim, encoder_hid_dim_2 (`int`): Widths of the CLIP and the T5 text tokens (T5-11B: 1024,
            T5 v1.1-XXL: 4096; nobody knows which the paper used).
        pooled_projection_dim, image_embed_dim (`int`): Widths of the pooled CLIP text and of the CLIP image embedding.
        time_embed_dim (`int`, *optional*): Width of the global vector; four times the first level by default.
        timestep_scale (`float`): Factor on the timestep before its sinusoidal embedding; 1 as in EDM.
        norm_num_groups (`int`): Groups of the group normalisation.
        dropout (`float`): Dropout in the residual blocks.
        preconditioning (`str`): What F means; only `edm` (equation 1).
        sigma_data (`float`): Standard deviation of the data in equation 1.
        sigma_residual (`float`, *optional*): For super-resolution, the standard deviation of the image minus the
            upsampled low-resolution one. With it the network denoises that difference and starts from the enlarged
            image instead of from nothing ([`~edm.residual_coefficients`]); what it takes and returns stays the same.
            The paper's models denoise the image itself (`None`).
        max_noise_level (`float`, *optional*): For super-resolution, the strongest noise of training on the
            low-resolution image ([`~low_res.augment_low_res`]), as its standard deviation. Such a network is told the
            level in `class_labels`; one without (`None`) takes clean images alone.
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
        trained_on: list | None = None,
    ):
        super().__init__()
        for name, value in (("sigma_residual", sigma_residual), ("max_noise_level", max_noise_level)):
            _check_super_resolution(name, value, in_channels, out_channels)
        layers = _check_config(structure, block_out_channels, layers_per_block, norm_num_groups, preconditioning)
        _check_factors(structure, patch_size, len(layers), self_attention_factors, cross_attention_factors)
        _check_trained_on(trained_on)
        channels, folded = block_out_channels[0], patch_size**2
        time_embed_dim = time_embed_dim or 4 * channels

        self.time_proj = Timesteps(channels, flip_sin_to_cos=True, downscale_freq_shift=0, scale=timestep_scale)
        self.time_embedding = TimestepEmbedding(channels, time_embed_dim)
        if max_noise_level is not None:
            self.noise_level_proj = Timesteps(channels, flip_sin_to_cos=True, downscale_freq_shift=0, scale=1000)
            self.noise_level_embedding = TimestepEmbedding(channels, time_embed_dim)
            # A network that was trained without starts as the one that it is.
            for parameter in self.noise_level_embedding.linear_2.parameters():
                nn.init.zeros_(parameter)
        self.fusion = ConditioningFusion(
            cross_attention_dim,
            encoder_hid_dim,
            encoder_hid_dim_2,
            pooled_projection_dim,
            image_embed_dim,
            time_embed_dim,
        )
        self.conv_in = nn.Conv2d(in_channels * folded, channels, 3, padding=1)

        def attention(width: int, factor: int) -> AttentionBlock | None:
            here = factor in self_attention_factors, factor in cross_attention_factors
            if not any(here):
                return None
            return AttentionBlock(
                width, attention_head_dim, cross_attention_dim, attention_block, *here, norm_num_groups
            )

        resnet = {"time_embed_dim": time_embed_dim, "groups": norm_num_groups, "dropout": dropout}
        build = _build_adm if structure == "adm" else _build_efficient
        self.down_blocks, self.mid_block, self.up_blocks = build(
            block_out_channels, layers, patch_size, attention, resnet
        )
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, channels)
        self.conv_out = nn.Conv2d(channels, out_channels * folded, 3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)
        self.gradient_checkpointing = False

    @classmethod
    def from_preset(cls, name: str, **changes) -> "EDiffIUNet":
        """Builds an untrained network, for example `EDiffIUNet.from_preset("paper-table1", encoder_hid_dim_2=4096)`.

        Args:
            name (`str`): `paper-literal` (0.70B) and `paper-table1` (1.01B) are two readings of the base model;
                `adm64` takes public ADM-64 weights; `paper-sr256` and `paper-sr1024` are the super-resolution models;
                `demo-base`, `demo-sr256` and `demo-sr1024` the small ones of the packaged demo, `demo-base-low` and
                `demo-sr256-low` their experts for low noise.
            changes: Configuration entries that differ from the preset.
        """
        if name not in PRESETS:
            raise ValueError(f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}.")
        return cls(**{**PRESETS[name], **changes})

    @classmethod
    def from_pretrained(cls, *args, mapped: bool = False, **kwargs) -> Any:
        """Loads what `save_pretrained` wrote, as every model of diffusers does.

        Args:
            args, kwargs: As in diffusers.
            mapped (`bool`): Whether weights that need no conversion stay mapped from the file, so that they take no
                memory before they are used. By default they are copied to aligned memory (see [`align_weights`]).
        """
        loaded = super().from_pretrained(*args, **kwargs)
        if not mapped:
            align_weights(loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded

    @property
    def total_stride(self) -> int:
        """Height and width of the input must be multiples of this."""
        levels = len(self.config.block_out_channels)
        return self.config.patch_size * 2 ** (levels - 1)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float,
        encoder_hidden_states: torch.Tensor | None,
        encoder_hidden_states_2: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        encoder_attention_mask_2: torch.Tensor | None = None,
        added_cond_kwargs: dict[str, torch.Tensor] | None = None,
        class_labels: torch.Tensor | float | None = None,
        return_dict: bool = True,
    ) -> UNet2DConditionOutput | tuple[torch.Tensor]:
        """Returns F of shape (batch, out_channels, height, width).

        Args:
            sample (`torch.Tensor`): c_in x of shape (batch, 3, height, width); in super-resolution models
                (batch, 6, height, width), the upsampled low-resolution image in [-1, 1] behind it.
            timestep (`float` or `torch.Tensor`): c_noise = ln(sigma) / 4, one number or (batch,).
            encoder_hidden_states (`torch.Tensor`, *optional*): CLIP text tokens (batch, 77, encoder_hid_dim).
            encoder_hidden_states_2 (`torch.Tensor`, *optional*): T5 tokens (batch, up to 113, encoder_hid_dim_2).
            encoder_attention_mask, encoder_attention_mask_2 (`torch.Tensor`, *optional*): (batch, tokens), 1 where
                a token counts.
            added_cond_kwargs (`dict`, *optional*): `text_embeds` (batch, pooled_projection_dim) and `image_embeds`
                (batch, image_embed_dim). What is absent counts as zeros.
            class_labels (`float` or `torch.Tensor`, *optional*): Noise level of the low-resolution image, one number
                or (batch,), for networks with `max_noise_level`; none is a clean image. The name is that of
                `UNet2DConditionModel`, whose super-resolution models are told their noise by it.

        Raises:
            ValueError: A shape is wrong, or a noise level is given to a network that was trained without.
            return_dict (`bool`): Whether to return an output object instead of a tuple.
        """
        self._check_sample(sample)
        added = added_cond_kwargs or {}
        batch_size, dtype = sample.shape[0], sample.dtype
        timesteps = torch.as_tensor(timestep, device=sample.device).reshape(-1).expand(batch_size)
        context, context_mask, pooled = self.fusion(
            encoder_hidden_states,
            encoder_hidden_states_2,
            encoder_attention_mask,
            encoder_attention_mask_2,
            added.get("text_embeds"),
            added.get("image_embeds"),
            batch_size,
        )
        noise_level = self._noise_level(class_labels, sample)
        temb = self.time_embedding(self.time_proj(timesteps).to(dtype)) + pooled
        if noise_level is not None:
            temb = temb + self.noise_level_embedding(self.noise_level_proj(noise_level).to(dtype))
        temb = nnf.silu(temb)

        residual = self._sigma_residual(noise_level)
        x = sample if residual is None else self._residual_input(sample, timesteps, residual)
        x = nnf.pixel_unshuffle(x, self.config.patch_size) if self.config.patch_size > 1 else x
        x = stem = self.conv_in(x)
        skips = [stem] if self.config.structure == "adm" else []
        for block in self.down_blocks:
            x = self._run(block, x, temb, context, context_mask, skips)
        if self.mid_block is not None:
            x = self._run(self.mid_block, x, temb, context, context_mask, skips)
        for block in self.up_blocks:
            x = self._run(block, x, temb, context, context_mask, skips)
        if self.config.structure == "efficient":
            x = x + stem
        x = self.conv_out(nnf.silu(self.conv_norm_out(x)))
        if self.config.patch_size > 1:
            x = nnf.pixel_shuffle(x, self.config.patch_size)
        if residual is not None:
            x = self._residual_output(x, sample, timesteps, residual)
        return UNet2DConditionOutput(sample=x) if return_dict else (x,)

    def _noise_level(self, class_labels: torch.Tensor | float | None, sample: torch.Tensor) -> torch.Tensor | None:
        """(batch,) in float32; `None` for a network without this condition."""
        if self.config.max_noise_level is None:
            if class_labels is not None:
                raise ValueError("class_labels is a noise level, and this network was trained without: leave it out.")
            return None
        level = torch.as_tensor(0.0 if class_labels is None else class_labels, device=sample.device)
        return level.float().reshape(-1).expand(sample.shape[0])

    def _sigma_residual(self, noise_level: torch.Tensor | None) -> float | torch.Tensor | None:
        """Standard deviation of the image minus the low-resolution one with its noise, which broadcasts."""
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

    def _run(self, block, x, temb, context, context_mask, skips):
        checkpoint = self._gradient_checkpointing_func if self._is_checkpointing() else None
        return block(x, temb, context, context_mask, skips, checkpoint)

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

    On some processors kernels sum in another order there, and a loaded model would not draw the very image of the
    saved one.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        plain = type(tensor.data) is torch.Tensor and tensor.device.type == "cpu"  # neither quantised nor elsewhere
        if plain and tensor.data_ptr() % 64:
            tensor.data = tensor.data.clone()


def _check_config(structure, block_out_channels, layers_per_block, groups, preconditioning) -> tuple[int, ...]:
    """Validates the configuration and returns the residual blocks of each level."""
    if structure not in STRUCTURES:
        raise ValueError(f"structure={structure!r} is unknown; choose one of {', '.join(STRUCTURES)}.")
    if preconditioning != "edm":
        raise ValueError(f"preconditioning={preconditioning!r} is not supported; only 'edm' is.")
    if not block_out_channels:
        raise ValueError("block_out_channels is empty; give the channels of each level, such as (128, 256).")
    for channels in block_out_channels:
        if channels % groups:
            raise ValueError(f"{channels} channels are no multiple of norm_num_groups={groups}; change one.")
    levels = len(block_out_channels)
    layers = (layers_per_block,) * levels if isinstance(layers_per_block, int) else tuple(layers_per_block)
    if len(layers) != levels:
        raise ValueError(f"layers_per_block={layers} needs one number for each of the {levels} levels.")
    return layers


def _check_factors(structure: str, patch_size: int, levels: int, *attention_factors: tuple[int, ...]) -> None:
    """Refuses attention at resolutions that the network does not have."""
    if patch_size < 1:
        raise ValueError(f"patch_size={patch_size} must be at least 1.")
    # The efficient structure strides before its first level, and not before its last.
    exponents = range(levels) if structure == "adm" else range(1, max(levels, 2))
    there = [patch_size * 2**exponent for exponent in exponents]
    for name, factors in zip(("self_attention_factors", "cross_attention_factors"), attention_factors, strict=True):
        if not set(factors) <= set(there):
            raise ValueError(f"{name}={tuple(factors)}: this network works at the factors {there} only.")


def _check_trained_on(trained_on: list | None) -> None:
    for pair in trained_on or ():
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and 0 <= pair[0] < (pair[1] or float("inf"))):
            raise ValueError(f"trained_on={trained_on} must be [low, high] pairs of sigmas, None for infinity.")


def _check_super_resolution(name: str, value: float | None, in_channels: int, out_channels: int) -> None:
    """What only super-resolution models have."""
    if value is None:
        return
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}={value} must be a positive number, or None for a network without.")
    if in_channels != 2 * out_channels:
        raise ValueError(
            f"{name}={value} is for super-resolution models, which have in_channels={2 * out_channels}, not "
            f"{in_channels}."
        )


class ResnetBlock(nn.Module):
    """ADM's residual block: norm, SiLU, convolution, scale-shift norm by the global vector, SiLU, convolution."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_embed_dim: int,
        groups: int,
        dropout: float = 0.0,
        resample: str | None = None,
    ):
        super().__init__()
        self.resample = resample
        self.norm1 = nn.GroupNorm(groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_embed_dim, 2 * out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        """`x` is (batch, in_channels, height, width), `temb` (batch, time_embed_dim) after its SiLU."""
        h = nnf.silu(self.norm1(x))
        h, x = _resample(h, self.resample), _resample(x, self.resample)
        h = self.conv1(h)
        scale, shift = self.time_emb_proj(temb)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        h = self.conv2(self.dropout(nnf.silu(h)))
        return self.conv_shortcut(x) + h


def _resample(x: torch.Tensor, how: str | None) -> torch.Tensor:
    if how == "down":
        return nnf.avg_pool2d(x, 2)
    if how == "up":
        return nnf.interpolate(x, scale_factor=2.0, mode="nearest")
    return x


class UNetLevel(nn.Module):
    """One level of the way down or up, or the middle: residual blocks, each with an optional attention block.

    `before` and `after` change the resolution. With `pops` every residual block first takes a skip connection, or only
    the first one where `one_skip`; with `pushes` every stage leaves one, or only the last one where `one_skip`.
    """

    def __init__(self, resnets, attentions, before=None, after=None, pushes=False, pops=False, one_skip=False):
        super().__init__()
        self.before, self.after = before, after
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleDict({str(i): block for i, block in enumerate(attentions) if block is not None})
        self.pushes, self.pops, self.one_skip = pushes, pops, one_skip

    def forward(self, x, temb, context, context_mask, skips: list[torch.Tensor], checkpoint=None) -> torch.Tensor:
        call = checkpoint or (lambda function, *inputs: function(*inputs))
        if self.before is not None:
            x = self.before(x)
        for i, resnet in enumerate(self.resnets):
            if self.pops and not (self.one_skip and i):
                x = torch.cat([x, skips.pop()], dim=1)
            x = call(resnet, x, temb)
            if str(i) in self.attentions:
                x = call(self.attentions[str(i)], x, context, context_mask)
            if self.pushes and not self.one_skip:
                skips.append(x)
        if self.pushes and self.one_skip:
            skips.append(x)
        if self.after is not None:
            x = self.after(x, temb) if isinstance(self.after, ResnetBlock) else self.after(x)
            if self.pushes and not self.one_skip:
                skips.append(x)
        return x


def _build_adm(widths, layers, factor, attention, resnet):
    """The U-Net of Dhariwal and Nichol: residual up- and downsampling, a skip connection behind every block."""
    last = len(widths) - 1
    down, up, skips, width = [], [], [widths[0]], widths[0]
    for level, out in enumerate(widths):
        resnets = [ResnetBlock(width if i == 0 else out, out, **resnet) for i in range(layers[level])]
        skips += [out] * layers[level]
        after = ResnetBlock(out, out, resample="down", **resnet) if level < last else None
        attentions = [attention(out, factor) for _ in resnets]
        down.append(UNetLevel(resnets, attentions, after=after, pushes=True))
        width = out
        if level < last:
            skips.append(out)
            factor *= 2
    mid = UNetLevel([ResnetBlock(width, width, **resnet) for _ in range(2)], [attention(width, factor)])
    for level in range(last, -1, -1):
        resnets, out = [], widths[level]
        for _ in range(layers[level] + 1):
            resnets.append(ResnetBlock(width + skips.pop(), out, **resnet))
            width = out
        after = ResnetBlock(out, out, resample="up", **resnet) if level else None
        up.append(UNetLevel(resnets, [attention(out, factor) for _ in resnets], after=after, pops=True))
        factor //= 2
    return nn.ModuleList(down), mid, nn.ModuleList(up)


def _build_efficient(widths, layers, factor, attention, resnet):
    """Imagen's Efficient U-Net: the stride comes first on the way down and last on the way up (the lowest level has
    none), one attention at the end of a level, one skip connection a level, no middle; a level on the way up narrows
    in its first residual block, which is what the paper's parameter counts ask for."""
    last = len(widths) - 1
    down, up, width = [], [], widths[0]
    for level, out in enumerate(widths):
        strides = level < last
        factor *= 2 if strides else 1
        before = nn.Conv2d(width, out, 3, stride=2 if strides else 1, padding=1)
        resnets = [ResnetBlock(out, out, **resnet) for _ in range(layers[level])]
        attentions = [None] * (layers[level] - 1) + [attention(out, factor)]
        down.append(UNetLevel(resnets, attentions, before=before, pushes=True, one_skip=True))
        width = out
    for level in range(last, -1, -1):
        out = widths[max(level - 1, 0)]
        resnets = [ResnetBlock(2 * widths[level] if i == 0 else out, out, **resnet) for i in range(layers[level])]
        attentions = [None] * (layers[level] - 1) + [attention(out, factor)]
        stride = nn.Sequential(nn.Upsample(scale_factor=2.0, mode="nearest"), nn.Conv2d(out, out, 3, padding=1))
        after = stride if level < last else None
        up.append(UNetLevel(resnets, attentions, after=after, pops=True, one_skip=True))
        factor //= 2 if level < last else 1
    return nn.ModuleList(down), None, nn.ModuleList(up)

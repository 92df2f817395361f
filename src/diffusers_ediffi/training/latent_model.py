# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What stands around the U-Net of Stable Diffusion 1, 2 or XL in training: VAE, text encoders and the noise."""

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel

from ..discrete_time import betas_of, discrete_time_model
from ..experts.files import check_weights, load_networks

PIPELINES = {each.__name__: each for each in (StableDiffusionPipeline, StableDiffusionXLPipeline)}
PREDICTIONS = ("epsilon", "v_prediction")
NOT_TRAINED_WITH = ("safety_checker", "feature_extractor", "image_encoder")


class LatentModel:
    """A pipeline of Stable Diffusion without its U-Net: pictures become latents, captions what the U-Net reads.

    The VAE and the text encoders are frozen and stay in single precision.

    Args:
        folder (`str` or `Path`): The pipeline, as `save_pretrained` wrote it.
        device (`torch.device`, *optional*): Where VAE and text encoders compute.

    Raises:
        OSError, ValueError: See [`check_latent_pipeline`].
    """

    def __init__(self, folder: str | Path, device: str | torch.device = "cpu") -> None:
        self.folder, self.device = Path(folder), torch.device(device)
        pipeline = PIPELINES[check_latent_pipeline(self.folder)["_class_name"]]
        self.sdxl = pipeline is StableDiffusionXLPipeline
        without = {name: None for name in ("unet", *NOT_TRAINED_WITH) if name in _index(self.folder)}
        if not self.sdxl:
            without["requires_safety_checker"] = False  # type: ignore[assignment]
        self.pipe: Any = pipeline.from_pretrained(self.folder, **without)
        self.pipe.to(self.device)
        for part in self.pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.requires_grad_(False).float().eval()
        self.betas = betas_of(self.pipe.scheduler) or {}
        self.noise = discrete_time_model(self.betas)
        self.prediction = self.pipe.scheduler.config.prediction_type

    def load_unet(self) -> Any:
        """The U-Net of the pipeline, in single precision."""
        return load_networks([UNet2DConditionModel], [self.folder / "unet"], None, torch.float32)[0]

    @torch.no_grad()
    def latents(self, images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """A sample of what the VAE makes of images, scaled as the U-Net takes it.

        Args:
            images (`torch.Tensor`): `(batch, 3, height, width)` in [-1, 1].
            noise (`torch.Tensor`): Standard normal noise of the latents' shape, which chooses the sample.

        Returns:
            `torch.Tensor`: `(batch, channels, height / 8, width / 8)`, for the factor 8 of Stable Diffusion.
        """
        vae = self.pipe.vae
        found = vae.encode(images.to(self.device)).latent_dist
        return (found.mean + found.std * noise) * vae.config.scaling_factor

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a picture in pixels."""
        factor = pixels_per_latent(self.folder)
        return self.pipe.vae.config.latent_channels, height // factor, width // factor

    @torch.no_grad()
    def conditioning(self, captions: list[str], height: int, width: int) -> dict[str, Any]:
        """What a U-Net is told of captions, as keyword arguments.

        SDXL is also told sizes: the pictures count as drawn in this size and uncropped, as its pipeline asks for them.

        Args:
            captions (`list` of `str`): The captions.
            height (`int`), width (`int`): Of the pictures in pixels.
        """
        found = self.pipe.encode_prompt(
            prompt=captions, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        if not self.sdxl:
            return {"encoder_hidden_states": found[0]}
        sizes = torch.tensor([[height, width, 0, 0, height, width]] * len(captions), device=self.device)
        added = {"text_embeds": found[2], "time_ids": sizes.float()}
        return {"encoder_hidden_states": found[0], "added_cond_kwargs": added}

    def losses(
        self,
        unet: Any,
        latents: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: dict[str, Any],
        snr_gamma: float | None = None,
    ) -> torch.Tensor:
        """The squared error of what a U-Net predicts.

        Args:
            unet (`torch.nn.Module`): The U-Net.
            latents (`torch.Tensor`), noise (`torch.Tensor`): Of the same shape, `(batch, channels, height, width)`.
            timesteps (`torch.Tensor`): Of each sample, int64 `(batch,)`.
            conditioning (`dict`): What `conditioning` returned.
            snr_gamma (`float`, *optional*): Weights the samples by min(SNR, gamma), as in
                [arXiv 2303.09556](https://arxiv.org/abs/2303.09556); 5 is usual.

        Returns:
            `torch.Tensor`: A loss for each sample, float32 `(batch,)`.
        """
        noisy = self.noise.add_noise(latents, noise, timesteps)  # type: ignore[arg-type]
        predicted = unet(noisy, timesteps, return_dict=False, **conditioning)[0].float()
        velocity = self.prediction == "v_prediction"
        target = self.noise.get_velocity(latents, noise, timesteps) if velocity else noise  # type: ignore[arg-type]
        losses = (predicted - target).square().flatten(1).mean(dim=1)
        if snr_gamma is None:
            return losses
        alphas = self.noise.alphas_cumprod.to(timesteps.device)[timesteps]
        snr = alphas / (1 - alphas)
        return losses * snr.clamp(max=snr_gamma) / (snr + 1 if velocity else snr)

    def tokenizers(self) -> dict[str, tuple[Any, int]]:
        """The tokenizers and how many tokens their encoders take, as [`select_pictures`] counts long captions."""
        found = {name: getattr(self.pipe, name, None) for name in ("tokenizer", "tokenizer_2")}
        names = {"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2"}
        return {names[name]: (each, each.model_max_length) for name, each in found.items() if each is not None}

    def pipeline(self, unet: Any) -> Any:
        """The pipeline with a U-Net."""
        pipe = type(self.pipe)(**{**self.pipe.components, "unet": unet}, **self._not_saved())
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def _not_saved(self) -> dict[str, Any]:
        return {} if self.sdxl else {"requires_safety_checker": False}


def check_latent_pipeline(folder: Path) -> dict[str, Any]:
    """What `model_index.json` says of a pipeline whose U-Net can be trained here. Reads configurations alone.

    Raises:
        OSError: The folder holds no pipeline, or a part of it is missing.
        ValueError: Its class, U-Net or scheduler is not that of Stable Diffusion 1, 2 or XL.
    """
    index = _index(folder)
    if index.get("_class_name") not in PIPELINES:
        raise ValueError(f"{folder} is a {index.get('_class_name')}; it must be a {' or a '.join(PIPELINES)}.")
    kind = (index.get("unet") or [None, None])[1]
    if kind != "UNet2DConditionModel":
        raise ValueError(
            f"The unet of {folder} is a {kind}; it must be one UNet2DConditionModel, which is split here."
        )
    unet, vae = (_config(folder, name, "config.json") for name in ("unet", "vae"))
    if unet.get("in_channels", 4) != vae.get("latent_channels", 4):
        raise ValueError(
            f"The unet of {folder} takes {unet.get('in_channels', 4)} channels and its VAE makes "
            f"{vae.get('latent_channels', 4)}: it reads more than noise and text, and is not trained here."
        )
    scheduler = _config(folder, "scheduler", "scheduler_config.json")
    if scheduler.get("prediction_type", "epsilon") not in PREDICTIONS:
        raise ValueError(
            f"The U-Net of {folder} predicts {scheduler['prediction_type']!r}; it must be {' or '.join(PREDICTIONS)}."
        )
    betas_in(folder)
    check_weights(folder / "unet", None)
    return index


def betas_in(folder: Path) -> dict[str, Any]:
    """The betas that the scheduler of a pipeline's folder says.

    Raises:
        OSError: It has no scheduler.
        ValueError: Its timesteps are not the steps of a discrete-time model.
    """
    config = _config(folder, "scheduler", "scheduler_config.json")
    kind: Any = getattr(diffusers, str(config.get("_class_name")), None)
    betas = betas_of(kind.from_config(config)) if hasattr(kind, "from_config") else None
    if betas is None:
        raise ValueError(
            f"The scheduler of {folder}, a {config.get('_class_name')}, has no betas; DDIMScheduler does."
        )
    return betas


def pixels_per_latent(folder: Path) -> int:
    """By how much the VAE of a pipeline's folder shrinks a side."""
    return 2 ** (len(_config(folder, "vae", "config.json").get("block_out_channels", [0])) - 1)


def _index(folder: Path) -> dict[str, Any]:
    if not (folder / "model_index.json").is_file():
        raise OSError(f"{folder} holds no pipeline: it has no model_index.json.")
    return json.loads((folder / "model_index.json").read_text(encoding="utf-8"))


def _config(folder: Path, part: str, name: str) -> dict[str, Any]:
    path = folder / part / name
    if not path.is_file():
        raise OSError(f"The pipeline {folder} lacks {part}/{name}: download or copy it again.")
    return json.loads(path.read_text(encoding="utf-8"))

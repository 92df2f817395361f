# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Loads feature networks, and refuses what is none: a network with random layers gives figures as well."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, CLIPVisionModelWithProjection
from transformers.models.auto.image_processing_auto import get_image_processor_config

from ..demo.checkpoint import demo_checkpoint
from ..demo.scorer import IMAGE_SIZE, SceneScorer

CLIP_TOWERS = {"text_encoder": "clip_text_model", "image_encoder": "clip_vision_model"}  # in a pipeline's folder
INCEPTION_SIZE = 299
Settings = tuple[int, list[float], list[float]]
Extract = Callable[[nn.Module, torch.Tensor], torch.Tensor]


def load_network(name: str) -> tuple[nn.Module, Settings, Extract]:
    """A network in evaluation mode, its size, mean and standard deviation, and how it is called.

    Raises:
        OSError: There is no such model.
        ValueError: It is no image model, or its files lack weights.
    """
    if name == "demo":
        scorer = SceneScorer.from_pretrained(Path(demo_checkpoint()).with_name("scorer")).eval()
        return scorer.requires_grad_(False), (IMAGE_SIZE, [0.5] * 3, [0.5] * 3), _scene_features
    if name.endswith(".pt"):
        return _load_inception(name), (INCEPTION_SIZE, [128 / 255] * 3, [128 / 255] * 3), _inception_features
    return _load_transformer(name)


def config_of(name: str, tower: str | None = None) -> Any:
    """The configuration of a model of transformers, or of a component of a pipeline's folder if it has it.

    Raises:
        ValueError: There is none.
    """
    in_pipeline = tower is not None and Path(name, "model_index.json").is_file()
    try:
        return AutoConfig.from_pretrained(name, **({"subfolder": tower} if in_pipeline else {}))
    except (OSError, ValueError) as error:
        part = f" with {tower}" if in_pipeline else ""
        raise ValueError(
            f"{name!r} is no model of transformers{part} here or on the Hub, so that it gives no features: {error}"
        ) from None


def check_clip(name: str) -> None:
    """Refuses what is not a CLIP with a text and an image tower.

    Raises:
        ValueError: It is something else.
    """
    for tower, kind in CLIP_TOWERS.items():
        found = config_of(name, tower).model_type
        if found not in ("clip", kind if Path(name, "model_index.json").is_file() else "clip"):
            raise ValueError(f"{name!r} has a {found} where a CLIP has its {tower}: give a CLIP of transformers.")


def image_settings(processor: dict[str, Any], name: str) -> Settings:
    """Size, mean and standard deviation, as an image processor's configuration says them.

    Raises:
        ValueError: It says no size.
    """
    size = processor.get("crop_size" if processor.get("do_center_crop") else "size") or processor.get("size") or {}
    edges = size if isinstance(size, int) else next((size[k] for k in ("height", "shortest_edge") if size.get(k)), 0)
    if not edges:
        raise ValueError(f"{name!r} has no preprocessor_config.json that says the size of its pictures.")
    if not processor.get("do_normalize", True):
        return edges, [0.0] * 3, [1.0] * 3
    # Factors other than 1/255 are those of models whose pixels lie in [-1, 1] before mean and deviation.
    factor = 255 * processor.get("rescale_factor", 1 / 255)
    mean, std = processor.get("image_mean") or [0.0] * 3, processor.get("image_std") or [1.0] * 3
    return edges, [value / factor for value in mean], [value / factor for value in std]


def _load_transformer(name: str) -> tuple[nn.Module, Settings, Extract]:
    config = config_of(name)
    kind = MODEL_MAPPING.get(type(config), None)
    if config.model_type in ("clip", "clip_vision_model"):
        model_class, extract = CLIPVisionModelWithProjection, _image_embeds
    elif hasattr(kind, "get_image_features"):
        model_class, extract = AutoModel, _image_features
    elif getattr(kind, "main_input_name", None) == "pixel_values":
        model_class, extract = AutoModel, _pooled
    else:
        raise ValueError(
            f"{name!r} is a {config.model_type}, which reads no pictures; a feature network must be an image model, "
            "such as facebook/dinov2-large."
        )
    settings = image_settings(get_image_processor_config(name), name)
    module, info = model_class.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(
            f"The files of {name!r} lack {len(missing)} weights, such as {missing[0]}, which would be random; give a "
            "model that has them all."
        )
    return module.eval().requires_grad_(False), settings, extract


def _image_embeds(module: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    return module(pixels).image_embeds


def _image_features(module: Any, pixels: torch.Tensor) -> torch.Tensor:
    return module.get_image_features(pixel_values=pixels).pooler_output


def _pooled(module: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """The model's summary of a picture: the class token of transformers, the average of convolutional networks."""
    return module(pixels).pooler_output.flatten(1)


def _scene_features(module: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    return module(pixels)["features"]


def _load_inception(name: str) -> nn.Module:
    """FID's Inception as NVIDIA converted it to TorchScript (inception-2015-12-05.pt), which clean-fid uses, too.

    Raises:
        ValueError: The file is no such network.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # there is no other form of this network
            module = torch.jit.load(name, map_location="cpu")
        module.layers  # noqa: B018
    except (RuntimeError, ValueError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{name!r} is not FID's Inception in TorchScript: {reason}") from None
    return module.eval()


def _inception_features(module: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The 2048 numbers before the classes."""
    return module.layers(pixels).flatten(1)

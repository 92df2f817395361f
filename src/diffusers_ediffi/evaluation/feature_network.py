# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Feature networks: from pictures to the numbers that metrics compare."""

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import nn

from ..demo.checkpoint import demo_checkpoint
from ..training.filters import ClipModel
from .network_files import check_clip, image_settings, load_network
from .preprocessing import check_filter, square_pixels
from .weights import weights_hash

CROP = "largest square in the middle"


class FeatureNetwork:
    """A network that turns pictures into features.

    Args:
        module (`torch.nn.Module`): The network, in evaluation mode.
        name (`str`): What the card calls it.
        size (`int`): Height and width in pixels that it takes.
        mean (`list` of `float`): Of red, green and blue in [0, 1]; it is subtracted.
        std (`list` of `float`): The same; it is divided by.
        extract (`Callable`, *optional*): From the module and pixels `(batch, 3, size, size)` to features
            `(batch, width)`; by default what the module returns.
        resize (`str`, *optional*, defaults to `"bicubic"`): The filter that brings pictures to `size`: bicubic,
            bilinear, lanczos or box.

    Raises:
        ValueError: The filter is not known.
    """

    def __init__(
        self,
        module: nn.Module,
        name: str,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        extract: Callable[[nn.Module, torch.Tensor], torch.Tensor] | None = None,
        resize: str = "bicubic",
    ) -> None:
        check_filter(resize)
        self.module, self.name, self.size, self.resize = module, name, size, resize
        self.mean, self.std = list(map(float, mean)), list(map(float, std))
        self.device = torch.device("cpu")
        self._extract = extract or (lambda module, pixels: module(pixels))

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, resize: str = "bicubic") -> "FeatureNetwork":
        """Loads a network.

        Args:
            name (`str` or `os.PathLike`): The folder or Hub id of an image model of transformers (DINOv2, ViT,
                ResNet, CLIP, SigLIP, ...; of two towers the image's); a `.pt` file of TorchScript with FID's
                Inception; or `"demo"`, the scorer of the demo's scenes that comes with the package.
            resize (`str`, *optional*, defaults to `"bicubic"`): As above.

        Raises:
            OSError: There is no such model.
            ValueError: It is no image model, its files lack weights, or the filter is not known.
        """
        check_filter(resize)
        module, settings, extract = load_network(os.fspath(name))
        return cls(module, os.fspath(name), *settings, extract, resize)

    def to(self, device: str | torch.device) -> "FeatureNetwork":
        """Moves the network."""
        self.device = torch.device(device)
        self.module.to(self.device)
        return self

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Features of pictures of any size and mode, float32 `(batch, width)` on the CPU."""
        pixels = square_pixels(images, self.size, self.resize) / 255
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        features = self._extract(self.module, ((pixels - mean) / std).to(self.device))
        return features.float().cpu()

    @cached_property
    def width(self) -> int:
        """How many numbers describe a picture."""
        return self([Image.new("RGB", (self.size, self.size))]).shape[1]

    @cached_property
    def _weights_hash(self) -> str | None:
        return weights_hash({"": self.module})

    def describe(self) -> dict[str, Any]:
        """What its features depend on, as JSON has it."""
        return {
            "name": self.name,
            "sha256": self._weights_hash,
            "width": self.width,
            "size": self.size,
            "crop": CROP,
            "resize": f"{self.resize}, Pillow, float32",
            "mean": self.mean,
            "std": self.std,
        }


class CLIPNetwork(FeatureNetwork):
    """A CLIP, whose features of pictures and of captions are comparable.

    Args:
        name (`str` or `os.PathLike`): The folder or Hub id of a CLIP of transformers, the folder of a pipeline with
            `text_encoder` and `image_encoder`, or `"demo"`, the CLIP of the demo model.
        resize (`str`, *optional*, defaults to `"bicubic"`): As of [`FeatureNetwork`].

    Raises:
        OSError: There is no such model.
        ValueError: It is no CLIP, its files lack weights, or the filter is not known.
    """

    def __init__(self, name: str | os.PathLike, resize: str = "bicubic") -> None:
        check_filter(resize)
        folder = demo_checkpoint() if name == "demo" else os.fspath(name)
        check_clip(folder)
        self.clip = ClipModel(folder)
        settings = image_settings(self.clip.feature_extractor.to_dict(), str(name))
        super().__init__(self.clip.image_encoder, str(name), *settings, _image_embeds, resize)

    def to(self, device: str | torch.device) -> "CLIPNetwork":
        """Moves both towers."""
        super().to(device)
        self.clip.text_encoder.to(self.device)
        return self

    def text_features(self, captions: Sequence[str]) -> torch.Tensor:
        """Features of captions, float32 `(batch, width)` on the CPU, of length 1; after 77 tokens a caption is cut."""
        return self.clip.text_embeds(list(captions)).cpu()

    @cached_property
    def _weights_hash(self) -> str | None:
        return weights_hash({"image_encoder": self.clip.image_encoder, "text_encoder": self.clip.text_encoder})


def _image_embeds(module: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    return module(pixels).image_embeds

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Filters of training pictures by what CLIP thinks of them: how well the caption fits, how good the picture looks."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
)

from ..models.conditioning import encode_clip_image, encode_clip_text
from .parts import as_bytes


class PictureFilter(Protocol):
    """Gives pictures a score; those below a minimum are left out.

    `name` is the reason in counts, `minimum` the lowest score that is kept.
    """

    name: str
    minimum: float

    def __call__(self, images: list[Image.Image], captions: list[str]) -> torch.Tensor:
        """The scores `(batch,)` of RGB pictures with these captions."""
        ...

    def describe(self) -> dict[str, Any]:
        """What decides the scores, as JSON has it."""
        ...


class ClipModel:
    """The text and the image encoder of a CLIP, for scores.

    Args:
        name (`str` or `os.PathLike`): A pipeline's folder with `text_encoder` and `image_encoder`, or the folder or
            Hub id of a CLIP of transformers.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): Where it runs.

    Raises:
        OSError: There is no such model.
        ValueError: Its two encoders are not of one CLIP.
    """

    def __init__(self, name: str | os.PathLike, device: str | torch.device = "cpu") -> None:
        folder = Path(name).expanduser()
        name = folder if folder.exists() else os.fspath(name)
        of_pipeline = folder.joinpath("model_index.json").is_file() or folder.joinpath("image_encoder").is_dir()

        def load(model_class: Any, subfolder: str, **options: Any) -> Any:
            return model_class.from_pretrained(name, **({"subfolder": subfolder} if of_pipeline else {}), **options)

        self.tokenizer = load(AutoTokenizer, "tokenizer")
        self.feature_extractor = load(CLIPImageProcessorPil, "feature_extractor")
        self.text_encoder, self.image_encoder = (
            load(model_class, subfolder, dtype=torch.float32).to(device).eval().requires_grad_(False)
            for model_class, subfolder in (
                (CLIPTextModelWithProjection, "text_encoder"),
                (CLIPVisionModelWithProjection, "image_encoder"),
            )
        )
        widths = [encoder.config.projection_dim for encoder in (self.text_encoder, self.image_encoder)]
        if widths[0] != widths[1]:
            raise ValueError(f"The text and image embeddings of {str(name)!r} have the widths {widths}: not one CLIP.")

    def image_embeds(self, images: list[Image.Image]) -> torch.Tensor:
        """Embeddings of length 1, `(batch, width)`."""
        return _normalized(encode_clip_image(images, self.feature_extractor, self.image_encoder))

    def text_embeds(self, captions: list[str]) -> torch.Tensor:
        """Embeddings of length 1, `(batch, width)`."""
        return _normalized(encode_clip_text(captions, self.tokenizer, self.text_encoder)[1])

    def fingerprint(self) -> str:
        """A hash of all weights."""
        digest = hashlib.blake2b(digest_size=8)
        for encoder in (self.text_encoder, self.image_encoder):
            for tensor in encoder.state_dict().values():
                digest.update(as_bytes(tensor.cpu()))
        return digest.hexdigest()


class ClipScore:
    """The cosine between the CLIP embeddings of picture and caption, from -1 to 1 (arXiv 2104.08718 without its
    factor). With ViT-B/32, LAION-400M kept what is above 0.3 (arXiv 2111.02114).

    Args:
        clip ([`ClipModel`]): The model.
        minimum (`float`): The lowest cosine that is kept.
    """

    name = "CLIP score"

    def __init__(self, clip: ClipModel, minimum: float) -> None:
        self.clip, self.minimum = clip, minimum

    def __call__(self, images: list[Image.Image], captions: list[str]) -> torch.Tensor:
        """The cosines, `(batch,)`."""
        return (self.clip.image_embeds(images) * self.clip.text_embeds(captions)).sum(dim=1)

    def describe(self) -> dict[str, Any]:
        """The minimum and the model."""
        return {"minimum": self.minimum, "clip": self.clip.fingerprint()}


class AestheticScore:
    """A linear head on CLIP image embeddings of length 1, as LAION's aesthetic predictors are: about 1 to 10.

    Args:
        clip ([`ClipModel`]): The CLIP that the head was trained on; LAION's are for ViT-L/14.
        head (`str` or `os.PathLike`): A `.safetensors`, `.pt` or `.pth` file with the weights of a linear layer or of
            several, which are taken one after the other, or a folder with one such file.
        minimum (`float`): The lowest score that is kept.

    Raises:
        ValueError: The file is not such a head, or one for another CLIP.
    """

    name = "aesthetic score"

    def __init__(self, clip: ClipModel, head: str | os.PathLike, minimum: float) -> None:
        self.clip, self.minimum = clip, minimum
        self.weight, self.bias = _linear_head(Path(head).expanduser())
        width = clip.image_encoder.config.projection_dim
        if self.weight.shape != (1, width):
            raise ValueError(
                f"The aesthetic head {str(head)!r} takes {self.weight.shape[1]} numbers, and the embeddings of this "
                f"CLIP have {width}: give the CLIP that it was trained on."
            )

    def __call__(self, images: list[Image.Image], captions: list[str]) -> torch.Tensor:
        """The scores, `(batch,)`."""
        return (self.clip.image_embeds(images).cpu() @ self.weight.T + self.bias).flatten()

    def describe(self) -> dict[str, Any]:
        """The minimum, the model and the head."""
        head = hashlib.blake2b(as_bytes(torch.cat([self.weight.flatten(), self.bias])), digest_size=8).hexdigest()
        return {"minimum": self.minimum, "clip": self.clip.fingerprint(), "head": head}


def _linear_head(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """One linear layer that does what the layers of a file do: weight `(1, width)` and bias `(1,)`."""
    if path.is_dir():
        found = [file for file in sorted(path.iterdir()) if file.suffix in (".safetensors", ".pt", ".pth")]
        if len(found) != 1:
            raise ValueError(f"{path} holds {len(found)} files of weights; give the file of the aesthetic head.")
        (path,) = found
    weights = _weights(path)
    names = sorted((name for name in weights if name.endswith("weight")), key=_natural)
    layers = [(weights[name], weights.get(f"{name.removesuffix('weight')}bias")) for name in names]
    if not layers or any(weight.ndim != 2 for weight, _ in layers):
        raise ValueError(f"{path} holds no linear layers; give the weights of an aesthetic head.")
    weight, bias = torch.eye(layers[0][0].shape[1]), torch.zeros(layers[0][0].shape[1])
    try:
        for matrix, added in layers:
            weight, bias = matrix.float() @ weight, matrix.float() @ bias + (0 if added is None else added.float())
    except RuntimeError:
        raise ValueError(f"The layers of {path} do not fit behind each other: no head of linear layers.") from None
    if len(weight) != 1:
        raise ValueError(f"{path} gives {len(weight)} numbers for a picture; an aesthetic head gives 1.")
    return weight, bias


def _weights(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise ValueError(f"There is no aesthetic head {str(path)!r}.")
    try:
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
        return {str(name): tensor for name, tensor in dict(found).items() if isinstance(tensor, torch.Tensor)}
    except Exception as error:  # there is no end to what damaged files raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"The aesthetic head {str(path)!r} cannot be read: {reason}") from None


def _natural(name: str) -> list[Any]:
    """Layer 10 stands behind layer 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _normalized(embeds: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(embeds.float(), dim=1)

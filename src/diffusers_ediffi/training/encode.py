# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Captions and pictures to conditioning during training, with the frozen encoders of a pipeline."""

import hashlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
    T5EncoderModel,
)

from ..models.conditioning import encode_clip_image, encode_clip_text
from ..models.encoder_table import CLIP_TEXT_COLUMNS, CLIP_TEXT_TOKENS, T5_COLUMNS, T5_TOKENS, TEXT_ENCODERS
from ..paint.columns import region_columns
from ..paint.regions import PaintRegion
from ..phrases import PromptTokens

SUBFOLDERS = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2", "feature_extractor", "image_encoder")


class ConditioningEncoder:
    """The six text and image components of a pipeline folder, frozen; called with captions and pictures.

    Args:
        folder (`str` or `Path`): Holds the subfolders of a pipeline, see `SUBFOLDERS`.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): Where the encoders run.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): Of their weights; T5 overflows in float16.

    Raises:
        OSError: A subfolder is missing.
    """

    def __init__(
        self, folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        check_encoder_folder(folder)
        folder = Path(folder)
        self.folder = folder
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        self.tokenizer_2 = AutoTokenizer.from_pretrained(folder / "tokenizer_2")
        self.feature_extractor = CLIPImageProcessorPil.from_pretrained(folder / "feature_extractor")
        self.text_encoder = _frozen(CLIPTextModelWithProjection, folder / "text_encoder", device, dtype)
        self.text_encoder_2 = _frozen(T5EncoderModel, folder / "text_encoder_2", device, dtype)
        self.image_encoder = _frozen(CLIPVisionModelWithProjection, folder / "image_encoder", device, dtype)

    @property
    def widths(self) -> dict[str, int]:
        """The widths that a network for these encoders needs, as arguments of `EDiffIUNet`."""
        return {
            "encoder_hid_dim": self.text_encoder.config.hidden_size,
            "encoder_hid_dim_2": self.text_encoder_2.config.d_model,
            "pooled_projection_dim": self.text_encoder.config.projection_dim,
            "image_embed_dim": self.image_encoder.config.projection_dim,
        }

    @torch.no_grad()
    def __call__(
        self, captions: list[str], images: torch.Tensor, keep_image: torch.Tensor | None = None
    ) -> dict[str, Any]:
        """Encodes a batch.

        Args:
            captions (`list` of `str`): The sentence of each sample.
            images (`torch.Tensor`): What the CLIP image encoder sees, uint8 `(batch, 3, height, width)`.
            keep_image (`torch.Tensor`, *optional*): Boolean `(batch,)`; the embeddings of other images are zeros.

        Returns:
            `dict`: Keyword arguments of `EDiffIUNet.forward`.
        """
        tokens, pooled = encode_clip_text(captions, self.tokenizer, self.text_encoder)
        tokens_2, mask_2 = self._encode_t5(captions)
        return {
            "encoder_hidden_states": tokens,
            "encoder_hidden_states_2": tokens_2,
            "encoder_attention_mask_2": mask_2,
            "added_cond_kwargs": {"text_embeds": pooled, "image_embeds": self._encode_images(images, keep_image)},
        }

    def _encode_t5(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """What `encode_t5` gives, but padded behind the encoder, not before it: much faster on short captions."""
        batch = self.tokenizer_2(captions, padding=True, truncation=True, max_length=T5_TOKENS, return_tensors="pt")
        mask = batch.attention_mask.to(self.text_encoder_2.device)
        tokens = self.text_encoder_2(batch.input_ids.to(mask.device), attention_mask=mask).last_hidden_state
        missing = T5_TOKENS - mask.shape[1]
        tokens = torch.where(mask[..., None].bool(), tokens, 0)
        return F.pad(tokens, (0, 0, 0, missing)), F.pad(mask, (0, missing))

    def _encode_images(self, images: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
        width = self.image_encoder.config.projection_dim
        embeds = torch.zeros(len(images), width, device=self.image_encoder.device)
        chosen = range(len(images)) if keep is None else keep.nonzero().flatten().tolist()
        if len(chosen):
            index = torch.tensor(list(chosen))
            found = encode_clip_image(images[index], self.feature_extractor, self.image_encoder)
            embeds[index.to(embeds.device)] = found.float()
        return embeds

    def region_columns(self, caption: str, regions: list[PaintRegion], clip_text: bool, t5: bool) -> list[list[int]]:
        """For each region the columns of its phrase, of the text encoders that the sample keeps; see
        [`EDiffIPipeline.region_columns`]."""
        readers = []
        if clip_text:
            readers.append(("CLIP", PromptTokens(caption, self.tokenizer, CLIP_TEXT_TOKENS), CLIP_TEXT_COLUMNS.start))
        if t5:
            readers.append(("T5", PromptTokens(caption, self.tokenizer_2, T5_TOKENS), T5_COLUMNS.start))
        return region_columns(caption, regions, readers) if readers else [[] for _ in regions]

    @property
    def clip_image_size(self) -> int:
        """The side in pixels of what the CLIP image encoder takes."""
        return self.image_encoder.config.image_size

    def fingerprint(self) -> str:
        """See [`encoder_fingerprint`]."""
        return encoder_fingerprint(self.folder)


def encoder_fingerprint(folder: str | Path) -> str:
    """A hash of all weights and tokenizers: a network is of no use with encoders that it was not trained with.

    Args:
        folder (`str` or `Path`): Holds the subfolders of a pipeline, see `SUBFOLDERS`; none of them is loaded.

    Raises:
        OSError: A subfolder is missing.
    """
    check_encoder_folder(folder)
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("*/*")):
        if path.parent.name in SUBFOLDERS and path.suffix in (".safetensors", ".json", ".txt", ".model"):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def caption_tokenizers(folder: str | Path) -> dict[str, tuple[Any, int]]:
    """The tokenizers of the text encoders in a pipeline's folder by their labels, and how many tokens each takes.

    Raises:
        OSError: A subfolder is missing.
    """
    check_encoder_folder(folder)
    return {
        encoder.label: (AutoTokenizer.from_pretrained(Path(folder) / encoder.processor), encoder.tokens)
        for encoder in TEXT_ENCODERS
    }


def check_encoder_folder(folder: str | Path) -> None:
    """Refuses a folder that lacks encoders.

    Raises:
        OSError: It names the subfolders that are missing.
    """
    missing = [name for name in SUBFOLDERS if not (Path(folder) / name).is_dir()]
    if missing:
        raise OSError(
            f"The encoder folder {str(folder)!r} lacks {', '.join(missing)}: "
            "train them with examples/demo/train_clip.py and examples/demo/train_t5.py, or pass a pipeline's folder."
        )


def _frozen(model_class: Any, folder: Path, device: str | torch.device, dtype: torch.dtype) -> Any:
    return model_class.from_pretrained(folder, dtype=dtype).to(device).eval().requires_grad_(False)

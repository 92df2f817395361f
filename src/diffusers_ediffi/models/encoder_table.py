# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The encoders that condition eDiff-I (section 4.2, appendix A): their names, columns and embeddings, in one table.

Imports nothing, so that the command line can name the encoders without loading torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CLIP_TEXT_TOKENS = 77
T5_TOKENS = 113
CLIP_TEXT_COLUMNS = slice(0, CLIP_TEXT_TOKENS)
T5_COLUMNS = slice(CLIP_TEXT_TOKENS, CLIP_TEXT_TOKENS + T5_TOKENS)
CLIP_IMAGE_COLUMN = CLIP_TEXT_TOKENS + T5_TOKENS
NULL_COLUMN = CLIP_IMAGE_COLUMN + 1


@dataclass(frozen=True)
class Encoder:
    """One encoder of the conditions.

    Args:
        name (`str`): In the pipeline's `encoders`, and of its weight in `guidance_scale`.
        label (`str`): In messages about words and tokens.
        component (`str`): The pipeline's component that encodes.
        processor (`str`): The pipeline's component that prepares what the encoder reads.
        columns (`slice`): Its columns in the context that the U-Nets attend to.
        widths (`Mapping`): Its embeddings by their names in the pipeline's call, and for each its width, or the entry
            of a U-Net's config that holds it. The first one fills the columns.
        remedy (`str`): How a call gets this condition.
        mask (`str`, *optional*): Name of the attention mask among the embeddings; without one, the U-Nets attend to
            the padding, so that the embedding has every column.
        lowercase (`bool`): Whether texts are read in small letters, without white space around them.
    """

    name: str
    label: str
    component: str
    processor: str
    columns: slice
    widths: Mapping[str, str | int]
    remedy: str
    mask: str | None = None
    lowercase: bool = False

    @property
    def tokens(self) -> int:
        """How many columns it fills."""
        return self.columns.stop - self.columns.start

    def width(self, embedding: str, config: Mapping[str, Any]) -> int:
        """The width of an embedding for a U-Net with this config."""
        width = self.widths[embedding]
        return width if isinstance(width, int) else config[width]

    @property
    def sequence(self) -> str:
        """The name of the embedding that fills the columns."""
        return next(iter(self.widths))

    @property
    def embeddings(self) -> tuple[str, ...]:
        """The names of all that it contributes, its mask included."""
        return (*self.widths, self.mask) if self.mask else tuple(self.widths)


CLIP_TEXT = Encoder(
    name="clip_text",
    label="CLIP",
    component="text_encoder",
    processor="tokenizer",
    columns=CLIP_TEXT_COLUMNS,
    widths={"prompt_embeds": "encoder_hid_dim", "pooled_prompt_embeds": "pooled_projection_dim"},
    remedy="load text_encoder and pass a prompt, or pass prompt_embeds and pooled_prompt_embeds",
)
T5 = Encoder(
    name="t5",
    label="T5",
    component="text_encoder_2",
    processor="tokenizer_2",
    columns=T5_COLUMNS,
    widths={"prompt_embeds_2": "encoder_hid_dim_2"},
    remedy="load text_encoder_2 and pass a prompt, or pass prompt_embeds_2",
    mask="prompt_attention_mask_2",
)
CLIP_IMAGE = Encoder(
    name="clip_image",
    label="CLIP image",
    component="image_encoder",
    processor="feature_extractor",
    columns=slice(CLIP_IMAGE_COLUMN, CLIP_IMAGE_COLUMN + 1),
    widths={"image_embeds": "image_embed_dim"},
    remedy="pass style_image or image_embeds",
)

ENCODERS = {encoder.name: encoder for encoder in (T5, CLIP_TEXT, CLIP_IMAGE)}
# In the order of their columns. Each embedding of a text has a negative counterpart.
TEXT_ENCODERS = (CLIP_TEXT, T5)
TEXT_EMBEDDINGS = tuple(name for encoder in TEXT_ENCODERS for name in encoder.embeddings)
NEGATIVE_EMBEDDINGS = tuple(f"negative_{name}" for name in TEXT_EMBEDDINGS)
EMBEDDINGS = (*TEXT_EMBEDDINGS, *NEGATIVE_EMBEDDINGS, *CLIP_IMAGE.embeddings)

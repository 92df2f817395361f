# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The encoders of `EDiffIPipeline`: what its U-Nets attend to of prompts and style references, and in which columns.

A mixin, since users call most of it on the pipeline. It reads the pipeline's components and nothing of a running call.
"""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.utils import logging

from ..demo.checkpoint import FOLDER
from ..models.conditioning import encode_clip_text, encode_t5, longest, text_mask
from ..models.encoder_table import (
    CLIP_IMAGE,
    CLIP_TEXT,
    ENCODERS,
    NEGATIVE_EMBEDDINGS,
    T5,
    TEXT_EMBEDDINGS,
    Encoder,
)
from ..paint.columns import region_columns
from ..paint.regions import PaintRegion
from ..phrases import PromptTokens
from .conditioning import Conditioning
from .inputs import Embeddings, Inputs
from .style import References, encode_references, mix_embeds, read_mix
from .vocabulary import Reading, Vocabulary

logger = logging.get_logger(__name__)


class EncodersMixin:
    """Encodes prompts and style references for [`EDiffIPipeline`], whose components these are."""

    tokenizer: Any
    text_encoder: Any
    tokenizer_2: Any
    text_encoder_2: Any
    feature_extractor: Any
    image_encoder: Any
    _execution_device: torch.device
    _vocabulary: Vocabulary | None = None
    _conditioning = Conditioning()  # eDiff-I's

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The words that the model knows, if it says them; every prompt is read in them."""
        return self._vocabulary

    @property
    def encoder_columns(self) -> dict[str, slice]:
        """The columns of each encoder in what the U-Nets attend to."""
        return {name: encoder.columns for name, encoder in self._conditioning.encoders.items()}

    def encode_prompt(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        do_classifier_free_guidance: bool = True,
        device: torch.device | str | None = None,
        encoders: Sequence[str] | None = None,
    ) -> tuple[torch.Tensor | None, ...]:
        """Encodes the prompts by the encoders that are loaded, or by those of them that are named (`t5`, `clip_text`),
        in the words of the model's `vocabulary`, if it has one.

        Returns:
            CLIP tokens (batch, 77, width), pooled CLIP (batch, width), T5 tokens (batch, 113, width) and T5 mask
            (batch, 113) of the prompts, then the same four of the negative prompts. `None` stands for zeros: a
            condition without its encoder, the unconditional model where there is no negative prompt.
        """
        batch_size = len(prompt) if isinstance(prompt, list) else 1
        negative = self._negative(negative_prompt) if do_classifier_free_guidance else None
        texts = ([text] * batch_size if isinstance(text, str) else text for text in (prompt, negative))
        device, names = device or self._execution_device, tuple(ENCODERS) if encoders is None else encoders
        encoded = (self._encode_text(rows, device, names) for rows in texts)
        return tuple(embeds.get(name) for embeds in encoded for name in TEXT_EMBEDDINGS)

    def _negative(self, negative_prompt: str | list[str] | None) -> str | list[str] | None:
        """What guidance leads away from: zeros without a text, but for models that have learned with the empty one."""
        return "" if negative_prompt is None and self._conditioning.empty_text else negative_prompt

    def _encode_text(self, texts: list[str] | None, device: torch.device | str, encoders: Sequence[str]) -> Embeddings:
        """The embeddings of texts by their names in the pipeline's call; none without texts, and none of encoders that
        are not loaded or not named."""
        embeds: Embeddings = {}
        for encoder in () if texts is None else self._conditioning.text_encoders:
            tokenizer, model = getattr(self, encoder.processor), getattr(self, encoder.component)
            if model is not None and tokenizer is None:
                raise ValueError(
                    f"{encoder.component} needs {encoder.processor}, which is not loaded; load both or none."
                )
            if model is None or encoder.name not in encoders:
                continue
            read = [self._read(text, encoder).text for text in texts or ()]
            if encoder.name == T5.name:
                encoded = encode_t5(read, tokenizer, model, device, encoder.tokens, encoder.mask is None)
            else:
                encoded = encode_clip_text(read, tokenizer, model, device)
            embeds |= zip(T5.embeddings if encoder.name == T5.name else CLIP_TEXT.embeddings, encoded, strict=True)
        return embeds

    def _read(self, prompt: str, encoder: Encoder) -> Reading:
        """A prompt in the words of the model, as an encoder reads it."""
        if encoder.lowercase:
            return Reading.in_small_letters(prompt)
        return Reading(prompt) if self.vocabulary is None else self.vocabulary.read(prompt)

    def _warn_of_unknown_words(self, prompts: Iterable[str]) -> None:
        """Says which words of prompts the model does not know."""
        if self.vocabulary is None:
            return
        complaint = self.vocabulary.complaint(prompts)
        if complaint:
            logger.warning(f"the model {complaint}; {_words_place(self)} lists its {len(self.vocabulary)} words.")

    def _prepare_embeddings(
        self, inputs: Inputs, guided: bool, encoders: Sequence[str] = tuple(ENCODERS)
    ) -> Embeddings:
        """All embeddings on the device, one row for each image; what is given is not computed, and what belongs to
        other encoders is `None`."""
        encoded = self._encode(inputs, guided, encoders)
        used = [name for encoder in encoders for name in self._conditioning.encoders[encoder].embeddings]
        embeds: Embeddings = {}
        for name in dict.fromkeys((*inputs.given, *encoded)):
            given = inputs.given.get(name)
            value = encoded.get(name) if given is None else given
            is_used = name.removeprefix("negative_") in used
            embeds[name] = self._rows(value, inputs) if is_used and value is not None else None
        t5 = self._conditioning.encoders.get(T5.name)
        if t5 is not None and t5.mask is not None:
            for prefix in ("", "negative_"):
                tokens, mask = (f"{prefix}{name}" for name in T5.embeddings)
                embeds[tokens], embeds[mask] = _pad_t5(embeds[tokens], embeds[mask], t5.tokens)
        return embeds

    def _encode(self, inputs: Inputs, guided: bool, encoders: Sequence[str]) -> Embeddings:
        """The embeddings of prompts and style references, one row for each prompt."""
        device, negative = self._execution_device, self._negative(inputs.negative_prompt)
        if isinstance(negative, str):
            negative = [negative] * inputs.batch_size
        texts = self.encode_prompt(inputs.prompt, negative, guided, device, encoders)
        encoded: Embeddings = dict(zip(TEXT_EMBEDDINGS + NEGATIVE_EMBEDDINGS, texts, strict=True))
        encoded |= self._text_masks("", inputs.prompt) | self._text_masks("negative_", negative if guided else None)
        if inputs.style is not None and CLIP_IMAGE.name in encoders:
            encoded[CLIP_IMAGE.sequence] = self._encode_references(inputs.style)
        return encoded

    def _text_masks(self, prefix: str, texts: str | list[str] | None) -> Embeddings:
        """The masks of texts whose padding is masked and that are not among what `encode_prompt` returns."""
        return {
            f"{prefix}{encoder.mask}": text_mask(
                [texts] if isinstance(texts, str) else texts, getattr(self, encoder.processor), encoder.tokens
            )
            for encoder in self._conditioning.text_encoders
            if encoder.mask not in (None, *TEXT_EMBEDDINGS) and texts is not None
        }

    def _rows(self, embedding: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        """An embedding (batch or 1, ...) on the device, repeated for each image."""
        if embedding.shape[0] == 1 < inputs.batch_size:  # one style for all prompts
            embedding = embedding.expand(inputs.batch_size, *embedding.shape[1:])
        return embedding.to(self._execution_device).repeat_interleave(int(inputs.num_images_per_prompt), dim=0)

    def encode_style(self, images: Any, weights: Sequence[float] | None = None) -> torch.Tensor:
        """Embeds one or several style references as one, for `style_image=`.

            >>> style = pipe.encode_style(["sunset.png", "etching.jpg"], weights=[0.7, 0.3])
            >>> pipe("a red car", style_image=style).images[0]

        Args:
            images: What `style_image` may be, except embeddings.
            weights (`list` of `float`, *optional*): At least 0, a weight for each reference; they need not sum to 1.
                By default all are the same.

        Returns:
            The weighted mean of the CLIP image embeddings (1, width), as long as they are in the mean.

        Raises:
            ValueError: An image cannot be read, the weights do not fit, or the image encoder is not loaded.
        """
        if self.image_encoder is None or self.feature_extractor is None:
            raise ValueError("encode_style needs image_encoder and feature_extractor; load both.")
        return mix_embeds(self._encode_references(read_mix(images, weights)), weights)

    def _encode_references(self, references: References) -> torch.Tensor:
        """The CLIP image embedding of each row of references, (rows, width)."""
        return encode_references(references, self.feature_extractor, self.image_encoder, self._execution_device)

    def region_columns(
        self, prompt: str, regions: Sequence[PaintRegion], encoders: Sequence[str] = tuple(ENCODERS)
    ) -> list[list[int]]:
        """For each region the columns of its phrase in the text that the U-Nets attend to, of these encoders.

        Raises:
            ValueError: The prompt has no such phrase, or no encoder reads it.
        """
        labels = [encoder.label for encoder in self._conditioning.text_encoders if encoder.name in encoders]
        read = [reader for reader in self.prompt_tokens(prompt) if reader[0] in labels]
        if not read:
            raise ValueError(f"regions need an encoder that reads the prompt; encoders={encoders!r} leaves none.")
        return region_columns(prompt, regions, read)

    def prompt_tokens(self, prompt: str) -> list[tuple[str, PromptTokens, int]]:
        """For each text encoder its name, the prompt's tokens and their first column in what the U-Nets attend to."""
        readers = []
        for encoder in self._conditioning.text_encoders:
            tokenizer = getattr(self, encoder.processor)
            if getattr(self, encoder.component) is not None and tokenizer is not None:
                length = longest(tokenizer, encoder.tokens)
                tokens = PromptTokens(prompt, tokenizer, length, self._read(prompt, encoder))
                readers.append((encoder.label, tokens, encoder.columns.start))
        return readers


def _words_place(pipe: Any) -> str:
    """What lists the words of a pipeline: a command, if it was loaded."""
    name = pipe.config.get("_name_or_path")
    if not name:
        return "pipe.vocabulary.groups"
    option = "" if Path(name).resolve() == FOLDER else f" --model {shlex.quote(str(name))}"
    return f'"ediffi info --words{option}"'


def _pad_t5(
    tokens: torch.Tensor | None, mask: torch.Tensor | None, columns: int
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Brings T5 tokens (batch, n, width) and their mask (batch, n) to all columns."""
    if tokens is None:
        return None, None
    mask = tokens.new_ones(tokens.shape[:2]) if mask is None else mask
    missing = columns - tokens.shape[1]
    return F.pad(tokens, (0, 0, 0, missing)), F.pad(mask, (0, missing))

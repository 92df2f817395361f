# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The conditions of a training batch: encoded, dropped at random, and painted on the words that are kept."""

from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import send_to_device

from ..models.encoder_table import NULL_COLUMN
from ..paint.painting import Painting
from .dropout import DropoutRates, Kept, draw_kept, keep_only
from .embedding_cache import in_single_precision
from .launch import Share

PAINT_STRENGTH = 0.4  # w' of a region with the weight 1
ALONE = Share()
EncodeBatch = Callable[[list[str], torch.Tensor, torch.Tensor | None], dict[str, Any]]


class BatchConditioner:
    """Turns the captions and pictures of a batch into keyword arguments of the network.

    Args:
        encode_batch (`Callable`, *optional*): `(captions, clip_images, keep_image)` to keyword arguments of the
            network, such as [`ConditioningEncoder`], whose `region_columns` is needed for batches with regions. None
            is needed for batches with `embeddings`, which are these arguments.
        rates ([`DropoutRates`]): How often each condition is dropped.
        device (`torch.device`, *optional*): Where the conditions are needed; by default where the encoders are.
    """

    def __init__(
        self, encode_batch: EncodeBatch | None, rates: DropoutRates, device: torch.device | None = None
    ) -> None:
        self.encode_batch: Any = encode_batch
        self.rates, self.device = rates, device

    def draw(
        self, batch: dict[str, Any], generator: torch.Generator, share: Share = ALONE
    ) -> tuple[dict[str, Any], Kept]:
        """Draws which sample keeps which condition, and encodes what is kept."""
        kept = share.of(lambda number: draw_kept(number, self.rates, generator), len(batch["image"]))
        return self._encode(batch, kept), kept

    def texts(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The captions alone, of all samples."""
        everyone = torch.ones(len(batch["image"]), dtype=torch.bool)
        return self._encode(batch, Kept(everyone, everyone, ~everyone, everyone))

    def _encode(self, batch: dict[str, Any], kept: Kept) -> dict[str, Any]:
        encoded = batch.get("embeddings")
        if encoded is None and self.encode_batch is None:
            raise ValueError("The items have no embeddings: give a ConditioningEncoder as encode_batch.")
        if encoded is None:
            encoded = self.encode_batch(batch["caption"], batch["clip_image"], kept.clip_image)
        if self.device is not None:
            encoded = send_to_device(encoded, self.device)
        return keep_only(in_single_precision(encoded) if "embeddings" in batch else encoded, kept)

    def painting(self, batch: dict[str, Any], kept: Kept) -> Painting | None:
        """The regions of a batch, painted on the words that its samples keep; None if nothing is painted."""
        regions = batch.get("regions", [])
        rows = zip(batch["caption"], regions, kept.clip_text.tolist(), kept.t5.tolist(), strict=False)
        columns = [self.encode_batch.region_columns(*row) if row[1] else [] for row in rows]
        if not any(any(of_image) for of_image in columns):
            return None
        return Painting(regions, columns, NULL_COLUMN + 1, PAINT_STRENGTH)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What train_on_gpu.py trains on: scenes that all CPU cores render into a pool in the GPU's memory, their conditions
and their paint."""

import json
import re
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import AutoTokenizer, CLIPTextModelWithProjection, CLIPVisionModelWithProjection, T5EncoderModel

from diffusers_ediffi.models.encoder_table import (
    CLIP_TEXT_COLUMNS,
    CLIP_TEXT_TOKENS,
    NULL_COLUMN,
    T5_COLUMNS,
    T5_TOKENS,
)
from diffusers_ediffi.paint.painting import Painting
from diffusers_ediffi.phrases import PromptTokens, find_phrase
from diffusers_ediffi.training import SceneDataset
from diffusers_ediffi.training.conditioning import PAINT_STRENGTH
from diffusers_ediffi.training.data import scene_regions
from diffusers_ediffi.training.dropout import Kept

READ_TOKENS = 48  # of T5: no caption of a scene is longer
CHUNK = 32  # items that a worker hands over at once
PAINT_GRID = 8  # the base reads the text at 8 x 8
MOST_REGIONS = 2
PAINTED_SHARE = 0.2
WITHOUT_ARTICLES, WITHOUT_GROUND = 0.10, 0.08  # shares of the captions


class TokenDataset(Dataset):
    """Items of a `SceneDataset` as tensors of one shape: the picture, the caption's tokens, and what is painted.

    Some captions have no articles, others no ground.
    """

    def __init__(self, scenes: SceneDataset, model: Path, start: int) -> None:
        self.scenes, self.start = scenes, start
        self.clip = AutoTokenizer.from_pretrained(model / "tokenizer")
        self.t5 = AutoTokenizer.from_pretrained(model / "tokenizer_2")

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        item = self.scenes[self.start + index]
        scene = self.scenes.generator.scene((self.start + index) // self.scenes.crops_per_scene)
        draw = np.random.default_rng([self.scenes.seed, self.start + index, 7]).random(2)
        is_painted = self.scenes.low_res_factor is None and draw[1] < PAINTED_SHARE
        caption = scene.caption if is_painted else shortened(scene, draw[0])
        return {
            **{name: item[name] for name in ("image", "clip_image", "low_res") if name in item},
            "clip_ids": self._ids(self.clip, caption, CLIP_TEXT_TOKENS, padding="max_length"),
            "t5_ids": self._ids(self.t5, caption, READ_TOKENS, padding="max_length"),
            **(self._paint(scene, is_painted) if self.scenes.low_res_factor is None else {}),
            "is_painted": torch.tensor(is_painted),
        }

    def _ids(self, tokenizer: Any, caption: str, length: int, padding: str) -> torch.Tensor:
        ids = tokenizer([caption.strip()], padding=padding, truncation=True, max_length=length)["input_ids"][0]
        return torch.tensor(ids, dtype=torch.int16)

    def _paint(self, scene: Any, is_painted: bool) -> dict[str, torch.Tensor]:
        """Where each phrase goes on the grid of the base's attention, and which columns it has."""
        coverage = torch.zeros(MOST_REGIONS, PAINT_GRID**2)
        columns = torch.zeros(MOST_REGIONS, NULL_COLUMN + 1, dtype=torch.bool)
        if is_painted:
            caption = scene.caption
            readers = [
                (PromptTokens(caption, self.clip, CLIP_TEXT_TOKENS), CLIP_TEXT_COLUMNS.start),
                (PromptTokens(caption, self.t5, T5_TOKENS), T5_COLUMNS.start),
            ]
            for i, region in enumerate(scene_regions(scene)):
                coverage[i] = region.coverage(PAINT_GRID, PAINT_GRID).flatten()
                spans = find_phrase(caption, region.phrase, region.occurrence)
                columns[i, [first + c for tokens, first in readers for c in tokens.columns(spans)]] = True
        return {"coverage": coverage.half(), "columns": columns}


def shortened(scene: Any, draw: float) -> str:
    """The caption of a scene, at times without articles or without its ground."""
    if draw < WITHOUT_ARTICLES:
        return re.sub(r"\b(a|an) ", "", scene.caption, flags=re.IGNORECASE)
    if draw < WITHOUT_ARTICLES + WITHOUT_GROUND:
        return scene.caption[: scene.objects[-1].span[1]]
    return scene.caption


class Pool:
    """Items on the device, which a thread fills up with what worker processes render; the oldest make room.

    Args:
        dataset: Its items are tensors.
        workers: Processes.
        size: Items at most.
    """

    def __init__(self, dataset: Dataset, workers: int, size: int, device: torch.device) -> None:
        self.chunks: Any = iter(DataLoader(dataset, CHUNK, num_workers=workers, prefetch_factor=4))
        self.size, self.device = size, device
        self.items: dict[str, torch.Tensor] = {}
        self.rendered = 0
        self.painted, self.counted = torch.empty(0, dtype=torch.long), 0
        self.lock, self.closing = threading.Lock(), False
        self.thread = threading.Thread(target=self._fill, daemon=True)
        self.thread.start()

    def _fill(self) -> None:
        stream = torch.cuda.Stream() if self.device.type == "cuda" else None
        while not self.closing:
            chunk = next(self.chunks)
            if not self.items:
                self.items = {
                    name: torch.empty(self.size, *part.shape[1:], dtype=part.dtype, device=self.device)
                    for name, part in chunk.items()
                }
            first = self.rendered % self.size
            count = min(CHUNK, self.size - first)
            with self.lock, torch.cuda.stream(stream) if stream else nullcontext():
                self._write(chunk, first, count)
                if stream:
                    stream.synchronize()
            self.rendered += count

    def _write(self, chunk: dict[str, torch.Tensor], first: int, count: int) -> None:
        for name, part in chunk.items():
            self.items[name][first : first + count] = part[:count].to(self.device)

    def close(self) -> None:
        """Ends the thread and the processes."""
        self.closing = True
        self.thread.join()
        self.chunks = None

    def wait(self, count: int) -> None:
        """Returns when so many items have been rendered."""
        while self.rendered < count:
            time.sleep(0.05)

    def draw(self, batch_size: int, only_painted: bool = False) -> dict[str, torch.Tensor]:
        """A batch of items, drawn with replacement, of those that are painted alone or of all."""
        there = min(self.rendered, self.size)
        if only_painted:
            if len(self.painted) < batch_size or self.rendered - self.counted > 20_000:
                self.painted, self.counted = self.items["is_painted"][:there].nonzero()[:, 0], self.rendered
            rows = self.painted[torch.randint(len(self.painted), (batch_size,), device=self.device)]
        else:
            rows = torch.randint(there, (batch_size,), device=self.device)
        return {name: part[rows] for name, part in self.items.items()}


class Conditions:
    """The encoders of a pipeline, called with the tokens and pictures of a batch.

    Args:
        model: A pipeline's folder.
        t5: The folder of its T5 encoder, or of another.
    """

    def __init__(self, model: Path, t5: Path, device: torch.device) -> None:
        self.text = CLIPTextModelWithProjection.from_pretrained(model / "text_encoder", dtype=torch.float32)
        self.t5 = T5EncoderModel.from_pretrained(t5, dtype=torch.float32)
        self.image = CLIPVisionModelWithProjection.from_pretrained(model / "image_encoder", dtype=torch.float32)
        for network in (self.text, self.t5, self.image):
            network.to(device).eval().requires_grad_(False)
        seen = json.loads((model / "feature_extractor" / "preprocessor_config.json").read_text())
        self.mean, self.std = (
            torch.tensor(seen[k], device=device)[:, None, None] for k in ("image_mean", "image_std")
        )

    def __call__(self, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
        with torch.no_grad():
            text = self.text(batch["clip_ids"].long())
            image = self.image((batch["clip_image"].float() / 255 - self.mean) / self.std).image_embeds
        ids = batch["t5_ids"].long()
        mask = (ids != 0).long()
        states = self.t5(ids, attention_mask=mask).last_hidden_state
        missing = (0, T5_TOKENS - READ_TOKENS)
        return {
            "encoder_hidden_states": text.last_hidden_state.float(),
            "encoder_hidden_states_2": F.pad(torch.where(mask[..., None].bool(), states, 0).float(), (0, 0, *missing)),
            "encoder_attention_mask_2": F.pad(mask, missing),
            "added_cond_kwargs": {"text_embeds": text.text_embeds.float(), "image_embeds": image.float()},
        }


def paint_matrices(batch: dict[str, torch.Tensor], kept: Kept, weight: torch.Tensor) -> torch.Tensor:
    """The matrix A of each sample, (batch, pixels, columns)."""
    columns = batch["columns"].clone()
    columns[:, :, CLIP_TEXT_COLUMNS] &= kept.clip_text[:, None, None]
    columns[:, :, T5_COLUMNS] &= kept.t5[:, None, None]
    coverage = batch["coverage"].float() * weight[:, None, None]
    return (coverage[..., None] * columns[:, :, None].float()).amax(dim=1)


class BatchPainting(Painting):
    """A painting whose matrix is a tensor."""

    def __init__(self, matrices: torch.Tensor) -> None:
        nothing: list[list] = [[] for _ in matrices]
        super().__init__(nothing, nothing, NULL_COLUMN + 1, PAINT_STRENGTH)
        self._painted = matrices

    @property
    def is_blank(self) -> bool:
        return False

    def _prepare_matrices(self, device: torch.device) -> None:
        self._matrices = {PAINT_GRID**2: self._painted}


def cropped(batch: dict[str, torch.Tensor], side: int) -> dict[str, torch.Tensor]:
    """The same random square of every picture, large and small."""
    factor = batch["image"].shape[-1] // batch["low_res"].shape[-1]
    top, left = (int(torch.randint(0, (n - side) // factor + 1, ())) for n in batch["image"].shape[-2:])
    small = (..., slice(top, top + side // factor), slice(left, left + side // factor))
    large = (..., slice(factor * top, factor * top + side), slice(factor * left, factor * left + side))
    return {**batch, "image": batch["image"][large], "low_res": batch["low_res"][small]}

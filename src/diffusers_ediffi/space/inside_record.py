# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What the tab "Inside" shows of a drawing: where each word looked, which expert drew when, and what was attended to
at which noise level. Plain values, so that another process may have drawn."""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..attention_record import AttentionRecord
from ..attention_recorder import record_attention
from ..pipelines.stages import Stage
from .picture_files import preview_address

HEAT_SIDE = 64  # pixels of a heat map, which the browser smooths; attention itself is coarser
HEAT = (255, 122, 24)  # its colour, where it is strongest opaque
MAX_WORDS = 60  # more than text encoders read
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
LABELS = {"clip_text": "CLIP text", "t5": "T5", "clip_image": "CLIP image", "null_token": "null token"}


@contextmanager
def watched(pipe: Any) -> Iterator[Callable[[], dict[str, Any]]]:
    """Records the attention of the base stage while a block draws; what it yields is called in the block, after the
    drawing, and returns what the component of the tab reads."""
    with record_attention(pipe, heat_maps=True) as recorder:
        yield lambda: {"stages": list(_stages(pipe)), **_attention(recorder)}


def _attention(record: AttentionRecord) -> dict[str, Any]:
    """The words with their heat maps, and the shares by noise level, of the first picture."""
    if not record.layers or not record.prompts:
        return {"words": [], "sigmas": [], "shares": {}}
    shares = {LABELS[name]: _numbers(share[0]) for name, share in record.shares().items() if name in LABELS}
    return {"words": list(_words(record)), "sigmas": _numbers(record.sigmas), "shares": shares}


def _words(record: AttentionRecord) -> Iterator[dict[str, Any]]:
    """The words of the prompt that the encoders read, in their order."""
    prompt = record.prompts[0]
    tokens = _places(record)
    seen: dict[str, int] = {}
    for match in itertools.islice(WORD.finditer(prompt), MAX_WORDS):
        occurrence = seen[match[0].lower()] = seen.get(match[0].lower(), -1) + 1
        try:
            heat = record.heat_map(match[0], size=(HEAT_SIDE, HEAT_SIDE), occurrence=occurrence)
        except ValueError:  # beyond what the encoders read
            continue
        inside = [masses for start, masses in tokens if match.start() <= start < match.end()]
        masses = _numbers(torch.stack(inside).sum(0)) if inside else []
        yield {"text": match[0], "heat": _heat_address(heat), "masses": masses}


def _places(record: AttentionRecord) -> list[tuple[int, torch.Tensor]]:
    """Where in the prompt the piece of each token begins, and the token's masses."""
    prompt, places = record.prompts[0].lower(), []
    for _, tokens in itertools.groupby(record.words(0), lambda token: token.encoder):
        position = 0
        for token in tokens:
            piece = token.text.lower().strip()
            start = prompt.find(piece, position)
            if piece and start >= 0:
                places.append((start, token.masses))
                position = start + len(piece)
    return places


def _heat_address(heat: torch.Tensor) -> str:
    """A map in its own scale, as a picture that is transparent where it is weakest."""
    low, high = heat.min(), heat.max()
    strength = ((heat - low) / (high - low).clamp(min=1e-12)).numpy()
    pixels = np.empty((*heat.shape, 4), dtype=np.uint8)
    pixels[..., :3] = HEAT
    pixels[..., 3] = np.rint(235 * strength)
    return preview_address(Image.fromarray(pixels))


def _stages(pipe: Any) -> Iterator[dict[str, Any]]:
    """The stages with the noise level of each step that was drawn and its expert, that of the most noise first."""
    for stage in pipe.stages:
        # A Runge-Kutta step repeats its noise level for each of its calls.
        sigmas = [float(sigma) for sigma, _ in itertools.groupby(_sigmas(stage))]
        experts = len(getattr(stage.unet, "experts", [stage.unet]))
        with stage.expert_choice() as select_expert:
            routes = [select_expert(sigma) or 0 for sigma in sigmas]
        steps = [
            {"sigma": _number(sigma), "expert": experts - 1 - route}
            for sigma, route in zip(sigmas, routes, strict=True)
        ]
        yield {"size": stage.size, "experts": experts, "steps": steps}


def _sigmas(stage: Stage) -> Sequence[float]:
    """The noise levels by which the experts were chosen."""
    return getattr(stage.scheduler, "routing_sigmas", None) or stage.sigmas[:-1]


def _numbers(values: torch.Tensor | Sequence[float]) -> list[float | None]:
    return [_number(value) for value in (values.tolist() if isinstance(values, torch.Tensor) else values)]


def _number(value: float) -> float | None:
    """With four digits, as JSON can hold it."""
    return float(f"{value:.4g}") if math.isfinite(value) else None

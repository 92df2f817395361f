# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The attention of paint-with-words (section 4.4) and its matrix A.

A is (pixels, columns): the columns of a phrase's tokens hold the mask of its region, all others are zero. The paper's

    softmax((Q K^T + w A) / sqrt(d_k)) V    with  w = w' log(1 + sigma) max(Q K^T)

is computed as

    softmax(S + w' log(1 + sigma) max(S) A) V    with  S = Q K^T / sqrt(d_k)

which is the same and does not overflow in half precision.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from .regions import PaintRegion, mix_noise

NORMALIZERS = ("max", "std")
# Larger grids than this have no attention in practice; if one has, its matrix is made when the layer asks for it.
MAX_TOKENS_AHEAD = 2**14
CLOSED = -1000.0  # scores with a bias below this are those of masked columns; diffusers' masks are -10000

PromptColumns = Sequence[Sequence[Sequence[int]]]  # for every prompt and region the columns of its phrase


class PaintedRows(NamedTuple):
    """The rows of a U-Net's batch that are painted, see [`Painting.select`].

    Args:
        prompts (`tuple` of `int`): Of each row the number of its prompt.
        copies (`int`): Rows of each image.
        readable (`tuple`, *optional*): Of each copy the columns that hold its text; `None` is all.
        unconditional (`int`, *optional*): Rows before them; `None` is none, or one for each image.
    """

    prompts: tuple[int, ...]
    copies: int
    readable: tuple[tuple[int, ...], ...] | None
    unconditional: int | None = None

    @property
    def num_images(self) -> int:
        """Painted images, each of which has `copies` rows."""
        return len(self.prompts) // self.copies


class Painting:
    """What is painted on a batch of images: A at every resolution, and w' log(1 + sigma) of the running call.

    Painted are the last rows of a U-Net's batch; those before them are the unconditional rows of guidance, one for
    each image, which are never painted.

    Args:
        regions (`list` of `list` of [`PaintRegion`]): The regions of every prompt.
        columns (`list`): For every prompt and region the columns of the phrase ([`~columns.region_columns`]).
        num_columns (`int`): Columns of the text that the attention sees.
        strength (`float`): w'.
        normalizer (`str`): `max` of the scores, as in the paper, or their standard deviation `std`, each over the
            heads, queries and keys of one image. Negative maxima count as 0, masked columns do not count.
        scheduled_columns (`list`, *optional*): Such columns for every entry of a prompt schedule, which `begin_prompt`
            goes on with; `columns` are those to begin with.

    Attributes:
        rows ([`PaintedRows`]): What is painted of the coming calls.
        start (`int`): The first painted row of the running call.
        sigma (`torch.Tensor`): Its noise level, one for all painted rows or one for each.
        coefficient (`torch.Tensor`): w' log(1 + sigma), in the same way, (1 or painted rows, 1, 1, 1).
        observer (`Callable`, *optional*): Who looks on, see [`~Painting.observed`].
    """

    def __init__(
        self,
        regions: Sequence[Sequence[PaintRegion]],
        columns: PromptColumns,
        num_columns: int,
        strength: float,
        normalizer: str = "max",
        scheduled_columns: Sequence[PromptColumns] | None = None,
    ):
        if normalizer not in NORMALIZERS:
            raise ValueError(f"normalizer={normalizer!r} is unknown; choose from {', '.join(NORMALIZERS)}.")
        self.regions = [list(prompt_regions) for prompt_regions in regions]
        self.columns = columns
        self.scheduled_columns = [columns] if scheduled_columns is None else scheduled_columns
        self.num_columns = num_columns
        self.strength = strength
        self.normalizer = normalizer
        self.observer: Callable[[torch.Tensor], None] | None = None
        self.rows = PaintedRows(tuple(range(len(self.regions))), 1, None)
        self.start = 0
        self.sigma = torch.zeros(1)
        self.coefficient = torch.zeros(1, 1, 1, 1)
        self._size = (1, 1)
        self._state: Any = None  # what the matrices depend on
        self._matrices: dict[int, torch.Tensor] = {}

    @property
    def is_blank(self) -> bool:
        """Whether the formula changes nothing and nobody looks."""
        if self.observer is not None:
            return False
        return self.strength == 0 or not any(region.weight for region in self._all_regions())

    @property
    def has_seeds(self) -> bool:
        """Whether a region draws its noise from a seed."""
        return any(region.seed is not None for region in self._all_regions())

    def _all_regions(self) -> Iterator[PaintRegion]:
        return chain.from_iterable(self.regions)

    def select(
        self,
        images: Sequence[int],
        copies: int = 1,
        readable: Sequence[Sequence[int]] | None = None,
        unconditional: int | None = None,
    ) -> None:
        """Says which prompt each image of the coming calls belongs to.

        Args:
            images (`list` of `int`): Of each image the number of its prompt.
            copies (`int`): Conditional rows of each image: guidance by encoders, and perturbed-attention guidance,
                have several.
            readable (`list`, *optional*): For each copy the columns that hold its text, by default all. The others are
                not painted, so that a copy without any is left alone.
            unconditional (`int`, *optional*): Unconditional rows before the painted ones; by default none, or one for
                each image.
        """
        columns = None if readable is None else tuple(map(tuple, readable))
        self.rows = PaintedRows(tuple(images) * copies, copies, columns, unconditional)

    def begin_prompt(self, number: int) -> None:
        """Goes on with the phrases of a prompt of the schedule."""
        self.columns = self.scheduled_columns[number]
        self._state = None

    @contextmanager
    def observed(self, observer: Callable[[torch.Tensor], None]) -> Iterator[None]:
        """Shows an observer the attention of every painted layer while the `with` block lasts.

        Args:
            observer (`Callable`): Called with the probabilities, (painted rows, heads, pixels, columns).

        Raises:
            ValueError: The painting is measured already.
        """
        if self.observer is not None:
            raise ValueError("this painting is measured already: leave the other measure_attention_mass block first.")
        self.observer = observer
        try:
            yield
        finally:
            self.observer = None

    def begin_call(self, sample: torch.Tensor, sigma: torch.Tensor, patch_size: int = 1) -> None:
        """Prepares everything for a call of the U-Net, so that its layers only read.

        Args:
            sample (`torch.Tensor`): Input of the U-Net, (batch, channels, height, width).
            sigma (`torch.Tensor`): Its noise level, one number or (batch,), on the sample's device.
            patch_size (`int`): Side of the squares of pixels that the U-Net folds into channels before its first
                layer.

        Raises:
            ValueError: The batch is not that of the painted images.
        """
        self.start = self._first_row(sample)
        sigma = sigma.reshape(-1).float()
        self.sigma = sigma[self.start :] if len(sigma) == len(sample) else sigma
        self.coefficient = (self.strength * self.sigma.log1p()).reshape(-1, 1, 1, 1)
        self._size = (sample.shape[-2] // patch_size, sample.shape[-1] // patch_size)
        self._prepare_matrices(sample.device)

    def _first_row(self, sample: torch.Tensor) -> int:
        """The first painted row of a batch: 0, or with guidance the number of images.

        Raises:
            ValueError: It has other rows.
        """
        images, unconditional = self.rows.num_images, self.rows.unconditional
        start = len(sample) - len(self.rows.prompts)
        if sample.ndim != 4 or start not in ((0, images) if unconditional is None else (unconditional,)):
            raise ValueError(
                f"the U-Net is called with a sample of shape {tuple(sample.shape)} where {images} images are painted; "
                "expected are the images, or with guidance the unconditional ones and the images. A loop that calls a "
                "pipeline's U-Net says which by encoding the prompt in the block."
            )
        return start

    def _prepare_matrices(self, device: torch.device) -> None:
        """Makes A at every resolution, unless those of the call before will do."""
        state = (self._size, self.rows, device)
        if state != self._state:
            self._state = state
            grids = [grid for grid in unet_grids(*self._size) if math.prod(grid) <= MAX_TOKENS_AHEAD]
            self._matrices = {math.prod(grid): self._make(*grid) for grid in grids}

    def matrix(self, tokens: int) -> torch.Tensor:
        """A for a layer of so many pixels, float32 (painted rows, or 1 for all, tokens, columns)."""
        if tokens not in self._matrices:
            self._matrices[tokens] = self._make(*self.grid(tokens))
        return self._matrices[tokens]

    def grid(self, tokens: int) -> tuple[int, int]:
        """Height and width of a layer of so many pixels."""
        grids = {math.prod(grid): grid for grid in unet_grids(*self._size)}
        if tokens not in grids:
            raise ValueError(
                f"a cross-attention of {tokens} pixels is not at a resolution of the U-Net "
                f"({', '.join(f'{rows} x {columns}' for rows, columns in grids.values())}): it cannot be painted."
            )
        return grids[tokens]

    def _make(self, height: int, width: int) -> torch.Tensor:
        """A at one resolution, see `matrix`."""
        rows = self.rows
        used = sorted(set(rows.prompts))
        matrices = [paint_matrix(self.regions[i], self.columns[i], self.num_columns, height, width) for i in used]
        stacked = torch.stack(matrices).to(self.sigma.device)
        if rows.readable is None and len(used) == 1:
            return stacked
        stacked = stacked[[used.index(prompt) for prompt in rows.prompts]]
        return stacked if rows.readable is None else stacked * self._readable(stacked)

    def _readable(self, like: torch.Tensor) -> torch.Tensor:
        """1 for the columns that hold text and 0 for the others, (painted rows, 1, columns)."""
        assert self.rows.readable is not None
        is_readable = like.new_zeros(self.rows.copies, 1, self.num_columns)
        for copy, columns in enumerate(self.rows.readable):
            is_readable[copy, :, list(columns)] = 1
        return is_readable.repeat_interleave(self.rows.num_images, 0)

    def mix_noise(self, noise: torch.Tensor, std: float = 1.0) -> torch.Tensor:
        """Noise (images, channels, height, width) of this standard deviation, with that of the regions' seeds where
        they are; the images of a prompt follow each other."""
        if not self.has_seeds:
            return noise
        prompts = [image * len(self.regions) // len(noise) for image in range(len(noise))]
        mixed = [mix_noise(x / std, self.regions[prompt]) for x, prompt in zip(noise, prompts, strict=True)]
        return std * torch.stack(mixed)

    def factor(self, scores: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """w' log(1 + sigma) times the normaliser of scores (rows, heads, queries, columns): float32 (rows, 1, 1, 1).
        The mask, a bias, is already in the scores."""
        scores = scores.detach()
        if self.normalizer == "max":
            normalizer = scores.flatten(1).amax(1).float().clamp(min=0)
        else:
            normalizer = _standard_deviation(scores, attention_mask)
        return self.coefficient * normalizer.reshape(-1, 1, 1, 1)

    def bias(
        self, query: torch.Tensor, key: torch.Tensor, attention_mask: torch.Tensor | None, scale: float
    ) -> torch.Tensor:
        """What is added to the scores of the painted rows: float32 (rows, 1, queries, columns of the text).

        Query and key are (rows, heads, tokens, head_dim), the mask is a bias or `None`.
        """
        scores = attention_scores(query, key, attention_mask, scale)
        bias = self.factor(scores, attention_mask) * self.matrix(query.shape[2])[:, None]
        if self.observer is not None:
            added = scores.shape[-1] - bias.shape[-1]  # keys behind the text
            self.observer((scores + F.pad(bias, (0, added))).softmax(-1))
        return bias

    def probabilities(
        self, query: torch.Tensor, key: torch.Tensor, attention_mask: torch.Tensor | None, scale: float
    ) -> torch.Tensor:
        """The formula's softmax in one pass over the scores of the painted rows, (rows, heads, queries, keys)."""
        scores = attention_scores(query, key, attention_mask, scale)
        factor = self.factor(scores, attention_mask).to(scores.dtype)
        matrix = self.matrix(query.shape[2])[:, None].to(scores.dtype)
        scores[..., : matrix.shape[-1]].addcmul_(matrix, factor)  # not the keys behind the text
        # Where nothing is differentiated the memory of the scores is reused.
        return torch.softmax(scores, -1, out=None if scores.requires_grad else scores)

    def attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scale: float,
    ) -> torch.Tensor:
        """The formula for the painted rows, (rows, heads, queries, head_dim)."""
        probabilities = self.probabilities(query, key, attention_mask, scale)
        if self.observer is not None:
            self.observer(probabilities)
        return probabilities @ value


def paint_matrix(
    regions: Sequence[PaintRegion], columns: Sequence[Sequence[int]], num_columns: int, height: int, width: int
) -> torch.Tensor:
    """A of the paper at one resolution, float32 (height * width, num_columns); `columns` are those of each region.

    Where regions share a token, the largest of weight times mask counts.
    """
    matrix = torch.zeros(height * width, num_columns)
    for region, phrase_columns in zip(regions, map(list, columns), strict=True):
        painted = float(region.weight) * region.coverage(height, width).flatten()[:, None]
        matrix[:, phrase_columns] = torch.maximum(matrix[:, phrase_columns], painted)
    return matrix


def unet_grids(height: int, width: int) -> Iterator[tuple[int, int]]:
    """The resolutions of a U-Net whose first layer has this one; a strided convolution rounds up."""
    while height * width > 1:
        yield height, width
        height, width = -(-height // 2), -(-width // 2)
    yield height, width


def _standard_deviation(scores: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """The standard deviation of each row's scores in the columns that are not masked, float32 (rows,)."""
    values = scores.flatten(1).float()
    if attention_mask is None:
        return values.std(1, correction=0)
    is_open = (attention_mask > CLOSED).expand_as(scores).flatten(1)
    count = is_open.sum(1, keepdim=True)
    mean = values.where(is_open, 0).sum(1, keepdim=True) / count
    return ((values - mean).where(is_open, 0).square().sum(1) / count[:, 0]).sqrt()


def attention_scores(
    query: torch.Tensor, key: torch.Tensor, attention_mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """S = Q K^T * scale, plus the mask, a bias: (rows, heads, queries, keys)."""
    scores = (query * scale) @ key.transpose(-1, -2)
    return scores if attention_mask is None else scores + attention_mask

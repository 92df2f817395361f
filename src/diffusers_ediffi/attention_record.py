# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What a U-Net attended to, and how to read it: shares by noise level (Figure 3 of the paper), and heat maps of words.

A record is a value. [`record_attention`] fills one while a pipeline draws; without a pipeline it is filled by

    record = AttentionRecord(num_images=1)
    call = record.begin_call(range(1), sigma=torch.tensor([2.0]))
    record.add_masses("mid_block", torch.tensor([[0.75, 0.25]]), call)
    record.masses()  # (images, noise levels, columns)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .models.encoder_table import CLIP_IMAGE, CLIP_TEXT, NULL_COLUMN, T5
from .phrases import PromptTokens, find_phrase

# Noise levels are told apart by these bins, equally wide in log sigma; what lies outside counts in the outermost ones.
BINS_PER_DECADE = 32
LOWEST_DECADE = -3  # sigma from 0.001
DECADES = 5  # to 100
BINS = BINS_PER_DECADE * DECADES
MAX_SELF_ATTENTION_PIXELS = 32 * 32  # a map has the square of that
# The columns of each encoder in what a U-Net attends to.
EDIFFI_ENCODERS = {encoder.name: encoder.columns for encoder in (CLIP_TEXT, T5, CLIP_IMAGE)}
EDIFFI_ENCODERS["null_token"] = slice(NULL_COLUMN, NULL_COLUMN + 1)
FOREIGN_ENCODERS = {"text": slice(0, None)}  # of the pipelines of diffusers


class EncoderTokens(NamedTuple):
    """The tokens of a prompt for an encoder, the first of them in column `first` of what the U-Net attends to."""

    encoder: str
    tokens: PromptTokens
    first: int


@dataclass(frozen=True)
class TokenMass:
    """The attention that a token of the prompt got.

    Args:
        text (`str`): Its piece of the prompt.
        encoder (`str`): `clip_text` or `t5`; of the pipelines of diffusers `text`.
        column (`int`): Its column in what the U-Net attends to.
        masses (`torch.Tensor`): (noise levels,), see [`AttentionRecord.masses`].
    """

    text: str
    encoder: str
    column: int
    masses: torch.Tensor

    @property
    def mass(self) -> float:
        """The mean over the noise levels."""
        return self.masses.mean().item()


@dataclass(frozen=True)
class AttentionMatrix:
    """All probabilities of one layer in one call.

    Args:
        layer (`str`): The name of the layer.
        sigma (`torch.Tensor`): (images,), the noise levels.
        images (`range`): The places of these images in the batch.
        probabilities (`torch.Tensor`): (images, heads, pixels, columns).
    """

    layer: str
    sigma: torch.Tensor
    images: range
    probabilities: torch.Tensor


@dataclass(frozen=True)
class RecordedCall:
    """Where in a record the values of one call of a U-Net go.

    Args:
        images (`range`): The places of the call's images in the batch.
        sigma (`torch.Tensor`): (images,), their noise levels, on the device of the values.
    """

    images: range
    sigma: torch.Tensor

    @cached_property
    def by_image(self) -> torch.Tensor:
        """Where values go that have a place for each image."""
        return torch.arange(self.images.start, self.images.stop, device=self.sigma.device)

    @cached_property
    def by_level(self) -> torch.Tensor:
        """Where values go that have a place for each image and bin of sigma."""
        bins = ((self.level - LOWEST_DECADE) * BINS_PER_DECADE).long().clamp(0, BINS - 1)
        return self.by_image * BINS + bins

    @cached_property
    def level(self) -> torch.Tensor:
        """log10(sigma)."""
        return self.sigma.clamp(min=1e-30).log10()


class _Means:
    """Running means of tensors of one shape in a number of places, on the device of what is added."""

    def __init__(self, places: int, like: torch.Tensor):
        self.sums = like.new_zeros(places, *like.shape[1:])
        self.counts = like.new_zeros(places)

    def add(self, places: torch.Tensor, values: torch.Tensor) -> None:
        self.sums.index_add_(0, places, values)
        self.counts.index_add_(0, places, torch.ones_like(places, dtype=self.counts.dtype))

    def read(self, *shape: int) -> torch.Tensor:
        """The means on the CPU, with the places in this shape; NaN where nothing was added."""
        sums, counts = self.sums.cpu(), self.counts.cpu()
        return (sums / counts.reshape(-1, *[1] * (sums.ndim - 1))).unflatten(0, shape)

    def numel(self) -> int:
        return self.sums.numel() + self.counts.numel()


class AttentionRecord:
    """Attention to the columns of the text, by image, layer and noise level, and where in the image.

    A mass is the share of attention that a column of the text gets: the mean of the softmax over pixels and heads. It
    is kept for each image, layer and noise level, as a running mean for each of 160 bins of sigma, 32 a decade, which
    tell the steps of schedules of up to 40 steps apart (EDM, DDIM). Memory does not depend on the number of steps:

    - masses: images x 160 x (columns + 1) floats for each layer that was called; 0.8 MB an image for SD 1.5;
    - heat maps: images x columns x pixels floats for each resolution; 1.7 MB an image for SD 1.5 at 512 x 512;
    - self-attention: images x pixels^2 floats for each resolution.

    Only `matrices` grow, by every matrix of every call.

    Args:
        encoders (`dict`): The columns of each encoder, as `slice`s by its name.
        unconditional (`bool`): Whether it is attention of the unconditional half of guidance, which sees no prompt.
        num_images (`int`): Images of a call of the pipeline.
        prompts (`list` of `str`): What is drawn, if it is known. Image i belongs to prompt i * prompts // images.
        tokens (`dict`): For each prompt a list of [`EncoderTokens`].

    Attributes:
        matrices (`list` of [`AttentionMatrix`]): Whole matrices, if they are kept.
    """

    def __init__(
        self,
        encoders: Mapping[str, slice] = FOREIGN_ENCODERS,
        unconditional: bool = False,
        num_images: int = 0,
        prompts: Sequence[str] = (),
        tokens: Mapping[str, Sequence[EncoderTokens]] | None = None,
    ):
        self.encoders, self.unconditional = encoders, unconditional
        self.num_images, self.prompts = num_images, list(prompts)
        self.tokens = dict(tokens or {})
        self.matrices: list[AttentionMatrix] = []
        self._levels: _Means | None = None  # log10(sigma)
        self._masses: dict[str, _Means] = {}
        self._heat_maps: dict[tuple[int, int], _Means] = {}
        self._self_attention: dict[tuple[int, int], _Means] = {}

    def set_num_images(self, num_images: int) -> None:
        """Says how many images a call of the pipeline draws; it is the same number for all that is recorded."""
        if self._masses and num_images != self.num_images:
            raise ValueError(
                f"the U-Net draws {num_images} images after {self.num_images} were recorded; open another "
                "record_attention block for them."
            )
        self.num_images = num_images

    def begin_call(self, images: range, sigma: torch.Tensor) -> RecordedCall:
        """Begins a call of the U-Net for these images, which are at noise levels sigma (images,)."""
        if not 0 <= images.start < images.stop <= self.num_images:
            raise ValueError(f"{images} is not within the {self.num_images} images of the record; set num_images.")
        call = RecordedCall(images, sigma)
        if not self._masses:
            self._levels = None  # of a call that failed before its first layer, perhaps with other images
        if self._levels is None:
            self._levels = _Means(self.num_images * BINS, call.level)
        self._levels.add(call.by_level, call.level)
        return call

    def add_masses(self, layer: str, masses: torch.Tensor, call: RecordedCall) -> None:
        """Adds the masses of a layer, (images, columns)."""
        if layer not in self._masses:
            self._masses[layer] = _Means(self.num_images * BINS, masses)
        self._masses[layer].add(call.by_level, masses)

    def add_heat_maps(self, grid: tuple[int, int], maps: torch.Tensor, call: RecordedCall) -> None:
        """Adds the mass on every column at each pixel of a grid (rows, columns), (images, pixels, columns)."""
        if grid not in self._heat_maps:
            self._heat_maps[grid] = _Means(self.num_images, maps)
        self._heat_maps[grid].add(call.by_image, maps)

    def add_self_attention(self, grid: tuple[int, int], maps: torch.Tensor, call: RecordedCall) -> None:
        """Adds how the pixels of a grid (rows, columns) attend to each other, (images, queries, keys)."""
        if grid not in self._self_attention:
            self._self_attention[grid] = _Means(self.num_images, maps)
        self._self_attention[grid].add(call.by_image, maps)

    @property
    def layers(self) -> list[str]:
        """The names of the cross-attention layers that were called, in the order of their first calls."""
        return list(self._masses)

    @property
    def sigmas(self) -> list[float]:
        """The noise levels at which cross-attention was called, highest first: the (geometric) mean of each bin."""
        bins = self._bins()
        assert self._levels is not None
        return (10 ** self._levels.read(self.num_images, BINS)[:, bins].nanmean(0)).tolist()

    def masses(self, layer: str | None = None) -> torch.Tensor:
        """The mass on every column: float32 (images, noise levels, columns), the noise levels as in `sigmas`.

        Args:
            layer (`str`, *optional*): One of `layers`, NaN where it was not called (an expert's at the noise levels of
                another); by default the mean over the layers that were called.

        Raises:
            ValueError: Nothing was recorded, or not this layer.
        """
        bins = self._bins()
        if layer is not None and layer not in self._masses:
            raise ValueError(f"layer={layer!r} was not recorded; there are {', '.join(self.layers)}.")
        if layer is not None:
            return self._masses[layer].read(self.num_images, BINS)[:, bins]
        return torch.stack([means.read(self.num_images, BINS)[:, bins] for means in self._masses.values()]).nanmean(0)

    def shares(self) -> dict[str, torch.Tensor]:
        """The mass on each encoder, float32 (images, noise levels): of eDiff-I `clip_text`, `t5`, `clip_image` and
        `null_token`, which sum to 1, of the pipelines of diffusers `text`. They include the start, end and padding of
        the text. `words` is the mass on what is left without these, if the prompt is known."""
        masses = self.masses()
        shares = {name: masses[..., columns].sum(-1) for name, columns in self.encoders.items()}
        if self.prompts and not self.unconditional:
            columns = [[token.column for token in self.words(image)] for image in range(self.num_images)]
            words = [masses[image][:, there].sum(-1) for image, there in enumerate(columns)]
            shares["words"] = torch.stack(words)
        return shares

    def words(self, image: int = 0) -> list[TokenMass]:
        """The mass on each token of an image's prompt, encoder by encoder, without start, end and padding.

        Raises:
            ValueError: There is no such image, or its prompt is not known.
        """
        masses = self.masses()
        prompt = self._prompt(image)
        return [
            TokenMass(tokens.prompt[start:stop], name, first + column, masses[image, :, first + column])
            for name, tokens, first in self._tokens(prompt)
            for column, (start, stop) in enumerate(tokens.places)
            if start < stop
        ]

    def heat_map(
        self,
        phrase: str,
        image: int = 0,
        size: tuple[int, int] | None = None,
        encoder: str | None = None,
        occurrence: int | None = None,
    ) -> torch.Tensor:
        """Where a phrase is attended to: the mass of its tokens at each pixel, float32 (height, width).

        It is the mean over noise levels, layers and heads; maps of coarser layers are enlarged bilinearly.

        Args:
            phrase (`str`): Words of the prompt; case does not count.
            image (`int`): Which image.
            size (`tuple`, *optional*): Height and width of the map; by default those of the finest layer.
            encoder (`str`, *optional*): `clip_text` or `t5` alone.
            occurrence (`int`, *optional*): Which occurrence, counted from 0; all by default.

        Raises:
            ValueError: The prompt has no such phrase, or no heat maps were recorded.
        """
        self._bins()
        if not self._heat_maps:
            raise ValueError("no heat maps were recorded; ask for them: record_attention(pipe, heat_maps=True).")
        columns = self._columns(phrase, self._prompt(image), encoder, occurrence)
        return self._mean_map(image, columns, size)

    def self_attention_map(self, image: int = 0, grid: tuple[int, int] | None = None) -> torch.Tensor:
        """How pixels attend to pixels: float32 (rows, columns, rows, columns) of a grid, queries first; the mean over
        noise levels, heads, and the layers of this resolution.

        Args:
            image (`int`): Which image.
            grid (`tuple`, *optional*): Rows and columns of the layers; by default the finest that was recorded.

        Raises:
            ValueError: There is no such image or grid, or no self-attention was recorded.
        """
        grid = self._self_attention_grid(grid)
        self._check_image(image)
        return self._self_attention[grid].read(self.num_images)[image].reshape(*grid, *grid)

    def numel(self) -> int:
        """How many numbers are stored."""
        stores = [*self._masses.values(), *self._heat_maps.values(), *self._self_attention.values()]
        stores += [] if self._levels is None else [self._levels]
        matrices = sum(matrix.probabilities.numel() for matrix in self.matrices)
        return sum(store.numel() for store in stores) + matrices

    def _bins(self) -> torch.Tensor:
        """The bins of sigma with cross-attention in them, the highest first."""
        if not self._masses:
            half = " with guidance" if self.unconditional else ""
            raise ValueError(
                f"nothing was recorded: call the pipeline{half} inside the record_attention block, at noise levels "
                "whose expert has cross-attention."
            )
        counts = torch.stack([means.counts.cpu() for means in self._masses.values()]).sum(0)
        return counts.unflatten(0, (self.num_images, BINS)).sum(0).nonzero()[:, 0].flip(0)

    def _mean_map(self, image: int, columns: list[int], size: tuple[int, int] | None) -> torch.Tensor:
        """The mass on columns at each pixel, the mean over all calls at all resolutions."""
        grids = {grid: means for grid, means in self._heat_maps.items() if means.counts[image]}
        size = size or max(grids)
        total, weight = torch.zeros(size), 0.0
        for grid, means in grids.items():
            mass = means.sums[image][:, columns].sum(1).cpu().reshape(1, 1, *grid)  # of all calls
            total += F.interpolate(mass, size, mode="bilinear")[0, 0]
            weight += means.counts[image].item()
        return total / weight

    def _self_attention_grid(self, grid: tuple[int, int] | None) -> tuple[int, int]:
        """The grid whose self-attention is meant: the finest, if none is named."""
        if not self._self_attention:
            raise ValueError(
                "no self-attention was recorded; ask for it with record_attention(pipe, self_attention=True) on a "
                f"U-Net that has self-attention at up to {MAX_SELF_ATTENTION_PIXELS} pixels."
            )
        grid = grid or max(self._self_attention)
        if grid not in self._self_attention:
            raise ValueError(f"grid={grid} was not recorded; there are {sorted(self._self_attention)}.")
        return grid

    def _check_image(self, image: int) -> None:
        if not 0 <= image < self.num_images:
            raise ValueError(f"image={image}: {self.num_images} images were recorded, counted from 0.")

    def _prompt(self, image: int) -> str:
        """What an image shows."""
        self._check_image(image)
        if self.unconditional:
            raise ValueError("the unconditional half of guidance was recorded, which does not see the prompt.")
        if not self.prompts:
            raise ValueError("which words? Call the pipeline with the prompt instead of embeddings or a schedule.")
        return self.prompts[image * len(self.prompts) // self.num_images]

    def _tokens(self, prompt: str) -> Sequence[EncoderTokens]:
        """The tokens of a prompt for each encoder that reads it."""
        if prompt not in self.tokens:
            raise ValueError(f"the tokens of {prompt!r} are not known; give them: AttentionRecord(tokens=...).")
        return self.tokens[prompt]

    def _as_tokenized(self, phrase: str) -> str:
        """A phrase as it stands in the text that is tokenized."""
        return phrase

    def _columns(self, phrase: str, prompt: str, encoder: str | None, occurrence: int | None) -> list[int]:
        """The columns of a phrase's tokens for one encoder, or for all of them."""
        encoders = self._tokens(prompt)
        names = [name for name, _, _ in encoders]
        if encoder is not None and encoder not in names:
            raise ValueError(f"encoder={encoder!r}: the text has {', '.join(names)}.")
        if not isinstance(phrase, str) or not phrase.strip():
            raise ValueError(f"the phrase {phrase!r} must be words of the prompt.")
        columns = []
        for name, tokens, first in encoders:
            if encoder in (None, name):
                spans = find_phrase(tokens.prompt, self._as_tokenized(phrase), occurrence)
                columns += [first + column for column in tokens.columns(spans)]
        if not columns:
            raise ValueError(f"the end of {prompt!r} is cut off, with it {phrase!r}; write a shorter prompt.")
        return columns

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What a U-Net attends to while a pipeline draws: on each token and encoder (Figure 3), and where in the image.

with record_attention(pipe, heat_maps=True) as recorder:
    image = pipe("a rocket above a red apple").images[0]
recorder.shares()["t5"]  # by the noise level
recorder.heat_map("rocket")
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as nnf

from .foreign_pipelines import NoiseLevels, as_tokenized, prompt_tokens, replaced
from .models.attention import EDiffIAttention
from .models.encoder_table import CLIP_IMAGE_COLUMN, CLIP_TEXT_COLUMNS, NULL_COLUMN, T5_COLUMNS
from .paint.painting import unet_grids
from .paint.processor import attention_probabilities, reads_text
from .phrases import PromptTokens, find_phrase

# Noise levels are told apart by these bins, equally wide in log sigma; what lies outside counts in the outermost ones.
BINS_PER_DECADE = 32
LOWEST_DECADE, DECADES = -3, 5  # sigma from 0.001 to 100
BINS = BINS_PER_DECADE * DECADES
MAX_SELF_ATTENTION_PIXELS = 32 * 32  # a map has the square of that
EDIFFI_ENCODERS = {
    "clip_text": CLIP_TEXT_COLUMNS,
    "t5": T5_COLUMNS,
    "clip_image": slice(CLIP_IMAGE_COLUMN, CLIP_IMAGE_COLUMN + 1),
    "null_token": slice(NULL_COLUMN, NULL_COLUMN + 1),
}
NAMES = {"CLIP": "clip_text", "T5": "t5"}  # of what has a tokenizer


@dataclass(frozen=True)
class TokenMass:
    """The attention that a token of the prompt got.

    Args:
        text (`str`): Its piece of the prompt.
        encoder (`str`): `clip_text` or `t5`; of the pipelines of diffusers `text`.
        column (`int`): Its column in what the U-Net attends to.
        masses (`torch.Tensor`): (noise levels,), see [`AttentionRecorder.masses`].
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
    """All probabilities of one layer in one call: sigma (images,), the places of its images in the batch, and
    (images, heads, pixels, columns)."""

    layer: str
    sigma: torch.Tensor
    images: range
    probabilities: torch.Tensor


class _Means:
    """Running means of equal tensors in so many places, on the device of what is added."""

    def __init__(self, places: int, like: torch.Tensor):
        self.sums = like.new_zeros(places, *like.shape[1:])
        self.counts = like.new_zeros(places)

    def add(self, places: torch.Tensor, values: torch.Tensor) -> None:
        self.sums.index_add_(0, places, values)
        self.counts.index_add_(0, places, torch.ones_like(places, dtype=self.counts.dtype))

    def read(self, *shape: int) -> torch.Tensor:
        """The means on the CPU with the places in this shape; NaN where there are none."""
        sums, counts = self.sums.cpu(), self.counts.cpu()
        return (sums / counts.reshape(-1, *[1] * (sums.ndim - 1))).unflatten(0, shape)

    def numel(self) -> int:
        return self.sums.numel() + self.counts.numel()


class AttentionRecorder:
    """What [`record_attention`] has seen. It stays readable after the block, and waits for the device when it is read.

    A mass is the share of attention that a column of the text gets: the mean of the softmax over pixels and heads. It
    is kept for each image, layer and noise level, as a running mean for each of 160 bins of sigma, 32 a decade, which
    tell the steps of schedules of up to 40 steps apart (EDM, DDIM). Memory does not depend on the number of steps:

    - masses: images x 160 x (columns + 1) floats for each layer that was called; 0.8 MB an image for SD 1.5;
    - `heat_maps`: images x columns x pixels floats for each resolution; 1.7 MB an image for SD 1.5 at 512 x 512;
    - `self_attention`: images x pixels^2 floats for each resolution of up to 32 x 32.

    Only `full` grows, by every matrix of every call.

    Attributes:
        prompts (`list` of `str`): What is drawn; empty where it is not known, or changes under way
            (`prompt_schedule`). Image i belongs to prompt i * prompts // images.
        num_images (`int`): Images of a call of the pipeline.
        matrices (`list` of [`AttentionMatrix`]): With `full`, everything.
    """

    def __init__(
        self,
        pipe: Any,
        unet: str = "unet",
        heat_maps: bool = False,
        self_attention: bool = False,
        full: bool = False,
        unconditional: bool = False,
    ):
        self.pipe, self.unet_name = pipe, unet
        self.unet: Any = getattr(pipe, unet, None)
        self.keeps_heat_maps, self.keeps_self_attention, self.keeps_matrices = heat_maps, self_attention, full
        self.unconditional = unconditional
        if self.unet is None:
            raise ValueError(f"{type(pipe).__name__} has no {unet!r}; name a U-Net of it, such as 'unet'.")
        self._sigma_of = NoiseLevels(pipe)
        self._text_layers = {name: layer for name, layer in self.unet.named_modules() if reads_text(layer)}
        if not self._text_layers:
            raise ValueError(f"the {unet} has no cross-attention to the text: there is nothing to record.")
        self._is_ediffi = isinstance(next(iter(self._text_layers.values())), EDiffIAttention)
        self.prompts: list[str] = []
        self._drawn: Any = []  # the prompts, or their schedule
        self._encoders: Sequence[str] = tuple(NAMES.values())  # that read them
        self._row_encoders: set[str] = set()  # that recorded rows are conditioned on
        self.num_images = 0
        self.matrices: list[AttentionMatrix] = []
        self._copies = 1
        self._announced: tuple[range, int] | None = None  # the images of the next call, and of how many
        # Of the running call of the U-Net: its images and rows, sigma and the places of masses, and the resolutions.
        self._projected: dict[Any, list[torch.Tensor]] = {}  # of the running layer
        self._images = range(0)
        self._rows: slice | None = None
        self._sigma = torch.empty(0)
        self._places: dict[int, torch.Tensor] = {}
        self._grids: dict[int, tuple[int, int]] = {}
        self._levels: _Means | None = None  # log10(sigma)
        self._masses: dict[str, _Means] = {}
        self._heat_maps: dict[tuple[int, int], _Means] = {}
        self._self_attention: dict[tuple[int, int], _Means] = {}

    # --- what was seen ---

    @property
    def layers(self) -> list[str]:
        """The names of the cross-attention layers that were called, in the order of their first calls."""
        return list(self._masses)

    @property
    def sigmas(self) -> list[float]:
        """The noise levels at which cross-attention was called, highest first: the (geometric) mean of each bin."""
        return (10 ** self._read_levels()).tolist()

    def masses(self, layer: str | None = None) -> torch.Tensor:
        """The mass on every column: float32 (images, noise levels, columns), the noise levels as in `sigmas`.

        Args:
            layer (`str`, *optional*): One of `layers`, NaN where it was not called (an expert's at the noise levels of
                another); by default the mean over the layers that were called.
        """
        bins = self._bins()
        if layer is not None:
            if layer not in self._masses:
                raise ValueError(f"layer={layer!r} was not recorded; there are {', '.join(self.layers)}.")
            return self._masses[layer].read(self.num_images, BINS)[:, bins]
        return torch.stack([own.read(self.num_images, BINS)[:, bins] for own in self._masses.values()]).nanmean(0)

    def shares(self) -> dict[str, torch.Tensor]:
        """The mass on each encoder, float32 (images, noise levels): of eDiff-I `clip_text`, `t5`, `clip_image` and
        `null_token`, which sum to 1, of the pipelines of diffusers `text`. They include the start, end and padding of
        the text. `words` is the mass on what is left without these, if the prompt is known."""
        masses = self.masses()
        encoders = EDIFFI_ENCODERS if self._is_ediffi else {"text": slice(0, None)}
        found = {name: masses[..., columns].sum(-1) for name, columns in encoders.items()}
        if self.prompts and not self.unconditional:
            columns = [[token.column for token in self.words(image)] for image in range(self.num_images)]
            found["words"] = torch.stack([own[:, there].sum(-1) for own, there in zip(masses, columns, strict=True)])
        return found

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
        grids = {grid: means for grid, means in self._heat_maps.items() if means.counts[image]}
        size = size or max(grids)
        total, weight = torch.zeros(size), 0.0
        for grid, means in grids.items():
            count = means.counts[image].item()
            mass = means.sums[image][:, columns].sum(1).cpu().reshape(1, 1, *grid)  # of all calls
            total += nnf.interpolate(mass, size, mode="bilinear")[0, 0]
            weight += count
        return total / weight

    def self_attention_map(self, image: int = 0, grid: tuple[int, int] | None = None) -> torch.Tensor:
        """How pixels attend to pixels: float32 (rows, columns, rows, columns) of a grid, queries first; the mean over
        noise levels, layers of this resolution, and heads.

        Args:
            image (`int`): Which image.
            grid (`tuple`, *optional*): Rows and columns of the layers; by default the finest that was recorded.
        """
        if not self._self_attention:
            raise ValueError(
                "no self-attention was recorded; ask for it with record_attention(pipe, self_attention=True) on a "
                f"U-Net that has some at up to {MAX_SELF_ATTENTION_PIXELS} pixels."
            )
        grid = grid or max(self._self_attention)
        if grid not in self._self_attention:
            raise ValueError(f"grid={grid} was not recorded; there are {sorted(self._self_attention)}.")
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

    def _read_levels(self) -> torch.Tensor:
        bins = self._bins()
        assert self._levels is not None
        return self._levels.read(self.num_images, BINS)[:, bins].nanmean(0)

    def _check_image(self, image: int) -> None:
        if not 0 <= image < self.num_images:
            raise ValueError(f"image={image}: {self.num_images} images were recorded, counted from 0.")

    def _prompt(self, image: int) -> str:
        self._check_image(image)
        if self.unconditional:
            raise ValueError("the unconditional half of guidance was recorded, which does not see the prompt.")
        if not self.prompts:
            raise ValueError("which words? Call the pipeline with the prompt instead of embeddings or a schedule.")
        return self.prompts[image * len(self.prompts) // self.num_images]

    def _tokens(self, prompt: str) -> list[tuple[str, PromptTokens, int]]:
        if self._is_ediffi:
            encoders = [(NAMES[name], tokens, first) for name, tokens, first in self.pipe.prompt_tokens(prompt)]
            return [encoder for encoder in encoders if encoder[0] in self._row_encoders.intersection(self._encoders)]
        return [("text", prompt_tokens(self.pipe, prompt)[1], 0)]

    def _columns(self, phrase: str, prompt: str, encoder: str | None, occurrence: int | None) -> list[int]:
        encoders = self._tokens(prompt)
        if encoder is not None and encoder not in [name for name, _, _ in encoders]:
            raise ValueError(f"encoder={encoder!r}: the text has {', '.join(name for name, _, _ in encoders)}.")
        if not isinstance(phrase, str) or not phrase.strip():
            raise ValueError(f"the phrase {phrase!r} must be words of the prompt.")
        columns = []
        for name, tokens, first in encoders:
            if encoder in (None, name):
                spans = find_phrase(tokens.prompt, as_tokenized(self.pipe, phrase), occurrence)
                columns += [first + column for column in tokens.columns(spans)]
        if not columns:
            raise ValueError(f"the end of {prompt!r} is cut off, with it {phrase!r}; write a shorter prompt.")
        return columns

    # --- how it sees it ---

    def attach(self, stack: ExitStack) -> None:
        """Starts recording until the stack is closed. Processors are left alone: hooks read what layers get, and their
        Q and K."""
        hooks = self.unet._forward_pre_hooks.values()
        if any(isinstance(getattr(hook, "__self__", None), AttentionRecorder) for hook in hooks):
            raise ValueError(
                f"the {self.unet_name} is recorded already: leave the other record_attention block first."
            )

        def hook(module: Any, function: Callable) -> None:
            stack.callback(module.register_forward_pre_hook(function, with_kwargs=True).remove)

        hook(self.unet, self._begin_call)
        for network in dict.fromkeys(getattr(self.unet, "experts", [self.unet])):
            hook(network, self._begin_network)
        for name, layer in self._text_layers.items():
            self._watch(stack, layer, partial(self._record, name))
        if self.keeps_self_attention:
            for layer in self.unet.modules():
                if hasattr(layer, "set_processor") and getattr(layer, "is_cross_attention", None) is False:
                    self._watch(stack, layer, self._record_self_attention)
        if hasattr(self.pipe, "encode_prompt"):
            stack.enter_context(replaced(self.pipe, "encode_prompt", self._encode_prompt))
        if hasattr(self.pipe, "_batch_observers"):
            self.pipe._batch_observers += (self._announce,)
            stack.callback(self._stop_observing)

    def _watch(self, stack: ExitStack, layer: Any, function: Callable) -> None:
        """Calls a function when a layer has run, and keeps what its projections returned until then."""
        for projection in (layer.to_q, layer.to_k):
            if isinstance(projection, torch.nn.Module):
                stack.callback(projection.register_forward_hook(self._keep).remove)
        stack.callback(layer.register_forward_hook(function, with_kwargs=True).remove)

    def _keep(self, projection: Any, args: tuple, output: torch.Tensor) -> None:
        self._projected.setdefault(projection, []).append(output)

    def _probabilities(self, attn: Any, states: torch.Tensor, context: Any, mask: torch.Tensor | None) -> torch.Tensor:
        """Those of the recorded rows. Q and K are the layer's own where it made each once and for all rows."""
        assert self._rows is not None
        kept = [self._projected.get(projection, []) for projection in (attn.to_q, attn.to_k)]
        is_plain = getattr(attn, "added_kv_proj_dim", None) is None
        is_plain &= all(len(outputs) == 1 and len(outputs[0]) == len(states) for outputs in kept)
        projected = [outputs[0] for outputs in kept] if is_plain else None
        return attention_probabilities(attn, states, context, mask, self._rows, projected)

    def _stop_observing(self) -> None:
        others = (observer for observer in self.pipe._batch_observers if observer != self._announce)
        self.pipe._batch_observers = tuple(others)

    def _encode_prompt(self, original: Callable, *args: Any, **kwargs: Any) -> Any:
        """Learns what is drawn, and of the pipelines of diffusers how many images."""
        bound = signature(original).bind(*args, **kwargs)
        bound.apply_defaults()
        prompt, embeds = bound.arguments.get("prompt"), bound.arguments.get("prompt_embeds")
        prompts = [] if prompt is None else [prompt] if isinstance(prompt, str) else list(prompt)
        schedule = getattr(self.pipe, "_prompt_schedule", None)
        drawn = prompts
        if schedule is not None and len(schedule.prompts) > 1:  # each of its prompts comes by here
            drawn, prompts = schedule, []
        if self._masses and drawn != self._drawn:
            raise ValueError(
                f"the pipeline is called with {drawn!r} after {self._drawn!r} was recorded; open a record_attention "
                "block for each prompt."
            )
        self.prompts, self._drawn = prompts, drawn
        self._encoders = bound.arguments.get("encoders") or self._encoders
        if not self._is_ediffi:
            count = len(prompts) or (0 if embeds is None else len(embeds))
            count *= int(bound.arguments.get("num_images_per_prompt") or 1)
            self._announced = (range(count), count) if count else None
            self._copies = 2 if getattr(self.pipe, "do_perturbed_attention_guidance", False) else 1
        return original(*args, **kwargs)

    def _announce(self, unet: Any, images: range, total: int, encoders: Sequence[str]) -> None:
        if unet is self.unet:
            self._announced = images, total
            self._row_encoders.update(encoders)

    @torch.no_grad()
    def _begin_call(self, unet: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        """Finds the rows, the noise level, and where masses go."""
        self._projected.clear()  # of a layer that failed
        sample = args[0] if args else kwargs["sample"]
        timestep = args[1] if len(args) > 1 else kwargs["timestep"]
        images, total = self._announced or (range(len(sample)), len(sample))
        if self._masses and total != self.num_images:
            raise ValueError(
                f"the U-Net draws {total} images after {self.num_images} were recorded; open another record_attention "
                "block for them."
            )
        count = len(images)
        if len(sample) % count or len(sample) < self._copies * count:
            raise ValueError(f"the U-Net is called with {len(sample)} rows for {count} images; which are recorded?")
        # Rows: the unconditional half of guidance, the images, and perturbed copies of them.
        stop = len(sample) - (self._copies - 1) * count
        self._images, self.num_images, self._rows = images, total, slice(stop - count, stop)
        if self.unconditional:
            self._rows = slice(0, count) if stop > count else None
            if self._rows is None:
                return
        if not self._masses:
            self._levels = None  # of a call that failed before its first layer, perhaps with other images
        sigma = self._sigma_of(torch.as_tensor(timestep, device=sample.device)).reshape(-1).float()
        self._sigma = sigma[self._rows] if len(sigma) == len(sample) else sigma.expand(count)
        level = self._sigma.clamp(min=1e-30).log10()
        bins = ((level - LOWEST_DECADE) * BINS_PER_DECADE).long().clamp(0, BINS - 1)
        image = torch.arange(images.start, images.stop, device=sample.device)
        self._places = {1: image, BINS: image * BINS + bins}
        self._levels = self._add(self._levels, BINS, level)

    def _begin_network(self, network: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        sample, patch_size = args[0] if args else kwargs["sample"], network.config.get("patch_size") or 1
        height, width = (size // patch_size for size in sample.shape[-2:])
        self._grids = {rows * columns: (rows, columns) for rows, columns in unet_grids(height, width)}

    def _add(self, means: _Means | None, places: int, values: torch.Tensor) -> _Means:
        """Adds values (rows, ...) to running means with so many places an image, new ones if there are none."""
        means = means or _Means(self.num_images * places, values)
        means.add(self._places[places], values)
        return means

    @torch.no_grad()
    def _record(self, name: str, attn: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        """Takes in a call of a cross-attention layer."""
        states, context, mask = _inputs(args, kwargs)
        if self._rows is not None and context is not None:
            self._take(name, self._probabilities(attn, states, context, mask), context)
        self._projected.clear()

    def _take(self, name: str, probabilities: torch.Tensor, context: Any) -> None:
        # The keys behind those of the text are the pixels' own (DeepFloyd IF).
        text = probabilities[..., : (context[0] if isinstance(context, tuple) else context).shape[1]]
        if self.keeps_matrices:
            self.matrices.append(AttentionMatrix(name, self._sigma, self._images, text))
        if self.keeps_heat_maps:
            grid, per_pixel = self._grid(text), text.mean(1)
            self._heat_maps[grid] = self._add(self._heat_maps.get(grid), 1, per_pixel)
            mass = per_pixel.mean(1)
        else:
            mass = text.mean((1, 2))
        self._masses[name] = self._add(self._masses.get(name), BINS, mass)

    @torch.no_grad()
    def _record_self_attention(self, attn: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        states, context, mask = _inputs(args, kwargs)
        pixels = states.shape[1] if states.ndim == 3 else states.shape[-2] * states.shape[-1]
        if self._rows is not None and context is None and pixels <= MAX_SELF_ATTENTION_PIXELS:
            probabilities = self._probabilities(attn, states, None, mask)
            grid = self._grid(probabilities)
            self._self_attention[grid] = self._add(self._self_attention.get(grid), 1, probabilities.mean(1))
        self._projected.clear()

    def _grid(self, probabilities: torch.Tensor) -> tuple[int, int]:
        pixels = probabilities.shape[2]
        if pixels not in self._grids:
            raise ValueError(
                f"an attention of {pixels} pixels is none of the U-Net's resolutions ({list(self._grids.values())}): "
                "it has no map."
            )
        return self._grids[pixels]


def _inputs(args: tuple, kwargs: dict[str, Any]) -> list[Any]:
    """What an attention layer is called with: states, the text's states, mask."""
    names = ("hidden_states", "encoder_hidden_states", "attention_mask")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return [given.get(name) for name in names]


@contextmanager
def record_attention(
    pipe: Any,
    unet: str = "unet",
    *,
    heat_maps: bool = False,
    self_attention: bool = False,
    full: bool = False,
    unconditional: bool = False,
) -> Iterator[AttentionRecorder]:
    """Records what a U-Net of a pipeline attends to while the pipeline draws.

        >>> with record_attention(pipe, heat_maps=True) as recorder:
        ...     pipe("a rocket above a red apple")
        >>> recorder.sigmas, recorder.shares()["t5"], recorder.words(), recorder.heat_map("rocket")

    For [`EDiffIPipeline`] and the pipelines of diffusers with a `unet` (Stable Diffusion, SDXL, DeepFloyd IF and their
    other forms), with an [`ExpertRouterUNet`], in batches, with and without guidance, and painted with words. What is
    drawn is the very same image. Calls with the same prompts and number of images count as further samples. Guidance
    with weights for encoders has a row for each; that of the last weight but 0 is recorded.

    Args:
        pipe (`DiffusionPipeline`): The pipeline.
        unet (`str`): Which of its U-Nets; of a cascade `unet`, `unet_sr256` or `unet_sr1024`. Blocks of different
            U-Nets may be nested.
        heat_maps (`bool`): Whether to keep where in the image each token is attended to.
        self_attention (`bool`): Whether to keep how pixels attend to pixels, in layers of up to 32 x 32 pixels.
        full (`bool`): Whether to keep all probabilities of all cross-attention calls, see `recorder.matrices`.
        unconditional (`bool`): Whether to record the unconditional half of guidance instead of the images' own.

    Raises:
        ValueError: The U-Net cannot be recorded, or is already.
    """
    recorder = AttentionRecorder(pipe, unet, heat_maps, self_attention, full, unconditional)
    with ExitStack() as stack:
        recorder.attach(stack)
        yield recorder

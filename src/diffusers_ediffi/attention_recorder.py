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
from diffusers import DiffusionPipeline

from .attention_record import (
    EDIFFI_ENCODERS,
    FOREIGN_ENCODERS,
    MAX_SELF_ATTENTION_PIXELS,
    AttentionMatrix,
    AttentionRecord,
    EncoderTokens,
    RecordedCall,
)
from .foreign_pipelines import (
    BatchRows,
    NoiseLevels,
    as_tokenized,
    check_tells_rows,
    is_called_by_another,
    one_thread_at_a_time,
    prompt_tokens,
    replaced,
)
from .models.attention import EDiffIAttention
from .models.encoder_table import TEXT_ENCODERS
from .paint.painting import unet_grids
from .paint.processor import attention_probabilities, reads_text

NAMES = {encoder.label: encoder.name for encoder in TEXT_ENCODERS}  # of the encoders that have a tokenizer


class AttentionRecorder(AttentionRecord):
    """What [`record_attention`] has seen: an [`AttentionRecord`] that hooks fill while a pipeline draws.

    It stays readable after the block, and waits for the device when it is read.

    Attributes:
        prompts (`list` of `str`): What is drawn; empty if it is not known, or changes while the image is drawn
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
        self.unet = _unet_of(pipe, unet)
        self._sigma_of = NoiseLevels(pipe, _scheduler_of(pipe, unet))
        super().__init__(_encoders_of(pipe, self.unet, unet), unconditional)
        self.keeps_heat_maps, self.keeps_self_attention = heat_maps, self_attention
        self.keeps_matrices = full
        self._drawing = _Drawing(pipe, is_ediffi=self.encoders is not FOREIGN_ENCODERS)
        if isinstance(pipe, DiffusionPipeline) and not self._drawing.is_ediffi:
            check_tells_rows(pipe)
        self._projections = _Projections()
        self._call: RecordedCall | None = None  # the running one, if it is recorded
        self._rows = slice(0)  # of its batch
        self._grids: dict[int, tuple[int, int]] = {}  # rows and columns by the number of pixels

    def attach(self, stack: ExitStack) -> None:
        """Starts recording until the stack is closed. Processors are left alone: hooks read what layers get, and their
        Q and K."""
        hooks = self.unet._forward_pre_hooks.values()
        if any(isinstance(getattr(hook, "__self__", None), AttentionRecorder) for hook in hooks):
            raise ValueError(
                f"the {self.unet_name} is recorded already: leave the other record_attention block first."
            )
        self._attach_to_calls(stack)
        self._attach_to_layers(stack)
        if hasattr(self.pipe, "encode_prompt"):
            stack.enter_context(replaced(self.pipe, "encode_prompt", self._encode_prompt))
        if hasattr(self.pipe, "prepare_latents"):
            stack.enter_context(replaced(self.pipe, "prepare_latents", self._prepare_latents))
        if hasattr(self.pipe, "_batch_observers"):
            self.pipe._batch_observers += (self._announce,)
            stack.callback(self._stop_observing)

    def _attach_to_calls(self, stack: ExitStack) -> None:
        """Watches the U-Net, and the network that it calls: itself, or an expert."""
        stack.enter_context(one_thread_at_a_time(self.unet))
        handle = self.unet.register_forward_pre_hook(self._begin_call, with_kwargs=True)
        stack.callback(handle.remove)
        for network in dict.fromkeys(getattr(self.unet, "experts", [self.unet])):
            handle = network.register_forward_pre_hook(self._begin_network, with_kwargs=True)
            stack.callback(handle.remove)

    def _attach_to_layers(self, stack: ExitStack) -> None:
        for name, layer in self.unet.named_modules():
            if reads_text(layer):
                self._watch(stack, layer, partial(self._record, name))
        if self.keeps_self_attention:
            for layer in self.unet.modules():
                if hasattr(layer, "set_processor") and getattr(layer, "is_cross_attention", None) is False:
                    self._watch(stack, layer, self._record_self_attention)

    def _watch(self, stack: ExitStack, layer: Any, function: Callable) -> None:
        """Calls a function when a layer has run, and keeps what its projections returned until then."""
        self._projections.attach(stack, layer)
        stack.callback(layer.register_forward_hook(function, with_kwargs=True).remove)

    def _stop_observing(self) -> None:
        others = (observer for observer in self.pipe._batch_observers if observer != self._announce)
        self.pipe._batch_observers = tuple(others)

    def _encode_prompt(self, original: Callable, *args: Any, **kwargs: Any) -> Any:
        """Learns what is drawn from a call of the pipeline's `encode_prompt`."""
        bound = signature(original).bind(*args, **kwargs)
        bound.apply_defaults()
        drawn, prompts = _drawn(self.pipe, bound.arguments.get("prompt"))
        if self.layers and drawn != self._drawing.drawn:
            raise ValueError(
                f"the pipeline is called with {drawn!r} after {self._drawing.drawn!r} was recorded; open a "
                "record_attention block for each prompt."
            )
        self.prompts = prompts
        embeds = original(*args, **kwargs)
        self._drawing.begin(drawn, bound.arguments, embeds)
        return embeds

    def _prepare_latents(self, original: Callable, *args: Any, **kwargs: Any) -> Any:
        """Learns the size of the images of a pipeline of diffusers."""
        latents = original(*args, **kwargs)
        self._drawing.rows.prepared(latents)
        return latents

    def _announce(self, unet: Any, images: range, total: int, encoders: Sequence[str]) -> None:
        if unet is self.unet:
            self._drawing.announce(images, total, encoders)

    @torch.no_grad()
    def _begin_call(self, unet: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        """Finds the rows, the noise level, and where masses go. Calls of other pipelines with this U-Net are passed
        over."""
        self._projections.clear()  # of a layer that failed
        self._call = None
        if is_called_by_another(self.pipe):
            return
        sample = args[0] if args else kwargs["sample"]
        timestep = args[1] if len(args) > 1 else kwargs["timestep"]
        batch = self._drawing.batch_of(sample)
        self.set_num_images(batch.total)
        rows = batch.rows(len(sample), self.unconditional)
        if rows is not None:
            sigma = self._sigma_of(torch.as_tensor(timestep, device=sample.device)).reshape(-1).float()
            sigma = sigma[rows] if len(sigma) == len(sample) else sigma.expand(len(batch.images))
            self._call, self._rows = self.begin_call(batch.images, sigma), rows

    def _begin_network(self, network: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        sample = args[0] if args else kwargs["sample"]
        patch_size = network.config.get("patch_size") or 1
        height, width = (size // patch_size for size in sample.shape[-2:])
        self._grids = {rows * columns: (rows, columns) for rows, columns in unet_grids(height, width)}

    @torch.no_grad()
    def _record(self, name: str, attn: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        """Takes in a call of a cross-attention layer."""
        states, context, mask = _inputs(args, kwargs)
        if self._call is not None and context is not None:
            probabilities = self._probabilities(attn, states, context, mask)
            # The keys behind those of the text are the pixels' (DeepFloyd IF).
            text = context[0] if isinstance(context, tuple) else context
            self._take(name, probabilities[..., : text.shape[1]], self._call)
        self._projections.clear()

    def _take(self, name: str, probabilities: torch.Tensor, call: RecordedCall) -> None:
        """Adds a layer's attention to the text, (images, heads, pixels, columns)."""
        if self.keeps_matrices:
            self.matrices.append(AttentionMatrix(name, call.sigma, call.images, probabilities))
        if self.keeps_heat_maps:
            per_pixel = probabilities.mean(1)
            self.add_heat_maps(self._grid(probabilities), per_pixel, call)
            masses = per_pixel.mean(1)
        else:
            masses = probabilities.mean((1, 2))
        self.add_masses(name, masses, call)

    @torch.no_grad()
    def _record_self_attention(self, attn: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        """Takes in a call of a self-attention layer that is not too large."""
        states, context, mask = _inputs(args, kwargs)
        pixels = states.shape[1] if states.ndim == 3 else states.shape[-2] * states.shape[-1]
        if self._call is not None and context is None and pixels <= MAX_SELF_ATTENTION_PIXELS:
            probabilities = self._probabilities(attn, states, None, mask)
            self.add_self_attention(self._grid(probabilities), probabilities.mean(1), self._call)
        self._projections.clear()

    def _probabilities(self, attn: Any, states: torch.Tensor, context: Any, mask: torch.Tensor | None) -> torch.Tensor:
        """How the recorded rows attend: float32 (images, heads, queries, keys)."""
        projected = self._projections.query_and_key(attn, len(states))
        return attention_probabilities(attn, states, context, mask, self._rows, projected)

    def _grid(self, probabilities: torch.Tensor) -> tuple[int, int]:
        pixels = probabilities.shape[2]
        if pixels not in self._grids:
            raise ValueError(
                f"a layer attends at {pixels} pixels, which is not a resolution of the U-Net "
                f"({list(self._grids.values())}), so that it has no map; record without heat_maps and self_attention."
            )
        return self._grids[pixels]

    def _tokens(self, prompt: str) -> Sequence[EncoderTokens]:
        return self._drawing.tokens(prompt)

    def _as_tokenized(self, phrase: str) -> str:
        return as_tokenized(self.pipe, phrase)


@dataclass(frozen=True)
class _Batch:
    """Which images a call of a U-Net draws, of how many in all.

    The rows of its batch are the unconditional half of guidance, the images, and perturbed copies of them (PAG).
    """

    images: range
    total: int
    copies: int = 1  # of each image, itself included

    def rows(self, size: int, unconditional: bool) -> slice | None:
        """The rows of the images in a batch of this size, or of their unconditional half; `None` without guidance."""
        count = len(self.images)
        if size % count or size < self.copies * count:
            raise ValueError(f"the U-Net is called with {size} rows for {count} images; which are recorded?")
        stop = size - (self.copies - 1) * count
        if unconditional:
            return slice(0, count) if stop > count else None
        return slice(stop - count, stop)


class _Drawing:
    """What a pipeline says of what it draws: prompts or their schedule, encoders, and the images of the next call."""

    def __init__(self, pipe: Any, is_ediffi: bool):
        self.pipe, self.is_ediffi = pipe, is_ediffi
        self.drawn: Any = []  # the prompts, or their schedule
        self.encoders: Sequence[str] = tuple(NAMES.values())  # that read them
        self.row_encoders: set[str] = set()  # that recorded rows are conditioned on
        self.rows = BatchRows(pipe)  # of the pipelines of diffusers
        self.batch: _Batch | None = None  # what `EDiffIPipeline` says

    def begin(self, drawn: Any, arguments: dict[str, Any], embeds: Any) -> None:
        """Takes in a call of `encode_prompt`; of the pipelines of diffusers it says how many images are drawn."""
        self.drawn = drawn
        self.encoders = arguments.get("encoders") or self.encoders
        if not self.is_ediffi:
            self.rows.encoded(arguments, embeds)

    def batch_of(self, sample: torch.Tensor) -> _Batch:
        """The images of a call of the U-Net; without a word of the pipeline every row is an image."""
        count = self.rows.num_images
        if count is None:
            return self.batch or _Batch(range(len(sample)), len(sample))
        self.rows.check(sample)
        return _Batch(range(count), count, self.rows.copies)

    def announce(self, images: range, total: int, encoders: Sequence[str]) -> None:
        """Takes in what [`EDiffIPipeline`] says before each call of a U-Net."""
        self.batch = _Batch(images, total)
        self.row_encoders.update(encoders)

    def tokens(self, prompt: str) -> list[EncoderTokens]:
        """The tokens of a prompt for each encoder that reads it."""
        if not self.is_ediffi:
            return [EncoderTokens("text", prompt_tokens(self.pipe, prompt)[1], 0)]
        encoders = [
            EncoderTokens(NAMES[name], tokens, first) for name, tokens, first in self.pipe.prompt_tokens(prompt)
        ]
        return [tokens for tokens in encoders if tokens.encoder in self.row_encoders.intersection(self.encoders)]


class _Projections:
    """What `to_q` and `to_k` of the running layer returned."""

    def __init__(self) -> None:
        self._kept: dict[Any, list[torch.Tensor]] = {}

    def attach(self, stack: ExitStack, layer: Any) -> None:
        """Keeps what a layer's projections return until the stack is closed."""
        for projection in (layer.to_q, layer.to_k):
            if isinstance(projection, torch.nn.Module):
                stack.callback(projection.register_forward_hook(self._keep).remove)

    def clear(self) -> None:
        self._kept.clear()

    def query_and_key(self, attn: Any, size: int) -> list[torch.Tensor] | None:
        """Q and K of a batch of this size, each (batch, tokens, heads * head_dim), if the layer made each at once."""
        kept = [self._kept.get(projection, []) for projection in (attn.to_q, attn.to_k)]
        is_plain = getattr(attn, "added_kv_proj_dim", None) is None
        is_plain &= all(len(outputs) == 1 and len(outputs[0]) == size for outputs in kept)
        return [outputs[0] for outputs in kept] if is_plain else None

    def _keep(self, projection: Any, args: tuple, output: torch.Tensor) -> None:
        self._kept.setdefault(projection, []).append(output)


def _unet_of(pipe: Any, name: str) -> Any:
    unet = getattr(pipe, name, None)
    if unet is None:
        raise ValueError(f"{type(pipe).__name__} has no {name!r}; name a U-Net of it, such as 'unet'.")
    return unet


def _scheduler_of(pipe: Any, name: str) -> str:
    """The component that is the scheduler of a U-Net: in a cascade each has one."""
    own = name.replace("unet", "scheduler")
    return own if getattr(pipe, own, None) is not None else "scheduler"


def _encoders_of(pipe: Any, unet: Any, name: str) -> dict[str, slice]:
    """The encoders that a U-Net reads, with their columns."""
    layers = [layer for layer in unet.modules() if reads_text(layer)]
    if not layers:
        raise ValueError(f"the {name} has no cross-attention to the text: there is nothing to record.")
    if isinstance(layers[0], EDiffIAttention):
        return EDIFFI_ENCODERS
    return getattr(pipe, "encoder_columns", FOREIGN_ENCODERS)


def _drawn(pipe: Any, prompt: str | Sequence[str] | None) -> tuple[Any, list[str]]:
    """What a pipeline draws, and the prompts; of a schedule, whose prompts take turns, there are none."""
    schedule = getattr(pipe, "_prompt_schedule", None)
    if schedule is not None and len(schedule.prompts) > 1:  # each of its prompts is encoded in turn
        return schedule, []
    prompts = [] if prompt is None else [prompt] if isinstance(prompt, str) else list(prompt)
    return prompts, prompts


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
    with weights for encoders has a row for each; the row of the last weight that is not 0 is recorded.

    Args:
        pipe (`DiffusionPipeline`): The pipeline.
        unet (`str`): Which of its U-Nets; of a cascade `unet`, `unet_sr256` or `unet_sr1024`. Blocks of different
            U-Nets may be nested.
        heat_maps (`bool`): Whether to keep where in the image each token is attended to.
        self_attention (`bool`): Whether to keep how pixels attend to pixels, in layers of up to 32 x 32 pixels.
        full (`bool`): Whether to keep all probabilities of all cross-attention calls, see `recorder.matrices`.
        unconditional (`bool`): Whether to record the unconditional half of guidance instead of the conditional half.

    Raises:
        ValueError: The U-Net cannot be recorded, or is recorded already.
    """
    recorder = AttentionRecorder(pipe, unet, heat_maps, self_attention, full, unconditional)
    with ExitStack() as stack:
        recorder.attach(stack)
        yield recorder

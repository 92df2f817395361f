# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The attention of paint-with-words (section 4.4), for the U-Nets of eDiff-I and of diffusers.

softmax((Q K^T + w A) / sqrt(d_k)) V with w = w' log(1 + sigma) max(Q K^T), computed as softmax(S + w' log(1 + sigma)
max(S) A) V with S = Q K^T / sqrt(d_k), which is the same and does not overflow in half precision.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as nnf
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor,
    AttnProcessor2_0,
    CustomDiffusionAttnProcessor,
    CustomDiffusionAttnProcessor2_0,
    CustomDiffusionXFormersAttnProcessor,
    FusedAttnProcessor2_0,
)
from torch import nn

from ..models.attention import EDiffIAttention, EDiffIAttnProcessor, as_bias
from .regions import PaintRegion, mix_noise

NORMALIZERS = ("max", "std")
# Larger grids than this have no attention in practice; if one has, its matrix is made when the layer asks for it.
MAX_TOKENS_AHEAD = 2**14
# Those of Custom Diffusion are here, since they cannot take a mask.
STANDARD = (
    AttnProcessor2_0,
    CustomDiffusionAttnProcessor,
    CustomDiffusionAttnProcessor2_0,
    CustomDiffusionXFormersAttnProcessor,
)
CLOSED = -1000.0  # scores with a bias below this are those of masked columns; diffusers' masks are -10000


class Painting:
    """What is painted on a batch of images: A at every resolution, and w' log(1 + sigma) of the running call.

    The rows of a U-Net's batch that belong to painted images are its last ones; the rows before them are the
    unconditional ones of guidance, one for each image, which are never painted.

    Args:
        regions (`list` of `list` of [`PaintRegion`]): The regions of every prompt.
        columns (`list`): For every prompt and region the columns of the phrase ([`~regions.region_columns`]).
        num_columns (`int`): Columns of the text that the attention sees.
        strength (`float`): w'.
        normalizer (`str`): `max` of the scores, as in the paper, or their standard deviation `std`, each over the
            heads, queries and keys of one image. Negative maxima count as 0, masked columns do not count.
    """

    def __init__(
        self,
        regions: Sequence[Sequence[PaintRegion]],
        columns: Sequence[Sequence[Sequence[int]]],
        num_columns: int,
        strength: float,
        normalizer: str = "max",
    ):
        if normalizer not in NORMALIZERS:
            raise ValueError(f"normalizer={normalizer!r} is unknown; choose from {', '.join(NORMALIZERS)}.")
        self.regions, self.columns = [list(own) for own in regions], columns
        self.scheduled_columns: Sequence = [columns]  # of every prompt of a schedule
        self.num_columns = num_columns
        self.strength = strength
        self.normalizer = normalizer
        # Called with the probabilities (painted rows, heads, pixels, columns) of every painted layer.
        self.observer: Callable[[torch.Tensor], None] | None = None
        self.select(range(len(self.regions)))
        self.start = 0  # the first painted row
        self.sigma = torch.zeros(1)  # of all painted rows or of each
        self.coefficient = torch.zeros(1, 1, 1, 1)  # w' log(1 + sigma), likewise
        self._size: tuple[int, ...] = (1, 1)
        self._state: Any = None
        self._matrices: dict[int, torch.Tensor] = {}

    @property
    def is_blank(self) -> bool:
        """Whether the formula changes nothing and nobody looks."""
        if self.observer is not None:
            return False
        weights = [region.weight for own in self.regions for region in own]
        return self.strength == 0 or not any(weights)

    def select(self, images: Sequence[int], copies: int = 1, readable: Sequence[Sequence[int]] | None = None) -> None:
        """Says which prompt each image of the coming calls belongs to.

        Args:
            images: Indices of prompts.
            copies: How often the U-Net is called with these images: guidance by encoders, and perturbed-attention
                guidance, have several conditional rows for each.
            readable: For each copy the columns that hold its text, by default all. The others are not painted, so that
                a copy without any is left alone.
        """
        self.images = [*images] * copies
        self.copies = copies
        self._readable = None if readable is None else tuple(map(tuple, readable))

    def begin_prompt(self, number: int) -> None:
        """Goes on with the phrases of a prompt of the schedule."""
        self.columns, self._state = self.scheduled_columns[number], None

    def begin_call(self, sample: torch.Tensor, sigma: torch.Tensor, patch_size: int = 1) -> None:
        """Prepares everything for a call of the U-Net, so that its layers only read.

        Args:
            sample: Input of the U-Net, (batch, channels, height, width).
            sigma: Its noise level, one number or (batch,), on the sample's device.
            patch_size: Pixels that the U-Net folds into channels before its first layer.

        Raises:
            ValueError: The batch is not that of the painted images.
        """
        images = len(self.images) // self.copies
        self.start = len(sample) - len(self.images)
        if sample.ndim != 4 or self.start not in (0, images):
            raise ValueError(
                f"the U-Net is called with a sample of shape {tuple(sample.shape)} where {images} images are painted; "
                "expected are the images, or with guidance the unconditional ones and the images."
            )
        sigma = sigma.reshape(-1).float()
        self.sigma = sigma[self.start :] if len(sigma) == len(sample) else sigma
        self.coefficient = (self.strength * self.sigma.log1p()).reshape(-1, 1, 1, 1)
        height, width = self._size = tuple(size // patch_size for size in sample.shape[-2:])
        state = (height, width, tuple(self.images), self._readable, sample.device)
        if state != self._state:
            self._state = state
            self._matrices = {
                rows * columns: self._make(rows, columns)
                for rows, columns in unet_grids(height, width)
                if rows * columns <= MAX_TOKENS_AHEAD
            }

    def matrix(self, tokens: int) -> torch.Tensor:
        """A for a layer of so many pixels, float32 (painted rows, or 1 for all, tokens, columns)."""
        if tokens not in self._matrices:
            self._matrices[tokens] = self._make(*self.grid(tokens))
        return self._matrices[tokens]

    def grid(self, tokens: int) -> tuple[int, int]:
        """Height and width of a layer of so many pixels."""
        grids = {rows * columns: (rows, columns) for rows, columns in unet_grids(*self._size)}
        if tokens not in grids:
            raise ValueError(
                f"a cross-attention of {tokens} pixels is none of the U-Net's resolutions "
                f"({', '.join(f'{rows} x {columns}' for rows, columns in grids.values())}): it cannot be painted."
            )
        return grids[tokens]

    def _make(self, height: int, width: int) -> torch.Tensor:
        used = sorted(set(self.images))
        matrices = [paint_matrix(self.regions[i], self.columns[i], self.num_columns, height, width) for i in used]
        stacked = torch.stack(matrices).to(self._state[-1])
        if self._readable is None:
            return stacked if len(used) == 1 else stacked[[used.index(i) for i in self.images]]
        is_readable = stacked.new_zeros(self.copies, 1, self.num_columns)
        for copy, columns in enumerate(self._readable):
            is_readable[copy, :, list(columns)] = 1
        images = len(self.images) // self.copies
        return stacked[[used.index(i) for i in self.images]] * is_readable.repeat_interleave(images, 0)

    def mix_noise(self, noise: torch.Tensor, std: float = 1.0) -> torch.Tensor:
        """Noise (images, channels, height, width) of this standard deviation, with that of the regions' seeds where
        they are; the images of a prompt follow each other."""
        if all(region.seed is None for own in self.regions for region in own):
            return noise
        prompts = [image * len(self.regions) // len(noise) for image in range(len(noise))]
        mixed = [mix_noise(one / std, self.regions[i]) for one, i in zip(noise, prompts, strict=True)]
        return std * torch.stack(mixed)

    def factor(self, scores: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """w' log(1 + sigma) times the normaliser of scores (rows, heads, queries, columns): float32 (rows, 1, 1, 1).
        The mask, a bias, is already in the scores."""
        scores = scores.detach()
        if self.normalizer == "max":
            normalizer = scores.flatten(1).amax(1).float().clamp(min=0)
        elif attention_mask is None:
            normalizer = scores.flatten(1).float().std(1, correction=0)
        else:
            is_open = (attention_mask > CLOSED).expand_as(scores).flatten(1)
            values, count = scores.flatten(1).float(), is_open.sum(1, keepdim=True)
            mean = values.where(is_open, 0).sum(1, keepdim=True) / count
            normalizer = ((values - mean).where(is_open, 0).square().sum(1) / count[:, 0]).sqrt()
        return self.coefficient * normalizer.reshape(-1, 1, 1, 1)

    def bias(
        self, query: torch.Tensor, key: torch.Tensor, attention_mask: torch.Tensor | None, scale: float
    ) -> torch.Tensor:
        """What is added to the scores of the painted rows: float32 (rows, 1, queries, columns of the text).

        Query and key are (rows, heads, tokens, head_dim), the mask is a bias or `None`.
        """
        scores = _scores(query, key, attention_mask, scale)
        bias = self.factor(scores, attention_mask) * self.matrix(query.shape[2])[:, None]
        if self.observer is not None:
            added = scores.shape[-1] - bias.shape[-1]  # keys that are no text
            self.observer((scores + nnf.pad(bias, (0, added))).softmax(-1))
        return bias

    def probabilities(
        self, query: torch.Tensor, key: torch.Tensor, attention_mask: torch.Tensor | None, scale: float
    ) -> torch.Tensor:
        """The formula's softmax in one pass over the scores of the painted rows, (rows, heads, queries, keys)."""
        scores = _scores(query, key, attention_mask, scale)
        factor = self.factor(scores, attention_mask).to(scores.dtype)
        matrix = self.matrix(query.shape[2])[:, None].to(scores.dtype)
        scores[..., : matrix.shape[-1]].addcmul_(matrix, factor)  # keys behind the text are no words
        # Where nothing is differentiated the scores' own memory is reused.
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
    for region, own in zip(regions, columns, strict=True):
        painted = float(region.weight) * region.coverage(height, width).flatten()[:, None]
        matrix[:, list(own)] = torch.maximum(matrix[:, list(own)], painted)
    return matrix


def unet_grids(height: int, width: int) -> Iterator[tuple[int, int]]:
    """The resolutions of a U-Net whose first layer has this one; a strided convolution rounds up."""
    while height * width > 1:
        yield height, width
        height, width = -(-height // 2), -(-width // 2)
    yield height, width


def _scores(query: torch.Tensor, key: torch.Tensor, attention_mask: torch.Tensor | None, scale: float) -> torch.Tensor:
    scores = (query * scale) @ key.transpose(-1, -2)
    return scores if attention_mask is None else scores + attention_mask


class PaintWithWordsAttnProcessor(nn.Module):
    """Paints with words what an attention processor computes.

    The default processors of eDiff-I and of diffusers are computed here, in float32 in one pass. All others (sliced,
    IP-Adapter, added keys, xformers, custom ones) are called with the bias as their attention mask, which gives the
    same. Layers without text are left alone.

    It is a module, so that the weights of a processor that has some (IP-Adapter) stay a part of the U-Net.

    Args:
        processor: The processor that is there.
        painting ([`Painting`]): What is painted.
    """

    def __init__(self, processor: Any, painting: Painting):
        super().__init__()
        self.processor = processor
        self.painting = painting
        # `Attention` reads this signature to learn which arguments the processor takes; calls do not come here.
        self.__dict__["__call__"] = processor.__call__

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: torch.Tensor | None = None,
        *args,
        **kwargs,
    ) -> torch.Tensor:
        if encoder_hidden_states is None:
            return self.processor(attn, hidden_states, None, attention_mask, *args, **kwargs)
        context = encoder_hidden_states[0] if isinstance(encoder_hidden_states, tuple) else encoder_hidden_states
        if context.shape[1] != self.painting.num_columns:
            raise ValueError(
                f"the text has {context.shape[1]} columns and the prompt's tokens have {self.painting.num_columns}: "
                "which column is which word? Pass the prompt instead of embeddings."
            )
        kind = type(self.processor)
        if isinstance(attn, EDiffIAttention) and kind is EDiffIAttnProcessor:
            return self._ediffi(attn, hidden_states, context, attention_mask)
        is_standard = kind in STANDARD or (kind is AttnProcessor and not attn.upcast_attention)
        if isinstance(attn, Attention) and is_standard:
            return self._standard(attn, hidden_states, context, attention_mask)
        return self._wrapped(attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs)

    def _ediffi(self, attn, hidden_states, context, attention_mask) -> torch.Tensor:
        """`EDiffIAttnProcessor` with paint."""
        processor, start, outputs = self.processor, self.painting.start, []
        query, key, value = processor.project(attn, hidden_states, context)
        plain, mask = _cut(as_bias(attention_mask, query.dtype), start, len(query))
        if start:
            outputs.append(processor.attend(query[:start], key[:start], value[:start], plain))
        query, key, value = query[start:], key[start:], value[start:]
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        scale = query.shape[-1] ** -0.5
        if query.dtype == torch.float32 and processor._attention_backend in (None, "native"):
            outputs.append(self.painting.attention(q, k, v, mask, scale).transpose(1, 2))
        else:  # fused kernels keep the scores of half precision in float32
            bias = self.painting.bias(q, k, mask, scale)
            outputs.append(processor.attend(query, key, value, _sum(bias, mask).to(query.dtype)))
        return attn.to_out[0](_join(outputs).flatten(2))

    def _standard(self, attn, hidden_states, context, attention_mask) -> torch.Tensor:
        """`AttnProcessor2_0` with paint; `AttnProcessor` computes the same in other steps, Custom Diffusion by other
        projections."""
        start, outputs = self.painting.start, []
        query, key = _query_and_key(attn, self.processor, hidden_states, context)
        to_v = getattr(self.processor, "to_v_custom_diffusion", attn.to_v)
        to_out = getattr(self.processor, "to_out_custom_diffusion", attn.to_out)
        value = _split_heads(attn, to_v(_norm_context(attn, context)))
        plain, mask = _cut(_over_heads(attention_mask, query.dtype), start, len(query))
        if start:
            outputs.append(_attend(query[:start], key[:start], value[:start], plain, attn.scale))
        query, key, value = query[start:], key[start:], value[start:]
        if query.dtype == torch.float32:
            outputs.append(self.painting.attention(query, key, value, mask, attn.scale))
        else:
            bias = self.painting.bias(query, key, mask, attn.scale)
            outputs.append(_attend(query, key, value, _sum(bias, mask), attn.scale))
        x = to_out[1](to_out[0](_join(outputs).transpose(1, 2).flatten(2)))
        if hidden_states.ndim == 4:
            x = x.transpose(1, 2).reshape(hidden_states.shape)
        if attn.residual_connection:
            x = x + hidden_states
        return x / attn.rescale_output_factor

    def _wrapped(self, attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs) -> torch.Tensor:
        """Any processor, called with the plain rows as they are and with the painted ones and a bias."""
        start, count, outputs = self.painting.start, len(hidden_states), []
        plain, painted = zip(
            *(_cut(x, start, count) for x in (hidden_states, encoder_hidden_states, attention_mask)), strict=True
        )
        if start:
            outputs.append(self.processor(attn, *plain, *args, **kwargs))
        states, context, mask = painted
        text = context[0] if isinstance(context, tuple) else context
        query, key = _query_and_key(attn, self.processor, states, text)
        upcast = getattr(attn, "upcast_attention", False)
        mask = _over_heads(mask, query.dtype)
        if upcast:
            query, key = query.float(), key.float()
        scale = getattr(attn, "scale", query.shape[-1] ** -0.5)
        bias = _sum(self.painting.bias(query, key, _pad(mask, key.shape[2]), scale), mask).to(query.dtype)
        if isinstance(attn, Attention):  # its processors repeat a bias for the heads, and pad it for added keys
            bias = bias[:, 0]
            if bias.shape[-2] == bias.shape[-1] < key.shape[2]:
                raise ValueError(f"diffusers masks no added keys at {bias.shape[-2]} pixels; choose another size.")
            if "XFormers" in type(self.processor).__name__:
                bias = _aligned(bias.repeat_interleave(attn.heads, dim=0))
        outputs.append(self.processor(attn, states, context, bias, *args, **kwargs))
        return _join(outputs)


@torch.no_grad()
def attention_probabilities(
    attn: Any,
    hidden_states: torch.Tensor,
    encoder_hidden_states: Any,
    attention_mask: torch.Tensor | None,
    rows: slice,
    projected: Sequence[torch.Tensor] | None = None,
) -> torch.Tensor:
    """How some rows of a layer's batch attend, painted if they are: float32 (rows, heads, queries, keys).

    It is computed from the layer's inputs beside its processor, whose kernels do not give the softmax away.

    Args:
        attn: An attention layer of eDiff-I or of diffusers.
        hidden_states, encoder_hidden_states, attention_mask: What it is called with. Without encoder states it is
            self-attention; of a tuple of them (IP-Adapter) the first is the text.
        rows: Start and stop of the rows.
        projected: What `to_q` and `to_k` returned for all rows, (batch, tokens, heads * head_dim), where that is known
            and all there is to Q and K but their norms.
    """
    processor, painting = attn.processor, None
    if isinstance(processor, PaintWithWordsAttnProcessor):
        if encoder_hidden_states is not None and rows.start >= processor.painting.start:
            painting = processor.painting
        processor = processor.processor
    context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
    context = context[0] if isinstance(context, tuple) else context
    count, first = len(hidden_states), rows.start if painting is None else painting.start
    taken = slice(first, rows.stop if painting is None else count)  # the paint is made for all painted rows
    if projected is None:
        query, key = _query_and_key(attn, processor, hidden_states[taken], context[taken])
    else:
        query, key = _normed(attn, *(_split_heads(attn, x[taken]) for x in projected))
    query, key = query.float(), key.float()
    mask = attention_mask if attention_mask is None or len(attention_mask) != count else attention_mask[taken]
    mask = _pad(_over_heads(mask, query.dtype), key.shape[2])
    scale = getattr(attn, "scale", query.shape[-1] ** -0.5)
    if painting is None:
        scores = _scores(query, key, mask, scale)
        return torch.softmax(scores, -1, out=scores)
    return painting.probabilities(query, key, mask, scale)[rows.start - first : rows.stop - first]


def _query_and_key(attn: Any, processor: Any, states: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Q and K as the processor makes them, (rows, heads, tokens, head_dim)."""
    if isinstance(attn, EDiffIAttention):
        return tuple(x.transpose(1, 2) for x in EDiffIAttnProcessor.project(attn, states, context)[:2])
    if states.ndim == 4:
        states = states.flatten(2).transpose(1, 2)
    if attn.group_norm is not None:
        states = attn.group_norm(states.transpose(1, 2)).transpose(1, 2)
    context = _norm_context(attn, context)
    query = getattr(processor, "to_q_custom_diffusion", attn.to_q)(states)
    if attn.added_kv_proj_dim is not None:  # the attention of DeepFloyd IF: text first, then the pixels themselves
        key = attn.add_k_proj(context)
        key = key if attn.only_cross_attention else torch.cat([key, attn.to_k(states)], dim=1)
    elif type(processor) is FusedAttnProcessor2_0:
        key = attn.to_kv(context).chunk(2, dim=-1)[0]
    else:
        key = getattr(processor, "to_k_custom_diffusion", attn.to_k)(context)
    return _normed(attn, _split_heads(attn, query), _split_heads(attn, key))


def _normed(attn: Any, query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Q and K after the norms that some layers of diffusers have."""
    norm_q, norm_k = (getattr(attn, name, None) for name in ("norm_q", "norm_k"))
    return query if norm_q is None else norm_q(query), key if norm_k is None else norm_k(key)


def _norm_context(attn: Attention, context: torch.Tensor) -> torch.Tensor:
    return attn.norm_encoder_hidden_states(context) if attn.norm_cross else context


def _split_heads(attn: Any, x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


def _attend(query, key, value, bias: torch.Tensor | None, scale: float) -> torch.Tensor:
    bias = None if bias is None else bias.to(query.dtype)
    return nnf.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)


def _over_heads(attention_mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """A mask as a bias that is broadcast over heads: (rows, 1, 1 or queries, columns)."""
    bias = as_bias(attention_mask, dtype)
    return bias if bias is None or bias.ndim == 4 else bias[:, None]


def _cut(x: Any, start: int, count: int) -> tuple[Any, Any]:
    """The plain and the painted rows of whatever has `count` rows, in tuples and lists as well."""
    if isinstance(x, list | tuple):
        parts = [_cut(one, start, count) for one in x]
        return type(x)(part[0] for part in parts), type(x)(part[1] for part in parts)
    if x is None or len(x) != count:
        return x, x
    return x[:start], x[start:]


def _join(outputs: list[torch.Tensor]) -> torch.Tensor:
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _sum(bias: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    return bias if attention_mask is None else bias + attention_mask


def _pad(attention_mask: torch.Tensor | None, columns: int) -> torch.Tensor | None:
    """A mask of the text, open for the keys behind it."""
    if attention_mask is None:
        return None
    return nnf.pad(attention_mask, (0, columns - attention_mask.shape[-1]))


def _aligned(bias: torch.Tensor) -> torch.Tensor:
    """A copy whose rows begin at multiples of 8 elements, as xformers wants it."""
    columns = bias.shape[-1]
    aligned = bias.new_empty(*bias.shape[:-1], -(-columns // 8) * 8)[..., :columns]
    return aligned.copy_(bias)

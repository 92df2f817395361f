# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The attention processor that paints, and the `with` block that puts it into a U-Net of eDiff-I or of diffusers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
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

from ..edm import sigma_from_c_noise
from ..models.attention import EDiffIAttention, EDiffIAttnProcessor, as_bias
from .painting import Painting, attention_scores

# Those of Custom Diffusion are here, since they cannot take a mask.
STANDARD = (
    AttnProcessor2_0,
    CustomDiffusionAttnProcessor,
    CustomDiffusionAttnProcessor2_0,
    CustomDiffusionXFormersAttnProcessor,
)


@contextmanager
def painted(
    unet: Any, painting: Painting | None, sigma_of: Callable[[torch.Tensor], torch.Tensor] = sigma_from_c_noise
) -> Iterator[None]:
    """Paints what a U-Net, or each expert of a router, computes in the `with` block.

    Args:
        unet (`ModelMixin`): An [`EDiffIUNet`], a U-Net of diffusers, or an [`ExpertRouterUNet`] of these.
        painting ([`Painting`], *optional*): `None` paints nothing. `painting.select` says whose images are drawn.
        sigma_of (`Callable`, *optional*): Turns the U-Net's timestep into sigma; by default the timestep is c_noise.

    Raises:
        ValueError: The U-Net is painted already, or cannot be painted.
    """
    if painting is None or painting.is_blank:
        yield
        return
    networks = list(dict.fromkeys(getattr(unet, "experts", [unet])))  # one network may serve as several experts
    hooks = [_Begin(network, painting, sigma_of) for network in networks]
    layers = [layer for hook in hooks for layer in hook.layers]
    _check_layers(unet, layers)
    with ExitStack() as stack:
        for network, hook in zip(networks, hooks, strict=True):
            stack.callback(network.register_forward_pre_hook(hook, with_kwargs=True).remove)
        for layer in layers:
            stack.callback(_restore, layer, layer.processor)
            layer.set_processor(PaintWithWordsAttnProcessor(layer.processor, painting))
        yield


def _check_layers(unet: Any, layers: Sequence[Any]) -> None:
    """Refuses a U-Net that is painted already, or has nothing that can be painted."""
    if any(isinstance(layer.processor, PaintWithWordsAttnProcessor) for layer in layers):
        raise ValueError(
            "this U-Net is painted already: leave the other paint_with_words block first, or give it all regions."
        )
    if not layers and not hasattr(unet, "experts"):
        raise ValueError(f"{type(unet).__name__} has no cross-attention to the text, so that it cannot be painted.")


def _restore(layer: Any, processor: Any) -> None:
    """Gives a layer its processor back, unless it got another in between."""
    if isinstance(layer.processor, PaintWithWordsAttnProcessor):
        layer.set_processor(processor)


class _Begin:
    """The hook before each call of a U-Net, which tells the painting about the call."""

    def __init__(self, network: Any, painting: Painting, sigma_of: Callable[[torch.Tensor], torch.Tensor]):
        self.layers = [layer for layer in network.modules() if reads_text(layer)]
        self.painting = painting
        self.sigma_of = sigma_of

    def __call__(self, network: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        if any(not isinstance(layer.processor, PaintWithWordsAttnProcessor) for layer in self.layers):
            raise ValueError(
                "attention processors were replaced in the paint_with_words block, so that nothing would be painted; "
                "load adapters and choose processors before it."
            )
        if not self.layers:
            return
        sample = args[0] if args else kwargs["sample"]
        timestep = args[1] if len(args) > 1 else kwargs["timestep"]
        sigma = self.sigma_of(torch.as_tensor(timestep, device=sample.device).float())
        self.painting.begin_call(sample, sigma, network.config.get("patch_size") or 1)


def reads_text(layer: Any) -> bool:
    """Whether a module is a cross-attention to the text, with a processor."""
    return getattr(layer, "is_cross_attention", False) and hasattr(layer, "set_processor")


class PaintWithWordsAttnProcessor(nn.Module):
    """Paints with words what an attention processor computes.

    The default processors of eDiff-I and of diffusers are computed here, in float32 in one pass. All others (sliced,
    IP-Adapter, added keys, xformers, those of others) are called with the bias as their attention mask, which gives
    the same. Layers without text are left alone.

    It is a module, so that the weights of a processor that has some (IP-Adapter) stay a part of the U-Net.

    Args:
        processor (`Callable`): The attention processor of the layer.
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
        self._check_columns(context.shape[1])
        kind = type(self.processor)
        if isinstance(attn, EDiffIAttention) and kind is EDiffIAttnProcessor:
            return self._ediffi(attn, hidden_states, context, attention_mask)
        is_standard = kind in STANDARD or (kind is AttnProcessor and not attn.upcast_attention)
        if isinstance(attn, Attention) and is_standard:
            return self._standard(attn, hidden_states, context, attention_mask)
        return self._wrapped(attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs)

    def _check_columns(self, columns: int) -> None:
        """Refuses a text whose columns cannot be those of the prompt's tokens."""
        if columns != self.painting.num_columns:
            raise ValueError(
                f"the text has {columns} columns and the prompt's tokens have {self.painting.num_columns}: "
                "which column is which word? Pass the prompt instead of embeddings."
            )

    def _ediffi(self, attn, hidden_states, context, attention_mask) -> torch.Tensor:
        """`EDiffIAttnProcessor` with paint."""
        processor = self.processor
        start = self.painting.start
        query, key, value = processor.project(attn, hidden_states, context)
        plain, mask = _cut(as_bias(attention_mask, query.dtype), start, len(query))
        outputs = [processor.attend(query[:start], key[:start], value[:start], plain)] if start else []
        query, key, value = (x[start:] for x in (query, key, value))
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        scale = query.shape[-1] ** -0.5
        if query.dtype == torch.float32 and processor._attention_backend in (None, "native"):
            outputs.append(self.painting.attention(q, k, v, mask, scale).transpose(1, 2))
        else:  # fused kernels keep the scores of half precision in float32
            bias = self.painting.bias(q, k, mask, scale)
            outputs.append(processor.attend(query, key, value, _sum(bias, mask).to(query.dtype)))
        return attn.to_out[0](_join(outputs).flatten(2))

    def _standard(self, attn, hidden_states, context, attention_mask) -> torch.Tensor:
        """`AttnProcessor2_0` with paint; `AttnProcessor` computes the same in other steps, Custom Diffusion with other
        projections."""
        start = self.painting.start
        query, key = _query_and_key(attn, self.processor, hidden_states, context)
        to_v = getattr(self.processor, "to_v_custom_diffusion", attn.to_v)
        to_out = getattr(self.processor, "to_out_custom_diffusion", attn.to_out)
        value = _split_heads(attn, to_v(_norm_context(attn, context)))
        plain, mask = _cut(_over_heads(attention_mask, query.dtype), start, len(query))
        outputs = [_attend(query[:start], key[:start], value[:start], plain, attn.scale)] if start else []
        query, key, value = (x[start:] for x in (query, key, value))
        if query.dtype == torch.float32:
            outputs.append(self.painting.attention(query, key, value, mask, attn.scale))
        else:
            bias = self.painting.bias(query, key, mask, attn.scale)
            outputs.append(_attend(query, key, value, _sum(bias, mask), attn.scale))
        return _output(attn, to_out, _join(outputs), hidden_states)

    def _wrapped(self, attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs) -> torch.Tensor:
        """Any processor, called once with the plain rows and once with the painted rows and a bias."""
        start = self.painting.start
        inputs = (hidden_states, encoder_hidden_states, attention_mask)
        plain, painted = zip(*(_cut(x, start, len(hidden_states)) for x in inputs), strict=True)
        outputs = [self.processor(attn, *plain, *args, **kwargs)] if start else []
        states, context, mask = painted
        text = context[0] if isinstance(context, tuple) else context
        query, key = _query_and_key(attn, self.processor, states, text)
        mask = _over_heads(mask, query.dtype)
        if getattr(attn, "upcast_attention", False):
            query, key = query.float(), key.float()
        scale = getattr(attn, "scale", query.shape[-1] ** -0.5)
        bias = _sum(self.painting.bias(query, key, _pad(mask, key.shape[2]), scale), mask).to(query.dtype)
        if isinstance(attn, Attention):
            bias = self._bias_for_diffusers(attn, bias, key.shape[2])
        outputs.append(self.processor(attn, states, context, bias, *args, **kwargs))
        return _join(outputs)

    def _bias_for_diffusers(self, attn: Attention, bias: torch.Tensor, keys: int) -> torch.Tensor:
        """A bias (rows, 1, queries, columns) as diffusers' processors take it, which repeat it for the heads and pad
        it for added keys."""
        bias = bias[:, 0]
        if bias.shape[-2] == bias.shape[-1] < keys:
            raise ValueError(f"diffusers cannot mask added keys at {bias.shape[-2]} pixels; choose another size.")
        if "XFormers" in type(self.processor).__name__:
            return _aligned(bias.repeat_interleave(attn.heads, dim=0))
        return bias


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
        attn (`nn.Module`): An attention layer of eDiff-I or of diffusers.
        hidden_states, encoder_hidden_states, attention_mask: What it is called with. Without encoder states it is
            self-attention; of a tuple of them (IP-Adapter) the first is the text.
        rows (`slice`): Start and stop of the rows.
        projected (`list` of `torch.Tensor`, *optional*): What `to_q` and `to_k` returned for all rows, (batch, tokens,
            heads * head_dim), where Q and K are made of it by their norms alone.
    """
    processor, painting = _processor_and_painting(attn, encoder_hidden_states, rows)
    # A painting has a matrix for all painted rows together.
    taken = rows if painting is None else slice(painting.start, len(hidden_states))
    if projected is None:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        context = context[0] if isinstance(context, tuple) else context
        query, key = _query_and_key(attn, processor, hidden_states[taken], context[taken])
    else:
        query, key = _normed(attn, *(_split_heads(attn, x[taken]) for x in projected))
    query, key = query.float(), key.float()
    if attention_mask is not None and len(attention_mask) == len(hidden_states):
        attention_mask = attention_mask[taken]
    mask = _pad(_over_heads(attention_mask, query.dtype), key.shape[2])
    scale = getattr(attn, "scale", query.shape[-1] ** -0.5)
    if painting is None:
        scores = attention_scores(query, key, mask, scale)
        return torch.softmax(scores, -1, out=scores)
    return painting.probabilities(query, key, mask, scale)[rows.start - taken.start : rows.stop - taken.start]


def _processor_and_painting(attn: Any, encoder_hidden_states: Any, rows: slice) -> tuple[Any, Painting | None]:
    """The processor of a layer under the paint, and what is painted on these rows."""
    processor = attn.processor
    if not isinstance(processor, PaintWithWordsAttnProcessor):
        return processor, None
    is_painted = encoder_hidden_states is not None and rows.start >= processor.painting.start
    return processor.processor, processor.painting if is_painted else None


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
    """The text after the norm that some layers of diffusers have."""
    return attn.norm_encoder_hidden_states(context) if attn.norm_cross else context


def _split_heads(attn: Any, x: torch.Tensor) -> torch.Tensor:
    """(rows, tokens, heads * head_dim) as (rows, heads, tokens, head_dim)."""
    return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


def _attend(query, key, value, bias: torch.Tensor | None, scale: float) -> torch.Tensor:
    bias = None if bias is None else bias.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)


def _output(attn: Attention, to_out: Any, attended: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
    """What a layer of diffusers returns for `attended`, (rows, heads, queries, head_dim), and its input."""
    x = to_out[1](to_out[0](attended.transpose(1, 2).flatten(2)))
    if hidden_states.ndim == 4:
        x = x.transpose(1, 2).reshape(hidden_states.shape)
    if attn.residual_connection:
        x = x + hidden_states
    return x / attn.rescale_output_factor


def _over_heads(attention_mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """A mask as a bias that is broadcast over heads: (rows, 1, 1 or queries, columns)."""
    bias = as_bias(attention_mask, dtype)
    return bias if bias is None or bias.ndim == 4 else bias[:, None]


def _cut(x: Any, start: int, count: int) -> tuple[Any, Any]:
    """The plain and the painted rows of whatever has `count` rows, in tuples and lists as well."""
    if isinstance(x, list | tuple):
        parts = [_cut(item, start, count) for item in x]
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
    return F.pad(attention_mask, (0, columns - attention_mask.shape[-1]))


def _aligned(bias: torch.Tensor) -> torch.Tensor:
    """A copy whose rows begin at multiples of 8 elements, as xformers wants it."""
    columns = bias.shape[-1]
    aligned = bias.new_empty(*bias.shape[:-1], -(-columns // 8) * 8)[..., :columns]
    return aligned.copy_(bias)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The painted attention against the paper's formula, written out in float64, for every kind of processor."""

import copy
import math

import pytest
import torch
from diffusers.models.attention_processor import (
    Attention,
    AttnAddedKVProcessor,
    AttnAddedKVProcessor2_0,
    AttnProcessor,
    AttnProcessor2_0,
    CustomDiffusionAttnProcessor,
    CustomDiffusionAttnProcessor2_0,
    FusedAttnProcessor2_0,
    IPAdapterAttnProcessor,
    IPAdapterAttnProcessor2_0,
    SlicedAttnAddedKVProcessor,
    SlicedAttnProcessor,
)
from helpers_paint import COLUMNS, GRID, HEADS, SAMPLE, SIGMA, STRENGTH, painting, prepared

from diffusers_ediffi.models.attention import EDiffIAttention, EDiffIAttnProcessor
from diffusers_ediffi.paint.processor import PaintWithWordsAttnProcessor

CHANNELS = 16
CONTEXT = 12
IMAGE_TOKENS = 3
# name of the arrangement -> prompt of every painted image, copies of the painted half, plain rows before it
BATCHES = {
    "guided": ([0, 1], 1, 2),
    "not guided": ([0, 1], 1, 0),
    "two images of each prompt": ([0, 0, 1, 1], 1, 4),
    "one prompt": ([1, 1], 1, 2),
    "perturbed attention": ([0, 1], 2, 2),
    "perturbed attention, not guided": ([0, 1], 2, 0),
}
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


class UnknownProcessor(EDiffIAttnProcessor):
    """Somebody's processor for eDiff-I, which is not known to paint-with-words."""


def custom(processor):
    return lambda: processor(hidden_size=CHANNELS, cross_attention_dim=CONTEXT)


def ip_adapter(processor):
    return lambda: processor(CHANNELS, CONTEXT, num_tokens=(IMAGE_TOKENS,), scale=0.6)


PROCESSORS = {
    "ediffi": EDiffIAttnProcessor,
    "unknown ediffi": UnknownProcessor,
    "plain": AttnProcessor,
    "plain 2_0": AttnProcessor2_0,
    "sliced": lambda: SlicedAttnProcessor(1),
    "fused": FusedAttnProcessor2_0,
    "ip-adapter": ip_adapter(IPAdapterAttnProcessor),
    "ip-adapter 2_0": ip_adapter(IPAdapterAttnProcessor2_0),
    "custom diffusion": custom(CustomDiffusionAttnProcessor),
    "custom diffusion 2_0": custom(CustomDiffusionAttnProcessor2_0),
    "added keys": AttnAddedKVProcessor,
    "added keys 2_0": AttnAddedKVProcessor2_0,
    "added keys, sliced": lambda: SlicedAttnAddedKVProcessor(1),
}


def attention(name, **changes):
    """A layer with one of the processors and random weights."""
    torch.manual_seed(0)
    if "ediffi" in name:
        attn = EDiffIAttention(CHANNELS, CHANNELS // HEADS, CONTEXT)
    else:
        settings = {
            "query_dim": CHANNELS,
            "cross_attention_dim": CONTEXT,
            "heads": HEADS,
            "dim_head": CHANNELS // HEADS,
        }
        if "added" in name:
            settings |= {
                "added_kv_proj_dim": CONTEXT,
                "cross_attention_dim": CHANNELS,
                "norm_num_groups": 4,
                "bias": True,
                "only_cross_attention": False,
            }
        elif "custom" not in name:
            settings |= {"residual_connection": True, "rescale_output_factor": 2.0, "norm_num_groups": 4}
        attn = Attention(**{**settings, **changes})
    if name == "fused":
        attn.fuse_projections()
    attn.set_processor(PROCESSORS[name]())
    for parameter in attn.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return attn.eval()


def inputs(name, rows, dtype=torch.float32):
    generator = torch.Generator().manual_seed(2)
    states = torch.randn(rows, GRID[0] * GRID[1], CHANNELS, generator=generator)
    text = torch.randn(rows, COLUMNS, CONTEXT, generator=generator)
    image = [torch.randn(rows, IMAGE_TOKENS, CONTEXT, generator=generator).to(dtype)]
    if "added" in name:
        states = states.transpose(1, 2).reshape(rows, CHANNELS, *GRID)
    return states.to(dtype), (text.to(dtype), image) if "ip" in name else text.to(dtype)


def matrices(paint, images, copies, plain):
    """A of every row, from the masks alone: weight x mask, the larger one where a token is shared."""
    rows = []
    for prompt in [*images] * copies:
        a = torch.zeros(GRID[0] * GRID[1], COLUMNS, dtype=torch.float64)
        for region, columns in zip(paint.regions[prompt], paint.columns[prompt], strict=True):
            for column in columns:
                a[:, column] = torch.maximum(a[:, column], region.weight * region.coverage(*GRID).flatten())
        rows.append(a)
    return [None] * plain + rows


def formula(attn, name, states, context, a, mask=None, normalizer="max"):
    """softmax((Q K^T + w A) / sqrt(d_k)) V of one row, w = w' log(1 + sigma) max(Q K^T), as the paper writes it; where
    A is `None` without w A. The mask says which columns may be attended."""
    attn = copy.deepcopy(attn).double()
    context, image = context if isinstance(context, tuple) else (context, None)
    residual, context = states.double(), context.double()
    states = residual.flatten(1).T if residual.ndim == 3 else residual
    if getattr(attn, "group_norm", None) is not None:
        states = attn.group_norm(states.T[None])[0].T
    if "custom" in name:
        to_q, to_k, to_v = (getattr(attn.processor, f"to_{x}_custom_diffusion") for x in "qkv")
        to_out = attn.processor.to_out_custom_diffusion[0]
    else:
        to_q, to_k, to_v = (getattr(attn, f"to_{x}") for x in "qkv")
        to_out = attn.to_out[0]
    query = to_q(states)
    if "added" in name:
        key = torch.cat([attn.add_k_proj(context), attn.to_k(states)])
        value = torch.cat([attn.add_v_proj(context), attn.to_v(states)])
    elif name == "fused":
        key, value = attn.to_kv(context).chunk(2, dim=-1)
    else:
        key, value = to_k(context), to_v(context)
    is_open = torch.ones(len(key), dtype=torch.bool)
    is_open[: len(context)] = True if mask is None else mask
    products = [q @ k.T for q, k in zip(query.chunk(HEADS, -1), key.chunk(HEADS, -1), strict=True)]
    counted = torch.stack(products)[..., is_open]
    size = counted.std(correction=0) if normalizer == "std" else counted.max().clamp(min=0)
    w = STRENGTH * math.log(1 + SIGMA) * size
    heads = []
    for product, v in zip(products, value.chunk(HEADS, -1), strict=True):
        if a is not None:
            product = product + w * torch.nn.functional.pad(a, (0, len(key) - a.shape[1]))
        scores = (product / (CHANNELS // HEADS) ** 0.5).masked_fill(~is_open, -math.inf)
        heads.append(scores.softmax(-1) @ v)
    x = torch.cat(heads, -1)
    if image is not None:
        image_key = attn.processor.to_k_ip[0](image[0].double())
        image_value = attn.processor.to_v_ip[0](image[0].double())
        for i, (q, k, v) in enumerate(
            zip(*(y.chunk(HEADS, -1) for y in (query, image_key, image_value)), strict=True)
        ):
            part = slice(i * CHANNELS // HEADS, (i + 1) * CHANNELS // HEADS)
            x[:, part] += 0.6 * ((q @ k.T) / (CHANNELS // HEADS) ** 0.5).softmax(-1) @ v
    x = to_out(x)
    if "added" in name:
        return x.T.reshape(residual.shape) + residual
    if "ediffi" in name or "custom" in name:
        return x
    return (x + residual) / attn.rescale_output_factor


def row(context, i):
    return (context[0][i], [image[i] for image in context[1]]) if isinstance(context, tuple) else context[i]


def check(name, batch, dtype=torch.float32, normalizer="max", mask=None):
    images, copies, plain = BATCHES[batch]
    attn, paint = attention(name).to(dtype), prepared(painting(normalizer), images, copies, plain)
    rows = plain + copies * len(images)
    states, context = inputs(name, rows, dtype)
    expected = [
        formula(attn, name, states[i], row(context, i), a, None if mask is None else mask[i], normalizer)
        for i, a in enumerate(matrices(paint, images, copies, plain))
    ]
    bias = None
    if mask is not None:  # as the U-Nets make it
        bias = mask[:, None, None] if "ediffi" in name else (1 - mask[:, None].to(dtype)) * -10000
    attn.set_processor(PaintWithWordsAttnProcessor(attn.processor, paint))
    with torch.no_grad():
        output = attn(states, context, attention_mask=bias)
    assert output.dtype == dtype
    error = (output.double() - torch.stack(expected)).abs().max().item()
    assert error < TOLERANCES[dtype] * max(1, torch.stack(expected).abs().max().item()), error


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", PROCESSORS)
@torch.no_grad()
def test_every_processor_equals_the_formula_in_every_batch(name, batch):
    check(name, batch)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", PROCESSORS)
@torch.no_grad()
def test_half_precision(name, dtype):
    check(name, "guided", dtype)


@pytest.mark.parametrize("normalizer", ["max", "std"])
@pytest.mark.parametrize("name", PROCESSORS)
@torch.no_grad()
def test_masked_columns_count_for_nothing(name, normalizer):
    """The last columns, one of them painted, are masked in some rows; what stands in them must not matter."""
    mask = torch.ones(4, COLUMNS, dtype=torch.bool)
    mask[1, 5:] = mask[3, 4:] = False
    check(name, "guided", normalizer=normalizer, mask=mask)


@pytest.mark.parametrize("name", PROCESSORS)
@torch.no_grad()
def test_the_standard_deviation_as_normalizer(name):
    check(name, "guided", normalizer="std")


@pytest.mark.parametrize("name", PROCESSORS)
@torch.no_grad()
def test_the_unconditional_half_is_that_of_the_plain_processor(name):
    attn, paint = attention(name), prepared(painting(), [0, 1], 1, 2)
    states, context = inputs(name, 4)
    plain = attn(states, context)
    attn.set_processor(PaintWithWordsAttnProcessor(attn.processor, paint))
    output = attn(states, context)
    torch.testing.assert_close(output[:2], plain[:2], rtol=0, atol=1e-6)
    assert all((output[i] - plain[i]).abs().max() > 1e-2 for i in (2, 3))


@pytest.mark.parametrize("name", PROCESSORS)
@torch.no_grad()
def test_a_copy_is_painted_where_its_text_stands(name):
    """Of three copies one reads all columns, one two of them, one none: as if the regions had no more."""
    attn, paint = attention(name), painting(further_columns=[[[[2], [2]], [[], [6]]]])
    processor, (states, context) = attn.processor, inputs(name, 8)

    def run():
        paint.begin_call(torch.zeros(8, 4, *SAMPLE), torch.as_tensor(SIGMA))
        attn.set_processor(PaintWithWordsAttnProcessor(processor, paint))
        return attn(states, context)

    paint.select([0, 1], 3)
    all_columns = run()
    paint.select([0, 1], 3, [range(COLUMNS), [2, 6], []])
    output = run()
    paint.select([0, 1], 3)
    paint.begin_prompt(1)
    two_columns = run()
    attn.set_processor(processor)
    plain = attn(states, context)
    for rows, expected in ((slice(0, 2), plain), (slice(2, 4), all_columns), (slice(4, 6), two_columns)):
        torch.testing.assert_close(output[rows], expected[rows], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output[6:], plain[6:], rtol=1e-5, atol=1e-5)
    assert all((output[i] - plain[i]).abs().max() > 1e-3 for i in range(2, 6))


@pytest.mark.parametrize("name", ["ediffi", "plain 2_0", "sliced"])
@torch.no_grad()
def test_each_row_has_a_sigma_of_its_own(name):
    attn, states_and_context = attention(name), inputs(name, 4)
    processor = attn.processor
    outputs = []
    for sigma in (torch.tensor([9.0, 9.0, 0.5, 4.0]), 0.5, 4.0):
        paint = prepared(painting(), [0, 1], 1, 2, sigma)
        attn.set_processor(PaintWithWordsAttnProcessor(processor, paint))
        outputs.append(attn(*states_and_context))
    torch.testing.assert_close(outputs[0][2], outputs[1][2])
    torch.testing.assert_close(outputs[0][3], outputs[2][3])


@pytest.mark.parametrize("name", ["plain", "sliced", "added keys"])
@torch.no_grad()
def test_attention_that_is_computed_in_float32_stays_so(name):
    attn = attention(name, upcast_attention=True, upcast_softmax=True)
    check_of = prepared(painting(), [0, 1], 1, 2)
    states, context = inputs(name, 4)
    attn.set_processor(PaintWithWordsAttnProcessor(attn.processor, check_of))
    exact = attn(states, context)
    half = attn.half()(states.half(), context.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), exact, rtol=1e-2, atol=1e-2)


def test_gradients_flow_through_the_painted_attention():
    for name in ("ediffi", "plain 2_0", "sliced"):
        attn, paint = attention(name), prepared(painting(), [0, 1], 1, 2)
        states, context = inputs(name, 4)
        attn.set_processor(PaintWithWordsAttnProcessor(attn.processor, paint))
        attn(states.requires_grad_(), context).square().sum().backward()
        assert states.grad.isfinite().all() and states.grad[2:].abs().sum() > 0


@pytest.mark.parametrize("name", ["ediffi", "plain 2_0", "sliced"])
@torch.no_grad()
def test_compiles_in_one_graph(name):
    attn, paint = attention(name), prepared(painting(), [0, 1], 1, 2)
    states, context = inputs(name, 4)
    attn.set_processor(PaintWithWordsAttnProcessor(attn.processor, paint))
    expected = attn(states, context)
    torch._dynamo.reset()
    compiled = torch.compile(attn, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(states, context), expected)
    torch.testing.assert_close(compiled(states, context), attn(states, context))


def test_self_attention_is_left_alone():
    attn = attention("plain 2_0", cross_attention_dim=None)
    states = inputs("plain 2_0", 4)[0]
    plain = attn(states)
    attn.set_processor(PaintWithWordsAttnProcessor(attn.processor, prepared(painting(), [0, 1], 1, 2)))
    assert torch.equal(attn(states), plain)


def test_text_of_other_columns_is_refused():
    attn, paint = attention("plain"), prepared(painting(), [0, 1], 1, 2)
    attn.set_processor(PaintWithWordsAttnProcessor(attn.processor, paint))
    states, context = inputs("plain", 4)
    with pytest.raises(ValueError, match="the text has 14 columns and the prompt's tokens have 7"):
        attn(states, torch.cat([context, context], 1))


@torch.no_grad()
def test_keys_that_diffusers_cannot_mask_are_refused():
    """Its processors pad a mask by the number of pixels, unless that is the number of columns."""
    attn, paint = attention("added keys"), painting(num_columns=20)
    prepared(paint, [0, 1], 1, 2)
    attn.set_processor(PaintWithWordsAttnProcessor(attn.processor, paint))
    with pytest.raises(ValueError, match="cannot mask added keys at 20 pixels"):
        attn(inputs("added keys", 4)[0], torch.randn(4, 20, CONTEXT))

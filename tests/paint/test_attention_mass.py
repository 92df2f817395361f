# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The attention mass inside the regions, on random networks of both kinds, against a plain computation."""

import math
from contextlib import nullcontext

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0, SlicedAttnProcessor
from helpers import tiny_unet as tiny_ediffi_unet
from helpers_diffusers import SIZE, build, tiny_unet

from diffusers_ediffi import ExpertRouterUNet, PaintRegion, measure_attention_mass, paint_with_words
from diffusers_ediffi.edm import c_noise
from diffusers_ediffi.models.encoder_table import NULL_COLUMN
from diffusers_ediffi.paint.painting import Painting
from diffusers_ediffi.paint.processor import painted

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # diffusers 0.42 on numpy 2.4

SIGMA = 5.0
COLUMNS = [[[1, 2], [4, 5]], [[3], [1]]]


def ediffi():
    return tiny_ediffi_unet()


def stable_diffusion():
    unet = tiny_unet()
    unet.set_attn_processor(AttnProcessor2_0())
    for parameter in unet.parameters():
        parameter.data.mul_(2)  # scores that are not all alike
    return unet


def sliced():
    unet = stable_diffusion()
    unet.set_attn_processor(SlicedAttnProcessor(1))
    return unet


def two_experts():
    return ExpertRouterUNet.from_unets([tiny_ediffi_unet(i) for i in range(2)], boundaries=[SIGMA / 2])


NETWORKS = [ediffi, stable_diffusion, sliced, two_experts]


def columns_of(unet):
    return 77 if isinstance(unet, UNet2DConditionModel) else NULL_COLUMN + 1


def painting(unet, strength, **settings):
    masks = torch.rand(2, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    regions = [
        [PaintRegion("a", (0.0, 0.0, 0.5, 1.0)), PaintRegion("b", (0.3, 0.4, 1.0, 1.0), weight=0.7)],
        [PaintRegion("c", masks[0]), PaintRegion("d", masks[1])],
    ]
    return Painting(regions, COLUMNS, columns_of(unet), strength, **settings)


@torch.no_grad()
def call(unet, rows=2, sigma=SIGMA):
    generator = torch.Generator().manual_seed(3)
    channels = 4 if isinstance(unet, UNet2DConditionModel) else 3
    sample = torch.randn(rows, channels, SIZE, SIZE, generator=generator)
    text = torch.randn(rows, 77, 16, generator=generator)
    timestep = torch.full((rows,), c_noise(sigma))
    if channels == 4:
        return unet(sample, timestep, text)[0]
    pooled = torch.randn(rows, 16, generator=generator)
    return unet(sample, timestep, text, added_cond_kwargs={"text_embeds": pooled, "image_embeds": None})[0]


def masses(unet, strength, rows=2, **settings):
    paint = painting(unet, strength, **settings)
    with measure_attention_mass(paint) as mass, painted(unet, paint):
        call(unet, rows)
    assert paint.observer is None
    return mass.per_sigma()


def reference(unet, strength):
    """The same from the projections that hooks catch, in float64, layer by layer."""
    paint = painting(unet, strength)
    caught, handles = {}, []
    layers = [m for m in unet.modules() if hasattr(m, "to_q") and getattr(m, "is_cross_attention", False)]
    for layer in layers:
        for name in ("to_q", "to_k"):
            hook = lambda _, args, output, key=(layer, name): caught.update({key: output.double()})  # noqa: E731
            handles.append(getattr(layer, name).register_forward_hook(hook))
    with painted(unet, paint) if strength else nullcontext():
        call(unet)
    for handle in handles:
        handle.remove()
    differences = []
    for layer in layers:
        q, k = (caught[layer, name] for name in ("to_q", "to_k"))
        width = q.shape[-1] // layer.heads
        side = math.isqrt(q.shape[1])
        for i, regions in enumerate(paint.regions):
            products = torch.stack(
                [a @ b.T for a, b in zip(q[i].split(width, -1), k[i].split(width, -1), strict=True)]
            )
            a = torch.zeros(side * side, k.shape[1], dtype=torch.float64)
            for region, columns in zip(regions, COLUMNS[i], strict=True):
                a[:, columns] = (region.weight * region.coverage(side, side)).flatten()[:, None].double()
            w = strength * math.log(1 + SIGMA) * products.max().clamp(min=0)
            probabilities = ((products + w * a) / width**0.5).softmax(-1)
            for region, columns in zip(regions, COLUMNS[i], strict=True):
                mask = region.coverage(side, side).flatten().double()
                mass = probabilities[:, :, columns].sum(-1)
                difference = (mass * mask).sum(1) / mask.sum() - (mass * (1 - mask)).sum(1) / (1 - mask).sum()
                differences.append(difference.mean().item())
    return sum(differences) / len(differences)


@pytest.mark.parametrize("strength", [0, 0.4])
@pytest.mark.parametrize("network", [ediffi, stable_diffusion, sliced], ids=lambda network: network.__name__)
def test_equals_the_plain_computation(network, strength):
    unet = network()
    measured = masses(unet, strength)
    assert list(measured) == [SIGMA]
    assert measured[SIGMA] == pytest.approx(reference(unet, strength), abs=1e-5)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_grows_with_the_strength(network):
    unet = network()
    values = [masses(unet, strength)[SIGMA] for strength in (1e-6, 0.1, 0.2, 0.4)]
    assert abs(values[0]) < 0.02 and values[0] == pytest.approx(masses(unet, 0)[SIGMA], abs=1e-5)
    assert all(b > a + 1e-4 for a, b in zip(values, values[1:], strict=False)), values
    strong = masses(unet, 1000)[SIGMA]
    assert values[-1] < strong <= 1


def test_the_unconditional_half_does_not_count():
    unet = stable_diffusion()
    paint = painting(unet, 0.4)
    generator = torch.Generator().manual_seed(3)
    sample, text = torch.randn(2, 4, SIZE, SIZE, generator=generator), torch.randn(2, 77, 16, generator=generator)
    values = []
    for unconditional in (0, 2):
        with torch.no_grad(), measure_attention_mass(paint) as mass, painted(unet, paint):
            rows = torch.randn(unconditional, 4, SIZE, SIZE), torch.randn(unconditional, 77, 16)
            unet(torch.cat([rows[0], sample]), c_noise(SIGMA), torch.cat([rows[1], text]))
        values.append(mass.values[SIGMA])
    assert values[0] == pytest.approx(values[1], abs=1e-5)


def test_in_a_pipeline_by_noise_level():
    """A pipeline's block is measured as well; what it draws is the same."""
    pipe = build(StableDiffusionPipeline, stable_diffusion())
    regions = [PaintRegion("cat", (0.0, 0.0, 0.5, 1.0)), PaintRegion("dog", (0.0, 0.0, 1.0, 1.0))]  # a dog everywhere
    settings = {"height": SIZE, "width": SIZE, "num_inference_steps": 3, "output_type": "latent"}

    def draw(block):
        with block:
            return pipe("a cat and a dog", generator=torch.Generator().manual_seed(0), **settings).images

    per_strength = []
    for strength in (0, 0.4):
        block = paint_with_words(pipe, "a cat and a dog", regions, strength)
        with measure_attention_mass(block.painting) as mass:
            image = draw(block)
        plain = draw(paint_with_words(pipe, "a cat and a dog", regions, strength))
        torch.testing.assert_close(image, plain, rtol=0, atol=1e-3)  # no fused kernel where it is measured
        assert len(mass.per_sigma()) == 3 and list(mass.per_sigma()) == sorted(mass.per_sigma(), reverse=True)
        layers = sum(name.endswith("attn2.processor") for name in pipe.unet.attn_processors)
        assert all(len(values) == layers for values in mass.values.values())  # what fills the image has no outside
        per_strength.append(mass.per_sigma())
    assert all(painted > per_strength[0][sigma] for sigma, painted in per_strength[1].items())


def test_is_measured_once_at_a_time():
    paint = painting(stable_diffusion(), 0)
    with measure_attention_mass(paint), pytest.raises(ValueError, match="measured already"):
        measure_attention_mass(paint).__enter__()
    assert paint.observer is None and paint.is_blank

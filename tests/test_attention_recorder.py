# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What is recorded of attention, against plain computations in float64, on networks that are tiny and random."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPAGPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from helpers import tiny_pipeline, tiny_unet
from helpers_diffusers import PIPELINES, build, ip_adapter, unet_for

from diffusers_ediffi import ExpertRouterUNet, PaintRegion, paint_with_words, record_attention
from diffusers_ediffi.attention_record import BINS
from diffusers_ediffi.models.attention import EDiffIAttention
from diffusers_ediffi.models.encoder_table import CLIP_TEXT_COLUMNS, NULL_COLUMN, T5_COLUMNS

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # diffusers 0.42 on numpy 2.4
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),
]

PROMPT = "a cat and a dog"
REGIONS = [PaintRegion("cat", (0.0, 0.0, 0.5, 1.0)), PaintRegion("dog", (0.5, 0.0, 1.0, 1.0), weight=0.7)]


def seeds(*numbers):
    return [torch.Generator().manual_seed(number) for number in numbers]


def ediffi(**changes):
    return tiny_pipeline(unet_sr256=None, unet_sr1024=None, scheduler_sr256=None, scheduler_sr1024=None, **changes)


def stable_diffusion(kind=StableDiffusionPipeline):
    unet = unet_for(kind)
    for parameter in unet.parameters():
        parameter.data.mul_(2)  # scores that are not all alike
    return build(kind, unet)


KINDS = pytest.mark.parametrize("make", [ediffi, stable_diffusion], ids=lambda make: make.__name__)


def draw(pipe, prompt=PROMPT, steps=3, generator=None, **arguments):
    """Guided latents; pipelines that start from a picture get one."""
    name = type(pipe).__name__
    prompts = len(prompt) if isinstance(prompt, list) else 1
    picture = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(2)).expand(prompts, -1, -1, -1)
    if any(kind in name for kind in ("Img2Img", "Inpaint", "ControlNet")):
        arguments |= {"image": picture}
    if "Inpaint" in name:
        arguments |= {"mask_image": (picture[:, :1] > 0.5).float()}
    arguments |= {"strength": 0.8} if "Img2Img" in name or "Inpaint" in name else {}
    arguments |= {} if "Img2Img" in name else {"height": 8, "width": 8}
    return pipe(
        prompt, num_inference_steps=steps, output_type="latent", generator=generator or seeds(0), **arguments
    ).images


def record(pipe, prompt=PROMPT, settings=None, **arguments):
    with record_attention(pipe, **(settings or {})) as recorder:
        draw(pipe, prompt, **arguments)
    return recorder


def state(pipe):
    """What recording could leave behind."""
    hooks = [(len(module._forward_pre_hooks), len(module._forward_hooks)) for module in pipe.unet.modules()]
    processors = [id(layer.processor) for layer in pipe.unet.modules() if hasattr(layer, "processor")]
    return hooks, processors, "encode_prompt" in vars(pipe), getattr(pipe, "_batch_observers", ())


def plain_softmax(layer, states, context, mask):
    """The textbook in float64: (rows, heads, queries, keys)."""
    q, k = (
        (x.double() @ linear.weight.double().T + (0 if linear.bias is None else linear.bias.double()))
        .unflatten(-1, (layer.heads, -1))
        .transpose(1, 2)
        for x, linear in ((states, layer.to_q), (context, layer.to_k))
    )
    scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)


class Reference:
    """Records by plain hooks the last `images` rows: for each layer its matrices."""

    def __init__(self, pipe, images, cross=True):
        self.calls, self.images = {}, images
        for name, layer in pipe.unet.named_modules():
            if getattr(layer, "is_cross_attention", None) is cross and hasattr(layer, "set_processor"):
                hook = lambda layer, args, kwargs, name=name: self(name, layer, *args, **kwargs)  # noqa: E731
                layer.register_forward_pre_hook(hook, with_kwargs=True)

    def __call__(self, name, layer, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        matrix = plain_softmax(layer, hidden_states, context, attention_mask)[-self.images :]
        self.calls.setdefault(name, []).append(matrix)


@pytest.fixture
def fresh():
    """Makes a pipeline whose U-Net no other test uses, for hooks that stay."""
    return lambda make: ediffi(unet=tiny_unet(4)) if make is ediffi else make()


# --- numbers ---


@KINDS
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_equals_the_plain_computation(make, guidance, fresh):
    """Masses, shares, words and heat maps of two images, of the conditional half of guidance alone."""
    pipe = fresh(make)
    reference = Reference(pipe, images=2)
    prompts = [PROMPT, "an owl"]
    settings = {"heat_maps": True, "full": True}
    recorder = record(pipe, prompts, settings, generator=seeds(0, 1), guidance_scale=guidance)
    assert recorder.layers == list(reference.calls) and len(recorder.sigmas) == 3
    assert recorder.sigmas == sorted(recorder.sigmas, reverse=True)
    for name, calls in reference.calls.items():
        masses = torch.stack([call.mean((1, 2)) for call in calls], dim=1)  # (images, steps, columns)
        torch.testing.assert_close(recorder.masses(name).double(), masses, rtol=1e-4, atol=1e-6)
        full = [matrix.probabilities for matrix in recorder.matrices if matrix.layer == name]
        torch.testing.assert_close(torch.stack(full).double(), torch.stack(calls), rtol=1e-4, atol=1e-6)
    every = torch.stack([call for calls in reference.calls.values() for call in calls]).mean((0, 2))
    torch.testing.assert_close(recorder.masses().mean(1).double(), every.mean(1), rtol=1e-4, atol=1e-6)
    for image, phrase in enumerate(("cat", "owl")):
        columns = [t.column for t in recorder.words(image) if t.text in phrase]
        if make is ediffi:
            of_phrase = pipe.region_columns(prompts[image], [PaintRegion(phrase, (0.0, 0.0, 1.0, 1.0))])[0]
        else:  # start, "a", then letters
            of_phrase = [2, 3, 4] if phrase == "cat" else [3, 4, 5]
        assert set(of_phrase) <= set(columns)
        heat = every[image][:, of_phrase].sum(-1)
        side = round(len(heat) ** 0.5)
        found = recorder.heat_map(phrase, image)
        torch.testing.assert_close(found.double(), heat.reshape(side, side), rtol=1e-4, atol=1e-6)
        assert recorder.heat_map(phrase, image, size=(3 * side, 2 * side)).shape == (3 * side, 2 * side)


@KINDS
def test_self_attention_equals_the_plain_computation(make, fresh):
    pipe = fresh(make)
    reference = Reference(pipe, images=1, cross=False)
    recorder = record(pipe, settings={"self_attention": True})
    every = torch.stack([call for calls in reference.calls.values() for call in calls]).mean((0, 2))[0]
    found = recorder.self_attention_map()
    assert found.shape == (4, 4, 4, 4)
    torch.testing.assert_close(found.reshape(every.shape).double(), every, rtol=1e-4, atol=1e-6)


@KINDS
def test_rows_of_a_batch_equal_single_images(make):
    pipe = make()
    prompts = [PROMPT, "an owl"]
    settings = {"heat_maps": True}
    batch = record(pipe, prompts, settings, num_images_per_prompt=2, generator=seeds(0, 1, 2, 3))
    for image in range(4):
        single = record(pipe, prompts[image // 2], settings, generator=seeds(image))
        torch.testing.assert_close(batch.masses()[image], single.masses()[0], rtol=1e-3, atol=1e-5)
        words = [(token.text, token.column) for token in batch.words(image)]
        assert words == [(token.text, token.column) for token in single.words()]
        phrase = ("dog", "owl")[image // 2]
        torch.testing.assert_close(batch.heat_map(phrase, image), single.heat_map(phrase), rtol=1e-3, atol=1e-5)


def test_a_batch_in_parts_is_the_same_batch(monkeypatch):
    pipe = ediffi()
    whole = record(pipe, [PROMPT, "an owl", "a fox"], {"heat_maps": True}, generator=seeds(0, 1, 2))
    monkeypatch.setattr(pipe, "pixels_per_call", 2 * 8 * 8)
    parts = record(pipe, [PROMPT, "an owl", "a fox"], {"heat_maps": True}, generator=seeds(0, 1, 2))
    torch.testing.assert_close(parts.masses(), whole.masses(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(parts.heat_map("fox", 2), whole.heat_map("fox", 2), rtol=1e-3, atol=1e-5)


def test_encoders_of_ediffi():
    """Masses sum to 1, masked columns of T5 have none, and words are what is left without start, end and padding."""
    pipe = ediffi()
    recorder = record(pipe)
    shares, masses = recorder.shares(), recorder.masses()
    torch.testing.assert_close(masses.sum(-1), torch.ones(1, 3))
    assert masses.shape[-1] == NULL_COLUMN + 1
    length = len(pipe.tokenizer_2(PROMPT).input_ids)
    padding = masses[..., T5_COLUMNS.start + length : T5_COLUMNS.stop]
    assert (padding == 0).all() and (masses[..., T5_COLUMNS.start : T5_COLUMNS.start + length] > 0).all()
    encoders = ("clip_text", "t5", "clip_image", "null_token")
    torch.testing.assert_close(sum(shares[name] for name in encoders), torch.ones(1, 3))
    torch.testing.assert_close(shares["clip_text"], masses[..., CLIP_TEXT_COLUMNS].sum(-1))
    words = recorder.words()
    torch.testing.assert_close(shares["words"][0], sum(token.masses for token in words))
    assert "".join(token.text for token in words if token.encoder == "clip_text") == PROMPT.replace(" ", "")
    # the tiny tokenizer of T5 has a further token for the beginning of a word, which stands at the first letter
    assert len([token for token in words if token.encoder == "t5"]) == length - 1 and words[-1].text == "g"
    assert words[0].mass == pytest.approx(words[0].masses.mean().item())


def test_heat_maps_of_a_phrase_add_up():
    """Over its words, over the encoders, and over its occurrences."""
    recorder = record(ediffi(), settings={"heat_maps": True})
    for whole, parts in (
        (recorder.heat_map("cat and"), [recorder.heat_map("Cat"), recorder.heat_map("and")]),
        (recorder.heat_map("cat"), [recorder.heat_map("cat", encoder=encoder) for encoder in ("clip_text", "t5")]),
        (recorder.heat_map("a"), [recorder.heat_map("a", occurrence=i) for i in range(2)]),
    ):
        torch.testing.assert_close(whole, sum(parts))


def test_the_unconditional_half_on_demand():
    """Its first step is that of the negative prompt, drawn without guidance."""
    pipe = ediffi()
    half = record(pipe, settings={"unconditional": True}, negative_prompt="an owl")
    owl = record(pipe, "an owl", guidance_scale=1.0)
    torch.testing.assert_close(half.masses()[:, 0], owl.masses()[:, 0], rtol=1e-4, atol=1e-6)
    assert (half.masses() - record(pipe).masses()).abs().max() > 1e-3
    assert "words" not in half.shares()
    with pytest.raises(ValueError, match="does not see the prompt"):
        half.words()
    with pytest.raises(ValueError, match="call the pipeline with guidance"):
        record(pipe, settings={"unconditional": True}, guidance_scale=1.0).masses()


@pytest.mark.parametrize("make", [ediffi, stable_diffusion], ids=lambda make: make.__name__)
def test_half_precision(make):
    exact = record(make())
    pipe = ediffi(unet=tiny_unet(4)) if make is ediffi else make()
    pipe.unet.to(torch.bfloat16)
    if make is stable_diffusion:
        pipe.text_encoder.to(torch.bfloat16)
    recorder = record(pipe, settings={"heat_maps": True})
    assert recorder.masses().dtype == torch.float32
    torch.testing.assert_close(recorder.masses().sum(-1), torch.ones(1, 3))
    torch.testing.assert_close(recorder.masses()[:, 0], exact.masses()[:, 0], rtol=0, atol=0.02)


# --- paint ---


def test_painted_attention_is_what_the_painting_computes():
    """In the pipelines of diffusers, whichever block comes first."""
    pipe, found = stable_diffusion(), []
    for paint_first in (True, False):
        seen, block = [], paint_with_words(pipe, PROMPT, REGIONS, strength=1.0)
        block.painting.observer = lambda p, seen=seen: seen.append(p.clone())
        recording = record_attention(pipe, full=True)
        outer, inner = (block, recording) if paint_first else (recording, block)
        with outer as a, inner as b:
            draw(pipe, num_images_per_prompt=2, generator=seeds(0, 1))
        recorder = b if paint_first else a
        found.append(torch.cat([matrix.probabilities for matrix in recorder.matrices]))
        torch.testing.assert_close(found[-1], torch.cat(seen), rtol=1e-4, atol=1e-6)
    assert torch.equal(*found)
    plain = record(pipe, settings={"full": True}, num_images_per_prompt=2, generator=seeds(0, 1))
    assert (found[0] - torch.cat([m.probabilities for m in plain.matrices])).abs().max() > 0.05


def test_painted_attention_of_ediffi():
    """Its painting is installed inside the call."""
    pipe, seen = ediffi(), []

    def observe(unet, images, total, encoders):
        layer = next(
            module for module in unet.modules() if isinstance(module, EDiffIAttention) and module.is_cross_attention
        )
        layer.processor.painting.observer = lambda p: seen.append(p.clone())

    with record_attention(pipe, full=True, heat_maps=True) as recorder:
        pipe._batch_observers += (observe,)
        draw(pipe, regions=REGIONS, region_strength=1.0)
        pipe._batch_observers = pipe._batch_observers[:1]
    assert pipe._batch_observers == ()
    torch.testing.assert_close(
        torch.cat([m.probabilities for m in recorder.matrices]), torch.cat(seen), rtol=1e-4, atol=1e-6
    )
    cat = recorder.heat_map("cat")
    assert cat[:, :2].mean() > 2 * cat[:, 2:].mean()


# --- every pipeline ---


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: pipeline.__name__)
def test_the_same_image_and_nothing_left_behind(pipeline):
    pipe = build(pipeline, unet_for(pipeline))
    plain, before = draw(pipe), state(pipe)
    with record_attention(pipe, heat_maps=True, self_attention=True, full=True) as recorder:
        assert torch.equal(draw(pipe), plain)
    assert state(pipe) == before and torch.equal(draw(pipe), plain)
    assert recorder.num_images == 1 and recorder.masses().shape == (1, len(recorder.sigmas), 77)
    torch.testing.assert_close(recorder.shares()["text"], torch.ones(1, len(recorder.sigmas)))
    with record_attention(pipe), paint_with_words(pipe, PROMPT, REGIONS, 1.0):
        recorded = draw(pipe)
    with paint_with_words(pipe, PROMPT, REGIONS, 1.0):
        assert torch.equal(draw(pipe), recorded)


def test_the_same_image_of_ediffi():
    pipe = ediffi()
    before = state(pipe)
    for arguments in ({}, {"regions": REGIONS}, {"guidance_scale": 1.0, "num_images_per_prompt": 2}):
        generators = seeds(*range(arguments.get("num_images_per_prompt", 1)))
        plain = draw(pipe, generator=generators, **arguments)
        generators = seeds(*range(arguments.get("num_images_per_prompt", 1)))
        with record_attention(pipe, heat_maps=True, self_attention=True, full=True):
            assert torch.equal(draw(pipe, generator=generators, **arguments), plain)
        assert state(pipe) == before


def test_every_stage_of_the_cascade():
    """Blocks of different U-Nets are nested; each sees its stage alone."""
    pipe = tiny_pipeline()
    with record_attention(pipe) as base, record_attention(pipe, "unet_sr256", heat_maps=True) as sr256:
        pipe(PROMPT, height=32, width=32, num_inference_steps=(3, 2), generator=seeds(0))
    assert (len(base.sigmas), len(sr256.sigmas)) == (3, 2)
    assert sr256.heat_map("cat").shape == (4, 4)
    assert pipe._batch_observers == ()


def test_experts_with_and_without_cross_attention():
    """Each layer has masses where its expert ran; an expert that does not attend has none."""
    blind = tiny_unet(1, cross_attention_factors=())
    router = ExpertRouterUNet.from_unets([blind, tiny_unet(2), tiny_unet(3)], boundaries=[0.05, 5.0])
    recorder = record(ediffi(unet=router), steps=8)
    assert len(recorder.sigmas) < 8 and min(recorder.sigmas) >= 0.05
    assert {name.split(".")[1] for name in recorder.layers} == {"1", "2"}
    for name in recorder.layers:
        ran = torch.tensor([(sigma >= 5) == name.startswith("experts.2") for sigma in recorder.sigmas])
        assert torch.equal(recorder.masses(name)[0, :, 0].isfinite(), ran)
    torch.testing.assert_close(recorder.masses().sum(-1), torch.ones(1, len(recorder.sigmas)))


def test_sigma_of_stable_diffusion():
    pipe = stable_diffusion()
    recorder = record(pipe, steps=4)
    alphas = pipe.scheduler.alphas_cumprod[pipe.scheduler.timesteps]
    assert recorder.sigmas == pytest.approx(((1 - alphas) / alphas).sqrt().tolist(), rel=1e-4)


def test_ip_adapter_and_perturbed_attention():
    """Of an IP-Adapter's layers the text is recorded; of perturbed guidance the rows that are not perturbed."""
    pipe = build(StableDiffusionXLPipeline, unet_for(StableDiffusionXLPipeline))
    pipe.load_ip_adapter(
        ip_adapter(unet_for(StableDiffusionXLPipeline)), subfolder="", weight_name="", image_encoder_folder=None
    )
    embeds = [torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(6))]
    recorder = record(pipe, ip_adapter_image_embeds=embeds)
    torch.testing.assert_close(recorder.masses().sum(-1), torch.ones(1, 3))
    pipe = stable_diffusion(StableDiffusionPAGPipeline)
    first = record(pipe, pag_scale=2.0).masses()[:, 0]
    plain = record(pipe, pag_scale=0.0).masses()[:, 0]
    torch.testing.assert_close(first, plain, rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_text_beside_the_keys_of_the_pixels():
    """DeepFloyd IF's attention, called without a pipeline: masses are those of the text alone."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=3,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=4,
    ).eval()
    made, layer = {}, unet.mid_block.attentions[0]
    for name in ("to_q", "to_k", "add_k_proj"):
        getattr(layer, name).register_forward_hook(lambda _, args, output, name=name: made.update({name: output}))
    pipe = SimpleNamespace(unet=unet, scheduler=DDPMScheduler())
    with record_attention(pipe, heat_maps=True) as recorder:
        unet(torch.randn(2, 3, 8, 8), 500, torch.randn(2, 7, 16))
    query, pixels, text = (
        made[name].double().unflatten(-1, (layer.heads, -1)).transpose(1, 2) for name in ("to_q", "to_k", "add_k_proj")
    )
    both = (query @ torch.cat([text, pixels], dim=2).transpose(2, 3) * layer.scale).softmax(-1)
    found = recorder.masses("mid_block.attentions.0")[:, 0]
    torch.testing.assert_close(found.double(), both[..., :7].mean((1, 2)), rtol=1e-4, atol=1e-6)


# --- memory ---


@KINDS
def test_memory_does_not_grow_with_the_steps(make):
    pipe = make()
    kept = [record(pipe, settings={"heat_maps": True, "self_attention": True}, steps=steps) for steps in (5, 50)]
    assert kept[0].numel() == kept[1].numel()
    columns = kept[0].masses().shape[-1]
    maps = (columns * 16 + 1) + (16 * 16 + 1)
    assert kept[0].numel() == len(kept[0].layers) * BINS * (columns + 1) + 2 * BINS + maps
    assert len(kept[1].sigmas) > 40
    with record_attention(pipe) as recorder:
        draw(pipe, steps=5)
        before = recorder.numel()
        draw(pipe, steps=5)
        assert recorder.numel() == before
    full = [record(pipe, settings={"full": True}, steps=steps).numel() for steps in (2, 4)]
    assert full[1] > full[0]


def test_further_calls_are_further_samples():
    """The mean over two calls is the mean of both."""
    pipe = stable_diffusion()
    singles = [record(pipe, generator=seeds(i)) for i in range(2)]
    with record_attention(pipe) as recorder:
        for i in range(2):
            draw(pipe, generator=seeds(i))
    mean = (singles[0].masses() + singles[1].masses()) / 2
    torch.testing.assert_close(recorder.masses(), mean, rtol=1e-4, atol=1e-6)


# --- errors ---


@KINDS
def test_everything_is_restored_after_an_exception(make):
    pipe = make()
    before = state(pipe)

    def stop(*_):
        raise RuntimeError("stop")

    for argument in ({"regions": REGIONS} if make is ediffi else {}, {}):
        with pytest.raises(RuntimeError, match="stop"), record_attention(pipe) as recorder:
            draw(pipe, callback_on_step_end=stop, **argument)
        assert state(pipe) == before and len(recorder.sigmas) == 1
    with record_attention(pipe) as recorder:
        with pytest.raises(RuntimeError, match="stop"):  # before the first layer, and with more images
            handle = pipe.unet.conv_in.register_forward_pre_hook(stop)
            try:
                draw(pipe)
            finally:
                handle.remove()
        draw(pipe, num_images_per_prompt=2, generator=seeds(0, 1))
    assert recorder.masses().shape[0] == 2
    with record_attention(pipe) as recorder:
        with pytest.raises(ValueError, match="recorded already"), record_attention(pipe):
            pass
        draw(pipe)
    assert recorder.sigmas and state(pipe) == before


@KINDS
def test_errors_name_the_remedy(make):
    pipe = make()
    with record_attention(pipe, heat_maps=True) as recorder:
        for read in (recorder.masses, recorder.words, lambda: recorder.sigmas, lambda: recorder.heat_map("cat")):
            with pytest.raises(ValueError, match="nothing was recorded: call the pipeline inside"):
                read()
        draw(pipe)
        with pytest.raises(ValueError, match="a block for each|block for each prompt"):
            draw(pipe, "an owl")
        with pytest.raises(ValueError, match="draws 2 images after 1"):
            draw(pipe, num_images_per_prompt=2, generator=seeds(0, 1))
    for arguments, message in (
        ({"phrase": "owl"}, "'owl' is not in the prompt"),
        ({"phrase": "ca"}, "write the whole word"),
        ({"phrase": " "}, "must be words of the prompt"),
        ({"phrase": "cat", "image": 1}, "image=1: 1 images were recorded"),
        ({"phrase": "cat", "encoder": "bert"}, "encoder='bert': the text has"),
        ({"phrase": "cat", "occurrence": 1}, "occurrence=1"),
    ):
        with pytest.raises(ValueError, match=message):
            recorder.heat_map(**arguments)
    with pytest.raises(ValueError, match="layer='up' was not recorded"):
        recorder.masses("up")
    plain = record(pipe)
    with pytest.raises(ValueError, match="heat_maps=True"):
        plain.heat_map("cat")
    with pytest.raises(ValueError, match="self_attention=True"):
        plain.self_attention_map()
    with pytest.raises(ValueError, match="has no 'unet_sr256'"):
        record_attention(pipe, "unet_sr256").__enter__()


def test_networks_that_cannot_be_recorded():
    with pytest.raises(ValueError, match="no cross-attention"):
        record_attention(ediffi(unet=tiny_unet(1, cross_attention_factors=()))).__enter__()
    pipe = stable_diffusion()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match="noise levels of FlowMatch"):
        record_attention(pipe).__enter__()


def test_embeddings_have_no_words():
    pipe = stable_diffusion()
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    embeds, _ = pipe.encode_prompt(PROMPT, "cpu", 1, False)
    with record_attention(pipe) as recorder:
        draw(pipe, None, prompt_embeds=embeds, guidance_scale=1.0)
    assert "words" not in recorder.shares() and recorder.masses().shape[0] == 1
    with pytest.raises(ValueError, match="prompt instead of embeddings"):
        recorder.words()


def test_a_schedule_has_no_words():
    """Its prompts take turns, so that a column has no single word; the same schedule again is a further sample."""
    pipe, schedule = ediffi(), [(PROMPT, 0.0), ("a dog", 0.5)]
    with record_attention(pipe) as recorder:
        for _ in range(2):
            draw(pipe, None, prompt_schedule=schedule)
        with pytest.raises(ValueError, match="open a record_attention block for each"):
            draw(pipe, None, prompt_schedule=[(PROMPT, 0.0), ("a dog", 0.9)])
    assert recorder.prompts == [] and "words" not in recorder.shares()
    with pytest.raises(ValueError, match="embeddings or a schedule"):
        recorder.words()
    with record_attention(pipe) as recorder:
        draw(pipe, None, prompt_schedule=[(PROMPT, 0.0)])
    assert recorder.prompts == [PROMPT] and recorder.words()


def test_an_encoder_that_is_switched_off_has_no_words():
    pipe = ediffi()
    with record_attention(pipe, heat_maps=True) as recorder:
        draw(pipe, encoders=["t5"])
    assert {token.encoder for token in recorder.words()} == {"t5"}
    assert torch.equal(recorder.heat_map("cat"), recorder.heat_map("cat", encoder="t5"))


@KINDS
def test_calls_of_a_twin_are_not_recorded(make):
    pipe = make()
    twin = type(pipe).from_pipe(pipe)
    expected = record(pipe).shares()
    with record_attention(pipe) as recorder:
        draw(twin)
        draw(pipe)
        draw(twin, "a bird")
    assert recorder.prompts == [PROMPT] and recorder.num_images == 1
    for encoder, shares in recorder.shares().items():
        assert torch.equal(shares, expected[encoder])

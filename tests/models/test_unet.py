# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The denoiser: sizes of the paper's models, ADM's layout, and how it behaves."""

import importlib.util
import warnings

import pytest
import torch
from accelerate import cpu_offload
from diffusers import TorchAoConfig
from helpers import tiny_unet
from torchao.quantization import Int8WeightOnlyConfig
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from diffusers_ediffi.edm import c_in, c_noise, c_skip, denoised_from_model_output, expand_as
from diffusers_ediffi.models.blocks import ResnetBlock, UNetLevel
from diffusers_ediffi.models.presets import PRESETS
from diffusers_ediffi.models.unet import EDiffIUNet

EFFICIENT = {"structure": "efficient", "in_channels": 6}


def parameters_of(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(preset: str, **changes) -> EDiffIUNet:
    with torch.device("meta"):
        return EDiffIUNet.from_preset(preset, **changes)


def inputs(unet: EDiffIUNet, batch_size: int = 2, size: int = 8) -> dict:
    """Random arguments of `forward`."""
    config = unet.config
    return {
        "sample": torch.randn(batch_size, config.in_channels, size, size),
        "timestep": torch.linspace(-1, 1, batch_size),
        "encoder_hidden_states": torch.randn(batch_size, 77, config.encoder_hid_dim),
        "encoder_hidden_states_2": torch.randn(batch_size, 113, config.encoder_hid_dim_2),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(batch_size, config.pooled_projection_dim),
            "image_embeds": torch.randn(batch_size, config.image_embed_dim),
        },
    }


# --- the paper's numbers ---


@pytest.mark.parametrize(
    ("preset", "billions"),
    [
        ("paper-literal", 0.704),
        ("paper-table1", 1.006),
        ("adm64", 0.337),
        ("adm256-upsampler", 0.315),
        ("paper-sr256", 0.296),
        ("paper-sr1024", 0.165),
    ],
)
def test_presets_have_the_papers_size(preset, billions):
    assert parameters_of(on_meta(preset)) / 1e9 == pytest.approx(billions, rel=0.02)


def test_table_1_totals_and_increments():
    """6.8B, 7.1B, 8.1B and 9.1B for ensembles A to D, text and image encoders included."""
    with torch.device("meta"):
        encoders = [
            T5EncoderModel(T5Config(d_model=1024, d_kv=128, d_ff=65536, num_heads=128, num_layers=24)),
            CLIPTextModelWithProjection(
                CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12, projection_dim=768)
            ),
            CLIPVisionModelWithProjection(
                CLIPVisionConfig(
                    hidden_size=1024,
                    intermediate_size=4096,
                    num_hidden_layers=24,
                    num_attention_heads=16,
                    patch_size=14,
                    projection_dim=768,
                )
            ),
        ]
    shared = sum(map(parameters_of, encoders))
    base, sr256, sr1024 = (parameters_of(on_meta(f"paper-{name}")) for name in ("table1", "sr256", "sr1024"))
    totals = [shared + n_base * base + n_sr * sr256 + sr1024 for n_base, n_sr in ((1, 1), (1, 2), (2, 2), (3, 2))]
    assert [round(total / 1e9, 1) for total in totals] == [6.8, 7.1, 8.1, 9.1]
    increments = [(after - before) / 1e9 for before, after in zip(totals, totals[1:], strict=False)]
    assert [round(increment, 1) for increment in increments] == [0.3, 1.0, 1.0]


# --- the published layout of ADM-64 ---


def published_adm64() -> dict[str, tuple[int, ...]]:
    """Names and shapes of guided-diffusion's 64x64_diffusion weights, written down from its configuration."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    def res_block(name: str, channels_in: int, channels_out: int) -> None:
        layer(f"{name}.in_layers.0", channels_in)
        layer(f"{name}.in_layers.2", channels_out, channels_in, 3, 3)
        layer(f"{name}.emb_layers.1", 2 * channels_out, 768)
        layer(f"{name}.out_layers.0", channels_out)
        layer(f"{name}.out_layers.3", channels_out, channels_out, 3, 3)
        if channels_in != channels_out:
            layer(f"{name}.skip_connection", channels_out, channels_in, 1, 1)

    def attention(name: str, channels: int) -> None:
        layer(f"{name}.norm", channels)
        layer(f"{name}.qkv", 3 * channels, channels, 1)
        layer(f"{name}.proj_out", channels, channels, 1)

    layer("time_embed.0", 768, 192)
    layer("time_embed.2", 768, 768)
    layer("input_blocks.0.0", 192, 3, 3, 3)
    block, width, skips = 1, 192, [192]
    for level, channels in enumerate((192, 384, 576, 768)):
        for _ in range(3):
            res_block(f"input_blocks.{block}.0", width, channels)
            if level:
                attention(f"input_blocks.{block}.1", channels)
            block, width = block + 1, channels
            skips.append(width)
        if level < 3:
            res_block(f"input_blocks.{block}.0", width, width)
            block += 1
            skips.append(width)
    res_block("middle_block.0", 768, 768)
    attention("middle_block.1", 768)
    res_block("middle_block.2", 768, 768)
    block = 0
    for level, channels in reversed(list(enumerate((192, 384, 576, 768)))):
        for i in range(4):
            res_block(f"output_blocks.{block}.0", width + skips.pop(), channels)
            if level:
                attention(f"output_blocks.{block}.1", channels)
            if level and i == 3:
                res_block(f"output_blocks.{block}.2", channels, channels)
            block, width = block + 1, channels
    layer("out.0", 192)
    layer("out.2", 6, 192, 3, 3)  # noise and its learned variance
    return shapes


def adm_names(unet: EDiffIUNet) -> dict[str, tuple[int, ...]]:
    """What of an EDiffIUNet has a counterpart in ADM, under ADM's names."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, module) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = tuple(module.weight.shape), tuple(module.bias.shape)

    def res_block(name: str, resnet: ResnetBlock) -> None:
        layer(f"{name}.in_layers.0", resnet.norm1)
        layer(f"{name}.in_layers.2", resnet.conv1)
        layer(f"{name}.emb_layers.1", resnet.time_emb_proj)
        layer(f"{name}.out_layers.0", resnet.norm2)
        layer(f"{name}.out_layers.3", resnet.conv2)
        if isinstance(resnet.conv_shortcut, torch.nn.Conv2d):
            layer(f"{name}.skip_connection", resnet.conv_shortcut)

    def attention(name: str, level: UNetLevel, i: int) -> int:
        if str(i) not in level.attentions:
            return 0
        block = level.attentions[str(i)]
        layer(f"{name}.norm", block.norm1)
        queries, inner = block.attn1.to_q.weight.shape
        assert block.attn1.to_k.weight.shape == block.attn1.to_v.weight.shape == (queries, inner)
        shapes[f"{name}.qkv.weight"], shapes[f"{name}.qkv.bias"] = (3 * queries, inner, 1), (3 * queries,)
        shapes[f"{name}.proj_out.weight"] = (*block.attn1.to_out[0].weight.shape, 1)
        shapes[f"{name}.proj_out.bias"] = tuple(block.attn1.to_out[0].bias.shape)
        return 1

    layer("time_embed.0", unet.time_embedding.linear_1)
    layer("time_embed.2", unet.time_embedding.linear_2)
    layer("input_blocks.0.0", unet.conv_in)
    number = 1
    for level in unet.down_blocks:
        for i, resnet in enumerate(level.resnets):
            res_block(f"input_blocks.{number}.0", resnet)
            attention(f"input_blocks.{number}.1", level, i)
            number += 1
        if level.after is not None:
            res_block(f"input_blocks.{number}.0", level.after)
            number += 1
    res_block("middle_block.0", unet.mid_block.resnets[0])
    attention("middle_block.1", unet.mid_block, 0)
    res_block("middle_block.2", unet.mid_block.resnets[1])
    number = 0
    for level in unet.up_blocks:
        for i, resnet in enumerate(level.resnets):
            res_block(f"output_blocks.{number}.0", resnet)
            following = 1 + attention(f"output_blocks.{number}.1", level, i)
            if level.after is not None and i == len(level.resnets) - 1:
                res_block(f"output_blocks.{number}.{following}", level.after)
            number += 1
    layer("out.0", unet.conv_norm_out)
    layer("out.2", unet.conv_out)
    return shapes


def test_adm64_has_the_published_layout():
    ours, published = adm_names(on_meta("adm64")), published_adm64()
    # eDiff-I predicts F alone, ADM the noise and its variance.
    for name in ("out.2.weight", "out.2.bias"):
        assert (2 * ours[name][0], *ours[name][1:]) == published[name]
        ours[name] = published[name]
    assert ours == published
    total = sum(torch.Size(shape).numel() for shape in published.values())
    assert total / 1e6 == pytest.approx(295.1, abs=0.5)


# --- behaviour ---


def test_a_fresh_network_returns_zero():
    unet = EDiffIUNet.from_config(tiny_unet().config)
    assert not unet(**inputs(unet)).sample.any()


@pytest.mark.parametrize("attention_block", ["plain", "feed_forward", "stacked"])
@pytest.mark.parametrize("structure", [{}, EFFICIENT], ids=["adm", "efficient"])
def test_output_shape(structure, attention_block):
    unet = tiny_unet(**structure, attention_block=attention_block)
    sample = unet(**inputs(unet, size=16)).sample
    assert sample.shape == (2, 3, 16, 16)
    assert sample.isfinite().all() and sample.std() > 0


@pytest.mark.parametrize("structure", [{}, EFFICIENT], ids=["adm", "efficient"])
def test_patch_size_keeps_the_resolution(structure):
    unet = tiny_unet(**structure, patch_size=2, self_attention_factors=(4,), cross_attention_factors=(4,))
    assert unet(**inputs(unet, size=16)).sample.shape == (2, 3, 16, 16)


def test_a_fresh_network_of_differences_returns_the_enlarged_image():
    """With F_r = 0 the denoiser is low_res + c_skip_r (x - low_res)."""
    unet = tiny_unet(**EFFICIENT, sigma_residual=0.1)
    for parameter in unet.conv_out.parameters():
        torch.nn.init.zeros_(parameter)
    sigma = torch.tensor([0.02, 0.3, 80.0])
    low_res, noisy = torch.randn(2, 3, 3, 8, 8)
    arguments = inputs(unet, batch_size=3)
    arguments["sample"] = torch.cat([c_in(expand_as(sigma, noisy)) * noisy, low_res], dim=1)
    model_output = unet(**{**arguments, "timestep": c_noise(sigma)}).sample
    denoised = denoised_from_model_output(model_output, noisy, sigma)
    keep = c_skip(expand_as(sigma, noisy), 0.1)
    torch.testing.assert_close(denoised, low_res + keep * (noisy - low_res), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(denoised[2], low_res[2], rtol=0, atol=1e-3)


def test_noise_level_is_one_more_condition_of_super_resolution():
    plain = tiny_unet(**EFFICIENT, sigma_residual=0.1)
    unet = EDiffIUNet.from_config(plain.config, max_noise_level=0.5).eval()
    missing, unexpected = unet.load_state_dict(plain.state_dict(), strict=False)
    assert {name.split(".")[0] for name in missing} == {"noise_level_embedding"} and not unexpected
    arguments = inputs(unet, batch_size=2)
    torch.testing.assert_close(unet(**arguments).sample, plain(**arguments).sample)  # a fresh embedding is 0
    for parameter in unet.noise_level_embedding.parameters():
        torch.nn.init.normal_(parameter)
    low, high = (unet(**arguments, class_labels=level).sample for level in (0.1, 0.4))
    both = unet(**arguments, class_labels=torch.tensor([0.1, 0.4])).sample
    assert not torch.allclose(low, high)
    torch.testing.assert_close(both, torch.stack([low[0], high[1]]), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="class_labels is a noise level, and this network was trained without"):
        plain(**arguments, class_labels=0.1)


def test_a_class_is_one_more_condition():
    unet = tiny_unet(num_class_embeds=5)
    arguments = inputs(unet, batch_size=2)
    second, fourth = (unet(**arguments, class_labels=label).sample for label in (2, torch.tensor([4])))
    both = unet(**arguments, class_labels=torch.tensor([2, 4], dtype=torch.int32)).sample
    assert not torch.allclose(second, fourth)
    torch.testing.assert_close(both, torch.stack([second[0], fourth[1]]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "class_labels is missing: .* one of 5 classes"),
        (5, r"class_labels 5 must be whole numbers from 0 to 4"),
        (torch.tensor([0, -1]), r"class_labels \[0, -1\] must be whole numbers from 0 to 4"),
        (1.0, "class_labels of torch.float32 .* must be whole numbers"),
        (True, "class_labels of torch.bool .* must be whole numbers"),
        (torch.tensor([1, 2, 3]), r"shape \(3,\) must be whole numbers from 0 to 4, one or \(batch,\)"),
        (torch.tensor([[1], [2]]), r"shape \(2, 1\) must be whole numbers from 0 to 4, one or \(batch,\)"),
    ],
)
def test_a_class_that_is_missing_or_unknown_is_refused(labels, message):
    unet = tiny_unet(num_class_embeds=5)
    with pytest.raises(ValueError, match=message):
        unet(**inputs(unet, batch_size=2), class_labels=labels)


def test_heads_of_equal_number_at_every_level():
    unet = tiny_unet(num_attention_heads=2, self_attention_factors=(1, 2), cross_attention_factors=(2,))
    layers = [module for name, module in unet.named_modules() if name.endswith(("attn1", "attn2"))]
    assert {(layer.to_q.out_features, layer.heads) for layer in layers} == {(8, 2), (16, 2)}
    with pytest.raises(ValueError, match="8 channels are not a multiple of num_attention_heads=3"):
        tiny_unet(num_attention_heads=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preconditioning": "eps"}, "preconditioning='eps' is unknown; choose one of edm, epsilon, v_prediction, sa"),
        ({"preconditioning": "epsilon", "sigma_residual": 0.1}, "sigma_residual=0.1 is for preconditioning='edm'"),
        ({"num_class_embeds": 5, "max_noise_level": 0.5}, "classes or noise levels, not both"),
    ],
)
def test_what_means_nothing_together_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_unet(**EFFICIENT, **changes)


def test_a_fresh_network_of_differences_knows_how_noisy_its_input_is():
    """With F_r = 0 the denoiser is the best linear one: its weights are those of the inverse variances."""
    unet = tiny_unet(**EFFICIENT, sigma_residual=0.1, max_noise_level=0.5)
    for parameter in unet.conv_out.parameters():
        torch.nn.init.zeros_(parameter)
    sigma, level = torch.tensor([0.05, 0.3, 2.0]), torch.tensor([0.0, 0.2, 0.5])
    low_res, noisy = torch.randn(2, 3, 3, 8, 8)
    arguments = {**inputs(unet, batch_size=3), "timestep": c_noise(sigma), "class_labels": level}
    arguments["sample"] = torch.cat([c_in(expand_as(sigma, noisy)) * noisy, low_res], dim=1)
    denoised = denoised_from_model_output(unet(**arguments).sample, noisy, sigma)
    of_noisy, of_low_res = (expand_as(1 / variance, noisy) for variance in (sigma**2, 0.1**2 + level**2))
    expected = (of_noisy * noisy + of_low_res * low_res) / (of_noisy + of_low_res)
    torch.testing.assert_close(denoised, expected, rtol=1e-4, atol=1e-4)


def test_every_condition_counts():
    unet = tiny_unet()
    arguments = inputs(unet)
    full = unet(**arguments).sample
    for name in ("encoder_hidden_states", "encoder_hidden_states_2"):
        assert not torch.allclose(unet(**{**arguments, name: None}).sample, full)
    for name in ("text_embeds", "image_embeds"):
        without = {k: v for k, v in arguments["added_cond_kwargs"].items() if k != name}
        assert not torch.allclose(unet(**{**arguments, "added_cond_kwargs": without}).sample, full)


def test_an_absent_embedding_is_a_zeroed_one():
    unet = tiny_unet()
    arguments = inputs(unet)
    zeros = {k: torch.zeros_like(v) for k, v in arguments.items() if k.startswith("encoder")}
    pooled = {k: torch.zeros_like(v) for k, v in arguments["added_cond_kwargs"].items()}
    zeroed = unet(**{**arguments, **zeros, "added_cond_kwargs": pooled}).sample
    absent = unet(arguments["sample"], arguments["timestep"], None).sample
    torch.testing.assert_close(absent, zeroed)


def test_masked_tokens_do_not_count():
    unet = tiny_unet()
    arguments = inputs(unet)
    mask = torch.ones(2, 113)
    mask[:, 5:] = 0
    masked = unet(**arguments, encoder_attention_mask_2=mask).sample
    arguments["encoder_hidden_states_2"] = arguments["encoder_hidden_states_2"][:, :5]  # padded inside, with a mask
    torch.testing.assert_close(unet(**arguments).sample, masked)


def test_one_timestep_serves_the_whole_batch():
    unet = tiny_unet()
    arguments = {**inputs(unet), "timestep": 0.3}
    several = unet(**{**arguments, "timestep": torch.tensor([0.3, 0.3])}).sample
    torch.testing.assert_close(unet(**arguments).sample, several)


def test_gradient_checkpointing_changes_no_gradient():
    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        unet = tiny_unet().train()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        arguments = inputs(unet)
        unet(**arguments).sample.square().mean().backward()
        return [parameter.grad for parameter in unet.parameters() if parameter.grad is not None]

    for plain, checkpointed in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(plain, checkpointed)


@torch.no_grad()  # flex has no gradients on a CPU
@pytest.mark.parametrize("backend", ["_native_math", "flex"])
def test_attention_backends_agree(backend):
    unet = tiny_unet(attention_head_dim=16)  # flex takes no narrower heads
    arguments = inputs(unet)
    arguments["encoder_hidden_states_2"] = arguments["encoder_hidden_states_2"][:, :5]  # the other columns are masked
    native = unet(**arguments).sample
    try:
        unet.set_attention_backend(backend)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # flex warns that it is slow without torch.compile
            torch.testing.assert_close(unet(**arguments).sample, native, rtol=1e-4, atol=1e-5)
    finally:
        unet.set_attention_backend("native")  # diffusers makes the last choice everybody's default
    torch.testing.assert_close(unet(**arguments).sample, native)


@pytest.mark.skipif(importlib.util.find_spec("xformers") is not None, reason="xformers is installed")
def test_xformers_that_is_not_installed_is_named():
    with pytest.raises(ModuleNotFoundError, match="xformers"):
        tiny_unet().enable_xformers_memory_efficient_attention()
    with pytest.raises(RuntimeError, match="xformers"):
        tiny_unet().set_attention_backend("xformers")


def test_attn_processors_can_be_exchanged():
    unet = tiny_unet()
    processors = unet.attn_processors
    assert processors and all(name.endswith(".processor") for name in processors)
    unet.set_attn_processor(dict(processors))
    assert unet.attn_processors == processors


def test_save_and_load(tmp_path):
    unet = tiny_unet(trained_on=[[9.61, None]])
    unet.save_pretrained(tmp_path)
    loaded = EDiffIUNet.from_pretrained(tmp_path)
    assert loaded.config.trained_on == [[9.61, None]]
    arguments = inputs(unet)
    assert torch.equal(loaded(**arguments).sample, unet(**arguments).sample)


def test_loaded_weights_are_aligned_unless_they_stay_mapped(tmp_path):
    """A kernel may sum in another order where memory begins at no multiple of 64 bytes."""
    unet = tiny_unet(cross_attention_dim=15)  # odd sizes, so that a file cannot be aligned by chance
    unet.save_pretrained(tmp_path)
    loaded, mapped = (EDiffIUNet.from_pretrained(tmp_path, mapped=mapped) for mapped in (False, True))
    assert {parameter.data_ptr() % 64 for parameter in loaded.parameters()} == {0}
    assert len({parameter.data_ptr() % 64 for parameter in mapped.parameters()}) > 1
    for one, two in zip(loaded.parameters(), mapped.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_and_close(dtype):
    unet = tiny_unet()
    arguments = inputs(unet)
    full = unet(**arguments).sample

    def cast(value):
        if isinstance(value, dict):
            return {k: cast(v) for k, v in value.items()}
        return value.to(dtype)

    half = unet.to(dtype)(**{**cast(arguments), "timestep": arguments["timestep"]}).sample
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), full, rtol=0.1, atol=0.1 * full.std().item())


def blocks_on_disk(unet, folder):
    """Every second block is on disk, as a `device_map` may have it."""
    unet.save_pretrained(folder / "unet")
    names = [name for name, child in unet.named_children() if not isinstance(child, torch.nn.ModuleList)]
    for blocks in ("down_blocks", "up_blocks"):
        names += [f"{blocks}.{i}" for i in range(len(getattr(unet, blocks)))]
    device_map = {name: ("cpu", "disk")[i % 2] for i, name in enumerate(names)}
    return EDiffIUNet.from_pretrained(folder / "unet", device_map=device_map, offload_folder=folder / "offloaded")


def conditioning_on_disk(unet, folder):
    unet.save_pretrained(folder / "unet")
    device_map = {name: "cpu" for name, _ in unet.named_children()} | {"fusion": "disk", "down_blocks": "disk"}
    return EDiffIUNet.from_pretrained(folder / "unet", device_map=device_map, offload_folder=folder / "offloaded")


def grouped(**settings):
    def place(unet, _):
        unet.enable_group_offload(torch.device("cpu"), **settings)
        return unet

    return place


PLACES = {
    "blocks in groups": grouped(offload_type="block_level", num_blocks_per_group=1),
    "pairs of blocks": grouped(offload_type="block_level", num_blocks_per_group=2),
    "leaves": grouped(offload_type="leaf_level"),
    "one by one": lambda unet, _: cpu_offload(unet, torch.device("cpu")),
    "blocks on disk": blocks_on_disk,
    "conditioning on disk": conditioning_on_disk,
}


@pytest.mark.parametrize("conditions", ["with conditions", "without"])
@pytest.mark.parametrize("structure", ["adm", "efficient"])
@pytest.mark.parametrize("place", PLACES)
@torch.no_grad()
def test_a_network_that_is_not_in_one_place_draws_the_same(place, structure, conditions, tmp_path):
    unet = tiny_unet(**(EFFICIENT if structure == "efficient" else {}))
    arguments = inputs(unet)
    if conditions == "without":
        arguments = {**arguments, **dict.fromkeys(list(arguments)[2:])}
    expected = unet(**arguments).sample
    assert torch.equal(PLACES[place](unet, tmp_path)(**arguments).sample, expected)


@torch.no_grad()
def test_a_quantised_network_takes_absent_conditions(tmp_path):
    unet = tiny_unet()
    unet.save_pretrained(tmp_path)
    quantised = EDiffIUNet.from_pretrained(
        tmp_path, quantization_config=TorchAoConfig(Int8WeightOnlyConfig()), dtype=torch.float32
    )
    arguments = inputs(unet)
    for absent in ({}, dict.fromkeys(list(arguments)[2:])):
        expected = unet(**{**arguments, **absent}).sample
        found = quantised(**{**arguments, **absent}).sample
        assert 0 < (found - expected).norm() < 0.05 * expected.norm()


# --- bad input ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"structure": "dit"}, "structure='dit'"),
        ({"attention_block": "fast"}, "attention_block='fast'"),
        ({"preconditioning": "eps"}, "preconditioning='eps'"),
        ({"norm_num_groups": 5}, "norm_num_groups=5"),
        ({"layers_per_block": (1, 2, 3)}, "layers_per_block"),
        ({"attention_head_dim": 7}, "attention_head_dim=7"),
        ({"patch_size": 0}, "patch_size=0"),
        ({"block_out_channels": ()}, "block_out_channels"),
        ({"self_attention_factors": (3,)}, "self_attention_factors"),
        ({"trained_on": [1, 2]}, "trained_on"),
        ({"sigma_residual": 0.0, **EFFICIENT}, "sigma_residual=0.0"),
        ({"sigma_residual": 0.1}, "in_channels=6, not 3"),
        ({"max_noise_level": -1.0, **EFFICIENT}, "max_noise_level=-1.0"),
        ({"max_noise_level": 0.5}, "in_channels=6, not 3"),
    ],
)
def test_bad_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_unet(**changes)


def test_unknown_presets_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="paper-table1"):
        EDiffIUNet.from_preset("paper")
    assert "demo-base" in PRESETS


def test_wrong_inputs_are_refused():
    unet = tiny_unet()
    arguments = inputs(unet)
    wrong = {
        "sample": (torch.randn(2, 6, 8, 8), "expected \\(batch, 3"),
        "encoder_hidden_states": (torch.randn(2, 77, 5), "width 16"),
        "encoder_hidden_states_2": (torch.randn(2, 114, 16), "at most 113"),
        "encoder_attention_mask_2": (torch.ones(2, 7), "one entry per token"),
    }
    for name, (value, message) in wrong.items():
        with pytest.raises(ValueError, match=message):
            unet(**{**arguments, name: value})
    with pytest.raises(ValueError, match="multiples of"):
        unet(**{**arguments, "sample": torch.randn(2, 3, 7, 8)})

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""ADM's diffusion models, written here from their publication, and what the converter makes of their checkpoints."""

import collections
import json
import math
import os
import pickle
import re
import sys
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from helpers_conversion import import_converter
from safetensors.torch import save_file

from diffusers_ediffi import EDiffIPipeline, EDiffIUNet, EDMDEISScheduler

SIZE, CLASSES = 8, 10
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
TIMESTEPS = [0, 10, 50, 150, 300, 450, 600, 750, 900, 990]
WIDTHS_OF_TEXT = ["--encoder-hid-dim", "16", "--encoder-hid-dim-2", "16", "--image-embed-dim", "16"]


@dataclass(frozen=True)
class Model:
    """`heads` is a number of heads, or below 0 minus the channels of each."""

    name: str
    widths: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]  # downsampling factors
    heads: int
    is_new_order: bool = False
    in_channels: int = 3
    classes: int | None = CLASSES

    def heads_of(self, width):
        return self.heads if self.heads > 0 else width // -self.heads


BASE = Model("adm64", (64, 128), 2, (2,), -64, is_new_order=True)
UPSAMPLER = Model("adm256-upsampler", (32, 64, 128), 1, (2, 4), 4, in_channels=6)
UNCONDITIONAL = Model("adm256-unconditional", (64, 64), 1, (2,), -64, classes=None)
SMALL = [BASE, UPSAMPLER, UNCONDITIONAL]
PUBLISHED = [
    (Model("adm64", (192, 384, 576, 768), 3, (2, 4, 8), -64, True, 3, 1000), 295.9),
    (Model("adm128", (256, 256, 512, 768, 1024), 2, (4, 8, 16), 4, False, 3, 1000), 421.5),
    (Model("adm256", (256, 256, 512, 512, 1024, 1024), 2, (8, 16, 32), -64, False, 3, 1000), 553.8),
    (Model("adm256-unconditional", (256, 256, 512, 512, 1024, 1024), 2, (8, 16, 32), -64, False, 3, None), 552.8),
    (Model("adm256-upsampler", (192, 192, 384, 384, 768, 768), 2, (8, 16, 32), 4, False, 6, 1000), 311.8),
    (Model("adm512-upsampler", (192, 192, 384, 384, 768, 768), 2, (16, 32), -64, False, 6, 1000), 308.8),
]
by_name = {"ids": lambda model: getattr(model, "name", None)}


def blocks(model):
    """Name, channels in and out, resampling, attention's name and skip connection of each block, in their order."""
    skips, channels, number = [model.widths[0]], model.widths[0], 1
    for level, width in enumerate(model.widths):
        has_attention = 2**level in model.attention
        for _ in range(model.blocks):
            attention = f"input_blocks.{number}.1" if has_attention else None
            yield f"input_blocks.{number}.0", channels, width, None, attention, "leaves"
            skips, channels, number = [*skips, width], width, number + 1
        if level < len(model.widths) - 1:
            yield f"input_blocks.{number}.0", channels, channels, "down", None, "leaves"
            skips, number = [*skips, channels], number + 1
    yield "middle_block.0", channels, channels, None, "middle_block.1", None
    yield "middle_block.2", channels, channels, None, None, None
    number = 0
    for level, width in reversed(list(enumerate(model.widths))):
        has_attention = 2**level in model.attention
        for i in range(model.blocks + 1):
            attention = f"output_blocks.{number}.1" if has_attention else None
            yield f"output_blocks.{number}.0", channels + skips.pop(), width, None, attention, "takes"
            channels = width
            if level and i == model.blocks:
                yield f"output_blocks.{number}.{2 if has_attention else 1}", width, width, "up", None, None
            number += 1


def weights_of(model, device="cpu"):
    """Random weights under guided-diffusion's names."""
    generator, weights = torch.Generator().manual_seed(0), {}
    embedding = 4 * model.widths[0]

    def random(*shape):
        return torch.empty(shape, device=device) if device == "meta" else torch.randn(shape, generator=generator)

    def layer(name, *shape):
        weights[f"{name}.weight"] = random(*shape) * torch.Size(shape[1:]).numel() ** -0.5
        weights[f"{name}.bias"] = 0.1 * random(shape[0])

    def norm(name, channels):
        weights[f"{name}.weight"] = 1 + 0.1 * random(channels)
        weights[f"{name}.bias"] = 0.1 * random(channels)

    layer("time_embed.0", embedding, model.widths[0])
    layer("time_embed.2", embedding, embedding)
    if model.classes is not None:
        weights["label_emb.weight"] = random(model.classes, embedding)
    layer("input_blocks.0.0", model.widths[0], model.in_channels, 3, 3)
    for name, channels_in, channels_out, _, attention, _ in blocks(model):
        norm(f"{name}.in_layers.0", channels_in)
        layer(f"{name}.in_layers.2", channels_out, channels_in, 3, 3)
        layer(f"{name}.emb_layers.1", 2 * channels_out, embedding)
        norm(f"{name}.out_layers.0", channels_out)
        layer(f"{name}.out_layers.3", channels_out, channels_out, 3, 3)
        if channels_in != channels_out:
            layer(f"{name}.skip_connection", channels_out, channels_in, 1, 1)
        if attention:
            norm(f"{attention}.norm", channels_out)
            layer(f"{attention}.qkv", 3 * channels_out, channels_out, 1)
            layer(f"{attention}.proj_out", channels_out, channels_out, 1)
    norm("out.0", model.widths[0])
    layer("out.2", 6, model.widths[0], 3, 3)
    return weights


def output_of_adm(model, weights, x, timesteps, labels=None, outputs=None):
    """Noise and variance (batch, 6, height, width); `outputs` gets that of every block by its name."""
    outputs = {} if outputs is None else outputs

    def layer(name, value):
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        if weight.ndim == 2:
            return F.linear(value, weight, bias)
        return F.conv1d(value, weight, bias) if weight.ndim == 3 else F.conv2d(value, weight, bias, padding="same")

    def norm(name, value):
        return F.group_norm(value, 32, weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-5)

    def resampled(value, how):
        if how == "down":
            return F.avg_pool2d(value, 2)
        return value.repeat_interleave(2, 2).repeat_interleave(2, 3) if how == "up" else value

    def attended(name, value):
        batch, width, pixels = len(value), value.shape[1], value.flatten(2)
        heads = model.heads_of(width)
        qkv = layer(f"{name}.qkv", norm(f"{name}.norm", pixels))
        if model.is_new_order:  # first query, key and value, then heads
            q, k, v = (part.reshape(batch * heads, width // heads, -1) for part in qkv.chunk(3, dim=1))
        else:  # first heads
            q, k, v = qkv.reshape(batch * heads, 3 * width // heads, -1).split(width // heads, dim=1)
        scale = (width // heads) ** -0.25
        probabilities = torch.einsum("bct,bcs->bts", q * scale, k * scale).softmax(dim=2)
        attention = torch.einsum("bts,bcs->bct", probabilities, v).reshape(batch, width, -1)
        return (pixels + layer(f"{name}.proj_out", attention)).reshape(value.shape)

    def block(name, value, how, attention):
        hidden = layer(f"{name}.in_layers.2", resampled(F.silu(norm(f"{name}.in_layers.0", value)), how))
        scale, shift = layer(f"{name}.emb_layers.1", F.silu(embedding))[:, :, None, None].chunk(2, dim=1)
        hidden = norm(f"{name}.out_layers.0", hidden) * (1 + scale) + shift
        hidden = layer(f"{name}.out_layers.3", F.silu(hidden))
        value = resampled(value, how)
        has_skip = f"{name}.skip_connection.weight" in weights
        value = hidden + (layer(f"{name}.skip_connection", value) if has_skip else value)
        outputs[name] = value = attended(attention, value) if attention else value
        return value

    half = model.widths[0] // 2
    angles = timesteps.float()[:, None] * (-math.log(10000) * torch.arange(half) / half).exp()
    embedding = layer("time_embed.0", torch.cat([angles.cos(), angles.sin()], dim=1))
    embedding = layer("time_embed.2", F.silu(embedding))
    if labels is not None:
        embedding = embedding + weights["label_emb.weight"][labels]
    hidden = layer("input_blocks.0.0", x)
    skips = [hidden]
    for name, _, _, how, attention, skip in blocks(model):
        hidden = torch.cat([hidden, skips.pop()], dim=1) if skip == "takes" else hidden
        hidden = block(name, hidden, how, attention)
        skips += [hidden] if skip == "leaves" else []
    return layer("out.2", F.silu(norm("out.0", hidden)))


def alpha_bars(model):
    """The cosine of Nichol and Dhariwal for 64 pixels, and the line of Ho et al., of 1000 timesteps."""
    if model.name != "adm64":
        return torch.cumprod(1 - torch.linspace(0.0001, 0.02, 1000, dtype=torch.float64), dim=0)
    level = ((torch.arange(1001, dtype=torch.float64) / 1000 + 0.008) / 1.008 * math.pi / 2).cos() ** 2
    return torch.cumprod((level[1:] / level[:-1]).clamp(min=1 - 0.999), dim=0)


def inputs(model, batch_size):
    """x at unit variance with its low-resolution image, and classes."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch_size, model.in_channels, SIZE, SIZE, generator=generator)
    return x, None if model.classes is None else torch.arange(batch_size) % model.classes


@pytest.fixture
def converter(monkeypatch):
    return import_converter("from_guided_diffusion", monkeypatch)


def run(converter, model, checkpoint, output, *more):
    arguments = ["--checkpoint", str(checkpoint), "--output", str(output), *WIDTHS_OF_TEXT, *more]
    converter.main([*arguments, *(["--model", model.name] if model else [])])


def converted(converter, model, weights, folder):
    torch.save(weights, folder / "adm.pt")
    run(converter, model, folder / "adm.pt", folder / "out")
    return EDiffIUNet.from_pretrained(folder / "out")


@torch.no_grad()
@pytest.mark.parametrize("model", SMALL, **by_name)
def test_the_network_denoises_as_adm_does(converter, tmp_path, model):
    """With the scheduler that the converter names, at ten noise levels."""
    weights = weights_of(model)
    unet = converted(converter, model, weights, tmp_path)
    kept = alpha_bars(model)[TIMESTEPS]
    sigma = ((1 - kept) / kept).sqrt()
    scaled, labels = inputs(model, len(TIMESTEPS))
    x, low_res = scaled[:, :3] * (1 + sigma**2).sqrt()[:, None, None, None], scaled[:, 3:]
    noise = output_of_adm(model, weights, scaled, torch.tensor(TIMESTEPS), labels)[:, :3]
    expected = x - sigma[:, None, None, None] * noise

    scheduler = EDMDEISScheduler(**json.loads((tmp_path / "out" / "conversion.json").read_text())["scheduler"])
    model_input = torch.cat([scheduler.precondition_inputs(x, sigma), low_res], dim=1).float()
    output = unet(model_input, scheduler.precondition_noise(sigma), None, class_labels=labels).sample
    given = scheduler.precondition_outputs(x, output, sigma)
    scale = 1 + sigma[:, None, None, None]  # an error of the noise is one of the image that is sigma times as large
    torch.testing.assert_close(given / scale, expected / scale, **CLOSE)


@torch.no_grad()
def test_base_and_upsampler_draw_as_adm_does(converter, tmp_path):
    """In one call of the pipeline, by steps of DDIM."""
    models, weights, unets = (BASE, UPSAMPLER), [], []
    for model, size in zip(models, (SIZE, 4 * SIZE), strict=True):
        weights.append(weights_of(model))
        torch.save(weights[-1], tmp_path / "adm.pt")
        run(converter, model, tmp_path / "adm.pt", tmp_path / model.name)
        unets.append(EDiffIUNet.from_pretrained(tmp_path / model.name, sample_size=size))
    records = [json.loads((tmp_path / model.name / "conversion.json").read_text()) for model in models]
    schedulers = [DDIMScheduler(**record["scheduler"], clip_sample=False) for record in records]
    pipe = EDiffIPipeline(
        unet=unets[0],
        unet_sr256=unets[1],
        scheduler=schedulers[0],
        scheduler_sr256=schedulers[1],
        conditioning={"unets": dict(zip(("unet", "unet_sr256"), (r["conditioning"] for r in records), strict=True))},
    )
    pipe.set_progress_bar_config(disable=True)
    noise, labels = torch.randn(2, 3, SIZE, SIZE), torch.tensor([3, 7])
    call = {"latents": noise, "class_labels": labels, "num_inference_steps": 4, "guidance_scale": 1.0}
    given = pipe(**call, generator=torch.Generator().manual_seed(5), output_type="latent").images

    def drawn(model, weights, x, low_res):
        kept = alpha_bars(model)
        for t in (750, 500, 250, 0):
            at, to = kept[t], kept[t - 250] if t else torch.tensor(1.0)
            seen = x if low_res is None else torch.cat([x, low_res], dim=1)
            noise = output_of_adm(model, weights, seen.float(), torch.full((2,), t), labels)[:, :3]
            x = to.sqrt() * (x - (1 - at).sqrt() * noise) / at.sqrt() + (1 - to).sqrt() * noise
        return x

    base = drawn(BASE, weights[0], noise, None).clamp(-1, 1).float()
    noise = torch.randn(2, 3, 4 * SIZE, 4 * SIZE, generator=torch.Generator().manual_seed(5))
    expected = drawn(UPSAMPLER, weights[1], noise, F.interpolate(base, scale_factor=4, mode="bilinear"))
    torch.testing.assert_close(given.double(), expected.double(), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("model", SMALL, **by_name)
def test_every_block_gives_what_adms_block_gives(converter, tmp_path, model):
    weights = weights_of(model)
    unet = converted(converter, model, weights, tmp_path)
    expected, given = {}, {}
    x, labels = inputs(model, 2)
    timesteps = torch.tensor([20, 700])
    output = output_of_adm(model, weights, x, timesteps, labels, expected)
    for theirs, attention, ours in import_module_of(converter).guided_diffusion_blocks(unet):
        module = unet.get_submodule(ours.replace("resnets", "attentions") if attention else ours)
        module.register_forward_hook(lambda _, __, output, name=theirs: given.__setitem__(name, output))
    torch.testing.assert_close(unet(x, timesteps, None, class_labels=labels).sample, output[:, :3], **CLOSE)
    assert list(given) == list(expected) == [name for name, *_ in blocks(model)]
    for name in expected:
        torch.testing.assert_close(given[name], expected[name], **CLOSE, msg=name)


def import_module_of(converter):
    return sys.modules[converter.transfer_guided_diffusion.__module__]


@torch.no_grad()
@pytest.mark.parametrize("model", [BASE, UPSAMPLER], **by_name)
def test_rows_in_another_order_are_another_network(converter, tmp_path, model):
    """New ADM's for 64 pixels alone, legacy ADM's for all others."""
    weights, x = weights_of(model), inputs(model, 2)
    wrong = replace(model, is_new_order=not model.is_new_order)
    timesteps = torch.tensor([20, 700])
    unet = converted(converter, model, weights, tmp_path)
    output = unet(x[0], timesteps, None, class_labels=x[1]).sample
    right, other = (output_of_adm(order, weights, x[0], timesteps, x[1])[:, :3] for order in (model, wrong))
    torch.testing.assert_close(output, right, **CLOSE)
    assert not torch.allclose(output, other, atol=1e-2)


@pytest.mark.parametrize("model", SMALL, **by_name)
def test_every_weight_is_accounted_for(converter, tmp_path, capsys, model):
    weights = weights_of(model)
    unet = converted(converter, model, weights, tmp_path)
    *lines, advice = capsys.readouterr().out.splitlines()
    rows = [re.split(" {2,}", line) for line in lines[1:]]
    rows_of_variance = 3 * model.widths[0] * 9 + 3
    counted = sys.modules["tables"].counted
    (dropped,) = [row for row in rows if row[3] == "dropped"]
    assert dropped[:2] == ["learned variance", "2"] and dropped[2] == counted(rows_of_variance)
    # a layer of query, key and value becomes three, and the last layer gives rows to two entries
    of_attention = sum(name.endswith(("qkv.weight", "qkv.bias")) for name in weights)
    fresh = [name for name in unet.state_dict() if name.startswith("fusion.")]
    assert sum(int(tensors) for _, tensors, _, _ in rows) == len(weights) + 2 * of_attention + len(fresh) + 2
    assert sum(tensor.numel() for tensor in weights.values()) == rows_of_variance + sum(
        tensor.numel() for name, tensor in unet.state_dict().items() if name not in fresh
    )
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert record["checkpoint"]["license"] == "mit" and len(record["checkpoint"]["sha256"]) == 64
    assert record["dropped"] == ["learned variance"] and record["new"] == ["text and style"]
    assert record["model"] == model.name and advice.startswith(f"{model.name} draws with EDMDEISScheduler(")


@pytest.mark.parametrize(("model", "millions"), PUBLISHED, **by_name)
def test_published_models_are_known_by_their_layout(converter, model, millions):
    weights = weights_of(model, "meta")
    assert round(sum(tensor.numel() for tensor in weights.values()) / 1e6, 1) == millions
    args = converter.parse_arguments(["--checkpoint", "adm.pt", "--output", "adm"])
    plan = converter.plan(weights, args)
    assert plan.record["model"] == model.name
    assert plan.record["qkv_order"] == ("three h d" if model.is_new_order else "h three d")
    with torch.device("meta"):
        unet = EDiffIUNet(**plan.configuration)
    layers = [module for name, module in unet.named_modules() if name.endswith("attn1")]
    assert all(layer.heads == model.heads_of(layer.to_q.out_features) for layer in layers)
    transfer = plan.transfer(unet, weights)
    assert not weights  # all are consumed
    shapes = {name: tensor.shape for name, tensor in unet.state_dict().items() if not name.startswith("fusion.")}
    assert {name: tensor.shape for name, tensor in transfer.filled.items()} == shapes


def test_the_presets_are_the_published_networks(converter):
    args = converter.parse_arguments(["--checkpoint", "adm.pt", "--output", "adm"])
    models = {model.name: model for model, _ in PUBLISHED}
    for name in ("adm64", "adm256-upsampler"):
        plan = converter.plan(weights_of(models[name], "meta"), args)
        with torch.device("meta"):
            unet, preset = EDiffIUNet(**plan.configuration), EDiffIUNet.from_preset(name)
        differing = {key for key, value in preset.config.items() if key[0] != "_" and unet.config[key] != value}
        # A preset has no width of the time embedding, four times the first level; `adm64` is EDM's, with text.
        of_edm = {"preconditioning", "num_class_embeds", "cross_attention_factors"} if name == "adm64" else set()
        assert differing == {"time_embed_dim", *of_edm}
        ours, theirs = (
            {key: value.shape for key, value in network.state_dict().items()} for network in (preset, unet)
        )
        added = {key for key in ours if "attn2" in key or "norm2" in key and "attentions" in key}
        assert theirs.items() - ours.items() <= {("class_embedding.weight", (1000, 768))}
        assert ours.keys() - theirs.keys() == (added if name == "adm64" else set())


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(converter, tmp_path, dtype):
    """Of the file, which becomes single precision, and of the network, which stays finite."""
    weights = {name: tensor.to(dtype) for name, tensor in weights_of(BASE).items()}
    unet = converted(converter, BASE, weights, tmp_path)
    assert unet.dtype == torch.float32
    assert torch.equal(unet.conv_in.weight, weights["input_blocks.0.0.weight"].float())
    x, labels = inputs(BASE, 2)
    output = unet.to(dtype)(x.to(dtype), torch.tensor([20, 700]), None, class_labels=labels).sample
    assert output.dtype == dtype and output.isfinite().all() and output.std() > 0


@torch.no_grad()
def test_cross_attention_that_is_added_changes_nothing_before_training(converter, tmp_path):
    source = converted(converter, BASE, weights_of(BASE), tmp_path)
    unet = EDiffIUNet.from_config(source.config, cross_attention_factors=(2,)).eval()
    missing, unexpected = unet.load_state_dict(source.state_dict(), strict=False)
    assert missing and all(re.search(r"attentions\..*\.(attn2|norm2)\.", name) for name in missing) and not unexpected
    x, labels = inputs(BASE, 2)
    text = {"encoder_hidden_states": torch.randn(2, 77, 16), "encoder_hidden_states_2": torch.randn(2, 9, 16)}
    pooled = {"text_embeds": torch.randn(2, 768), "image_embeds": torch.randn(2, 16)}
    output = unet(x, 500, **text, added_cond_kwargs=pooled, class_labels=labels).sample
    assert torch.equal(output, source(x, 500, None, class_labels=labels).sample)
    for layer in (module.attn2.to_out[0] for module in unet.modules() if getattr(module, "attn2", None)):
        torch.nn.init.normal_(layer.weight, std=0.1)
    assert not torch.allclose(unet(x, 500, **text, class_labels=labels).sample, output, atol=1e-2)


@torch.no_grad()
def test_classes_that_adm_does_not_know_are_refused(converter, tmp_path):
    unet, (x, _) = converted(converter, BASE, weights_of(BASE), tmp_path), inputs(BASE, 2)
    for labels, message in ((None, "class_labels is missing"), (10, "whole numbers from 0 to 9"), (-1, "from 0 to 9")):
        with pytest.raises(ValueError, match=message):
            unet(x, 500, None, class_labels=labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("middle_block.1.qkv.weight"), "lacks middle_block.1.qkv.weight"),
        (lambda weights: weights.pop("label_emb.weight"), None),  # a network without classes
        (lambda weights: weights.update(surplus=torch.ones(1)), "has 1 weights that no part takes, such as surplus"),
        (
            lambda weights: weights.pop("time_embed.0.weight"),
            "is no diffusion model of guided-diffusion, which has ti",
        ),
        (lambda weights: weights.pop("out.2.weight"), "is no diffusion model of guided-diffusion, which has out.2"),
        (lambda weights: weights.update({"out.0.bias": torch.ones(3)}), r"conv_norm_out.bias is \(3,\) in the check"),
        (lambda weights: weights.update({"out.2.bias": torch.ones(4)}), r"conv_out.bias is \(4,\) in the checkpoint"),
        (lambda weights: weights["out.0.bias"].fill_(math.nan), "not finite in conv_norm_out.bias"),
        (lambda weights: weights.update({"middle_block.1.qkv.bias": torch.ones(5)}), "has 5 rows, which are not of h"),
    ],
)
def test_other_checkpoints_are_refused(converter, tmp_path, change, message):
    weights = weights_of(BASE)
    change(weights)
    save_file(weights, tmp_path / "adm.safetensors")
    if message is None:
        run(converter, BASE, tmp_path / "adm.safetensors", tmp_path / "out")
        assert EDiffIUNet.load_config(tmp_path / "out")["num_class_embeds"] is None
        return
    with pytest.raises((ValueError, OSError), match=message):
        run(converter, BASE, tmp_path / "adm.safetensors", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["adm.safetensors"]


def test_a_layout_that_is_not_published_asks_for_the_model(converter, tmp_path):
    torch.save(weights_of(BASE), tmp_path / "adm.pt")
    message = r"adm.pt has the layout of no published model: 3 input channels, levels of 64, 128, 2 blocks, .* --model"
    with pytest.raises(ValueError, match=message):
        run(converter, None, tmp_path / "adm.pt", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["adm.pt"]


class Evil:
    def __reduce__(self):
        return os.system, ("echo run > evil",)


def cut(file):
    file.write_bytes(file.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "adm.pt is damaged or no checkpoint"),
        (lambda file: file.write_bytes(b""), "adm.pt is damaged or no checkpoint"),
        (
            lambda file: file.write_bytes(pickle.dumps({"a": Evil()}, protocol=2)),
            "asks for posix.system, which weights",
        ),
        (lambda file: torch.save({"a": Evil()}, file), "adm.pt: it asks for posix.system, which weights"),
        (lambda file: torch.save({"a": collections.Counter()}, file), "adm.pt: it holds .*'a' is a Counter"),
        (lambda file: torch.save([torch.ones(1)], file), "adm.pt: it holds .* what is saved is a list"),
        (lambda file: file.unlink(), "there is no checkpoint .*adm.pt"),
        (lambda file: (file.parent / "out").mkdir(), "out exists"),
    ],
)
def test_damaged_and_hostile_files_are_refused(converter, tmp_path, monkeypatch, damage, message):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "adm.pt"
    torch.save(weights_of(UNCONDITIONAL), file)
    damage(file)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises((ValueError, OSError), match=message):
        run(converter, UNCONDITIONAL, file, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == before

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""EDM's ADM network, written here from its publication, and what the converter makes of its checkpoint."""

import argparse
import collections
import json
import os
import pickle
import re
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState, PartialState
from helpers_conversion import import_converter
from helpers_examples import import_script
from safetensors.torch import save_file
from torch import nn

from diffusers_ediffi import EDiffIUNet, NoiseInterval, demo_checkpoint
from diffusers_ediffi.edm import denoised_from_model_output
from diffusers_ediffi.models.presets import PRESETS

SIZE, WIDTHS, BLOCKS, ATTENTION = 8, (128, 192), 1, (4,)  # of one level: 4 x 4
EMBEDDING, CLASSES = 4 * WIDTHS[0], 10
SIGMAS = [0.002, 0.01, 0.05, 0.2, 0.5, 1.0, 2.5, 10.0, 40.0, 80.0]


def blocks():
    """Name, channels in and out, resampling and attention of each block, in the order of the network; `None` marks
    the start of the way up."""
    skips, channels = [WIDTHS[0]], WIDTHS[0]
    for level, width in enumerate(WIDTHS):
        size = SIZE >> level
        if level:
            yield f"enc.{size}x{size}_down", channels, channels, "down", False
            skips.append(channels)
        for i in range(BLOCKS):
            yield f"enc.{size}x{size}_block{i}", channels, width, None, size in ATTENTION
            channels = width
            skips.append(channels)
    for level, width in reversed(list(enumerate(WIDTHS))):
        size = SIZE >> level
        if level == len(WIDTHS) - 1:
            yield f"dec.{size}x{size}_in0", channels, channels, None, True
            yield f"dec.{size}x{size}_in1", channels, channels, None, False
        else:
            yield f"dec.{size}x{size}_up", channels, channels, "up", False
        for i in range(BLOCKS + 1):
            yield f"dec.{size}x{size}_block{i}", channels + skips.pop(), width, None, size in ATTENTION
            channels = width


def weights_of_edm(device="cpu"):
    """Random weights under EDM's names."""
    generator, weights = torch.Generator().manual_seed(0), {}

    def random(*shape):
        return torch.empty(shape, device=device) if device == "meta" else torch.randn(shape, generator=generator)

    def layer(name, *shape):
        weights[f"{name}.weight"] = random(*shape) * torch.Size(shape[1:]).numel() ** -0.5
        weights[f"{name}.bias"] = 0.1 * random(shape[0])

    def norm(name, channels):
        weights[f"{name}.weight"] = 1 + 0.1 * random(channels)
        weights[f"{name}.bias"] = 0.1 * random(channels)

    layer("map_layer0", EMBEDDING, WIDTHS[0])
    layer("map_layer1", EMBEDDING, EMBEDDING)
    weights["map_label.weight"] = random(EMBEDDING, CLASSES)
    layer(f"enc.{SIZE}x{SIZE}_conv", WIDTHS[0], 3, 3, 3)
    for name, channels_in, channels_out, _, attention in blocks():
        norm(f"{name}.norm0", channels_in)
        layer(f"{name}.conv0", channels_out, channels_in, 3, 3)
        layer(f"{name}.affine", 2 * channels_out, EMBEDDING)
        norm(f"{name}.norm1", channels_out)
        layer(f"{name}.conv1", channels_out, channels_out, 3, 3)
        if channels_in != channels_out:
            layer(f"{name}.skip", channels_out, channels_in, 1, 1)
        if attention:
            norm(f"{name}.norm2", channels_out)
            layer(f"{name}.qkv", 3 * channels_out, channels_out, 1, 1)
            layer(f"{name}.proj", channels_out, channels_out, 1, 1)
    norm("out_norm", WIDTHS[0])
    layer("out_conv", 3, WIDTHS[0], 3, 3)
    return weights


def denoised_by_edm(weights, x, sigma, outputs=None, labels=None):
    """D(x; sigma) of EDM, by default without a class label; `outputs` gets that of every block by its name."""
    outputs = {} if outputs is None else outputs

    def layer(name, value):
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return F.linear(value, weight, bias) if weight.ndim == 2 else F.conv2d(value, weight, bias, padding="same")

    def norm(name, value):
        groups = min(32, value.shape[1] // 4)
        return F.group_norm(value, groups, weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-5)

    def resampled(value, how):
        if how == "down":
            return F.avg_pool2d(value, 2)
        return value.repeat_interleave(2, 2).repeat_interleave(2, 3) if how == "up" else value

    def attended(name, value):
        heads = value.shape[1] // 64
        qkv = layer(f"{name}.qkv", norm(f"{name}.norm2", value))
        q, k, v = qkv.reshape(len(value) * heads, 64, 3, -1).unbind(2)
        probabilities = torch.einsum("ncq,nck->nqk", q, k / 8).softmax(dim=2)
        return value + layer(f"{name}.proj", torch.einsum("nqk,nck->ncq", probabilities, v).reshape(value.shape))

    def block(name, value, how, attention):
        hidden = layer(f"{name}.conv0", resampled(F.silu(norm(f"{name}.norm0", value)), how))
        scale, shift = layer(f"{name}.affine", embedding)[:, :, None, None].chunk(2, dim=1)
        hidden = layer(f"{name}.conv1", F.silu(norm(f"{name}.norm1", hidden) * (scale + 1) + shift))
        value = resampled(value, how)
        value = hidden + (layer(f"{name}.skip", value) if f"{name}.skip.weight" in weights else value)
        outputs[name] = value = attended(name, value) if attention else value
        return value

    frequencies = 10000 ** -(torch.arange(WIDTHS[0] // 2) / (WIDTHS[0] // 2))
    angles = (sigma.log() / 4)[:, None] * frequencies
    embedding = F.silu(layer("map_layer0", torch.cat([angles.cos(), angles.sin()], dim=1)))
    one_hot = torch.zeros(len(x), CLASSES) if labels is None else F.one_hot(labels, CLASSES).float()
    embedding = F.silu(layer("map_layer1", embedding) + F.linear(one_hot, weights["map_label.weight"]))
    sigma = sigma[:, None, None, None]
    hidden = layer(f"enc.{SIZE}x{SIZE}_conv", x / (sigma**2 + 0.25).sqrt())
    skips = [hidden]
    for name, channels_in, _, how, attention in blocks():
        if name.startswith("dec") and hidden.shape[1] != channels_in:
            hidden = torch.cat([hidden, skips.pop()], dim=1)
        hidden = block(name, hidden, how, attention)
        if name.startswith("enc"):
            skips.append(hidden)
    output = layer("out_conv", F.silu(norm("out_norm", hidden)))
    return 0.25 / (sigma**2 + 0.25) * x + sigma * 0.5 / (sigma**2 + 0.25).sqrt() * output


def denoised(unet, x, sigma):
    scale = (sigma**2 + 0.25).sqrt()[:, None, None, None]
    output = unet(x / scale, sigma.log() / 4, None).sample
    sigma = sigma[:, None, None, None]
    return 0.25 / (sigma**2 + 0.25) * x + sigma * 0.5 / scale * output


# --- a pickle as EDM writes it: objects with the source code of their classes ---


class Persistent(nn.Module):
    def __reduce__(self):
        meta = {"type": "class", "version": 6, "module_src": "raise SystemExit", "class_name": "Any"}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, ({**meta, "state": self.__dict__},)


def as_pickle(weights, file, monkeypatch, **more):
    """Writes weights as the tree of modules that their names say."""

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("only EDM's loader may call this")

    module = types.ModuleType("torch_utils.persistence")
    _reconstruct_persistent_obj.__module__, _reconstruct_persistent_obj.__qualname__ = (
        module.__name__,
        ("_reconstruct_persistent_obj"),
    )
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", module)
    network = Persistent()
    network.sigma_data = 0.5
    for name, tensor in weights.items():
        *path, last = ["model", *name.split(".")]
        place = network
        for part in path:
            if part not in place._modules:
                place._modules[part] = nn.ModuleDict() if part in ("enc", "dec") else Persistent()
            place = place._modules[part]
        place.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
        place._buffers["resample_filter"] = torch.ones(1, 1, 2, 2) / 4 if "conv" in path[-1] else None
    with file.open("wb") as content:
        pickle.dump({"ema": network, "dataset_kwargs": {"path": "imagenet"}, **more}, content)
    return file


@pytest.fixture
def converter(monkeypatch):
    return import_converter("from_edm", monkeypatch)


WIDTHS_OF_TEXT = ["--encoder-hid-dim", "16", "--encoder-hid-dim-2", "16", "--image-embed-dim", "16"]


def run(converter, checkpoint, output, *more):
    converter.main(["--checkpoint", str(checkpoint), "--output", str(output), *WIDTHS_OF_TEXT, *more])


@pytest.fixture
def converted(converter, tmp_path, monkeypatch, capsys):
    weights = weights_of_edm()
    run(converter, as_pickle(weights, tmp_path / "edm.pkl", monkeypatch), tmp_path / "out")
    return weights, EDiffIUNet.from_pretrained(tmp_path / "out"), capsys.readouterr().out


@torch.no_grad()
def test_the_network_denoises_as_edm_does(converted):
    weights, unet, _ = converted
    x = torch.randn(len(SIGMAS), 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    sigma = torch.tensor(SIGMAS)
    x = x * sigma[:, None, None, None]
    torch.testing.assert_close(denoised(unet, x, sigma), denoised_by_edm(weights, x, sigma), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_classes_are_kept_where_they_are_asked_for(converter, tmp_path):
    weights = weights_of_edm()
    save_file(weights, tmp_path / "edm.safetensors")
    run(converter, tmp_path / "edm.safetensors", tmp_path / "out", "--keep-classes")
    unet, sigma = EDiffIUNet.from_pretrained(tmp_path / "out"), torch.tensor(SIGMAS)
    x, scale = torch.randn(len(SIGMAS), 3, SIZE, SIZE) * sigma[:, None, None, None], (sigma**2 + 0.25).sqrt()
    for labels in (torch.arange(len(SIGMAS)) % CLASSES, None):
        output = unet(
            x / scale[:, None, None, None], sigma.log() / 4, class_labels=CLASSES if labels is None else labels
        )
        given, expected = (
            denoised_from_model_output(output.sample, x, sigma),
            denoised_by_edm(weights, x, sigma, None, labels),
        )
        torch.testing.assert_close(given, expected, atol=1e-4, rtol=1e-4)
    del weights["map_label.weight"]
    save_file(weights, tmp_path / "edm.safetensors")
    with pytest.raises(ValueError, match="edm.safetensors has no class labels: leave out --keep-classes"):
        run(converter, tmp_path / "edm.safetensors", tmp_path / "other", "--keep-classes")


@torch.no_grad()
def test_every_block_gives_what_edms_block_gives(converted, converter):
    weights, unet, _ = converted
    expected, given = {}, {}
    x, sigma = torch.randn(2, 3, SIZE, SIZE), torch.tensor([0.3, 20.0])
    denoised_by_edm(weights, x, sigma, expected)
    for theirs, attention, ours in import_module_of(converter).edm_blocks(unet):
        module = unet.get_submodule(ours.replace("resnets", "attentions") if attention else ours)
        module.register_forward_hook(lambda _, __, output, name=theirs: given.__setitem__(name, output))
    denoised(unet, x, sigma)
    assert list(given) == list(expected) and len(expected) == 10
    for name in expected:
        torch.testing.assert_close(given[name], expected[name], atol=1e-4, rtol=1e-4, msg=name)


def import_module_of(converter):
    return sys.modules[converter.transfer_edm.__module__]


@torch.no_grad()
@pytest.mark.parametrize("order", ["three h d", "h three d"])
def test_rows_in_the_order_of_another_family_are_another_network(converter, tmp_path, order):
    weights, split_qkv = weights_of_edm(), import_module_of(converter).split_qkv
    reordered = {}
    for name, tensor in weights.items():
        if ".qkv." in name:
            parts = [part.unflatten(0, (-1, 64)) for part in split_qkv(tensor, "h d three", 64)]  # each h d
            reordered[name] = torch.stack(parts, dim=order.split().index("three")).flatten(0, 2)
            again = split_qkv(reordered[name], order, 64)
            assert all(torch.equal(part.flatten(0, 1), one) for part, one in zip(parts, again, strict=True))
    save_file(weights | reordered, tmp_path / "edm.safetensors")
    run(converter, tmp_path / "edm.safetensors", tmp_path / "out")
    x, sigma = torch.randn(1, 3, SIZE, SIZE), torch.ones(1)
    wrong = denoised(EDiffIUNet.from_pretrained(tmp_path / "out"), x, sigma)
    assert not torch.allclose(wrong, denoised_by_edm(weights, x, sigma), atol=1e-2)


def test_every_weight_is_accounted_for(converted, tmp_path):
    weights, unet, table = converted
    rows = [re.split(" {2,}", line) for line in table.splitlines()[1:]]
    assert ["conv_in", "2", "3.58 k", "from the checkpoint"] in rows
    assert ["class labels", "1", "5.12 k", "dropped"] in rows
    counted = sum(int(tensors) for _, tensors, _, _ in rows)
    # a layer of query, key and value becomes three
    of_attention = sum(name.endswith(("qkv.weight", "qkv.bias")) for name in weights)
    fresh = [name for name in unet.state_dict() if re.search(r"^fusion|attentions.*(attn2|norm2)", name)]
    assert counted == len(weights) + 2 * of_attention + len(fresh)
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert record["checkpoint"]["license"] == "cc-by-nc-sa-4.0" and len(record["checkpoint"]["sha256"]) == 64


@torch.no_grad()
def test_text_changes_nothing_before_training(converted):
    _, unet, _ = converted
    x = torch.randn(1, 3, SIZE, SIZE)
    text = {"encoder_hidden_states": torch.randn(1, 77, 16), "encoder_hidden_states_2": torch.randn(1, 9, 16)}
    pooled = {"text_embeds": torch.randn(1, 768), "image_embeds": torch.randn(1, 16)}
    assert torch.equal(unet(x, 0.1, None).sample, unet(x, 0.1, **text, added_cond_kwargs=pooled).sample)


WIDTHS_OF_DEMO = dict.fromkeys(
    ("encoder_hid_dim", "encoder_hid_dim_2", "pooled_projection_dim", "image_embed_dim"), 128
)


def as_options(values):
    return [str(part) for name, value in values.items() for part in (f"--{name}", value)]


@pytest.fixture
def in_training(converter, tmp_path, monkeypatch):
    """Weights of EDM, converted for the encoders of the demo, and a preset of their size to train."""
    weights = weights_of_edm()
    save_file(weights, tmp_path / "edm.safetensors")
    options = as_options({name.replace("_", "-"): width for name, width in WIDTHS_OF_DEMO.items()})
    run(converter, tmp_path / "edm.safetensors", tmp_path / "out", *options)
    network = {"sample_size": SIZE, "block_out_channels": WIDTHS, "layers_per_block": BLOCKS}
    factors = {"self_attention_factors": (2,), "cross_attention_factors": (2,)}
    monkeypatch.setitem(PRESETS, "small-edm", {**network, **factors})
    for state in (AcceleratorState._reset_state, PartialState._reset_state):
        state()
    return weights


@torch.no_grad()
def test_training_starts_from_what_edm_draws(in_training, tmp_path, monkeypatch):
    script = import_script("demo/scenes_and_networks", monkeypatch)
    args = argparse.Namespace(seed=0, preset="small-edm", init_from=tmp_path / "out")
    unet = script.build_unet(args, NoiseInterval.everything(), WIDTHS_OF_DEMO).eval()
    sigma = torch.tensor(SIGMAS)
    x = torch.randn(len(SIGMAS), 3, SIZE, SIZE) * sigma[:, None, None, None]
    scale = (sigma**2 + 0.25).sqrt()[:, None, None, None]
    text = {"encoder_hidden_states": torch.randn(10, 77, 128), "encoder_hidden_states_2": torch.randn(10, 9, 128)}
    pooled = {"text_embeds": torch.randn(10, 128), "image_embeds": torch.randn(10, 128)}
    output = unet(x / scale, sigma.log() / 4, **text, added_cond_kwargs=pooled).sample
    given = denoised_from_model_output(output, x, sigma)
    torch.testing.assert_close(given, denoised_by_edm(in_training, x, sigma), atol=1e-4, rtol=1e-4)


def test_a_network_of_edm_trains(in_training, objects, tmp_path, monkeypatch):
    script = import_script("demo/train_base", monkeypatch)
    options = {"objects": objects, "encoders": demo_checkpoint(), "output": tmp_path / "run", "preset": "small-edm"}
    options |= {"init-from": tmp_path / "out", "size": 16, "total-steps": 1, "batch-size": 2, "num-workers": 0}
    options |= {"num-samples": 0, "sample-every": 0, "warmup-steps": 0, "ema-decay": 0}
    script.main(as_options(options))
    before, after = (EDiffIUNet.from_pretrained(tmp_path / name).state_dict() for name in ("out", "run/unet"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"conv_in.weight", "mid_block.attentions.0.attn2.to_out.0.weight"} <= changed
    assert all((before[name] - after[name]).abs().max() < 0.01 for name in changed)  # it is where it came from


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preconditioning": "epsilon"}, "has preconditioning='epsilon', and small-edm 'edm': the same weights would"),
        ({"attention_head_dim": 32}, "has attention_head_dim=32, and small-edm 64: the same weights would"),
        ({"num_attention_heads": 3}, "has num_attention_heads=3, and small-edm None: the same weights would"),
    ],
)
def test_training_does_not_start_from_weights_that_mean_something_else(
    in_training, objects, tmp_path, monkeypatch, changes, message
):
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps(config | changes))
    script = import_script("demo/train_base", monkeypatch)
    monkeypatch.setattr(sys.modules["scenes_and_networks"], "ConditioningEncoder", lambda *_: pytest.fail("too late"))
    options = {"objects": objects, "encoders": demo_checkpoint(), "output": tmp_path / "run", "preset": "small-edm"}
    with pytest.raises(ValueError, match=message):
        script.main(as_options({**options, "init-from": tmp_path / "out"}))
    assert not (tmp_path / "run").exists()


def test_other_encoders_are_named(in_training, tmp_path, monkeypatch):
    script = import_script("demo/scenes_and_networks", monkeypatch)
    args = argparse.Namespace(seed=0, preset="small-edm", init_from=tmp_path / "out")
    message = r"another network than small-edm with these encoders: fusion.text_proj.weight is \(768, 128\) there and"
    with pytest.raises(ValueError, match=message):
        script.build_unet(args, NoiseInterval.everything(), WIDTHS_OF_DEMO | {"encoder_hid_dim": 64})


def test_the_published_network_is_the_preset(converter, monkeypatch):
    """edm-imagenet-64x64-cond-adm: 296 million parameters; attention at 32, 16 and 8 pixels."""
    published = {"SIZE": 64, "WIDTHS": (192, 384, 576, 768), "BLOCKS": 3, "ATTENTION": (32, 16, 8)}
    for name, value in {**published, "EMBEDDING": 768, "CLASSES": 1000}.items():
        monkeypatch.setitem(globals(), name, value)
    weights = weights_of_edm("meta")
    assert round(sum(tensor.numel() for tensor in weights.values()) / 1e6, 1) == 295.9
    args = converter.parse_arguments(["--checkpoint", "edm.pkl", "--output", "adm64"])
    with torch.device("meta"):
        unet, preset = EDiffIUNet(**converter.configuration(weights, args)), EDiffIUNet.from_preset("adm64")
    shapes = [{name: tensor.shape for name, tensor in network.state_dict().items()} for network in (unet, preset)]
    assert shapes[0] == shapes[1]
    transfer = import_module_of(converter).transfer_edm(unet, weights)
    assert not weights and transfer.dropped == [("class labels", 768 * 1000)]  # the others are consumed
    assert {name: tensor.shape for name, tensor in transfer.filled.items()}.items() <= shapes[0].items()


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_plain_state_dicts_are_read_as_well(converter, tmp_path, kind):
    weights = {f"model.{name}": tensor for name, tensor in weights_of_edm().items()}
    file = tmp_path / f"edm.{kind}"
    save_file(weights, file) if kind == "safetensors" else torch.save(weights, file)
    run(converter, file, tmp_path / "out")
    assert torch.equal(
        EDiffIUNet.from_pretrained(tmp_path / "out").conv_in.weight, weights[f"model.enc.{SIZE}x{SIZE}_conv.weight"]
    )


class Evil:
    def __reduce__(self):
        return os.system, ("echo run > evil",)


def cut(file):
    file.write_bytes(file.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("dec.4x4_in0.qkv.weight"), "lacks dec.4x4_in0.qkv.weight"),
        (lambda weights: weights.update(surplus=torch.ones(1)), "has 1 weights that no part takes, such as surplus"),
        (lambda weights: weights.pop("map_layer0.weight"), "is not EDM's ADM network"),
        (lambda weights: weights.update({"out_norm.bias": torch.ones(3)}), r"conv_norm_out.bias is \(3,\) in the"),
    ],
)
def test_other_checkpoints_are_refused(converter, tmp_path, change, message):
    weights = weights_of_edm()
    change(weights)
    save_file(weights, tmp_path / "edm.safetensors")
    with pytest.raises((ValueError, OSError), match=message):
        run(converter, tmp_path / "edm.safetensors", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["edm.safetensors"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "is damaged or no checkpoint"),
        (lambda file: file.write_bytes(b""), "is damaged or no checkpoint"),
        (lambda file: file.write_bytes(pickle.dumps({"ema": Evil()})), "asks for (posix|nt).system, which EDM's"),
        (lambda file: file.write_bytes(pickle.dumps([1])), "holds no network 'ema'"),
        (lambda file: file.write_bytes(pickle.dumps({"ema": collections.Counter()})), "asks for collections.Counter"),
        (lambda file: file.unlink(), "there is no checkpoint"),
        (lambda file: (file.parent / "out").mkdir(), "out exists"),
    ],
)
def test_damaged_and_hostile_pickles_are_refused(converter, tmp_path, monkeypatch, damage, message):
    monkeypatch.chdir(tmp_path)
    file = as_pickle({"out_norm.bias": torch.ones(2000)}, tmp_path / "edm.pkl", monkeypatch)
    damage(file)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises((ValueError, OSError), match=message):
        run(converter, file, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == before

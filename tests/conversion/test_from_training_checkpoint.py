# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Plain state dicts of other trainers become folders of networks, tensor by tensor."""

import collections
import json
import re

import pytest
import torch
from diffusers import UNet2DConditionModel
from helpers import tiny_unet
from helpers_conversion import import_converter
from helpers_diffusers import tiny_unet as diffusers_unet
from safetensors.torch import load_file, save_file

from diffusers_ediffi import EDiffIUNet, ExpertRouterUNet

TABLE = r"""
exact:
  input.weight: conv_in.weight
  input.bias: conv_in.bias
patterns:
  'down\.(\d+)\.block(\d+)\.(.+)': 'down_blocks.\1.resnets.\2.\3'
"""


def theirs(name):
    """The name of a tensor in the trainer that `TABLE` is of."""
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)\.(.+)", r"down.\1.block\2.\3", name)
    return name.replace("conv_in.", "input.")


@pytest.fixture
def converter(monkeypatch):
    return import_converter("from_training_checkpoint", monkeypatch)


@pytest.fixture
def unet(tmp_path):
    """A network, whose configuration stands in config.json, and the table of names in names.yaml."""
    network = tiny_unet(1)
    network.save_config(tmp_path)
    (tmp_path / "names.yaml").write_text(TABLE)
    return network


def weights_of(network):
    """Its tensors under the trainer's names."""
    return {theirs(name): tensor for name, tensor in network.state_dict().items()}


def run(converter, folder, checkpoint, *more):
    options = ["--checkpoint", checkpoint, "--config", folder / "config.json", "--output", folder / "out", *more]
    converter.main(list(map(str, options)))


def renamed(folder):
    return "--rename", folder / "names.yaml"


def assert_same(network, other):
    ours, theirs = network.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_a_nested_checkpoint_under_other_names(converter, unet, tmp_path, capsys, ending):
    weights = {f"model.{name}": tensor for name, tensor in weights_of(unet).items()}
    weights |= {"model.loss.scale": torch.ones(3), "ema_decay": torch.ones(1), "model.step": 7}
    torch.save({"state_dict": weights, "optimizer": {"lr": 1e-4}}, tmp_path / "last.ckpt")
    (tmp_path / "names.json").write_text(
        json.dumps(
            {
                "exact": {"input.weight": "conv_in.weight", "input.bias": "conv_in.bias"},
                "patterns": {r"down\.(\d+)\.block(\d+)\.(.+)": r"down_blocks.\1.resnets.\2.\3"},
            }
        )
    )
    options = ["--key", "state_dict", "--prefix", "model.", "--rename", tmp_path / f"names.{ending}"]
    run(converter, tmp_path, tmp_path / "last.ckpt", *options, "--drop", r"loss\..*", "--license", "mit")
    assert_same(EDiffIUNet.from_pretrained(tmp_path / "out"), unet)
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert record["checkpoint"]["name"] == "last.ckpt" and record["checkpoint"]["license"] == "mit"
    assert [len(digest) for digest in record["checkpoint"]["sha256"].values()] == [64]
    assert record["dropped"] == ["model.loss.scale", "ema_decay", "model.step"] and record["fresh"] == []
    assert str(tmp_path) not in json.dumps(record)
    rows = [re.split(" {2,}", line) for line in capsys.readouterr().out.splitlines()]
    assert ["conv_in", "2", "224", "float32", "from the checkpoint"] in rows
    assert ["model", "1", "3", "float32", "dropped"] in rows and ["model.step", "no tensor", "dropped"] in [
        [cell for cell in row if cell] for row in rows
    ]
    counted = sum(int(row[1]) for row in rows[1:] if len(row) == 5)
    assert counted == len(unet.state_dict()) + 2


@torch.no_grad()
def test_a_network_of_diffusers(converter, tmp_path):
    network = diffusers_unet(3)
    network.save_config(tmp_path)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    run(converter, tmp_path, tmp_path / "weights.safetensors")
    written = UNet2DConditionModel.from_pretrained(tmp_path / "out")
    x, text = torch.randn(1, 4, 8, 8), torch.randn(1, 7, 16)
    torch.testing.assert_close(written(x, 300, text).sample, network(x, 300, text).sample, rtol=0, atol=1e-6)


def test_a_preset(converter, tmp_path):
    network = EDiffIUNet.from_preset("demo-base-low")
    torch.save(network.state_dict(), tmp_path / "low.pt")
    options = ["--checkpoint", tmp_path / "low.pt", "--preset", "demo-base-low", "--output", tmp_path / "out"]
    converter.main(list(map(str, options)))
    assert_same(EDiffIUNet.from_pretrained(tmp_path / "out"), network)


def test_what_is_declared_new_begins_as_in_an_untrained_network(converter, unet, tmp_path, capsys):
    weights = {name: tensor for name, tensor in weights_of(unet).items() if "attn2" not in name}
    save_file(weights, tmp_path / "weights.safetensors")
    run(converter, tmp_path, tmp_path / "weights.safetensors", *renamed(tmp_path), "--fresh", r".*\.attn2\..*")
    written = EDiffIUNet.from_pretrained(tmp_path / "out").state_dict()
    untrained = EDiffIUNet(**unet.config).state_dict()
    fresh = [name for name in written if "attn2" in name]
    assert fresh and json.loads((tmp_path / "out" / "conversion.json").read_text())["fresh"] == fresh
    for name in fresh:
        assert torch.equal(written[name], torch.zeros_like(written[name])) == (not untrained[name].any()), name
        assert written[name].std(correction=0) == pytest.approx(untrained[name].std(correction=0), rel=0.5), name
    assert all(torch.equal(written[name], tensor) for name, tensor in unet.state_dict().items() if name not in fresh)
    assert re.search(r"down_blocks +\d+ .* new, untrained", capsys.readouterr().out)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_in_another_type_and_variant(converter, unet, tmp_path, dtype):
    save_file(weights_of(unet), tmp_path / "weights.safetensors")
    run(converter, tmp_path, tmp_path / "weights.safetensors", *renamed(tmp_path), "--dtype", dtype, "--variant", "x")
    written = load_file(tmp_path / "out" / "diffusion_pytorch_model.x.safetensors")
    cast = {name: tensor.to(getattr(torch, dtype)) for name, tensor in unet.state_dict().items()}
    assert written.keys() == cast.keys() and all(torch.equal(written[name], cast[name]) for name in cast)
    loaded = EDiffIUNet.from_pretrained(tmp_path / "out", variant="x", dtype=getattr(torch, dtype))
    assert loaded.dtype == getattr(torch, dtype)


def test_a_tensor_with_two_names_is_written_twice(converter, unet, tmp_path):
    weights = weights_of(unet)
    pair = [name for name, tensor in weights.items() if tensor.shape == (16,)][:2]
    weights[pair[1]] = weights[pair[0]]
    torch.save(weights, tmp_path / "weights.pt")
    run(converter, tmp_path, tmp_path / "weights.pt", *renamed(tmp_path))
    written = {
        theirs(name): tensor for name, tensor in EDiffIUNet.from_pretrained(tmp_path / "out").state_dict().items()
    }
    assert torch.equal(written[pair[0]], written[pair[1]]) and torch.equal(written[pair[0]], weights[pair[0]])


def test_older_files_of_pytorch_are_read(converter, unet, tmp_path):
    torch.save({"ema": {"model": weights_of(unet)}}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    run(converter, tmp_path, tmp_path / "old.pth", *renamed(tmp_path), "--key", "ema.model")
    assert_same(EDiffIUNet.from_pretrained(tmp_path / "out"), unet)


def without(name):
    return lambda weights: weights.pop(name)


def with_value(name, value):
    return lambda weights: weights.update({name: value})


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (without("input.bias"), [], "has nothing for conv_in.bias of the network: rename"),
        (with_value("surplus", torch.ones(1)), [], "no place for surplus: rename them by --rename, or leave"),
        (with_value("down.9.block0.x", torch.ones(1)), [], r"down.9.block0.x \(as down_blocks.9.resnets.0.x\)"),
        (with_value("input.bias", torch.ones(9)), [], r"input.bias \(9,\) \(as conv_in.bias, which is \(8,\)\)"),
        (with_value("conv_in.bias", torch.ones(8)), [], "input.bias and conv_in.bias .* both become conv_in.bias"),
        (with_value("input.bias", torch.full((8,), torch.nan)), [], "not finite in conv_in.bias"),
        (
            with_value("input.bias", torch.full((8,), 1e6)),
            ["--dtype", "float16"],
            "input.bias has .* float16 cannot hold",
        ),
        (None, ["--prefix", "model."], "no name begins with --prefix 'model.'; they are"),
        (None, ["--drop", "loss.*"], "--drop 'loss.*' matches none of the names"),
        (None, ["--fresh", "fusin.*"], "--fresh 'fusin.*' matches none of the names"),
        (None, ["--output", "{tmp}"], "exists: give the name of a new folder"),
        (None, ["--config", "{tmp}/none.json"], "there is no configuration"),
        (None, ["--config", "{tmp}/names.yaml"], "names.yaml is not JSON"),
        (None, ["--config", "{tmp}/list.json"], "holds a None, which is not a U-Net"),
        (None, ["--config", "{tmp}/router.json"], "holds a ExpertRouterUNet, which is not a U-Net"),
        (None, ["--config", "{tmp}/many.json"], "layers_per_block=1000000"),
        (None, ["--config", "{tmp}/odd.json"], "odd.json.*norm_num_groups=7"),
        (
            None,
            ["--rename", "{tmp}/list.json"],
            r"list.json: a table has the sections exact and patterns, this has list",
        ),
        (None, ["--rename", "{tmp}/wrong.yaml"], "wrong.yaml: '\\(' is no regular expression"),
        (None, ["--rename", "{tmp}/group.yaml"], r"group.yaml: '\\\\2' does not fit the pattern"),
        (None, ["--rename", "{tmp}/none.yaml"], "none.yaml"),
        (None, ["--checkpoint", "{tmp}/none.pt"], "none.pt is neither a folder nor the id"),
        (None, ["--checkpoint", "{tmp}", "--file", "none.pt"], "holds no file none.pt"),
        (None, ["--checkpoint", "{tmp}/empty"], "holds no file of weights: name one"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(converter, unet, tmp_path, change, more, message):
    config = json.loads((tmp_path / "config.json").read_text())
    router = {**config, "_class_name": ExpertRouterUNet.__name__}
    contents = {"list": [], "router": router, "many": {**config, "layers_per_block": 10**6}}
    for name, content in {**contents, "odd": {**config, "norm_num_groups": 7}}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "wrong.yaml").write_text("patterns: {'(': x}")
    (tmp_path / "group.yaml").write_text(r"patterns: {'a(.*)': '\2'}")
    (tmp_path / "empty").mkdir()
    weights = weights_of(unet)
    if change is not None:
        change(weights)
    torch.save(weights, tmp_path / "weights.pt")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    more = [part.format(tmp=tmp_path) for part in more]
    with pytest.raises((ValueError, OSError), match=message):
        run(converter, tmp_path, tmp_path / "weights.pt", *renamed(tmp_path), *more)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


class Evil:
    def __reduce__(self):
        return exec, ("open('evil', 'w')",)


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("content", "damage", "more", "message"),
    [
        ({"a": torch.ones(100)}, cut, [], "pt is damaged or no checkpoint"),
        ({"a": torch.ones(100)}, lambda file: file.write_bytes(b""), [], "pt is damaged or no checkpoint"),
        ({"a": torch.ones(100)}, lambda file: file.write_bytes(b"PK nothing"), [], "pt is damaged or no checkpoint"),
        ({"a": Evil()}, None, [], "it asks for .*exec, which weights do not need"),
        (collections.Counter({"a": 1}), None, [], "has no tensors there but a: name their entry by --key"),
        ([torch.ones(1)], None, [], "holds a list, not tensors by their names"),
        ({"ema": {"a": torch.ones(1)}, "step": 3}, None, [], "has no tensors there but ema, step: name their entry"),
        ({"ema": {"a": torch.ones(1)}}, None, ["--key", "model"], "has no entry 'model', only ema"),
    ],
)
def test_damaged_and_hostile_files_are_refused(converter, unet, tmp_path, monkeypatch, content, damage, more, message):
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "weights.pt")
    if damage is not None:
        damage(tmp_path / "weights.pt")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises((ValueError, OSError), match=message):
        run(converter, tmp_path, tmp_path / "weights.pt", *more)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_shards_that_are_not_there_are_named(converter, unet, tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    save_file({"a": torch.ones(1)}, tmp_path / "1.safetensors")
    for content, message in [
        ({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}, "2.safetensors"),
        ({"weight_map": {"a": "1.safetensors", "b": "1.safetensors"}}, "lack b"),
        ({"weight_map": {"a": "../1.safetensors"}}, "1.safetensors"),
        ([], "is damaged or no checkpoint"),
    ]:
        index.write_text(json.dumps(content))
        with pytest.raises(OSError, match=message):
            run(converter, tmp_path, index)
    assert not (tmp_path / "out").exists()


def test_of_several_files_one_has_to_be_named(converter, unet, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    save_file(weights_of(unet), source / "ema.safetensors")
    save_file({"a": torch.ones(1)}, source / "other.safetensors")
    (source / "README.md").write_text("---\nlicense: openrail\n---\n")
    with pytest.raises(OSError, match="holds ema.safetensors, other.safetensors: name one file of weights by --file"):
        run(converter, tmp_path, source)
    run(converter, tmp_path, source, *renamed(tmp_path), "--file", "ema.safetensors")
    assert_same(EDiffIUNet.from_pretrained(tmp_path / "out"), unet)
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())["checkpoint"]
    assert record["license"] == "openrail" and list(record["sha256"]) == ["ema.safetensors"]

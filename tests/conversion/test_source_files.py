# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What every converter reads: one file or shards, in single or half precision. Networks that go on to be trained are
written in single precision, the others as they were."""

import importlib
import json

import numpy as np
import pytest
import torch
from helpers import tiny_unet
from helpers_conversion import CONVERSION, import_converter
from helpers_diffusers import tiny_unet as diffusers_unet
from safetensors.torch import load_file, save_file

from diffusers_ediffi import EDiffIUNet

SMALL = {"layers_per_block": 1, "self_attention_factors": (2,), "cross_attention_factors": ()}
WIDTHS_OF_TEXT = ["--encoder-hid-dim", 16, "--encoder-hid-dim-2", 16, "--image-embed-dim", 16]


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    """The benchmark, which writes networks as EDM and guided-diffusion name their weights."""
    monkeypatch.syspath_prepend(str(CONVERSION))
    monkeypatch.syspath_prepend(str(CONVERSION.parent / "benchmarks"))
    return importlib.import_module("conversion_memory")


def save(weights, folder, name, sharded):
    """Writes weights as one file, or as two shards with an index; returns what names them."""
    folder.mkdir(exist_ok=True)
    if not sharded:
        save_file(weights, folder / f"{name}.safetensors")
        return folder / f"{name}.safetensors"
    shard_of = {key: f"{name}-0000{i % 2 + 1}-of-00002.safetensors" for i, key in enumerate(weights)}
    for shard in set(shard_of.values()):
        save_file({key: weights[key] for key in weights if shard_of[key] == shard}, folder / shard)
    index = folder / f"{name}.safetensors.index.json"
    size = sum(tensor.nbytes for tensor in weights.values())
    index.write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": shard_of}))
    return index


def two_unets(memory, folder, dtype, sharded):
    for seed, name in enumerate("ab"):
        network = diffusers_unet(seed).to(dtype)
        save(network.state_dict(), folder / name, "diffusion_pytorch_model", sharded)
        network.save_config(folder / name)
    return ["--unets", folder / "a", folder / "b", "--boundaries", 300, "--unit", "timestep"]


def edm(memory, folder, dtype, sharded):
    unet = EDiffIUNet(sample_size=8, block_out_channels=(128, 192), **SMALL).to(dtype)
    weights = memory.edm_weights(memory.randomized(unet))
    weights["map_label.weight"] = weights["map_label.weight"].to(dtype)
    return ["--checkpoint", save(weights, folder, "edm", sharded), *WIDTHS_OF_TEXT]


def guided_diffusion(memory, folder, dtype, sharded):
    unet = EDiffIUNet(sample_size=8, block_out_channels=(64, 128), **SMALL, num_class_embeds=1000).to(dtype)
    weights = memory.guided_diffusion_weights(memory.randomized(unet))
    weights["label_emb.weight"] = weights["label_emb.weight"].to(dtype)
    return ["--checkpoint", save(weights, folder, "adm", sharded), "--model", "adm64", *WIDTHS_OF_TEXT]


def state_dict(memory, folder, dtype, sharded):
    network = tiny_unet(1).to(dtype)
    place = save(network.state_dict(), folder / "weights", "ema", sharded)
    network.save_config(folder)
    return ["--checkpoint", place.parent if sharded else place, "--config", folder / "config.json"]


CONVERTERS = {
    "from_diffusers_unets": two_unets,
    "from_edm": edm,
    "from_guided_diffusion": guided_diffusion,
    "from_training_checkpoint": state_dict,
}
TO_TRAIN = ("from_edm", "from_guided_diffusion")


def read(folder):
    """Every value in the files of weights, in order, and the types of the tensors."""
    tensors = [tensor for file in folder.rglob("*.safetensors") for tensor in load_file(file).values()]
    values = torch.cat([tensor.flatten().double() for tensor in tensors]).numpy()
    return np.sort(values), {tensor.dtype for tensor in tensors}


def found_in(values, ordered):
    """Which of some values are among others, which are in order."""
    return ordered[np.searchsorted(ordered, values).clip(max=len(ordered) - 1)] == values


def test_every_converter_is_here():
    """Those of cascades copy the files as they are: see test_cascades.py."""
    others = {"from_deepfloyd_if", "from_karlo"}
    assert {path.stem for path in CONVERSION.glob("from_*.py")} == CONVERTERS.keys() | others


@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "shards"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CONVERTERS)
def test_values_and_types_stay(name, dtype, sharded, memory, tmp_path, monkeypatch):
    source, output = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    arguments = CONVERTERS[name](memory, source, dtype, sharded)
    import_converter(name, monkeypatch).main(list(map(str, [*arguments, "--output", output])))
    (before, types), (after, types_after) = read(source), read(output)
    assert types == {dtype} and types_after == {torch.float32 if name in TO_TRAIN else dtype}
    if name == "from_edm":  # which leaves out the class labels
        read_files = [load_file(file) for file in source.glob("*.safetensors")]
        classes = next(weights["map_label.weight"] for weights in read_files if "map_label.weight" in weights)
        before = before[~found_in(before, np.sort(classes.double().flatten().numpy()))]
    if name in TO_TRAIN:  # which have new parts
        assert found_in(before, after).all()
    else:
        assert np.array_equal(before, after)
    record = json.loads((output / "conversion.json").read_text())
    hashes = json.dumps(record)
    files = [file.name for file in source.rglob("*.safetensors")]
    assert all(f'"{file}": "' in hashes for file in files) or hashes.count('"sha256": "') == len(files) == 1

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A router's folder: names, classes that a configuration may name, what is downloaded, and weights that are whole."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from helpers_diffusers import tiny_ediffi_unet, tiny_unet
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import save_file

from diffusers_ediffi.experts.files import (
    allow_patterns,
    build_expert,
    check_weights,
    describe,
    expert_class,
    expert_folder,
    load_networks,
    local_folder,
    network_config,
    weights_file,
    write_marker,
)
from diffusers_ediffi.experts.router import ExpertRouterUNet
from diffusers_ediffi.models.unet import EDiffIUNet

# --- names and classes ---


def test_names_on_disk(tmp_path):
    assert [expert_folder(index) for index in (0, 12)] == ["expert.0", "expert.12"]
    assert weights_file(tmp_path, None) == tmp_path / "diffusion_pytorch_model.safetensors"
    assert weights_file(tmp_path, "fp16") == tmp_path / "diffusion_pytorch_model.fp16.safetensors"


def test_a_marker_names_the_experts_of_a_variant(tmp_path):
    write_marker(tmp_path, 2, None)
    write_marker(tmp_path, 2, "fp16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["experts.fp16.json", "experts.json"]
    assert json.loads((tmp_path / "experts.json").read_text()) == {"experts": ["expert.0", "expert.1"]}


def test_a_description_builds_the_network_it_was_made_of():
    for unet in (tiny_unet(), tiny_ediffi_unet()):
        description = json.loads(json.dumps(describe(1, unet, unet.config)))
        assert description["folder"] == "expert.1" and expert_class(1, description) is type(unet)
        built = build_expert(1, description)
        assert [parameter.shape for parameter in built.parameters()] == [p.shape for p in unet.parameters()]


def test_a_description_does_not_say_where_a_network_was_loaded_from():
    assert network_config({"_name_or_path": "/home/me", "in_channels": 4}) == {"in_channels": 4}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folder": "../elsewhere"}, "puts expert 0 in '../elsewhere'; only 'expert.0' is allowed"),
        ({"folder": None}, "puts expert 0 in None"),
        (
            {"library": "os"},
            "expert.0 is a UNet2DConditionModel of 'os'; experts come from diffusers or",
        ),
        ({"class_name": "DDIMScheduler"}, "diffusers has no model named 'DDIMScheduler'"),
        ({"class_name": None}, "diffusers has no model named None"),
    ],
)
def test_refuses_a_stranger_s_class(change, message):
    description = describe(0, tiny_unet(), {})
    with pytest.raises(ValueError, match=message):
        expert_class(0, {**description, **change})


# --- what is downloaded ---


def test_only_the_wanted_variant_is_downloaded(tmp_path):
    router = ExpertRouterUNet.from_unets([tiny_unet(0), tiny_unet(1), tiny_unet(2)], boundaries=[0.1, 10.0])
    for variant in (None, "fp16"):
        router.save_pretrained(tmp_path / "unet", variant=variant, max_shard_size="30KB" if variant else "1GB")
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]

    def weights(variant):
        wanted = filter_repo_objects([*files, "vae/config.json"], allow_patterns=allow_patterns("unet", variant))
        return [file for file in wanted if not file.endswith("/config.json") and file.startswith("unet/")]

    plain = ["unet/experts.json", *(f"unet/expert.{i}/diffusion_pytorch_model.safetensors" for i in range(3))]
    assert sorted(weights(None)) == sorted(plain)
    assert sorted(weights("fp16")) == sorted(file for file in files if "fp16" in file)
    assert len(weights("fp16")) > 2 * len(plain)


def test_a_folder_is_not_downloaded(tmp_path):
    assert local_folder(tmp_path, None, None, {}) == tmp_path
    assert local_folder(str(tmp_path), "unet", "fp16", {}) == tmp_path / "unet"
    with pytest.raises(OSError, match="neither a folder nor the id of a repository"):
        local_folder(tmp_path / "not" / "there", None, None, {})


# --- weights ---


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_stored_type_is_that_of_most_weights(dtype, tmp_path):
    file = weights_file(tmp_path, "x")
    save_file({"most": torch.ones(3, 3, dtype=dtype), "few": torch.ones(8, dtype=torch.float8_e4m3fn)}, file)
    assert check_weights(tmp_path, "x") == dtype


def test_an_unknown_stored_type(tmp_path):
    save_file({"all": torch.ones(8, dtype=torch.float8_e4m3fn)}, weights_file(tmp_path, None))
    assert check_weights(tmp_path, None) is None


def test_refuses_weights_that_are_not_there_or_not_whole(tmp_path):
    with pytest.raises(OSError, match="has no weights of no variant, only no files at all: save or copy it again"):
        check_weights(tmp_path, None)
    file = weights_file(tmp_path, None)
    save_file({"a": torch.ones(100)}, file)
    with pytest.raises(OSError, match=r"no weights of variant 'fp16', only \['diffusion_pytorch_model.safetensors'\]"):
        check_weights(tmp_path, "fp16")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(OSError, match="is damaged or truncated"):
        check_weights(tmp_path, None)


def test_nothing_is_loaded_before_all_weights_are_known_to_be_whole(tmp_path):
    folders = [tmp_path / expert_folder(index) for index in range(2)]
    tiny_unet().save_pretrained(folders[0])
    untouched = SimpleNamespace()  # would fail on from_pretrained
    with pytest.raises(OSError, match="expert.1 has no weights"):
        load_networks([untouched, untouched], folders, None, None)


def test_networks_are_loaded_each_by_its_class(tmp_path):
    unets = [tiny_unet(), tiny_ediffi_unet()]
    folders = [tmp_path / expert_folder(index) for index in range(2)]
    for unet, folder in zip(unets, folders, strict=True):
        unet.save_pretrained(folder)
    for dtype in (None, "auto"):
        loaded = load_networks([UNet2DConditionModel, EDiffIUNet], folders, None, dtype)
        for before, after in zip(unets, loaded, strict=True):
            pairs = zip(before.state_dict().items(), after.state_dict().items(), strict=True)
            assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


# --- saving whole ---


def test_a_router_whose_saving_is_killed_is_the_older_or_the_newer_one():
    script = Path(__file__).parent / "kill_save.py"
    result = subprocess.run([sys.executable, script, "6", "router"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "change", [{"boundaries": [0.5]}, {"guidance_scales": [1.0, 2.0]}, {"unets": [tiny_unet(7, sample_size=16)] * 2}]
)
def test_a_variant_joins_those_of_its_router_alone(tmp_path, change):
    unets = [tiny_unet(0), tiny_unet(1)]
    router = ExpertRouterUNet.from_unets(unets, [1.0])
    other = ExpertRouterUNet.from_unets(**{"unets": unets, "boundaries": [1.0], **change})
    router.save_pretrained(tmp_path)
    router.save_pretrained(tmp_path, variant="fp16")
    with pytest.raises(ValueError, match=rf"holds another variant \(experts.json\).* differs in {next(iter(change))}"):
        other.save_pretrained(tmp_path, variant="fp16")
    for variant in (None, "fp16"):
        assert ExpertRouterUNet.from_pretrained(tmp_path, variant=variant).boundaries == [1.0]
    for leftover in tmp_path.glob("experts.fp16.json"):
        leftover.unlink()
    other.save_pretrained(tmp_path)
    assert ExpertRouterUNet.from_pretrained(tmp_path).boundaries == other.boundaries


def test_a_smaller_router_leaves_nothing_of_a_larger_one(tmp_path):
    ExpertRouterUNet.from_unets([tiny_unet(i) for i in range(3)], [0.1, 1.0]).save_pretrained(tmp_path)
    (tmp_path / "README.md").touch()
    ExpertRouterUNet.from_unets([tiny_unet()], []).save_pretrained(tmp_path, safe_serialization=False)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    expert = [f"expert.0/{name}" for name in ("config.json", "diffusion_pytorch_model.bin")]
    assert files == ["README.md", "config.json", *expert, "experts.json"]


def test_other_processes_of_a_training_leave_the_saving_to_the_main_one(tmp_path):
    for network in (ExpertRouterUNet.from_unets([tiny_unet()], []), tiny_ediffi_unet()):
        network.save_pretrained(tmp_path / "unet", is_main_process=False)
        assert not (tmp_path / "unet").exists()

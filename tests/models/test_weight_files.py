# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Weights that lack tensors or are not finite are refused where they are read, adapters where they are saved."""

import copy
from shutil import copyfile

import pytest
import torch
from helpers import draw, tiny_pipeline, tiny_unet
from helpers_lora import low_rank_router
from helpers_lora import tiny_unet as diffusers_unet
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffusers_ediffi import EDiffIPipeline, EDiffIUNet, ExpertRouterUNet, LoraExpert
from diffusers_ediffi.models.weight_files import check_finite

BASE = {"unet_sr256": None, "unet_sr1024": None}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def save_network(folder):
    tiny_unet().save_pretrained(folder)
    return folder / WEIGHTS, lambda: EDiffIUNet.from_pretrained(folder)


def save_router(folder):
    ExpertRouterUNet.from_unets([tiny_unet(), tiny_unet(1)], [1.0]).save_pretrained(folder)
    return folder / "expert.1" / WEIGHTS, lambda: ExpertRouterUNet.from_pretrained(folder)


def save_foreign_router(folder):
    ExpertRouterUNet.from_unets([diffusers_unet(), diffusers_unet(1)], [1.0]).save_pretrained(folder)
    return folder / "expert.1" / WEIGHTS, lambda: ExpertRouterUNet.from_pretrained(folder)


def save_low_rank(folder):
    low_rank_router(tiny_unet()).save_pretrained(folder)
    return folder / "expert.1" / WEIGHTS, lambda: ExpertRouterUNet.from_pretrained(folder)


def save_expert(folder):
    folder.mkdir()
    low_rank_router(tiny_unet())._shared.expert(0).save(folder / "expert.safetensors")
    return folder / "expert.safetensors", lambda: LoraExpert.load(folder / "expert.safetensors")


def save_encoder(name):
    def save(folder):
        tiny_pipeline(**BASE).save_pretrained(folder)
        return folder / name / "model.safetensors", lambda: EDiffIPipeline.from_pretrained(folder)

    return save


ENCODERS = [save_encoder(name) for name in ("text_encoder", "text_encoder_2", "image_encoder")]
NETWORKS = [save_network, save_router, save_foreign_router]


def rewrite(file, change):
    with safe_open(file, "pt") as content:
        metadata = content.metadata()
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata)


@pytest.mark.parametrize("save", [*NETWORKS, save_low_rank, save_expert, *ENCODERS])
def test_missing_tensors_are_named(save, tmp_path):
    file, load = save(tmp_path / "saved")
    load()
    name = next(name for name in sorted(load_file(file)) if "norm" not in name)
    rewrite(file, lambda weights: weights.pop(name))
    with pytest.raises(OSError, match=f"lacks {name} of the network"):
        load()


@pytest.mark.parametrize("name", ["text_encoder", "text_encoder_2", "image_encoder"])
def test_tensors_of_a_pickled_encoder_are_asked_for_as_well(name, tmp_path):
    tiny_pipeline(**BASE).save_pretrained(tmp_path)
    file = tmp_path / name / "model.safetensors"
    state = load_file(file)
    file.unlink()
    pickled = file.with_name("pytorch_model.bin")
    torch.save(state, pickled)
    EDiffIPipeline.from_pretrained(tmp_path)
    missing = next(key for key in sorted(state) if "norm" not in key)
    torch.save({key: value for key, value in state.items() if key != missing}, pickled)
    with pytest.raises(OSError, match=f"lacks {missing} of the network"):
        EDiffIPipeline.from_pretrained(tmp_path)
    state[missing].view(-1)[-1:].fill_(float("nan"))
    torch.save(state, pickled)
    with pytest.raises(OSError, match=f"values that are not finite in {missing}"):
        EDiffIPipeline.from_pretrained(tmp_path)


def test_half_of_another_variant_hinders_no_encoder(tmp_path):
    pipe = tiny_pipeline(**BASE)
    pipe.save_pretrained(tmp_path)
    folder = tmp_path / "text_encoder"
    copyfile(folder / "model.safetensors", folder / "model.fp16-00001-of-00002.safetensors")
    rewrite(folder / "model.fp16-00001-of-00002.safetensors", lambda weights: weights.popitem())
    loaded = EDiffIPipeline.from_pretrained(tmp_path).text_encoder.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in pipe.text_encoder.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("save", [*NETWORKS, *ENCODERS])
def test_values_that_are_not_finite_are_named(save, value, tmp_path):
    file, load = save(tmp_path / "saved")
    name = sorted(load_file(file))[-1]
    rewrite(file, lambda weights: weights[name].view(-1)[-1:].fill_(value))
    with pytest.raises(OSError, match=f"values that are not finite in {name}"):
        load()


def test_a_caller_who_asks_what_is_missing_sees_to_it(tmp_path):
    file, _ = save_network(tmp_path / "saved")
    rewrite(file, lambda weights: weights.pop("conv_in.bias"))
    _, info = EDiffIUNet.from_pretrained(tmp_path / "saved", output_loading_info=True, low_cpu_mem_usage=False)
    assert info["missing_keys"] == ["conv_in.bias"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_large_values_are_finite(dtype):
    layer = torch.nn.Linear(64, 64).to(dtype)
    torch.nn.init.constant_(layer.weight, torch.finfo(dtype).max)
    check_finite(layer, "weights")  # though their sum is not


def test_mapped_weights_are_not_read_and_their_pictures_are_refused(tmp_path):
    file, _ = save_router(tmp_path / "saved")
    rewrite(file, lambda weights: weights["conv_out.bias"].fill_(float("nan")))
    router = ExpertRouterUNet.from_pretrained(tmp_path / "saved", dtype="auto")
    for output_type in ("latent", "pil"):
        with pytest.raises(ValueError, match="base 8x8 drew values that are not finite"):
            draw(tiny_pipeline(unet=router, **BASE), output_type=output_type)


@pytest.mark.parametrize("load", [EDiffIUNet, ExpertRouterUNet])
def test_a_failed_load_leaves_the_default_type(load, tmp_path):
    (save_network if load is EDiffIUNet else save_foreign_router)(tmp_path)
    for config in tmp_path.rglob("config.json"):
        config.write_text(config.read_text().replace('"norm_num_groups": 4', '"norm_num_groups": 3'))
    with pytest.raises(ValueError):
        load.from_pretrained(tmp_path, dtype=torch.float16)
    assert torch.get_default_dtype() == torch.float32


def test_a_network_with_an_adapter_is_not_saved(tmp_path):
    adapted = tiny_unet()
    adapted.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    encoder = copy.deepcopy(tiny_pipeline(**BASE).text_encoder)
    encoder.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    router = ExpertRouterUNet.from_unets([tiny_unet(), adapted], [1.0])
    pipes = [tiny_pipeline(**{**BASE, **part}) for part in ({"unet": router}, {"text_encoder": encoder})]
    for model in (adapted, router, *pipes, tiny_pipeline(**{**BASE, "unet": adapted})):
        with pytest.raises(ValueError, match=r"the adapters \['default'\] are loaded.* take them away by unload_lora"):
            model.save_pretrained(tmp_path / "saved")
    assert not list(tmp_path.iterdir())
    router.unload_lora()
    router.save_pretrained(tmp_path / "saved")

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""LoRA through the methods of the pipeline: in every U-Net of the cascade and in every expert."""

import copy
import math

import pytest
import torch
from helpers import draw, tiny_components, tiny_pipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from diffusers_ediffi import EDiffIPipeline, ExpertRouterUNet

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")  # of a second LoRA


def lora_of(unet, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random layers of a LoRA in the attention of a U-Net."""
    unet = copy.deepcopy(unet)
    torch.manual_seed(seed)
    unet.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_v"]), "made")
    return get_peft_model_state_dict(unet, adapter_name="made")


def cascade(experts: bool) -> EDiffIPipeline:
    parts = tiny_components()
    unets = {name: copy.deepcopy(parts[name]) for name in ("unet", "unet_sr256")}
    if experts:
        unets["unet"] = ExpertRouterUNet.from_unets([unets["unet"], copy.deepcopy(unets["unet"])], [1.0])
    return tiny_pipeline(**unets, unet_sr1024=None, scheduler_sr1024=None)


@pytest.fixture
def saved(tmp_path):
    parts = tiny_components()
    layers = {f"{name}_lora_layers": lora_of(parts[name]) for name in ("unet", "unet_sr256")}
    EDiffIPipeline.save_lora_weights(tmp_path / "both", **layers)
    EDiffIPipeline.save_lora_weights(tmp_path / "base", unet_lora_layers=lora_of(parts["unet"], 1))
    return tmp_path


def test_a_lora_through_all_methods(saved):
    single, routed = cascade(experts=False), cascade(experts=True)
    plain = draw(single)
    steps = {
        "loaded": lambda pipe: pipe.load_lora_weights(saved / "both", adapter_name="style"),
        "weighted": lambda pipe: pipe.set_adapters("style", 0.5),
        "by network": lambda pipe: pipe.set_adapters("style", {"unet": 0.3, "unet_sr256": 0.0}),
        "off": lambda pipe: pipe.disable_lora(),
        "on": lambda pipe: pipe.enable_lora(),
        "fused": lambda pipe: pipe.fuse_lora(),
        "unfused": lambda pipe: pipe.unfuse_lora(),
        "second": lambda pipe: pipe.load_lora_weights(saved / "base", adapter_name="light"),
        "both": lambda pipe: pipe.set_adapters(["style", "light"], [1.0, 0.3]),
        "one": lambda pipe: pipe.set_adapters("light"),
        "one left": lambda pipe: pipe.delete_adapters("style"),
        "unloaded": lambda pipe: pipe.unload_lora_weights(),
    }
    for name, step in steps.items():
        for pipe in (single, routed):
            step(pipe)
        expected = draw(single)
        assert torch.equal(draw(routed), expected), name
        assert torch.allclose(expected, plain, atol=1e-3) == (name in ("off", "unloaded")), name
        assert single.get_list_adapters() == routed.get_list_adapters()
        assert single.get_active_adapters() == routed.get_active_adapters()
        if name == "both":
            assert single.get_list_adapters() == {"unet": ["style", "light"], "unet_sr256": ["style"]}
            assert single.get_active_adapters() == ["style", "light"]


def test_a_lora_goes_into_the_experts_that_are_named(saved):
    pipe = cascade(experts=True)
    with pipe.unet.loading_into([1]):
        pipe.load_lora_weights(saved / "base")
    assert pipe.get_list_adapters() == {"unet": ["default_0"]}
    assert [hasattr(expert, "peft_config") for expert in pipe.unet.experts] == [False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unet_sr1024.a.lora_A.weight": torch.ones(1)}, "has unet_sr1024.a.lora_A.weight, which is for none of"),
        ({"text_encoder.a.lora_A.weight": torch.ones(1)}, "has text_encoder.a.lora_A.weight, which is for none of"),
        ({"down_blocks.0.lora_A.weight": torch.ones(1)}, "prefix=None"),
        ({"unet.fusion.norm.bias": torch.ones(1)}, "unet.fusion.norm.bias is no weight of a LoRA and would be lost"),
    ],
)
def test_nothing_of_a_lora_is_dropped(change, message):
    pipe = cascade(experts=False)
    weights = {f"unet.{name}": tensor for name, tensor in lora_of(pipe.unet).items()}
    with pytest.raises(ValueError, match=message):
        pipe.load_lora_weights({**weights, **change})
    assert pipe.get_list_adapters() == {}


def test_refuses_names_and_calls_without_a_lora(saved):
    pipe = cascade(experts=True)
    for call in (pipe.fuse_lora, pipe.unfuse_lora):
        with pytest.raises(ValueError, match="no LoRA is loaded: load one by load_lora_weights"):
            call()
    with pytest.raises(ValueError, match=r"no U-Net has the adapters \['style'\]"):
        pipe.set_adapters("style")
    pipe.load_lora_weights(saved / "both", adapter_name="style")
    with pytest.raises(ValueError, match="in use"):
        pipe.load_lora_weights(saved / "both", adapter_name="style")
    with pytest.raises(ValueError, match="1 adapters and 2 weights"):
        pipe.set_adapters("style", [1.0, 2.0])
    with pytest.raises(ValueError, match="there is no LoRA to save"):
        EDiffIPipeline.save_lora_weights(saved)


@pytest.mark.parametrize("experts", [False, True])
def test_a_network_with_a_lora_is_not_saved_as_what_could_not_be_loaded(saved, experts):
    pipe = cascade(experts)
    pipe.load_lora_weights(saved / "base", adapter_name="style")
    folder = saved / "pipeline"
    with pytest.raises(ValueError, match=r"the adapters \['style'\] are loaded: save them by save_lora_adapter"):
        pipe.save_pretrained(folder)
    assert not list(folder.glob("unet/**/*.safetensors"))
    expected = draw(pipe)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    pipe.save_pretrained(folder)
    loaded = EDiffIPipeline.from_pretrained(folder)
    loaded.set_progress_bar_config(disable=True)
    torch.testing.assert_close(draw(loaded), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
@pytest.mark.parametrize("source", ["file", "weights"])
@pytest.mark.parametrize("way", ["pipeline", "router", "network"])
def test_half_a_lora_and_one_that_is_not_finite_are_refused(saved, way, source, factor):
    pipe, file = cascade(experts=way != "network"), saved / "base" / "pytorch_lora_weights.safetensors"
    weights = load_file(file)
    name = next(name for name in sorted(weights) if factor in name)

    def load(weights):
        save_file(weights, file)
        given = file if source == "file" else weights
        if way == "pipeline":
            pipe.load_lora_weights(given)
        else:
            pipe.unet.load_lora_adapter(given, prefix="unet")

    with pytest.raises(OSError, match=f" lacks {name} of the LoRA"):
        load({key: value for key, value in weights.items() if key != name})
    with pytest.raises(OSError, match=f" has values that are not finite in {name}"):
        load({**weights, name: torch.full_like(weights[name], math.nan)})
    assert pipe.get_list_adapters() == {}
    load(weights)
    assert list(pipe.get_list_adapters()) == ["unet"]

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`ediffi info` of a model."""

import json
import re

import torch
from helpers import tiny_pipeline, tiny_unet

from diffusers_ediffi import EDiffIPipeline, ExpertRouterUNet, LoraExpert
from diffusers_ediffi.cli.main import main


def test_info_lists_stages_experts_and_licence(model, capsys):
    assert main(["info", "--model", str(model)]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "licence     apache-2.0" in out
    # Of the four sigmas 80, 9.7, 0.47, 0.002 of Karras's grid, two are below the boundary.
    assert "base: 8 x 8, 4 steps, guidance 5\n  expert.0  sigma 0 to 0.5" in out
    routes = re.findall(r"expert\.(\d) .* (\d) of (\d) steps", out)
    assert routes == [("0", "2", "4"), ("1", "2", "4"), ("0", "2", "2"), ("0", "1", "1")]
    components = EDiffIPipeline.from_pretrained(model).components.values()
    networks = [part for part in components if isinstance(part, torch.nn.Module)]
    total = sum(parameter.numel() for network in networks for parameter in network.parameters())
    assert f"parameters  {total / 1000:.3g}K" in out


def test_info_of_a_model_as_json(model, capsys):
    """The same figures, whole."""
    assert main(["info", "--model", str(model), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.count("\n") == 1
    about = json.loads(out)
    base, sr256, _ = about["stages"]
    assert (about["model"], about["licence"], base["name"], base["size"]) == (str(model), "apache-2.0", "base", 8)
    low, high = base["experts"]
    assert (low["low"], low["high"], high["low"], high["high"]) == (0, 0.5, 0.5, None)
    assert (low["steps"], base["steps"], sr256["experts"][0]["steps"]) == (2, 4, 2)
    unet = next(component for component in about["components"] if component["name"] == "unet")
    assert unet["class"] == "ExpertRouterUNet" and unet["parameters"] == low["parameters"] + high["parameters"]


def test_info_counts_a_shared_base_once(tmp_path, capsys):
    base = tiny_unet()
    name, bias = "conv_out.bias", base.conv_out.bias.detach()
    experts = [LoraExpert({name: bias + i}, {}) for i in range(2)]
    unet = ExpertRouterUNet.from_lora_experts(base, experts, [1.0])
    tiny_pipeline(unet=unet, unet_sr256=None, unet_sr1024=None).save_pretrained(tmp_path)
    assert main(["info", "--model", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.count(f"steps  {len(bias)} beside a shared base") == 2

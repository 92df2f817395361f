# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The configurations of published models, in `published/`: their numbers of parameters, and the family that each is
taken for. Entries that are the defaults of diffusers are left out there."""

import json
from pathlib import Path

import diffusers
import pytest
import torch
from helpers_conversion import import_converter

PUBLISHED = Path(__file__).parent / "published"
# Billions of parameters, from the model cards of DeepFloyd IF and Karlo.
SIZES = {"if-i-xl": 4.305, "if-ii-l": 1.188, "karlo-decoder": 0.885, "karlo-super-res": 0.73, "karlo-prior": 1.02}
FAMILIES = {
    "if-i-xl": ("from_deepfloyd_if", "STAGE_1"),
    "if-ii-l": ("from_deepfloyd_if", "STAGE_2"),
    "karlo-decoder": ("from_karlo", "DECODER"),
    "karlo-super-res": ("from_karlo", "SUPER_RES"),
}


def config_of(name):
    return json.loads((PUBLISHED / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SIZES)
def test_networks_have_the_published_numbers_of_parameters(name):
    config = config_of(name)
    with torch.device("meta"):
        network = getattr(diffusers, config["_class_name"]).from_config(config)
    billions = sum(parameter.numel() for parameter in network.parameters()) / 1e9
    digits = len(str(SIZES[name]).split(".")[1])
    assert round(billions, digits) == SIZES[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_each_is_taken_for_its_family_and_no_other(name, monkeypatch, tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps(config_of(name)))
    cascades = import_converter("cascades", monkeypatch)
    part = cascades.Part(tmp_path / "unet", ["diffusers", "UNet2DConditionModel"], "a model")
    for converter, family in set(FAMILIES.values()):
        expected = getattr(import_converter(converter, monkeypatch), family)
        if (converter, family) == FAMILIES[name]:
            cascades.check_family(part, expected, "a family")
        else:
            with pytest.raises(ValueError, match="a model is not a family: its unet has"):
                cascades.check_family(part, expected, "a family")

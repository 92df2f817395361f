# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Models that cannot be loaded, and devices that are not there."""

import json
import shutil

import huggingface_hub.constants
import pytest

from diffusers_ediffi.cli.main import main

PROMPT = "a red cat above a blue house"


@pytest.mark.parametrize("command", [["generate", PROMPT], ["info"]])
def test_a_missing_folder_may_look_like_a_hub_id(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--model", "models/mine"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert "there is no folder 'models/mine' here, and as a Hub id it could not be loaded: " in err


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def swap_boundaries(path):
    config = json.loads(path.read_text())
    config["unets"] = [{**config["unets"][0], "folder": f"expert.{i}"} for i in range(3)]
    path.write_text(json.dumps({**config, "boundaries": [9.0, 0.5]}))


@pytest.mark.parametrize(
    ("damage", "name", "message"),
    [
        (truncate, "unet/expert.1/diffusion_pytorch_model.safetensors", "truncated"),
        (truncate, "unet_sr256/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors"),
        (truncate, "text_encoder/model.safetensors", "SafetensorError"),
        (truncate, "model_index.json", "model_index.json"),
        (swap_boundaries, "unet/config.json", "strictly increasing"),
        (lambda path: path.unlink(), "unet_sr256/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model"),
    ],
)
def test_damaged_model(generate, model, damage, name, message, tmp_path_factory, tmp_path):
    copy = shutil.copytree(model, tmp_path_factory.mktemp("damaged") / "model")
    damage(copy / name)
    code, out, err = generate(model=copy)
    assert code == 2 and out == "" and err.startswith("ediffi: error: cannot load ") and err.count("\n") == 1
    assert message in err
    assert not any(tmp_path.iterdir())

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A small pipeline and pictures for the scripts that train a stage of a pipeline further, and how they are started."""

import pytest
from accelerate.state import AcceleratorState, PartialState
from helpers import tiny_pipeline, tiny_unet
from helpers_examples import import_script
from helpers_pictures import write_folder
from PIL import Image

from diffusers_ediffi import ExpertRouterUNet

BOUNDARIES = [0.3, 2.0]
PROMPT = "a zorb"


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder with a pipeline of three experts, four pictures without captions, and six with them."""
    folder = tmp_path_factory.mktemp("data")
    router = ExpertRouterUNet.from_unets([tiny_unet(seed) for seed in (4, 5, 6)], BOUNDARIES)
    pipe = tiny_pipeline(unet=router, default_num_inference_steps=(4, 1, 1))
    pipe.save_pretrained(folder / "pipeline")
    (folder / "zorbs").mkdir()
    for i in range(4):
        Image.new("RGB", (20, 16), (60 * i, 200, 90)).save(folder / "zorbs" / f"{i}.png")
    write_folder(folder / "captioned")
    return folder


@pytest.fixture
def train(folder, tmp_path, monkeypatch):
    """Runs a script on the pictures without captions, three steps to an expert, into `tmp_path / output`."""

    def run(*options, script="train_ediffi_lora", output="run", pictures=None):
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState._reset_state()  # each run stands for a process of its own
        pictures = pictures or ["--instance_data_dir", folder / "zorbs", "--instance_prompt", PROMPT]
        arguments = ["--pretrained_model_name_or_path", folder / "pipeline", "--output_dir", tmp_path / output]
        arguments += [*pictures, "--max_train_steps", 3, "--train_batch_size", 2, "--learning_rate", 1e-2, *options]
        import_script(f"training/{script}", monkeypatch).main(list(map(str, arguments)))
        return tmp_path / output

    return run

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Loading by Hub id what `push_to_hub` uploaded, against a small Hub on this machine, in fresh processes as a user
would run them."""

import json
import subprocess
import sys

import diffusers
import pytest
from helpers import tiny_pipeline, tiny_unet
from helpers_hub import REPO, environment_of, hub_in_this_process

import diffusers_ediffi
from diffusers_ediffi import ExpertRouterUNet


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A Hub with a pipeline of two experts and an SR stage, which `push_to_hub` alone has brought there."""
    folder = tmp_path_factory.mktemp("hub")
    router = ExpertRouterUNet.from_unets([tiny_unet(1), tiny_unet(2)], boundaries=[0.5])
    pipe = tiny_pipeline(unet=router, unet_sr1024=None, scheduler_sr1024=None)
    with pytest.MonkeyPatch.context() as monkeypatch:
        with hub_in_this_process(folder, monkeypatch, tmp_path_factory.mktemp("home")) as hub:
            pipe.push_to_hub(REPO)
            yield hub


@pytest.fixture
def run_user_code(hub, tmp_path):
    """Runs code in a process that knows no Hub but ours and starts with an empty cache."""
    environment = environment_of(hub.address, tmp_path)

    def run(code):
        code = f"repo, folder = {REPO!r}, {str(hub.folder)!r}\n{code}"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


DRAW = """
import torch
def draw(pipe):
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipe("a red cat", num_inference_steps=2, generator=generator, output_type="pt").images
"""


def test_loads_by_hub_id_after_import(run_user_code):
    code = """
import os
import re
import shutil
from diffusers_ediffi import EDiffIPipeline, ExpertRouterUNet
from diffusers import DiffusionPipeline
reference = draw(EDiffIPipeline.from_pretrained(folder))
for i, cls in enumerate([EDiffIPipeline, DiffusionPipeline]):
    pipe = cls.from_pretrained(repo, cache_dir=os.path.join(os.environ["HF_HOME"], str(i)))
    assert type(pipe) is EDiffIPipeline and type(pipe.unet) is ExpertRouterUNet
    assert torch.equal(draw(pipe), reference)
router = ExpertRouterUNet.from_pretrained(repo, subfolder="unet")
assert router.boundaries == pipe.unet.boundaries
print("same image")
"""
    assert run_user_code(DRAW + code).endswith("same image\n")


def test_loads_by_hub_id_without_import(run_user_code):
    code = """
import sys
from diffusers import DiffusionPipeline
try:
    DiffusionPipeline.from_pretrained(repo, custom_pipeline=repo)
except ValueError as error:
    assert "trust_remote_code=True" in str(error)
else:
    raise AssertionError("ran code of a stranger unasked")
pipe = DiffusionPipeline.from_pretrained(repo, custom_pipeline=repo, trust_remote_code=True)
from diffusers_ediffi import EDiffIPipeline
assert type(pipe) is EDiffIPipeline
assert torch.equal(draw(pipe), draw(EDiffIPipeline.from_pretrained(folder)))
print("same image")
"""
    assert run_user_code(DRAW + code).endswith("same image\n")


def test_diffusers_knows_our_classes():
    assert diffusers.EDiffIPipeline is diffusers_ediffi.EDiffIPipeline
    assert diffusers.EDMDEISScheduler is diffusers_ediffi.EDMDEISScheduler


def test_saved_index_names_the_package_and_not_its_modules(hub):
    index = json.loads((hub.folder / "model_index.json").read_text())
    assert index["_class_name"] == "EDiffIPipeline"
    assert index["unet"] == ["diffusers_ediffi", "ExpertRouterUNet"]
    assert index["unet_sr256"] == ["diffusers_ediffi", "EDiffIUNet"]

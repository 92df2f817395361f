# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Loading by Hub id, against a small Hub on this machine, in fresh processes as a user would run them."""

import json
import os
import shutil
import subprocess
import sys

import diffusers
import pytest
from helpers import tiny_pipeline, tiny_unet
from helpers_examples import run_script, start_script
from helpers_hub import COMMIT, REPO, TOKEN, environment_of, serving

import diffusers_ediffi
from diffusers_ediffi import ExpertRouterUNet


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved pipeline with two experts and an SR stage, prepared for the Hub."""
    folder = tmp_path_factory.mktemp("tiny")
    router = ExpertRouterUNet.from_unets([tiny_unet(1), tiny_unet(2)], boundaries=[0.5])
    tiny_pipeline(unet=router, unet_sr1024=None, scheduler_sr1024=None).save_pretrained(folder)
    run_script("hub/prepare_hub_repo", folder).check_returncode()
    return folder


@pytest.fixture(scope="module")
def endpoint(saved):
    with serving(saved) as (address, _):
        yield address


@pytest.fixture
def run_user_code(endpoint, saved, tmp_path):
    """Runs code in a process that knows no Hub but ours and starts with an empty cache."""
    environment = environment_of(endpoint, tmp_path)

    def run(code):
        code = f"repo, folder = {REPO!r}, {str(saved)!r}\n{code}"
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


@pytest.fixture
def push(saved, tmp_path, monkeypatch):
    """Pushes the saved pipeline as a converted one, of a source of this licence, to a Hub that says what it got."""
    (tmp_path / "hub").mkdir()
    with serving(tmp_path / "hub") as (address, hub):
        for name in [name for name in os.environ if name.startswith(("HF_", "HUGGINGFACE_"))]:
            monkeypatch.delenv(name)
        for name, value in {**environment_of(address, tmp_path / "cache"), "HF_TOKEN": TOKEN}.items():
            monkeypatch.setenv(name, value)

        def run(license):
            folder = tmp_path / "converted"
            shutil.copytree(saved, folder)
            source = {"name": "org/source", "license": license, "sha256": {"a.safetensors": "0" * 64}}
            (folder / "conversion.json").write_text(json.dumps({"converter": "x", "checkpoint": source}))
            return start_script("hub/prepare_hub_repo", folder, "--push", REPO), folder

        yield run, hub


def test_a_converted_model_is_uploaded_with_its_card(push):
    run, hub = push
    result, folder = run("creativeml-openrail-m")
    assert result.returncode == 0, result.stderr
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    received = {name: path.read_bytes() for name, path in hub.files().items()}
    assert received == {name: path.read_bytes() for name, path in files.items()}
    assert b"license: creativeml-openrail-m" in received["README.md"] and b"0" * 64 in received["README.md"]
    assert result.stdout.splitlines()[-1].endswith(COMMIT)


def test_nothing_is_asked_of_the_hub_where_a_licence_forbids_it(push):
    run, hub = push
    result, folder = run("deepfloyd-if-license")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "'deepfloyd-if-license' and is not uploaded: its grant is personal" in result.stderr
    assert not hub.asked and not (folder / "README.md").exists()


def test_diffusers_knows_our_classes():
    assert diffusers.EDiffIPipeline is diffusers_ediffi.EDiffIPipeline
    assert diffusers.EDMDEISScheduler is diffusers_ediffi.EDMDEISScheduler


def test_saved_index_names_the_package_and_not_its_modules(saved):
    index = json.loads((saved / "model_index.json").read_text())
    assert index["_class_name"] == "EDiffIPipeline"
    assert index["unet"] == ["diffusers_ediffi", "ExpertRouterUNet"]
    assert index["unet_sr256"] == ["diffusers_ediffi", "EDiffIUNet"]

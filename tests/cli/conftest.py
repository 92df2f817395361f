# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A tiny saved pipeline of 8, 32 and 128 pixels, and the command line, as a user runs it."""

import diffusers.utils.logging
import pytest
import transformers.utils.logging
from helpers import tiny_pipeline, tiny_unet

from diffusers_ediffi import EDiffIPipeline, ExpertRouterUNet
from diffusers_ediffi.cli.main import main

PROMPT = "a red cat above a blue house"


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A saved cascade whose base has two experts."""
    folder = tmp_path_factory.mktemp("model")
    router = ExpertRouterUNet.from_unets([tiny_unet(1), tiny_unet(2)], boundaries=[0.5])
    tiny_pipeline(unet=router, default_num_inference_steps=(4, 2, 1)).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nTiny.\n")
    return folder


@pytest.fixture(autouse=True)
def restore_logging():
    """The command line makes the libraries quiet, which is not to outlive the test."""
    modules = (diffusers.utils.logging, transformers.utils.logging)
    before = [module.get_verbosity() for module in modules]
    yield
    for module, verbosity in zip(modules, before, strict=True):
        module.set_verbosity(verbosity)
        module.enable_progress_bar()


@pytest.fixture
def nothing_loads(monkeypatch):
    """For what is to be refused before a model is read."""
    monkeypatch.setattr(EDiffIPipeline, "from_pretrained", lambda *_, **__: pytest.fail("a model is loaded"))


@pytest.fixture
def generate(model, tmp_path, capsys):
    """Runs `ediffi generate` for a small image; returns the exit code and what was printed."""

    def run(*arguments, prompt=PROMPT, output=tmp_path / "out.png", model=model):
        defaults = {"--output": output, "--model": model, "--size": 8, "--seed": 3, "--steps": 2, "--device": "cpu"}
        rest = [text for name, value in defaults.items() if name not in arguments for text in (name, value)]
        code = main(["generate", *map(str, [prompt, *arguments, *rest])])
        return code, *capsys.readouterr()

    return run

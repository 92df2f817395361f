# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Tiny, complete parts of a pipeline with random weights: real classes throughout, only small; and a few objects."""

import json
import os
from pathlib import Path

import pytest
import torch
from helpers import forget_hooked_parts, tiny_pipeline
from PIL import Image
from transformers import CLIPTokenizer, T5Tokenizer

from diffusers_ediffi import demo_checkpoint


def pytest_configure(config):
    if hasattr(config, "workerinput"):  # of several processes, which share the cores
        torch.set_num_threads(1)
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests start


def pytest_addoption(parser):
    parser.addoption("--all-docs", action="store_true", help="run the commands of all pages of the documentation")


@pytest.fixture(autouse=True)
def no_hooks_of_another_test():
    yield
    forget_hooked_parts()


@pytest.fixture
def pipe():
    """The whole cascade: 8, 32 and 128 pixels."""
    return tiny_pipeline()


@pytest.fixture
def base_pipe():
    """The base stage alone."""
    return tiny_pipeline(unet_sr256=None, unet_sr1024=None, scheduler_sr256=None, scheduler_sr1024=None)


@pytest.fixture(scope="session")
def tokenizers():
    """Those of the demo model, with words of several tokens and marks for spaces: name, tokenizer and columns."""
    folder = demo_checkpoint()
    return [
        ("CLIP", CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer"), 77),
        ("T5", T5Tokenizer.from_pretrained(folder, subfolder="tokenizer_2"), 113),
    ]


@pytest.fixture
def objects(tmp_path) -> Path:
    """A folder of three coloured squares."""
    folder = tmp_path / "objects"
    folder.mkdir()
    for i in range(3):
        Image.new("RGBA", (48, 48), (80 * i, 255 - 80 * i, 128, 255)).save(folder / f"{i}.png")
    phrases = ("rocket", "sun", "moon")  # words that the demo's scorer knows
    index = [{"file": f"{i}.png", "phrase": phrase} for i, phrase in enumerate(phrases)]
    (folder / "index.json").write_text(json.dumps(index))
    return folder

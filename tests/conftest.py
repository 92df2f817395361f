# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Tiny, complete parts of a pipeline with random weights: real classes throughout, only small."""

import os

import pytest
import torch
from helpers import forget_hooked_parts, tiny_pipeline
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

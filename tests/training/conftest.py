# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What all tests of training share."""

import multiprocessing
import shutil

import pytest
import torch
from helpers_training import make_tree

# The server that new processes of tests come from; they need not import it all again.
multiprocessing.set_forkserver_preload(["diffusers_ediffi.training"])


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The folder of a tree that was trained without interruption; not to be changed."""
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("whole")
    make_tree(output).train()
    return output


@pytest.fixture
def done(whole, tmp_path):
    """A copy of it."""
    shutil.copytree(whole, tmp_path / "done")
    return tmp_path / "done"

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The Python blocks of each page run in order, as a reader pastes them into one session."""

import pytest
from helpers_docs import PAGES, blocks

# README's run with its commands, in test_commands.py.
PAGES_ALONE = [page for page in PAGES if page != "README.md"]
WITH_PYTHON = [page for page in PAGES_ALONE if any(block.language == "python" for block in blocks(page))]


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_blocks_run_in_order(page, reader):
    reader(page, shell=False).read()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The script that makes a saved pipeline ready for the Hub. tests/test_hub.py loads what it makes."""

import re

from helpers import tiny_pipeline
from helpers_examples import EXAMPLES, run_script


def test_prepare_refuses_a_folder_without_a_pipeline(tmp_path):
    result = run_script("hub/prepare_hub_repo", tmp_path)
    assert result.returncode == 1 and result.stderr.startswith("error: ") and "model_index.json" in result.stderr
    assert not any(tmp_path.iterdir())


def test_the_model_card_brings_what_it_links(tmp_path):
    folder = tmp_path / "repo"
    tiny_pipeline(unet_sr1024=None, scheduler_sr1024=None).save_pretrained(folder)
    result = run_script("hub/prepare_hub_repo", folder, "--model-card", EXAMPLES.parent / "model_card.md")
    assert result.returncode == 0, result.stderr
    links = re.findall(r"\]\((docs/[^)]+)\)", (folder / "README.md").read_text())
    assert links and all((folder / link).exists() for link in links)
    card = tmp_path / "card.md"
    card.write_text("[a](https://example.org) [b](#part) ![c](missing.png)")
    result = run_script("hub/prepare_hub_repo", folder, "--model-card", card)
    assert result.returncode == 1 and "missing.png" in result.stderr and "Traceback" not in result.stderr

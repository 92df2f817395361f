# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The packaged demo model: complete, small, and trained for real."""

from pathlib import Path

import numpy as np
import pytest
import torch

from diffusers_ediffi import EDiffIPipeline, demo_checkpoint
from diffusers_ediffi.cli.main import main


@pytest.fixture(scope="module")
def pipe():
    pipe = EDiffIPipeline.from_pretrained(demo_checkpoint())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, prompt, size=64, **changes):
    generator = torch.Generator().manual_seed(0)
    arguments = {"num_inference_steps": (12, 4, 4), "generator": generator, "output_type": "np", **changes}
    return pipe(prompt, height=size, width=size, **arguments).images


def test_it_is_complete_and_small():
    folder = Path(demo_checkpoint())
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) < 60e6
    assert (folder / "README.md").is_file()


def test_every_stage_is_there(pipe):
    assert [stage.size for stage in pipe.stages] == [64, 256, 1024]
    others = ("safety_checker", "text_proj")  # which the demo does not have
    assert all(component is not None for name, component in pipe.components.items() if name not in others)
    assert pipe.dtype == torch.float32


@pytest.mark.parametrize(
    ("ground", "colour"),
    [("red", (0.85, 0.15, 0.15)), ("dark blue", (0.05, 0.1, 0.4)), ("yellow", (1.0, 0.85, 0.15))],
)
def test_the_ground_has_the_colour_that_the_prompt_says(pipe, ground, colour):
    # Said to be flat, since water colours have a border of paper and night scenes are dark.
    image = draw(pipe, f"a flat illustration of a moon on a {ground} background")[0]
    border = np.concatenate([image[:3].reshape(-1, 3), image[-3:].reshape(-1, 3)])
    assert np.abs(np.median(border, axis=0) - colour).max() < 0.2


def test_the_large_image_agrees_with_the_small_one(pipe):
    small = draw(pipe, "a strawberry on a light blue background")[0]
    large = draw(pipe, "a strawberry on a light blue background", size=256)[0]
    reduced = large.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(reduced - small).mean() < 0.05


def test_save_and_load_draw_the_same_image(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = EDiffIPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    pictures = [
        draw(each, "a flat illustration of a red car on a yellow background", num_inference_steps=(3, 1, 1))
        for each in (loaded, pipe)
    ]
    assert np.array_equal(*pictures) and pictures[0].std() > 0.1


def test_info_lists_stages_experts_and_licence(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for line in ("base: 64 x 64", "SR256: 256 x 256", "SR1024: 1024 x 1024", "expert.1", "apache-2.0"):
        assert line in out

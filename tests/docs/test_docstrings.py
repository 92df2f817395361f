# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The examples of docstrings run, with a pipeline and what else they take for granted."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import helpers_diffusers as sd
import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from helpers import tiny_pipeline, tiny_unet
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file

import diffusers_ediffi
from diffusers_ediffi.files import written_whole

# Examples that leave out too much to run, by the object that has them.
INCOMPLETE = {
    "SignalGuard": "trains until a signal comes",
    "measure_attention_mass": "shows where it stands; its names are those of a U-Net's call",
}


def doctests() -> list[doctest.DocTest]:
    """Every docstring of the package with an example."""
    names = [module.name for module in pkgutil.walk_packages(diffusers_ediffi.__path__, "diffusers_ediffi.")]
    modules = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
    found = [test for module in modules for test in doctest.DocTestFinder().find(module)]
    by_place = {(test.filename, test.lineno): test for test in found if test.examples}
    return [test for test in by_place.values() if test.name.split(".")[-1] not in INCOMPLETE]


class Unchecked(doctest.OutputChecker):
    """An example that shows no output may print any."""

    def check_output(self, want, got, optionflags):
        return not want or super().check_output(want, got, optionflags)


def low_rank_experts() -> dict:
    """Three networks that were trained from one, and the U-Nets of SDXL's base and refiner."""
    base, low, middle, high = (tiny_unet(seed) for seed in range(4))
    unets = {"base_unet": sd.tiny_unet(0), "refiner_unet": sd.tiny_unet(1)}
    return {"base": base, "low": low, "middle": middle, "high": high, **unets}


def sd_pipeline() -> StableDiffusionPipeline:
    """With an autoencoder that shrinks pictures, more than Stable Diffusion's does."""
    pipe = sd.build(StableDiffusionPipeline, sd.three_experts(StableDiffusionPipeline))
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 6, "up_block_types": ["UpDecoderBlock2D"] * 6}
    vae = AutoencoderKL(block_out_channels=[8] * 6, norm_num_groups=4, latent_channels=4, **blocks)
    pipe = StableDiffusionPipeline(**{**pipe.components, "vae": vae}, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def files(folder: Path) -> None:
    """What the examples read."""
    rng = np.random.default_rng(0)
    for name in ("sunset.png", "etching.jpg", "rocket_mask.png"):
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(folder / name)
    canvas = Image.new("RGB", (20, 20), "red")
    canvas.paste("blue", (0, 0, 10, 20))
    canvas.save(folder / "canvas.png")
    (folder / "org" / "fine-details").mkdir(parents=True)
    save_file(sd.lora(StableDiffusionPipeline), folder / "org" / "fine-details" / "pytorch_lora_weights.safetensors")
    unet = tiny_unet(4)
    unet.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q"]), "made")
    layers = get_peft_model_state_dict(unet, adapter_name="made")
    diffusers_ediffi.EDiffIPipeline.save_lora_weights(folder / "org" / "comic-style", unet_lora_layers=layers)


@pytest.fixture
def given(tmp_path, monkeypatch, request) -> dict:
    monkeypatch.chdir(tmp_path)
    files(tmp_path)
    public = {name: getattr(diffusers_ediffi, name) for name in diffusers_ediffi.__all__}
    further = {
        "torch": torch,
        "PIL": PIL,
        "save_file": save_file,
        "weights": {"a": torch.zeros(1)},
        "written_whole": written_whole,
        "prompt": "a red apple and a rocket",
        "rocket_mask": (0.5, 0.0, 1.0, 1.0),
    }
    return {**public, **low_rank_experts(), **further}


@pytest.mark.parametrize("test", doctests(), ids=lambda test: test.name.removeprefix("diffusers_ediffi."))
def test_example(test, given):
    discrete = any(room in test.name for room in (".experts.", ".paint."))
    given = {**given, "pipe": sd_pipeline() if discrete else tiny_pipeline()}
    test.globs = {**given, **test.globs}
    runner = doctest.DocTestRunner(Unchecked(), optionflags=doctest.NORMALIZE_WHITESPACE)
    printed: list[str] = []
    assert runner.run(test, out=printed.append).failed == 0, "".join(printed)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Hostile configurations and weights of networks, routers and pipelines.

The folders are those of strangers: what they name is neither imported nor run, and what is too large is not built.
"""

import json
import os
import shutil
import struct
from pathlib import Path

import pytest
import torch
from helpers import tiny_pipeline, tiny_sr_unet, tiny_unet
from helpers_fuzz import Case, damaged, damaged_bytes
from helpers_lora import low_rank_router, trained
from hypothesis import strategies as st

from diffusers_ediffi import EDiffIPipeline, EDiffIUNet, ExpertRouterUNet, LoraExpert, factorize_expert

WEIGHTS = "diffusion_pytorch_model.safetensors"


def one_level(**changes):
    """The smallest network of its class."""
    return tiny_unet(block_out_channels=(8,), self_attention_factors=(1,), cross_attention_factors=(1,), **changes)


def run(unet):
    """One call of a network, nearly as small as it takes it: groups of one number have no deviation. Where huge
    weights lead beyond float range, the pipeline says so."""
    size = 2 * getattr(unet, "total_stride", 4)
    with torch.no_grad():
        sample = torch.zeros(1, unet.config["in_channels"], size, size)
        output = unet(sample, torch.tensor(-0.1), None)[0]
    huge = any(parameter.abs().max() > 1e6 for parameter in unet.parameters())
    assert (output.isfinite().all() or huge) and output.shape == (1, unet.config["out_channels"], size, size)


class Saved:
    """A saved model; a case changes one of its files in a copy, of which the others are links."""

    def __init__(self, folder):
        self.folder = folder

    def copy(self, folder, name, content):
        target = Path(folder, "stranger")
        shutil.copytree(self.folder, target, copy_function=os.link)
        (target / name).unlink()
        (target / name).write_bytes(content)
        return target

    def json(self, name):
        return json.loads((self.folder / name).read_text())

    def cases(self, name, further=()):
        """One of the JSON files, with other values or as bytes that are damaged."""
        entries = damaged(self.json(name), further)
        written = entries.map(
            lambda case: Case(
                (name, json.dumps(case.value).encode()),
                (*case.words, "stranger", "tokenizer of", "nested", "experts", "expected shape", "lacks"),
            )
        )
        return written | self.byte_cases(name)

    def byte_cases(self, name):
        whole = (self.folder / name).read_bytes()
        contents = damaged_bytes([whole, b"[" * 5000, b'{"a":' * 900, b"\xff\xfe" + whole, b"null"])
        return contents.map(lambda content: Case((name, content), (Path(name).name, "stranger")))

    def weight_cases(self, name):
        """A safetensors file with another header, or with bytes that are damaged."""
        whole = (self.folder / name).read_bytes()
        (length,) = struct.unpack("<Q", whole[:8])
        header, body = json.loads(whole[8 : 8 + length]), whole[8 + length :]

        def written(case):
            text = json.dumps(case.value).encode()
            return Case((name, struct.pack("<Q", len(text)) + text + body), (*case.words, WEIGHTS, "stranger"))

        return damaged(header).map(written) | self.byte_cases(name)


@pytest.fixture(scope="module")
def router(tmp_path_factory):
    folder = tmp_path_factory.mktemp("router")
    experts = [one_level(seed=1, trained_on=[[0.0, 1.0]]), one_level(seed=2, trained_on=[[1.0, None]])]
    ExpertRouterUNet.from_unets(experts, [1.0], guidance_scales=[3.0, None]).save_pretrained(folder)
    return Saved(folder)


@pytest.fixture(scope="module")
def low_rank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("low_rank")
    low_rank_router(one_level()).save_pretrained(folder)
    return Saved(folder)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    parts = dict.fromkeys(("unet_sr256", "unet_sr1024", "scheduler_sr256", "scheduler_sr1024"))
    tiny_pipeline(**parts, unet=one_level()).save_pretrained(folder)
    return Saved(folder)


@pytest.fixture(scope="module", params=["base", "super_resolution"])
def network(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "base":
        tiny_unet(trained_on=[[0.0, 1.0], [2.0, None]]).save_pretrained(folder)
    else:
        tiny_sr_unet(1, 32, sigma_residual=0.1, max_noise_level=0.5).save_pretrained(folder)
    return Saved(folder)


def test_configurations_of_networks(fuzz, network):
    def load(case, folder):
        run(EDiffIUNet.from_pretrained(network.copy(folder, *case)))

    names = tuple(network.json("config.json"))  # one that is right may not go with one that is not
    cases = network.cases("config.json").map(lambda case: Case(case.value, (*case.words, *names)))
    fuzz("configurations of networks", cases, load, share=0.035)


def loading_router(saved):
    def load(case, folder):
        loaded = ExpertRouterUNet.from_pretrained(saved.copy(folder, *case))
        for sigma in (0.01, 100.0):
            loaded.select_expert(sigma)
            run(loaded)

    return load


def test_configurations_of_routers(fuzz, router):
    fuzz("configurations of routers", router.cases("config.json"), loading_router(router), share=0.03)


def test_configurations_of_low_rank_routers(fuzz, low_rank):
    fuzz("configurations of low-rank routers", low_rank.cases("config.json"), loading_router(low_rank), share=0.01)


def test_weights_of_routers(fuzz, router):
    cases = router.weight_cases(f"expert.1/{WEIGHTS}")
    fuzz("weights of routers", cases, loading_router(router), share=0.03)


def test_weights_of_low_rank_routers(fuzz, low_rank):
    cases = low_rank.weight_cases(f"expert.1/{WEIGHTS}") | low_rank.weight_cases(f"expert.base/{WEIGHTS}")
    fuzz("weights of low-rank routers", cases, loading_router(low_rank), share=0.01)


def test_files_of_low_rank_experts(fuzz, tmp_path):
    base = one_level()
    factorize_expert(base, trained(base, 1), 2).save(tmp_path / "expert.safetensors")
    saved = Saved(tmp_path)

    def load(case, folder):
        run(LoraExpert.load(saved.copy(folder, *case) / "expert.safetensors").merge(base))

    cases = saved.weight_cases("expert.safetensors").map(lambda case: Case(case.value, (*case.words, "the expert")))
    fuzz("files of low-rank experts", cases, load, share=0.02)


# What a stranger may put into a folder besides weights.
PARTS = (
    *("model_index.json", "scheduler/scheduler_config.json", "unet/config.json"),
    *("text_encoder/config.json", "text_encoder_2/config.json", "image_encoder/config.json"),
    *("tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "feature_extractor/preprocessor_config.json"),
)


def test_folders_of_pipelines(fuzz, pipeline):
    further = (
        "auto_map",
        "custom_pipeline",
        "_diffusers_version",
        "quantization_config",
        "torch_dtype",
        "architectures",
    )

    def load(case, folder):
        pipe = EDiffIPipeline.from_pretrained(pipeline.copy(folder, *case))
        pipe.set_progress_bar_config(disable=True)
        image = pipe("a cat", num_inference_steps=1, output_type="np").images
        size = pipe.unet.config.sample_size
        assert image.shape == (1, size, size, 3)

    cases = st.one_of(pipeline.cases(name, further) for name in PARTS if (pipeline.folder / name).is_file())
    named = cases.map(lambda case: Case(case.value, (*case.words, "stranger", Path(case.value[0]).name)))
    fuzz("folders of pipelines", named, load, share=0.02)

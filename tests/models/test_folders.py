# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Folders of strangers: every class that loads one names it in its error, and builds nothing of endless size."""

import json
import shutil
import time

import pytest
from helpers import tiny_pipeline, tiny_unet

from diffusers_ediffi import EDiffIPipeline, EDiffIUNet, ExpertRouterUNet
from diffusers_ediffi.models.folders import MAX_COUNTS, check_counts, naming

BASE = dict.fromkeys(("unet_sr256", "unet_sr1024", "scheduler_sr256", "scheduler_sr1024"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    router = ExpertRouterUNet.from_unets([tiny_unet(1), tiny_unet(2)], [1.0])
    tiny_pipeline(**BASE, unet=router).save_pretrained(folder)
    return folder


@pytest.fixture
def stranger(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "stranger")


def rewrite(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


LOADS = {
    "model_index.json": (EDiffIPipeline, ""),
    "scheduler/scheduler_config.json": (EDiffIPipeline, ""),
    "tokenizer/tokenizer.json": (EDiffIPipeline, ""),
    "text_encoder/config.json": (EDiffIPipeline, ""),
    "unet/config.json": (ExpertRouterUNet, "unet"),
    "unet/expert.0/config.json": (EDiffIUNet, "unet/expert.0"),
}


@pytest.mark.parametrize("content", [b"[" * 9000, b'{"a":' * 900, b"\xff\xfe\x00", b"null", b"[1]", b""], ids=str)
@pytest.mark.parametrize("file", LOADS)
def test_what_is_no_configuration_is_an_error_that_names_it(stranger, file, content):
    (stranger / file).write_bytes(content)
    network, subfolder = LOADS[file]
    with pytest.raises((ValueError, OSError), match="stranger"):
        network.from_pretrained(stranger / subfolder)


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("unet/config.json", {"unets": [3, 4]}),
        ("unet/config.json", {"unets": [{"config": 3}, None]}),
        ("unet/config.json", {"betas": "a"}),
        ("unet/config.json", {"boundaries": [[]]}),
        ("unet/config.json", {"shared_base": "false"}),
        ("text_encoder/config.json", {"dtype": "FLOAT32"}),
        ("tokenizer/tokenizer.json", {"version": ""}),
        ("tokenizer/tokenizer.json", {"added_tokens": [1]}),
        ("tokenizer/tokenizer.json", {"model": {"type": "BPE", "vocab": {}, "merges": [["a"]]}}),
    ],
)
def test_what_libraries_raise_becomes_an_error_that_names_the_folder(stranger, file, changes):
    rewrite(stranger / file, **changes)
    with pytest.raises((ValueError, OSError), match="stranger"):
        EDiffIPipeline.from_pretrained(stranger)


@pytest.mark.parametrize("count", [10**6, 1e6, 10**400, [1, 10**6]], ids=str)
@pytest.mark.parametrize(
    ("file", "name"),
    [("text_encoder/config.json", "num_hidden_layers"), ("text_encoder_2/config.json", "num_layers")]
    + [("unet/expert.1/config.json", "layers_per_block"), ("unet/config.json", "num_experts")],
)
def test_layers_without_end_are_refused_before_they_are_built(stranger, file, name, count):
    rewrite(stranger / file, **{name: count})
    start = time.process_time()
    with pytest.raises((ValueError, OSError), match=name):
        EDiffIPipeline.from_pretrained(stranger)
    assert time.process_time() - start < 5


def test_counts_are_found_wherever_they_stand():
    names = ("num_hidden_layers", "n_heads", "layers_per_block", "transformer_layers_per_block", "num_res_blocks")
    for name in names:
        with pytest.raises(ValueError, match=f"here: {name}=1000000 is not from 0 to"):
            check_counts({"a": [{"b": {name: 10**6}}]}, "here")
    with pytest.raises(ValueError, match="here: num_attention_heads=-2 is not from 0 to"):
        check_counts({"num_attention_heads": -2}, "here")
    check_counts({"num_train_timesteps": 10**6, "vocab_size": 10**6, "num_layers": max(MAX_COUNTS.values())}, "here")


def test_a_tokenizer_says_how_long_a_text_may_be(stranger):
    rewrite(stranger / "tokenizer/tokenizer_config.json", model_max_length="77")
    pipe = EDiffIPipeline.from_pretrained(stranger)
    pipe.set_progress_bar_config(disable=True)
    with pytest.raises(ValueError, match="model_max_length='77' of the tokenizer"):
        pipe("a cat", num_inference_steps=1)


@pytest.mark.parametrize(("tokenizer", "encoder"), [("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")])
def test_a_tokenizer_of_another_model_is_refused(saved, tokenizer, encoder):
    pipe = EDiffIPipeline.from_pretrained(saved)
    pipe.set_progress_bar_config(disable=True)
    getattr(pipe, tokenizer).add_tokens(["cat"])
    with pytest.raises(ValueError, match="gives the token .* load both from the same model"):
        pipe("a cat", num_inference_steps=1)


def test_panics_are_errors_and_interruptions_stay():
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(OSError, match="cannot load 'there': index out of range"), naming("there"):
        raise panic("index out of range")
    for stays in (KeyboardInterrupt, MemoryError, ImportError):
        with pytest.raises(stays), naming("there"):
            raise stays("as it is")

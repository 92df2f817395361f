# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Saving and loading, sharing components, the types and attention backends that they run in."""

import copy
import io
import logging
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, PipelineQuantizationConfig
from helpers import PROMPT, SIZES, WIDTH, draw, embeddings, picture, tiny_components, tiny_pipeline
from torchao.quantization import Int8Tensor, Int8WeightOnlyConfig
from transformers import TorchAoConfig

from diffusers_ediffi import EDiffIPipeline, EDiffIUNet, ExpertRouterUNet

BASE, SR256, SR1024 = SIZES


def test_save_and_load_give_the_same_image(pipe, tmp_path):
    router = ExpertRouterUNet.from_unets([copy.deepcopy(pipe.unet), copy.deepcopy(pipe.unet)], [1.0])
    with torch.no_grad():
        router.experts[1].conv_in.weight.mul_(0.5)
    pipe = tiny_pipeline(unet=router, default_num_inference_steps=(3, 2, 1), default_guidance_scale=(2.0, 1.0, 1.5))
    run = {"num_inference_steps": None, "style_image": picture()}
    expected = draw(pipe, **run)
    pipe.save_pretrained(tmp_path)
    for cls in (EDiffIPipeline, DiffusionPipeline):
        loaded = cls.from_pretrained(tmp_path)
        loaded.set_progress_bar_config(disable=True)
        assert isinstance(loaded, EDiffIPipeline)
        assert torch.equal(draw(loaded, **run), expected)
        assert loaded.num_timesteps == 6


def test_loading_warns_of_nothing(pipe, tmp_path):
    """diffusers compares what it reads from model_index.json with the annotations of `__init__`."""
    pipe.save_pretrained(tmp_path)
    records = io.StringIO()
    handler = logging.StreamHandler(records)
    logging.getLogger("diffusers").addHandler(handler)
    try:
        EDiffIPipeline.from_pretrained(tmp_path)
    finally:
        logging.getLogger("diffusers").removeHandler(handler)
    assert records.getvalue() == ""


def test_save_and_load_without_the_optional_components(tmp_path):
    parts = tiny_components()
    EDiffIPipeline(unet=parts["unet"], scheduler=parts["scheduler"]).save_pretrained(tmp_path)
    loaded = EDiffIPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert all(getattr(loaded, name) is None for name in EDiffIPipeline._optional_components)
    assert draw(loaded, None, **embeddings(tiny_pipeline())).shape[-1] == BASE


def test_components_make_another_pipeline(pipe):
    assert torch.equal(draw(EDiffIPipeline(**pipe.components)), draw(pipe))


def test_from_pipe_takes_over_all_components(pipe):
    pipe = tiny_pipeline(unet=ExpertRouterUNet.from_unets([pipe.unet], []), default_num_inference_steps=(2, 1, 1))
    other = EDiffIPipeline.from_pipe(pipe)
    other.set_progress_bar_config(disable=True)
    assert all(other.components[name] is part for name, part in pipe.components.items())
    assert torch.equal(draw(other, num_inference_steps=None), draw(pipe, num_inference_steps=None))


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/x", "~x", "a/b/c", Path("nowhere")])
def test_a_missing_folder_is_named(name):
    with pytest.raises(OSError, match=f"no folder '{name}'"):
        EDiffIPipeline.from_pretrained(name)


def test_a_hub_id_is_no_missing_folder(pipe, tmp_path, monkeypatch):
    """Offline, from the cache of the Hub's client."""
    snapshot = tmp_path / "models--org--name" / "snapshots" / "0"
    pipe.save_pretrained(snapshot)
    (tmp_path / "models--org--name" / "refs").mkdir()
    (tmp_path / "models--org--name" / "refs" / "main").write_text("0")
    loaded = EDiffIPipeline.from_pretrained("org/name", cache_dir=tmp_path, local_files_only=True)
    assert isinstance(loaded.unet, EDiffIUNet)


def test_text_encoders_alone_make_a_pipeline():
    parts = {**dict.fromkeys(tiny_components()), **{k: v for k, v in tiny_components().items() if "text" in k}}
    parts |= {k: v for k, v in tiny_components().items() if "tokenizer" in k}
    encoded = EDiffIPipeline(**parts).encode_prompt(PROMPT)
    assert [tuple(tensor.shape) for tensor in encoded[:4]] == [(1, 77, WIDTH), (1, WIDTH), (1, 113, WIDTH), (1, 113)]
    assert encoded[4:] == (None,) * 4


# --- types and backends ---


@pytest.mark.parametrize("load", [EDiffIPipeline, DiffusionPipeline])
def test_t5_is_never_float16(load, tmp_path):
    """Whichever way a pipeline gets to float16, T5 is bfloat16 in it."""
    tiny_pipeline(unet_sr256=None, unet_sr1024=None).save_pretrained(tmp_path)
    pipe = load.from_pretrained(tmp_path, dtype=torch.float16)
    assert (pipe.unet.dtype, pipe.text_encoder.dtype) == (torch.float16, torch.float16)
    assert {parameter.dtype for parameter in pipe.text_encoder_2.parameters()} == {torch.bfloat16}
    pipe = load.from_pretrained(tmp_path)
    assert pipe.text_encoder_2.dtype == torch.float32
    for convert in (lambda: pipe.to(torch.float16), lambda: pipe.to("cpu", torch.float16)):
        assert convert() is pipe
        assert (pipe.unet.dtype, pipe.text_encoder_2.dtype) == (torch.float16, torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    assert draw(pipe).isfinite().all()


def test_a_quantised_t5(tmp_path, caplog):
    """Through the settings of diffusers; in a float16 pipeline it may be told to compute in bfloat16."""
    tiny_pipeline(unet_sr256=None, unet_sr1024=None).save_pretrained(tmp_path)
    plain = EDiffIPipeline.from_pretrained(tmp_path)
    config = PipelineQuantizationConfig(quant_mapping={"text_encoder_2": TorchAoConfig(Int8WeightOnlyConfig())})
    load = partial(EDiffIPipeline.from_pretrained, tmp_path, quantization_config=config)
    pipe = load()
    assert isinstance(pipe.text_encoder_2.encoder.block[0].layer[0].SelfAttention.q.weight, Int8Tensor)
    (expected, found) = (each.encode_prompt(PROMPT)[2] for each in (plain, pipe))
    assert 0 < (found - expected).norm() < 0.02 * expected.norm()
    pipe.set_progress_bar_config(disable=True)
    torch.testing.assert_close(draw(pipe), draw(plain), atol=0.02, rtol=0)
    half = load(dtype={"default": torch.float16, "text_encoder_2": torch.bfloat16})
    assert (half.unet.dtype, half.encode_prompt(PROMPT)[2].dtype) == (torch.float16, torch.bfloat16)
    load(dtype=torch.float16)
    assert any("computes in float16, where T5 overflows" in record.message for record in caplog.records)


def backends(unet):
    return {processor._attention_backend for processor in unet.attn_processors.values()}


def test_attention_backend_of_every_unet(pipe):
    names = ("unet", "unet_sr256", "unet_sr1024")
    unets = {name: copy.deepcopy(getattr(pipe, name)) for name in names}
    unets["unet"] = ExpertRouterUNet.from_unets([unets["unet"], copy.deepcopy(unets["unet"])], [1.0])
    pipe = tiny_pipeline(**unets)
    expected = draw(pipe)
    try:
        pipe.set_attention_backend("_native_math")
        assert all(backends(unet) == {"_native_math"} for unet in unets.values())
        torch.testing.assert_close(draw(pipe), expected, atol=1e-3, rtol=1e-3)
    finally:
        pipe.set_attention_backend("native")  # diffusers also keeps a default for the whole process
    with pytest.raises(ValueError, match="must be one of"):
        pipe.set_attention_backend("nonsense")


def test_xformers_reaches_every_unet(pipe):
    """It needs the package and a GPU; without, the error says so and nothing changes."""
    pipe = tiny_pipeline(**{name: copy.deepcopy(getattr(pipe, name)) for name in ("unet", "unet_sr256")})
    try:
        pipe.enable_xformers_memory_efficient_attention()
    except (ModuleNotFoundError, ValueError) as error:
        assert "xformers" in str(error) and backends(pipe.unet) == {None}
    else:
        assert backends(pipe.unet) == backends(pipe.unet_sr256) == {"xformers"}


def test_attention_slicing_has_nothing_to_slice(pipe):
    """PyTorch's attention never holds the whole matrix; the switch of every pipeline of diffusers is taken."""
    routed = tiny_pipeline(unet=ExpertRouterUNet.from_unets([copy.deepcopy(pipe.unet)] * 2, [1.0]))
    for each in (pipe, routed):
        expected = draw(each)
        each.enable_attention_slicing()
        assert torch.equal(draw(each), expected)
        each.disable_attention_slicing()

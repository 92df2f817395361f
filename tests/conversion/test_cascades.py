# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""DeepFloyd IF and Karlo, as diffusers saves them, become pipelines of ours."""

import json
import shutil

import pytest
import torch
from helpers import PROMPT, SIZES, picture, seeded
from helpers_cascades import (
    if_sr_unet,
    if_unet,
    karlo_sr_unet,
    karlo_text_proj,
    karlo_unet,
    save_models,
    text_parts,
)
from helpers_conversion import import_converter
from safetensors.torch import load_file, save_file

from diffusers_ediffi import EDiffIPipeline


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders as the published ones are: IF's two stages and Karlo."""
    root = tmp_path_factory.mktemp("models")
    save_models(root)
    return root


@pytest.fixture
def if_converter(monkeypatch):
    return import_converter("from_deepfloyd_if", monkeypatch)


@pytest.fixture
def karlo_converter(monkeypatch):
    return import_converter("from_karlo", monkeypatch)


def if_options(models, output, *more):
    return ["--stage-1", str(models / "if-1"), "--stage-2", str(models / "if-2"), "--output", str(output), *more]


def load(folder):
    pipe = EDiffIPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, **arguments):
    return pipe(PROMPT, generator=seeded(), output_type="latent", num_inference_steps=2, **arguments).images


def equal(network, other):
    weights = other.state_dict()
    return all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())


def test_both_stages_of_if_become_one_pipeline(if_converter, models, tmp_path, capsys):
    output = tmp_path / "if"
    if_converter.main(if_options(models, output))
    pipe = load(output)
    assert equal(if_unet(), pipe.unet) and equal(if_sr_unet(), pipe.unet_sr256)
    assert equal(text_parts()["text_encoder_2"], pipe.text_encoder_2) and pipe.text_encoder is None
    assert [stage.size for stage in pipe.stages] == list(SIZES[:2])
    assert pipe.config.default_guidance_scale == (7.0, 4.0) and pipe.config.default_num_inference_steps == (100, 50)
    scheduler, refiner = pipe.scheduler.config, pipe.scheduler_sr256.config
    assert (scheduler.sample_max_value, refiner.sample_max_value) == (1.5, 1.0) and scheduler.thresholding
    assert scheduler.dynamic_thresholding_ratio == 0.95 and scheduler.variance_type == "learned_range"
    # timestep 250 of the noise on the image of stage I
    level = pipe.config.default_noise_level[0]
    assert pipe.stages[1].inputs.noise_timestep(level) == pytest.approx(250)
    assert draw(pipe).isfinite().all()
    lines = capsys.readouterr().out
    assert "T5 of stage II" in lines and "IFSafetyChecker" in lines and "watermarker" in lines
    record = json.loads((output / "conversion.json").read_text())
    assert record["license"] == "deepfloyd-if-license" and len(record["parts"]["unet"]["sha256"]) == 1
    assert str(tmp_path) not in json.dumps(record["parts"])


def test_stage_one_alone_is_a_pipeline(if_converter, models, tmp_path):
    if_converter.main(["--stage-1", str(models / "if-1"), "--output", str(tmp_path / "if")])
    assert draw(load(tmp_path / "if")).shape[-1] == SIZES[0]


def test_karlo_becomes_a_pipeline_with_two_experts(karlo_converter, models, tmp_path):
    output = tmp_path / "karlo"
    karlo_converter.main(["--model", str(models / "karlo"), "--output", str(output)])
    pipe = load(output)
    assert equal(karlo_unet(), pipe.unet) and equal(karlo_text_proj(), pipe.text_proj)
    last, first = pipe.unet_sr256.experts
    assert equal(karlo_sr_unet(5), first) and equal(karlo_sr_unet(6), last)
    assert (output / "prior" / "config.json").is_file() and (output / "prior_scheduler").is_dir()
    used = []
    for name, unet in (("first", first), ("last", last)):
        unet.register_forward_hook(lambda *_, name=name: used.append(name))
    images = pipe(PROMPT, style_image=picture(), generator=seeded(), output_type="latent").images
    assert images.isfinite().all() and used == ["first"] * 6 + ["last"]


def test_shards_and_variants_are_read(if_converter, models, tmp_path):
    sharded = tmp_path / "if-1"
    shutil.copytree(models / "if-1", sharded)
    shutil.rmtree(sharded / "unet")
    half = if_unet().half()
    half.save_pretrained(sharded / "unet", variant="fp16", max_shard_size="20KB")
    text_parts()["text_encoder_2"].save_pretrained(sharded / "text_encoder", variant="fp16")
    options = ["--stage-1", str(sharded), "--variant", "fp16", "--output", str(tmp_path / "out")]
    if_converter.main(options)
    loaded = EDiffIPipeline.from_pretrained(tmp_path / "out", variant="fp16", dtype=torch.float16)
    assert equal(half, loaded.unet) and len(list((tmp_path / "out" / "unet").glob("*.safetensors"))) > 1
    assert not (tmp_path / "out" / "text_encoder_2" / "model.safetensors").exists()


WRONG = {
    "the stages the wrong way round": "is not stage I of DeepFloyd IF: its unet has in_channels=6, not 3",
    "no such folder": "neither a folder nor the id",
    "no pipeline": "it has no model_index.json",
    "a part is missing": "has no scheduler; it needs unet, scheduler, text_encoder, tokenizer",
    "an output that exists": "exists: give the name of a new folder",
    "a truncated file": "is damaged or truncated",
    "a tensor is missing": "lacks conv_in.weight of the network",
    "a tensor too many": "holds surplus",
    "another shape": "holds conv_in.weight (1, 1), where its configuration asks for",
    "no such variant": "has no weights of variant 'fp16'",
    "no safety checker": "has no safety_checker and feature_extractor to keep",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_error_and_nothing_is_written(if_converter, models, tmp_path, name):
    source, output = tmp_path / "if-1", tmp_path / "out"
    shutil.copytree(models / "if-1", source)
    options = ["--stage-1", str(source), "--output", str(output)]
    file = source / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    if name == "the stages the wrong way round":
        options[1] = str(models / "if-2")
    elif name == "no such folder":
        options[1] = str(tmp_path / "nothing" / "here" / "at-all")
    elif name == "no pipeline":
        options[1] = str(source / "unet")
    elif name == "a part is missing":
        shutil.rmtree(source / "scheduler")
    elif name == "an output that exists":
        output.mkdir()
    elif name == "a truncated file":
        file.write_bytes(file.read_bytes()[:-100])
    elif name == "a tensor is missing":
        save_file({key: tensor for key, tensor in weights.items() if key != "conv_in.weight"}, file)
    elif name == "a tensor too many":
        save_file({**weights, "surplus": torch.zeros(1)}, file)
    elif name == "another shape":
        save_file({**weights, "conv_in.weight": torch.zeros(1, 1)}, file)
    elif name == "no such variant":
        options += ["--variant", "fp16"]
    else:
        options += ["--safety-checker"]
    before = sorted(tmp_path.iterdir())
    with pytest.raises((OSError, ValueError)) as error:
        if_converter.main(options)
    assert WRONG[name] in str(error.value)
    assert sorted(tmp_path.iterdir()) == before and not list(output.glob("*"))

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""U-Nets of diffusers become a router or a pipeline with one, tensor by tensor."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline, EulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from helpers import tiny_unet as tiny_ediffi_unet
from helpers_conversion import import_converter
from helpers_diffusers import SDXL_BASE, build, draw, tiny_unet

from diffusers_ediffi import ExpertAdapter, ExpertRouterUNet

# diffusers 0.42 on numpy 2.4
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
REFINER = {"cross_attention_dim": 16, "projection_class_embeddings_input_dim": 56}


@pytest.fixture
def converter(monkeypatch):
    return import_converter("from_diffusers_unets", monkeypatch)


@pytest.fixture
def pipelines(tmp_path):
    """Two fine-tunes of a model, as pipelines on the disk: low noise, high noise."""
    folders = [tmp_path / "low", tmp_path / "high"]
    for seed, folder in enumerate(folders):
        build(StableDiffusionPipeline, tiny_unet(seed)).save_pretrained(folder)
    return folders


def networks_of(folders):
    return [StableDiffusionPipeline.from_pretrained(folder).unet for folder in folders]


def test_a_pipeline_of_two_fine_tunes_draws_what_the_router_of_both_draws(converter, pipelines, tmp_path, capsys):
    (pipelines[0] / "README.md").write_text("---\nlicense: mit\n---\n")
    output = tmp_path / "out"
    converter.main([*options(pipelines, output), "--boundaries", "1.0", "--pipeline", str(pipelines[1])])
    loaded = DiffusionPipeline.from_pretrained(output)
    loaded.set_progress_bar_config(disable=True)
    pipe = StableDiffusionPipeline.from_pretrained(pipelines[1])
    pipe.unet = ExpertRouterUNet.from_unets(networks_of(pipelines), [1.0], scheduler=pipe.scheduler)
    pipe.set_progress_bar_config(disable=True)
    torch.testing.assert_close(draw(loaded), draw(pipe), rtol=0, atol=1e-5)
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in table[1:]] == [["expert.0", "0", "to", "1"], ["expert.1", "1", "to", "inf"]]
    assert str(pipelines[0]) in table[1] and "float32" in table[1]
    record = json.loads((output / "conversion.json").read_text())
    assert [unet["name"] for unet in record["unets"]] == ["low", "high"]
    assert record["unets"][0]["license"] == "mit" and record["unets"][1]["license"] is None
    assert str(tmp_path) not in json.dumps(record)


def options(models, output, *more):
    return ["--unets", *map(str, models), "--output", str(output), *more]


@pytest.mark.parametrize(("shards", "variant"), [(False, None), (True, None), (False, "fp16")])
def test_a_router_holds_every_tensor_in_its_type(converter, tmp_path, shards, variant):
    folders, dtype = [tmp_path / "a", tmp_path / "b"], torch.float16 if variant else torch.bfloat16
    networks = [tiny_unet(seed).to(dtype) for seed in range(2)]
    for network, folder in zip(networks, folders, strict=True):
        network.save_pretrained(folder, variant=variant, max_shard_size="20KB" if shards else "10GB")
    output = tmp_path / "out"
    more = ["--variant", variant] if variant else []
    converter.main(options(folders, output, "--boundaries", "300", "--unit", "timestep", *more))
    router = ExpertRouterUNet.from_pretrained(output, variant=variant, dtype="auto")
    for network, expert in zip(networks, router.experts, strict=True):
        loaded = expert.state_dict()
        assert loaded.keys() == network.state_dict().keys()
        assert all(torch.equal(tensor, loaded[name]) for name, tensor in network.state_dict().items())
        assert expert.dtype == dtype
    assert router.boundaries == [300]


def test_edm_networks_need_no_scheduler(converter, tmp_path):
    for seed, name in enumerate("ab"):
        tiny_ediffi_unet(seed).save_pretrained(tmp_path / name)
    converter.main(options([tmp_path / "a", tmp_path / "b"], tmp_path / "out", "--boundaries", "2"))
    assert ExpertRouterUNet.from_pretrained(tmp_path / "out").config.betas is None


def test_the_refiner_of_sdxl_gets_its_adapter(converter, tmp_path, monkeypatch):
    monkeypatch.setattr(converter, "REFINER", REFINER)  # of tiny networks
    refiner, base = tiny_unet(1, **{**SDXL_BASE, **REFINER}), tiny_unet(0, **SDXL_BASE)
    columns = ExpertAdapter((16, 32), (0, 1, 2, 3), 6.0, 2.5)
    monkeypatch.setattr(ExpertAdapter, "sdxl_refiner", classmethod(lambda cls: columns))
    build(StableDiffusionXLPipeline, base, EulerDiscreteScheduler).save_pretrained(tmp_path / "base")
    refiner.save_pretrained(tmp_path / "refiner")
    models, output = [tmp_path / "refiner", tmp_path / "base"], tmp_path / "out"
    more = ["--boundaries", "400", "--unit", "timestep", "--pipeline", str(tmp_path / "base")]
    converter.main(options(models, output, *more))
    loaded = StableDiffusionXLPipeline.from_pretrained(output)
    loaded.set_progress_bar_config(disable=True)
    adapter = loaded.unet._adapters[0]
    assert adapter == columns and adapter.empty_text["encoder_hidden_states"].shape[-1] == 16
    assert draw(loaded, negative_prompt=None).isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--boundaries", "1", "2"], "2 experts and 2 boundaries"),
        (["--boundaries", "0.5", "--unit", "timestep"], "are not timesteps"),
        (["--boundaries", "1", "--pipeline", "{tmp}/empty"], "has no model_index.json"),
        (
            ["--boundaries", "1", "--pipeline", "{tmp}/low", "--subfolder", "vae"],
            "AutoencoderKL, which is not a U-Net",
        ),
        (["--boundaries", "1", "--variant", "fp16"], "has no weights of variant 'fp16'"),
        (["--boundaries", "1e9"], "lies outside the scheduler's sigmas"),
        (["--boundaries", "1", "--unets", "{tmp}/low", "{tmp}/empty"], "holds no network"),
        (["--boundaries", "1", "--unets", "{tmp}/low", "a b"], "neither a folder nor the id"),
        (["--boundaries", "1", "--unets", "{tmp}/low/unet", "{tmp}/high/unet"], "give --pipeline, or boundaries in"),
        (["--boundaries", "1", "--output", "{tmp}/low"], "exists: give the name of a new folder"),
        (["--boundaries", "1", "--unets", "{tmp}/low", "{tmp}/cut"], "is damaged or truncated"),
    ],
)
def test_what_makes_no_router_is_refused_and_nothing_written(converter, pipelines, tmp_path, change, message):
    (tmp_path / "empty").mkdir()
    cut = build(StableDiffusionPipeline, tiny_unet(0))
    cut.save_pretrained(tmp_path / "cut")
    weights = tmp_path / "cut" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    before = sorted(path.name for path in tmp_path.iterdir())
    change = [part.format(tmp=tmp_path) for part in change]
    with pytest.raises((ValueError, OSError), match=message):
        converter.main([*options(pipelines, tmp_path / "out"), *change])
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_networks_that_differ_are_refused(converter, tmp_path):
    tiny_unet(0).save_pretrained(tmp_path / "a")
    tiny_unet(0, in_channels=9).save_pretrained(tmp_path / "b")
    with pytest.raises(ValueError, match="the experts differ in in_channels"):
        converter.main(
            options([tmp_path / "a", tmp_path / "b"], tmp_path / "out", "--boundaries", "9", "--unit", "timestep")
        )
    assert not (tmp_path / "out").exists()

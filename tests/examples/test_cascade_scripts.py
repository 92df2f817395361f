# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The scripts that draw with public models, on tiny ones in their formats, converted by the scripts of conversion/."""

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionUpscalePipeline,
    StableDiffusionXLPipeline,
)
from helpers import PROMPT, SIZES, picture, tiny_clip_tokenizer
from helpers_cascades import save_models
from helpers_conversion import import_converter
from helpers_diffusers import SD_BETAS, SDXL_BASE, build, tiny_unet
from helpers_examples import import_script
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from diffusers_ediffi import read_provenance


@pytest.fixture
def converted(tmp_path, monkeypatch):
    """Makes the folder of a converted model."""
    save_models(tmp_path)

    def convert(converter, *options):
        import_converter(converter, monkeypatch).main([*options, "--output", str(tmp_path / "model")])
        return str(tmp_path / "model")

    return convert


def run(name, model, tmp_path, monkeypatch, *options):
    """The picture that a script draws, and what the file says of it."""
    output = tmp_path / "out.png"
    script = import_script(f"draw/{name}", monkeypatch)
    script.main(["--model", model, "--prompt", PROMPT, "--output", str(output), "--seed", "3", *options])
    settings = read_provenance(output).settings
    assert settings["prompt"] == PROMPT and settings["seed"] == 3
    with Image.open(output) as image:
        return np.array(image)


def test_deepfloyd_if_with_its_third_stage(converted, tmp_path, monkeypatch):
    model = converted("from_deepfloyd_if", "--stage-1", str(tmp_path / "if-1"), "--stage-2", str(tmp_path / "if-2"))
    upscaler().save_pretrained(tmp_path / "upscaler")
    steps = ("--steps", "2", "2")
    plain = run("deepfloyd_if", model, tmp_path, monkeypatch, *steps)
    assert plain.shape == (SIZES[1], SIZES[1], 3)
    painted = run("deepfloyd_if", model, tmp_path, monkeypatch, *steps, "--region", "red cat=0,0,0.5,1")
    assert (plain != painted).any()
    eight_bits = run("deepfloyd_if", model, tmp_path, monkeypatch, *steps, "--t5-8bit")
    assert abs(eight_bits.astype(int) - plain).mean() < 60
    large = run("deepfloyd_if", model, tmp_path, monkeypatch, *steps, "--upscale", str(tmp_path / "upscaler"))
    assert large.shape[0] > SIZES[1]


def test_karlo_from_a_text_and_from_a_picture(converted, tmp_path, monkeypatch):
    model = converted("from_karlo", "--model", str(tmp_path / "karlo"))
    steps = ("--steps", "2", "2", "--prior-steps", "2")
    from_text = run("karlo", model, tmp_path, monkeypatch, *steps)
    picture().save(tmp_path / "style.png")
    from_picture = run("karlo", model, tmp_path, monkeypatch, *steps, "--style-image", str(tmp_path / "style.png"))
    assert from_text.shape == (SIZES[1], SIZES[1], 3) and (from_text != from_picture).any()


def test_sdxl_with_two_experts(tmp_path, monkeypatch):
    pipe = build(StableDiffusionXLPipeline, tiny_unet(**SDXL_BASE))
    pipe.save_pretrained(tmp_path / "sdxl")
    options = ["--unets", str(tmp_path / "sdxl"), str(tmp_path / "sdxl"), "--boundaries", "200", "--unit", "timestep"]
    converter = import_converter("from_diffusers_unets", monkeypatch)
    converter.main([*options, "--pipeline", str(tmp_path / "sdxl"), "--output", str(tmp_path / "two")])
    size = ("--steps", "2", "--height", "16", "--width", "16")
    plain = run("sdxl_two_experts", str(tmp_path / "two"), tmp_path, monkeypatch, *size)
    deis = run("sdxl_two_experts", str(tmp_path / "two"), tmp_path, monkeypatch, *size, "--deis")
    assert plain.shape == deis.shape and (plain != deis).any()
    with pytest.raises(ValueError, match="has a single U-Net: make experts of two"):
        run("sdxl_two_experts", str(tmp_path / "sdxl"), tmp_path, monkeypatch, *size)
    with pytest.raises(ValueError, match="--offload model keeps parts off an accelerator"):
        run("sdxl_two_experts", str(tmp_path / "two"), tmp_path, monkeypatch, "--device", "cpu", "--offload", "model")


@pytest.mark.parametrize("name", ["deepfloyd_if", "karlo", "sdxl_two_experts", "paint_with_words_sd"])
def test_a_file_that_is_no_picture_is_refused_before_anything_is_loaded(name, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(name, "nowhere", tmp_path, monkeypatch, "--output", str(tmp_path / "out.gif"))
    assert "out.gif" in capsys.readouterr().err


def upscaler():
    """A tiny pipeline of the kind of Stable Diffusion's upscaler."""
    torch.manual_seed(0)
    tokenizer = tiny_clip_tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=77, **sizes)
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        latent_channels=4,
        scaling_factor=0.08333,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    return StableDiffusionUpscalePipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=tiny_unet(in_channels=7, num_class_embeds=1000),
        low_res_scheduler=DDPMScheduler(**SD_BETAS),
        scheduler=DDIMScheduler(**SD_BETAS),
        max_noise_level=350,
    )

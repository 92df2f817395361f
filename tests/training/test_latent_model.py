# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What stands around the U-Net of Stable Diffusion in training is what its pipeline has around it."""

import helpers_diffusers as sd
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from helpers_split import write_model

from diffusers_ediffi.discrete_time import log_sigmas
from diffusers_ediffi.training.latent_model import LatentModel
from diffusers_ediffi.training.unet_experts import timesteps_of_experts


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def model(request, tmp_path_factory):
    return LatentModel(write_model(tmp_path_factory.mktemp("sd") / "model", prediction=request.param))


@pytest.mark.parametrize("pipeline", [StableDiffusionPipeline, StableDiffusionXLPipeline])
def test_a_unet_is_told_what_its_pipeline_tells_it(tmp_path, pipeline):
    folder = write_model(tmp_path / "model", pipeline)
    pipe, model, seen = pipeline.from_pretrained(folder), LatentModel(folder), []
    pipe.unet.register_forward_pre_hook(lambda _, inputs, keywords: seen.append(keywords), with_kwargs=True)
    pipe("a cat", num_inference_steps=1, height=16, width=8, guidance_scale=1.0, output_type="latent")
    told = model.conditioning(["a cat", "a dog"], 16, 8)
    assert torch.allclose(told["encoder_hidden_states"][:1], seen[0]["encoder_hidden_states"], atol=1e-5)
    added = seen[0].get("added_cond_kwargs") or {}
    assert set(told.get("added_cond_kwargs", {})) == set(added)
    for name, tensor in added.items():
        assert torch.allclose(told["added_cond_kwargs"][name][:1], tensor.float(), atol=1e-5)


def test_latents_are_what_the_vae_decodes_to_the_images(model):
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noise = torch.randn(2, *model.latent_shape(8, 8), generator=torch.Generator().manual_seed(1))
    drawn = [model.latents(images, noise) for _ in range(2)]
    expected = model.pipe.vae.encode(images).latent_dist
    assert torch.equal(*drawn) and not drawn[0].requires_grad
    assert torch.allclose(drawn[0], 0.18215 * (expected.mean + expected.std * noise), atol=1e-5)


def test_the_loss_is_that_of_the_noise_or_of_v(model):
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(2))
    timesteps = torch.tensor([0, 500, 999])
    sigma = torch.tensor(log_sigmas(sd.SD_BETAS)).exp().float()[timesteps].reshape(-1, 1, 1, 1)
    signal, spread = 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()
    velocity = model.prediction == "v_prediction"
    right = signal * noise - spread * clean if velocity else noise
    seen = []

    def unet(noisy, steps, return_dict, error):
        seen.append(noisy)
        return (right + error,)

    assert torch.allclose(model.losses(unet, clean, noise, timesteps, {"error": 0.0}), torch.zeros(3), atol=1e-6)
    assert torch.allclose(seen[0], signal * clean + spread * noise, atol=1e-5)
    assert torch.allclose(
        model.losses(unet, clean, noise, timesteps, {"error": 2.0}), torch.full((3,), 4.0), rtol=1e-3
    )
    # min(SNR, 5) on the error of the clean image: that of the noise is sigma times as large, that of v as in v^2
    snr = 1 / sigma.flatten() ** 2
    expected = 4.0 * snr.clamp(max=5) / (snr + 1 if velocity else snr)
    weighted = model.losses(unet, clean, noise, timesteps, {"error": 2.0}, snr_gamma=5.0)
    assert torch.allclose(weighted, expected, rtol=1e-3) and weighted[0] < 0.1


def test_experts_share_all_timesteps_at_boundaries_in_sigma():
    sigmas = torch.tensor(log_sigmas(sd.SD_BETAS)).exp()
    intervals = timesteps_of_experts([0.5, 2.0, 7.0], sd.SD_BETAS)
    for index, (low, high) in enumerate([(0, 0.5), (0.5, 2), (2, 7), (7, 100)]):
        inside = torch.nonzero((sigmas >= low) & (sigmas < high)).flatten().tolist()
        assert intervals[index] == (inside[0], inside[-1])


@pytest.mark.parametrize(
    "boundaries, message",
    [
        ([], "Without a boundary there is one expert"),
        ([5.0, 1.0], "strictly increasing"),
        ([1.0, 100.0], "boundary 100 lies outside the scheduler's sigmas 0.0292 to 14.6"),
        ([1.0001, 1.0002], "expert.1 has no timestep of this model between the boundaries"),
    ],
)
def test_boundaries_that_make_no_experts_are_refused(boundaries, message):
    with pytest.raises(ValueError, match=message):
        timesteps_of_experts(boundaries, sd.SD_BETAS)

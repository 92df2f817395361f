# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Training: the loss against its closed form, dropout, degradation, data, and runs that are cut and go on exactly."""

import dataclasses
import json
import math
import os
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from helpers_training import WIDTH, HalfScenes, assert_same, encode, tiny_unet
from PIL import Image

from diffusers_ediffi import EDiffIPipeline, PaintRegion, demo_checkpoint
from diffusers_ediffi.edm import denoised_from_model_output, loss_weight, residual_coefficients
from diffusers_ediffi.experts.lora import LoraExpert, lora_layers
from diffusers_ediffi.experts.noise_interval import NoiseInterval
from diffusers_ediffi.models.attention import EDiffIAttnProcessor
from diffusers_ediffi.models.low_res import upsample_low_res
from diffusers_ediffi.models.unet import EDiffIUNet
from diffusers_ediffi.provenance import read_provenance
from diffusers_ediffi.training.checkpoint import MARKER, complete_checkpoints, save_checkpoint, training_seconds
from diffusers_ediffi.training.data import (
    SceneDataset,
    StepBatchSampler,
    collate,
    float_to_image,
    image_to_float,
    make_loader,
)
from diffusers_ediffi.training.degradation import (
    blur,
    blur_patch,
    degrade,
    distort,
    downsample,
    jpeg,
    resize_and_back,
    warp,
)
from diffusers_ediffi.training.dropout import DropoutRates, drop_conditioning, drop_everything
from diffusers_ediffi.training.encode import ConditioningEncoder
from diffusers_ediffi.training.loss import SigmaBinLog, edm_loss, step_generator
from diffusers_ediffi.training.optimizer import MuonAdamW, make_optimizer
from diffusers_ediffi.training.sampling import sample_images
from diffusers_ediffi.training.settings import TrainingSettings
from diffusers_ediffi.training.trainer import Trainer

PAPER_RATES = DropoutRates()


class PaintedScenes(HalfScenes):
    """Half scenes with their white half as the region of their number."""

    def scene(self, index: int) -> SimpleNamespace:
        left = index % 2 / 2
        white = SimpleNamespace(phrase=str(index), box=(left, 0.0, left + 0.5, 1.0))
        return SimpleNamespace(index=index, caption=f"scene {index}", objects=[white])


class PaintedWords:
    """`encode`, which tells the columns of a phrase as well."""

    __call__ = staticmethod(encode)

    def region_columns(self, caption: str, regions: list, clip_text: bool, t5: bool) -> list[list[int]]:
        return [[1, 2][: 2 * clip_text] + [78][: 1 * t5] for _ in regions]


def make_trainer(output, unet=None, dataset=None, encoder=encode, dropout=PAPER_RATES, **changes) -> Trainer:
    settings = {"total_steps": 6, "batch_size": 2, "num_workers": 0, "log_every": 2, "sample_every": 0}
    settings |= {"learning_rate": 1e-2, "warmup_steps": 2, **changes}
    # accelerate keeps one precision per process; each of these tests stands for a process of its own.
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()
    dataset = dataset or SceneDataset(HalfScenes(), 8, clip_image_size=8)
    return Trainer(
        unet or tiny_unet(),
        dataset,
        encoder,
        output,
        TrainingSettings(**settings),
        NoiseInterval.everything(),
        dropout=dropout,
    )


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---------------------------------------------------------------------------------------------------- loss


def test_loss_is_the_weighted_error_of_the_denoised_image():
    """lambda(sigma) |D - x_clean|^2 of the paper, section 3, computed the long way."""
    unet = tiny_unet(dropout=0.0).double()
    torch.nn.init.normal_(unet.conv_out.weight, std=0.1)
    images, noise = torch.randn(2, 4, 3, 8, 8, dtype=torch.float64)
    sigma = torch.tensor([0.01, 0.3, 2.0, 40.0], dtype=torch.float64)
    seen = []
    hook = unet.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    losses = edm_loss(unet, images, sigma, noise, {"encoder_hidden_states": None})
    hook.remove()
    noisy = images + sigma.view(-1, 1, 1, 1) * noise
    denoised = denoised_from_model_output(seen[0], noisy, sigma)
    expected = loss_weight(sigma) * (denoised - images).square().mean((1, 2, 3))
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=0)


def test_loss_of_super_resolution_shows_the_network_the_low_resolution_image():
    seen = []

    def network(sample, timestep, return_dict):
        seen.append(sample)
        return (torch.zeros(2, 3, 8, 8),)

    low_res = torch.randn(2, 3, 8, 8)
    edm_loss(network, torch.zeros(2, 3, 8, 8), torch.ones(2), torch.zeros(2, 3, 8, 8), {}, low_res)
    assert torch.equal(seen[0][:, 3:], low_res)


def test_loss_of_a_network_of_differences_is_that_of_the_difference():
    """The same network output, once as image minus low_res and once as an image of its own: one loss."""
    difference, low_res, noise, output = torch.randn(4, 3, 3, 8, 8, dtype=torch.float64)
    sigma = torch.tensor([0.01, 0.3, 20.0], dtype=torch.float64)

    def network(sample, timestep, return_dict):
        skip, shift, scale = residual_coefficients(sigma.view(-1, 1, 1, 1), 0.5, 0.1)
        return (skip * sample[:, :3] + shift * sample[:, 3:] + scale * output,)

    losses = edm_loss(network, difference + low_res, sigma, noise, {}, low_res, sigma_residual=0.1)
    expected = edm_loss(lambda *_, return_dict: (output,), difference, sigma, noise, {}, sigma_data=0.1)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=0)


def test_loss_of_differences_takes_a_standard_deviation_for_each_sample():
    images, low_res, noise, output = torch.randn(4, 2, 3, 8, 8, dtype=torch.float64)
    sigma, residual = torch.tensor([0.1, 3.0]).double(), torch.tensor([0.1, 0.4]).double()

    def loss(rows, sigma_residual):
        network = lambda *_, return_dict: (output[rows],)  # noqa: E731
        return edm_loss(network, images[rows], sigma[rows], noise[rows], {}, low_res[rows], 0.5, sigma_residual)

    together = loss(slice(None), residual)
    torch.testing.assert_close(together, torch.cat([loss(slice(0, 1), 0.1), loss(slice(1, 2), 0.4)]))


def test_step_generator_depends_on_every_part_of_its_key():
    first = (0, (0, 0), 0, 0)
    keys = [first, (1, (0, 0), 0, 0), (0, (1, 0), 0, 0), (0, (0, 1), 0, 0), (0, (0, 0), 1, 0), (0, (0, 0), 0, 1)]
    draws = [torch.rand(1, generator=step_generator(*key)).item() for key in keys]
    assert len(set(draws)) == len(keys)
    assert draws == [torch.rand(1, generator=step_generator(*key)).item() for key in keys]


def test_sigma_bins():
    bins = SigmaBinLog()
    bins.add(torch.tensor([0.01, 0.5, 0.6, 50.0]), torch.tensor([1.0, 2.0, 4.0, 8.0]))
    mean, per_bin = bins.read()
    assert mean == 3.75 and per_bin == {"<0.03": 1.0, "0.3-1": 3.0, ">10": 8.0}
    assert bins.read() == (0.0, {})


# ---------------------------------------------------------------------------------------------------- dropout


def conditioning_of_ones(batch: int) -> dict:
    return {
        "encoder_hidden_states": torch.ones(batch, 3, 2),
        "encoder_hidden_states_2": torch.ones(batch, 4, 2),
        "encoder_attention_mask_2": torch.zeros(batch, 4, dtype=torch.long),
        "added_cond_kwargs": {"text_embeds": torch.ones(batch, 2), "image_embeds": torch.ones(batch, 2)},
    }


def test_dropout_rates_are_the_papers_and_independent():
    dropped = drop_conditioning(conditioning_of_ones(20000), DropoutRates(), torch.Generator().manual_seed(0))
    text, t5 = (dropped[name].flatten(1).mean(1) for name in ("encoder_hidden_states", "encoder_hidden_states_2"))
    image = dropped["added_cond_kwargs"]["image_embeds"].mean(1)
    assert set(torch.cat([text, t5, image]).tolist()) == {0.0, 1.0}  # whole embeddings
    assert [x.mean().item() for x in (text, t5, image)] == pytest.approx([0.8, 0.75, 0.1], abs=0.01)
    assert ((1 - text) * (1 - t5)).mean().item() == pytest.approx(0.2 * 0.25, abs=0.01)
    assert torch.equal(dropped["added_cond_kwargs"]["text_embeds"].mean(1), text)  # one condition
    # A dropped embedding has no mask, as an absent one has none.
    assert torch.equal(dropped["encoder_attention_mask_2"].float().mean(1), 1 - t5)


def test_pooled_text_can_drop_alone_and_changes_nothing_else():
    def dropped(rates: DropoutRates) -> dict:
        return drop_conditioning(conditioning_of_ones(20000), rates, torch.Generator().manual_seed(0))

    alone, together = dropped(DropoutRates(pooled_text=0.7)), dropped(DropoutRates())
    for name in ("encoder_hidden_states", "encoder_hidden_states_2", "encoder_attention_mask_2"):
        assert torch.equal(alone[name], together[name])
    text = alone["encoder_hidden_states"].flatten(1).mean(1)
    pooled = alone["added_cond_kwargs"]["text_embeds"].mean(1)
    assert set(pooled.tolist()) == {0.0, 1.0} and not pooled[text == 0].any()
    assert pooled.mean().item() == pytest.approx(0.8 * 0.3, abs=0.01)


def test_network_takes_a_dropped_condition_for_an_absent_one():
    unet = tiny_unet().eval()
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    conditioning = encode(["scene 1", "scene 2"], torch.zeros(2, 3, 8, 8))
    conditioning["encoder_hidden_states_2"] = torch.randn(2, 113, WIDTH)
    conditioning["encoder_attention_mask_2"] = (torch.arange(113) < 9).long().expand(2, -1)
    sample = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        dropped = unet(sample, 0.1, **drop_everything(conditioning)).sample
        torch.testing.assert_close(dropped, unet(sample, 0.1, None).sample)
        assert (dropped - unet(sample, 0.1, **conditioning).sample).abs().max() > 1e-3


def test_dropout_rejects_what_is_no_probability():
    with pytest.raises(ValueError, match="t5 is a probability in .* got 1.5"):
        DropoutRates(t5=1.5)


# ---------------------------------------------------------------------------------------------------- degradation


def smooth_image(size: int = 32) -> torch.Tensor:
    ramp = torch.linspace(-1, 1, size)
    return torch.stack([ramp.expand(size, -1), ramp[:, None].expand(-1, size), torch.zeros(size, size)])[None]


def test_degradation_of_strength_zero_changes_nothing():
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    assert torch.equal(degrade(images, torch.Generator().manual_seed(0), 0.0), images)


def test_degradation_is_reproducible_and_grows_with_its_strength():
    images = smooth_image().expand(16, -1, -1, -1)
    errors = []
    for strength in (0.25, 1.0):
        one, two = (degrade(images, torch.Generator().manual_seed(1), strength) for _ in range(2))
        assert torch.equal(one, two) and one.shape == images.shape
        assert one.min() >= -1 and one.max() <= 1
        errors.append((one - images).square().mean().item())
    assert 0 < errors[0] < errors[1] < 0.05
    assert not torch.equal(one[0], one[1])  # each image in its own way


def test_distortion_is_reproducible_and_grows_with_its_strength():
    images = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(distort(images, torch.Generator().manual_seed(1), 0.0), images)
    distances = []
    for strength in (0.1, 0.4, 1.0):
        once, again = (distort(images, torch.Generator().manual_seed(1), strength) for _ in range(2))
        assert torch.equal(once, again) and once.abs().max() <= 1
        distances.append((once - images).abs().mean().item())
    assert distances == sorted(distances) and distances[0] > 0
    with pytest.raises(ValueError, match=r"distortion lies in \[0, 1\], got 2"):
        distort(images, torch.Generator(), 2)


def test_warp_moves_by_pixels():
    image = torch.rand(1, 3, 8, 8)
    right = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 3, 3)
    torch.testing.assert_close(warp(image, right)[..., :-1], image[..., 1:])
    torch.testing.assert_close(warp(image, 0 * right), image)


def test_a_blurred_patch_leaves_the_rest():
    image = torch.rand(1, 3, 16, 16)
    blurred = blur_patch(image, 4, 12, 6)
    changed = (blurred != image).any(dim=1)[0]
    assert changed[4:10, 12:].all() and changed.sum() == 6 * 4


def test_each_degradation_keeps_a_flat_image_and_its_size():
    flat = torch.full((1, 3, 16, 16), 0.25)
    for kernel in ("bilinear", "bicubic", "area"):
        torch.testing.assert_close(resize_and_back(flat, 0.6, kernel, "bicubic"), flat)
    torch.testing.assert_close(blur(flat, 1.0, 0.3), flat)
    torch.testing.assert_close(jpeg(flat, 90), flat, atol=2 / 127.5, rtol=0)


def test_blur_spreads_a_point_as_a_gaussian():
    point = torch.zeros(1, 3, 21, 21)
    point[..., 10, 10] = 1
    row = blur(point, 1e-6, 2.0)[0, 0, 10]
    variance = (row * (torch.arange(21) - 10.0).square()).sum()
    assert row.sum().item() == pytest.approx(1) and variance.item() == pytest.approx(4, rel=0.03)


def test_upsampling_undoes_downsampling_of_a_smooth_image():
    small = downsample(smooth_image(64), 4)
    assert small.shape == (1, 3, 16, 16)
    inside = (..., slice(8, -8), slice(8, -8))  # at the edges bicubic has no neighbours
    torch.testing.assert_close(upsample_low_res(small, 64)[inside], smooth_image(64)[inside], atol=0.02, rtol=0)
    with pytest.raises(ValueError, match="multiple of the factor 4"):
        downsample(torch.zeros(1, 3, 30, 30), 4)


# ---------------------------------------------------------------------------------------------------- data


def test_items_depend_on_their_number_alone():
    make = lambda: SceneDataset(HalfScenes(), 16, crop=8, crops_per_scene=3, low_res_factor=4, seed=5)  # noqa: E731
    in_order, alone = make(), make()
    items = [in_order[i] for i in range(7)]
    for i in (6, 2, 4):
        assert all(torch.equal(items[i][key], alone[i][key]) for key in ("image", "low_res", "clip_image"))
    assert items[0]["image"].shape == (3, 8, 8) and items[0]["low_res"].shape == (3, 2, 2)
    assert items[0]["clip_image"].shape == (3, 64, 64) and items[5]["caption"] == "scene 1"
    assert in_order.generator.renderings == 3  # seven patches of three scenes


def test_crops_of_one_scene_differ():
    items = [SceneDataset(HalfScenes(), 16, crop=9, crops_per_scene=8)[i]["image"] for i in range(8)]
    assert len({tuple(item.flatten().tolist()) for item in items}) > 1


def test_pixels_survive_the_way_to_floats_and_back():
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(float_to_image(image_to_float(pixels)), pixels)


def test_ranks_and_steps_take_every_item_once():
    items = [
        item
        for rank in range(2)
        for first, last in ((0, 2), (2, 5))
        for batch in StepBatchSampler(3, first, last, rank, 2)
        for item in batch
    ]
    assert sorted(items) == list(range(30))


def test_items_may_start_further_on():
    assert list(StepBatchSampler(2, 1, 3, first_item=100)) == [[102, 103], [104, 105]]


def test_worker_processes_give_the_same_batches():
    dataset = SceneDataset(HalfScenes(), 8, low_res_factor=4)
    batches = [list(make_loader(dataset, StepBatchSampler(2, 1, 4), workers)) for workers in (0, 1)]
    for here, there in zip(*batches, strict=True):
        assert here["caption"] == there["caption"] and torch.equal(here["low_res"], there["low_res"])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"crop": 32}, "crop"),
        ({"crops_per_scene": 0}, "crops_per_scene"),
        ({"low_res_factor": 3}, "factor 3"),
        ({"distortion_strength": 2.0}, "distortion lies in"),
    ],
)
def test_data_set_rejects(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        SceneDataset(HalfScenes(), 16, **options)


# ---------------------------------------------------------------------------------------------------- sampling


def test_sampling_reaches_the_mean_of_one_point_data():
    """Of data that is always m, D = m: sampling ends at m from every noise."""
    mean = 0.3

    def network(sample, timestep, return_dict, **conditioning):
        sigma = (4 * timestep).exp()
        noisy = sample * (sigma**2 + 0.25).sqrt()
        return ((mean - 0.25 / (sigma**2 + 0.25) * noisy) / (0.5 * sigma / (sigma**2 + 0.25).sqrt()),)

    images = sample_images(network, conditioning_of_ones(2), torch.randn(2, 3, 4, 4), num_inference_steps=8)
    torch.testing.assert_close(images, torch.full_like(images, mean), atol=1e-3, rtol=0)


# ---------------------------------------------------------------------------------------------------- runs


def state_of(output) -> dict:
    return torch.load(complete_checkpoints(output)[-1] / "state.pt", weights_only=True)


def new_data_loss(unet: EDiffIUNet, dataset: SceneDataset) -> float:
    """Mean loss on items that training did not see, at sigma 1."""
    batch = collate([dataset[i] for i in range(10_000, 10_032)])
    noise = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    conditioning = encode(batch["caption"], batch["clip_image"])
    with torch.no_grad():
        return edm_loss(unet, image_to_float(batch["image"]), torch.ones(32), noise, conditioning).mean().item()


def test_a_run_that_is_cut_equals_one_that_is_not(tmp_path):
    make_trainer(tmp_path / "whole").train()
    for limit, reached in ((1, 1), (3, 4), (None, 6)):
        assert make_trainer(tmp_path / "cut", max_steps_this_run=limit).train() == reached
    assert_same(state_of(tmp_path / "whole"), state_of(tmp_path / "cut"))
    whole, cut = (EDiffIUNet.from_pretrained(tmp_path / name / "unet").state_dict() for name in ("whole", "cut"))
    assert_same(whole, cut)


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_run_with_muon_that_is_cut_equals_one_that_is_not(tmp_path, channels_last):
    options = {"optimizer": "muon", "channels_last": channels_last}
    make_trainer(tmp_path / "whole", **options).train()
    for limit in (1, 3, None):
        make_trainer(tmp_path / "cut", max_steps_this_run=limit, **options).train()
    assert_same(state_of(tmp_path / "whole"), state_of(tmp_path / "cut"))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_low_rank_run(tmp_path, optimizer):
    """It changes weights by matrices of its rank alone, is resumed exactly, and is written as difference and whole."""
    options = {"optimizer": optimizer, "lora_rank": 2}
    make_trainer(tmp_path / "whole", **options).train()
    for limit in (1, 3, None):
        make_trainer(tmp_path / "cut", max_steps_this_run=limit, **options).train()
    assert_same(state_of(tmp_path / "whole"), state_of(tmp_path / "cut"))
    start, trained = tiny_unet().state_dict(), EDiffIUNet.from_pretrained(tmp_path / "cut" / "unet")
    moved = {name: tensor - start[name] for name, tensor in trained.state_dict().items()}
    assert max(float(difference.abs().max()) for difference in moved.values()) > 1e-4
    layers = lora_layers(tiny_unet())
    for name, difference in moved.items():
        if name.removesuffix(".weight") in layers and name.endswith(".weight"):
            assert torch.linalg.matrix_rank(difference.flatten(1).double(), rtol=1e-4) <= 2, name
    expert = LoraExpert.load(tmp_path / "cut" / "lora_expert.safetensors")
    assert_same(expert.merge(tiny_unet()).state_dict(), trained.state_dict())


def test_muon_takes_convolutions_as_matrices():
    """One step of a convolution is a step of PyTorch's Muon on (out, in * height * width), in either layout."""
    gradient, moved = torch.randn(6, 4, 3, 3), []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        network = torch.nn.ModuleDict({"conv_in": torch.nn.Conv2d(3, 4, 3), "hidden": torch.nn.Conv2d(4, 6, 3)})
        network.to(memory_format=layout)
        before = network["hidden"].weight.detach().clone()
        optimizer = make_optimizer("muon", network, 0.1, 0.0)
        network["hidden"].weight.grad = gradient.to(memory_format=layout)
        network["conv_in"].weight.grad = torch.ones(4, 3, 3, 3)
        optimizer.step()
        moved.append((network["hidden"].weight - before).detach().contiguous())
    # Muon computes in bfloat16.
    torch.testing.assert_close(moved[0], moved[1], rtol=0, atol=0.05 * moved[0].std().item())
    singular = torch.linalg.svdvals(moved[0].flatten(1)) / (0.1 * 0.2 * 36**0.5)
    assert (singular > 0.5).all() and (singular < 1.5).all(), (
        "an orthogonal matrix, about, of the size of AdamW's step"
    )
    others = optimizer.param_groups[1]["params"]
    assert any(p is network["conv_in"].weight for p in others) and any(p is network["hidden"].bias for p in others)


def test_muon_notices_that_its_weights_were_moved():
    network = torch.nn.ModuleDict({"hidden": torch.nn.Conv2d(4, 6, 3)})
    optimizer = make_optimizer("muon", network, 0.1, 0.0)
    assert isinstance(optimizer, MuonAdamW)
    network["hidden"].weight.data = network["hidden"].weight.data.clone()
    with pytest.raises(RuntimeError, match="were moved"):
        optimizer.step()


def test_training_learns_and_writes_averaged_weights(tmp_path):
    unet = tiny_unet(dropout=0.0)
    dataset = SceneDataset(HalfScenes(), 8, clip_image_size=8)
    trainer = make_trainer(tmp_path, unet, dataset, total_steps=40, batch_size=16, ema_decay=0.8)
    before = new_data_loss(trainer.ema_unet(), dataset)
    trainer.train()
    saved = EDiffIUNet.from_pretrained(tmp_path / "unet")
    after = new_data_loss(saved, dataset)
    assert after < 0.4 * before
    for parameter, average in zip(saved.parameters(), trainer.ema.shadow_params, strict=True):
        assert torch.equal(parameter, average)
    assert not torch.equal(saved.conv_out.weight, unet.conv_out.weight)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_paint_reaches_the_words_that_samples_keep(tmp_path, gradient_checkpointing):
    def trained(name: str, share: float, rate: float, steps: int | None = None) -> dict[str, torch.Tensor]:
        trainer = make_trainer(
            tmp_path / name,
            dataset=SceneDataset(PaintedScenes(), 8, clip_image_size=8, painted_share=share),
            encoder=PaintedWords(),
            dropout=DropoutRates(rate, rate, 0.0),
            gradient_checkpointing=gradient_checkpointing,
            max_steps_this_run=steps,
        )
        trainer.train()
        layers = [layer for layer in trainer.unet.modules() if hasattr(layer, "processor")]
        assert layers and all(type(layer.processor) is EDiffIAttnProcessor for layer in layers)
        return trainer.unet.state_dict()

    plain, painted = trained("plain", 0.0, 0.0), trained("painted", 1.0, 0.0)
    assert any(not torch.equal(plain[name], painted[name]) for name in plain)
    trained("cut", 1.0, 0.0, steps=2)
    again = trained("cut", 1.0, 0.0)
    assert all(torch.equal(again[name], painted[name]) for name in painted)
    plain, painted = trained("plain, no words", 0.0, 1.0), trained("painted, no words", 1.0, 1.0)
    assert all(torch.equal(plain[name], painted[name]) for name in plain)


def test_columns_of_a_region_are_those_of_the_pipeline():
    encoder, pipe = ConditioningEncoder(demo_checkpoint()), EDiffIPipeline.from_pretrained(demo_checkpoint())
    caption = "a red car next to a yellow star on a beach"
    regions = [PaintRegion("yellow star", (0, 0, 0.5, 1)), PaintRegion("red car", (0.5, 0, 1, 1))]
    assert encoder.region_columns(caption, regions, True, True) == pipe.region_columns(caption, regions)
    assert encoder.region_columns(caption, regions, False, True) == pipe.region_columns(caption, regions, ["t5"])
    assert encoder.region_columns(caption, regions, True, False) == pipe.region_columns(
        caption, regions, ["clip_text"]
    )
    assert encoder.region_columns(caption, regions, False, False) == [[], []]


def test_log_lines(tmp_path):
    make_trainer(tmp_path, max_steps_this_run=4).train()
    line = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert line["step"] == 4 and line["samples"] == 8 and line["images_per_second"] > 0
    assert line["learning_rate"] == 1e-2 and line["loss_per_sigma"] and line["minutes_left"] >= 0


def test_log_of_steps_that_are_repeated_is_cut(tmp_path):
    make_trainer(tmp_path, max_steps_this_run=3).train()
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "lost": true}\n')
    make_trainer(tmp_path).train()
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [2, 4, 6]
    assert "lost" not in (tmp_path / "log.jsonl").read_text()


def test_bf16_channels_last_checkpointing_and_grids(tmp_path):
    dataset = SceneDataset(HalfScenes(), 8, low_res_factor=4, clip_image_size=8)
    trainer = make_trainer(
        tmp_path,
        tiny_unet(in_channels=6),
        dataset,
        mixed_precision="bf16",
        channels_last=True,
        gradient_checkpointing=True,
        max_steps_this_run=2,
        sample_every=2,
        sample_steps=2,
    )
    trainer.sample_items = [dataset[100], dataset[101]]
    trainer.train()
    assert read_provenance(tmp_path / "samples" / "step-0000002.png").settings == {"step": 2}
    with Image.open(tmp_path / "samples" / "step-0000002.png") as grid:
        assert grid.size == (16, 24)  # drawn, input, real
    assert (tmp_path / "samples" / "captions.txt").read_text() == "scene 100\nscene 101\n"
    weights = EDiffIUNet.from_pretrained(tmp_path / "unet").conv_in.weight
    assert weights.dtype == torch.float32 and weights.is_contiguous()


def test_noise_conditioning_augmentation(tmp_path):
    """Each sample's input gets noise of its own level, at most `max_noise_level`, and the network is told which."""
    dataset = SceneDataset(HalfScenes(), 8, low_res_factor=4, clip_image_size=8)
    unet = tiny_unet(in_channels=6, max_noise_level=0.5)
    trainer = make_trainer(tmp_path, unet, dataset, batch_size=64, sample_every=1, sample_steps=2, total_steps=1)
    trainer.sample_items = [dataset[100]]
    seen = []
    trainer.network.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args[0][:, 3:], kwargs["class_labels"])), with_kwargs=True
    )
    trainer.train()
    (noisy, level), *_ = seen
    clean = trainer._images(next(iter(trainer._loader(0, 1, 0))))[1]
    assert 0 <= level.min() < 0.1 and 0.4 < level.max() <= 0.5
    torch.testing.assert_close((noisy - clean).flatten(1).std(1) / level, torch.ones(64), rtol=0, atol=0.3)
    assert (tmp_path / "samples" / "step-0000001.png").is_file()


def test_grid_of_an_expert_shows_denoised_images(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.interval = NoiseInterval.from_node(1, 1)
    trainer.sample_items = [trainer.dataset[7]]
    trainer.write_samples()
    with Image.open(tmp_path / "samples" / "step-0000000.png") as grid:
        assert grid.size == (8, 24)  # noisy, denoised, real


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends_the_run_with_an_exit_code(tmp_path, number, code):
    trainer = make_trainer(tmp_path)
    step, handler = trainer.train_step, signal.getsignal(number)

    def step_and_signal(batch):
        step(batch)
        if trainer.step == 3:
            os.kill(os.getpid(), number)

    trainer.train_step = step_and_signal
    with pytest.raises(SystemExit) as stop:
        trainer.train()
    assert stop.value.code == code
    assert state_of(tmp_path)["step"] == 3 and (tmp_path / "unet" / "config.json").exists()
    assert signal.getsignal(number) is handler
    assert make_trainer(tmp_path).train() == 6


def test_minutes_end_the_run(tmp_path):
    assert make_trainer(tmp_path, max_minutes_this_run=1e-9).train() == 1


def test_finished_run_does_nothing(tmp_path, capsys):
    make_trainer(tmp_path).train()
    before = (tmp_path / "checkpoint-6" / "state.pt").stat().st_mtime_ns
    assert make_trainer(tmp_path).train() == 6
    assert "All 6 steps are done" in capsys.readouterr().out
    assert (tmp_path / "checkpoint-6" / "state.pt").stat().st_mtime_ns == before


@pytest.mark.parametrize("change", [{"batch_size": 4}, {"seed": 1}, {"ema_decay": 0.5}])
def test_other_settings_are_refused_by_name(tmp_path, change: dict):
    make_trainer(tmp_path, max_steps_this_run=1).train()
    with pytest.raises(ValueError, match=f"trained with {next(iter(change))} = "):
        make_trainer(tmp_path, **change).train()


def test_other_data_is_refused_but_another_learning_rate_is_not(tmp_path):
    trainer = make_trainer(tmp_path, max_steps_this_run=1)
    trainer.data_settings = {"phrases": ["cat"]}
    trainer.train()
    trainer = make_trainer(tmp_path)
    trainer.data_settings = {"phrases": ["rocket"]}
    with pytest.raises(ValueError, match=r"data.phrases = \['cat'\], but this run has \['rocket'\]"):
        trainer.train()
    trainer = make_trainer(tmp_path, learning_rate=1e-4, max_steps_this_run=1, total_steps=9)
    trainer.data_settings = {"phrases": ["cat"]}
    trainer.train()
    assert state_of(tmp_path)["step"] == 2


def test_nan_stops_the_run_and_saves_nothing(tmp_path):
    make_trainer(tmp_path, max_steps_this_run=2).train()
    trainer = make_trainer(tmp_path, learning_rate=float("inf"), total_steps=20)
    with pytest.raises(FloatingPointError, match="last good checkpoint is .*checkpoint-2"):
        trainer.train()
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["checkpoint-2"]


def test_incomplete_checkpoints_do_not_count(tmp_path):
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, step, {"step": step}, {}, keep_last=2)
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-4"]
    (tmp_path / "checkpoint-4" / MARKER).unlink()
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["checkpoint-3"]
    assert not (tmp_path / "checkpoint-1").exists()


def test_steps_that_other_runs_start_from_are_not_rotated_away(tmp_path):
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, step, {"step": step}, {}, keep_last=1, keep_steps=(2,))
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-4"]


def test_weights_are_written_by_a_run_that_was_killed_after_its_last_checkpoint(tmp_path):
    make_trainer(tmp_path).train()
    before = EDiffIUNet.from_pretrained(tmp_path / "unet").state_dict()
    shutil.rmtree(tmp_path / "unet")
    assert make_trainer(tmp_path).train() == 6
    assert_same(EDiffIUNet.from_pretrained(tmp_path / "unet").state_dict(), before)


def test_training_time_counts_over_all_runs(tmp_path):
    seconds = []
    for limit in (3, None):
        trainer = make_trainer(tmp_path, max_steps_this_run=limit)
        trainer.train()
        seconds.append(training_seconds(complete_checkpoints(tmp_path)[-1]))
    assert 0 < seconds[0] < seconds[1] <= trainer.seconds


# ---------------------------------------------------------------------------------------------------- settings


def test_learning_rate_schedules():
    settings = TrainingSettings(total_steps=110, learning_rate=1.0, warmup_steps=10)
    assert [settings.learning_rate_at(step) for step in (0, 4, 9, 10, 109)] == [0.1, 0.5, 1.0, 1.0, 1.0]
    linear = dataclasses.replace(settings, lr_schedule="linear")
    cosine = dataclasses.replace(settings, lr_schedule="cosine")
    assert linear.learning_rate_at(60) == pytest.approx(0.5) and cosine.learning_rate_at(60) == pytest.approx(0.5)
    assert cosine.learning_rate_at(35) == pytest.approx(0.5 + math.sqrt(0.5) / 2)
    assert linear.learning_rate_at(110) == cosine.learning_rate_at(110) == 0


@pytest.mark.parametrize(
    "change", [{"batch_size": 0}, {"learning_rate": -1.0}, {"learning_rate": math.nan}, {"ema_decay": 1.0},
               {"lr_schedule": "step"}, {"max_minutes_this_run": 0.0}, {"mixed_precision": "fp16"}]
)  # fmt: skip
def test_settings_reject(change: dict):
    with pytest.raises(ValueError, match=f"{next(iter(change))} must .*got {next(iter(change.values()))!r}"):
        TrainingSettings(**change)


def test_items_of_a_batch_are_stacked():
    batch = collate([{"image": torch.zeros(3), "caption": "a"}, {"image": torch.ones(3), "caption": "b"}])
    assert batch["image"].shape == (2, 3) and batch["caption"] == ["a", "b"]

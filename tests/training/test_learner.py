# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The network in training: it learns, and its averaged weights are what is written."""

import shutil

import torch
from helpers_training import HalfScenes, assert_same, encode, make_trainer, tiny_unet

from diffusers_ediffi.models.unet import EDiffIUNet
from diffusers_ediffi.training.data import SceneDataset, collate, image_to_float
from diffusers_ediffi.training.loss import edm_loss


def new_data_loss(unet: EDiffIUNet, dataset: SceneDataset) -> float:
    """Mean loss on items that training did not see, at sigma 1."""
    batch = collate([dataset[i] for i in range(10_000, 10_032)])
    noise = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    conditioning = encode(batch["caption"], batch["clip_image"])
    with torch.no_grad():
        return edm_loss(unet, image_to_float(batch["image"]), torch.ones(32), noise, conditioning).mean().item()


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


def test_weights_are_written_by_a_run_that_was_killed_after_its_last_checkpoint(tmp_path):
    make_trainer(tmp_path).train()
    before = EDiffIUNet.from_pretrained(tmp_path / "unet").state_dict()
    shutil.rmtree(tmp_path / "unet")
    assert make_trainer(tmp_path).train() == 6
    assert_same(EDiffIUNet.from_pretrained(tmp_path / "unet").state_dict(), before)

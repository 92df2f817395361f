# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Noise conditioning augmentation in a run."""

import torch
from helpers_training import HalfScenes, make_trainer, tiny_unet

from diffusers_ediffi.training.data import SceneDataset


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

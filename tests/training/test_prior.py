# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Prior preservation: which pictures a batch has, and what each counts in the loss."""

import pytest
import torch
from helpers_pictures import write_folder
from helpers_training import encode, make_trainer

from diffusers_ediffi.training import ImageFolder, PictureDataset, PictureSettings, PriorDataset
from diffusers_ediffi.training.data import collate


@pytest.fixture
def kinds(tmp_path):
    """Two pictures of what is new and five of what is known."""
    sources = [ImageFolder(write_folder(tmp_path / name, number)) for name, number in (("new", 2), ("known", 5))]
    return [PictureDataset(source, PictureSettings(8, clip_image_size=8)) for source in sources]


def test_half_of_a_batch_is_new(kinds):
    items = PriorDataset(*kinds, prior_weight=0.3)
    batch = collate([items[i] for i in range(20)])
    assert batch["weight"].tolist() == pytest.approx([2.0, 0.6] * 10)
    assert len(set(batch["caption"][0::2])) == 2 and len(set(batch["caption"][1::2])) == 5
    for place, item in enumerate(items[i] for i in (6, 7)):
        expected = kinds[place][3]
        assert torch.equal(item["image"], expected["image"]) and item["caption"] == expected["caption"]


def test_a_resumed_run_must_have_the_same_prior(kinds):
    described = PriorDataset(*kinds, prior_weight=0.3).describe()
    assert described == {
        **kinds[0].describe(),
        "prior": {"pictures": kinds[1].describe(), "weight": 0.3},
    }


def with_scene_numbers(captions, images, keep_image=None):
    return encode([f"scene {len(caption)}" for caption in captions], images, keep_image)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_loss_is_that_of_the_new_plus_the_weighted_one_of_the_known(kinds, tmp_path, accumulation):
    items = PriorDataset(*kinds, prior_weight=0.3)
    trainer = make_trainer(tmp_path / "run", dataset=items, encoder=with_scene_numbers, batch_size=6)
    trainer.accelerator.gradient_accumulation_steps = accumulation
    batch = collate([items[i] for i in range(6)])

    def gradients(weights):
        trainer.learner.optimizer.zero_grad()
        trainer._gradients({**batch, "weight": weights})
        return [parameter.grad.clone() for parameter in trainer.learner.parameters]

    found = gradients(batch["weight"])
    of_new, of_known = (gradients(torch.tensor([2.0, 0.0] * 3).roll(place)) for place in (0, 1))  # means over three
    for gradient, new, known in zip(found, of_new, of_known, strict=True):
        torch.testing.assert_close(gradient, new + 0.3 * known, rtol=1e-4, atol=1e-6)
    assert any((new - known).abs().max() > 1e-3 for new, known in zip(of_new, of_known, strict=True))


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan")])
def test_a_weight_that_is_none_is_refused(kinds, weight):
    with pytest.raises(ValueError, match="prior_weight must be 0 or more"):
        PriorDataset(*kinds, weight)


def test_both_need_the_same_settings(kinds):
    other = PictureDataset(kinds[1].source, PictureSettings(16, clip_image_size=8))
    with pytest.raises(ValueError, match="need the same PictureSettings"):
        PriorDataset(kinds[0], other)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Conditions of a batch: painted on the words that samples keep."""

from types import SimpleNamespace

import pytest
import torch
from helpers_training import HalfScenes, encode, make_trainer

from diffusers_ediffi.models.attention import EDiffIAttnProcessor
from diffusers_ediffi.training.data import SceneDataset
from diffusers_ediffi.training.dropout import DropoutRates


class PaintedScenes(HalfScenes):
    """Half scenes with their white half as the region of their number."""

    def scene(self, index: int) -> SimpleNamespace:
        left = index % 2 / 2
        white = SimpleNamespace(phrase=str(index), box=(left, 0.0, left + 0.5, 1.0), span=(6, 6 + len(str(index))))
        return SimpleNamespace(index=index, caption=f"scene {index}", objects=[white])


class PaintedWords:
    """`encode`, which tells the columns of a phrase as well."""

    __call__ = staticmethod(encode)

    def region_columns(self, caption: str, regions: list, clip_text: bool, t5: bool) -> list[list[int]]:
        return [[1, 2][: 2 * clip_text] + [78][: 1 * t5] for _ in regions]


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

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Settings of a run: learning rates, and what is refused."""

import dataclasses
import math

import pytest

from diffusers_ediffi.training.settings import TrainingSettings


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

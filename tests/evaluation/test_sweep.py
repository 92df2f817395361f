# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A sweep's figures as data, and as a plot where matplotlib is installed."""

import importlib.util
import json

from PIL import Image

from diffusers_ediffi.evaluation import save_sweep

CARDS = [
    (scale, {"metrics": {"clip_score": 20 + i, "frechet_distance": 9.0 - i, "precision": 0.1 * i}})
    for i, scale in enumerate(("1", "3", "t5=5,clip_text=2"))
]


def test_figures_by_guidance(tmp_path):
    written = save_sweep(tmp_path, CARDS)
    rows = json.loads((tmp_path / "sweep.json").read_text())
    assert rows[2] == {"guidance_scale": "t5=5,clip_text=2", **CARDS[2][1]["metrics"]} and len(rows) == 3
    plot = tmp_path / "sweep.png"
    assert plot.exists() == (plot in written) == bool(importlib.util.find_spec("matplotlib"))
    if plot.exists():
        assert Image.open(plot).width > 1000, "a panel for each figure, and one over the CLIP score"

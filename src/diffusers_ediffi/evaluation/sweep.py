# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Guidance against quality: the figures of one model at several guidance scales, as data and as a plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import write_json, written_whole
from .clip_score import CLIPScore

PANELS = ("frechet_distance", "kernel_distance", "cmmd", "precision", "recall", CLIPScore.name)


def save_sweep(folder: Path, rows: Sequence[tuple[str, dict[str, Any]]]) -> list[Path]:
    """Writes `sweep.json`, and `sweep.png` where matplotlib is installed.

    Args:
        folder (`Path`): Where they go.
        rows (`list` of pairs): The guidance scale and the card of each setting.

    Returns:
        The files that were written.
    """
    figures = [{"guidance_scale": scale, **card["metrics"]} for scale, card in rows]
    write_json(folder / "sweep.json", figures)
    written = [folder / "sweep.json"]
    try:
        plot_sweep(figures, folder / "sweep.png")
        written.append(folder / "sweep.png")
    except ImportError:  # an extra that nothing else needs
        pass
    return written


def plot_sweep(figures: Sequence[dict[str, Any]], path: Path) -> None:
    """A panel over guidance for each figure, and the distances over the CLIP score as the paper's Figure 8 has them.

    Args:
        figures (`list` of `dict`): The figures of each setting with its `guidance_scale`.
        path (`Path`): The picture.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    names = [name for name in PANELS if name in figures[0]]
    against = [name for name in names if name not in (CLIPScore.name, "precision", "recall")]
    pairs = [(None, name) for name in names] + [(CLIPScore.name, name) for name in against if CLIPScore.name in names]
    figure = Figure(figsize=(4 * len(pairs), 3.5), layout="constrained")
    scales = [row["guidance_scale"] for row in figures]
    for axes, (x, y) in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
        places = [row[x] for row in figures] if x else range(len(figures))
        axes.plot(places, [row[y] for row in figures], "o-", ms=4)
        axes.set(xlabel=x or "guidance", ylabel=y)
        if x is None:
            axes.set_xticks(places, scales)
            continue
        for scale, row in zip(scales, figures, strict=True):
            axes.annotate(scale, (row[x], row[y]), textcoords="offset points", xytext=(4, 4))
    with written_whole(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=110)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What a tree of experts says about itself, as text: its routes, its plan, and what became of it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..edm import karras_sigmas
from ..experts.noise_interval import NoiseInterval
from .progress import SAMPLING_STEPS
from .schedule import Node, Schedule, show_range


def route_table(schedule: Schedule) -> str:
    """Each route's expert, its noise levels and its share of the steps of a sampler (Karras et al.'s grid)."""
    sigmas = karras_sigmas(SAMPLING_STEPS).tolist()
    rows = [("route", "sigma", f"of {SAMPLING_STEPS} sampling steps")]
    for route in schedule.routes:
        own = sum(route.low <= sigma < route.high for sigma in sigmas)
        rows.append((route.expert, show_range(route.low, route.high), str(own)))
    return _table(rows)


def plan_table(schedule: Schedule, rows: Iterable[tuple[Node, int, int, float]]) -> str:
    """One line for each node.

    Args:
        schedule: the nodes' schedule.
        rows: of each node its samples, the steps that are done, and the seconds of one step.
    """
    lines = [("node", "trained on sigma", "starts from", "steps", "samples", "done", "s/step", "hours")]
    for node, samples, done, seconds in rows:
        start = schedule.start or "random weights"
        if node.parent is not None:
            start = f"{node.parent}@{schedule.start_step(node)}"
        numbers = (f"{node.steps:,}", f"{samples:,}", f"{done:,}", f"{seconds:.3g}")
        lines.append((node.name, show(node.interval), start, *numbers, f"{node.steps * seconds / 3600:.3g}"))
    return _table(lines)


def report_table(report: Mapping[str, Any]) -> str:
    """One line for each node of a report of `TreeTrainer`, the loss in each bin of noise levels behind it."""
    nodes = report["nodes"]
    bins = sorted({name for result in nodes.values() for name in result["loss_per_sigma"]}, key=_bin_start)
    lines = [("node", "trained on sigma", "steps", "samples", "seconds", "loss", *(f"sigma {name}" for name in bins))]
    for name, result in nodes.items():
        losses = [result["loss_per_sigma"].get(bin_name) for bin_name in bins]
        lines.append(
            (
                name,
                show(NoiseInterval.from_config(result["sigma"])),
                f"{result['steps']:,}",
                f"{result['samples']:,}",
                f"{result['seconds']:,.1f}",
                f"{result['loss']:.4f}",
                *("" if loss is None else f"{loss:.4f}" for loss in losses),
            )
        )
    return _table(lines)


def show(interval: NoiseInterval) -> str:
    """The ranges of an interval as text."""
    return " and ".join(show_range(low, high) for low, high in interval.ranges)


def _bin_start(name: str) -> float:
    """Of "<0.03", "0.03-0.1" and ">10"."""
    if name[0] == "<":
        return -math.inf
    return math.inf if name[0] == ">" else float(name.split("-")[0])


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )

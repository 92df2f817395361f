# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What a tree of experts says about itself, as text: its routes, its plan, and what became of it."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..edm import karras_sigmas
from ..experts.noise_interval import NoiseInterval
from .progress import SAMPLING_STEPS
from .schedule import Schedule
from .schedule_entries import Node, Route, show_range


def route_table(schedule: Schedule) -> str:
    """Each route's expert, its noise levels and its share of the steps of a sampler (Karras et al.'s grid)."""
    sigmas = karras_sigmas(SAMPLING_STEPS).tolist()
    rows = [("route", "sigma", f"of {SAMPLING_STEPS} sampling steps")]
    for route in schedule.routes:
        steps = sum(route.low <= sigma < route.high for sigma in sigmas)
        rows.append((route.expert, show_range(route.low, route.high), str(steps)))
    return _table(rows)


def plan_table(schedule: Schedule, rows: Iterable[tuple[Node, int, int, float]]) -> str:
    """One line for each node.

    Args:
        schedule ([`Schedule`]): The nodes' schedule.
        rows (iterable of `tuple`): Of each node its samples, the steps that are done, and the seconds of a step.
    """
    lines = [("node", "trained on sigma", "starts from", "steps", "samples", "done", "s/step", "hours")]
    for node, samples, done, seconds in rows:
        start = schedule.start or "random weights"
        if node.parent is not None:
            start = f"{node.parent}@{schedule.start_step(node)}"
        numbers = (f"{node.steps:,}", f"{samples:,}", f"{done:,}", f"{seconds:.3g}")
        lines.append((node.name, show(node.interval), start, *numbers, f"{node.steps * seconds / 3600:.3g}"))
    return _table(lines)


def cost_text(rows: Sequence[tuple[Node, int, int, float]], devices: int, kind: str, measured_steps: int) -> str:
    """What the rows of `plan_table` add up to.

    Args:
        rows (sequence of `tuple`): As for `plan_table`.
        devices (`int`): How many devices train.
        kind (`str`): What they are, such as `cuda`.
        measured_steps (`int`): How many steps of each kind of run the times are from.
    """
    steps, samples = sum(node.steps for node, *_ in rows), sum(row[1] for row in rows)
    hours = sum((node.steps - done) * seconds for node, _, done, seconds in rows) / 3600
    return (
        f"{len(rows)} nodes, {steps:,} steps, {samples:,} samples. Left: "
        f"{hours:.3g} hours on {devices} x {kind}, {hours * devices:.3g} device hours, from {measured_steps} "
        "measured steps of each kind of run; checkpoints and sample grids come on top."
    )


def mean_losses(lines: Sequence[Mapping[str, Any]]) -> tuple[float, dict[str, float]]:
    """The mean loss of some lines of a log, and the mean of each bin of noise levels."""
    bins: dict[str, list[float]] = {}
    for line in lines:
        for name, loss in line["loss_per_sigma"].items():
            bins.setdefault(name, []).append(loss)
    mean = statistics.fmean(line["loss"] for line in lines)
    return round(mean, 5), {name: round(statistics.fmean(losses), 5) for name, losses in bins.items()}


def tree_report(results: Mapping[str, Mapping[str, Any]], routes: Sequence[Route]) -> dict[str, Any]:
    """The report of a whole tree out of the results of its nodes."""
    return {
        "nodes": results,
        "routes": [
            {"expert": route.expert, "sigma": NoiseInterval(((route.low, route.high),)).to_config()[0]}
            for route in routes
        ],
        "steps": sum(result["steps"] for result in results.values()),
        "samples": sum(result["samples"] for result in results.values()),
        "seconds": round(sum(result["seconds"] for result in results.values()), 1),
    }


def report_table(report: Mapping[str, Any]) -> str:
    """One line for each node of a report of `TreeTrainer`, the loss in each bin of noise levels behind it."""
    nodes = report["nodes"]
    bins = sorted({name for result in nodes.values() for name in result["loss_per_sigma"]}, key=_bin_start)
    lines = [("node", "trained on sigma", "steps", "samples", "seconds", "loss", *(f"sigma {name}" for name in bins))]
    for name, result in nodes.items():
        sigma = show(NoiseInterval.from_config(result["sigma"]))
        numbers = (f"{result['steps']:,}", f"{result['samples']:,}", f"{result['seconds']:,.1f}")
        losses = [result["loss"], *(result["loss_per_sigma"].get(bin_name) for bin_name in bins)]
        lines.append((name, sigma, *numbers, *("" if loss is None else f"{loss:.4f}" for loss in losses)))
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

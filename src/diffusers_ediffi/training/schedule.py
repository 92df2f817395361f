# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A schedule: which experts are trained, from which parents, how long, and which noise levels each then serves.

It is a YAML file without aliases, checked whole before anything starts. The paper's Tables 5 and 6 and small ensembles
are shipped: see `shipped_schedules()`. All keys:

    start: runs/base              # optional: the run whose weights nodes without a parent start from
    p_mean: -1.2                  # optional, as p_std: 1.2; ln(sigma) ~ N(p_mean, p_std) in training
    settings:                     # optional; fields of TrainingSettings for every node
      batch_size: 32
    nodes:
      - name: base
        node: [0, 0]              # trains on E(level, index); or sigma: [low, high]; or excluding: [[9, 511], [3, 0]]
        steps: 2000
      - name: high
        node: [9, 511]
        init_from: base@1500      # its averaged weights at step 1500; without @: at its end
        steps: 500
        settings: {learning_rate: 2.0e-4}
        p_mean: 1.6               # optional, as p_std: draws sigma from another distribution, inside its interval
        outside_parent: why       # only for a node that is trained on noise levels that its parent was not
    routes:                       # which node serves which noise levels; together [0, inf)
      - {expert: base, excluding: [[9, 511]]}
      - {expert: high, node: [9, 511]}
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..experts.noise_interval import NoiseInterval
from ..experts.routes import TRAINED_ON_TOLERANCE
from ..files import MAX_CHARACTERS
from .schedule_entries import Node, Route, parse_entries, show_range
from .settings import TrainingSettings


@dataclass(frozen=True)
class Schedule:
    """A checked schedule: the nodes with every parent before its children, the routes with the lowest noise first.

    Example:
        >>> schedule = Schedule.load("paper-table5")
        >>> [route.expert for route in schedule.routes]
        ['M-3-0', 'MC2-9-511', 'M-9-511']
    """

    nodes: tuple[Node, ...]
    routes: tuple[Route, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    start: str | None = None

    @classmethod
    def load(cls, file: str | Path, start: str | Path | None = None) -> "Schedule":
        """Reads a file, or a shipped schedule by its name.

        Args:
            file (`str` or `Path`): Path or name.
            start (`str` or `Path`, *optional*): The folder of the run to start from, instead of the schedule's.

        Raises:
            ValueError: There is no such file or name, or the schedule is not sound.
        """
        text = _text_of(file)
        try:
            schedule = cls.parse(text)
            return schedule if start is None else dataclasses.replace(schedule, start=str(start))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error

    @classmethod
    def parse(cls, text: str) -> "Schedule":
        """Reads YAML and checks it.

        Raises:
            ValueError: It names the value that is wrong and what to do about it.
        """
        return cls(**parse_entries(text))

    def __post_init__(self) -> None:
        _check_names(self.nodes)
        nodes = {node.name: node for node in self.nodes}
        object.__setattr__(self, "nodes", tuple(_parents_first(nodes)))
        for node in self.nodes:
            _check_parent(node, nodes)
            self.settings_of(node)
        object.__setattr__(self, "routes", tuple(sorted(self.routes, key=lambda route: route.low)))
        _check_routes(self.routes, nodes)

    def __getitem__(self, name: str) -> Node:
        """The node of this name."""
        return next(node for node in self.nodes if node.name == name)

    def settings_of(self, node: Node, overrides: Mapping[str, Any] | None = None) -> TrainingSettings:
        """The settings of a node's run: those of the node before `overrides` before the schedule's.

        Raises:
            ValueError: They make no sense.
        """
        try:
            merged = {**self.settings, **(overrides or {}), **node.settings}
            return TrainingSettings(**merged, total_steps=node.steps)
        except ValueError as error:
            raise ValueError(f"Settings of node {node.name!r}: {error}") from error

    def start_step(self, node: Node) -> int | None:
        """The parent's step from which a node starts; None for a node without a parent."""
        if node.parent is None:
            return None
        return self[node.parent].steps if node.parent_step is None else node.parent_step

    def pinned_steps(self, name: str) -> list[int]:
        """The steps of a node from which others start, but for its last one."""
        steps = {self.start_step(node) for node in self.nodes if node.parent == name}
        return sorted(step for step in steps if step is not None and step < self[name].steps)

    @property
    def boundaries(self) -> list[float]:
        """The noise levels between the routes, as `ExpertRouterUNet` takes them."""
        return [route.low for route in self.routes[1:]]


def shipped_schedules() -> dict[str, str]:
    """The text of each schedule in the package, by its name."""
    files = sorted(resources.files(__package__).joinpath("schedules").iterdir(), key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): file.read_text("utf-8") for file in files if file.name.endswith(".yaml")}


def _text_of(file: str | Path) -> str:
    """What a schedule file says, or a shipped schedule of this name."""
    shipped = shipped_schedules()
    if str(file) in shipped:
        return shipped[str(file)]
    if Path(file).is_file():
        try:
            with open(file, encoding="utf-8-sig") as opened:
                return opened.read(MAX_CHARACTERS + 1)  # a longer one is refused
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not a text in UTF-8: {error}") from None
    raise ValueError(f"There is no schedule file {str(file)!r}; the shipped ones are {', '.join(shipped)}.")


def outside(inner: NoiseInterval, outer: NoiseInterval) -> tuple[float, float] | None:
    """The first range of `inner` that `outer` does not hold, within the precision of quoted boundaries, or None."""
    for low, high in inner.ranges:
        below, above = low * (1 + TRAINED_ON_TOLERANCE), high * (1 - TRAINED_ON_TOLERANCE)
        if not any(first <= below and above <= last for first, last in outer.ranges):
            return low, high
    return None


def _check_names(nodes: Sequence[Node]) -> None:
    seen: dict[str, str] = {}  # folded, since some file systems do not tell Base from base
    for node in nodes:
        if node.name.casefold() in seen:
            raise ValueError(f"Two nodes are named {node.name!r}; each name is a folder: rename one.")
        seen[node.name.casefold()] = node.name


def _known(name: str, nodes: Mapping[str, Node], where: str) -> Node:
    if name not in nodes:
        nearest = difflib.get_close_matches(name, nodes, n=1, cutoff=0)[0]
        raise ValueError(f"{where} names {name!r}, but no node has this name; the nearest is {nearest!r}.")
    return nodes[name]


def _check_parent(node: Node, nodes: Mapping[str, Node]) -> None:
    """A parent must have the step that a node starts from, and have been trained on what the node is."""
    if node.parent is None:
        return
    parent = nodes[node.parent]
    if node.parent_step is not None and not 1 <= node.parent_step <= parent.steps:
        raise ValueError(
            f"Node {node.name!r} starts from {parent.name}@{node.parent_step}, but {parent.name!r} has the steps 1 to "
            f"{parent.steps}: choose one of these, or train it longer."
        )
    left = outside(node.interval, parent.interval)
    if left is not None and node.outside_parent is None:
        raise ValueError(
            f"Node {node.name!r} is trained on sigma {show_range(*left)}, which its parent {parent.name!r} was not: "
            f"choose another parent, or say why under the key outside_parent."
        )


def _parents_first(nodes: Mapping[str, Node]) -> list[Node]:
    """The nodes in their order, but every parent before its children.

    Raises:
        ValueError: A node starts from itself, through others or not, or its parent does not exist.
    """
    ordered: dict[str, Node] = {}
    for node in nodes.values():
        line = [node]
        while (parent := line[-1].parent) is not None and parent not in ordered:
            if any(parent == child.name for child in line):
                names = " <- ".join([parent, *(child.name for child in reversed(line))])
                raise ValueError(f"These nodes start from each other: {names}; one must start without init_from.")
            line.append(_known(parent, nodes, f"init_from of node {line[-1].name!r}"))
        ordered.update((ancestor.name, ancestor) for ancestor in reversed(line))
    return list(ordered.values())


def _check_routes(routes: Sequence[Route], nodes: Mapping[str, Node]) -> None:
    """Each route must be served by a node that is trained on it."""
    if not routes:
        raise ValueError("A schedule needs at least one route: {expert: NAME, node: [0, 0]} serves every noise level.")
    for route in routes:
        expert = _known(route.expert, nodes, f"The route {show_range(route.low, route.high)}")
        if outside(NoiseInterval(((route.low, route.high),)), expert.interval) is not None:
            trained = " and ".join(show_range(low, high) for low, high in expert.interval.ranges)
            raise ValueError(
                f"{route.expert!r} serves the route {show_range(route.low, route.high)} but is trained on {trained}: "
                "change the route, or train the node on more."
            )
    _check_cover(routes)


def _check_cover(routes: Sequence[Route]) -> None:
    """Routes, the lowest noise first, must cover [0, inf) without a gap or an overlap."""
    edges = [(0.0, routes[0].low), *((a.high, b.low) for a, b in pairwise(routes)), (routes[-1].high, math.inf)]
    for end, begin in edges:
        if end < begin:
            raise ValueError(
                f"No route covers sigma [{end:.8g}, {begin:.8g}): let a neighbouring route reach further."
            )
        if end > begin:
            raise ValueError(
                f"Two routes cover sigma [{begin:.8g}, {end:.8g}): let one of them end where the other begins."
            )

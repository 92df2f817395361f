# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A schedule: which experts are trained, from which parents, how long, and which noise levels each then serves.

It is a YAML file, checked whole before anything starts. The paper's Tables 5 and 6 and small ensembles are shipped:
see `shipped_schedules()`. All keys:

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
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import pairwise
from numbers import Integral
from pathlib import Path
from typing import Any

import yaml

from ..checks import is_number
from ..edm import P_MEAN, P_STD
from ..experts.noise_interval import NoiseInterval
from ..experts.routes import TRAINED_ON_TOLERANCE
from .settings import THIS_RUN, TrainingSettings

INTERVAL_KEYS = ("node", "sigma", "excluding")
# One precision per process is all that accelerate knows, hence it is no setting of a single node.
WHOLE_TREE = ("mixed_precision",)
SETTINGS = tuple(f.name for f in dataclasses.fields(TrainingSettings) if f.name not in ("total_steps", *THIS_RUN))
KEYS = {
    "the schedule": ("start", "p_mean", "p_std", "settings", "nodes", "routes"),
    "a node": ("name", *INTERVAL_KEYS, "p_mean", "p_std", "init_from", "steps", "settings", "outside_parent"),
    "a route": ("expert", *INTERVAL_KEYS),
    "settings": SETTINGS,
}


@dataclass(frozen=True)
class Node:
    """One training run of the tree.

    Args:
        name: unique, and a folder name.
        interval: the noise levels it is trained on.
        steps: its optimiser steps.
        index: (level, index) if it is a node of the paper's tree, else (0, 0).
        parent: name of the node whose averaged weights it starts from; None: the schedule's start.
        parent_step: the parent's step at which they are taken; its last one if the schedule names none.
        settings: fields of `TrainingSettings` that replace the schedule's.
        outside_parent: why it is trained on noise levels that its parent was not.
    """

    name: str
    interval: NoiseInterval
    steps: int
    index: tuple[int, int] = (0, 0)
    parent: str | None = None
    parent_step: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    outside_parent: str | None = None


@dataclass(frozen=True)
class Route:
    """The noise levels `[low, high)` and the node that serves them."""

    expert: str
    low: float
    high: float


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
            file: path or name.
            start: the folder of the run to start from, instead of the schedule's.

        Raises:
            ValueError: if there is no such file or name, or if the schedule is not sound.
        """
        shipped = shipped_schedules()
        if str(file) in shipped:
            text = shipped[str(file)]
        elif Path(file).is_file():
            text = Path(file).read_text(encoding="utf-8")
        else:
            raise ValueError(f"There is no schedule file {str(file)!r}; the shipped ones are {', '.join(shipped)}.")
        try:
            schedule = cls.parse(text)
            return schedule if start is None else dataclasses.replace(schedule, start=str(start))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error

    @classmethod
    def parse(cls, text: str) -> "Schedule":
        """Reads YAML and checks it.

        Raises:
            ValueError: naming the value that is wrong and what to do about it.
        """
        try:
            content = yaml.load(text, _Loader)
        except yaml.YAMLError as error:
            raise ValueError(f"This is no valid YAML: {' '.join(str(error).split())}") from error
        _check_keys(content, "the schedule", "the schedule", required=("nodes", "routes"))
        p_mean, p_std = (_number(content.get(key, default), key) for key, default in _DISTRIBUTION.items())
        settings = _settings(content.get("settings"), "settings")
        entries = _list(content["nodes"], "nodes")
        nodes = [_node(entry, f"nodes[{i}]", p_mean, p_std) for i, entry in enumerate(entries)]
        entries = _list(content["routes"], "routes")
        routes = [_route(entry, f"routes[{i}]", p_mean, p_std) for i, entry in enumerate(entries)]
        start = content.get("start")
        if start is not None and not isinstance(start, str):
            raise ValueError(f"start is the folder of a run, got {start!r}.")
        return cls(tuple(nodes), tuple(routes), settings, start)

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
        """The settings of a node's run: its own before `overrides` before the schedule's.

        Raises:
            ValueError: if they make no sense.
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


def outside(inner: NoiseInterval, outer: NoiseInterval) -> tuple[float, float] | None:
    """The first range of `inner` that `outer` does not hold, within the precision of quoted boundaries, or None."""
    for low, high in inner.ranges:
        below, above = low * (1 + TRAINED_ON_TOLERANCE), high * (1 - TRAINED_ON_TOLERANCE)
        if not any(first <= below and above <= last for first, last in outer.ranges):
            return low, high
    return None


def show_range(low: float, high: float) -> str:
    """A range of noise levels as text."""
    return f"[{low:.4g}, {high:.4g})"


_DISTRIBUTION = {"p_mean": P_MEAN, "p_std": P_STD}


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: list[Any] = []
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *other`, whose keys may be replaced
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise ValueError(f"The key {key!r} stands twice, again in line {key_node.start_mark.line + 1}.")
            seen.append(key)
        return super().construct_mapping(node, deep)


# --- reading one part ---


def _check_keys(content: Any, where: str, place: str, required: Iterable[str] = ()) -> None:
    """Refuses what is no mapping, unknown keys, keys of another place, and missing ones."""
    if not isinstance(content, dict):
        raise ValueError(f"{where} must consist of 'key: value' lines, got {content!r}.")
    for key in content:
        if key in KEYS[place]:
            continue
        homes = [other for other, keys in KEYS.items() if key in keys]
        if homes:
            raise ValueError(f"{where} has the misplaced key {key!r}; it belongs into {' or '.join(homes)}.")
        nearest = difflib.get_close_matches(str(key), KEYS[place], n=1, cutoff=0)[0]
        raise ValueError(f"{where} has the unknown key {key!r}; the nearest known key is {nearest!r}.")
    for key in required:
        if key not in content:
            raise ValueError(f"{where} lacks the key {key!r}.")


def _list(content: Any, where: str) -> list[Any]:
    if not isinstance(content, list) or not content:
        raise ValueError(f"{where} must be a list with at least one entry, got {content!r}.")
    return content


def _number(value: Any, where: str) -> float:
    """A number; YAML takes `1e-4` (without a dot) and `inf` for text."""
    try:
        if not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{where} must be a number, got {value!r}.")


def _whole(value: Any, where: str) -> int:
    if not is_number(value, Integral):
        raise ValueError(f"{where} must be a whole number, got {value!r}.")
    return value


def _settings(content: Any, where: str) -> dict[str, Any]:
    """Fields of `TrainingSettings`, each of the type of its default."""
    content = {} if content is None else content
    _check_keys(content, where, "settings")
    defaults = TrainingSettings()
    found: dict[str, Any] = {}
    for name, value in content.items():
        default = getattr(defaults, name)
        if isinstance(default, str) and value is False:
            value = "no"  # YAML takes the word for a boolean
        if isinstance(default, float):
            value = _number(value, f"{where}.{name}")
        elif is_number(default, Integral):
            value = _whole(value, f"{where}.{name}")
        elif type(value) is not type(default):
            raise ValueError(f"{where}.{name} must be of type {type(default).__name__}, got {value!r}.")
        found[name] = value
    return found


def _interval(content: dict[str, Any], where: str, p_mean: float, p_std: float) -> NoiseInterval:
    """The noise levels that exactly one of `node`, `sigma` and `excluding` names."""
    given = [key for key in INTERVAL_KEYS if key in content]
    if len(given) != 1:
        raise ValueError(
            f"{where} needs exactly one of {', '.join(INTERVAL_KEYS)}, got {' and '.join(given) or None}."
        )
    value, where = content[given[0]], f"{where}.{given[0]}"
    try:
        if given[0] == "node":
            level, index = _pair(value, where)
            return NoiseInterval.from_node(level, index, p_mean, p_std)
        if given[0] == "excluding":
            pairs = [_pair(pair, where) for pair in _list(value, where)]
            named = [NoiseInterval.from_node(level, index, p_mean, p_std) for level, index in pairs]
            return NoiseInterval.everything(p_mean, p_std).minus(*named)
        low, high = (_number(edge, where) for edge in _pair(value, where))
        return NoiseInterval(((low, high),), p_mean, p_std)
    except (TypeError, ValueError) as error:
        raise ValueError(str(error) if str(error).startswith(where) else f"{where} = {value!r}: {error}") from error


def _pair(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{where} must be a pair such as [9, 511], got {value!r}.")
    return value


def _node(content: Any, where: str, p_mean: float, p_std: float) -> Node:
    _check_keys(content, where, "a node", required=("name", "steps"))
    name = content["name"]
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"{where}.name is a folder name of letters, digits, '-', '_' and '.', got {name!r}.")
    where = f"{where} ({name!r})"
    steps = _whole(content["steps"], f"{where}.steps")
    if steps < 1:
        raise ValueError(f"{where}.steps must be at least 1, got {steps}.")
    parent, parent_step = _init_from(content.get("init_from"), where)
    settings = _settings(content.get("settings"), f"{where}.settings")
    for key in WHOLE_TREE:
        if key in settings:
            raise ValueError(f"{where}.settings.{key} holds for the whole tree; move it to the schedule's settings.")
    reason = content.get("outside_parent")
    if reason is not None and (not isinstance(reason, str) or not reason.strip()):
        raise ValueError(f"{where}.outside_parent must say why, in words, got {reason!r}.")
    interval = _interval(content, where, p_mean, p_std)
    tree = {"p_mean": p_mean, "p_std": p_std}
    own_mean, own_std = (_number(content.get(key, default), f"{where}.{key}") for key, default in tree.items())
    interval = dataclasses.replace(interval, p_mean=own_mean, p_std=own_std)
    index = tuple(content["node"]) if "node" in content else (0, 0)
    return Node(name, interval, steps, index, parent, parent_step, settings, reason)


def _init_from(value: Any, where: str) -> tuple[str | None, int | None]:
    """ "base@1500" -> ("base", 1500)."""
    if value is None:
        return None, None
    parent, at, step = value.partition("@") if isinstance(value, str) else ("", "", "")
    if not parent or (at and not step.isdecimal()):
        raise ValueError(f"{where}.init_from must be NODE or NODE@STEP, got {value!r}.")
    return parent, int(step) if at else None


def _route(content: Any, where: str, p_mean: float, p_std: float) -> Route:
    _check_keys(content, where, "a route", required=("expert",))
    ranges = _interval(content, where, p_mean, p_std).ranges
    if len(ranges) > 1:
        shown = " and ".join(show_range(*one) for one in ranges)
        raise ValueError(f"{where} consists of {shown}; write one route for each.")
    return Route(str(content["expert"]), *ranges[0])


# --- checks of the whole ---


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
        ValueError: if a node is its own ancestor, or its parent does not exist.
    """
    ordered: dict[str, Node] = {}
    for node in nodes.values():
        line = [node]
        while (parent := line[-1].parent) is not None and parent not in ordered:
            if any(parent == child.name for child in line):
                names = " <- ".join([parent, *(child.name for child in reversed(line))])
                raise ValueError(f"These nodes start from each other: {names}; one must start without init_from.")
            line.append(_known(parent, nodes, f"init_from of node {line[-1].name!r}"))
        ordered.update((one.name, one) for one in reversed(line))
    return list(ordered.values())


def _check_routes(routes: Sequence[Route], nodes: Mapping[str, Node]) -> None:
    if not routes:
        raise ValueError("A schedule needs at least one route: {expert: NAME, node: [0, 0]} serves every noise level.")
    for route in routes:
        expert = _known(route.expert, nodes, f"The route {show_range(route.low, route.high)}")
        if outside(NoiseInterval(((route.low, route.high),)), expert.interval) is not None:
            trained = " and ".join(show_range(*one) for one in expert.interval.ranges)
            raise ValueError(
                f"{route.expert!r} serves the route {show_range(route.low, route.high)} but is trained on {trained}: "
                "change the route, or train the node on more."
            )
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

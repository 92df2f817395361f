# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The entries of a schedule's YAML file, each read by itself: every error names the place, the value and the remedy.

What makes sense only together (parents, names, routes without gaps) is checked by [`Schedule`].
"""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

from ..checks import is_number
from ..edm import P_MEAN, P_STD
from ..experts.noise_interval import NoiseInterval
from ..files import load_yaml
from .settings import THIS_RUN, TrainingSettings

INTERVAL_KEYS = ("node", "sigma", "excluding")
# One precision per process is all that accelerate knows, hence it is not a setting of a single node.
WHOLE_TREE = ("mixed_precision",)
SETTINGS = tuple(f.name for f in dataclasses.fields(TrainingSettings) if f.name not in ("total_steps", *THIS_RUN))
KEYS = {
    "the schedule": ("start", "p_mean", "p_std", "settings", "nodes", "routes"),
    "a node": ("name", *INTERVAL_KEYS, "p_mean", "p_std", "init_from", "steps", "settings", "outside_parent"),
    "a route": ("expert", *INTERVAL_KEYS),
    "settings": SETTINGS,
}
_DISTRIBUTION = {"p_mean": P_MEAN, "p_std": P_STD}


@dataclass(frozen=True)
class Node:
    """One training run of the tree.

    Args:
        name (`str`): A folder name, unique in the schedule.
        interval ([`NoiseInterval`]): The noise levels it is trained on.
        steps (`int`): Its optimiser steps.
        index (`tuple` of `int`, *optional*, defaults to `(0, 0)`): Level and index of a node of the paper's tree.
        parent (`str`, *optional*): Name of the node whose averaged weights it starts from; by default it starts where
            the schedule does.
        parent_step (`int`, *optional*): The parent's step at which they are taken, by default the last.
        settings (`dict`, *optional*): Fields of [`TrainingSettings`] that replace the schedule's.
        outside_parent (`str`, *optional*): Why it is trained on noise levels that its parent was not.
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


def parse_entries(text: str) -> dict[str, Any]:
    """Reads YAML.

    Returns:
        `nodes`, `routes`, `settings` and `start`, the fields of a [`Schedule`].

    Raises:
        ValueError: It names the value that is wrong and what to do about it.
    """
    content = load_yaml(text)
    _check_keys(content, "the schedule", "the schedule", required=("nodes", "routes"))
    p_mean, p_std = (_number(content.get(key, default), key) for key, default in _DISTRIBUTION.items())
    settings = _settings(content.get("settings"), "settings")
    nodes = tuple(_node(entry, where, p_mean, p_std) for where, entry in _entries(content, "nodes"))
    routes = tuple(_route(entry, where, p_mean, p_std) for where, entry in _entries(content, "routes"))
    start = content.get("start")
    if start is not None and not isinstance(start, str):
        raise ValueError(f"start is the folder of a run, got {start!r}.")
    return {"nodes": nodes, "routes": routes, "settings": settings, "start": start}


def show_range(low: float, high: float) -> str:
    """A range of noise levels as text."""
    return f"[{low:.4g}, {high:.4g})"


def _check_keys(content: Any, where: str, place: str, required: Iterable[str] = ()) -> None:
    """Refuses what is not a mapping, unknown keys, keys of another place, and missing keys."""
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


def _entries(content: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    """The entries of a list, each with its place, such as `nodes[0]`."""
    return [(f"{key}[{i}]", entry) for i, entry in enumerate(_list(content[key], key))]


def _list(content: Any, where: str) -> list[Any]:
    """A list with at least one entry."""
    if not isinstance(content, list) or not content:
        raise ValueError(f"{where} must be a list with at least one entry, got {content!r}.")
    return content


def _number(value: Any, where: str) -> float:
    """A number; YAML takes `1e-4` (without a dot) and `inf` for text."""
    with suppress(TypeError, ValueError, OverflowError):
        if not isinstance(value, bool):
            return float(value)
    raise ValueError(f"{where} must be a number, got {value!r}.")


def _whole(value: Any, where: str) -> int:
    """A whole number."""
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
    """A list of two."""
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{where} must be a pair such as [9, 511], got {value!r}.")
    return value


def _node(content: Any, where: str, p_mean: float, p_std: float) -> Node:
    """A node, in a tree with this distribution of noise levels."""
    _check_keys(content, where, "a node", required=("name", "steps"))
    name = _folder_name(content["name"], f"{where}.name")
    where = f"{where} ({name!r})"
    steps = _whole(content["steps"], f"{where}.steps")
    if steps < 1:
        raise ValueError(f"{where}.steps must be at least 1, got {steps}.")
    parent, parent_step = _init_from(content.get("init_from"), where)
    settings = _node_settings(content.get("settings"), f"{where}.settings")
    reason = content.get("outside_parent")
    if reason is not None and (not isinstance(reason, str) or not reason.strip()):
        raise ValueError(f"{where}.outside_parent must say why, in words, got {reason!r}.")
    interval = _interval(content, where, p_mean, p_std)
    p_mean = _number(content.get("p_mean", p_mean), f"{where}.p_mean")
    p_std = _number(content.get("p_std", p_std), f"{where}.p_std")
    interval = dataclasses.replace(interval, p_mean=p_mean, p_std=p_std)
    index = tuple(content["node"]) if "node" in content else (0, 0)
    return Node(name, interval, steps, index, parent, parent_step, settings, reason)


def _folder_name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"\w[\w.-]*", value):
        raise ValueError(f"{where} is a folder name of letters, digits, '-', '_' and '.', got {value!r}.")
    return value


def _node_settings(content: Any, where: str) -> dict[str, Any]:
    """As `_settings`, but without what holds for the whole tree."""
    settings = _settings(content, where)
    for key in WHOLE_TREE:
        if key in settings:
            raise ValueError(f"{where}.{key} holds for the whole tree; move it to the schedule's settings.")
    return settings


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
        shown = " and ".join(show_range(low, high) for low, high in ranges)
        raise ValueError(f"{where} consists of {shown}; write one route for each.")
    return Route(_folder_name(content["expert"], f"{where}.expert"), *ranges[0])

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The plan of a tree of experts: what each node will be, how far its folder is with it, and whether the two agree."""

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..experts.files import expert_folder
from ..experts.noise_interval import NoiseInterval
from .checkpoint import complete_checkpoints, differences, step_of
from .dropout import DropoutRates
from .launch import make_accelerator
from .schedule import Schedule, outside
from .schedule_entries import Node, show_range

PLAN, DONE = "plan.json", "done.json"


class TreePlan:
    """What a schedule makes of a folder with a run for each node, `output/nodes/<name>`. It only reads.

    Args:
        schedule ([`Schedule`]): The nodes and routes.
        output (`str` or `Path`): The folder of the whole tree.
        overrides (`dict`, *optional*): Fields of [`TrainingSettings`] that replace those of the schedule, but not
            those of single nodes.
        dropout ([`DropoutRates`], *optional*): Rates of conditioning dropout, by default the paper's.
        data_settings (`dict`, *optional*): What else must not change between the runs, such as the list of objects.
        accelerator (`Accelerator`, *optional*): By default it is made from the settings.
    """

    def __init__(
        self,
        schedule: Schedule,
        output: str | Path,
        overrides: Mapping[str, Any] | None = None,
        dropout: DropoutRates = DropoutRates(),  # noqa: B008 (frozen)
        data_settings: dict[str, Any] | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.schedule, self.output = schedule, Path(output)
        self.settings = {node.name: schedule.settings_of(node, overrides) for node in schedule.nodes}
        precision = self.settings[schedule.nodes[0].name].mixed_precision
        self.accelerator = accelerator or make_accelerator(precision)
        self.dropout, self.data_settings = dropout, data_settings or {}

    def folder(self, node: Node) -> Path:
        """The folder of a node's run."""
        return self.output / "nodes" / node.name

    def is_done(self, node: Node) -> bool:
        """Whether a node has ended: its marker is written after all else."""
        return (self.folder(node) / DONE).exists() and (self.folder(node) / "unet" / "config.json").exists()

    def steps_done(self, node: Node | None = None) -> int:
        """Steps in the newest checkpoint of a node, or of all."""
        if node is None:
            return sum(map(self.steps_done, self.schedule.nodes))
        if self.is_done(node):
            return node.steps
        found = complete_checkpoints(self.folder(node))
        return step_of(found[-1]) if found else 0

    def samples(self, node: Node, steps: int | None = None) -> int:
        """Training samples of a node's first `steps` steps, by default of all, over all processes."""
        steps = node.steps if steps is None else steps
        return steps * self.settings[node.name].batch_size * self.accelerator.num_processes

    def first_item(self, node: Node) -> int:
        """How many samples the weights that a node starts from have seen: the number of its first one."""
        step = self.schedule.start_step(node)
        if node.parent is None or step is None:
            return 0
        parent = self.schedule[node.parent]
        return self.first_item(parent) + self.samples(parent, step)

    def plan(self, node: Node) -> dict[str, Any]:
        """Everything that decides a node's weights, ancestors included."""
        return {**self._recipe(node), "dropout": vars(self.dropout), "data": self.data_settings}

    def _recipe(self, node: Node) -> dict[str, Any]:
        """What decides a node's weights apart from what all nodes share."""
        parent = None if node.parent is None else self.schedule[node.parent]
        return {
            "trained_on": node.interval.to_config(),
            "p_mean": node.interval.p_mean,
            "p_std": node.interval.p_std,
            "num_processes": self.accelerator.num_processes,
            "settings": self.settings[node.name].recipe(),
            "start": self._start_digest if parent is None else None,
            "start_step": self.schedule.start_step(node),
            "init_from": None if parent is None else {"name": parent.name, **self._recipe(parent)},
        }

    @functools.cached_property
    def _start_digest(self) -> str | None:
        """A hash of the weights that the schedule starts from: their folder may move, they may not change."""
        if self.schedule.start is None:
            return None
        digest = hashlib.sha256()
        for path in sorted(network_folder(self.schedule.start).glob("*.safetensors")):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:16]

    def is_low_rank(self, node: Node) -> bool:
        """Whether a node is trained as a difference from what it starts from."""
        return self.settings[node.name].lora_rank > 0

    def check(self) -> None:
        """Refuses, before anything runs, output that does not fit this schedule.

        Raises:
            ValueError: It names the node, the value and the remedy.
        """
        self._check_start()
        for node in self.schedule.nodes:
            self._check_low_rank(node)
            self._check_plan(node)
        for node in self.schedule.nodes:
            self._check_pinned(node)

    def _check_plan(self, node: Node) -> None:
        """A node that has steps must have made them by the plan that it has now."""
        path = self.folder(node) / PLAN
        if not path.exists() or not (self.is_done(node) or self.steps_done(node)):
            return
        changes = differences(json.loads(path.read_text()), self.plan(node))
        if changes:
            listed = "; ".join(f"{name} = {before!r}, but now it is {now!r}" for name, before, now in changes)
            state = "is done" if self.is_done(node) else f"has {self.steps_done(node)} steps"
            raise ValueError(
                f"Node {node.name!r} {state} with {listed}. Change it back, give "
                f"the node another name, or remove {path.parent} to train it anew."
            )

    def _check_pinned(self, node: Node) -> None:
        """A parent that is past a pinned step must have kept it, while its child has not started."""
        step = self.schedule.start_step(node)
        if node.parent is None or step is None or self.is_done(node) or self.steps_done(node):
            return
        parent = self.schedule[node.parent]
        if step < parent.steps and step <= self.steps_done(parent) and step not in self._kept(parent):
            kept = ", ".join(map(str, self._kept(parent))) or "none"
            raise ValueError(
                f"Node {node.name!r} starts from {parent.name}@{step}, but {parent.name!r} is past this step and has "
                f"kept no checkpoint of it (there are: {kept}). Start from one of these or from its end, "
                f"{parent.steps}, or remove {self.folder(parent)} to train it anew."
            )

    def _kept(self, node: Node) -> list[int]:
        return [step_of(path) for path in complete_checkpoints(self.folder(node))]

    def _check_start(self) -> None:
        """What the schedule's start says it was trained on must hold the nodes that start from it."""
        if self.schedule.start is None:
            return
        folder = network_folder(self.schedule.start)
        trained_on = NoiseInterval.from_config(json.loads((folder / "config.json").read_text()).get("trained_on"))
        for node in self.schedule.nodes:
            left = outside(node.interval, trained_on) if node.parent is None else None
            if left is not None and node.outside_parent is None:
                raise ValueError(
                    f"Node {node.name!r} is trained on sigma {show_range(*left)}, which its start {folder} was not: "
                    "choose another start, or say why under the key outside_parent."
                )

    def _check_low_rank(self, node: Node) -> None:
        """A difference needs something to differ from, and only its end is kept as a network."""
        if not self.is_low_rank(node):
            return
        what = f"{node.name!r} has lora_rank = {self.settings[node.name].lora_rank}"
        if node.parent is None and self.schedule.start is None:
            raise ValueError(
                f"Node {what}, a difference from the network it starts from, but it starts from random weights: give "
                "it init_from, or the schedule a start."
            )
        for child in self.schedule.nodes:
            step = self.schedule.start_step(child)
            if child.parent == node.name and step != node.steps:
                raise ValueError(
                    f"Node {child.name!r} starts from {node.name}@{step}: {what} and is a network at its end alone: "
                    f"leave out @{step}."
                )


def network_folder(start: str | Path, option: str = "start") -> Path:
    """The folder of a network, given that folder itself or that of the run that wrote it.

    Args:
        start (`str` or `Path`): The folder.
        option (`str`, *optional*, defaults to `"start"`): What the caller calls it.

    Raises:
        ValueError: There is no network, or there are several experts.
    """
    for folder in (Path(start) / "unet", Path(start)):
        if not (folder / "config.json").is_file():
            continue
        if "unets" in json.loads((folder / "config.json").read_text()):
            raise ValueError(
                f"{option}: {folder} holds several experts: name one of them, such as {folder / expert_folder(0)}."
            )
        return folder
    raise ValueError(
        f"{option}: {start} holds no trained network: there is no {Path(start) / 'unet' / 'config.json'}."
    )

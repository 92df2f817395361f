# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Trains every expert of a schedule, one run after the other; killed anywhere, the same call goes on."""

import dataclasses
import functools
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.utils.data import Dataset

from ..experts.lora import LoraExpert
from ..experts.noise_interval import NoiseInterval
from ..experts.router import ExpertRouterUNet
from ..files import write_json, written_whole
from ..models.unet import EDiffIUNet
from .checkpoint import averaged_weights, complete_checkpoints, first_difference, step_of, training_seconds
from .conditioning import EncodeBatch
from .dropout import DropoutRates
from .lora import LORA_FILE
from .report import plan_table, report_table, route_table
from .run import RunLog, SignalGuard, alone_in
from .schedule import Node, Schedule, outside, show_range
from .trainer import Trainer

# Settings that decide how long a step takes.
COSTLY = ("batch_size", "optimizer", "lora_rank", "channels_last", "compile", "gradient_checkpointing", "num_workers")
PLAN, DONE, REPORT = "plan.json", "done.json", "report.json"


class TreeTrainer:
    """A whole tree of experts: each node one run of `Trainer` in `output/nodes/<name>`.

    A node that is done is skipped, one with a checkpoint is resumed, and any other starts from the averaged weights
    of its parent. A child goes on in the data where its parent was. At the end `output/unet` holds the experts as an
    `ExpertRouterUNet` (one network and low-rank differences, if all routes are served by nodes with `lora_rank` that
    start from the same weights) and `output/report.json` what each run did.

    Args:
        schedule: the nodes and routes.
        make_unet: makes the network before training, with the weights of the schedule's start if it has one; called
            once for each run, after `torch.manual_seed`, with the interval that its config must name as `trained_on`.
        dataset: items as those of `SceneDataset`.
        encode_batch: as for `Trainer`.
        output: the folder of the whole tree.
        overrides: fields of `TrainingSettings` that replace those of the schedule, but not those of single nodes.
        dropout: rates of conditioning dropout.
        data_settings: what else must not change between the runs, such as the list of objects.
        sample_items: items, not of the training data, for the sample grids.
        max_steps_this_run: stop and save after so many steps of the whole tree; call again to go on.
        max_minutes_this_run: stop and save after so much time.
        accelerator: made from the settings by default.
    """

    def __init__(
        self,
        schedule: Schedule,
        make_unet: Callable[[NoiseInterval], EDiffIUNet],
        dataset: Dataset,
        encode_batch: EncodeBatch,
        output: str | Path,
        overrides: Mapping[str, Any] | None = None,
        dropout: DropoutRates = DropoutRates(),  # noqa: B008 (frozen)
        data_settings: dict[str, Any] | None = None,
        sample_items: list[dict[str, Any]] | None = None,
        max_steps_this_run: int | None = None,
        max_minutes_this_run: float | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.schedule, self.make_unet, self.output = schedule, make_unet, Path(output)
        self.settings = {node.name: schedule.settings_of(node, overrides) for node in schedule.nodes}
        precision = self.settings[schedule.nodes[0].name].mixed_precision
        self.accelerator = accelerator or Accelerator(mixed_precision=precision)
        self.dataset, self.encode_batch, self.dropout = dataset, encode_batch, dropout
        self.data_settings, self.sample_items = data_settings or {}, sample_items or []
        self.max_steps_this_run, self.max_minutes_this_run = max_steps_this_run, max_minutes_this_run
        self._check_budget()

    def train(self) -> dict[str, Any] | None:
        """Trains what is left of the tree.

        Returns:
            The report, or None if this call's budget ended before the tree was done.

        Raises:
            ValueError: if the output holds runs of another plan, or lacks a checkpoint that a node starts from.
            OSError: if another process trains this tree.
            SystemExit: after SIGTERM (143) or Ctrl-C (130), with all saved.
        """
        lock = alone_in(self.output) if self.accelerator.is_main_process else nullcontext()
        # Between the runs there is nothing to save; a run puts its own guard in place of this one.
        with lock, SignalGuard(at_once=True):
            self.check()
            self._say(self.map())
            self._started, self._steps_before = time.monotonic(), self.steps_done()
            for node in self.schedule.nodes:
                if self.is_done(node):
                    self._say(f"{node.name}: done, skipped.")
                elif not self._train_node(node):
                    self._say(f"{self._progress()}. This run's budget is used up; the same command goes on from here.")
                    return None
            return self._finish()

    def check(self) -> None:
        """Refuses, before anything runs, output that this schedule does not fit.

        Raises:
            ValueError: naming the node, the value and the remedy.
        """
        self._check_start()
        for node in self.schedule.nodes:
            self._check_low_rank(node)
            self._check_plan(node)
        for node in self.schedule.nodes:
            self._check_pinned(node)

    def map(self) -> str:
        """Which noise levels, and how many steps of a sampler with 25, each route owns."""
        return route_table(self.schedule)

    def dry_run(self, measured_steps: int = 3) -> str:
        """The plan and what it costs, from real steps on this device with this data. Writes nothing.

        Args:
            measured_steps: how many steps are timed of each kind of run, behind one that is not.

        Raises:
            ValueError: as `train`.
        """
        self.check()
        kinds: dict[str, float] = {}
        rows, left = [], 0.0
        for node in self.schedule.nodes:
            settings = self.settings[node.name]
            kind = repr({name: getattr(settings, name) for name in COSTLY})
            if kind not in kinds:
                kinds[kind] = self._trainer(node, self._network(node), {}).seconds_per_step(measured_steps)
                self.accelerator.free_memory()
            done = self.steps_done(node)
            left += (node.steps - done) * kinds[kind]
            rows.append((node, self.samples(node), done, kinds[kind]))
        total, hours = sum(samples for _, samples, _, _ in rows), left / 3600
        devices, kind = self.accelerator.num_processes, self.accelerator.device.type
        return (
            f"{self.map()}\n\n{plan_table(self.schedule, rows)}\n\n"
            f"{len(rows)} nodes, {sum(node.steps for node, *_ in rows):,} steps, {total:,} samples. Left: "
            f"{hours:.3g} hours on {devices} x {kind}, {hours * devices:.3g} device hours, from {measured_steps} "
            "measured steps of each kind of run; checkpoints and sample grids come on top."
        )

    # --- where the tree stands ---

    def folder(self, node: Node) -> Path:
        """The folder of a node's run."""
        return self.output / "nodes" / node.name

    def is_done(self, node: Node) -> bool:
        """Whether a node has ended: its marker is written after all else."""
        return (self.folder(node) / DONE).exists() and (self.folder(node) / "unet" / "config.json").exists()

    def steps_done(self, node: Node | None = None) -> int:
        """Steps in the newest checkpoint of a node, or of all."""
        if node is None:
            return sum(self.steps_done(one) for one in self.schedule.nodes)
        if self.is_done(node):
            return node.steps
        found = complete_checkpoints(self.folder(node))
        return step_of(found[-1]) if found else 0

    def samples(self, node: Node, steps: int | None = None) -> int:
        """Training samples of a node's first `steps` steps, by default of all, over all processes."""
        steps = node.steps if steps is None else steps
        return steps * self.settings[node.name].batch_size * self.accelerator.num_processes

    def first_item(self, node: Node) -> int:
        """How many samples the weights that a node starts from have seen: the number of its own first one."""
        step = self.schedule.start_step(node)
        if node.parent is None or step is None:
            return 0
        parent = self.schedule[node.parent]
        return self.first_item(parent) + self.samples(parent, step)

    def plan(self, node: Node) -> dict[str, Any]:
        """Everything that decides a node's weights, ancestors included."""
        return {**self._recipe(node), "dropout": vars(self.dropout), "data": self.data_settings}

    def _recipe(self, node: Node) -> dict[str, Any]:
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
        for path in sorted(_network_folder(self.schedule.start).glob("*.safetensors")):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:16]

    # --- checks ---

    def _check_budget(self) -> None:
        for name in ("max_steps_this_run", "max_minutes_this_run"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}.")

    def _check_plan(self, node: Node) -> None:
        path = self.folder(node) / PLAN
        if not path.exists() or not (self.is_done(node) or self.steps_done(node)):
            return
        difference = first_difference(json.loads(path.read_text()), self.plan(node))
        if difference is not None:
            name, before, now = difference
            state = "is done" if self.is_done(node) else f"has {self.steps_done(node)} steps"
            raise ValueError(
                f"Node {node.name!r} {state} with {name} = {before!r}, but now it is {now!r}. Change it back, give "
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
        folder = _network_folder(self.schedule.start)
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
        if not self._is_low_rank(node):
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

    # --- running ---

    def _train_node(self, node: Node) -> bool:
        """Trains a node until it is done, or this call's budget is used up: then returns False."""
        budget = broadcast_object_list([self._budget()])[0]  # clocks differ; all processes must decide alike
        if budget is None:
            return False
        number = self.schedule.nodes.index(node) + 1
        self._say(f"\n{node.name}, node {number} of {len(self.schedule.nodes)}. {self._progress()}.")
        if self.accelerator.is_main_process:
            write_json(self.folder(node) / PLAN, self.plan(node))
        # No name holds the trainer, so that its memory is free before the next one needs its own.
        step = self._trainer(node, self._start_network(node), budget).train()
        self.accelerator.free_memory()
        if step < node.steps:
            return False
        if self.accelerator.is_main_process:
            write_json(self.folder(node) / DONE, self._result(node))
        self.accelerator.wait_for_everyone()
        return True

    def _budget(self) -> dict[str, Any] | None:
        """What is left of this call's budget, as `Trainer` takes it; None if nothing is."""
        steps, minutes = self.max_steps_this_run, self.max_minutes_this_run
        if steps is not None:
            steps -= self.steps_done() - self._steps_before
        if minutes is not None:
            minutes -= (time.monotonic() - self._started) / 60
        if any(left is not None and left <= 0 for left in (steps, minutes)):
            return None
        return {"max_steps_this_run": steps, "max_minutes_this_run": minutes}

    def _trainer(self, node: Node, unet: EDiffIUNet, changes: Mapping[str, Any]) -> Trainer:
        number = self.schedule.nodes.index(node) + 1
        return Trainer(
            unet,
            self.dataset,
            self.encode_batch,
            self.folder(node),
            dataclasses.replace(self.settings[node.name], **changes),
            node.interval,
            node=node.index,
            dropout=self.dropout,
            data_settings=self.data_settings,
            sample_items=self.sample_items,
            accelerator=self.accelerator,
            keep_steps=self.schedule.pinned_steps(node.name),
            first_item=self.first_item(node),
            title=f"{node.name} ({number}/{len(self.schedule.nodes)})",
        )

    def _network(self, node: Node) -> EDiffIUNet:
        torch.manual_seed(self.settings[node.name].seed)
        unet = self.make_unet(node.interval)
        if unet.config.trained_on != node.interval.to_config():
            raise ValueError(
                f"make_unet made a network trained_on {unet.config.trained_on}, not {node.interval.ranges}."
            )
        return unet

    def _start_network(self, node: Node) -> EDiffIUNet:
        """The network from which a node's run starts; its checkpoints, if it has any, replace all weights."""
        if node.parent is None or complete_checkpoints(self.folder(node)):
            return self._network(node)
        self._say(f"Starts from {node.parent} at step {self.schedule.start_step(node)}.")
        return self._origin(node)

    def _origin(self, node: Node) -> EDiffIUNet:
        """The network with the averaged weights of a node's parent, or with those of the schedule's start."""
        unet = self._network(node)
        if node.parent is None:
            return unet
        parent, step = self.schedule[node.parent], self.schedule.start_step(node)
        if step == parent.steps:
            unet.load_state_dict(EDiffIUNet.from_pretrained(self.folder(parent) / "unet").state_dict())
            return unet
        averages = averaged_weights(self.folder(parent) / f"checkpoint-{step}")
        with torch.no_grad():
            for parameter, average in zip(unet.parameters(), averages, strict=True):
                parameter.copy_(average)
        return unet

    # --- the end ---

    def _finish(self) -> dict[str, Any]:
        """Writes the router and the report, and prints it."""
        results = {node.name: json.loads((self.folder(node) / DONE).read_text()) for node in self.schedule.nodes}
        report = {
            "nodes": results,
            "routes": [
                {"expert": route.expert, "sigma": NoiseInterval(((route.low, route.high),)).to_config()[0]}
                for route in self.schedule.routes
            ],
            "steps": sum(result["steps"] for result in results.values()),
            "samples": sum(result["samples"] for result in results.values()),
            "seconds": round(sum(result["seconds"] for result in results.values()), 1),
        }
        if self.accelerator.is_main_process:
            self._write_router()
            write_json(self.output / REPORT, report)
        self.accelerator.wait_for_everyone()
        self._say(f"\n{report_table(report)}\nThe experts are in {self.output / 'unet'}.")
        return report

    def _result(self, node: Node) -> dict[str, Any]:
        last = [line for line in RunLog(self.folder(node)).lines() if line["step"] > 0.9 * node.steps]
        bins: dict[str, list[float]] = {}
        for line in last:
            for name, loss in line["loss_per_sigma"].items():
                bins.setdefault(name, []).append(loss)
        return {
            "sigma": node.interval.to_config(),
            "init_from": None if node.parent is None else f"{node.parent}@{self.schedule.start_step(node)}",
            "steps": node.steps,
            "samples": self.samples(node),
            "loss": round(statistics.fmean(line["loss"] for line in last), 5),
            "loss_per_sigma": {name: round(statistics.fmean(losses), 5) for name, losses in bins.items()},
            "seconds": training_seconds(complete_checkpoints(self.folder(node))[-1]),
        }

    def _write_router(self) -> None:
        nodes = [self.schedule[route.expert] for route in self.schedule.routes]
        if self._share_a_start(nodes):
            experts = [LoraExpert.load(self.folder(node) / LORA_FILE) for node in nodes]
            router = ExpertRouterUNet.from_lora_experts(self._origin(nodes[0]), experts, self.schedule.boundaries)
        else:
            unets = [EDiffIUNet.from_pretrained(self.folder(node) / "unet") for node in nodes]
            router = ExpertRouterUNet.from_unets(unets, self.schedule.boundaries)
        with written_whole(self.output / "unet") as unfinished:
            router.save_pretrained(unfinished)

    def _is_low_rank(self, node: Node) -> bool:
        return self.settings[node.name].lora_rank > 0

    def _share_a_start(self, nodes: list[Node]) -> bool:
        """Whether nodes are low-rank differences from one network, which the router can then keep once."""
        starts = {(node.parent, self.schedule.start_step(node)) for node in nodes}
        return len(starts) == 1 and all(map(self._is_low_rank, nodes))

    def _progress(self) -> str:
        total, done = sum(node.steps for node in self.schedule.nodes), self.steps_done()
        text = f"{done:,} of the tree's {total:,} steps are done ({100 * done / total:.0f}%)"
        own = done - self._steps_before
        if not own:
            return text
        return f"{text}, about {(total - done) * (time.monotonic() - self._started) / own / 60:.0f} minutes are left"

    def _say(self, text: str) -> None:
        self.accelerator.print(text, flush=True)


def _network_folder(start: str) -> Path:
    """The folder of the network of a run's folder, or of a network's own.

    Raises:
        ValueError: if there is none, or several experts.
    """
    for folder in (Path(start) / "unet", Path(start)):
        if not (folder / "config.json").is_file():
            continue
        if "unets" in json.loads((folder / "config.json").read_text()):
            raise ValueError(
                f"start: {folder} holds several experts: name one of them, such as {folder / 'expert.0'}."
            )
        return folder
    raise ValueError(f"start: {start} holds no trained network: there is no {Path(start) / 'unet' / 'config.json'}.")

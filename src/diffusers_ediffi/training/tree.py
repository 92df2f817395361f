# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Trains every expert of a schedule, one run after the other; killed anywhere, the same call goes on."""

import dataclasses
import json
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
from .checkpoint import averaged_weights, complete_checkpoints, training_seconds, writing
from .conditioning import EncodeBatch
from .dropout import DropoutRates
from .learner import without_place
from .lora import LORA_FILE
from .plan import DONE, PLAN, TreePlan
from .report import cost_text, mean_losses, plan_table, report_table, route_table, tree_report
from .run import RunLog, SignalGuard, alone_in
from .schedule import Schedule
from .schedule_entries import Node
from .trainer import Trainer

# Settings that decide how long a step takes.
COSTLY = ("batch_size", "optimizer", "lora_rank", "channels_last", "compile", "gradient_checkpointing", "num_workers")
REPORT = "report.json"


class TreeTrainer(TreePlan):
    """A whole tree of experts: each node one run of `Trainer` in `output/nodes/<name>`.

    A node that is done is skipped, one with a checkpoint is resumed, and any other starts from the averaged weights
    of its parent. A child goes on in the data where its parent was. At the end `output/unet` holds the experts as an
    `ExpertRouterUNet` (one network and low-rank differences, if all routes are served by nodes with `lora_rank` that
    start from the same weights) and `output/report.json` what each run did.

    Args:
        schedule ([`Schedule`]): The nodes and routes.
        make_unet (`Callable`): Makes the network before training, with the weights of the schedule's start if it has
            one; called once for each run, after `torch.manual_seed`, with the interval that its config must name as
            `trained_on`.
        dataset (`Dataset`): Items like those of [`SceneDataset`].
        encode_batch (`Callable`): As for [`Trainer`].
        output (`str` or `Path`): The folder of the whole tree.
        overrides (`dict`, *optional*): Fields of [`TrainingSettings`] that replace those of the schedule, but not
            those of single nodes.
        dropout ([`DropoutRates`], *optional*): Rates of conditioning dropout, by default the paper's.
        data_settings (`dict`, *optional*): What else must not change between the runs, such as the list of objects.
        sample_items (`list` of `dict`, *optional*): Items, not of the training data, for the sample grids.
        max_steps_this_run (`int`, *optional*): Stop and save after so many steps of the whole tree; call again to go
            on.
        max_minutes_this_run (`float`, *optional*): Stop and save after so much time.
        accelerator (`Accelerator`, *optional*): By default it is made from the settings.

    Raises:
        ValueError: A setting makes no sense.
    """

    def __init__(
        self,
        schedule: Schedule,
        make_unet: Callable[[NoiseInterval], EDiffIUNet],
        dataset: Dataset,
        encode_batch: EncodeBatch | None,
        output: str | Path,
        overrides: Mapping[str, Any] | None = None,
        dropout: DropoutRates = DropoutRates(),  # noqa: B008 (frozen)
        data_settings: dict[str, Any] | None = None,
        sample_items: list[dict[str, Any]] | None = None,
        max_steps_this_run: int | None = None,
        max_minutes_this_run: float | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        super().__init__(schedule, output, overrides, dropout, data_settings, accelerator)
        self.make_unet = make_unet
        self.dataset, self.encode_batch = dataset, encode_batch
        self.sample_items = sample_items or []
        self.max_steps_this_run, self.max_minutes_this_run = max_steps_this_run, max_minutes_this_run
        for name in ("max_steps_this_run", "max_minutes_this_run"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}.")

    def train(self) -> dict[str, Any] | None:
        """Trains what is left of the tree.

        Returns:
            The report, or `None` if this call's budget ended before the tree was done.

        Raises:
            ValueError: The output holds runs of another plan, or lacks a checkpoint that a node starts from.
            OSError: Another process trains this tree.
            SystemExit: After SIGTERM (143) or Ctrl-C (130), with all saved.
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

    def map(self) -> str:
        """The noise levels of each route, and how many of a sampler's 25 steps they are."""
        return route_table(self.schedule)

    def dry_run(self, measured_steps: int = 3) -> str:
        """The plan and what it costs, from real steps on this device with this data. Writes nothing, and says what it
        is timing, which may take minutes.

        Args:
            measured_steps (`int`, *optional*, defaults to 3): How many steps are timed of each kind of run, behind a
                step that is not.

        Raises:
            ValueError: As in `train`.
        """
        self.check()
        seconds = self._seconds_per_step(measured_steps)
        rows = [(node, self.samples(node), self.steps_done(node), seconds[node.name]) for node in self.schedule.nodes]
        devices = (self.accelerator.num_processes, self.accelerator.device.type)
        return f"{self.map()}\n\n{plan_table(self.schedule, rows)}\n\n{cost_text(rows, *devices, measured_steps)}"

    def _seconds_per_step(self, measured_steps: int) -> dict[str, float]:
        """The time of a step of each node; nodes that differ in nothing that costs time are measured once."""
        kinds = {name: tuple(getattr(settings, field) for field in COSTLY) for name, settings in self.settings.items()}
        seconds: dict[tuple, float] = {}
        for node in self.schedule.nodes:
            kind = kinds[node.name]
            if kind not in seconds:
                pictures = f"{self.settings[node.name].batch_size:,} images"
                self._say(f"Timing {measured_steps + 1} steps of {pictures}: {node.name} ...")
                seconds[kind] = self._trainer(node, self._network(node), {}).seconds_per_step(measured_steps)
                self.accelerator.free_memory()
        return {name: seconds[kind] for name, kind in kinds.items()}

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
        """What `make_unet` makes for a node.

        Raises:
            ValueError: It is a network for another interval.
        """
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

    def _finish(self) -> dict[str, Any]:
        """Writes the router and the report, and prints it."""
        results = {node.name: json.loads((self.folder(node) / DONE).read_text()) for node in self.schedule.nodes}
        report = tree_report(results, self.schedule.routes)
        if self.accelerator.is_main_process:
            self._write_router()
            write_json(self.output / REPORT, report)
        self.accelerator.wait_for_everyone()
        self._say(f"\n{report_table(report)}\nThe experts are in {self.output / 'unet'}.")
        return report

    def _result(self, node: Node) -> dict[str, Any]:
        """What a node's run did; its losses are those of the last tenth of its steps."""
        lines = RunLog(self.folder(node)).lines()
        loss, bins = mean_losses([line for line in lines if line["step"] > 0.9 * node.steps])
        return {
            "sigma": node.interval.to_config(),
            "init_from": None if node.parent is None else f"{node.parent}@{self.schedule.start_step(node)}",
            "steps": node.steps,
            "samples": self.samples(node),
            "loss": loss,
            "loss_per_sigma": bins,
            "seconds": training_seconds(complete_checkpoints(self.folder(node))[-1]),
        }

    def _write_router(self) -> None:
        """Writes the experts of the routes to `unet/`, as differences from one network where they are."""
        nodes = [self.schedule[route.expert] for route in self.schedule.routes]
        if self._share_a_start(nodes):
            experts = [LoraExpert.load(self.folder(node) / LORA_FILE) for node in nodes]
            origin = without_place(self._origin(nodes[0]))
            router = ExpertRouterUNet.from_lora_experts(origin, experts, self.schedule.boundaries)
        else:
            unets = [without_place(EDiffIUNet.from_pretrained(self.folder(node) / "unet")) for node in nodes]
            router = ExpertRouterUNet.from_unets(unets, self.schedule.boundaries)
        with writing(self.output / "unet"), written_whole(self.output / "unet") as unfinished:
            router.save_pretrained(unfinished)

    def _share_a_start(self, nodes: list[Node]) -> bool:
        """Whether nodes are low-rank differences from one network, which the router can then keep once."""
        starts = {(node.parent, self.schedule.start_step(node)) for node in nodes}
        return len(starts) == 1 and all(map(self.is_low_rank, nodes))

    def _progress(self) -> str:
        """How many steps are done, and how many minutes the others will take if this call has done any."""
        total, done = sum(node.steps for node in self.schedule.nodes), self.steps_done()
        text = f"{done:,} of the tree's {total:,} steps are done ({100 * done / total:.0f}%)"
        done_now = done - self._steps_before
        if not done_now:
            return text
        minutes = (total - done) * (time.monotonic() - self._started) / done_now / 60
        return f"{text}, about {minutes:.0f} minutes are left"

    def _say(self, text: str) -> None:
        self.accelerator.print(text, flush=True)

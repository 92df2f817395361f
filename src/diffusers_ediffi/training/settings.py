# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""All numbers of a training run in one place, and their command-line options."""

import argparse
import math
from dataclasses import Field, dataclass, field, fields
from typing import Any

from .optimizer import OPTIMIZERS

SCHEDULES = ("constant", "cosine", "linear")
PRECISIONS = ("no", "bf16")
THIS_RUN = ("max_steps_this_run", "max_minutes_this_run")

AT_LEAST_ONE = (
    *("total_steps", "batch_size", "log_every", "sample_steps", "checkpoint_every", "keep_last"),
    "max_steps_this_run",
)
AT_LEAST_ZERO = ("warmup_steps", "weight_decay", "lora_rank", "seed", "num_workers", "sample_every")
ABOVE_ZERO = ("learning_rate", "max_grad_norm", "max_minutes_this_run")
CHOICES = {"optimizer": OPTIMIZERS, "lr_schedule": SCHEDULES, "mixed_precision": PRECISIONS}


def setting(default: Any, help: str, free: bool = False) -> Any:
    """A dataclass field with its help text; a free one may change when a run is resumed."""
    return field(default=default, metadata={"help": help, "free": free})


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of one run; the defaults of the optimiser are the paper's (Table 7).

    Raises:
        ValueError: A number makes no sense.
    """

    total_steps: int = setting(
        100_000, "optimiser steps of the whole run, to which the learning rate decays", free=True
    )
    batch_size: int = setting(
        64, "images per process and step; a launcher's gradient accumulation takes them in parts"
    )
    optimizer: str = setting("adamw", f"one of {', '.join(OPTIMIZERS)}")
    learning_rate: float = setting(1e-4, "after the warm-up", free=True)
    lr_schedule: str = setting("constant", f"after the warm-up: {', '.join(SCHEDULES)} decay to zero", free=True)
    warmup_steps: int = setting(100, "steps over which the learning rate rises", free=True)
    weight_decay: float = setting(0.01, "of the optimizer, decoupled")
    lora_rank: int = setting(0, "train a low-rank difference (LoRA) from the start, of this rank (0: all weights)")
    lora_only: bool = setting(False, "with lora_rank, keep biases, norms and embeddings as they are: a plain LoRA")
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm")
    ema_decay: float = setting(0.9999, "of the averaged weights, which are the result; it warms up from 0.1")
    seed: int = setting(0, "of noise, noise level and conditioning dropout")
    mixed_precision: str = setting("no", "no, or bf16 (on CPUs with AMX several times faster with --channels-last)")
    channels_last: bool = setting(False, "memory layout of the convolutions", free=True)
    compile: bool = setting(False, "use torch.compile", free=True)
    gradient_checkpointing: bool = setting(False, "less memory, one third more time", free=True)
    num_workers: int = setting(1, "processes that prepare data ahead (0: none)", free=True)
    max_steps_this_run: int | None = setting(None, "stop and save after so many; start again to go on", free=True)
    max_minutes_this_run: float | None = setting(None, "stop and save after so much time", free=True)
    log_every: int = setting(50, "steps between lines in log.jsonl", free=True)
    sample_every: int = setting(2000, "steps between grids in samples/ (0: none)", free=True)
    sample_steps: int = setting(25, "sampler steps of these grids", free=True)
    sample_guidance: float = setting(3.0, "classifier-free guidance of these grids", free=True)
    checkpoint_every: int = setting(1000, "steps between checkpoints", free=True)
    keep_last: int = setting(2, "checkpoints that are kept", free=True)

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        for name, value in given.items():
            if name in AT_LEAST_ONE and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
            if name in AT_LEAST_ZERO and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be 0 or more, got {value}.")
            if name in ABOVE_ZERO and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}.")
            if name in CHOICES and value not in CHOICES[name]:
                raise ValueError(f"{name} must be one of {', '.join(CHOICES[name])}, got {value!r}.")
        if self.lora_only and not self.lora_rank:
            raise ValueError("lora_only needs a lora_rank of 1 or more, got 0.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}.")

    def fixed(self) -> dict[str, Any]:
        """The settings that a resumed run must share with its checkpoint."""
        return {f.name: getattr(self, f.name) for f in fields(self) if not f.metadata["free"]}

    def free(self) -> dict[str, Any]:
        """The settings that a resumed run may change, but for the budget of a single run."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.metadata["free"] and f.name not in THIS_RUN}

    def recipe(self) -> dict[str, Any]:
        """Everything that decides what a whole run learns: `fixed()`, its length and its learning rates."""
        shape = ("total_steps", "learning_rate", "lr_schedule", "warmup_steps")
        return {**self.fixed(), **{name: getattr(self, name) for name in shape}}

    def learning_rate_at(self, step: int) -> float:
        """Warm-up, then constant, cosine or linear decay that reaches 0 at `total_steps`."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.lr_schedule == "constant":
            return self.learning_rate
        done = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        return self.learning_rate * (
            0.5 * (1 + math.cos(math.pi * done)) if self.lr_schedule == "cosine" else 1 - done
        )

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser, scheduled: bool = False, **defaults: Any) -> None:
        """Adds an option for each setting.

        Args:
            parser (`argparse.ArgumentParser`): Receives the options.
            scheduled (`bool`, *optional*, defaults to `False`): Whether the settings stand in a schedule: options that
                are not given are `None`, and `total_steps`, which each node has, is left out.
            defaults: Defaults that replace those of the class, by the name of the setting.
        """
        group = parser.add_argument_group("training")
        for f in fields(cls):
            if not (scheduled and f.name == "total_steps"):
                default = defaults.get(f.name, f.default)
                group.add_argument("--" + f.name.replace("_", "-"), **_option(f, default, scheduled))

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> "TrainingSettings":
        """The settings out of parsed options."""
        return cls(**{f.name: getattr(arguments, f.name) for f in fields(cls)})


def _option(f: Field, default: Any, scheduled: bool) -> dict[str, Any]:
    """The arguments of `add_argument` for a setting."""
    text, unset = f.metadata["help"], None if scheduled else default
    if isinstance(default, bool):
        return {"action": argparse.BooleanOptionalAction, "default": unset, "help": text}
    shown = default if not scheduled or f.name in THIS_RUN else "the schedule's"
    kind = {"max_steps_this_run": int, "max_minutes_this_run": float}.get(f.name, type(default))
    return {"type": kind, "default": unset, "help": f"{text} (default: {shown})"}

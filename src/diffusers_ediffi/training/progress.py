# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The losses and the time of a run, and what it tells of them: log lines, a progress bar, announcements."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from ..edm import karras_sigmas
from .loss import SIGMA_BINS, SigmaBinLog, first_spoilt
from .run import RunLog
from .settings import TrainingSettings

if TYPE_CHECKING:
    from ..experts.noise_interval import NoiseInterval

SAMPLING_STEPS = 25
TRACKED = ("loss", "grad_norm", "learning_rate", "images_per_second")


class Progress:
    """How far a run is.

    Args:
        output (`Path`): The run's folder, for `log.jsonl`.
        settings ([`TrainingSettings`]): The numbers of the run.
        accelerator (`Accelerator`): Its main process writes and speaks.
        title (`str`, *optional*): Stands before the progress bar.
        edges (`tuple` of `float`, *optional*): The noise levels between which losses are told apart.
    """

    def __init__(
        self,
        output: Path,
        settings: TrainingSettings,
        accelerator: Accelerator,
        title: str | None,
        edges: tuple[float, ...] = SIGMA_BINS,
    ) -> None:
        self.settings, self.accelerator = settings, accelerator
        self.title = title
        self.log, self.bins = RunLog(output), SigmaBinLog(accelerator.device, edges)
        self._seconds_before = 0.0
        self.start(0)

    def start(self, step: int) -> None:
        """Training goes on now, from this step."""
        self._started = self._log_time = time.monotonic()
        self._first_step = self._log_step = step

    def resume(self, step: int, seconds: float, bin_sums: torch.Tensor | None) -> None:
        """Goes on from a checkpoint: its step, the training time before it, and the losses it has not logged yet."""
        if bin_sums is not None and self.accelerator.is_main_process:
            self.bins.sums.copy_(bin_sums)
        self._seconds_before = seconds
        self.start(step)

    @property
    def seconds(self) -> float:
        """Training time of the steps so far, over all runs; steps that a kill made to be repeated count once."""
        return self._seconds_before + self.seconds_of_this_run

    @property
    def seconds_of_this_run(self) -> float:
        """Training time since `start`."""
        return time.monotonic() - self._started

    def budget_used(self, step: int) -> str | None:
        """Why the run ends at a step, if its minutes are over; it makes one step at least."""
        limit = self.settings.max_minutes_this_run
        if limit is None or step == self._first_step or self.seconds_of_this_run <= 60 * limit:
            return None
        return "this run's minutes are over"

    def read_losses(self) -> tuple[float, dict[str, float]]:
        """The mean loss since the last reading, over all processes, and that of each bin of noise levels."""
        return self.bins.read(self.accelerator.reduce(self.bins.sums.clone()))

    def spoilt(self) -> str:
        """Where the loss is not finite, over all processes."""
        found = first_spoilt(self.accelerator.gather(self.bins.spoilt), self.bins.names)
        if found is None:
            return "The gradient is not finite"
        step, bins = found
        return f"The loss is not finite since step {step}, first at noise levels sigma {', '.join(bins)},"

    def write_line(self, step: int, loss: float, bins: dict[str, float], grad_norm: float) -> None:
        """Appends what is known at a step to log.jsonl."""
        now, steps = time.monotonic(), step - self._log_step
        seconds = max(now - self._log_time, 1e-9)
        images_per_step = self.settings.batch_size * self.accelerator.num_processes
        line = {
            "step": step,
            "samples": step * images_per_step,
            "loss": round(loss, 5),
            "loss_per_sigma": {name: round(value, 5) for name, value in bins.items()},
            "grad_norm": round(grad_norm, 4),
            "learning_rate": self.settings.learning_rate_at(step - 1),
            "images_per_second": round(steps * images_per_step / seconds, 2),
            "minutes_left": round((self.settings.total_steps - step) * seconds / steps / 60, 1),
        }
        self._log_time, self._log_step = now, step
        if self.accelerator.is_main_process:
            self.log.append(line)
        named = {f"{self.title or 'training'}/{name}": line[name] for name in TRACKED}
        self.accelerator.log(named, step=step)  # to the trackers, where it has some

    def bar(self, step: int, total: int | None = None) -> tqdm:
        """A progress bar that stands at this step of so many, by default of the whole run's."""
        return tqdm(
            initial=step,
            total=total or self.settings.total_steps,
            unit="step",
            desc=self.title,
            mininterval=0.5 if sys.stderr.isatty() else 30,
            disable=not self.accelerator.is_main_process,
        )

    def say(self, text: str) -> None:
        """Prints a line, once for all processes."""
        self.accelerator.print(text, flush=True)


def announcement(interval: "NoiseInterval", trained: int, parameters: int) -> str:
    """What a run says before it starts: how many of how many parameters it trains, and on which noise levels."""
    steps = sum(interval.contains(sigma) for sigma in karras_sigmas(SAMPLING_STEPS).tolist())
    ranges = ", ".join(f"[{low:.4g}, {high:.4g})" for low, high in interval.ranges)
    size = f"{parameters / 1e6:.1f}M"
    if trained != parameters:
        size = f"{trained / 1e6:.1f}M (LoRA) of {size}"
    return f"Training {size} parameters on sigma in {ranges}: {steps} of {SAMPLING_STEPS} sampling steps."

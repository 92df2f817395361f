# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Trains one denoiser on one noise interval; cut anywhere, it goes on exactly where it was."""

import math
import statistics
import time
from collections.abc import Collection, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..experts.noise_interval import NoiseInterval
from ..models.low_res import upsample_low_res
from ..paint.processor import painted
from .checkpoint import (
    FREE,
    MARKER,
    last_good,
    load_newest,
    remove_incomplete,
    save_checkpoint,
    set_aside_after,
    training_seconds,
)
from .conditioning import BatchConditioner, EncodeBatch
from .data import StepBatchSampler, collate, image_to_float, make_loader
from .dropout import DropoutRates, Kept
from .launch import Share, StopVotes, losses_named, make_accelerator, part_of, parts
from .loss import edm_loss, step_generator
from .noise_augmentation import augment_batch
from .prior import WEIGHT
from .progress import Progress, announcement
from .run import Abandoned, alone_in
from .sampling import sample_rows, write_grid
from .settings import TrainingSettings
from .shared_lora import bins_of, make_learner

if TYPE_CHECKING:
    from ..models.unet import EDiffIUNet


class Trainer:
    """One node of the expert tree, one run, one folder.

    `output` receives `checkpoint-<step>/`, `log.jsonl`, `samples/` and, whenever a run ends, `unet/`: the averaged
    weights as `EDiffIUNet.from_pretrained` reads them; with `lora_rank` also `lora_expert.safetensors`, their
    difference from the start as `LoraExpert.load` reads it. Starting again with the same arguments resumes.

    Args:
        unet ([`EDiffIUNet`]): The network; its weights, in single precision, are where a fresh run starts. Its
            config comes to say as `trained_on` what `interval` is. Or a [`SharedLora`] of several.
        dataset (`Dataset`): Items like those of [`SceneDataset`]. Such as have a `weight`, as those of
            [`PriorDataset`], count so much in the loss.
        encode_batch (`Callable`): `(captions, clip_images uint8, keep_image)` to keyword arguments of the network,
            such as [`ConditioningEncoder`], whose `region_columns` is needed for items with regions; `None` for items
            with `embeddings`, such as those of [`PictureDataset`] with an [`EmbeddingCache`].
        output (`str` or `Path`): The run's folder.
        settings ([`TrainingSettings`]): All numbers.
        interval ([`NoiseInterval`]): The noise levels to train on.
        node (`tuple` of `int`, *optional*, defaults to `(0, 0)`): Level and index of the run in the expert tree; part
            of the key of its random numbers.
        dropout ([`DropoutRates`], *optional*): Rates of conditioning dropout, by default the paper's.
        data_settings (`dict`, *optional*): What else a resumed run must share, such as the list of objects.
        sample_items (`list` of `dict`, *optional*): Items, not of the training data, for the sample grids.
        accelerator (`Accelerator`, *optional*): By default it is made from the settings.
        keep_steps (collection of `int`, *optional*): Steps at which a checkpoint is written and never rotated away:
            other nodes start from them.
        first_item (`int`, *optional*, defaults to 0): Number of the first item to train on; a node goes on in the data
            where its parent was.
        title (`str`, *optional*): Stands before the progress bar.

    Raises:
        TypeError: The network is not an `EDiffIUNet`.
        ValueError: Its weights are of low precision, its output is not EDM's, or the launcher asks for what no run can
            honour.
    """

    def __init__(
        self,
        unet: "EDiffIUNet",
        dataset: Dataset,
        encode_batch: EncodeBatch | None,
        output: str | Path,
        settings: TrainingSettings,
        interval: NoiseInterval,
        node: tuple[int, int] = (0, 0),
        dropout: DropoutRates = DropoutRates(),  # noqa: B008 (frozen)
        data_settings: dict[str, Any] | None = None,
        sample_items: list[dict[str, Any]] | None = None,
        accelerator: Accelerator | None = None,
        keep_steps: Collection[int] = (),
        first_item: int = 0,
        title: str | None = None,
    ) -> None:
        accelerator = accelerator or make_accelerator(settings.mixed_precision)
        self.output, self.settings = Path(output), settings
        self.interval, self.node = interval, node
        self.dataset, self.first_item = dataset, first_item
        self.data_settings, self.sample_items = data_settings or {}, sample_items or []
        self.keep_steps = frozenset(keep_steps)
        self.conditioner = BatchConditioner(encode_batch, dropout, accelerator.device)
        self.learner = make_learner(unet, settings, accelerator)
        if NoiseInterval.from_config(unet.config.trained_on).ranges != interval.ranges:
            unet.register_to_config(trained_on=interval.to_config())
        self.progress = Progress(self.output, settings, accelerator, title, bins_of(interval))
        self.votes = StopVotes(accelerator)
        self.step = 0

    def train(self, until: int | None = None) -> int:
        """Trains to `total_steps` or to this run's limit of steps or minutes; saves; returns the step.

        Args:
            until (`int`, *optional*): A step to stop at before `total_steps`; nothing is trained where it is reached.

        Raises:
            SystemExit: After SIGTERM (143) or Ctrl-C (130), once all is saved, so that what would follow does not
                take the run for a finished one.
            ValueError: The output folder holds a run with other settings.
            OSError: Another process trains in the output folder, or it cannot be written.
            FloatingPointError: The loss is no longer finite.
            LostProcessError: Another process of the run has ended.
        """
        lock = alone_in(self.output) if self.accelerator.is_main_process else nullcontext()
        with losses_named(self.output), lock:
            return self._train(min(until or self.settings.total_steps, self.settings.total_steps))

    def _train(self, end: int) -> int:
        total = self.settings.total_steps
        self._resume()
        if self.step >= end:
            self._write_weights()  # a run that was killed after its last checkpoint has not written them
            self.progress.say(f"All {end} steps are done; the weights are in {self.output / 'unet'}.")
            return self.step
        last = min(end, self.step + (self.settings.max_steps_this_run or end))
        self._announce()
        with self.votes.guard as guard:
            # Held here, so that no worker process is waited for before all is saved.
            batches = iter(self._loader(self.step, last, self.settings.num_workers))
            reason = self._train_to(last, batches) or ("this run's steps are done" if last < total else "finished")
            self.save()
            self._write_weights()
            reason = guard.received.name if guard.received else reason
            self.progress.say(f"Stopped at step {self.step} of {total} ({reason}); weights: {self.output / 'unet'}")
        return self.step

    def _train_to(self, last: int, batches: Iterator[dict[str, Any]]) -> str | None:
        """Trains to a step, or until there is a reason to stop before it, which is returned."""
        self.progress.start(self.step)
        with self.progress.bar(self.step) as bar:
            while self.step < last:
                batch = self._next_batch(batches)
                reason = self.votes.agreed(self.progress.budget_used(self.step))
                if reason is not None:
                    return reason
                try:
                    self.train_step(batch)
                except Abandoned:
                    self.learner.optimizer.zero_grad()
                    continue
                bar.update()
                self._after_step(bar)
        return self.votes.agreed(self.progress.budget_used(self.step))

    def _next_batch(self, batches: Iterator[dict[str, Any]]) -> Any:
        """The next batch; none, as soon as a signal comes."""
        try:
            with self.votes.guard.abandons():
                return next(batches)
        except Abandoned:
            return None

    def train_step(self, batch: dict[str, Any]) -> None:
        """One optimiser step on a batch of items; every random number depends on (seed, node, step) and on the place
        of its sample among those of all processes alone, but for dropout in the network, which has one of (seed, node,
        step, rank)."""
        # What is abandoned is done again. Of several processes each waits for the others' gradients, so none may.
        with self.votes.guard.abandons() if self.votes.alone else nullcontext():
            sigma, losses = self._gradients(batch)
        self.learner.step(self.settings.learning_rate_at(self.step))
        self.step += 1
        self.progress.bins.add(sigma, losses, self.step)

    def _gradients(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes the gradients of a batch; returns its noise levels and losses, both `(batch,)`."""
        share, config = Share.of_process(self.accelerator), self.unet.config
        key = (self.settings.seed, self.node, self.step)
        torch.manual_seed(step_generator(*key, share.rank).initial_seed())  # for dropout inside the network
        generator = step_generator(*key, 0, self.device)
        with torch.no_grad():
            with self.accelerator.autocast():
                conditioning, kept = self.conditioner.draw(batch, generator, share)
            images, low_res = self._images(batch)
            size, shape = len(images), images.shape[1:]
            where: dict[str, Any] = {"generator": generator, "device": self.device}
            sigma = share.of(lambda number: self.interval.sample((number,), **where), size)
            noise = share.of(lambda number: torch.randn(number, *shape, **where), size)
            low_res, conditioning, residual = augment_batch(config, low_res, conditioning, generator, share)
        inputs = (images, sigma, noise, conditioning, low_res, config.sigma_data, residual)
        rows = parts(len(images), self.accelerator.gradient_accumulation_steps)
        losses = []
        for some in rows:
            with nullcontext() if some is rows[-1] else self.accelerator.no_sync(self.network):
                losses.append(
                    self._gradients_of_part(part_of(batch, some), part_of(kept, some), part_of(inputs, some))
                )
        return sigma, torch.cat(losses)

    def _gradients_of_part(self, batch: dict[str, Any], kept: Kept, inputs: tuple) -> torch.Tensor:
        """Adds the share that some samples have in the gradients of a batch; returns their losses."""
        with painted(self.unet, self.conditioner.painting(batch, kept)):
            losses = edm_loss(self.network, *inputs)
            weighted = losses * batch[WEIGHT].to(self.device) if WEIGHT in batch else losses
            # accelerate divides by the number of parts, which need not be equal
            share = self.accelerator.gradient_accumulation_steps / self.settings.batch_size
            self.accelerator.backward(weighted.sum() * share)  # painted as well: it may compute layers again
        return losses.detach()

    def _images(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The clean images and the upsampled low-resolution ones in [-1, 1], on the device."""
        images = image_to_float(batch["image"].to(self.device, non_blocking=True))
        if self.settings.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        if "low_res" not in batch:
            return images, None
        small = image_to_float(batch["low_res"].to(self.device, non_blocking=True))
        return images, upsample_low_res(small, (images.shape[-2], images.shape[-1]))

    def _loader(self, first: int, last: int, num_workers: int) -> DataLoader:
        """The batches of this process for the steps `first` to `last`, exclusive."""
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        sampler = StepBatchSampler(self.settings.batch_size, first, last, rank, ranks, self.first_item)
        return make_loader(self.dataset, sampler, num_workers, self.device.type == "cuda")

    def _after_step(self, bar: tqdm) -> None:
        """Logs, draws and saves, each at its steps."""
        settings = self.settings
        if self.step % settings.log_every == 0 or self.step == settings.total_steps:
            bar.set_postfix(loss=f"{self._log():.4f}")
        if settings.sample_every and self.step % settings.sample_every == 0:
            self.write_samples()
        if self.step % settings.checkpoint_every == 0 or self.step in self.keep_steps:
            self.save()

    def _log(self) -> float:
        """Writes a line to log.jsonl and returns the mean loss since the last one."""
        loss, bins = self.progress.read_losses()
        self._check_finite(loss)
        self.progress.write_line(self.step, loss, bins, float(self.learner.grad_norm))
        return loss

    @torch.no_grad()
    def write_samples(self) -> None:
        """Writes `samples/step-<step>.png`: what the averaged weights draw, for SR their input, and real images.

        A signal leaves the picture out: it is not waited for.
        """
        if not self.sample_items:
            return
        unet = self.ema_unet()
        if unet is None:
            return
        unet.to(self.device)
        batch = collate(self.sample_items)
        images, low_res = self._images(batch)
        conditioning = self.conditioner.texts(batch)
        try:
            with self.votes.guard.abandons(), self.accelerator.autocast():
                rows = sample_rows(unet, self.interval, self.settings, images, low_res, conditioning)
        except Abandoned:
            return
        write_grid(rows, batch["caption"], self.output / "samples", self.step)

    def save(self) -> None:
        """Writes a checkpoint of the present step, unless there is one or the weights are spoilt."""
        # Of all processes, so that a log line tells the same, whether or not the run was cut.
        bins = self.accelerator.reduce(self.progress.bins.sums.clone())
        self._check_finite(bins.sum() + self.learner.grad_norm)
        state = {"step": self.step, **self.learner.state_dict(), "bins": bins}
        if self.accelerator.is_main_process and not (self.output / f"checkpoint-{self.step}" / MARKER).exists():
            save_checkpoint(
                self.output,
                self.step,
                state,
                self._fixed_settings(),
                self.settings.keep_last,
                self.keep_steps,
                self.seconds,
            )
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        """Loads the newest complete checkpoint, if there is one, and cuts the log back to it."""
        self.output.mkdir(parents=True, exist_ok=True)
        if self.accelerator.is_main_process:
            remove_incomplete(self.output)
        self.accelerator.wait_for_everyone()
        found = load_newest(self.output, self._fixed_settings(), self.progress.say)
        self.accelerator.wait_for_everyone()
        if found:
            folder, state = found
            self.learner.load_state_dict(state)
            self.step = state["step"]
            self.progress.resume(self.step, training_seconds(folder), state.get("bins"))
            self.progress.say(f"Resuming from {folder}.")
        if self.accelerator.is_main_process:
            if found:
                set_aside_after(folder)
            self.progress.log.cut_back(self.step)

    def _fixed_settings(self) -> dict[str, Any]:
        """What a resumed run must share with its checkpoint, and what it may change."""
        return {
            **self.settings.fixed(),
            FREE: self.settings.free(),
            "num_processes": self.accelerator.num_processes,
            "node": self.node,
            "interval": self.interval.to_config(),
            "p_mean": self.interval.p_mean,
            "p_std": self.interval.p_std,
            "dropout": vars(self.conditioner.rates),
            "data": self.data_settings,
            "first_item": self.first_item,
            "unet": {name: value for name, value in self.unet.config.items() if not name.startswith("_")},
        }

    def _check_finite(self, value: float | torch.Tensor) -> None:
        if not math.isfinite(float(value)):
            raise FloatingPointError(
                f"{self.progress.spoilt()} as is seen at step {self.step}; nothing of it was saved. "
                f"{last_good(self.output)} "
                f"Start again with a lower learning rate than {self.settings.learning_rate:g}, or without bf16."
            )

    def _write_weights(self) -> None:
        self.learner.write(self.output)
        self.accelerator.wait_for_everyone()

    def _announce(self) -> None:
        trained, size = (sum(p.numel() for p in ps) for ps in (self.learner.parameters, self.unet.parameters()))
        self.progress.say(announcement(self.interval, trained, size))

    def seconds_per_step(self, steps: int) -> float:
        """The time of one optimiser step, measured with real batches after one that warms up. Writes nothing.

        Rendering ahead is taken to hide behind the network, as far as the worker processes are fast enough for it.
        The trainer is of no use for training afterwards.

        Args:
            steps (`int`): How many steps are timed; the median counts.
        """
        workers = self.settings.num_workers
        loading, training = [], []
        ended = time.monotonic()
        with self.progress.bar(0, steps + 1) as bar:
            for batch in self._loader(0, steps + 1, num_workers=0):
                loaded = time.monotonic()
                self.train_step(batch)
                float(self.learner.grad_norm)  # waits for the device
                loading.append(loaded - ended)
                training.append(-loaded + (ended := time.monotonic()))
                bar.update()
        load, train = statistics.median(loading[1:]), statistics.median(training[1:])
        return max(train, load / workers) if workers else train + load

    @property
    def accelerator(self) -> Accelerator:
        """What knows the other processes of the run."""
        return self.learner.accelerator

    @property
    def device(self) -> torch.device:
        """Where the run computes."""
        return self.accelerator.device

    @property
    def unet(self) -> "EDiffIUNet":
        """The network in training, as a plain module."""
        return self.learner.unet

    @property
    def network(self) -> Any:
        """The network as it is called: over all processes, compiled."""
        return self.learner.network

    @property
    def ema(self) -> EMAModel:
        """The moving average of the weights."""
        return self.learner.ema

    @property
    def seconds(self) -> float:
        """Training time of the steps so far, over all runs; steps that a kill made to be repeated count once."""
        return self.progress.seconds

    def ema_unet(self) -> "EDiffIUNet | None":
        """A copy of the network with the averaged weights, in plain memory layout, on the main process; `None` on
        others. Every process must ask for it."""
        return self.learner.averaged()

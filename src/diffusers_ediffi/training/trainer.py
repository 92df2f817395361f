# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Trains one denoiser on one noise interval; cut anywhere, it goes on exactly where it was."""

import math
import statistics
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..edm import c_in, c_noise, denoised_from_model_output, expand_as, karras_sigmas, noisy_residual
from ..experts.lora import LoraExpert
from ..files import written_whole
from ..models.conditioning import NULL_COLUMN
from ..models.low_res import augment_low_res, upsample_low_res
from ..paint.paint_with_words import painted
from ..paint.painting import Painting
from ..provenance import Provenance, save_image
from .checkpoint import (
    complete_checkpoints,
    load_checkpoint,
    remove_incomplete,
    save_checkpoint,
    training_seconds,
)
from .data import StepBatchSampler, collate, float_to_image, image_to_float, make_loader
from .dropout import DropoutRates, Kept, draw_kept, keep_only
from .lora import add_lora, merged, trained_expert
from .loss import SigmaBinLog, edm_loss, step_generator
from .optimizer import make_optimizer
from .run import RunLog, SignalGuard
from .sampling import image_grid, sample_images
from .settings import TrainingSettings

if TYPE_CHECKING:
    from ..experts.noise_interval import NoiseInterval
    from ..models.unet import EDiffIUNet

PAINT_STRENGTH = 0.4  # w' of a region with the weight 1
LORA_FILE = "lora_expert.safetensors"
EncodeBatch = Callable[[list[str], torch.Tensor, torch.Tensor | None], dict[str, Any]]


class Trainer:
    """One node of the expert tree, one run, one folder.

    `output` receives `checkpoint-<step>/`, `log.jsonl`, `samples/` and, whenever a run ends, `unet/`: the averaged
    weights as `EDiffIUNet.from_pretrained` reads them; with `lora_rank` also `lora_expert.safetensors`, their
    difference from the start as `LoraExpert.load` reads it. Starting again with the same arguments resumes.

    Args:
        unet: the network; its weights are where a fresh run starts.
        dataset: items as those of `SceneDataset`.
        encode_batch: (captions, clip_images uint8, keep_image) -> keyword arguments of the network, such as
            `ConditioningEncoder`, whose `region_columns` is needed for items with regions.
        output: the run's folder.
        settings: all numbers.
        interval: the noise levels to train on.
        node: (level, index) of the run in the expert tree; part of the key of its random numbers.
        dropout: rates of conditioning dropout.
        data_settings: what else a resumed run must share, such as the list of objects.
        sample_items: items, not of the training data, for the sample grids.
        accelerator: made from the settings by default.
        keep_steps: steps at which a checkpoint is written and never rotated away: other nodes start from them.
        first_item: number of the first item to train on; a node goes on in the data where its parent was.
        title: stands before the progress bar.
    """

    def __init__(
        self,
        unet: "EDiffIUNet",
        dataset: Dataset,
        encode_batch: EncodeBatch,
        output: str | Path,
        settings: TrainingSettings,
        interval: "NoiseInterval",
        node: tuple[int, int] = (0, 0),
        dropout: DropoutRates = DropoutRates(),  # noqa: B008 (frozen)
        data_settings: dict[str, Any] | None = None,
        sample_items: list[dict[str, Any]] | None = None,
        accelerator: Accelerator | None = None,
        keep_steps: Collection[int] = (),
        first_item: int = 0,
        title: str | None = None,
    ) -> None:
        self.accelerator = accelerator or Accelerator(mixed_precision=settings.mixed_precision)
        self.device = self.accelerator.device
        self.dataset, self.output = dataset, Path(output)
        self.encode_batch: Any = encode_batch
        self.settings, self.interval, self.node, self.dropout = settings, interval, node, dropout
        self.data_settings, self.sample_items = data_settings or {}, sample_items or []
        self.sigma_data, self.sigma_residual = unet.config.sigma_data, unet.config.sigma_residual
        self.max_noise_level = unet.config.max_noise_level
        self.keep_steps, self.first_item, self.title = frozenset(keep_steps), first_item, title
        self.step = 0
        self._seconds_before, self._started = 0.0, time.monotonic()
        self.grad_norm = torch.zeros(())
        self.bins = SigmaBinLog(self.device)
        self.log = RunLog(self.output)
        self._stop_reason: str | None = None
        self._prepare(unet)

    def _prepare(self, unet: "EDiffIUNet") -> None:
        layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        if self.settings.lora_rank:
            torch.manual_seed(self.settings.seed)
            add_lora(unet, self.settings.lora_rank)
        self.unet = unet.to(self.device, memory_format=layout).train()
        if self.settings.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        self.parameters = [p for p in self.unet.parameters() if p.requires_grad]
        optimizer = make_optimizer(
            self.settings.optimizer, self.unet, self.settings.learning_rate, self.settings.weight_decay
        )
        # self.unet stays the plain module: what is saved never carries the prefixes of DDP or torch.compile.
        network, self.optimizer = self.accelerator.prepare(self.unet, optimizer)
        self.network = torch.compile(network) if self.settings.compile else network
        self.ema = EMAModel(self.parameters, decay=self.settings.ema_decay, foreach=True)

    def train(self) -> int:
        """Trains to `total_steps` or to this run's limit of steps or minutes; saves; returns the step.

        Raises:
            SystemExit: after SIGTERM (143) or Ctrl-C (130), once all is saved, so that what would follow does not
                take the run for one that has ended.
            ValueError: if the output folder holds a run with other settings.
            FloatingPointError: if the loss is no longer finite.
        """
        self._resume()
        if self.step >= self.settings.total_steps:
            self._write_weights()  # a run that was killed after its last checkpoint has not written them
            self._say(f"All {self.settings.total_steps} steps are done; the weights are in {self.output / 'unet'}.")
            return self.step
        first, last = self.step, self.settings.total_steps
        if self.settings.max_steps_this_run is not None:
            last = min(last, first + self.settings.max_steps_this_run)
        self._announce()
        self._started = self._log_time = time.monotonic()
        self._log_step = first
        with SignalGuard() as guard:
            with self._progress() as progress:
                for batch in self._loader(first, last, self.settings.num_workers):
                    self.train_step(batch)
                    progress.update()
                    if self.step % self.settings.log_every == 0 or self.step == self.settings.total_steps:
                        progress.set_postfix(loss=f"{self._log():.4f}")
                    if self.settings.sample_every and self.step % self.settings.sample_every == 0:
                        self.write_samples()
                    if self.step % self.settings.checkpoint_every == 0 or self.step in self.keep_steps:
                        self.save()
                    if self._should_stop(guard):
                        break
                self.save()
                self._write_weights()
            done = "this run's steps are done" if last < self.settings.total_steps else "finished"
            done = guard.received.name if guard.received else self._stop_reason or done
            weights = self.output / "unet"
            self._say(f"Stopped at step {self.step} of {self.settings.total_steps} ({done}); weights: {weights}")
        return self.step

    def _loader(self, first: int, last: int, num_workers: int) -> DataLoader:
        """The batches of this process for the steps `first` to `last`, exclusive."""
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        sampler = StepBatchSampler(self.settings.batch_size, first, last, rank, ranks, self.first_item)
        return make_loader(self.dataset, sampler, num_workers, self.device.type == "cuda")

    def seconds_per_step(self, steps: int) -> float:
        """The time of one optimiser step, measured with real batches after one that warms up. Writes nothing.

        Rendering ahead is taken to hide behind the network, as far as the worker processes are fast enough for it.
        The trainer is of no use for training afterwards.

        Args:
            steps: how many steps are timed; the median counts.
        """
        workers = self.settings.num_workers
        loading, training = [], []
        ended = time.monotonic()
        for batch in self._loader(0, steps + 1, num_workers=0):
            loaded = time.monotonic()
            self.train_step(batch)
            float(self.grad_norm)  # waits for the device
            loading.append(loaded - ended)
            training.append(-loaded + (ended := time.monotonic()))
        load, train = statistics.median(loading[1:]), statistics.median(training[1:])
        return max(train, load / workers) if workers else train + load

    def train_step(self, batch: dict[str, Any]) -> None:
        """One optimiser step on a batch of items; every random number depends on (seed, node, step, rank) alone."""
        rank = self.accelerator.process_index
        generator = step_generator(self.settings.seed, self.node, self.step, rank, self.device)
        torch.manual_seed(generator.initial_seed())  # for dropout inside the network
        kept = draw_kept(len(batch["image"]), self.dropout, generator)
        with torch.no_grad(), self.accelerator.autocast():
            conditioning = keep_only(self.encode_batch(batch["caption"], batch["clip_image"], kept.clip_image), kept)
        with torch.no_grad():
            images, low_res = self._images(batch)
            sigma = self.interval.sample((len(images),), generator=generator, device=self.device)
            noise = torch.randn(images.shape, generator=generator, device=self.device)
            residual = self.sigma_residual
            if low_res is not None and self.max_noise_level is not None:
                level = self.max_noise_level * torch.rand(len(images), generator=generator, device=self.device)
                low_res = self._augmented(low_res, level, generator, conditioning)
                residual = residual and noisy_residual(residual, level)
        with painted(self.unet, self._painting(batch, kept)):  # the backward pass, too: it may compute layers again
            losses = edm_loss(self.network, images, sigma, noise, conditioning, low_res, self.sigma_data, residual)
            self.accelerator.backward(losses.mean())
        self.grad_norm = self.accelerator.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate_at(self.step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.parameters)
        self.bins.add(sigma, losses)
        self.step += 1

    def _painting(self, batch: dict[str, Any], kept: Kept) -> Painting | None:
        """The regions of a batch, painted on the words that its samples keep."""
        regions = batch.get("regions", [])
        rows = zip(batch["caption"], regions, kept.clip_text.tolist(), kept.t5.tolist(), strict=False)
        columns = [self.encode_batch.region_columns(*row) if row[1] else [] for row in rows]
        if not any(any(own) for own in columns):
            return None
        return Painting(regions, columns, NULL_COLUMN + 1, PAINT_STRENGTH)

    def _images(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The clean images and the upsampled low-resolution ones in [-1, 1], on the device."""
        images = image_to_float(batch["image"].to(self.device, non_blocking=True))
        if self.settings.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        if "low_res" not in batch:
            return images, None
        small = image_to_float(batch["low_res"].to(self.device, non_blocking=True))
        return images, upsample_low_res(small, (images.shape[-2], images.shape[-1]))

    def _augmented(
        self, low_res: torch.Tensor, level: torch.Tensor, generator: torch.Generator, conditioning: dict[str, Any]
    ) -> torch.Tensor:
        """The low-resolution images with noise of the level `(batch,)`, which the network is told."""
        conditioning["class_labels"] = level
        noise = torch.randn(low_res.shape, generator=generator, device=generator.device).to(low_res)
        return augment_low_res(low_res, noise, level)

    def save(self) -> None:
        """Writes a checkpoint of the present step, unless there is one or the weights are spoilt."""
        self._check_finite(self.bins.sums.sum() + self.grad_norm)
        if self.accelerator.is_main_process and not (self.output / f"checkpoint-{self.step}" / "COMPLETE").exists():
            state = {
                "step": self.step,
                "model": self.unet.state_dict(),
                "ema": self.ema.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "bins": self.bins.sums,  # so that a log line tells the same, whether or not the run was cut before it
            }
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

    @property
    def seconds(self) -> float:
        """Training time of the steps so far, over all runs; steps that a kill made to be repeated count once."""
        return self._seconds_before + time.monotonic() - self._started

    def _resume(self) -> None:
        """Loads the newest complete checkpoint, if there is one, and cuts the log back to it."""
        self.output.mkdir(parents=True, exist_ok=True)
        if self.accelerator.is_main_process:
            remove_incomplete(self.output)
        self.accelerator.wait_for_everyone()
        found = complete_checkpoints(self.output)
        if found:
            state = load_checkpoint(found[-1], self._fixed_settings())
            self.unet.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.ema.load_state_dict(state["ema"])
            self.step = state["step"]
            if "bins" in state and self.accelerator.is_main_process:
                self.bins.sums.copy_(state["bins"])
            self._seconds_before, self._started = training_seconds(found[-1]), time.monotonic()
            self._say(f"Resuming from {found[-1]}.")
        self.ema.to(self.device)
        if self.accelerator.is_main_process:
            self.log.cut_back(self.step)

    def _fixed_settings(self) -> dict[str, Any]:
        config = {k: v for k, v in self.unet.config.items() if not k.startswith("_")}
        return {
            **self.settings.fixed(),
            "num_processes": self.accelerator.num_processes,
            "node": self.node,
            "interval": self.interval.to_config(),
            "p_mean": self.interval.p_mean,
            "p_std": self.interval.p_std,
            "dropout": vars(self.dropout),
            "data": self.data_settings,
            "first_item": self.first_item,
            "unet": config,
        }

    def ema_unet(self) -> "EDiffIUNet":
        """A copy of the network with the averaged weights, in plain memory layout."""
        if self.settings.lora_rank:
            return merged(self.unet, self.lora_expert()).eval()
        copy = type(self.unet).from_config(self.unet.config)
        with torch.no_grad():
            for parameter, average in zip(copy.parameters(), self.ema.shadow_params, strict=True):
                parameter.copy_(average)
        return copy.eval()

    def lora_expert(self) -> LoraExpert:
        """The averaged difference from the network that a run with `lora_rank` started from."""
        return trained_expert(self.unet, self.ema.shadow_params)

    def _write_weights(self) -> None:
        if self.accelerator.is_main_process:
            if self.settings.lora_rank:
                self.lora_expert().save(self.output / LORA_FILE)
            with written_whole(self.output / "unet") as unfinished:
                self.ema_unet().save_pretrained(unfinished)
        self.accelerator.wait_for_everyone()

    @torch.no_grad()
    def write_samples(self) -> None:
        """Writes `samples/step-<step>.png`: what the averaged weights draw, for SR their input, and real images."""
        if not self.sample_items or not self.accelerator.is_main_process:
            return
        batch = collate(self.sample_items)
        images, low_res = self._images(batch)
        nothing, all_of_it = torch.zeros(len(images), dtype=torch.bool), torch.ones(len(images), dtype=torch.bool)
        conditioning = self.encode_batch(batch["caption"], batch["clip_image"], nothing)
        conditioning = keep_only(conditioning, Kept(all_of_it, all_of_it, nothing, all_of_it))
        generator = torch.Generator().manual_seed(self.settings.seed)
        noise = torch.randn(images.shape, generator=generator).to(self.device)
        if low_res is not None and self.max_noise_level is not None:
            level = torch.full((len(images),), self.max_noise_level / 2, device=self.device)
            low_res = self._augmented(low_res, level, generator, conditioning)
        unet = self.ema_unet().to(self.device)
        with self.accelerator.autocast():
            rows = self._draw(unet, images, noise, conditioning, low_res)
        rows += [images] if low_res is None else [low_res, images]
        folder = self.output / "samples"
        folder.mkdir(exist_ok=True)
        grid = image_grid([float_to_image(row) for row in rows])
        save_image(grid, folder / f"step-{self.step:07d}.png", Provenance({"step": self.step}))
        (folder / "captions.txt").write_text("\n".join(batch["caption"]) + "\n")

    def _draw(
        self,
        unet: "EDiffIUNet",
        images: torch.Tensor,
        noise: torch.Tensor,
        conditioning: dict[str, Any],
        low_res: torch.Tensor | None,
    ) -> list[torch.Tensor]:
        """Samples; or, of an expert that cannot sample alone, noisy images at its median noise level and denoised."""
        if self.interval.contains_range(float(karras_sigmas(2)[-1]), float(karras_sigmas(2)[0])):
            steps, guidance = self.settings.sample_steps, self.settings.sample_guidance
            return [sample_images(unet, conditioning, noise, low_res, steps, guidance)]
        generator = torch.Generator().manual_seed(self.settings.seed)
        sigma = self.interval.sample((1001,), generator=generator).median().to(self.device).expand(len(images))
        noisy = images + expand_as(sigma, images) * noise
        scaled = c_in(expand_as(sigma, images), self.sigma_data) * noisy
        model_input = scaled if low_res is None else torch.cat([scaled, low_res], dim=1)
        model_output = unet(model_input, c_noise(sigma), return_dict=False, **conditioning)[0].float()
        return [scaled, denoised_from_model_output(model_output, noisy, sigma, self.sigma_data)]

    def _log(self) -> float:
        """Writes a line to log.jsonl and returns the mean loss since the last one."""
        loss, bins = self.bins.read(self.accelerator.reduce(self.bins.sums.clone()))
        self._check_finite(torch.tensor(loss))
        now, steps = time.monotonic(), self.step - self._log_step
        seconds = max(now - self._log_time, 1e-9)
        images_per_step = self.settings.batch_size * self.accelerator.num_processes
        line = {
            "step": self.step,
            "samples": self.step * images_per_step,
            "loss": round(loss, 5),
            "loss_per_sigma": {name: round(value, 5) for name, value in bins.items()},
            "grad_norm": round(float(self.grad_norm), 4),
            "learning_rate": self.settings.learning_rate_at(self.step - 1),
            "images_per_second": round(steps * images_per_step / seconds, 2),
            "minutes_left": round((self.settings.total_steps - self.step) * seconds / steps / 60, 1),
        }
        self._log_time, self._log_step = now, self.step
        if self.accelerator.is_main_process:
            self.log.append(line)
        return loss

    def _check_finite(self, value: torch.Tensor) -> None:
        if not math.isfinite(float(value)):
            found = complete_checkpoints(self.output)
            good = f"The last good checkpoint is {found[-1]}." if found else "There is no checkpoint yet."
            raise FloatingPointError(
                f"The loss or its gradient is not finite at step {self.step}, nothing was saved. {good} "
                f"Start again with a lower learning rate than {self.settings.learning_rate:g}, or without bf16."
            )

    def _should_stop(self, guard: SignalGuard) -> bool:
        limit = self.settings.max_minutes_this_run
        if guard.received is not None:
            self._stop_reason = guard.received.name
        elif self._stop_reason is None and limit is not None and time.monotonic() - self._started > 60 * limit:
            self._stop_reason = "this run's minutes are over"
        if self.accelerator.num_processes == 1:
            return self._stop_reason is not None
        if self.step % 10:  # all processes must stop at the same step; asking each time would cost a synchronisation
            return False
        votes = torch.tensor(float(self._stop_reason is not None), device=self.device)
        return bool(self.accelerator.reduce(votes) > 0)

    def _announce(self) -> None:
        sigmas = karras_sigmas(25).tolist()
        own = sum(self.interval.contains(sigma) for sigma in sigmas)
        ranges = ", ".join(f"[{low:.4g}, {high:.4g})" for low, high in self.interval.ranges)
        own_size, size = (sum(p.numel() for p in ps) / 1e6 for ps in (self.parameters, self.unet.parameters()))
        sizes = f"{size:.1f}M" if own_size == size else f"{own_size:.1f}M (LoRA) of {size:.1f}M"
        self._say(f"Training {sizes} parameters on sigma in {ranges}: {own} of 25 sampling steps.")

    def _progress(self) -> tqdm:
        interval = 0.5 if sys.stderr.isatty() else 30
        return tqdm(
            initial=self.step,
            total=self.settings.total_steps,
            unit="step",
            desc=self.title,
            mininterval=interval,
            disable=not self.accelerator.is_main_process,
        )

    def _say(self, text: str) -> None:
        self.accelerator.print(text, flush=True)

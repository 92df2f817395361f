# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Trains the experts that one U-Net of Stable Diffusion is split into, in turn; cut anywhere, it goes on exactly where
it was."""

import hashlib
import math
import sys
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..discrete_time import log_sigmas
from ..experts.files import copy_pipeline, expert_folder
from ..files import written_whole
from .checkpoint import (
    FREE,
    MARKER,
    last_good,
    load_newest,
    remove_incomplete,
    save_checkpoint,
    set_aside_after,
    writing,
)
from .data import StepBatchSampler, image_to_float, make_loader
from .latent_model import LatentModel
from .launch import Share, StopVotes, check_launch, losses_named, make_accelerator, part_of, parts
from .learner import without_place
from .loss import SigmaBinLog, first_spoilt, step_generator
from .pictures import PictureDataset
from .run import RunLog, alone_in
from .sampling import write_grid
from .settings import TrainingSettings
from .unet_experts import ExpertLearner, make_lora_router, make_router, split_unet, timesteps_of_experts

PIPELINE = "pipeline"  # the result, in the folder of a run
FREE_OF_SPLIT = ("accumulation", "validation_prompt", "validation_images")


@dataclass(frozen=True)
class SplitSettings:
    """How a U-Net is split, and what its experts are trained with beside [`TrainingSettings`].

    Args:
        boundaries (`tuple` of `float`): Noise levels in sigma between the experts, increasing.
        trained (`tuple` of `int`, *optional*): The experts that learn, expert 0 has the lowest noise; by default all.
        accumulation (`int`, *optional*, defaults to 1): Parts that a batch is computed in; what is drawn for it does
            not depend on them.
        use_ema (`bool`, *optional*, defaults to `False`): Whether the averaged weights are the result.
        snr_gamma (`float`, *optional*): See [`LatentModel.losses`].
        empty_prompts (`float`, *optional*, defaults to 0.0): The share of captions that are left empty.
        validation_prompt (`str`, *optional*): What is drawn every `sample_every` steps.
        validation_images (`int`, *optional*, defaults to 4): How often.

    Raises:
        ValueError: A number makes no sense.
    """

    boundaries: tuple[float, ...]
    trained: tuple[int, ...] | None = None
    accumulation: int = 1
    use_ema: bool = False
    snr_gamma: float | None = None
    empty_prompts: float = 0.0
    validation_prompt: str | None = None
    validation_images: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "boundaries", tuple(map(float, self.boundaries)))
        experts = range(self.num_experts)
        object.__setattr__(self, "trained", tuple(sorted(set(experts if self.trained is None else self.trained))))
        unknown = sorted(set(self.learning) - set(experts))
        if unknown or not self.learning:
            raise ValueError(
                f"experts={list(self.learning)}: {len(self.boundaries)} boundaries make the experts "
                f"{', '.join(map(str, experts))}; name at least one of them."
            )
        for name in ("accumulation", "validation_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.snr_gamma is not None and not 0 < self.snr_gamma < math.inf:
            raise ValueError(f"snr_gamma must be above 0, got {self.snr_gamma}; 5 is usual.")
        if not 0 <= self.empty_prompts <= 1:
            raise ValueError(f"empty_prompts is a share from 0 to 1, got {self.empty_prompts}.")

    @property
    def num_experts(self) -> int:
        """How many experts there are."""
        return len(self.boundaries) + 1

    @property
    def learning(self) -> tuple[int, ...]:
        """The experts that learn, in their order."""
        return self.trained or ()

    def fixed(self) -> dict[str, Any]:
        """What a resumed run must share with its checkpoint."""
        return {name: value for name, value in asdict(self).items() if name not in FREE_OF_SPLIT}

    def free(self) -> dict[str, Any]:
        """What a resumed run may change."""
        return {name: getattr(self, name) for name in FREE_OF_SPLIT}


class Drawn(NamedTuple):
    """What is random of a batch, a row for each sample: which captions stay, the noise of the VAE and of the latents,
    `(batch, channels, height, width)`, and the timesteps."""

    kept: torch.Tensor
    vae_noise: torch.Tensor
    timesteps: torch.Tensor
    noise: torch.Tensor


class SplitTrainer:
    """One run, one folder. A step trains each expert once, with a batch that no other gets.

    `output` receives `checkpoint-<step>/`, `log.jsonl` with the loss of each expert, `samples/` and at the end
    `pipeline/`, the pipeline with an [`ExpertRouterUNet`]. Starting again with the same arguments resumes. Every
    random number depends on seed, expert, step and the place of its sample among those of all processes alone, but for
    dropout in the network, which has one of the process.

    Args:
        unet (`UNet2DConditionModel`): Where all experts start from. It is taken over.
        model ([`LatentModel`]): What stands around it.
        dataset ([`PictureDataset`]): The pictures.
        output (`str` or `Path`): The run's folder.
        settings ([`TrainingSettings`]): The numbers of the run.
        split ([`SplitSettings`]): Which experts there are.
        accelerator (`Accelerator`, *optional*): By default it is made from the settings.

    Raises:
        ValueError: The boundaries are none of this model, or the launcher asks for what no run can honour.
    """

    def __init__(
        self,
        unet: Any,
        model: LatentModel,
        dataset: PictureDataset,
        output: str | Path,
        settings: TrainingSettings,
        split: SplitSettings,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.timesteps = timesteps_of_experts(split.boundaries, model.betas)
        self.accelerator = accelerator or make_accelerator(settings.mixed_precision)
        check_launch(self.accelerator)
        self.output, self.settings, self.split = Path(output), settings, split
        self.model, self.dataset = model, dataset
        self.base = without_place(unet).to(self.accelerator.device)
        self.unets = split_unet(self.base, split.num_experts, split.learning, settings.lora_rank, settings.seed)
        self.learners = {
            index: ExpertLearner(
                index, self.unets[index], self.timesteps[index], settings, self.accelerator, split.use_ema
            )
            for index in split.learning
        }
        self.votes, self.log = StopVotes(self.accelerator), RunLog(self.output)
        self.step = 0

    def train(self) -> int:
        """Trains to `total_steps` or to this run's limit of steps; saves; returns the step.

        Raises:
            SystemExit: After SIGTERM (143) or Ctrl-C (130), once all is saved.
            ValueError: The output folder holds a run with other settings.
            OSError: Another process trains in the output folder, or it cannot be written.
            FloatingPointError: A loss or gradient is not finite.
            LostProcessError: Another process of the run has ended.
        """
        lock = alone_in(self.output) if self.accelerator.is_main_process else nullcontext()
        with losses_named(self.output), lock:
            self._resume()
            self._announce()
            total, limit = self.settings.total_steps, self.settings.max_steps_this_run
            with self.votes.guard as guard:
                self._train_to(min(total, self.step + (limit or total)))
                self.save()
                if self.step >= total:
                    self.write()
                else:
                    reason = guard.received.name if guard.received else "this run's steps are done"
                    self.say(f"Stopped at step {self.step} of {total} ({reason}); the checkpoint is saved.")
        return self.step

    def _train_to(self, last: int) -> None:
        """Trains to a step, or to the one at which a signal came."""
        batches = iter(self._loader(last))
        with self._bar() as bar:
            while self.step < last and self.votes.agreed(None) is None:
                try:
                    losses = {learner.name: self._train(learner, next(batches)) for learner in self.learners.values()}
                except FloatingPointError as error:
                    what, *where = error.args
                    sentences = [f"{what} at step {self.step + 1}.", self._remedy(), *where]
                    raise FloatingPointError(" ".join(filter(None, sentences))) from None
                self.step += 1
                bar.update()
                bar.set_postfix({name: f"{loss:.4f}" for name, loss in losses.items()})
                self._after_step(losses)

    def _train(self, learner: ExpertLearner, batch: dict[str, Any]) -> float:
        """One optimiser step of an expert; returns its loss, the mean over all processes.

        Raises:
            FloatingPointError: It or its gradient is not finite.
        """
        key = (self.settings.seed, (self.split.num_experts, learner.index), self.step)
        rank = self.accelerator.process_index
        torch.manual_seed(step_generator(*key, rank).initial_seed())  # for dropout inside the network
        drawn = self._draw(learner, batch, step_generator(*key, 0, self.accelerator.device))
        rows, losses = parts(len(batch["caption"]), self.split.accumulation), []
        for some in rows:
            with nullcontext() if some is rows[-1] else self.accelerator.no_sync(learner.network):
                losses.append(self._gradients_of_part(learner, part_of(batch, some), part_of(drawn, some)))
        loss = float(self.accelerator.reduce(torch.cat(losses).mean(), "mean"))
        if not math.isfinite(loss):
            raise FloatingPointError(f"The loss of {learner.name} is not finite", self._spoilt(drawn, losses))
        learner.step(self.settings.learning_rate_at(self.step))
        return loss

    def _spoilt(self, drawn: Drawn, losses: list[torch.Tensor]) -> str:
        """The noise levels of the losses that are not finite, over all processes."""
        levels = torch.tensor(log_sigmas(self.model.betas), device=drawn.timesteps.device)[drawn.timesteps].exp()
        bins = SigmaBinLog(levels.device)
        bins.add(levels.float(), torch.cat(losses))
        found = first_spoilt(self.accelerator.gather(bins.spoilt))
        return f"The noise levels were sigma {', '.join(found[1])}." if found else ""

    def _draw(self, learner: ExpertLearner, batch: dict[str, Any], generator: torch.Generator) -> Drawn:
        """What is random of a batch."""
        shape = self.model.latent_shape(*batch["image"].shape[-2:])

        def draw(number: int) -> Drawn:
            kept = torch.rand(number, generator=generator, device=generator.device) >= self.split.empty_prompts
            vae_noise = torch.randn(number, *shape, generator=generator, device=generator.device)
            timesteps = learner.draw_timesteps(number, generator)
            noise = torch.randn(number, *shape, generator=generator, device=generator.device)
            return Drawn(kept, vae_noise, timesteps, noise)

        return Share.of_process(self.accelerator).of(draw, len(batch["caption"]))

    def _gradients_of_part(self, learner: ExpertLearner, batch: dict[str, Any], drawn: Drawn) -> torch.Tensor:
        """Adds the share that some samples have in the gradients of a batch; returns their losses."""
        images = image_to_float(batch["image"].to(self.accelerator.device, non_blocking=True))
        captions = [text if keep else "" for text, keep in zip(batch["caption"], drawn.kept.tolist(), strict=True)]
        latents = self.model.latents(images, drawn.vae_noise)
        with self.accelerator.autocast():
            conditioning = self.model.conditioning(captions, images.shape[-2], images.shape[-1])
        losses = self.model.losses(
            learner.network, latents, drawn.noise, drawn.timesteps, conditioning, self.split.snr_gamma
        )
        # accelerate divides by its number of parts, which need not be equal
        self.accelerator.backward(
            losses.sum() * (self.accelerator.gradient_accumulation_steps / self.settings.batch_size)
        )
        return losses.detach()

    def _loader(self, last: int) -> DataLoader:
        """The batches of this process from the present step to a last, one for each expert in turn."""
        number, accelerator = len(self.learners), self.accelerator
        sampler = StepBatchSampler(
            self.settings.batch_size,
            self.step * number,
            last * number,
            accelerator.process_index,
            accelerator.num_processes,
        )
        return make_loader(self.dataset, sampler, self.settings.num_workers, accelerator.device.type == "cuda")

    def _after_step(self, losses: dict[str, float]) -> None:
        """Logs, draws and saves, each at its steps."""
        settings, rate = self.settings, self.settings.learning_rate_at(self.step - 1)
        if self.accelerator.is_main_process:
            samples = self.step * settings.batch_size * self.accelerator.num_processes
            rounded = {name: round(loss, 6) for name, loss in losses.items()}
            self.log.append({"step": self.step, "samples_per_expert": samples, "loss": rounded, "learning_rate": rate})
        self.accelerator.log({**{f"loss/{name}": loss for name, loss in losses.items()}, "lr": rate}, step=self.step)
        if self.step % settings.checkpoint_every == 0:
            self.save()
        if settings.sample_every and self.step % settings.sample_every == 0:
            self.validate()

    @torch.no_grad()
    def validate(self) -> None:
        """Draws the validation prompt with all experts, as the pipeline would, to `samples/step-<step>.png`."""
        prompt = self.split.validation_prompt
        if prompt is None or not self.accelerator.is_main_process:
            return
        size, texts = self.dataset.settings.size, [prompt] * self.split.validation_images
        with self._averaged(), self.accelerator.autocast():
            pipe = self.model.pipeline(make_router(self.unets, self.split.boundaries, self.model.pipe.scheduler))
            images = pipe(
                texts,
                height=size,
                width=size,
                num_inference_steps=self.settings.sample_steps,
                generator=[torch.Generator().manual_seed(self.settings.seed + i) for i in range(len(texts))],
                output_type="pt",
            ).images
        write_grid([images.float().cpu() * 2 - 1], texts, self.output / "samples", self.step)

    def _averaged(self) -> ExitStack:
        """A block in which all networks have the weights that are the result."""
        with ExitStack() as stack:
            for learner in self.learners.values():
                stack.enter_context(learner.averaged())
            return stack.pop_all()

    def save(self) -> None:
        """Writes a checkpoint of the present step, unless there is one."""
        if self.accelerator.is_main_process and not (self.output / f"checkpoint-{self.step}" / MARKER).exists():
            experts = {learner.name: learner.state_dict() for learner in self.learners.values()}
            state = {"step": self.step, "experts": experts}
            save_checkpoint(self.output, self.step, state, self._fixed_settings(), self.settings.keep_last)
        self.accelerator.wait_for_everyone()

    def write(self) -> None:
        """Writes `pipeline/`. With `lora_rank` the trainer is of no use afterwards: the router takes its base over."""
        scheduler, boundaries = self.model.pipe.scheduler, self.split.boundaries
        if self.accelerator.is_main_process:
            output = self.output / PIPELINE
            with self._averaged(), writing(output), written_whole(output) as unfinished:
                copy_pipeline(self.model.folder, unfinished)
                if self.settings.lora_rank:
                    router = make_lora_router(self.base, self.learners, boundaries, scheduler)
                else:
                    router = make_router(self.unets, boundaries, scheduler)
                router.save_pretrained(unfinished / "unet")
            self.say(f"All {self.step} steps are done; the pipeline is {output}.")
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        """Loads the newest complete checkpoint, if there is one, and cuts the log back to it."""
        main = self.accelerator.is_main_process
        self.output.mkdir(parents=True, exist_ok=True)
        if main:
            remove_incomplete(self.output)
        self.accelerator.wait_for_everyone()
        found = load_newest(self.output, self._fixed_settings(), self.say)
        self.accelerator.wait_for_everyone()
        if found:
            folder, state = found
            for learner in self.learners.values():
                learner.load_state_dict(state["experts"][learner.name])
            self.step = state["step"]
            self.say(f"Resuming from {folder}.")
            if main:
                set_aside_after(folder)
        if main:
            self.log.cut_back(self.step)

    def _fixed_settings(self) -> dict[str, Any]:
        """What a resumed run must share with its checkpoint, and what it may change."""
        digest = hashlib.blake2b(digest_size=8)
        for layer in (self.base.conv_in, self.base.conv_out):  # every fine-tune changes them
            digest.update(layer.weight.detach().cpu().numpy().tobytes())
        return {
            **self.settings.fixed(),
            **self.split.fixed(),
            FREE: {**self.settings.free(), **self.split.free()},
            "num_processes": self.accelerator.num_processes,
            "data": self.dataset.describe(),
            "prediction": self.model.prediction,
            "unet": digest.hexdigest(),
        }

    def _announce(self) -> None:
        sigmas = [math.exp(value) for value in log_sigmas(self.model.betas)]
        for index, (first, last) in enumerate(self.timesteps):
            what = "is trained" if index in self.learners else "stays as it is"
            self.say(
                f"{expert_folder(index)} {what}: timesteps {first} to {last}, "
                f"sigma {sigmas[first]:.3g} to {sigmas[last]:.3g}."
            )
        if len(self.learners) < self.split.num_experts:
            names = ", ".join(learner.name for learner in self.learners.values())
            self.say(f"Warning: only {names} changes; at the other noise levels the result is the U-Net that it was.")

    def _remedy(self) -> str:
        rate = self.settings.learning_rate
        return f"{last_good(self.output)} Start again with a lower learning rate than {rate:g}, or without bf16."

    def _bar(self) -> tqdm:
        return tqdm(
            initial=self.step,
            total=self.settings.total_steps,
            unit="step",
            mininterval=0.5 if sys.stderr.isatty() else 30,
            disable=not self.accelerator.is_main_process,
        )

    def say(self, text: str) -> None:
        """Prints a line, once for all processes."""
        self.accelerator.print(text, flush=True)

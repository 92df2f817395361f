# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Tiny runs that split the U-Net of a Stable Diffusion with random weights into experts."""

import os
import signal
from pathlib import Path
from typing import Any

import helpers_diffusers as sd
import torch
from accelerate import PartialState
from diffusers import DDIMScheduler, StableDiffusionPipeline
from helpers_pictures import write_folder

from diffusers_ediffi.training import ImageFolder, PictureDataset, PictureSettings, TrainingSettings, select_pictures
from diffusers_ediffi.training.latent_model import LatentModel
from diffusers_ediffi.training.launch import make_accelerator
from diffusers_ediffi.training.split_trainer import SplitSettings, SplitTrainer

BOUNDARIES = (1.0, 5.0)
# Of sd.SD_BETAS, in sigma [0.029, 1), [1, 5) and [5, 14.6]
TIMESTEPS = ((0, 353), (354, 795), (796, 999))


def write_model(
    folder: Path, pipeline: Any = StableDiffusionPipeline, prediction: str = "epsilon", dropout: float = 0.1
) -> Path:
    """The folder of a tiny pipeline, whose U-Net has dropout, too."""
    pipe = sd.build(pipeline, sd.tiny_unet(dropout=dropout, **(sd.SDXL_BASE if sd.is_sdxl(pipeline) else {})))
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type=prediction)
    pipe.save_pretrained(folder)
    return folder


def write_inputs(folder: Path, **options: Any) -> None:
    """`folder/model` and `folder/pictures`."""
    write_model(folder / "model", **options)
    write_folder(folder / "pictures", size=(16, 16))


def make_trainer(
    folder: Path, output: Path, steps: int = 4, lora_rank: int = 0, batch_size: int = 2, **split: Any
) -> SplitTrainer:
    """A trainer on `folder/model` and `folder/pictures`."""
    accelerator, source = make_accelerator("no"), ImageFolder(folder / "pictures")
    selection = select_pictures(source, output / "selection", process=PartialState())
    dataset = PictureDataset(source, PictureSettings(sd.SIZE, "random", clip_image_size=None), selection)
    model = LatentModel(folder / "model")
    settings = TrainingSettings(
        total_steps=steps,
        batch_size=batch_size,
        learning_rate=1e-3,
        warmup_steps=2,
        lora_rank=lora_rank,
        num_workers=0,
        checkpoint_every=2,
        sample_every=steps,
        sample_steps=3,
    )
    split_settings = SplitSettings(**{"boundaries": BOUNDARIES, **split})
    return SplitTrainer(model.load_unet(), model, dataset, output, settings, split_settings, accelerator)


def train_until_killed(folder: Path, output: Path, calls: int, **options: Any) -> None:
    """Trains in this process and kills it before a call of a network, counted over all of them."""
    torch.set_num_threads(1)
    trainer, left = make_trainer(folder, output, **options), iter(range(calls))

    def count(*_: Any) -> None:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    for learner in trainer.learners.values():
        learner.unet.register_forward_pre_hook(count)
    trainer.train()


def train_as_one_of_two(rank: int, output: Path, folder: Path, options: dict[str, Any]) -> None:
    """Trains in a process of several; leaves the weights of each."""
    trainer = make_trainer(folder, output, **options)
    trainer.train()
    torch.save([learner.state_dict() for learner in trainer.learners.values()], output / f"rank-{rank}.pt")

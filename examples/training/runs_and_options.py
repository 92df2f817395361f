# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What the scripts share that train a stage of a pipeline further: options with the names that diffusers' training
scripts give them, and the runs of the experts."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType
from class_pictures import class_prompts, class_source
from pictures_and_options import add_picture_arguments, pictures_of, pipeline_folder, select
from results_and_cards import Card, Result, add_hub_arguments, create_repository, push

from diffusers_ediffi.cli.messages import say
from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.provenance import Provenance, save_image
from diffusers_ediffi.training import (
    ConditioningEncoder,
    EmbeddingCache,
    PictureDataset,
    PictureSettings,
    PriorDataset,
    Selection,
    StageNetworks,
    Trainer,
    TrainingSettings,
    build_embedding_cache,
    select_pictures,
)
from diffusers_ediffi.training.checkpoint import complete_checkpoints
from diffusers_ediffi.training.crops import picture_to_tensor
from diffusers_ediffi.training.launch import launched_device, losses_named, make_accelerator
from diffusers_ediffi.training.picture import PictureSource
from diffusers_ediffi.training.run import RunLog
from diffusers_ediffi.training.sampling import image_grid
from diffusers_ediffi.training.settings import PRECISIONS
from diffusers_ediffi.training.shared_lora import SharedInterval, SharedLora
from diffusers_ediffi.training.stage import STAGES

# Of diffusers' names those that are kept here, with the schedule that each stands for and whether it warms up.
LR_SCHEDULERS = {
    "constant": ("constant", False),
    "constant_with_warmup": ("constant", True),
    "linear": ("linear", True),
    "cosine": ("cosine", True),
}
# Types of the encoders, with what is kept of their embeddings.
ENCODER_DTYPES = {"float32": (torch.float32, "float16"), "bfloat16": (torch.bfloat16, "bfloat16")}
REPORT_TO = ("none", *map(str, LoggerType.list()))
RUNS = "runs"  # below --output_dir
SHARED = "shared"  # the run of experts that get one LoRA together
SAMPLES = 4  # pictures of the training data in the grids of an expert


def add_training_arguments(parser: argparse.ArgumentParser, learning_rate: float) -> None:
    """The options of a script that trains a stage further."""
    add_picture_arguments(parser)
    parser.add_argument("--output_dir", type=Path, required=True, help="the folder of the runs and the result")
    parser.add_argument("--stage", choices=STAGES, default="unet", help="what is trained (default: %(default)s)")
    parser.add_argument(
        "--experts", type=int, nargs="+", help="numbers of the experts to train, 0 at the lowest noise (default: all)"
    )
    _add_picture_settings(parser.add_argument_group("pictures"))
    _add_settings(parser.add_argument_group("training"), learning_rate)
    _add_outputs(parser.add_argument_group("checkpoints and validation"))
    add_hub_arguments(parser)


def _add_picture_settings(group: Any) -> None:
    group.add_argument(
        "--resolution", type=whole(1), help="height and width in pixels (default: what the stage draws)"
    )
    group.add_argument("--center_crop", action="store_true", help="crop the middle, not a part at random")
    group.add_argument("--random_flip", action="store_true", help="mirror half of the pictures")
    group.add_argument(
        "--encoder_dtype", choices=ENCODER_DTYPES, default="float32", help="of the encoders (default: %(default)s)"
    )
    group.add_argument("--dataloader_num_workers", type=int, default=0, help="(default: %(default)s)")


def _add_settings(group: Any, learning_rate: float) -> None:
    group.add_argument("--train_batch_size", type=whole(1), default=4, help="images at once (default: %(default)s)")
    group.add_argument(
        "--gradient_accumulation_steps", type=whole(1), default=1, help="batches of a step (default: %(default)s)"
    )
    group.add_argument(
        "--max_train_steps", type=whole(1), default=1000, help="optimiser steps of each expert (default: %(default)s)"
    )
    group.add_argument("--learning_rate", type=float, default=learning_rate, help="(default: %(default)s)")
    group.add_argument("--lr_scheduler", choices=LR_SCHEDULERS, default="constant", help="(default: %(default)s)")
    group.add_argument(
        "--lr_warmup_steps", type=int, default=100, help="but for a constant rate (default: %(default)s)"
    )
    group.add_argument("--adam_weight_decay", type=float, default=0.01, help="(default: %(default)s)")
    group.add_argument("--max_grad_norm", type=float, default=1.0, help="(default: %(default)s)")
    group.add_argument("--use_ema", action="store_true", help="keep the average of the weights, not the last ones")
    group.add_argument("--mixed_precision", choices=PRECISIONS, default="no", help="(default: %(default)s)")
    group.add_argument("--gradient_checkpointing", action="store_true", help="less memory, one third more time")
    group.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")


def _add_outputs(group: Any) -> None:
    group.add_argument("--checkpointing_steps", type=whole(1), default=500, help="(default: %(default)s)")
    group.add_argument(
        "--checkpoints_total_limit", type=whole(1), default=2, help="of an expert (default: %(default)s)"
    )
    group.add_argument("--resume_from_checkpoint", choices=["latest"], help="go on with the runs in --output_dir")
    group.add_argument("--validation_prompt", help="drawn with all experts, as a user would, into validation/")
    group.add_argument(
        "--validation_steps", type=whole(1), help="steps of each expert between drawings (default: at the end)"
    )
    group.add_argument("--num_validation_images", type=whole(1), default=4, help="(default: %(default)s)")
    group.add_argument("--report_to", choices=REPORT_TO, default="none", help="a tracker (default: %(default)s)")


def settings_of(args: argparse.Namespace, **kind: Any) -> TrainingSettings:
    """The numbers of the runs; `kind` are those that the options do not give."""
    schedule, warms_up = LR_SCHEDULERS[args.lr_scheduler]
    # With prior preservation as many pictures of what is known come to those of what is new, as in diffusers.
    kinds = 2 if getattr(args, "with_prior_preservation", False) else 1
    return TrainingSettings(
        total_steps=args.max_train_steps,
        batch_size=kinds * args.train_batch_size * args.gradient_accumulation_steps,
        learning_rate=args.learning_rate,
        lr_schedule=schedule,
        warmup_steps=args.lr_warmup_steps if warms_up else 0,
        weight_decay=args.adam_weight_decay,
        max_grad_norm=args.max_grad_norm,
        ema_decay=0.9999 if args.use_ema else 0.0,
        seed=args.seed,
        mixed_precision=args.mixed_precision,
        gradient_checkpointing=args.gradient_checkpointing,
        num_workers=args.dataloader_num_workers,
        log_every=10,
        sample_every=args.validation_steps or 0,
        checkpoint_every=args.checkpointing_steps,
        keep_last=args.checkpoints_total_limit,
        **kind,
    )


@dataclass(frozen=True)
class TrainingData:
    """What is trained on.

    Args:
        pictures ([`PictureDataset`]): Those of the user.
        known ([`PictureDataset`], *optional*): Those of prior preservation.
        prior_weight (`float`, *optional*, defaults to 1.0): Of these in the loss.
    """

    pictures: PictureDataset
    known: PictureDataset | None = None
    prior_weight: float = 1.0

    def items(self, patch: int | None) -> PictureDataset | PriorDataset:
        """The items for a network that is trained on patches of this side, or on whole pictures."""
        pictures = _of_patch(self.pictures, patch)
        if self.known is None:
            return pictures
        return PriorDataset(pictures, _of_patch(self.known, patch), self.prior_weight)

    def caption(self) -> str:
        """What the first picture shows."""
        pictures = self.pictures
        return pictures.source[int(pictures.selection.rows[0])].caption


def _of_patch(dataset: PictureDataset, patch: int | None) -> PictureDataset:
    settings = replace(dataset.settings, patch=patch)
    return PictureDataset(dataset.source, settings, dataset.selection, dataset.embeddings)


def train_stage(args: argparse.Namespace, settings: TrainingSettings, result: Result) -> None:
    """Trains experts of a stage on the user's pictures, each on its noise levels, and writes what they learnt.

    Each is trained to the next validation, then the pipeline draws with all of them, and so on. Cut anywhere and
    started again with `--resume_from_checkpoint latest` it goes on as if nothing had happened.

    Raises:
        ValueError: An option does not fit the pipeline or the folder; before anything is loaded.
        OSError: A file is missing or cannot be written, or another process of the run has ended.
    """
    with losses_named():
        _train_stage(args, settings, result)


def _train_stage(args: argparse.Namespace, settings: TrainingSettings, result: Result) -> None:
    folder = pipeline_folder(args, ["model_index.json", "unet/config.json", f"{args.stage}/*"])
    stage = StageNetworks.read(folder, args.stage)
    experts = stage.chosen(args.experts)
    if is_shared(args):
        stage.check_shared(experts)
    runs = runs_of(args, stage, experts)
    check_resolution(args, stage)
    check_output(args, settings)
    check_tracker(args.report_to)
    prompts = class_prompts(args, folder) if "with_prior_preservation" in args else []
    source = pictures_of(args)
    repository = create_repository(args, folder)
    data = data_of(args, stage, folder, source, prompts)
    accelerator = make_accelerator(
        args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=None if args.report_to == "none" else args.report_to,
        project_dir=args.output_dir / "logs",
    )
    if args.report_to != "none":
        accelerator.init_trackers("ediffi")
    if accelerator.is_main_process and len(runs) < len(stage):
        others = ", ".join(stage.label(number) for number in range(len(stage)) if number not in runs)
        say(f"warning: {others} of {stage.name} stay as they are: what is learnt shows at other noise levels alone.")
    for step in steps_of_legs(args):
        if drawing_of(args, step).exists() and step < args.max_train_steps:
            continue  # all experts have been there
        if is_shared(args):
            train_together(args, settings, stage, experts, data, accelerator, step)
        else:
            for number in experts:
                train_expert(args, settings, stage, number, data, accelerator, step)
        if accelerator.is_main_process:
            report_losses(runs)
            result.write(stage, runs)
            if args.validation_prompt is not None:
                draw_validation(args, stage, result, accelerator.device, step)
        accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        card = card_of(args, settings, stage, list(runs), data, result)
        card.write(args.output_dir)
        say(f"The result is in {args.output_dir}; README.md says how it is used.")
        if repository is not None:
            push(repository, result.folder, result.file and [result.file], card, args.output_dir, args.hub_token)
    accelerator.end_training()


def is_shared(args: argparse.Namespace) -> bool:
    """Whether the experts get one LoRA together."""
    return getattr(args, "shared_lora", False)


def runs_of(args: argparse.Namespace, stage: StageNetworks, experts: Sequence[int]) -> dict[int, Path]:
    """The folder of the run of each expert; those that another start has trained belong to the result, too.

    Raises:
        ValueError: One LoRA for all would mix with others that are there.
    """
    folders = {number: run_folder(args, stage, number) for number in range(len(stage))}
    runs = {number: run for number, run in folders.items() if (run / "unet").is_dir()}
    together = args.output_dir / RUNS / stage.name / SHARED
    if runs if is_shared(args) else complete_checkpoints(together):
        raise ValueError(f"{args.output_dir} holds a run with and one without --shared_lora: choose another.")
    return dict.fromkeys(experts, together) if is_shared(args) else runs | {n: folders[n] for n in experts}


def report_losses(runs: Mapping[int, Path]) -> None:
    """Says where each run stands."""
    for run in dict.fromkeys(runs.values()):
        lines = RunLog(run).lines() if (run / "log.jsonl").exists() else []
        if lines:
            last = lines[-1]
            levels = ", ".join(f"{loss:.4f} at sigma {level}" for level, loss in last["loss_per_sigma"].items())
            say(f"{run.name}: loss {last['loss']:.4f} at step {last['step']} ({levels})")


def check_resolution(args: argparse.Namespace, stage: StageNetworks) -> None:
    """Refuses a size that the stage does not draw."""
    if args.resolution not in (None, stage.size):
        raise ValueError(
            f"--resolution {args.resolution}: {stage.name} of this pipeline draws {stage.size} pixels; leave it out."
        )


def check_output(args: argparse.Namespace, settings: TrainingSettings) -> None:
    """Refuses to go on with runs, unless that is asked for, and to mix those of two stages or ranks."""
    runs = [run for run in sorted((args.output_dir / RUNS).glob("*/*")) if complete_checkpoints(run)]
    if runs and args.resume_from_checkpoint is None:
        raise ValueError(
            f"{runs[0]} holds a run: go on by --resume_from_checkpoint latest, or choose another --output_dir."
        )
    others = [run for run in runs if run.parent.name != args.stage]
    if others:
        raise ValueError(f"{others[0]} is of another stage than {args.stage}: choose another --output_dir.")
    for run in runs:  # also those of experts that are not trained now: one LoRA holds all of them
        rank = trained_rank(run)
        if rank not in (None, settings.lora_rank):
            raise ValueError(
                f"{run} was trained with lora_rank = {rank}, but this run has {settings.lora_rank}: choose the same "
                "rank for all experts, or another --output_dir."
            )


def trained_rank(run: Path) -> int | None:
    """The rank that a run says of itself; `None` if its last checkpoint is damaged, which is seen later."""
    try:
        return json.loads((complete_checkpoints(run)[-1] / "settings.json").read_text())["lora_rank"]
    except (OSError, ValueError, KeyError):
        return None


def check_tracker(name: str) -> None:
    """Refuses a tracker that is not installed.

    Raises:
        ImportError: It is not.
    """
    if name not in ("none", "all", *map(str, get_available_trackers())):
        raise ImportError(
            f"--report_to {name}: pip install {name}; without it, log.jsonl of each run has the same numbers."
        )


def data_of(
    args: argparse.Namespace, stage: StageNetworks, folder: Path, source: PictureSource, prompts: Sequence[str]
) -> TrainingData:
    """The pictures of the options with their embeddings, which are encoded once: training needs no encoders."""
    device = launched_device()
    selection = select(args, source, args.output_dir / "selection", folder, device)
    known = class_source(args, prompts, stage.size, device) if prompts else None
    dtype, kept = ENCODER_DTYPES[args.encoder_dtype]
    encoder = ConditioningEncoder(folder, device, dtype)
    settings = PictureSettings(
        stage.size,
        crop="center" if args.center_crop else "random",
        random_flip=args.random_flip,
        ground=args.ground,
        low_res_factor=stage.low_res_factor,
        clip_image_size=encoder.clip_image_size,
        seed=args.seed,
    )

    def with_embeddings(source: PictureSource, selection: Selection, name: str) -> PictureDataset:
        embeddings = args.output_dir / name
        for _ in build_embedding_cache(embeddings, source, selection, encoder, kept, ground=args.ground):
            pass
        return PictureDataset(source, settings, selection, EmbeddingCache(embeddings))

    pictures = with_embeddings(source, selection, "embeddings")
    if known is None:
        return TrainingData(pictures)
    chosen = select_pictures(known, args.output_dir / "class_selection", ground=args.ground, process=PartialState())
    return TrainingData(pictures, with_embeddings(known, chosen, "class_embeddings"), args.prior_loss_weight)


def steps_of_legs(args: argparse.Namespace) -> list[int]:
    """The steps at which all experts meet and draw together."""
    every, total = args.validation_steps or args.max_train_steps, args.max_train_steps
    return [*range(every, total, every), total]


def run_folder(args: argparse.Namespace, stage: StageNetworks, number: int) -> Path:
    """Where the run of an expert is."""
    return args.output_dir / RUNS / stage.name / stage.label(number)


def drawing_of(args: argparse.Namespace, step: int) -> Path:
    """What is drawn once every expert has made so many steps."""
    return args.output_dir / "validation" / f"step-{step:07d}.png"


def train_expert(
    args: argparse.Namespace,
    settings: TrainingSettings,
    stage: StageNetworks,
    number: int,
    data: TrainingData,
    accelerator: Accelerator,
    until: int,
) -> None:
    """Trains an expert to a step, from where its run is."""
    items, shown = data.items(stage.patches[number]), _of_patch(data.pictures, stage.patches[number])
    Trainer(
        stage.load(number),
        items,
        None,
        run_folder(args, stage, number),
        settings,
        stage.intervals[number],
        node=(0, number),
        data_settings=items.describe(),
        sample_items=[shown[i] for i in range(SAMPLES)] if args.validation_steps else None,
        accelerator=accelerator,
        title=stage.label(number),
    ).train(until)
    accelerator.free_memory()


def train_together(
    args: argparse.Namespace,
    settings: TrainingSettings,
    stage: StageNetworks,
    experts: Sequence[int],
    data: TrainingData,
    accelerator: Accelerator,
    until: int,
) -> None:
    """Trains one LoRA for some experts to a step, from where its run is."""
    patch = stage.patches[experts[0]]
    items, shown = data.items(patch), _of_patch(data.pictures, patch)
    interval = SharedInterval.of(tuple(stage.intervals[number] for number in experts))
    Trainer(
        SharedLora({number: stage.load(number) for number in experts}, interval),
        items,
        None,
        args.output_dir / RUNS / stage.name / SHARED,
        settings,
        interval,
        data_settings={**items.describe(), "experts": list(experts)},
        sample_items=[shown[i] for i in range(SAMPLES)] if args.validation_steps else None,
        accelerator=accelerator,
        title=SHARED,
    ).train(until)
    accelerator.free_memory()


def draw_validation(
    args: argparse.Namespace, stage: StageNetworks, result: Result, device: torch.device, step: int
) -> None:
    """Draws the prompt with all experts, as a user would."""
    pipe = result.load().to(device)
    pipe.set_progress_bar_config(disable=True)
    seeds = range(args.seed, args.seed + args.num_validation_images)
    images = [
        pipe(args.validation_prompt, height=stage.size, generator=torch.Generator().manual_seed(seed)).images[0]
        for seed in seeds
    ]
    path = drawing_of(args, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = image_grid([torch.stack([picture_to_tensor(image) for image in images])])
    save_image(grid, path, Provenance({"prompt": args.validation_prompt, "seeds": list(seeds), "step": step}))


def card_of(
    args: argparse.Namespace,
    settings: TrainingSettings,
    stage: StageNetworks,
    experts: list[int],
    data: TrainingData,
    result: Result,
) -> Card:
    """The model card: what the result is, how it is used, and how it was trained."""
    drawn, of_prior = drawing_of(args, args.max_train_steps), data.known is not None
    rows = {
        "stage": stage.name,
        "pictures": f"{data.pictures.num_pictures} at {stage.size} pixels",
        **(
            {"prior preservation": f"{data.known.num_pictures} pictures, weight {data.prior_weight:g}"}
            if of_prior
            else {}
        ),
        "steps of each expert": settings.total_steps,
        "images of a step": settings.batch_size,
        "learning rate": f"{settings.learning_rate:g}, {args.lr_scheduler}",
        **({"rank": settings.lora_rank} if settings.lora_rank else {}),
        **{stage.label(n): f"trained at the noise levels {_levels(stage, n)}" for n in experts},
        **{stage.label(n): "as it was" for n in range(len(stage)) if n not in experts},
        "seed": settings.seed,
    }
    name = args.output_dir.resolve().name
    return Card(
        name,
        str(args.pretrained_model_name_or_path),
        result.what,
        args.validation_prompt or args.instance_prompt or data.caption(),
        "from diffusers_ediffi import EDiffIPipeline, demo_checkpoint",
        result.usage,
        f", height={stage.size}",
        rows,
        Path(name, result.folder.relative_to(args.output_dir)).as_posix(),
        f"validation/{drawn.name}" if drawn.exists() else None,
        ("lora",) if settings.lora_rank else (),
    )


def _levels(stage: StageNetworks, number: int) -> str:
    return ", ".join(f"[{low:g}, {high:g})" for low, high in stage.intervals[number].ranges)

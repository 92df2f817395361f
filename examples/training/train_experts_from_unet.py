# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Split the U-Net of Stable Diffusion 1, 2 or XL into experts for noise levels, and train them on your pictures.

    accelerate launch examples/training/train_experts_from_unet.py \\
        --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 --train_data_dir my_pictures \\
        --boundaries 1 5 --resolution 512 --train_batch_size 4 --max_train_steps 1000 --output_dir runs/experts

Two boundaries in sigma make three experts. Each is trained on the timesteps of its interval alone, and all in one
run: a step trains each expert once, with a batch that no other gets. With --rank the experts are low-rank differences
(LoRA) from the U-Net, which they share. OUTPUT_DIR/pipeline is a pipeline for StableDiffusionPipeline or
StableDiffusionXLPipeline of diffusers, with an `ExpertRouterUNet` as its `unet`; `import diffusers_ediffi` comes
first. Cut anywhere, the run goes on exactly where it was with --resume_from_checkpoint latest.
"""

import argparse
import json
from pathlib import Path

from accelerate import PartialState
from accelerate.tracking import get_available_trackers
from diffusers import DiffusionPipeline
from pictures_and_options import add_source_arguments, pictures_of
from results_and_cards import PIPELINE, Card, add_hub_arguments, create_repository, options_without_token, push

from diffusers_ediffi.cli.messages import say
from diffusers_ediffi.cli.options import finite, share, whole
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.training import PictureDataset, PictureSettings, TrainingSettings, select_pictures
from diffusers_ediffi.training.checkpoint import complete_checkpoints
from diffusers_ediffi.training.latent_model import LatentModel, betas_in, check_latent_pipeline, pixels_per_latent
from diffusers_ediffi.training.launch import losses_named, make_accelerator
from diffusers_ediffi.training.picture import PictureSource
from diffusers_ediffi.training.split_trainer import SplitSettings, SplitTrainer
from diffusers_ediffi.training.unet_experts import timesteps_of_experts

LR_SCHEDULERS = ("constant", "constant_with_warmup", "cosine", "linear")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options, with the names that diffusers' training scripts give them."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained_model_name_or_path", required=True, help="the pipeline: a folder or a Hub id")
    parser.add_argument("--output_dir", type=Path, required=True, help="the folder of the run")
    add_source_arguments(parser)
    _add_split_arguments(parser)
    _add_training_arguments(parser)
    add_hub_arguments(parser)
    return parser.parse_args(arguments)


def _add_split_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("experts")
    group.add_argument(
        "--boundaries", type=finite, nargs="+", required=True, help="noise levels in sigma between the experts"
    )
    group.add_argument(
        "--experts", type=whole(0), nargs="+", help="which learn; 0 has the lowest noise (default: all of them)"
    )
    group.add_argument("--rank", type=whole(0), default=0, help="train LoRA of this rank (default: 0, all weights)")
    group.add_argument("--snr_gamma", type=finite, help="weight samples by min(SNR, gamma); 5 is usual")
    group.add_argument(
        "--proportion_empty_prompts", type=share, default=0.0, help="captions left empty (default: %(default)s)"
    )


def _add_training_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")

    def add(name: str, kind: type, default: float | str | None, text: str) -> None:
        group.add_argument(name, type=kind, default=default, help=f"{text} (default: %(default)s)")

    add("--resolution", int, 512, "side of the square that pictures are cropped to")
    group.add_argument("--center_crop", action="store_true", help="crop the middle instead of a random part")
    group.add_argument("--random_flip", action="store_true", help="mirror half of the pictures")
    add("--train_batch_size", int, 4, "pictures per process, expert and part of a step")
    add("--gradient_accumulation_steps", int, 1, "parts of a step")
    add("--max_train_steps", int, 1000, "steps of each expert")
    add("--learning_rate", float, 1e-5, "with --rank 1e-4 is usual")
    group.add_argument("--lr_scheduler", choices=LR_SCHEDULERS, default="constant", help="(default: constant)")
    add("--lr_warmup_steps", int, 500, "steps over which the learning rate rises; not with constant")
    add("--adam_weight_decay", float, 0.01, "of AdamW")
    add("--max_grad_norm", float, 1.0, "gradients are clipped to this norm")
    group.add_argument("--use_ema", action="store_true", help="the result are averaged weights")
    add("--ema_decay", float, 0.9999, "of the average")
    group.add_argument("--mixed_precision", choices=["no", "bf16"], default="no", help="(default: no)")
    group.add_argument("--gradient_checkpointing", action="store_true", help="less memory, more time")
    add("--dataloader_num_workers", int, 0, "processes that prepare pictures")
    add("--seed", int, 0, "of all random numbers")
    group.add_argument("--validation_prompt", help="drawn with all experts")
    add("--validation_steps", int, 500, "steps between these drawings")
    add("--num_validation_images", int, 4, "of these drawings")
    add("--checkpointing_steps", int, 500, "steps between checkpoints")
    add("--checkpoints_total_limit", int, 2, "checkpoints that are kept")
    group.add_argument("--resume_from_checkpoint", choices=["latest"], help="go on where the run was")
    group.add_argument("--report_to", help="a tracker of accelerate, such as tensorboard or wandb")


def training_settings(args: argparse.Namespace) -> TrainingSettings:
    """What the options say of the optimisation."""
    warms_up = args.lr_scheduler != "constant"
    return TrainingSettings(
        total_steps=args.max_train_steps,
        batch_size=args.train_batch_size * args.gradient_accumulation_steps,
        learning_rate=args.learning_rate,
        lr_schedule="constant" if args.lr_scheduler.startswith("constant") else args.lr_scheduler,
        warmup_steps=args.lr_warmup_steps if warms_up else 0,
        weight_decay=args.adam_weight_decay,
        lora_rank=args.rank,
        max_grad_norm=args.max_grad_norm,
        ema_decay=args.ema_decay,
        seed=args.seed,
        mixed_precision=args.mixed_precision,
        gradient_checkpointing=args.gradient_checkpointing,
        num_workers=args.dataloader_num_workers,
        sample_every=args.validation_steps,
        checkpoint_every=args.checkpointing_steps,
        keep_last=args.checkpoints_total_limit,
    )


def split_settings(args: argparse.Namespace) -> SplitSettings:
    """What the options say of the experts."""
    return SplitSettings(
        tuple(args.boundaries),
        None if args.experts is None else tuple(args.experts),
        args.gradient_accumulation_steps,
        args.use_ema,
        args.snr_gamma,
        args.proportion_empty_prompts,
        args.validation_prompt,
        args.num_validation_images,
    )


def picture_settings(args: argparse.Namespace) -> PictureSettings:
    """What the options make of a picture."""
    crop = "center" if args.center_crop else "random"
    return PictureSettings(args.resolution, crop, args.random_flip, args.ground, clip_image_size=None, seed=args.seed)


def check_run(args: argparse.Namespace) -> None:
    """Refuses a folder with another run in it, and a tracker that is not there."""
    found = complete_checkpoints(args.output_dir)
    if found and not args.resume_from_checkpoint:
        raise OSError(f"{found[-1]} is there: give --resume_from_checkpoint latest, or another --output_dir.")
    trackers = [str(tracker) for tracker in get_available_trackers()]
    if args.report_to and args.report_to not in trackers:
        raise ValueError(
            f"--report_to {args.report_to}: accelerate has no such tracker here, of those that are installed there "
            f"are: {', '.join(trackers) or 'none'}. pip install {args.report_to}, if it is one."
        )


def fetch_pipeline(name: str) -> Path:
    """The folder of the pipeline, which is downloaded if it is on the Hub."""
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise OSError(f"--pretrained_model_name_or_path: there is no folder {name!r}, nor is it a Hub id.")
    return Path(DiffusionPipeline.download(name))


def check_model(folder: Path, args: argparse.Namespace) -> None:
    """Refuses a pipeline, boundaries or a resolution that cannot be trained, by its configurations alone."""
    check_latent_pipeline(folder)
    timesteps_of_experts(args.boundaries, betas_in(folder))
    factor = pixels_per_latent(folder)
    if args.resolution % factor:
        raise ValueError(f"--resolution {args.resolution} must be a multiple of {factor}, as the VAE asks for.")


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    settings, split, pictures = training_settings(args), split_settings(args), picture_settings(args)
    check_run(args)
    source, folder = pictures_of(args), fetch_pipeline(args.pretrained_model_name_or_path)
    check_model(folder, args)
    repository = create_repository(args, folder)
    with losses_named():
        train(args, settings, split, pictures, source, folder, repository)


def train(
    args: argparse.Namespace,
    settings: TrainingSettings,
    split: SplitSettings,
    pictures: PictureSettings,
    source: PictureSource,
    folder: Path,
    repository: str | None,
) -> None:
    """Selects the pictures, trains the experts, and writes and uploads the pipeline."""
    accelerator = make_accelerator(args.mixed_precision, log_with=args.report_to, project_dir=args.output_dir)
    model = LatentModel(folder, accelerator.device)
    selection = select_pictures(
        source,
        args.output_dir / "selection",
        args.min_side,
        ground=args.ground,
        tokenizers=model.tokenizers(),
        strict=args.strict,
        process=PartialState(),
    )
    if accelerator.is_main_process:
        for line in selection.report():
            say(line)
    dataset = PictureDataset(source, pictures, selection)
    trainer = SplitTrainer(model.load_unet(), model, dataset, args.output_dir, settings, split, accelerator)
    if args.report_to:
        options = json.dumps(options_without_token(args), default=str)
        accelerator.init_trackers(Path(__file__).stem, {"options": options})
    trainer.train()
    if accelerator.is_main_process:
        card = card_of(args, folder, trainer)
        card.write(args.output_dir)
        if repository is not None:
            push(repository, args.output_dir / PIPELINE, None, card, args.output_dir, args.hub_token)
    accelerator.end_training()


def card_of(args: argparse.Namespace, folder: Path, trainer: SplitTrainer) -> Card:
    """The model card of the pipeline."""
    settings, split, dataset = trainer.settings, trainer.split, trainer.dataset
    kind = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
    drawn = args.output_dir / "samples" / f"step-{settings.total_steps:07d}.png"
    prompt = args.validation_prompt or dataset.source[int(dataset.selection.rows[0])].caption
    rows = {
        "boundaries in sigma": ", ".join(f"{boundary:g}" for boundary in split.boundaries),
        **{
            f"expert.{index}": f"{'trained' if index in split.learning else 'as it was'}, timesteps {first} to {last}"
            for index, (first, last) in enumerate(trainer.timesteps)
        },
        "pictures": f"{dataset.num_pictures} at {args.resolution} pixels",
        "steps of each expert": settings.total_steps,
        "images of a step": settings.batch_size,
        "learning rate": f"{settings.learning_rate:g}, {args.lr_scheduler}",
        "rank": settings.lora_rank or "all weights",
        "seed": settings.seed,
    }
    name = args.output_dir.resolve().name
    return Card(
        name,
        str(args.pretrained_model_name_or_path),
        f"{len(trainer.timesteps)} experts for noise levels, which start from the U-Net",
        prompt,
        f"from diffusers import {kind}\n\nimport diffusers_ediffi  # it registers the experts",
        f"pipe = {kind}.from_pretrained(HERE)",
        "",
        rows,
        f"{name}/{PIPELINE}",
        f"samples/{drawn.name}" if drawn.exists() else None,
    )


if __name__ == "__main__":
    with errors_in_one_line():
        main()

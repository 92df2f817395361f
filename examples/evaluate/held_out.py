# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What the scripts of this folder share: options, held-out scenes, and what is measured of pictures of them.

Held-out scenes combine objects as no scene of the training does.
"""

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.utils import make_image_grid
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from tqdm import tqdm

from diffusers_ediffi import EDiffIPipeline, Provenance, demo_checkpoint, save_image
from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import ScriptParser
from diffusers_ediffi.demo import GROUNDS, STYLES, Scene, SceneGenerator, load_objects
from diffusers_ediffi.demo.scorer import SceneScorer, frechet_distance, images_to_tensor
from diffusers_ediffi.models.low_res import augment_low_res, upsample_low_res
from diffusers_ediffi.provenance import model_name

SR_STAGES = ("sr256", "sr1024")


def make_parser(description: str) -> ScriptParser:
    """The options that the scripts share; some use a part of them alone."""
    parser = ScriptParser(description=description)
    parser.add_argument("--model", help="pipeline folder or Hub id; by default that of the package")
    parser.add_argument("--scorer", type=Path, help="folder of a trained scorer; by default that of the package")
    parser.add_argument("--output", type=Path, required=True, help="where results and pictures go; see above")
    parser.add_argument("--num-prompts", type=int, default=500)
    parser.add_argument("--num-style-prompts", type=int, default=120)
    parser.add_argument("--num-sr256", type=int, default=64, help="pictures for the first super-resolution stage")
    parser.add_argument("--num-sr1024", type=int, default=16, help="pictures for the second")
    parser.add_argument("--patches-per-image", type=whole(1), default=32)
    add_scene_options(parser)
    add_sampling_options(parser)
    return parser


def add_scene_options(parser: argparse.ArgumentParser) -> None:
    """The options that choose the held-out scenes."""
    parser.add_argument("--objects", type=Path, required=True, help="folder with object images and index.json")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--phrases", nargs="+", help="only these objects, by their phrase in index.json")
    chosen.add_argument("--num-objects", type=whole(1), help="only the first so many objects of index.json")
    parser.add_argument("--styles", nargs="+", default=list(STYLES), choices=STYLES, help="only these drawing styles")
    kinds = sorted({ground.kind for ground in GROUNDS})
    parser.add_argument("--ground-kinds", nargs="+", default=kinds, choices=kinds, help="only these kinds of ground")
    parser.add_argument(
        "--object-weights", type=float, nargs="+", default=(0.5, 0.4, 0.1), help="how often 1, 2 and 3 objects"
    )


def add_sampling_options(parser: ScriptParser) -> None:
    """The options that say how pictures are drawn."""
    parser.add_argument("--steps", type=whole(1), nargs="+", help="number for all stages, or for base, SR256, SR1024")
    parser.add_argument("--guidance-scale", type=float, nargs="+", help="the same; SR stages are judged without")
    parser.add_argument(
        "--batch-size", type=whole(1), default=32, help="base pictures at a time; fewer of larger ones"
    )
    parser.add_argument("--bf16", action="store_true", help="run the networks under bfloat16 autocast")
    parser.add_device()
    parser.add_argument("--threads", type=whole(1), help="CPU threads")
    parser.add_argument("--seed", type=int, default=0, help="of the noise and of the held-out scenes")


def load_pipeline(args: argparse.Namespace) -> EDiffIPipeline:
    """The model that the options name; fills up --steps and --guidance-scale."""
    if args.threads:
        torch.set_num_threads(args.threads)
    for name in ("steps", "guidance_scale"):
        if len(getattr(args, name) or ()) not in (0, 1, 3):
            raise ValueError(f"--{name.replace('_', '-')} takes one number, or three for base, SR256 and SR1024.")
    args.steps, args.guidance_scale = (
        tuple(values * 3 if len(values) == 1 else values) if values else None
        for values in (args.steps, args.guidance_scale)
    )
    pipe = EDiffIPipeline.from_pretrained(args.model or demo_checkpoint(), dtype=torch.float32).to(args.device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def prepare(args: argparse.Namespace) -> tuple[EDiffIPipeline, SceneScorer, SceneGenerator]:
    """The model, the scorer and the held-out scenes that the options name."""
    scenes = make_scenes(args)
    scorer = SceneScorer.from_pretrained(args.scorer or Path(demo_checkpoint()).with_name("scorer")).eval()
    return load_pipeline(args), scorer, scenes


def make_scenes(args: argparse.Namespace, **changes: Any) -> SceneGenerator:
    """The held-out scenes that the options name; `changes` are further arguments of [`SceneGenerator`]."""
    objects = load_objects(args.objects, args.phrases)[: args.num_objects]
    grounds = [ground for ground in GROUNDS if ground.kind in args.ground_kinds]
    settings = {"max_objects": len(args.object_weights), "object_weights": args.object_weights, "styles": args.styles}
    return SceneGenerator(objects, grounds=grounds, **{**settings, "seed": args.seed, "split": "held_out", **changes})


def precision(args: argparse.Namespace) -> contextlib.AbstractContextManager:
    """What --bf16 asks for."""
    return torch.autocast(torch.device(args.device).type, torch.bfloat16) if args.bf16 else contextlib.nullcontext()


def first_scenes(scenes: SceneGenerator, count: int) -> tuple[list[Scene], list[Scene]]:
    """The scenes that are judged, and as many others, whose pictures are the reference."""
    return [scenes.scene(i) for i in range(count)], [scenes.scene(i) for i in range(count, 2 * count)]


def render(scenes: SceneGenerator, batch: list[Scene], size: int) -> Tensor:
    """Returns (batch, 3, size, size) in [-1, 1]."""
    return images_to_tensor([scenes.render(scene, size) for scene in batch])


def generate(
    pipe: EDiffIPipeline, args: argparse.Namespace, captions: list[str], style: Tensor | None = None, **options: Any
) -> Tensor:
    """Draws a base picture for each caption; picture i depends on the seed and i alone, not on the batch size.
    `options` are further arguments of the pipeline, such as another guidance."""
    size = pipe.stages[0].size
    parts = []
    for start in tqdm(range(0, len(captions), args.batch_size), desc="base" if style is None else "style"):
        rows = slice(start, start + args.batch_size)
        images = pipe(
            captions[rows],
            style_image=None if style is None else list((style[rows] + 1) / 2),
            height=size,
            width=size,
            num_inference_steps=args.steps,
            generator=generators(args, start, len(captions[rows])),
            output_type="pt",
            **{"guidance_scale": args.guidance_scale, **options},
        ).images
        parts.append(images.float().cpu() * 2 - 1)
    return torch.cat(parts)


def generators(args: argparse.Namespace, start: int, count: int) -> list[torch.Generator]:
    """Of the pictures from number `start` on."""
    return [torch.Generator().manual_seed(args.seed * 1_000_003 + start + i) for i in range(count)]


def evaluate_base(pipe: EDiffIPipeline, scorer: SceneScorer, scenes: SceneGenerator, args: argparse.Namespace) -> dict:
    """Generated pictures, real pictures of the same scenes, and those with the prompts of other scenes (chance)."""
    batch, others = first_scenes(scenes, args.num_prompts)
    size = pipe.stages[0].size
    real = render(scenes, batch, size)
    reference = scorer.features(render(scenes, others, size))
    images = generate(pipe, args, [scene.caption for scene in batch])
    save_grid(args.output / "base.png", images[:32], 8, args.model)
    shuffled = batch[1:] + batch[:1]
    return {
        "model": {**scorer.score(images, batch), "frechet": frechet_distance(scorer.features(images), reference)},
        "real": {**scorer.score(real, batch), "frechet": frechet_distance(scorer.features(real), reference)},
        "chance": scorer.score(real, shuffled),
        "prompts": [scene.caption for scene in batch[:32]],
    }


def text_conditioning(pipe: EDiffIPipeline, captions: list[str]) -> dict[str, Any]:
    """What a U-Net must know of the captions, without guidance."""
    tokens, pooled, tokens_2, mask_2 = pipe.encode_prompt(captions, do_classifier_free_guidance=False)[:4]
    return {
        "encoder_hidden_states": tokens,
        "encoder_hidden_states_2": tokens_2,
        "encoder_attention_mask_2": mask_2,
        "added_cond_kwargs": {"text_embeds": pooled, "image_embeds": None},
    }


@torch.no_grad()
def super_resolve(
    pipe: EDiffIPipeline, number: int, low_res: Tensor, captions: list[str], start: int, args: argparse.Namespace
) -> Tensor:
    """Runs stage `number` alone, without guidance, on pictures that need not come from the stage before.

    `low_res` are pictures (batch, 3, height, width) in [-1, 1] of the size of the stage before, from number `start`
    on. Returns those of this stage's size; picture i depends on the seed and i alone.
    """
    unet = pipe.stages[number].unet
    scheduler = pipe.stages[number].scheduler
    noise = generators(args, start, len(low_res))
    upsampled = upsample_low_res(low_res.to(pipe.device), pipe.stages[number].size)
    scheduler.set_timesteps(steps_of(pipe, number, args), device=pipe.device)
    upsampled, labels = augmented(pipe, number, upsampled, noise, args.noise_level)
    conditioning = text_conditioning(pipe, captions) | labels
    sample = randn_tensor(upsampled.shape, noise, pipe.device, torch.float32) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        model_input = torch.cat([scheduler.scale_model_input(sample, timestep), upsampled], dim=1)
        model_output = unet(model_input, timestep, **conditioning, return_dict=False)[0].float()
        sample = scheduler.step(model_output, timestep, sample, return_dict=False)[0]
    return sample.clamp(-1, 1).cpu()


def steps_of(pipe: EDiffIPipeline, number: int, args: argparse.Namespace) -> int:
    """The number of steps of a stage."""
    return (args.steps or pipe.config.default_num_inference_steps)[number]


def augmented(
    pipe: EDiffIPipeline, number: int, upsampled: Tensor, noise: list[torch.Generator], noise_level: float | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The low-resolution pictures with noise, and its level for the U-Net, where it was trained with such inputs."""
    if pipe.stages[number].unet.config.get("max_noise_level") is None:
        return upsampled, {}
    level = pipe.config.default_noise_level[number - 1] if noise_level is None else noise_level
    labels = torch.full((len(upsampled),), level, device=pipe.device)
    added = randn_tensor(upsampled.shape, noise, pipe.device, torch.float32)
    return augment_low_res(upsampled, added, level), {"class_labels": labels}


def evaluate_sr(
    pipe: EDiffIPipeline, scorer: SceneScorer, scenes: SceneGenerator, stage: str, args: argparse.Namespace
) -> dict:
    """Enlarges averaged-down real pictures and compares patches at full resolution with those of the originals."""
    number = 1 + SR_STAGES.index(stage)
    small, large = (pipe.stages[i].size for i in (number - 1, number))
    batch, others = first_scenes(scenes, (args.num_sr256, args.num_sr1024)[number - 1])
    real = render(scenes, batch, large)
    low_res = F.interpolate(real, size=(small, small), mode="area")
    enlarged = enlarge(pipe, number, low_res, [scene.caption for scene in batch], args)
    pictures = {"model": enlarged, "bicubic": upsample_low_res(low_res, large), "real": real}
    shown = [pictures[name][:4] for name in ("bicubic", "model", "real")]
    save_grid(args.output / f"{stage}.png", torch.cat(shown), len(shown[0]), args.model)
    reference = scorer.patch_features(pictures.pop("real"), args.patches_per_image)
    patches = scorer.patch_features(render(scenes, others, large), args.patches_per_image)
    result = {}
    for name, images in pictures.items():
        distance = frechet_distance(scorer.patch_features(images, args.patches_per_image), reference)
        result[name] = {"patch_frechet": distance, **fidelity(images, low_res, real)}
    return {**result, "real": {"patch_frechet": frechet_distance(patches, reference)}}


def enlarge(
    pipe: EDiffIPipeline, number: int, low_res: Tensor, captions: list[str], args: argparse.Namespace
) -> Tensor:
    """`super_resolve` for any number of pictures, so many at a time as fit."""
    stage = pipe.stages[number]
    per_call = max(1, args.batch_size * 64 * 64 // (stage.size * stage.size))
    parts = []
    for start in tqdm(range(0, len(captions), per_call), desc=SR_STAGES[number - 1]):
        rows = slice(start, start + per_call)
        parts.append(super_resolve(pipe, number, low_res[rows], captions[rows], start, args))
    return torch.cat(parts)


def fidelity(images: Tensor, low_res: Tensor, real: Tensor) -> dict[str, float]:
    """How well enlarged pictures agree with what they were enlarged from, and with the originals."""
    downsampled = F.interpolate(images, size=low_res.shape[-2:], mode="area")
    return {"psnr_of_downsampled": psnr(downsampled, low_res), "psnr": psnr(images, real)}


def psnr(images: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1], the mean over the pictures."""
    error = (images - target).square().mean(dim=(1, 2, 3)).clamp(min=1e-10)
    return (10 * (4 / error).log10()).mean().item()


def save_grid(path: Path, images: Tensor, columns: int, model: str | None) -> None:
    """Writes pictures (batch, 3, height, width) in [-1, 1] as a PNG; the last row is filled up with black."""
    rows = -(-len(images) // columns)
    images = F.pad(images, (0, 0, 0, 0, 0, 0, 0, rows * columns - len(images)), value=-1.0)
    pictures = EDiffIPipeline.numpy_to_pil(((images + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).numpy())
    grid = make_image_grid(pictures, rows=rows, cols=columns)
    save_image(grid, path, Provenance({"model": model_name(model)}))


def write_report(path: Path, args: argparse.Namespace, **results: Any) -> dict[str, Any]:
    """Writes and returns the options, as "settings", and the results."""
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    report = {"settings": settings, **results}
    path.write_text(json.dumps(report, indent=2) + "\n")
    return report

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Measure a demo model on held-out prompts, beside real scenes: what is right, and how far the pictures are from real.

    python examples/evaluate/evaluate_demo.py --objects noto_objects --output runs/evaluation

By default it judges the model that comes with the package, at its own settings, by the scorer beside it.
`OUTPUT/results.json` holds every figure and setting, `OUTPUT/*.png` the first pictures of each stage. The parts
(`--stages`):

    base     500 prompts of combinations never trained on: objects, ground, relation and style right; Frechet distance
    style    prompts that do not say their style, which a picture of another scene brings instead; beside the same
             prompts and noise without one
    sr256    pictures at 64 enlarged to 256, against bicubic: Frechet distance of patches, agreement with the input
    sr1024   the same from 256 to 1024
"""

import argparse
import contextlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.utils import make_image_grid
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from tqdm import tqdm

from diffusers_ediffi import EDiffIPipeline, Provenance, demo_checkpoint, save_image
from diffusers_ediffi.demo import GROUNDS, STYLES, Scene, SceneGenerator, load_objects
from diffusers_ediffi.demo.scorer import SceneScorer, frechet_distance, images_to_tensor
from diffusers_ediffi.models.low_res import augment_low_res, upsample_low_res
from diffusers_ediffi.provenance import model_name

STAGES = ("base", "style", "sr256", "sr1024")
SR_STAGES = ("sr256", "sr1024")


def render(scenes: SceneGenerator, batch: list[Scene], size: int) -> Tensor:
    """Returns (batch, 3, size, size) in [-1, 1]."""
    return images_to_tensor([scenes.render(scene, size) for scene in batch])


def generate(
    pipe: EDiffIPipeline, args: argparse.Namespace, captions: list[str], style: Tensor | None = None, **options: Any
) -> Tensor:
    """Draws one base picture for each caption; picture i depends on the seed and i alone, not on the batch size.
    `options` are further arguments of the pipeline, such as another guidance."""
    size, parts = pipe.stages[0].size, []
    for start in tqdm(range(0, len(captions), args.batch_size), desc="base" if style is None else "style"):
        rows = slice(start, start + args.batch_size)
        count = len(captions[rows])
        generators = [torch.Generator().manual_seed(args.seed * 1_000_003 + start + i) for i in range(count)]
        images = pipe(
            captions[rows],
            style_image=None if style is None else list((style[rows] + 1) / 2),
            height=size,
            width=size,
            num_inference_steps=args.steps,
            generator=generators,
            output_type="pt",
            **{"guidance_scale": args.guidance_scale, **options},
        ).images
        parts.append(images.float().cpu() * 2 - 1)
    return torch.cat(parts)


def evaluate_base(pipe: EDiffIPipeline, scorer: SceneScorer, scenes: SceneGenerator, args: argparse.Namespace) -> dict:
    """Generated pictures, real pictures of the same scenes, and those with the prompts of other scenes (chance)."""
    batch = [scenes.scene(index) for index in range(args.num_prompts)]
    others = [scenes.scene(index) for index in range(args.num_prompts, 2 * args.num_prompts)]
    size = pipe.stages[0].size
    real, reference = render(scenes, batch, size), scorer.features(render(scenes, others, size))
    images = generate(pipe, args, [scene.caption for scene in batch])
    save_grid(args.output / "base.png", images[:32], 8, args.model)
    shuffled = batch[1:] + batch[:1]
    return {
        "model": {**scorer.score(images, batch), "frechet": frechet_distance(scorer.features(images), reference)},
        "real": {**scorer.score(real, batch), "frechet": frechet_distance(scorer.features(real), reference)},
        "chance": scorer.score(real, shuffled),
        "prompts": [scene.caption for scene in batch[:32]],
    }


def evaluate_style(
    pipe: EDiffIPipeline, scorer: SceneScorer, scenes: SceneGenerator, args: argparse.Namespace
) -> dict:
    """Captions that keep silent about the style; a picture of another scene in the wanted style goes with each."""
    silent = [scene for scene in map(scenes.scene, range(20 * args.num_style_prompts)) if not scene.style_said]
    by_style = {style: [scene for scene in silent if scene.style == style] for style in scenes.styles}
    batch = [scene for group in by_style.values() for scene in group[: -(-args.num_style_prompts // len(by_style))]]
    # The reference is the next scene of the same style: it shares the style with the wanted picture, nothing else.
    references = [by_style[s.style][(by_style[s.style].index(s) + 1) % len(by_style[s.style])] for s in batch]
    captions, size = [scene.caption for scene in batch], pipe.stages[0].size
    images = generate(pipe, args, captions, render(scenes, references, size), style_scale=args.style_scale)
    save_grid(args.output / "style.png", images[:: max(1, len(images) // 32)][:32], 8, args.model)
    real = render(scenes, batch, size)
    return {
        "model": style_rates(scorer, images, batch),
        "no_style": style_rates(scorer, generate(pipe, args, captions), batch),
        "real": style_rates(scorer, real, batch),
        "chance": {"style_from_image": 1 / len(by_style)},
    }


def style_rates(scorer: SceneScorer, images: Tensor, batch: list[Scene]) -> dict[str, float]:
    """The shares of pictures that have the style of their scenes, and of those that have their objects and ground."""
    verdicts = scorer.judge(images, batch)
    rates = {"style_from_image": [verdict["style"] for verdict in verdicts]}
    for style in dict.fromkeys(scene.style for scene in batch):
        rates[f"style_from_image: {style}"] = [
            v["style"] for v, scene in zip(verdicts, batch, strict=True) if scene.style == style
        ]
    rates |= {name: [verdict[name] for verdict in verdicts] for name in ("objects", "ground")}
    return {name: sum(values) / len(values) for name, values in rates.items()}


@torch.no_grad()
def super_resolve(
    pipe: EDiffIPipeline,
    number: int,
    low_res: Tensor,
    captions: list[str],
    steps: int,
    seed: int,
    noise_level: float | None = None,
) -> Tensor:
    """Runs one super-resolution stage alone, without guidance, on pictures that need not come from the stage before.

    Args:
        pipe: The cascade.
        number: 1 for SR256, 2 for SR1024.
        low_res: (batch, 3, height, width) in [-1, 1], of the stage before.
        captions: One for each picture.
        steps: Number of steps.
        seed: Of the noise; picture i depends on it and i alone.
        noise_level: Standard deviation of the noise on the low-resolution pictures; the pipeline's by default.

    Returns:
        (batch, 3, height, width) in [-1, 1], of this stage's size.
    """
    stage = pipe.stages[number]
    unet, scheduler = stage.unet, stage.scheduler
    tokens, pooled, tokens_2, mask_2 = pipe.encode_prompt(captions, do_classifier_free_guidance=False)[:4]
    conditioning = {
        "encoder_hidden_states": tokens,
        "encoder_hidden_states_2": tokens_2,
        "encoder_attention_mask_2": mask_2,
        "added_cond_kwargs": {"text_embeds": pooled, "image_embeds": None},
    }
    upsampled = upsample_low_res(low_res.to(pipe.device), stage.size)
    scheduler.set_timesteps(steps, device=pipe.device)
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(low_res))]
    if unet.config.get("max_noise_level") is not None:
        level = pipe.config.default_noise_level[number - 1] if noise_level is None else noise_level
        conditioning["class_labels"] = torch.full((len(low_res),), level, device=pipe.device)
        upsampled = augment_low_res(
            upsampled, randn_tensor(upsampled.shape, generators, pipe.device, torch.float32), level
        )
    sample = randn_tensor(upsampled.shape, generators, pipe.device, torch.float32) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        model_input = torch.cat([scheduler.scale_model_input(sample, timestep), upsampled], dim=1)
        model_output = unet(model_input, timestep, **conditioning, return_dict=False)[0].float()
        sample = scheduler.step(model_output, timestep, sample, return_dict=False)[0]
    return sample.clamp(-1, 1).cpu()


def evaluate_sr(
    pipe: EDiffIPipeline, scorer: SceneScorer, scenes: SceneGenerator, stage: str, args: argparse.Namespace
) -> dict:
    """Enlarges averaged-down real pictures and compares patches at full resolution with those of the real ones."""
    number = 1 + SR_STAGES.index(stage)
    small, large = (pipe.stages[i].size for i in (number - 1, number))
    count = (args.num_sr256, args.num_sr1024)[number - 1]
    steps = (args.steps or pipe.config.default_num_inference_steps)[number]
    batch = [scenes.scene(index) for index in range(count)]
    real = render(scenes, batch, large)
    low_res = F.interpolate(real, size=(small, small), mode="area")
    per_call = max(1, args.batch_size * 64 * 64 // (large * large))
    parts = []
    for start in tqdm(range(0, count, per_call), desc=stage):
        captions = [scene.caption for scene in batch[start : start + per_call]]
        seed = args.seed * 1_000_003 + start
        part = low_res[start : start + per_call]
        parts.append(super_resolve(pipe, number, part, captions, steps, seed, args.noise_level))
    pictures = {"model": torch.cat(parts), "bicubic": upsample_low_res(low_res, large), "real": real}
    shown = [pictures[name][:4] for name in ("bicubic", "model", "real")]
    save_grid(args.output / f"{stage}.png", torch.cat(shown), len(shown[0]), args.model)
    others = render(scenes, [scenes.scene(index) for index in range(count, 2 * count)], large)
    patches = {name: scorer.patch_features(images, args.patches_per_image) for name, images in pictures.items()}
    reference = patches.pop("real")
    result = {
        name: {
            "patch_frechet": frechet_distance(features, reference),
            "psnr_of_downsampled": psnr(F.interpolate(pictures[name], size=(small, small), mode="area"), low_res),
            "psnr": psnr(pictures[name], real),
        }
        for name, features in patches.items()
    }
    other_patches = scorer.patch_features(others, args.patches_per_image)
    return {**result, "real": {"patch_frechet": frechet_distance(other_patches, reference)}}


def psnr(images: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1], the mean over the pictures."""
    error = (images - target).square().mean(dim=(1, 2, 3)).clamp(min=1e-10)
    return (10 * (4 / error).log10()).mean().item()


def save_grid(path: Path, images: Tensor, columns: int, model: str | None) -> None:
    """Writes pictures (batch, 3, height, width) in [-1, 1] as one PNG; the last row is filled up with black."""
    rows = -(-len(images) // columns)
    images = F.pad(images, (0, 0, 0, 0, 0, 0, 0, rows * columns - len(images)), value=-1.0)
    pictures = EDiffIPipeline.numpy_to_pil(((images + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).numpy())
    grid = make_image_grid(pictures, rows=rows, cols=columns)
    save_image(grid, path, Provenance({"model": model_name(model)}))


def print_table(results: dict[str, dict]) -> None:
    """A line for each figure, a column for each kind of picture."""
    kinds = ("model", "no_style", "bicubic", "real", "chance")
    print(f"{'':34}" + "".join(f"{kind:>10}" for kind in kinds))
    for stage, columns in results.items():
        names = dict.fromkeys(name for kind in kinds for name in columns.get(kind, {}))
        for name in names:
            values = [columns.get(kind, {}).get(name, math.nan) for kind in kinds]
            share = not name.startswith(("frechet", "patch", "psnr"))
            cells = ["" if math.isnan(v) else f"{v:.1%}" if share else f"{v:.3f}" for v in values]
            print(f"{stage + ' ' + name:34}" + "".join(f"{cell:>10}" for cell in cells))


def make_parser(description: str, need_objects: bool = True) -> argparse.ArgumentParser:
    """The options; other examples have them as well, and some of these can do without `--objects`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", help="pipeline folder or Hub id; by default the one in the package")
    parser.add_argument("--objects", type=Path, required=need_objects, help="folder with object images and index.json")
    parser.add_argument("--scorer", type=Path, help="folder of a trained scorer; by default the one in the package")
    parser.add_argument("--output", type=Path, required=True, help="folder for results.json and the pictures")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--phrases", nargs="+", help="only these objects, by their phrase in index.json")
    chosen.add_argument("--num-objects", type=int, help="only the first so many objects of index.json")
    parser.add_argument("--styles", nargs="+", default=list(STYLES), choices=STYLES, help="only these drawing styles")
    kinds = sorted({ground.kind for ground in GROUNDS})
    parser.add_argument("--ground-kinds", nargs="+", default=kinds, choices=kinds, help="only these kinds of ground")
    parser.add_argument(
        "--object-weights", type=float, nargs="+", default=(0.5, 0.4, 0.1), help="how often 1, 2 and 3 objects"
    )
    parser.add_argument("--num-prompts", type=int, default=500)
    parser.add_argument("--num-style-prompts", type=int, default=120)
    parser.add_argument("--num-sr256", type=int, default=64, help="pictures for the first super-resolution stage")
    parser.add_argument("--num-sr1024", type=int, default=16, help="pictures for the second")
    parser.add_argument("--patches-per-image", type=int, default=32)
    parser.add_argument("--steps", type=int, nargs="+", help="one for all stages, or base, SR256, SR1024")
    parser.add_argument("--guidance-scale", type=float, nargs="+", help="the same; SR stages are judged without")
    parser.add_argument("--batch-size", type=int, default=32, help="base pictures at a time; fewer of larger ones")
    parser.add_argument("--bf16", action="store_true", help="run the networks under bfloat16 autocast")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0, help="of the noise and of the held-out scenes")
    return parser


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
    objects = load_objects(args.objects, args.phrases)[: args.num_objects]
    grounds = [ground for ground in GROUNDS if ground.kind in args.ground_kinds]
    weights = {"max_objects": len(args.object_weights), "object_weights": args.object_weights}
    scenes = SceneGenerator(objects, args.styles, grounds, **weights, seed=args.seed, split="held_out")
    scorer = SceneScorer.from_pretrained(args.scorer or Path(demo_checkpoint()).with_name("scorer")).eval()
    return load_pipeline(args), scorer, scenes


def precision(args: argparse.Namespace) -> contextlib.AbstractContextManager:
    """What --bf16 asks for."""
    return torch.autocast(torch.device(args.device).type, torch.bfloat16) if args.bf16 else contextlib.nullcontext()


def main(arguments: list[str] | None = None) -> dict[str, dict]:
    """Evaluates, writes, prints and returns the figures."""
    parser = make_parser(__doc__.split("\n")[0])
    parser.add_argument("--stages", nargs="+", choices=STAGES, help="by default all that the model has")
    parser.add_argument("--style-scale", type=float, default=1.0, help="factor on the style reference's embedding")
    parser.add_argument("--noise-level", type=float, help="of super-resolution's input (default: the model's)")
    args = parser.parse_args(arguments)
    pipe, scorer, scenes = prepare(args)
    present = ["base", "style"] + [stage for stage in SR_STAGES if getattr(pipe, f"unet_{stage}") is not None]
    stages = args.stages or present
    missing = [stage for stage in stages if stage not in present]
    if missing:
        raise ValueError(f"The model has no stage {missing[0]!r}; choose from {present}.")
    args.output.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict] = {}
    with precision(args):
        for stage in stages:
            if stage in SR_STAGES:
                results[stage] = evaluate_sr(pipe, scorer, scenes, stage, args)
            else:
                evaluate = evaluate_base if stage == "base" else evaluate_style
                results[stage] = evaluate(pipe, scorer, scenes, args)
            settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
            report = json.dumps({"settings": settings, "results": results}, indent=2)
            (args.output / "results.json").write_text(report + "\n")
    print_table(results)
    return results


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")

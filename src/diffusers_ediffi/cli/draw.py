# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`ediffi generate`, `paint` and `edit`: each checks what it was given, then all draw and save in the same way."""

import argparse
import contextlib
import itertools
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..attention_recorder import record_attention
from ..checks import MAX_SEED
from ..demo.checkpoint import demo_checkpoint
from ..images import image_size, open_image, read_image
from ..paint.regions import check_canvas, regions_from_color_map
from ..paint.scene_file import check_colorless, read_scene, regions_from_settings
from ..phrases import find_phrase
from ..pipelines.image_start import ImageStart
from ..pipelines.inputs import check_prompt_schedule
from ..pipelines.pipeline_ediffi import EDiffIPipeline
from ..pipelines.pipeline_ediffi_img2img import EDiffIImg2ImgPipeline
from ..pipelines.pipeline_ediffi_inpaint import EDiffIInpaintPipeline
from ..provenance import read_provenance
from .device import usable_device
from .messages import one_line
from .model import load_pipeline, saved_stages
from .results import Results, save_attention

SR_STAGES = ("SR256", "SR1024")


def generate(args: argparse.Namespace) -> None:
    """Draws a prompt, a schedule of prompts, or variations of a style image."""
    _read_style(args)
    if args.prompt is not None and args.prompt_schedule is not None:
        raise ValueError("give either a prompt or --prompt-schedule, not both.")
    if args.prompt is None and args.prompt_schedule is None and args.style_image is None:
        raise ValueError(
            "there is nothing to draw; give a prompt, --prompt-schedule, or --style-image for variations."
        )
    check_prompt_schedule(args.prompt_schedule, None, {})
    _draw(args, {"prompt_schedule": args.prompt_schedule} if args.prompt_schedule else {})


def paint(args: argparse.Namespace) -> None:
    """Draws a prompt with its phrases where a scene or a canvas says."""
    _read_style(args)
    scene = _read_scene(args)
    args.prompt = args.prompt or scene.get("prompt")
    if not isinstance(args.prompt, str) or not args.prompt.strip():
        raise ValueError(f"there is no prompt in {str(args.scene)!r}; give --prompt.")
    for region in scene["regions"]:
        find_phrase(args.prompt, region.phrase, region.occurrence)
    strength = scene.get("strength") if args.strength is None else args.strength
    _draw(args, {"regions": scene["regions"], "region_strength": strength})


def edit(args: argparse.Namespace) -> None:
    """Changes an image, or what a mask paints white of it."""
    _read_style(args)
    changed: dict[str, Any] = {"image": open_image(args.image)}
    if args.mask is not None:
        changed["mask_image"] = open_image(args.mask)
        check_colorless(changed["mask_image"], repr(str(args.mask)))
    default = 0.8 if args.mask is None else 1.0
    changed["strength"] = default if args.strength is None else args.strength
    ImageStart(**changed)  # refuses what the pipeline would refuse, before it is loaded
    _draw(args, changed, EDiffIImg2ImgPipeline if args.mask is None else EDiffIInpaintPipeline)


def _read_style(args: argparse.Namespace) -> None:
    """Puts the picture in the place of its name."""
    if args.style_image is not None:
        try:
            args.style_image = read_image(args.style_image)
        except ValueError as error:
            raise ValueError(f"argument --style-image: {error} (see ediffi {args.command} --help)") from None


def _read_scene(args: argparse.Namespace) -> dict[str, Any]:
    """The entries of a JSON scene, those of a picture that was painted, or the regions of a canvas."""
    if args.scene.suffix.lower() == ".json":
        if args.legend is not None:
            raise ValueError("--legend is for a canvas; a JSON scene names its phrases itself.")
        return read_scene(args.scene)
    if args.legend is None and (scene := _painted_scene(args.scene)):
        return scene
    if not args.legend:
        raise ValueError(f"the canvas {str(args.scene)!r} needs --legend COLOR=PHRASE ..., such as red='red apple'.")
    width, height = image_size(args.scene)
    check_canvas(height, width, len(args.legend))
    return {"regions": regions_from_color_map(open_image(args.scene), dict(args.legend))}


def _painted_scene(path: Path) -> dict[str, Any] | None:
    """What a picture was painted with, where its file says it."""
    try:
        settings = read_provenance(path).settings
    except ValueError:
        return None
    if "regions" not in settings:
        return None
    regions = regions_from_settings(settings["regions"], repr(str(path)))
    return {"prompt": settings.get("prompt"), "regions": regions, "strength": settings.get("region_strength")}


def _draw(args: argparse.Namespace, further: dict[str, Any], pipeline: type[EDiffIPipeline] = EDiffIPipeline) -> None:
    """Draws what the arguments say; `further` are more arguments of the pipeline."""
    _check_together(args)
    model = args.model or demo_checkpoint()
    seed = secrets.randbelow(2**32) if args.seed is None else args.seed
    results = Results.of(args, [(seed + i) % (MAX_SEED + 1) for i in range(args.num_images)], further)
    results.check_size(args.size or 1)
    device = usable_device(args.device)
    dtype = getattr(torch, args.dtype or ("float32" if device == "cpu" else "float16"))
    # T5 overflows in float16.
    dtypes = {"default": dtype, "text_encoder_2": torch.bfloat16 if dtype == torch.float16 else dtype}
    _check_noise_level(args, saved_stages(model))
    times = [time.perf_counter()]
    pipe = load_pipeline(model, pipeline, dtypes)
    times.append(time.perf_counter())
    _check_stages(args, pipe.stages)
    _check_noise_level(args, [(stage.size, stage.unet.config.get("max_noise_level")) for stage in pipe.stages])
    results.check_size(args.size or pipe.stages[-1].size)
    with _memory_errors(args, pipe, f"{dtype} on {device}"), _recording(args, pipe) as recorder:
        pipe.to(device)
        output = pipe(args.prompt, **_call(args, results.seeds), **further)
    times.append(time.perf_counter())
    files = results.save(output)
    if args.attention is not None:
        save_attention(args.attention, recorder)
    results.report(files, _about(args, device, dtype, times))


def _about(args: argparse.Namespace, device: str, dtype: torch.dtype, times: Sequence[float]) -> dict[str, Any]:
    """The run: its model, where it drew, and the seconds until the model was loaded and the images were drawn."""
    load, draw = (round(after - before, 3) for before, after in itertools.pairwise(times))
    return {
        "model": args.model or "demo",
        "device": device,
        "dtype": str(dtype).removeprefix("torch."),
        "seconds": {"load": load, "draw": draw},
        "attention": None if args.attention is None else str(args.attention),
    }


def _call(args: argparse.Namespace, seeds: Sequence[int]) -> dict[str, Any]:
    """The arguments of the pipeline that all commands have."""
    same = ("negative_prompt", "style_image", "style_scale", "guidance_scale", "guidance_rescale", "noise_level")
    return {
        **{name: getattr(args, name) for name in (*same, "encoders")},
        "height": args.size,
        "width": args.size,
        "num_inference_steps": args.steps,
        "guidance_interval": args.guidance_interval and tuple(args.guidance_interval),
        "num_images_per_prompt": args.num_images,
        # Noise is drawn on the CPU, so that a seed means the same image on every device.
        "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
    }


@contextlib.contextmanager
def _memory_errors(args: argparse.Namespace, pipe: Any, where: str) -> Iterator[None]:
    """Turns what PyTorch raises, most often for too little memory, into a `ValueError`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        size = args.size or pipe.stages[-1].size
        raise ValueError(
            f"cannot draw {args.num_images} of {size} x {size} pixels in {where}; a smaller --num-images, "
            f"--size or --dtype needs less memory: {one_line(error)}"
        ) from error


def _recording(args: argparse.Namespace, pipe: Any) -> Any:
    """A context that records the attention, where --attention asks for it."""
    return contextlib.nullcontext() if args.attention is None else record_attention(pipe)


def _check_together(args: argparse.Namespace) -> None:
    """Refuses options that do not go with each other."""
    interval = args.guidance_interval
    if interval and not interval[0] < interval[1]:
        raise ValueError(f"--guidance-interval {interval[0]:g} {interval[1]:g}: LOW must be below HIGH.")
    if args.style_image is None and args.style_scale != 1:
        raise ValueError(f"--style-scale {args.style_scale:g} scales no style; give --style-image, or leave it out.")
    weights = args.guidance_scale if isinstance(args.guidance_scale, dict) else {}
    weighted = [name for name, weight in weights.items() if weight]
    _check_conditions(args, {"--encoders": args.encoders or [], "--guidance-scale": weighted})
    for name in weighted:
        if args.encoders and name not in args.encoders:
            raise ValueError(f"--guidance-scale weights {name}, which --encoders leaves out; name it in both or none.")


def _check_conditions(args: argparse.Namespace, named: dict[str, list[str]]) -> None:
    """Refuses encoders, by the option that names them, that have nothing to encode."""
    missing = {"clip_image": "--style-image"} if args.style_image is None else {}
    if args.prompt is None and args.prompt_schedule is None:
        missing |= dict.fromkeys(("t5", "clip_text"), "a prompt")
    for option, names in named.items():
        for name in names:
            if name in missing:
                raise ValueError(f"{option} names {name}, which needs {missing[name]}; give it, or leave {name} out.")


def _check_stages(args: argparse.Namespace, stages: Sequence[Any]) -> None:
    """Refuses a size that the model does not draw, and lists that are too short for its stages."""
    sizes = [stage.size for stage in stages]
    if args.size not in (None, *sizes):
        raise ValueError(f"--size {args.size}: the model draws {', '.join(map(str, sizes))} pixels; choose one.")
    count = len(sizes) if args.size is None else sizes.index(args.size) + 1
    for option, values in (("--steps", args.steps), ("--guidance-scale", args.guidance_scale)):
        if isinstance(values, tuple) and len(values) < count:
            given = ",".join(f"{value:g}" for value in values)
            raise ValueError(
                f"{option} {given}: give one number, or one for each of the {count} stages that draw "
                f"{sizes[count - 1]} pixels."
            )


def _check_noise_level(args: argparse.Namespace, stages: Sequence[tuple[int, float | None]]) -> None:
    """Refuses noise that the super-resolution networks were not trained with, or where none of them runs; `stages`
    are the sizes of the model and the strongest noise that each network knows, none where they are not known yet."""
    running = [highest for size, highest in stages[1:] if args.size is None or size <= args.size]
    levels = args.noise_level if isinstance(args.noise_level, tuple) else (args.noise_level,) * len(SR_STAGES)
    if stages and not running and any(levels):
        raise ValueError(
            f"--noise-level {max(levels):g} is for super-resolution, and none runs up to {args.size or stages[0][0]} "
            "pixels; leave it out, or draw larger."
        )
    for stage, level, highest in zip(SR_STAGES, levels, running, strict=False):
        if level is not None and level > (highest or 0):
            known = "without noise" if highest is None else f"with noise up to {highest:g}"
            raise ValueError(
                f"--noise-level {level:g}: {stage} of this model was trained {known}; leave it out there."
            )

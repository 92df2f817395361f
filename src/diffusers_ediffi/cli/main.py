# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The command line: `ediffi generate` draws images, `ediffi paint` puts phrases where a scene says, `ediffi edit`
changes an image or a part of it, `ediffi info` says what a model consists of, or how a picture was made.

Arguments are checked before a model is loaded, which takes seconds.
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from PIL import Image, ImageOps

from .. import __version__
from ..demo.checkpoint import demo_checkpoint
from ..files import write_json
from ..provenance import (
    COMPOSITE_WITH_TRAINED_ALGORITHMIC_MEDIA,
    TRAINED_ALGORITHMIC_MEDIA,
    Provenance,
    as_json,
    model_name,
    open_image,
    read_provenance,
    region_settings,
    save_image,
)

MAX_STAGES = 3
MAX_INFERENCE_STEPS = 1000
MAX_SEED = 2**63 - 1
ENCODERS = ("t5", "clip_text", "clip_image")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments without the program's name; by default those of the process.

    Returns:
        The exit code: 0, or 2 after one line on standard error about a bad input; 130 after Ctrl-C and 141 where the
        reader of the output has gone, as shells have it.
    """
    try:
        try:
            args, rest = _parser().parse_known_args(argv)
            _refuse_rest(args.command, rest)
            args.run(args)
        finally:  # what is buffered, that of --help too, must fail here and not when Python ends
            sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (OSError, ValueError) as error:
        print(f"ediffi: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    def __init__(self, **kwargs: Any):
        super().__init__(allow_abbrev=False, **kwargs)  # --prompt is no --prompt-schedule
        # "-1,x" is a value as "-1" is, so that its type says what is wrong with it.
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message: str) -> NoReturn:
        """Leaves the usage out: one line says what is wrong."""
        raise ValueError(f"{message} (see {self.prog} --help)")


def _refuse_rest(command: str, rest: list[str]) -> None:
    """Refuses the arguments that no parser knew."""
    if rest and rest[0].startswith("-"):
        raise ValueError(f"ediffi {command} has no option {rest[0]!r} (see ediffi {command} --help)")
    if rest:
        raise ValueError(
            f"{rest[0]!r} is one value too many; a prompt of several words needs quotes, and an option has as many "
            f"values as ediffi {command} --help says"
        )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ediffi", description="Images from sentences, with an ensemble of expert denoisers.")
    parser.add_argument("--version", action="version", version=f"diffusers_ediffi {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    generate = commands.add_parser("generate", help="draw images", description="Draws images of a sentence as PNGs.")
    generate.set_defaults(run=_generate)
    generate.add_argument("prompt", type=_prompt, nargs="?", help="what to draw")
    generate.add_argument(
        "--prompt-schedule",
        nargs="+",
        type=_scheduled,
        metavar="SHARE:PROMPT",
        help='instead of one prompt, prompts that begin after a share of the base\'s steps: "0:a cat" "0.3:a dog"',
    )
    paint = commands.add_parser(
        "paint",
        help="draw phrases where a scene says",
        description="Draws a sentence with its phrases where a scene says. A scene is a JSON file such as "
        '{"prompt": "a red apple and a rocket", "regions": [{"phrase": "red apple", "mask": [0, 0.3, 0.5, 1]}, '
        '{"phrase": "rocket", "mask": "rocket.png", "weight": 1.5}]}, whose masks are boxes (left, top, right, '
        "bottom) or pictures beside the file, white inside; or a painted canvas with --prompt and --legend.",
    )
    paint.set_defaults(run=_paint)
    paint.add_argument("scene", type=_file, help="a JSON file, or a canvas whose colours --legend explains")
    paint.add_argument("--prompt", type=_prompt, help="what to draw (default: the scene's)")
    paint.add_argument(
        "--legend", nargs="*", type=_legend, metavar="COLOR=PHRASE", help="the canvas's colours: red='red apple'"
    )
    paint.add_argument(
        "--strength", type=_per_stage(_at_least_0), help="how strongly (default: the scene's, or the model's)"
    )
    edit = commands.add_parser(
        "edit",
        help="change an image, or a part of it",
        description="Draws from an image on, or what a mask paints white anew. Both are squeezed to a square.",
    )
    edit.set_defaults(run=_edit)
    edit.add_argument("image", type=_file, metavar="IMAGE", help="the image to change")
    edit.add_argument("prompt", type=_prompt, help="what to draw")
    edit.add_argument("--mask", type=_file, metavar="FILE", help="white where to repaint; black keeps the pixels")
    edit.add_argument(
        "--strength",
        type=_per_stage(_share),
        help="from 0, the image, to 1 (default: 0.8, and 1 with --mask)",
    )
    info = commands.add_parser(
        "info",
        help="describe a model or a picture",
        description="Lists a model's stages and experts, or what a picture's file says about how it was made.",
    )
    info.set_defaults(run=_info)
    info.add_argument("picture", nargs="?", type=_picture, help="a picture instead of a model")
    for command in (generate, paint, edit):
        _add_drawing_options(command)
    for command in (generate, paint, edit, info):
        command.add_argument("--model", type=_model, help="folder or Hub id (default: the demo model)")
    return parser


def _add_drawing_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--output", type=_output, default="ediffi.png", metavar="FILE", help="the PNG to write (default: %(default)s)")
    add("--size", type=_whole(1), help="height and width: 64, 256 or 1024 (default: the model's largest)")
    add("--seed", type=_whole(0, MAX_SEED), help="makes the image repeatable (default: by chance)")
    add("--num-images", type=_whole(1), default=1, metavar="N", help="writes FILE-0.png, ...; image i has seed + i")
    add("--style-image", type=_style_image, metavar="FILE", help="an image whose style to take over")
    add("--style-scale", type=_at_least_0, default=1.0, help="factor on the style; 0 is none (default: %(default)s)")
    add("--steps", type=_per_stage(_whole(1, MAX_INFERENCE_STEPS)), help="one number, or one per stage: 25,10,10")
    add("--guidance-scale", type=_guidance_scale, help="a number, one per stage: 5,1,1, or weights: t5=5,clip_text=3")
    add("--guidance-interval", nargs=2, type=_noise_level, metavar=("LOW", "HIGH"), help="guide at these sigmas alone")
    add(
        "--guidance-rescale",
        type=_share,
        default=0.0,
        help="against overexposure; 0.7 is usual (default: %(default)s)",
    )
    add("--noise-level", type=_per_stage(_at_least_0), help="on SR's input, so that it repairs more; 0.2, or 0.2,0.1")
    add("--encoders", nargs="+", choices=ENCODERS, help="which conditions to use (default: all there are)")
    add("--negative-prompt", metavar="TEXT", help="what the image should not be")
    add("--dtype", choices=("float32", "float16", "bfloat16"), help="(default: float32 on a CPU, else float16)")
    add("--device", help="cpu, cuda, cuda:1, mps, ... (default: the fastest there is)")
    add(
        "--attention",
        type=_json_output,
        metavar="FILE",
        help="write what the base attends to, by noise level and word",
    )
    add("--no-provenance", action="store_true", help="keep out of the file how it was made (prompt, seed, model, ...)")


def _prompt(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; say what to draw")
    if Path(text).suffix and os.path.isfile(text):
        raise argparse.ArgumentTypeError(f"{text!r} is a file, one too many here; say what to draw in words")
    return text


def _output(text: str) -> Path:
    return _writable(text, ".png")


def _json_output(text: str) -> Path:
    return _writable(text, ".json")


def _writable(text: str, suffix: str) -> Path:
    path = Path(text).expanduser()
    folder = path.absolute().parent
    if path.suffix.lower() != suffix:
        raise argparse.ArgumentTypeError(f"{text!r} must end in {suffix}")
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(folder)!r}")
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written")
    return path


def _style_image(text: str) -> Image.Image:
    from ..pipelines.style import read_image

    try:
        return read_image(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _at_least_0(text: str) -> float:
    number = _finite(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is below 0")
    return number


def _noise_level(text: str) -> float:
    try:
        level = float(text)
    except ValueError:
        level = math.nan
    if not level >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no noise level: 0 or more, inf for all above")
    return level


def _scheduled(text: str) -> tuple[str, float]:
    share, _, prompt = text.partition(":")
    if not share.strip() or not prompt.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not SHARE:PROMPT, such as '0.3:a dog'")
    return prompt.strip(), _share(share)


def _file(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text!r}")
    return path


def _picture(text: str) -> Path:
    path = Path(text).expanduser()
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder; for a model say --model {text}")
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no picture {text!r}; a model is named with --model")
    return path


def _legend(text: str) -> tuple[str, str]:
    color, _, phrase = text.partition("=")
    if not color.strip() or not phrase.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not COLOR=PHRASE, such as red='red apple'")
    return color.strip(), phrase.strip()


def _model(text: str) -> str:
    path = Path(text).expanduser()
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise argparse.ArgumentTypeError(f"{text!r} holds no model_index.json, so it is not a saved pipeline")
        return str(path)
    if path.exists() or not HUB_ID.fullmatch(text) or text.startswith("."):
        raise argparse.ArgumentTypeError(f"there is no folder {text!r}, nor is it a Hub id such as org/name")
    return text


def _whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """A parser of whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        if not re.fullmatch(r"[+-]?\d{1,30}", text) or not low <= int(text) <= (math.inf if high is None else high):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {limits}")
        return int(text)

    return parse


def _finite(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return number


def _share(text: str) -> float:
    number = _finite(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} does not lie in 0 to 1")
    return number


def _per_stage(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """A parser of one number for all stages, or of a list with commas for each."""

    def parse_all(text: str) -> Any:
        parts = [part.strip() for part in text.split(",")]
        if not all(parts):
            raise argparse.ArgumentTypeError(f"{text!r} leaves a number out; give one, or one per stage: 1,2,3")
        numbers = tuple(map(parse, parts))
        if len(numbers) > MAX_STAGES:
            raise argparse.ArgumentTypeError(f"{text!r} has {len(numbers)} numbers for at most {MAX_STAGES} stages")
        return numbers[0] if len(numbers) == 1 else numbers

    return parse_all


def _guidance_scale(text: str) -> Any:
    """A number for all stages or each, or a weight for each encoder."""
    if "=" not in text:
        return _per_stage(_finite)(text)
    pairs = [part.partition("=") for part in text.split(",")]
    names = [name.strip() for name, _, _ in pairs]
    if len(set(names)) < len(names) or not set(names) <= set(ENCODERS):
        raise argparse.ArgumentTypeError(
            f"{text!r} must give {', '.join(ENCODERS)} a weight each or leave some out, such as t5=5,clip_text=3"
        )
    for name, _, weight in pairs:
        if not weight.strip():
            raise argparse.ArgumentTypeError(f"{text!r} gives {name.strip()} no weight; write {name.strip()}=5")
    return {name: _finite(weight) for name, (_, _, weight) in zip(names, pairs, strict=True)}


def _generate(args: argparse.Namespace) -> None:
    from ..pipelines.inputs import check_prompt_schedule

    if args.prompt is not None and args.prompt_schedule is not None:
        raise ValueError("give either a prompt or --prompt-schedule, not both.")
    if args.prompt is None and args.prompt_schedule is None and args.style_image is None:
        raise ValueError(
            "there is nothing to draw; give a prompt, --prompt-schedule, or --style-image for variations."
        )
    check_prompt_schedule(args.prompt_schedule, None, {})
    _draw(args, {"prompt_schedule": args.prompt_schedule} if args.prompt_schedule else {})


def _paint(args: argparse.Namespace) -> None:
    if args.scene.suffix.lower() == ".json":
        if args.legend is not None:
            raise ValueError("--legend is for a canvas; a JSON scene names its phrases itself.")
        scene = _read_scene(args.scene)
    elif not args.legend:
        raise ValueError(f"the canvas {str(args.scene)!r} needs --legend COLOR=PHRASE ..., such as red='red apple'.")
    else:
        from ..paint.regions import regions_from_color_map

        scene = {"regions": regions_from_color_map(open_image(args.scene), dict(args.legend))}
    args.prompt = args.prompt or scene.get("prompt")
    if not isinstance(args.prompt, str) or not args.prompt.strip():
        raise ValueError(f"there is no prompt in {str(args.scene)!r}; give --prompt.")
    from ..paint.regions import find_phrase

    for region in scene["regions"]:
        find_phrase(args.prompt, region.phrase, region.occurrence)
    strength = scene.get("strength") if args.strength is None else args.strength
    _draw(args, {"regions": scene["regions"], "region_strength": strength})


def _edit(args: argparse.Namespace) -> None:
    # cameras store which way is up beside the pixels
    changed: dict[str, Any] = {"image": ImageOps.exif_transpose(open_image(args.image))}
    if args.mask is not None:
        changed["mask_image"] = ImageOps.exif_transpose(open_image(args.mask))
    default = 0.8 if args.mask is None else 1.0
    changed["strength"] = default if args.strength is None else args.strength
    from ..pipelines.image_start import ImageStart

    ImageStart(**changed)  # refuses what the pipeline would refuse, before it is loaded
    _draw(args, changed, "EDiffIImg2ImgPipeline" if args.mask is None else "EDiffIInpaintPipeline")


def _read_scene(path: Path) -> dict[str, Any]:
    """The entries of a JSON scene, its regions as `PaintRegion`."""
    try:
        scene = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from None
    known = {"prompt", "regions", "strength"}
    regions = scene.get("regions") if isinstance(scene, dict) else None
    if not isinstance(regions, list) or set(scene) - known or not all(isinstance(one, dict) for one in regions):
        raise ValueError(f'{str(path)!r} must be {{"prompt": ..., "regions": [{{"phrase": ..., "mask": ...}}, ...]}}.')
    from ..paint.regions import region_from_dict

    for region in regions:
        if isinstance(region.get("mask"), str):  # beside the scene
            region["mask"] = open_image(path.parent / region["mask"])
    return {**scene, "regions": [region_from_dict(region) for region in regions]}


def _draw(args: argparse.Namespace, further: dict[str, Any], pipeline: str = "EDiffIPipeline") -> None:
    """Draws what the arguments say; `further` are more arguments of the pipeline, `pipeline` is its name."""
    _check_together(args)
    model = args.model or demo_checkpoint()
    seed = secrets.randbelow(2**32) if args.seed is None else args.seed
    seeds = [(seed + i) % (MAX_SEED + 1) for i in range(args.num_images)]
    device = _device(args.device)

    import torch

    dtype = getattr(torch, args.dtype or ("float32" if device == "cpu" else "float16"))
    # T5 overflows in float16.
    dtypes = {"default": dtype, "text_encoder_2": torch.bfloat16 if dtype == torch.float16 else dtype}
    pipe = _load(model, dtypes, pipeline)
    _check_stages(args, pipe.stages)
    recording: Any = contextlib.nullcontext() if args.attention is None else _recording(pipe)
    try:
        pipe.to(device)
        with recording as recorder:
            output = pipe(
                args.prompt,
                negative_prompt=args.negative_prompt,
                style_image=args.style_image,
                style_scale=args.style_scale,
                height=args.size,
                width=args.size,
                num_inference_steps=args.steps,
                guidance_scale=args.guidance_scale,
                guidance_interval=args.guidance_interval and tuple(args.guidance_interval),
                guidance_rescale=args.guidance_rescale,
                noise_level=args.noise_level,
                encoders=args.encoders,
                num_images_per_prompt=args.num_images,
                # Noise is drawn on the CPU, so that a seed means the same image on every device.
                generator=[torch.Generator("cpu").manual_seed(one) for one in seeds],
                **further,
            )
    except (RuntimeError, MemoryError) as error:  # most often too little memory
        size = args.size or pipe.stages[-1].size
        raise ValueError(
            f"cannot draw {args.num_images} of {size} x {size} pixels in {dtype} on {device}; a smaller --num-images, "
            f"--size or --dtype needs less memory: {_one_line(error)}"
        ) from error
    _save(args, further, output, seeds)
    if args.attention is not None:
        _save_attention(args.attention, recorder)


def _check_together(args: argparse.Namespace) -> None:
    """Refuses options that do not go with each other."""
    interval = args.guidance_interval
    if interval and not interval[0] < interval[1]:
        raise ValueError(f"--guidance-interval {interval[0]:g} {interval[1]:g}: LOW must be below HIGH.")
    if args.style_image is None and args.style_scale != 1:
        raise ValueError(f"--style-scale {args.style_scale:g} scales no style; give --style-image, or leave it out.")
    weights = args.guidance_scale if isinstance(args.guidance_scale, dict) else {}
    weighted = [name for name, weight in weights.items() if weight]
    missing = {"clip_image": "--style-image"} if args.style_image is None else {}
    if args.prompt is None and args.prompt_schedule is None:
        missing |= dict.fromkeys(("t5", "clip_text"), "a prompt")
    for option, names in (("--encoders", args.encoders or ()), ("--guidance-scale", weighted)):
        for name in names:
            if name in missing:
                raise ValueError(f"{option} names {name}, which needs {missing[name]}; give it, or leave {name} out.")
    for name in weighted:
        if args.encoders and name not in args.encoders:
            raise ValueError(f"--guidance-scale weights {name}, which --encoders leaves out; name it in both or none.")


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


def _recording(pipe: Any) -> Any:
    from ..attention_recorder import record_attention

    return record_attention(pipe)


def _save_attention(path: Path, recorder: Any) -> None:
    """Writes the shares of attention by noise level and those of the prompt's words, the means over the images."""
    words = [recorder.words(image) for image in range(recorder.num_images)] if recorder.prompts else []
    report = {
        "sigmas": recorder.sigmas,
        "shares": {name: share.mean(0).tolist() for name, share in recorder.shares().items()},
        "words": [
            {
                "text": own[0].text,
                "encoder": own[0].encoder,
                "masses": (sum(one.masses for one in own) / len(own)).tolist(),
            }
            for own in zip(*words, strict=True)
        ],
    }
    write_json(path, report)
    print(path)


def _save(args: argparse.Namespace, further: dict[str, Any], output: Any, seeds: list[int]) -> None:
    """Writes what the pipeline returned, with its provenance, and names the files."""
    detected = output.nsfw_content_detected or [False] * args.num_images
    source_type = COMPOSITE_WITH_TRAINED_ALGORITHMIC_MEDIA if "image" in further else TRAINED_ALGORITHMIC_MEDIA
    for path, image, own_seed, black in zip(
        _paths(args.output, args.num_images), output.images, seeds, detected, strict=True
    ):
        settings = _settings(args, own_seed, further) | ({"nsfw_content_detected": True} if black else {})
        save_image(image, path, None if args.no_provenance else Provenance(settings, digital_source_type=source_type))
        print(f"{path} (seed {own_seed}{', blackened by the safety checker' if black else ''})")


def _device(name: str | None) -> str:
    import torch

    if name is None:
        mps = torch.backends.mps.is_available()
        return "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        torch.empty(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {name!r} is not usable here: {_one_line(error)}") from error
    return name


def _load(model: str, dtype: Any = None, pipeline: str = "EDiffIPipeline") -> Any:
    """Loads a pipeline; every way in which its files can be wrong becomes a `ValueError`."""
    import diffusers_ediffi

    _quiet()
    try:
        pipe = getattr(diffusers_ediffi, pipeline).from_pretrained(model, dtype=dtype)
    except Exception as error:  # there is no end to the errors that damaged or foreign files raise
        what = f"cannot load {model!r}"
        if not Path(model).is_dir():
            what = f"there is no folder {model!r} here, and as a Hub id it could not be loaded"
        raise ValueError(f"{what}: {type(error).__name__}: {_one_line(error)}") from error
    pipe.set_progress_bar_config(disable=not sys.stderr.isatty())
    return pipe


def _quiet() -> None:
    """Errors only, and progress bars where somebody watches."""
    import diffusers.utils.logging
    import huggingface_hub.utils
    import transformers.utils.logging

    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    # Loading is short; only drawing and downloads deserve a bar.
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _paths(output: Path, count: int) -> list[Path]:
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{i}{output.suffix}") for i in range(count)]


def _settings(args: argparse.Namespace, seed: int, further: dict[str, Any]) -> dict[str, Any]:
    """What the file says: enough to draw it again, and no path, since the picture may go anywhere."""
    return {
        "prompt": args.prompt,
        "negative_prompt": args.negative_prompt,
        "seed": seed,
        "model": model_name(args.model),
        "size": args.size,
        "steps": args.steps,
        "guidance_scale": args.guidance_scale,
        "encoders": args.encoders,
        # JSON has no infinity.
        "guidance_interval": args.guidance_interval
        and [one if math.isfinite(one) else "inf" for one in args.guidance_interval],
        "guidance_rescale": args.guidance_rescale or None,
        "noise_level": args.noise_level,
        "style_image": None if args.style_image is None else True,
        "style_scale": None if args.style_image is None else args.style_scale,
        "prompt_schedule": further.get("prompt_schedule"),
        "regions": region_settings(further["regions"]) if "regions" in further else None,
        "region_strength": further.get("region_strength"),
        "image": True if "image" in further else None,
        "mask_image": True if "mask_image" in further else None,
        "strength": further.get("strength"),
    }


def _info(args: argparse.Namespace) -> None:
    if args.picture is None:
        _describe_model(args)
    elif args.model is None:
        _describe_picture(args.picture)
    else:
        raise ValueError("info describes a picture or a --model, not both at once.")


def _describe_picture(path: Path) -> None:
    provenance = read_provenance(path)
    source_type = provenance.digital_source_type
    for name, value in {"software": provenance.software, "source type": source_type, **provenance.settings}.items():
        # As JSON, since a terminal would obey what a stranger's file may hold.
        print(f"{as_json(name)[1:-1]:<22}{as_json(value)}")


def _describe_model(args: argparse.Namespace) -> None:
    model = args.model or demo_checkpoint()
    pipe = _load(model)
    print(f"model       {args.model or 'demo'}")
    print(f"licence     {_licence(model)}")
    parameters = {name: _parameters(part) for name, part in pipe.components.items() if hasattr(part, "parameters")}
    print(f"parameters  {_count(sum(parameters.values()))}")
    for name, number in parameters.items():
        print(f"  {name:<18}{_count(number):>8}  {type(pipe.components[name]).__name__}")
    defaults = zip(
        pipe.stages, pipe.config.default_num_inference_steps, pipe.config.default_guidance_scale, strict=False
    )
    for stage, steps, guidance in defaults:
        name = stage.label.split()[0]
        print(f"{name}: {stage.size} x {stage.size}, {steps} steps, guidance {guidance:g}")
        for line in _experts(stage, steps):
            print(f"  {line}")


def _experts(stage: Any, num_steps: int) -> Iterator[str]:
    """One line for each expert of a stage: its noise levels, its share of the steps, its size."""
    scheduler, router = stage.scheduler, stage.unet
    scheduler.set_timesteps(num_steps)
    sigmas = getattr(scheduler, "routing_sigmas", scheduler.sigmas[: len(scheduler.timesteps)].tolist())
    # A Runge-Kutta step repeats its noise level for each of its calls.
    steps = [sigma for sigma, _ in itertools.groupby(sigmas)]
    experts = getattr(router, "experts", [router])
    edges = [0.0, *getattr(router, "boundaries", []), math.inf]
    unit = router.config.get("unit", "sigma")
    routes = [router.select_expert(sigma) if hasattr(router, "select_expert") else 0 for sigma in steps]
    for i, expert in enumerate(experts):
        interval = f"{unit} {edges[i]:.4g} to {edges[i + 1]:.4g}"
        yield f"expert.{i}  {interval:<24}{routes.count(i):>3} of {len(steps)} steps  {_size(expert, i)}"


def _size(expert: Any, index: int) -> str:
    """The parameters of an expert; of a low-rank one those that it does not share."""
    shared = getattr(expert, "lora_experts", None)
    if shared is None:
        return _count(_parameters(expert))
    own = sum(tensor.numel() for tensor in shared.expert(index).weights.values())
    return f"{_count(own)} beside a shared base"


def _parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _count(number: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _licence(model: str) -> str:
    """What the model card (README.md) says."""
    from huggingface_hub import ModelCard

    card = Path(model) / "README.md"
    if Path(model).is_dir() and not card.is_file():
        return "not stated (no model card)"
    try:
        licence = ModelCard.load(card if card.is_file() else model).data.to_dict().get("license")
    except Exception:  # a model without a readable card is still a model
        licence = None
    return str(licence or "not stated")

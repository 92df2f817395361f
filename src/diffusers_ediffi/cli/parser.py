# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The commands and their options. Imports no torch, so that help and wrong arguments are quick."""

import argparse
import re
from typing import Any, NoReturn

from .. import __version__
from ..checks import MAX_FILES, MAX_INFERENCE_STEPS, MAX_SEED
from ..models.encoder_table import ENCODERS
from . import options

DTYPES = ("float32", "float16", "bfloat16")
# Those of `evaluation`, which takes longer to import.
METRICS = ("clip_score", "cmmd", "frechet_distance", "kernel_distance", "precision_recall")
LAYOUTS = ("plain", "geneval", "t2i-compbench")
FILTERS = ("bicubic", "bilinear", "lanczos", "box")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")  # those of `provenance`, which takes longer to import


def command_parser() -> argparse.ArgumentParser:
    """The parser of all commands; its `command` is the name of the chosen one."""
    parser = _Parser(prog="ediffi", description="Images from sentences, with an ensemble of expert denoisers.")
    parser.add_argument("--version", action="version", version=f"diffusers_ediffi {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for add in (_add_generate, _add_paint, _add_edit):
        _add_drawing_options(add(commands))
    _add_info(commands)
    _add_space(commands)
    for command in commands.choices.values():  # evaluate, which is added below, has a model as its first argument
        command.add_argument("--model", type=options.model, help="folder or Hub id (default: demo)")
    _add_evaluate(commands)
    _add_models(commands)
    return parser


def refuse_rest(command: str, rest: list[str]) -> None:
    """Refuses the arguments that no parser knew.

    Raises:
        ValueError: There are some.
    """
    if rest and rest[0].startswith("-"):
        raise ValueError(f"ediffi {command} has no option {rest[0]!r} (see ediffi {command} --help)")
    if rest:
        raise ValueError(
            f"{rest[0]!r} is one value too many; a prompt of several words needs quotes, and an option has as many "
            f"values as ediffi {command} --help says"
        )


class _Parser(argparse.ArgumentParser):
    def __init__(self, **kwargs: Any):
        super().__init__(allow_abbrev=False, **kwargs)  # --prompt does not mean --prompt-schedule
        # "-1,x" is a value as "-1" is, so that its type says what is wrong with it.
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message: str) -> NoReturn:
        """Leaves the usage out: one line says what is wrong."""
        raise ValueError(f"{message} (see {self.prog} --help)")


def _add_generate(commands: Any) -> argparse.ArgumentParser:
    command = commands.add_parser("generate", help="draw images", description="Draws images of a sentence.")
    command.add_argument("prompt", type=options.prompt, nargs="?", help="what to draw")
    command.add_argument(
        "--prompt-schedule",
        nargs="+",
        type=options.scheduled_prompt,
        metavar="SHARE:PROMPT",
        help='instead of one prompt, prompts that begin after a share of the base\'s steps: "0:a cat" "0.3:a dog"',
    )
    return command


def _add_paint(commands: Any) -> argparse.ArgumentParser:
    command = commands.add_parser(
        "paint",
        help="draw phrases where a scene says",
        description="Draws a sentence with its phrases where a scene says. A scene is a JSON file such as "
        '{"prompt": "a red apple and a rocket", "regions": [{"phrase": "red apple", "mask": [0, 0.3, 0.5, 1]}, '
        '{"phrase": "rocket", "mask": "rocket.png", "weight": 1.5}]}, whose masks are boxes (left, top, right, '
        "bottom) or pictures beside the file, white inside; or a canvas with --prompt and --legend; or a picture that "
        "was painted before, whose file says how.",
    )
    add = command.add_argument
    colors = "the canvas's colours: red='red apple'"
    add("scene", type=options.file, help="a JSON file, a canvas whose colours --legend explains, or a painted picture")
    add("--prompt", type=options.prompt, help="what to draw (default: the scene's)")
    add("--legend", nargs="*", type=options.legend_entry, metavar="COLOR=PHRASE", help=colors)
    strength = options.per_stage(options.at_least_0)
    add("--strength", type=strength, help="how strongly (default: the scene's, or the model's)")
    return command


def _add_edit(commands: Any) -> argparse.ArgumentParser:
    command = commands.add_parser(
        "edit",
        help="change an image, or a part of it",
        description="Draws from an image on, or what a mask paints white anew. Both are squeezed to a square; what is "
        "transparent in the image is white.",
    )
    add = command.add_argument
    add("image", type=options.file, metavar="IMAGE", help="the image to change")
    add("prompt", type=options.prompt, help="what to draw")
    add("--mask", type=options.file, metavar="FILE", help="white where to repaint; black keeps the pixels")
    strength = options.per_stage(options.share)
    add("--strength", type=strength, help="from 0, the image, to 1 (default: 0.8, and 1 with --mask)")
    return command


def _add_info(commands: Any) -> None:
    command = commands.add_parser(
        "info",
        help="describe a model or a picture",
        description="Lists a model's stages and experts, or its words, or what a picture's file says about how it was "
        "made.",
    )
    command.add_argument("picture", nargs="?", type=options.picture, help="a picture instead of a model")
    command.add_argument("--words", action="store_true", help="list the words that the model knows")
    _add_json(command)


def _add_models(commands: Any) -> None:
    command = commands.add_parser(
        "models",
        help="list what can be loaded",
        description="Lists the packaged model, public models with what each needs, and what of the Hub lies in the "
        "cache of this machine. It goes to no network.",
    )
    _add_json(command)


def _add_space(commands: Any) -> None:
    command = commands.add_parser(
        "space",
        help="paint and draw in the browser",
        description="Serves a page on which words of a prompt are painted, and drawn. It needs "
        "pip install 'diffusers_ediffi[demo]'.",
    )
    add = command.add_argument
    add("--host", default="127.0.0.1", help="address to serve on; 0.0.0.0 is all there are (default: %(default)s)")
    add("--port", type=options.whole(1, 65535), help="(default: the first that is free from 7860 on)")
    add("--share", action="store_true", help="make it public for a week, through a server of Gradio")
    add("--device", help="cpu, cuda, cuda:1, mps, ... (default: the fastest there is)")


def _add_evaluate(commands: Any) -> None:
    command = commands.add_parser(
        "evaluate",
        help="measure a model, or a folder of pictures",
        description="Draws captions with a model, or takes a folder of pictures, and measures them: CLIP score, and "
        "against real pictures CMMD, Frechet and kernel distance, precision and recall. Cut anywhere, the same "
        "command goes on; torchrun and accelerate launch share the work among processes.",
    )
    add, whole = command.add_argument, options.whole
    source, output = "demo, a model's folder or Hub id, or a folder of pictures", "where pictures and card.json go"
    add("source", type=options.model_or_pictures, metavar="SOURCE", help=source)
    add("--output", type=options.folder_to_write, required=True, metavar="FOLDER", help=output)
    add("--captions", type=options.file, metavar="FILE", help="a .txt, .jsonl or .json of captions")
    add("--reference", type=options.folder, metavar="FOLDER", help="real pictures to compare with")
    add("--metrics", nargs="*", choices=METRICS, help="(default: all that are possible; with none it only draws)")
    add("--feature-network", metavar="NAME", help="of the distances (default: facebook/dinov2-large; demo's scorer)")
    add("--clip", metavar="NAME", help="(default: openai/clip-vit-large-patch14-336; demo's CLIP)")
    add("--resize", choices=FILTERS, default="bicubic", help="filter before networks (default: %(default)s)")
    add("--subset-size", type=whole(2), default=1000, help="of the kernel distance (default: %(default)s)")
    add("--neighbors", type=whole(1), default=3, help="of precision and recall (default: %(default)s)")
    _add_evaluation_drawing(command)


def _add_evaluation_drawing(command: argparse.ArgumentParser) -> None:
    """How `evaluate` draws."""
    add, whole, scale = command.add_argument, options.whole, options.guidance_scale
    steps = options.per_stage(whole(1, MAX_INFERENCE_STEPS))
    add("--num-captions", type=whole(1), metavar="N", help="so many, chosen by --seed (default: all in their order)")
    add("--samples-per-caption", type=whole(1), metavar="N", help="pictures of each (default: 1)")
    add("--layout", choices=LAYOUTS, help="of the pictures' folder (default: plain)")
    add("--guidance-scale", nargs="+", type=scale, help="one, or several to draw and measure all captions at each")
    add("--steps", type=steps, help="one number, or one per stage: 25,10,10")
    add("--size", type=whole(1), help="height and width (default: the model's)")
    add("--seed", type=whole(0, MAX_SEED), default=0, help="picture i has seed + i (default: %(default)s)")
    add("--batch-size", type=whole(1), default=8, help="pictures drawn at once (default: %(default)s)")
    add("--dtype", choices=DTYPES, help="(default: float32 on a CPU, else float16)")
    add("--device", help="cpu, cuda, cuda:1, mps, ... (default: the fastest there is)")


def _add_drawing_options(command: argparse.ArgumentParser) -> None:
    """What all commands that draw have, in the order of --help."""
    _add_image_options(command)
    _add_style_options(command)
    _add_sampling_options(command)
    _add_machine_options(command)


def _add_image_options(command: argparse.ArgumentParser) -> None:
    add, whole = command.add_argument, options.whole
    picture, kinds = options.writable(*PICTURES), "a PNG, JPEG or WebP to write (default: %(default)s)"
    add("--output", type=picture, default="ediffi.png", metavar="FILE", help=kinds)
    add("--size", type=whole(1), help="height and width: 64, 256 or 1024 (default: the model's largest)")
    add("--seed", type=whole(0, MAX_SEED), help="makes the image repeatable (default: by chance)")
    count = f"up to {MAX_FILES}; writes FILE-0.png, ...; image i has seed + i"
    add("--num-images", type=whole(1, MAX_FILES), default=1, metavar="N", help=count)
    add("--grid", action="store_true", help="write the images as one, in rows and columns, into FILE")


def _add_style_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    factor = "factor on the style; 0 is none (default: %(default)s)"
    add("--style-image", metavar="FILE", help="an image whose style to take over")
    add("--style-scale", type=options.at_least_0, default=1.0, help=factor)


def _add_sampling_options(command: argparse.ArgumentParser) -> None:
    add, per_stage = command.add_argument, options.per_stage
    sigma, steps = options.noise_level, options.whole(1, MAX_INFERENCE_STEPS)
    scales = "a number, one per stage: 5,1,1, or weights: t5=5,clip_text=3"
    rescale = "against overexposure; 0.7 is usual (default: %(default)s)"
    noise = "on SR's input, so that it repairs more; 0.2, or 0.2,0.1"
    conditions = "which conditions to use (default: all there are)"
    add("--steps", type=per_stage(steps), help="one number, or one per stage: 25,10,10")
    add("--guidance-scale", type=options.guidance_scale, help=scales)
    add("--guidance-interval", nargs=2, type=sigma, metavar=("LOW", "HIGH"), help="guide at these sigmas alone")
    add("--guidance-rescale", type=options.share, default=0.0, help=rescale)
    add("--noise-level", type=per_stage(options.at_least_0), help=noise)
    add("--encoders", nargs="+", choices=tuple(ENCODERS), help=conditions)
    add("--negative-prompt", metavar="TEXT", help="what the image should not be")


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print the result as one line of JSON, for programs")


def _add_machine_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    report, attention = options.writable(".json"), "write what the base attends to, by noise level and word"
    add("--dtype", choices=DTYPES, help="(default: float32 on a CPU, else float16)")
    add("--device", help="cpu, cuda, cuda:1, mps, ... (default: the fastest there is)")
    add("--attention", type=report, metavar="FILE", help=attention)
    _add_json(command)
    add("--no-provenance", action="store_true", help="keep out of the file how it was made (prompt, seed, model, ...)")

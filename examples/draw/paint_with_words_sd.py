# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
r"""Paint-with-words with any Stable Diffusion or SDXL model: say where each phrase of the prompt is to be seen.

python examples/draw/paint_with_words_sd.py --model stable-diffusion-v1-5/stable-diffusion-v1-5 \
    --output squirrels.png --prompt "a red squirrel and a white rabbit in the snow" \
    --region "red squirrel=0,0.3,0.5,1" \
    --region "white rabbit=rabbit_mask.png"

A region is a box of left, top, right, bottom in [0, 1], or a picture that is white inside. Instead of regions there
may be a painted canvas, where white is unpainted:

python examples/draw/paint_with_words_sd.py --model stabilityai/stable-diffusion-xl-base-1.0 --output out.png \
    --prompt "a red squirrel and a white rabbit in the snow" --canvas canvas.png --color "red=red squirrel" \
    --color "#0000ff=white rabbit"

Writes OUTPUT, a PNG.
"""

import argparse
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from diffusers_ediffi import PaintRegion, Provenance, paint_with_words, regions_from_color_map, save_image
from diffusers_ediffi.cli.options import whole, writable
from diffusers_ediffi.cli.parser import PICTURES
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.images import open_image
from diffusers_ediffi.paint.regions import region_settings
from diffusers_ediffi.provenance import model_name


def as_region(text: str) -> PaintRegion:
    """Parses `phrase=left,top,right,bottom` or `phrase=mask.png`."""
    phrase, _, where = text.rpartition("=")
    try:
        return PaintRegion(phrase, [float(edge) for edge in where.split(",")])
    except ValueError as error:
        if not Path(where).is_file():
            message = f"{text!r} is not phrase=left,top,right,bottom: {error}"
            raise argparse.ArgumentTypeError(message) from None
    return PaintRegion(phrase, open_image(where))


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id of a Stable Diffusion or SDXL pipeline")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--output", type=writable(*PICTURES), required=True, help="the PNG, JPEG or WebP to write")
    parser.add_argument("--region", type=as_region, action="append", default=[], help="phrase=box or phrase=mask.png")
    parser.add_argument("--canvas", type=Path, help="a painted picture")
    parser.add_argument("--color", action="append", default=[], metavar="COLOR=PHRASE", help="what it means")
    parser.add_argument("--strength", type=float, default=0.4, help="how strongly attention is led")
    parser.add_argument("--negative-prompt")
    parser.add_argument("--height", type=whole(1))
    parser.add_argument("--width", type=whole(1))
    parser.add_argument("--steps", type=whole(1), default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_device("cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-provenance", action="store_true", help="keep out of the file how it was made")
    return parser.parse_args(arguments)


def read_regions(args: argparse.Namespace) -> list[PaintRegion]:
    """The regions that the options name, and those of the canvas."""
    if args.canvas is None:
        return args.region
    legend = dict(text.split("=", 1) for text in args.color)
    return args.region + regions_from_color_map(open_image(args.canvas), legend)


def draw(pipe: DiffusionPipeline, regions: list[PaintRegion], args: argparse.Namespace) -> Image.Image:
    """The picture, painted with the regions' phrases."""
    with paint_with_words(pipe, args.prompt, regions, args.strength):
        return pipe(
            args.prompt,
            negative_prompt=args.negative_prompt,
            height=args.height,
            width=args.width,
            num_inference_steps=args.steps,
            generator=torch.Generator().manual_seed(args.seed),
        ).images[0]


def main(arguments: list[str] | None = None) -> None:
    """Draws and writes the picture."""
    args = parse_arguments(arguments)
    regions = read_regions(args)
    dtype = torch.float32 if args.device == "cpu" else torch.float16
    pipe = DiffusionPipeline.from_pretrained(args.model, dtype=dtype).to(args.device)
    image = draw(pipe, regions, args)
    names = ("prompt", "negative_prompt", "seed", "steps", "height", "width")
    settings = {name: getattr(args, name) for name in names} | {"model": model_name(args.model)}
    settings |= {"regions": region_settings(regions), "region_strength": args.strength}
    save_image(image, args.output, None if args.no_provenance else Provenance(settings))
    print(args.output)


if __name__ == "__main__":
    with errors_in_one_line():
        main()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
r"""DeepFloyd IF: 256 x 256 pixels in one call, 1024 x 1024 with Stable Diffusion's upscaler as its third stage.

The weights need a login and a click on the licence of each model's page (not for commercial use):

    hf auth login
    python conversion/from_deepfloyd_if.py --output if --variant fp16 \
        --stage-1 DeepFloyd/IF-I-XL-v1.0 --stage-2 DeepFloyd/IF-II-L-v1.0
    python examples/draw/deepfloyd_if.py --model if --variant fp16 --offload model --t5-8bit \
        --prompt "a fox reads the sign: open all night" --output fox.png

With `--upscale stabilityai/stable-diffusion-x4-upscaler` the picture goes on to that pipeline, which works in latents
and is none of the cascade. Regions put phrases in their places: `--region "fox=0,0.3,0.5,1"`.

Writes OUTPUT.
"""

import argparse
from typing import Any

import torch
from diffusers import StableDiffusionUpscalePipeline
from memory_options import add_t5_8bit, dtype_of, load, make_parser
from PIL import Image

from diffusers_ediffi import EDiffIPipeline, PaintRegion, Provenance, save_image
from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import errors_in_one_line
from diffusers_ediffi.provenance import model_name

UPSCALE_NOISE = 100  # of 350, as IF's users run it


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = make_parser(__doc__ or "", "the folder that conversion/from_deepfloyd_if.py wrote")
    parser.add_argument("--steps", type=whole(1), nargs="+", help="of the stages (default: 100 50)")
    parser.add_argument("--guidance", type=float, nargs="+", help="of the stages (default: 7 4)")
    parser.add_argument("--region", type=as_region, action="append", help="phrase=left,top,right,bottom in [0, 1]")
    parser.add_argument("--upscale", metavar="MODEL", help="stabilityai/stable-diffusion-x4-upscaler, or a folder")
    add_t5_8bit(parser)
    return parser.parse_args(arguments)


def as_region(text: str) -> PaintRegion:
    """Parses `phrase=left,top,right,bottom`."""
    phrase, _, where = text.rpartition("=")
    try:
        return PaintRegion(phrase, [float(edge) for edge in where.split(",")])
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not phrase=left,top,right,bottom: {error}") from None


def draw(pipe: EDiffIPipeline, args: argparse.Namespace) -> Image.Image:
    """The picture of stages I and II."""
    return pipe(
        args.prompt,
        negative_prompt=args.negative_prompt,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance,
        regions=args.region,
        generator=torch.Generator().manual_seed(args.seed),
    ).images[0]


def enlarge(image: Image.Image, args: argparse.Namespace) -> Image.Image:
    """The picture of stage III, four times as large."""
    settings: dict[str, Any] = {"dtype": dtype_of(args), "variant": args.variant}
    pipe = StableDiffusionUpscalePipeline.from_pretrained(args.upscale, **settings)
    pipe.to(args.device) if args.offload == "none" else pipe.enable_model_cpu_offload(device=args.device)
    generator = torch.Generator().manual_seed(args.seed)
    return pipe(args.prompt, image=image, noise_level=UPSCALE_NOISE, generator=generator).images[0]


def main(arguments: list[str] | None = None) -> None:
    """Draws and writes the picture."""
    args = parse_arguments(arguments)
    pipe = load(args, EDiffIPipeline)
    image = draw(pipe, args)
    del pipe  # its memory is the upscaler's
    if args.upscale is not None:
        image = enlarge(image, args)
    settings = {"prompt": args.prompt, "seed": args.seed, "model": model_name(args.model)}
    save_image(image, args.output, Provenance(settings))
    print(args.output)


if __name__ == "__main__":
    with errors_in_one_line():
        main()

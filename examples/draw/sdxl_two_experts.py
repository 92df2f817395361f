# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
r"""SDXL's base and its refiner as two noise experts of one U-Net, in one call of StableDiffusionXLPipeline.

    python conversion/from_diffusers_unets.py --output sdxl-two-experts --boundaries 200 --unit timestep \
        --unets stabilityai/stable-diffusion-xl-refiner-1.0 stabilityai/stable-diffusion-xl-base-1.0 \
        --pipeline stabilityai/stable-diffusion-xl-base-1.0 --variant fp16
    python examples/draw/sdxl_two_experts.py --model sdxl-two-experts --variant fp16 --offload model \
        --prompt "a lighthouse on a cliff in a storm" --output lighthouse.png

No login is needed; the licence is CreativeML OpenRAIL++-M. With `--offload model` one expert at a time is on the GPU.
`--deis` samples with EDMDEISScheduler.

Writes OUTPUT.
"""

import argparse

import torch
from memory_options import load, make_parser

from diffusers_ediffi import EDMDEISScheduler, ExpertRouterUNet, Provenance, save_image
from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import errors_in_one_line
from diffusers_ediffi.provenance import model_name


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = make_parser(__doc__ or "", "the folder that conversion/from_diffusers_unets.py wrote")
    parser.add_argument("--steps", type=whole(1), default=30)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--height", type=whole(1))
    parser.add_argument("--width", type=whole(1))
    parser.add_argument("--deis", action="store_true", help="sample with EDMDEISScheduler")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Draws and writes the picture."""
    args = parse_arguments(arguments)
    pipe = load(args)
    if not isinstance(pipe.unet, ExpertRouterUNet):
        raise ValueError(
            f"{args.model} has a single U-Net: make experts of two by conversion/from_diffusers_unets.py."
        )
    if args.deis:
        pipe.scheduler = EDMDEISScheduler.from_config(pipe.scheduler.config)
    image = pipe(
        args.prompt,
        negative_prompt=args.negative_prompt,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance,
        height=args.height,
        width=args.width,
        generator=torch.Generator().manual_seed(args.seed),
    ).images[0]
    settings = {"prompt": args.prompt, "seed": args.seed, "steps": args.steps, "model": model_name(args.model)}
    save_image(image, args.output, Provenance(settings))
    print(args.output)


if __name__ == "__main__":
    with errors_in_one_line():
        main()

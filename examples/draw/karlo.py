# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
r"""Karlo (unCLIP): from a text, or from a text and a picture, with an expert of super-resolution for the last step.

    python conversion/from_karlo.py --model kakaobrain/karlo-v1-alpha --output karlo
    python examples/draw/karlo.py --model karlo --output frog.png --offload model \
        --prompt "a high-resolution photograph of a big red frog on a green leaf"

No login is needed; the licence is CreativeML OpenRAIL-M. The prior makes a CLIP embedding of a picture that the text
describes (diffusers' KandinskyPriorPipeline has the same prior), and the pipeline draws from text and embedding.
With `--style-image` the embedding is that of a picture; this needs the image_encoder of
kakaobrain/karlo-v1-alpha-image-variations beside the other parts when they are converted.

Writes OUTPUT.
"""

import argparse
from pathlib import Path

import torch
from diffusers import KandinskyPriorPipeline, PriorTransformer, UnCLIPScheduler
from memory_options import dtype_of, load, make_parser

from diffusers_ediffi import EDiffIPipeline, Provenance, save_image
from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import errors_in_one_line
from diffusers_ediffi.provenance import model_name


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = make_parser(__doc__ or "", "the folder that conversion/from_karlo.py wrote")
    parser.add_argument("--steps", type=whole(1), nargs=2, help="of base and super-resolution (default: 25 7)")
    parser.add_argument("--prior-steps", type=whole(1), default=25)
    parser.add_argument("--guidance", type=float, default=8.0, help="of the base; the prior has 4")
    parser.add_argument("--style-image", help="a picture to draw from, instead of the prior's embedding")
    return parser.parse_args(arguments)


def embed_prompt(pipe: EDiffIPipeline, args: argparse.Namespace) -> torch.Tensor:
    """The prior's embedding of a picture that the prompt describes, (1, width).

    Raises:
        OSError: The model has no prior.
    """
    folder = Path(args.model)
    if not (folder / "prior").is_dir():
        raise OSError(f"{args.model} has no prior: convert Karlo again, or give a picture by --style-image.")
    prior = KandinskyPriorPipeline(
        prior=PriorTransformer.from_pretrained(folder, subfolder="prior", variant=args.variant, dtype=dtype_of(args)),
        scheduler=UnCLIPScheduler.from_pretrained(folder, subfolder="prior_scheduler"),
        text_encoder=pipe.text_encoder,
        tokenizer=pipe.tokenizer,
        image_encoder=None,
        image_processor=None,
    )
    prior.prior.to(args.device)
    generator = torch.Generator().manual_seed(args.seed)
    # With a negative prompt it asks for no image_encoder; the empty one is what it guides from without.
    run = {"negative_prompt": "", "num_inference_steps": args.prior_steps, "generator": generator}
    return prior(args.prompt, **run).image_embeds


def main(arguments: list[str] | None = None) -> None:
    """Draws and writes the picture."""
    args = parse_arguments(arguments)
    pipe = load(args, EDiffIPipeline)
    given = {"style_image": args.style_image} if args.style_image else {"image_embeds": embed_prompt(pipe, args)}
    image = pipe(
        args.prompt,
        negative_prompt=args.negative_prompt,
        num_inference_steps=args.steps,
        guidance_scale=(args.guidance, 1.0),
        generator=torch.Generator().manual_seed(args.seed),
        **given,
    ).images[0]
    settings = {"prompt": args.prompt, "seed": args.seed, "model": model_name(args.model)}
    save_image(image, args.output, Provenance(settings))
    print(args.output)


if __name__ == "__main__":
    with errors_in_one_line():
        main()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Draw from a picture on, at several strengths.

python examples/draw/image_to_image.py --output strengths.png --size 64

Each row has a seed of its own, each column a strength; the picture itself stands on the left. Without --image the
model draws it first, of --source-prompt. The noise level where each strength begins is printed.
"""

import argparse
from pathlib import Path

import torch
from diffusers.utils import load_image
from style_transfer import draw_grid

from diffusers_ediffi import EDiffIImg2ImgPipeline, EDiffIPipeline, Provenance, demo_checkpoint, save_image
from diffusers_ediffi.provenance import COMPOSITE_WITH_TRAINED_ALGORITHMIC_MEDIA as EDITED
from diffusers_ediffi.provenance import model_name


def main(arguments: list[str] | None = None) -> None:
    """Draws and writes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the PNG to write")
    parser.add_argument("--model", help="pipeline folder or Hub id (default: the one in the package)")
    parser.add_argument("--image", help="a file or address (default: the model draws one)")
    parser.add_argument("--source-prompt", default="a red apple on a dark blue background", help="for that picture")
    parser.add_argument("--prompt", default="a rocket on a dark blue background", help="what it is to become")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    parser.add_argument("--size", type=int, help="height and width of a picture (default: the model's largest)")
    parser.add_argument("--steps", type=int, help="of every stage (default: the model's)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="a row for each")
    parser.add_argument("--no-provenance", action="store_true", help="keep out of the file how it was made")
    args = parser.parse_args(arguments)

    pipe = EDiffIPipeline.from_pretrained(args.model or demo_checkpoint())
    edit = EDiffIImg2ImgPipeline.from_pipe(pipe)
    size = args.size or pipe.stages[-1].size
    options = {"height": size, "width": size, "num_inference_steps": args.steps}
    if args.image is None:
        source = pipe(args.source_prompt, generator=torch.Generator().manual_seed(0), **options).images[0]
    else:
        source = load_image(args.image)

    rows = [[source.resize((size, size))] for _ in args.seeds]
    for strength in args.strengths:
        images = edit(
            args.prompt,
            image=source,
            strength=strength,
            num_images_per_prompt=len(args.seeds),
            generator=[torch.Generator().manual_seed(seed) for seed in args.seeds],
            **options,
        ).images
        print(f"strength {strength:g}: sigma {edit.start_sigmas[0]:.3g}, {edit.num_timesteps} evaluations")
        for row, image in zip(rows, images, strict=True):
            row.append(image)
    columns = ["picture", *(f"strength {strength:g}" for strength in args.strengths)]
    grid = draw_grid(rows, [f"{args.prompt}, seed {seed}" for seed in args.seeds], columns)
    settings = {
        "prompt": args.prompt,
        "source_prompt": args.source_prompt if args.image is None else None,
        "seeds": args.seeds,
        "model": model_name(args.model),
        "size": size,
        "steps": args.steps,
        "strengths": args.strengths,
    }
    save_image(grid, args.output, None if args.no_provenance else Provenance(settings, digital_source_type=EDITED))
    print(args.output)


if __name__ == "__main__":
    main()

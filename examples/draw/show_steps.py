# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Show how a picture comes out of noise, and which expert has which step.

python examples/draw/show_steps.py --output steps.png --seed 3

Writes OUTPUT, a PNG with a column for each chosen step of the base stage: above the noisy sample, brought to the range
of a picture; below what the expert takes the picture for at this noise level.
"""

import argparse
from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from grids_and_options import draw_grid, make_parser
from PIL import Image

from diffusers_ediffi import (
    EDiffIPipeline,
    EDMDEISScheduler,
    ExpertRouterUNet,
    Provenance,
    demo_checkpoint,
    save_image,
)
from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import errors_in_one_line
from diffusers_ediffi.provenance import model_name

PROMPT = "a rocket above a red apple on a dark blue background"
STEPS = (0, 6, 9, 12, 15, 18, 21, 24)
ROWS = ("the sample, with its noise", "what the expert takes the picture for")


class RecordingScheduler(EDMDEISScheduler):
    """Keeps the sample and the denoised image of every step."""

    recorded: list[tuple[torch.Tensor, torch.Tensor]]

    def step(self, model_output: Any, timestep: Any, sample: torch.Tensor, return_dict: bool = True) -> Any:
        """As in [`EDMDEISScheduler`]."""
        found = super().step(model_output, timestep, sample, return_dict=False)
        self.recorded.append((sample, found[1]))
        return found


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = make_parser(__doc__)
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--steps", type=whole(0), nargs="+", default=list(STEPS), help="a column for each, from 0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-provenance", action="store_true", help="keep out of the file how it was made")
    return parser.parse_args(arguments)


def record(pipe: EDiffIPipeline, args: argparse.Namespace) -> RecordingScheduler:
    """Draws with the base stage alone.

    Raises:
        ValueError: It has fewer steps than were asked for.
    """
    count = pipe.config.default_num_inference_steps[0]
    if max(args.steps) >= count:
        raise ValueError(f"--steps {max(args.steps)}: the base has the steps 0 to {count - 1}.")
    pipe.scheduler = RecordingScheduler.from_config(pipe.scheduler.config)
    pipe.scheduler.recorded = []
    size = pipe.stages[0].size
    pipe(args.prompt, height=size, width=size, generator=torch.Generator().manual_seed(args.seed))
    return pipe.scheduler


def label(pipe: EDiffIPipeline, sigma: float) -> str:
    """The noise level of a step, and the expert that it calls."""
    number = sum(sigma >= edge for edge in pipe.unet.boundaries) if isinstance(pipe.unet, ExpertRouterUNet) else 0
    return f"sigma {sigma:.2g}, expert {number}"


def as_picture(x: torch.Tensor) -> Image.Image:
    """Of an image in [-1, 1] (1, 3, height, width), or of a sample that is brought there."""
    x = x / x.abs().max().clamp(min=1)
    return VaeImageProcessor().postprocess(x)[0]


def main(arguments: list[str] | None = None) -> None:
    """Draws and writes the grid."""
    args = parse_arguments(arguments)
    pipe = EDiffIPipeline.from_pretrained(args.model or demo_checkpoint())
    scheduler = record(pipe, args)
    rows = [[as_picture(scheduler.recorded[step][row]) for step in args.steps] for row in range(len(ROWS))]
    grid = draw_grid(rows, list(ROWS), [label(pipe, float(scheduler.sigmas[step])) for step in args.steps])
    settings = {"prompt": args.prompt, "seed": args.seed, "model": model_name(args.model), "size": rows[0][0].width}
    save_image(grid, args.output, None if args.no_provenance else Provenance(settings))
    print(args.output)


if __name__ == "__main__":
    with errors_in_one_line():
        main()

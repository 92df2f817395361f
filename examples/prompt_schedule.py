# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Switch from one prompt to another while the base stage draws, and measure what is left to the second (Figure 4).

    python examples/prompt_schedule.py --pair "a red mushroom" "a red heart" --output runs/prompt_schedule
    python examples/prompt_schedule.py --objects noto_objects --output runs/prompt_schedule

Pairs of prompts, or of held-out captions of the demo's objects, are drawn from one noise each; the second prompt gets
the last 0, 7, 30, 60 and 100% of the steps. OUTPUT/results.json holds the settings and how far each picture is from
that of the first prompt alone: the mean absolute difference of pixels in [0, 1], of the base stage. OUTPUT/pairs.png
shows the first pairs, a row for each.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from evaluate_demo import load_pipeline, make_parser, precision, prepare
from style_transfer import draw_grid
from torch import Tensor
from tqdm import tqdm

from diffusers_ediffi import EDiffIPipeline, Provenance, save_image
from diffusers_ediffi.provenance import model_name

SHOWN = 8  # pairs in the picture


def draw_switched(
    pipe: EDiffIPipeline, args: argparse.Namespace, firsts: list[str], seconds: list[str], left: float
) -> Tensor:
    """Pictures (pairs, 3, size, size) in [0, 1] whose last `left` per cent of the steps follow the second prompts."""
    size, parts = pipe.stages[0].size, []
    for start in tqdm(range(0, len(firsts), args.batch_size), desc=f"{left:g}%"):
        rows = slice(start, start + args.batch_size)
        schedule = [(firsts[rows], 0.0), (seconds[rows], 1 - left / 100)]
        # The first prompts begin with share 0, so that 100% are the second prompts alone.
        schedule = [(seconds[rows], 0.0)] if left == 100 else schedule
        count = len(firsts[rows])
        images = pipe(
            prompt_schedule=schedule,
            height=size,
            width=size,
            num_inference_steps=args.steps,
            guidance_scale=args.guidance_scale,
            generator=[torch.Generator().manual_seed(args.seed * 1_000_003 + start + i) for i in range(count)],
            output_type="pt",
        ).images
        parts.append(images.float().cpu())
    return torch.cat(parts)


def measure(pipe: EDiffIPipeline, args: argparse.Namespace, captions: list[str]) -> tuple[dict, dict[float, Tensor]]:
    """The differences to the first prompts' pictures for each share, and the pictures."""
    firsts, seconds = captions[::2], captions[1::2]
    plain = draw_switched(pipe, args, firsts, seconds, left=0.0)
    pictures, differences = {}, {}
    for left in args.left:
        pictures[left] = plain if left == 0 else draw_switched(pipe, args, firsts, seconds, left)
        per_pair = (pictures[left] - plain).abs().mean(dim=(1, 2, 3))
        differences[f"{left:g}"] = {"mean": per_pair.mean().item(), "largest": per_pair.max().item()}
    return differences, pictures


def main(arguments: list[str] | None = None) -> dict:
    """Draws, measures, writes, prints and returns the figures."""
    parser = make_parser(__doc__.split("\n")[0], need_objects=False)
    parser.add_argument(
        "--pair", nargs=2, action="append", metavar=("FIRST", "SECOND"), help="two prompts; once for each pair"
    )
    parser.add_argument("--num-pairs", type=int, default=64, help="of held-out captions")
    parser.add_argument("--left", type=float, nargs="+", default=[0, 7, 30, 60, 100], help="per cent of the steps")
    args = parser.parse_args(arguments)
    if (args.pair is None) == (args.objects is None):
        raise ValueError("give either --pair FIRST SECOND, or --objects for pairs of held-out captions.")
    if args.num_pairs < 1 or not all(0 <= left <= 100 for left in args.left):
        raise ValueError(f"--num-pairs={args.num_pairs} must be at least 1, and --left={args.left} lie in 0 to 100.")
    if args.pair:
        pipe, captions = load_pipeline(args), [prompt for pair in args.pair for prompt in pair]
    else:
        pipe, _, scenes = prepare(args)
        captions = [scenes.scene(index).caption for index in range(2 * args.num_pairs)]
    args.output.mkdir(parents=True, exist_ok=True)
    with precision(args):
        differences, pictures = measure(pipe, args, captions)
    columns = [f"{left:g}% to the second" for left in args.left]
    images = {left: EDiffIPipeline.numpy_to_pil(own[:SHOWN].movedim(1, -1).numpy()) for left, own in pictures.items()}
    rows = [[images[left][i] for left in args.left] for i in range(min(SHOWN, len(captions) // 2))]
    labels = [f"{captions[2 * i]} -> {captions[2 * i + 1]}" for i in range(len(rows))]
    provenance = Provenance({"prompts": captions[: 2 * len(rows)], "seed": args.seed, "model": model_name(args.model)})
    save_image(draw_grid(rows, labels, columns), args.output / "pairs.png", provenance)
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    results = {"settings": settings, "difference": differences, "captions": captions}
    (args.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print("steps left to the second prompt   mean difference   largest of a pair")
    for left, found in differences.items():
        print(f"{left + '%':>31}{found['mean']:>18.4f}{found['largest']:>20.4f}")
    return results


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")

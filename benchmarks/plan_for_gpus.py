# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What training on many GPUs takes, computed from a step time: memory, bytes per second, checkpoints, time and cost.

    python benchmarks/plan_for_gpus.py --preset paper-table1 --gpus 256 --images_per_gpu 8 --seconds_per_step 0.9

The step time is that of one GPU with so many images, without other GPUs, as `train_experts.py --dry-run` measures it;
all else is arithmetic on the number of parameters. Nothing is overlapped: the time of the network traffic is added to
that of the step, which is the longest that it can take.
"""

import argparse
from dataclasses import dataclass

import torch

from diffusers_ediffi import EDiffIUNet
from diffusers_ediffi.cli.options import finite, whole
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.models.presets import PRESETS

SINGLE = 4  # bytes of a number in single precision
KEPT = 5 * SINGLE  # weight, gradient, two moments of AdamW, average
SAVED = 4 * SINGLE  # in a checkpoint: all but the gradient
GB = 1e9


@dataclass(frozen=True)
class Plan:
    """A run of a network on equal GPUs.

    Args:
        parameters (`int`): Of the network.
        gpus (`int`): How many there are.
        images_per_gpu (`int`): Of a step.
        seconds_per_step (`float`): On one GPU.
        steps (`int`): Of the run.
        bandwidth (`float`): Bytes per second that a GPU sends to the others, and receives, at once.
        bytes_per_sample (`float`): Of a picture with its embeddings, as they are read.
    """

    parameters: int
    gpus: int
    images_per_gpu: int
    seconds_per_step: float
    steps: int
    bandwidth: float
    bytes_per_sample: float

    @property
    def others(self) -> float:
        """The share of the weights that a GPU does not hold itself, when they are shared out."""
        return (self.gpus - 1) / self.gpus

    def memory(self, shared_out: bool) -> float:
        """Bytes of a GPU for weights, gradients, moments and averages; activations come on top."""
        return KEPT * self.parameters / (self.gpus if shared_out else 1)

    def traffic(self, shared_out: bool) -> float:
        """Bytes that a GPU sends in a step: a ring that sums gradients, or two gatherings of weights and a sum."""
        return (3 if shared_out else 2) * self.others * SINGLE * self.parameters

    def seconds(self, shared_out: bool) -> float:
        """The longest time of a step."""
        return self.seconds_per_step + self.traffic(shared_out) / self.bandwidth

    def days(self, shared_out: bool) -> float:
        """The longest time of the run."""
        return self.steps * self.seconds(shared_out) / 86400

    def reading(self, shared_out: bool) -> float:
        """Bytes per second that all GPUs together read."""
        return self.gpus * self.images_per_gpu * self.bytes_per_sample / self.seconds(shared_out)


def lines_of(plan: Plan, dollars_per_hour: float) -> list[str]:
    """The plan as a table in Markdown."""
    both = (False, True)
    hours = [24 * plan.gpus * plan.days(shared) for shared in both]
    rows = {
        "weights, gradients, moments and average on a GPU": [f"{plan.memory(shared) / GB:.2f} GB" for shared in both],
        "sent by a GPU in a step": [f"{plan.traffic(shared) / GB:.2f} GB" for shared in both],
        "longest step": [f"{plan.seconds(shared):.3f} s" for shared in both],
        "of it computing": [f"{plan.seconds_per_step / plan.seconds(shared):.0%}" for shared in both],
        "read by all GPUs": [f"{plan.reading(shared) / GB:.3f} GB/s" for shared in both],
        "a checkpoint": [f"{SAVED * plan.parameters / GB:.1f} GB"] * 2,
        f"{plan.steps:,} steps": [f"{plan.days(shared):.1f} days" for shared in both],
        "GPU hours": [f"{spent:,.0f}" for spent in hours],
        f"cost at ${dollars_per_hour:g} per GPU hour": [f"${spent * dollars_per_hour:,.0f}" for spent in hours],
    }
    return [
        f"{plan.parameters / 1e6:,.0f} million parameters, {plan.gpus} GPUs, "
        f"{plan.gpus * plan.images_per_gpu:,} images a step.",
        "",
        "| | DDP | FSDP2 |",
        "|---|---|---|",
        *(f"| {name} | {ddp} | {fsdp} |" for name, (ddp, fsdp) in rows.items()),
    ]


def positive(text: str) -> float:
    """A number above zero."""
    value = finite(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0")
    return value


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and prints the plan."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--preset", choices=PRESETS, default="paper-table1", help="the network (default: %(default)s)")
    what.add_argument("--parameters", type=whole(1), help="of another network")
    parser.add_argument("--gpus", type=whole(1), default=256, help="(default: %(default)s)")
    parser.add_argument("--images_per_gpu", type=whole(1), default=8, help="of a step (default: %(default)s)")
    parser.add_argument("--seconds_per_step", type=positive, required=True, help="measured on one GPU")
    parser.add_argument("--steps", type=whole(1), default=500_000, help="of the run (default: %(default)s)")
    parser.add_argument(
        "--gigabytes_per_second", type=positive, default=25.0, help="from GPU to GPU (default: %(default)s)"
    )
    parser.add_argument(
        "--kilobytes_per_sample", type=positive, default=300.0, help="picture and embeddings (default: %(default)s)"
    )
    parser.add_argument("--dollars_per_hour", type=positive, default=2.5, help="of a GPU (default: %(default)s)")
    args = parser.parse_args(arguments)
    parameters = args.parameters or count_parameters(args.preset)
    plan = Plan(
        parameters,
        args.gpus,
        args.images_per_gpu,
        args.seconds_per_step,
        args.steps,
        args.gigabytes_per_second * GB,
        args.kilobytes_per_sample * 1e3,
    )
    print("\n".join(lines_of(plan, args.dollars_per_hour)))


def count_parameters(preset: str) -> int:
    """Of a network that is laid out and not made."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in EDiffIUNet.from_preset(preset).parameters())


if __name__ == "__main__":
    with errors_in_one_line():
        main()

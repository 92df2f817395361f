# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Error of samplers on a discrete-time model: EDMDEISScheduler built with betas, and DDIM, DPM-Solver++ 2M, UniPC and
DEIS of diffusers as pipelines use them.

    python examples/evaluate/compare_discrete_samplers.py --output docs/samplers_discrete.json

The model is the base stage of the packaged demo, with its guidance and experts, as a network that predicts the noise
of 1000 timesteps with the betas squaredcos_cap_v2: eps(x / sqrt(1 + s^2), t) = (x - D(x; s)) / s, where s is the sigma
of t. The error is the root mean square over all values against Kutta's third-order method in 100 steps that break at
the experts' boundaries. Beside it stands that against DDIM in --reference steps, all of the model's timesteps by
default; 0 leaves it out.

With --keep FOLDER what was drawn stays there, and another call, or one beside it, draws the rest.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from demo_problem import DEMO_SETTINGS, PROMPTS, WITHOUT_BOUNDARIES, Demo
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from diffusers_ediffi import EDMDEISScheduler
from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.edm import SIGMA_MAX
from diffusers_ediffi.files import write_json, written_whole

BETAS = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 1000}
OURS: dict[str, dict[str, Any]] = {
    "default": {},
    "demo's settings": DEMO_SETTINGS,
    "demo's settings, without boundaries": WITHOUT_BOUNDARIES,
}
# Class, and settings beside the grid.
DIFFUSERS: dict[str, tuple[str, dict[str, Any]]] = {
    "DDIM": ("DDIMScheduler", {"clip_sample": False}),
    "DPM-Solver++ 2M": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "UniPC-2": ("UniPCMultistepScheduler", {"solver_order": 2}),
    "UniPC-3": ("UniPCMultistepScheduler", {"solver_order": 3}),
    "DEIS-2": ("DEISMultistepScheduler", {"solver_order": 2}),
    "DEIS-3": ("DEISMultistepScheduler", {"solver_order": 3}),
}
SPACINGS = {name: {"timestep_spacing": name} for name in ("linspace", "leading", "trailing")}
GRIDS = {**SPACINGS, "karras": {"use_karras_sigmas": True}}


class DiscreteDemo(Demo):
    """The demo's base stage as a network that predicts the noise of discrete timesteps."""

    def __init__(self, images: int, keep: Path | None):
        alphas = DDIMScheduler(**BETAS).alphas_cumprod.double()
        self.sigmas = ((1 - alphas) / alphas).sqrt()
        self.keep = None if keep is None else keep / f"{images}-pictures"
        super().__init__(images)

    def solve(self, steps: int, lowest: float, highest: float) -> torch.Tensor:
        """The solution over the levels of the betas."""
        return self.kept("solution", lambda: super(DiscreteDemo, self).solve(steps, *self.sigmas[[0, -1]].tolist()))

    def kept(self, name: str, draw: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What `draw` returns, or has returned before."""
        if self.keep is None:
            return draw()
        file = self.keep / f"{name}.safetensors"
        if not file.is_file():
            with written_whole(file) as unfinished:
                save_file({"drawn": draw()}, unfinished)
        return load_file(file)["drawn"]

    def noise(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """eps(sample, t); between timesteps sigma is interpolated in ln(sigma)."""
        position = float(timestep)
        index = min(int(position), len(self.sigmas) - 2)
        low, high = self.sigmas[[index, index + 1]].log().tolist()
        sigma = math.exp(low + (position - index) * (high - low))
        x = math.hypot(1, sigma) * sample
        return (x - self.denoise(x, sigma, sigma)) / sigma

    @torch.no_grad()
    def sample(self, scheduler: Any, steps: int) -> torch.Tensor:
        """As a pipeline of diffusers samples, from the same noise with every scheduler."""
        scheduler.set_timesteps(steps)
        if hasattr(scheduler, "set_begin_index"):  # else it looks for a timestep, which may be there twice
            scheduler.set_begin_index(0)
        x = self.start / SIGMA_MAX * scheduler.init_noise_sigma
        for timestep in tqdm(scheduler.timesteps, desc=type(scheduler).__name__, unit="step", leave=False):
            output = self.noise(scheduler.scale_model_input(x, timestep), timestep)
            x = scheduler.step(output, timestep, x, return_dict=False)[0]
        return x


def schedulers() -> Iterator[tuple[str, str, Any]]:
    """Everything that is compared: name, grid and scheduler."""
    for name, settings in OURS.items():
        yield f"EDMDEISScheduler, {name}", "own", EDMDEISScheduler(**{**settings, **BETAS})
    for name, (class_name, settings) in DIFFUSERS.items():
        for grid, chosen in (SPACINGS if name == "DDIM" else GRIDS).items():
            yield name, grid, getattr(diffusers, class_name)(**BETAS, **settings, **chosen)


def measure(demo: DiscreteDemo, steps: int, ddim: torch.Tensor | None) -> list[dict[str, Any]]:
    """A row for each scheduler and grid."""
    rows = []
    for name, grid, scheduler in tqdm(list(schedulers()), desc="schedulers"):
        drawn = demo.kept(f"{name}, {grid}, {steps}", partial(demo.sample, scheduler, steps))
        row = {"sampler": name, "grid": grid, "error": error(drawn, demo.exact)}
        rows.append(row if ddim is None else {**row, "error_to_ddim": error(drawn, ddim)})
    return rows


def draw_ddim(demo: DiscreteDemo, steps: int) -> torch.Tensor:
    """What DDIM draws in many steps."""
    scheduler = DDIMScheduler(**BETAS, clip_sample=False, timestep_spacing="trailing")
    return demo.kept(f"DDIM in {steps}", partial(demo.sample, scheduler, steps))


def error(drawn: torch.Tensor, solution: torch.Tensor) -> float:
    """Root mean square of the difference, to four digits."""
    return float(f"{(drawn - solution).pow(2).mean().sqrt().item():.4g}")


def best_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each sampler on the grid where its error is least."""
    best: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row["error"]):
        best.setdefault(row["sampler"], row)
    return list(best.values())


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints and writes the errors."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=whole(1, 1000), default=20, help="of every scheduler (default: %(default)s)")
    parser.add_argument("--reference", type=whole(0, 1000), default=1000, help="steps of DDIM (default: %(default)s)")
    parser.add_argument(
        "--images", type=whole(1, len(PROMPTS)), default=len(PROMPTS), help="pictures (default: %(default)s)"
    )
    parser.add_argument("--threads", type=whole(1), default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where what was drawn stays")
    parser.add_argument("--output", type=Path, help="a JSON file to write")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    demo = DiscreteDemo(args.images, args.keep)
    ddim = draw_ddim(demo, args.reference) if args.reference else None
    report: dict[str, Any] = {"steps": args.steps, "images": args.images, "rows": measure(demo, args.steps, ddim)}
    if ddim is not None:
        report |= {"reference": args.reference, "error_of_ddim": error(ddim, demo.exact)}
        print(f"DDIM in {args.reference} steps has an error of {report['error_of_ddim']:.2g}")
    print(f"error after {args.steps} steps" + ("" if ddim is None else ", and that to DDIM"))
    for row in best_rows(report["rows"]):
        errors = [row[name] for name in ("error", "error_to_ddim") if name in row]
        print(f"{row['sampler'] + ', ' + row['grid']:64}" + "".join(f"{value:10.2g}" for value in errors))
    if args.output is not None:
        write_json(args.output, report)
    return report


if __name__ == "__main__":
    with errors_in_one_line():
        main()

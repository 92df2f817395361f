# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Error of every sampler against network evaluations: EDMDEISScheduler and diffusers' schedulers, on the same grids.

    python examples/evaluate/compare_samplers.py --output docs/samplers
    python examples/evaluate/compare_samplers.py --problems analytic    # a minute

The analytic problems are Gaussian mixtures, whose best denoiser is a formula and whose trajectories are solved by
DOP853 at a tolerance of 1e-10. The problem "demo" is the base stage of the packaged model with its guidance and
experts; its trajectory is solved by Kutta's third-order method in 100 steps that break at the experts' boundaries.

The error is the root mean square over all values at sigma = 0. Every sampler ends there as it does in diffusers; where
it cannot (DEISMultistep, UniPC of the noise), one evaluation is spent on denoising the end. Writes OUTPUT.json and,
where matplotlib is installed, OUTPUT.png.
"""

import argparse
import importlib.util
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from demo_problem import DEMO_SETTINGS, WITHOUT_BOUNDARIES, Demo

from diffusers_ediffi import EDMDEISScheduler
from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.edm import SIGMA_MAX, SIGMA_MIN, c_out, c_skip, karras_sigmas
from diffusers_ediffi.schedulers.deis_weights import step_weights
from diffusers_ediffi.schedulers.sigma_grids import atan_sigmas

# (x, sigma, sigma that routes to an expert) -> D
Denoiser = Callable[[torch.Tensor, float, float], torch.Tensor]

DEFAULT = "multistep (default)"
DEMO = "multistep, demo's settings"
OURS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "multistep of F": {"extrapolate": "model_output"},
    "rho_ab": {"preset": "rho_ab"},
    "log_rho_ab": {"preset": "log_rho_ab"},
    "paper_base": {"preset": "paper_base"},
    "paper_sr": {"preset": "paper_sr"},
}
# Class, settings and what its step takes: "F" in EDM's preconditioning, "D" or "noise" in x / sqrt(1 + sigma^2), or
# the "slope" in x itself.
DIFFUSERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "EDMEuler": ("EDMEulerScheduler", {}, "F"),
    "EDMDPM++ 2M": ("EDMDPMSolverMultistepScheduler", {}, "F"),
    "EDMDPM++ 2M heun": ("EDMDPMSolverMultistepScheduler", {"solver_type": "heun"}, "F"),
    "EDMDPM++ 3M": ("EDMDPMSolverMultistepScheduler", {"solver_order": 3}, "F"),
    "UniPC-2": ("UniPCMultistepScheduler", {"solver_order": 2}, "D"),
    "UniPC-3": ("UniPCMultistepScheduler", {"solver_order": 3}, "D"),
    "UniPC-3 noise": ("UniPCMultistepScheduler", {"solver_order": 3, "predict_x0": False}, "noise"),
    "DEIS-2": ("DEISMultistepScheduler", {"solver_order": 2}, "D"),
    "DEIS-3": ("DEISMultistepScheduler", {"solver_order": 3}, "D"),
    "LMS-4": ("LMSDiscreteScheduler", {}, "slope"),
    "Heun": ("HeunDiscreteScheduler", {}, "slope"),
}


def scheduler_grid(**settings: Any) -> Callable[[int], torch.Tensor]:
    """The levels that EDMDEISScheduler chooses with these settings."""

    def levels(count: int) -> torch.Tensor:
        scheduler = EDMDEISScheduler(**settings)
        scheduler.set_timesteps(count)
        return scheduler.sigmas[:-1]

    return levels


GRIDS: dict[str, Callable[[int], torch.Tensor]] = {
    "karras": karras_sigmas,
    "exponential": lambda n: torch.linspace(math.log(SIGMA_MAX), math.log(SIGMA_MIN), n, dtype=torch.float64).exp(),
    "default": scheduler_grid(),
    "demo's": scheduler_grid(**DEMO_SETTINGS),
    "atan(0, 4)": scheduler_grid(atan_center=0.0, atan_width=4.0),
    "atan(-1, 3)": lambda n: atan_sigmas(n, SIGMA_MIN, SIGMA_MAX, -1.0, 3.0),
}
ANALYTIC_GRIDS = [grid for grid in GRIDS if grid != "demo's"]


def sample_ours(denoise: Denoiser, x: torch.Tensor, nfe: int, preset: str = "multistep", **changes: Any) -> Any:
    """EDMDEISScheduler with at most `nfe` evaluations."""
    scheduler = EDMDEISScheduler.from_preset(preset, **changes)
    steps = nfe if scheduler.order == 1 else (nfe - 1) // 3
    scheduler.set_timesteps(steps)
    sigmas = zip(scheduler.timesteps, scheduler.sigmas.tolist(), scheduler.routing_sigmas, strict=False)
    for timestep, sigma, routing_sigma in sigmas:
        output = (denoise(x, sigma, routing_sigma) - c_skip(sigma) * x) / c_out(sigma)
        x = scheduler.step(output, timestep, x).prev_sample
    return x


def diffusers_scheduler(name: str) -> Any:
    """The scheduler of diffusers with its settings."""
    class_name, settings, takes = DIFFUSERS[name]
    prediction = {"prediction_type": "sample"} if takes == "D" else {}
    return getattr(diffusers, class_name)(**settings, **prediction)


def levels_of(name: str, grid: Callable[[int], torch.Tensor], nfe: int) -> torch.Tensor:
    """The noise levels of a scheduler of diffusers with at most `nfe` evaluations; 0 is the last where it can be."""
    class_name, _, takes = DIFFUSERS[name]
    if class_name == "HeunDiscreteScheduler":
        levels = grid((nfe + 1) // 2)
        evaluated = torch.cat([levels[:1], levels[1:].repeat_interleave(2)])
    else:
        evaluated = grid(nfe)
    ends_at_zero = class_name != "DEISMultistepScheduler" and takes != "noise"
    return torch.cat([evaluated, torch.zeros(1, dtype=torch.float64)]) if ends_at_zero else evaluated


def model_output(takes: str, x: torch.Tensor, denoised: torch.Tensor, sigma: float) -> torch.Tensor:
    """The network's answer in the form that a scheduler takes."""
    if takes == "D":
        return denoised
    if takes == "F":
        return (denoised - c_skip(sigma) * x) / c_out(sigma)
    return (x - denoised) / sigma


def sample_diffusers(
    name: str, denoise: Denoiser, x: torch.Tensor, grid: Callable[[int], torch.Tensor], nfe: int
) -> Any:
    """A scheduler of diffusers, its noise levels replaced by those of `grid`, with at most `nfe` evaluations."""
    takes = DIFFUSERS[name][2]
    scheduler = diffusers_scheduler(name)
    sigmas = levels_of(name, grid, nfe)
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas = sigmas
    scheduler.timesteps = torch.arange(len(sigmas) - 1.0)
    scheduler.set_begin_index(0)
    for timestep, sigma in zip(scheduler.timesteps, sigmas.tolist(), strict=False):
        alpha = 1 / math.hypot(1, sigma) if takes in ("D", "noise") else 1.0
        output = model_output(takes, x, denoise(x, sigma, sigma), sigma)
        following = float(sigmas[scheduler.step_index + 1 if scheduler.step_index is not None else 1])
        scheduler.is_scale_input_called = True
        x = scheduler.step(output, timestep, alpha * x, return_dict=False)[0].to(x.dtype)
        x = x * math.hypot(1, following) if takes in ("D", "noise") else x
    last = float(sigmas[-1])
    return x if last == 0 else denoise(x, last, last)


def levels_with_boundaries(nfe: int, boundaries: list[float], scheduler: EDMDEISScheduler) -> list[float]:
    """The scheduler's noise levels, those that are nearest to boundaries moved there."""
    scheduler.set_timesteps(nfe - len(boundaries))
    sigmas = scheduler.sigmas.tolist()
    for boundary in boundaries:
        nearest = min(range(1, len(sigmas) - 1), key=lambda i: abs(math.log(sigmas[i] / boundary)))
        sigmas[nearest] = boundary
    return sigmas


def weighted_sum(x: torch.Tensor, weights: Iterable[float], history: list[torch.Tensor]) -> torch.Tensor:
    """x plus the earlier evaluations, latest first, times their weights."""
    for weight, past in zip(weights, history, strict=False):
        x = x + weight * past
    return x


def sample_with_exact_switch(
    denoise: Denoiser, x: torch.Tensor, nfe: int, boundaries: list[float], settings: dict[str, Any]
) -> torch.Tensor:
    """The multistep method with a node at each boundary, where both experts are asked: all earlier evaluations are
    shifted by the difference of their answers, and no correction mixes experts."""
    scheduler = EDMDEISScheduler(**settings)
    sigmas = levels_with_boundaries(nfe, boundaries, scheduler)
    degree = settings.get("degree") or (3 if nfe > 8 else 2)
    last = np.zeros(0)
    history: list[torch.Tensor] = []
    for i, (start, end) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
        nodes = sigmas[max(0, i - degree - 1) : i + 1][::-1]
        history = [denoise(x, start, start), *history][: degree + 2]
        if i > 0:
            _, correction = step_weights(sigmas[i - 1], start, nodes, **scheduler._core)
            correction[1 : 1 + len(last)] -= last
            x = weighted_sum(x, correction, history)
        if start in boundaries:
            jump = denoise(x, start, math.nextafter(start, 0)) - history[0]
            history = [past + jump for past in history]
        scale, last = step_weights(start, end, nodes[: degree + 1], **scheduler._core)
        x = weighted_sum(scale * x, last, history)
    return x


def samplers(grids: Iterable[str]) -> dict[tuple[str, str], Callable[[Denoiser, torch.Tensor, int], torch.Tensor]]:
    """Everything that is compared, by solver and grid; ours have the grid that belongs to them."""
    found: dict[tuple[str, str], Any] = {}
    for name, settings in OURS.items():
        found[name, "own"] = lambda d, x, n, settings=settings: sample_ours(d, x, n, **settings)
    for name in DIFFUSERS:
        for grid in grids:
            found[name, grid] = lambda d, x, n, s=name, g=GRIDS[grid]: sample_diffusers(s, d, x, g, n)
    return found


class Mixture:
    """Gaussians with diagonal covariances: centers and variances (components, dimensions), equally likely."""

    def __init__(self, centers: np.ndarray, variances: np.ndarray, seed: int, samples: int = 64):
        self.centers, self.variances = centers, np.broadcast_to(variances, centers.shape)
        x = SIGMA_MAX * np.random.default_rng(seed).standard_normal((samples, centers.shape[1]))
        self.start, self.exact = torch.from_numpy(x), torch.from_numpy(self.solve(x))

    def slope(self, sigma: float, x: np.ndarray) -> np.ndarray:
        """dx/dsigma = (x - D) / sigma, which has no singularity at 0."""
        x = x.reshape(-1, self.centers.shape[1])
        precisions = 1 / (self.variances + sigma**2)
        weighted = self.centers * precisions
        logits = x @ weighted.T - 0.5 * (x**2 @ precisions.T + (self.centers * weighted - np.log(precisions)).sum(1))
        weights = np.exp(logits - logits.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        return sigma * (x * (weights @ precisions) - weights @ weighted).ravel()

    def solve(self, x: np.ndarray) -> np.ndarray:
        result = scipy_solver()(self.slope, (SIGMA_MAX, 0.0), x.ravel(), method="DOP853", rtol=1e-10, atol=1e-10)
        return result.y[:, -1].reshape(x.shape)

    def denoise(self, x: torch.Tensor, sigma: float, routing_sigma: float) -> torch.Tensor:
        slope = self.slope(sigma, x.double().numpy().ravel()).reshape(tuple(x.shape))
        return x - sigma * torch.from_numpy(slope)


def scipy_solver() -> Any:
    """The solver of the exact results.

    Raises:
        ImportError: scipy is not installed.
    """
    try:
        from scipy.integrate import solve_ivp
    except ImportError as error:
        raise ImportError("the mixtures are solved with scipy: pip install scipy, or give --problems demo.") from error
    return solve_ivp


def mixtures() -> dict[str, Mixture]:
    """From 2 to 192 dimensions, broad and narrow, hierarchical and with different widths."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*2 * [np.linspace(-0.7, 0.7, 5)]), -1).reshape(-1, 2)
    families = 0.45 * rng.standard_normal((6, 1, 16)) + 0.12 * rng.standard_normal((6, 6, 16))
    return {
        "2-D, 8 modes": Mixture(0.5 * rng.standard_normal((8, 2)), np.array(0.1**2), 1),
        "2-D, 25 narrow modes": Mixture(grid, np.array(0.03**2), 2),
        "16-D, hierarchical": Mixture(families.reshape(-1, 16), np.array(0.04**2), 3),
        "48-D, uneven widths": Mixture(
            0.45 * rng.standard_normal((24, 48)), np.exp(rng.uniform(*np.log([0.01, 0.4]), (24, 48))) ** 2, 4
        ),
        "192-D, 32 modes": Mixture(0.4 * rng.standard_normal((32, 192)), np.array(0.3**2), 5),
        "192-D, isolated points": Mixture(0.5 * rng.standard_normal((32, 192)), np.array(0.005**2), 6),
    }


def demo_samplers(demo: Demo) -> dict[tuple[str, str], Any]:
    """With the settings of the packaged scheduler; without its boundaries; and switching experts exactly."""
    boundaries = list(demo.unet.boundaries)
    return {
        (DEMO, "own"): lambda d, x, n: sample_ours(d, x, n, **DEMO_SETTINGS),
        ("without boundaries", "own"): lambda d, x, n: sample_ours(d, x, n, **WITHOUT_BOUNDARIES),
        ("exact switch", "own"): lambda d, x, n: sample_with_exact_switch(d, x, n, boundaries, WITHOUT_BOUNDARIES),
    }


def measure(name: str, problem: Mixture | Demo, solvers: dict[tuple[str, str], Any], counts: list[int]) -> list[dict]:
    """One row for each sampler and number of evaluations."""
    rows = []
    for (solver, grid), sample in solvers.items():
        for nfe in counts:
            result = sample(problem.denoise, problem.start, nfe)
            error = (result - problem.exact).pow(2).mean().sqrt().item()
            rows.append({"problem": name, "solver": solver, "grid": grid, "nfe": nfe, "error": float(f"{error:.4g}")})
    return rows


def mean_errors(rows: list[dict[str, Any]]) -> dict[tuple[str, str, int], float]:
    """Geometric mean over the problems by solver, grid and number of evaluations."""
    found: dict[tuple[str, str, int], list[float]] = {}
    for row in rows:
        found.setdefault((row["solver"], row["grid"], row["nfe"]), []).append(row["error"])
    return {key: statistics.geometric_mean(errors) for key, errors in found.items()}


def best_of(means: dict[tuple[str, str, int], float], choices: list[tuple[str, str]], errors: list[float]) -> dict:
    """The best of some solvers at each count, and over those from 10 on or all; our `errors` over both."""
    counts = sorted({nfe for _, _, nfe in means})
    best = [min((means[*key, nfe], key) for key in choices) for nfe in counts]
    many = [nfe for nfe in counts if nfe >= 10] or counts
    single = min(choices, key=lambda key: math.prod(means[*key, nfe] for nfe in many))
    over = [error / means[*single, nfe] for error, nfe in zip(errors, counts, strict=True) if nfe in many]
    return {
        "best": [error for error, _ in best],
        "best_is": [" ".join(key) for _, key in best],
        "ratio": [ours / error for ours, (error, _) in zip(errors, best, strict=True)],
        "best_single": " ".join(single),
        "ratio_to_best_single": statistics.geometric_mean(over),
    }


def print_row(label: str, values: Iterable[float], form: str) -> None:
    """A line of numbers, each 10 characters wide."""
    print(f"{label:44}" + "".join(f"{value:10{form}}" for value in values))


def compare(rows: list[dict[str, Any]], title: str, ours: str = DEFAULT) -> dict[str, Any]:
    """One of ours against the best of diffusers at each number of evaluations and against its best in all."""
    means = mean_errors(rows)
    counts = sorted({nfe for _, _, nfe in means})
    theirs = sorted({(solver, grid) for solver, grid, _ in means if grid != "own"})
    errors = [means[ours, "own", nfe] for nfe in counts]
    result: dict[str, Any] = {"ours": ours, "nfe": counts, "error": errors}
    print(f"\n{title}")
    print_row("NFE", counts, "d")
    print_row(ours, errors, ".2g")
    for label, choices in (("karras", [key for key in theirs if key[1] == "karras"]), ("any grid", theirs)):
        found = best_of(means, choices, errors)
        result[label] = found
        print_row("best of diffusers, " + label, found["best"], ".2g")
        print_row("  ratio", found["ratio"], ".2f")
        print(f"  from 10 evaluations on {found['ratio_to_best_single']:.2f} x {found['best_single']}")
    return result


def one_image(demo: Demo) -> dict[str, Any]:
    """The conditions of the first image alone, guided."""
    conditioning = {
        name: value[[0, len(value) // 2]] if isinstance(value, torch.Tensor) else value
        for name, value in demo.conditioning.items()
    }
    pooled = demo.conditioning["added_cond_kwargs"]["text_embeds"]
    conditioning["added_cond_kwargs"] = {"text_embeds": pooled[[0, len(pooled) // 2]], "image_embeds": None}
    return conditioning


@torch.no_grad()
def step_cost(demo: Demo, turns: int = 40) -> float:
    """Time of scale_model_input and step over that of a guided network call for one image: the median of the turns."""
    conditioning = one_image(demo)
    scheduler = EDMDEISScheduler()
    x = demo.start[:1].float()
    ratios = []
    scheduler.set_timesteps(turns)
    demo.unet.select_expert(SIGMA_MAX)
    for timestep in scheduler.timesteps:
        start = time.perf_counter()
        model_input = scheduler.scale_model_input(x, timestep)
        scaled = time.perf_counter()
        output = demo.unet(torch.cat([model_input] * 2), timestep, **conditioning, return_dict=False)[0]
        called = time.perf_counter()
        x = scheduler.step(output[1:], timestep, x).prev_sample
        end = time.perf_counter()
        ratios.append((scaled - start + end - called) / (called - scaled))
    return statistics.median(ratios[5:])


def best_grids(means: dict[tuple[str, str, int], float]) -> list[tuple[str, str]]:
    """Every solver with the grid on which its errors are least."""
    counts = sorted({nfe for _, _, nfe in means})
    best: dict[str, tuple[float, str]] = {}
    for solver, grid in dict.fromkeys((solver, grid) for solver, grid, _ in means):
        total = math.prod(means[solver, grid, nfe] for nfe in counts)
        best[solver] = min(best.get(solver, (math.inf, grid)), (total, grid))
    return [(solver, grid) for solver, (_, grid) in best.items()]


def line_style(i: int, solver: str, grid: str) -> dict[str, Any]:
    """How line number `i` looks: ours are solid, the first of them broad; those of diffusers are dashed."""
    from matplotlib import colormaps

    if grid == "own":
        width = 2.5 if i == 0 else 1.6
        return {"linewidth": width, "marker": "o", "color": f"C{i}", "label": f"EDMDEIS {solver}"}
    color = colormaps["Dark2"](i % 8)
    return {"linewidth": 1, "linestyle": "--", "marker": "x", "color": color, "label": f"{solver}, {grid}"}


def plot_errors(axes: Any, rows: list[dict[str, Any]], title: str) -> None:
    """Error against evaluations: ours, and of diffusers each solver on its best grid."""
    means = mean_errors(rows)
    counts = sorted({nfe for _, _, nfe in means})
    for i, (solver, grid) in enumerate(best_grids(means)):
        errors = [means[solver, grid, nfe] for nfe in counts]
        axes.plot(counts, errors, markersize=4, **line_style(i, solver, grid))
    axes.set(xscale="log", yscale="log", title=title, xlabel="network evaluations", ylabel="error at sigma = 0")
    axes.set_xticks(counts, counts)
    axes.minorticks_off()
    axes.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.1))


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """A panel for the mixtures and a panel for the demo model, where they were measured."""
    from matplotlib.figure import Figure

    parts = {
        "analytic mixtures (geometric mean)": [row for row in rows if not row["problem"].startswith("demo")],
        "demo model, guided": [row for row in rows if row["problem"] == "demo"],
    }
    parts = {title: part for title, part in parts.items() if part}
    figure = Figure(figsize=(6 * len(parts), 8), layout="constrained")
    for axes, (title, part) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts.items(), strict=True):
        plot_errors(axes, part, title)
    figure.savefig(path, dpi=110)


def parse_arguments() -> argparse.Namespace:
    """The options."""
    parser = ScriptParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", choices=("analytic", "demo"), default=["analytic", "demo"])
    parser.add_argument("--nfe", type=whole(1), nargs="+", default=[8, 10, 12, 15, 20, 25, 36, 50])
    parser.add_argument("--demo-nfe", type=whole(1), nargs="+", default=[12, 20, 25], help="the demo model's")
    parser.add_argument(
        "--grids", nargs="+", choices=list(GRIDS), default=ANALYTIC_GRIDS, help="of diffusers' solvers on the mixtures"
    )
    parser.add_argument(
        "--demo-grids", nargs="+", choices=list(GRIDS), default=["karras", "demo's"], help="the same on the demo"
    )
    parser.add_argument("--images", type=whole(1), default=8, help="pictures of the demo model, at most 8")
    parser.add_argument("--threads", type=whole(1), default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="name of the files, without an ending")
    return parser.parse_args()


def measure_mixtures(args: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of all mixtures, and what comes out of each and of their mean."""
    if importlib.util.find_spec("scipy") is None:
        sys.exit("error: the mixtures are solved by scipy; pip install scipy, or give --problems demo.")
    rows: list[dict[str, Any]] = []
    summary = {}
    for name, problem in mixtures().items():
        part = measure(name, problem, samplers(args.grids), args.nfe)
        rows += part
        summary[name] = compare(part, name)
    summary["analytic"] = compare(rows, "analytic, geometric mean over the problems")
    return rows, summary


def measure_demo(args: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The same of the demo model, and what a step costs."""
    demo = Demo(args.images)
    cost = step_cost(demo)
    print(f"\nscheduler's time over the network's in a guided step of the demo model: {cost:.2%}")
    rows = measure("demo", demo, demo_samplers(demo) | samplers(args.demo_grids), args.demo_nfe)
    return rows, {"step_cost": cost, "demo": compare(rows, "demo", DEMO)}


def save(rows: list[dict[str, Any]], summary: dict[str, Any], args: argparse.Namespace) -> None:
    """Writes the figures, and the plot where matplotlib is installed."""
    settings = {key: value for key, value in vars(args).items() if key != "output"}
    report = {"settings": settings, "summary": summary, "rows": rows}
    args.output.with_suffix(".json").write_text(json.dumps(report) + "\n")
    try:
        plot(rows, args.output.with_suffix(".png"))
    except ImportError:
        print("No plot: it needs matplotlib (pip install matplotlib).")


def main() -> None:
    """Measures, prints and writes the errors."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    for name, measure_problems in (("analytic", measure_mixtures), ("demo", measure_demo)):
        if name in args.problems:
            part, found = measure_problems(args)
            rows += part
            summary |= found
    if args.output is not None:
        save(rows, summary, args)


if __name__ == "__main__":
    with errors_in_one_line():
        main()

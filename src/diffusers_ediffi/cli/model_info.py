# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`ediffi info`: what a model consists of."""

import argparse
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from ..demo.checkpoint import demo_checkpoint
from ..files import MAX_CHARACTERS, load_yaml
from .messages import say
from .model import load_pipeline

MAX_LICENCE = 200  # characters of its name that are shown


def describe_model(args: argparse.Namespace) -> None:
    """Prints the licence, the sizes and the stages of `args.model`, by default of the demo model."""
    model = args.model or demo_checkpoint()
    pipe = load_pipeline(model)
    say(f"model       {args.model or 'demo'}")
    say(f"licence     {_licence(model)}")
    for line in (*_components(pipe), *_stages(pipe)):
        say(line)


def _licence(model: str) -> str:
    """What the model card (README.md) says."""
    card = Path(model) / "README.md"
    if Path(model).is_dir() and not card.is_file():
        return "not stated (no model card)"
    try:
        licence = _front_matter(card if card.is_file() else hf_hub_download(model, "README.md")).get("license")
    except Exception:  # a model without a readable card is still a model
        licence = None
    return licence[:MAX_LICENCE] if licence and isinstance(licence, str) else "not stated"


def _front_matter(card: str | Path) -> Any:
    """The YAML between two lines of `---` at the beginning of a model card."""
    with open(card, encoding="utf-8-sig") as file:
        before, opening, rest = file.read(MAX_CHARACTERS).partition("---\n")
    return load_yaml(rest.partition("\n---")[0]) if opening and not before.strip() else {}


def _components(pipe: Any) -> Iterator[str]:
    """The number of parameters, of all networks and of each."""
    parameters = {name: _parameters(part) for name, part in pipe.components.items() if hasattr(part, "parameters")}
    yield f"parameters  {_count(sum(parameters.values()))}"
    for name, number in parameters.items():
        yield f"  {name:<18}{_count(number):>8}  {type(pipe.components[name]).__name__}"


def _stages(pipe: Any) -> Iterator[str]:
    """A line for each stage with its defaults, then its experts."""
    config = pipe.config
    defaults = zip(pipe.stages, config.default_num_inference_steps, config.default_guidance_scale, strict=False)
    for stage, steps, guidance in defaults:
        name = stage.label.split()[0]
        yield f"{name}: {stage.size} x {stage.size}, {steps} steps, guidance {guidance:g}"
        yield from (f"  {line}" for line in _experts(stage, steps))


def _experts(stage: Any, num_steps: int) -> Iterator[str]:
    """A line for each expert of a stage: its noise levels, its share of the steps, its size."""
    router = stage.unet
    experts = getattr(router, "experts", [router])
    edges = [0.0, *getattr(router, "boundaries", []), math.inf]
    unit = router.config.get("unit", "sigma")
    sigmas = _sigmas(stage.scheduler, num_steps)
    routes = [router.select_expert(sigma) if hasattr(router, "select_expert") else 0 for sigma in sigmas]
    for i, expert in enumerate(experts):
        interval = f"{unit} {edges[i]:.4g} to {edges[i + 1]:.4g}"
        yield f"expert.{i}  {interval:<24}{routes.count(i):>3} of {len(sigmas)} steps  {_size(expert, i)}"


def _sigmas(scheduler: Any, num_steps: int) -> list[float]:
    """The noise level by which the expert of each step is chosen."""
    scheduler.set_timesteps(num_steps)
    sigmas = getattr(scheduler, "routing_sigmas", scheduler.sigmas[: len(scheduler.timesteps)].tolist())
    # A Runge-Kutta step repeats its noise level for each of its calls.
    return [sigma for sigma, _ in itertools.groupby(sigmas)]


def _size(expert: Any, index: int) -> str:
    """The parameters of an expert; of a low-rank expert those that it does not share."""
    shared = getattr(expert, "lora_experts", None)
    if shared is None:
        return _count(_parameters(expert))
    number = sum(tensor.numel() for tensor in shared.expert(index).weights.values())
    return f"{_count(number)} beside a shared base"


def _parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _count(number: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)

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
from .card import NOT_STATED, licence_in
from .messages import say, say_json
from .model import load_pipeline


def describe_model(args: argparse.Namespace) -> None:
    """Prints the licence, the sizes and the stages of `args.model`, by default of the demo model."""
    model = args.model or demo_checkpoint()
    pipe = load_pipeline(model)
    about = {
        "model": args.model or "demo",
        "licence": _licence(model),
        "components": _components(pipe),
        "stages": list(_stages(pipe)),
    }
    if args.json:
        say_json(about)
        return
    for line in _lines(about):
        say(line)


def _licence(model: str) -> str:
    """What the model card (README.md) says."""
    card = Path(model) / "README.md"
    if Path(model).is_dir() and not card.is_file():
        return f"{NOT_STATED} (no model card)"
    try:
        return licence_in(card if card.is_file() else hf_hub_download(model, "README.md"))
    except Exception:  # of the network, the Hub and its cache
        return NOT_STATED


def _components(pipe: Any) -> list[dict[str, Any]]:
    """The networks and their parameters."""
    networks = {name: part for name, part in pipe.components.items() if hasattr(part, "parameters")}
    return [
        {"name": name, "class": type(network).__name__, "parameters": _parameters(network)}
        for name, network in networks.items()
    ]


def _stages(pipe: Any) -> Iterator[dict[str, Any]]:
    """Each stage with its defaults and its experts."""
    config = pipe.config
    defaults = zip(pipe.stages, config.default_num_inference_steps, config.default_guidance_scale, strict=False)
    for stage, steps, guidance in defaults:
        about = {"name": stage.label.split()[0], "size": stage.size, "steps": steps, "guidance_scale": guidance}
        yield {**about, "experts": list(_experts(stage, steps))}


def _experts(stage: Any, num_steps: int) -> Iterator[dict[str, Any]]:
    """Each expert of a stage: its noise levels, where the last has no upper end, its share of the steps, its size."""
    router = stage.unet
    experts = getattr(router, "experts", [router])
    edges = [0.0, *getattr(router, "boundaries", []), None]
    unit = router.config.get("unit", "sigma")
    sigmas = _sigmas(stage.scheduler, num_steps)
    routes = [router.select_expert(sigma) if hasattr(router, "select_expert") else 0 for sigma in sigmas]
    for i, expert in enumerate(experts):
        interval = {"unit": unit, "low": edges[i], "high": edges[i + 1]}
        yield {**interval, "steps": routes.count(i), "of_steps": len(sigmas), **_size(expert, i)}


def _lines(about: dict[str, Any]) -> Iterator[str]:
    """What is known of a model, for people."""
    yield f"model       {about['model']}"
    yield f"licence     {about['licence']}"
    yield f"parameters  {_count(sum(component['parameters'] for component in about['components']))}"
    for component in about["components"]:
        yield f"  {component['name']:<18}{_count(component['parameters']):>8}  {component['class']}"
    for stage in about["stages"]:
        size = stage["size"]
        yield f"{stage['name']}: {size} x {size}, {stage['steps']} steps, guidance {stage['guidance_scale']:g}"
        yield from (f"  {_expert_line(i, expert)}" for i, expert in enumerate(stage["experts"]))


def _expert_line(index: int, expert: dict[str, Any]) -> str:
    high = math.inf if expert["high"] is None else expert["high"]
    interval = f"{expert['unit']} {expert['low']:.4g} to {high:.4g}"
    size = _count(expert["parameters"]) + (" beside a shared base" if expert["shared_base"] else "")
    return f"expert.{index}  {interval:<24}{expert['steps']:>3} of {expert['of_steps']} steps  {size}"


def _sigmas(scheduler: Any, num_steps: int) -> list[float]:
    """The noise level by which the expert of each step is chosen."""
    scheduler.set_timesteps(num_steps)
    sigmas = getattr(scheduler, "routing_sigmas", scheduler.sigmas[: len(scheduler.timesteps)].tolist())
    # A Runge-Kutta step repeats its noise level for each of its calls.
    return [sigma for sigma, _ in itertools.groupby(sigmas)]


def _size(expert: Any, index: int) -> dict[str, Any]:
    """The parameters of an expert; of a low-rank expert those that it does not share."""
    shared = getattr(expert, "lora_experts", None)
    if shared is None:
        return {"parameters": _parameters(expert), "shared_base": False}
    number = sum(tensor.numel() for tensor in shared.expert(index).weights.values())
    return {"parameters": number, "shared_base": True}


def _parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _count(number: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)

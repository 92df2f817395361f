# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`ediffi info`: what a model consists of."""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from ..demo.checkpoint import demo_checkpoint
from ..models.card import count, num_parameters
from ..pipelines.description import StageInfo, describe_stages
from .card import NOT_STATED, licence_in
from .messages import say, say_json
from .model import load_pipeline


def describe_model(args: argparse.Namespace) -> None:
    """Prints the licence, the sizes and the stages of `args.model`, by default of the demo model."""
    model = args.model or demo_checkpoint()
    pipe = load_pipeline(model)
    name, licence = args.model or "demo", _licence(model)
    if args.json:
        components = [{"name": name, "class": kind, "parameters": number} for name, kind, number in _components(pipe)]
        stages = list(map(_stage_as_dict, describe_stages(pipe)))
        say_json({"model": name, "licence": licence, "components": components, "stages": stages})
        return
    say(f"model       {name}")
    say(f"licence     {licence}")
    for line in (*_component_lines(pipe), *_stage_lines(pipe)):
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


def _components(pipe: Any) -> list[tuple[str, str, int]]:
    """The networks: their names, classes and parameters."""
    parts = {name: part for name, part in pipe.components.items() if hasattr(part, "parameters")}
    return [(name, type(part).__name__, num_parameters(part)) for name, part in parts.items()]


def _component_lines(pipe: Any) -> Iterator[str]:
    """The number of parameters, of all networks and of each."""
    components = _components(pipe)
    yield f"parameters  {count(sum(number for _, _, number in components))}"
    for name, kind, number in components:
        yield f"  {name:<18}{count(number):>8}  {kind}"


def _stage_lines(pipe: Any) -> Iterator[str]:
    """A line for each stage with its defaults, then its experts."""
    for stage in describe_stages(pipe):
        steps, guidance = stage.num_inference_steps, stage.guidance_scale
        yield f"{stage.name}: {stage.size} x {stage.size}, {steps} steps, guidance {guidance:g}"
        total = sum(stage.steps_of_experts)
        for expert, own in zip(stage.experts, stage.steps_of_experts, strict=True):
            yield f"  {expert.name}  {expert.interval:<24}{own:>3} of {total} steps  {expert.size}"


def _stage_as_dict(stage: StageInfo) -> dict[str, Any]:
    """A stage as JSON has it; the expert of the most noise has no upper end."""
    experts = [
        {
            "name": expert.name,
            "unit": expert.unit,
            "low": expert.low,
            "high": expert.high if math.isfinite(expert.high) else None,
            "steps": steps,
            "parameters": expert.num_parameters,
            "shares_base": expert.shares_base,
        }
        for expert, steps in zip(stage.experts, stage.steps_of_experts, strict=True)
    ]
    return {
        "name": stage.name,
        "size": stage.size,
        "steps": stage.num_inference_steps,
        "guidance_scale": stage.guidance_scale,
        "scheduler": stage.scheduler,
        "experts": experts,
    }

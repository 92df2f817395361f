# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`ediffi info`: what a model consists of."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from ..demo.checkpoint import demo_checkpoint
from ..files import MAX_CHARACTERS, load_yaml
from ..models.card import count, num_parameters
from ..pipelines.description import describe_stages
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
    parts = {name: part for name, part in pipe.components.items() if hasattr(part, "parameters")}
    parameters = {name: num_parameters(part) for name, part in parts.items()}
    yield f"parameters  {count(sum(parameters.values()))}"
    for name, number in parameters.items():
        yield f"  {name:<18}{count(number):>8}  {type(parts[name]).__name__}"


def _stages(pipe: Any) -> Iterator[str]:
    """A line for each stage with its defaults, then its experts."""
    for stage in describe_stages(pipe):
        steps, guidance = stage.num_inference_steps, stage.guidance_scale
        yield f"{stage.name}: {stage.size} x {stage.size}, {steps} steps, guidance {guidance:g}"
        total = sum(stage.steps_of_experts)
        for expert, own in zip(stage.experts, stage.steps_of_experts, strict=True):
            yield f"  {expert.name}  {expert.interval:<24}{own:>3} of {total} steps  {expert.size}"

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The model card of a pipeline, and what of it goes to the Hub."""

import json
from pathlib import Path
from typing import Any

import torch

from ..experts.router import ExpertRouterUNet
from ..files.card import CardText
from ..files.hub import Model
from ..models.card import count, num_bytes, num_parameters, origin_of, table
from .description import describe_stages
from .repository import INDEX, LIBRARY, MODULE, PIPELINES, repository_files

MAX_WORDS = 40  # of a group that are listed


def pipeline_model(pipe: Any) -> Model:
    """What `push_to_hub` of a pipeline uploads.

    Raises:
        ValueError: It is of a class that those who load it do not have.
    """
    if type(pipe).__name__ not in PIPELINES:
        raise ValueError(
            f"{type(pipe).__name__} is not in {LIBRARY}, so nobody could load it from the Hub: upload "
            f"{PIPELINES[0]}.from_pipe(pipe) instead."
        )
    parts = {name: part for name, part in pipe.components.items() if part is not None}
    names = {"": origin_of(pipe.config)}
    names |= {name: origin_of(part.config) for name, part in parts.items() if hasattr(part, "config")}
    for name, part in parts.items():
        if isinstance(part, ExpertRouterUNet):
            names |= {f"{name}/expert.{i}": origin_of(expert.config) for i, expert in enumerate(part.experts)}
    networks = [part for part in parts.values() if isinstance(part, torch.nn.Module)]
    return Model(
        name=type(pipe).__name__,
        describe=lambda repo_id: pipeline_card(pipe, repo_id),
        parts=(INDEX, MODULE, *(f"{name}/*" for name in parts)),
        origins={name: place for place, name in reversed(names.items()) if name},
        more=repository_files,
        num_bytes=sum(map(num_bytes, networks)),
    )


def pipeline_card(pipe: Any, repo_id: str) -> CardText:
    """The model card of a pipeline."""
    stages = describe_stages(pipe)
    sizes = " -> ".join(f"{stage.size} x {stage.size}" for stage in stages)
    rows = [
        (s.name, f"{s.size} x {s.size}", s.num_inference_steps, _number(s.guidance_scale), f"`{s.scheduler}`")
        for s in stages
    ]
    experts = [
        (s.name, expert.name, expert.interval, f"{steps} of {sum(s.steps_of_experts)}", expert.size)
        for s in stages
        if len(s.experts) > 1
        for expert, steps in zip(s.experts, s.steps_of_experts, strict=True)
    ]
    sections = {"Stages": table(("stage", "pixels", "steps", "guidance", "scheduler"), rows)}
    if experts:
        sections["Experts"] = table(("stage", "expert", "noise levels", "of the steps", "parameters"), experts)
    sections["Networks"] = _networks(pipe)
    if pipe.vocabulary is not None:
        sections["Words"] = _words(pipe.vocabulary)
    origin = origin_of(pipe.config)
    base = {"base_model": origin} if origin and not Path(origin).exists() and origin.count("/") == 1 else {}
    return CardText(
        title=repo_id.split("/")[-1],
        summary="Draws images from text: a cascade in the manner of eDiff-I ([arXiv 2211.01324]"
        f"(https://arxiv.org/abs/2211.01324)), {sizes} pixels, for the package diffusers_ediffi.",
        usage=_usage(type(pipe).__name__, repo_id),
        sections=sections,
        data={"pipeline_tag": "text-to-image", **base},
    )


def _usage(class_name: str, repo_id: str) -> list[tuple[str, str]]:
    imported = f"from diffusers_ediffi import {class_name}\n\npipe = {class_name}.from_pretrained({repo_id!r})"
    if class_name == PIPELINES[0]:
        imported += '\npipe("...").images[0].save("image.png")'
    alone = (
        "from diffusers import DiffusionPipeline\n\n"
        f"pipe = DiffusionPipeline.from_pretrained({repo_id!r}, custom_pipeline={repo_id!r}, trust_remote_code=True)"
    )
    return [
        ("With `diffusers_ediffi` installed:", imported),
        ("`DiffusionPipeline` loads it after `import diffusers_ediffi`, or without that import by:", alone),
    ]


def _number(guidance: Any) -> str:
    return f"{guidance:g}" if not isinstance(guidance, dict) else json.dumps(guidance)


def _networks(pipe: Any) -> str:
    """A row for each network; of an encoder its name in the arguments of a call."""
    encoders = {encoder.component: name for name, encoder in pipe._conditioning.encoders.items()}
    parts = [(name, part) for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)]
    rows = [
        (f"`{name}`", f"`{type(part).__name__}`", encoders.get(name, ""), count(num_parameters(part)))
        for name, part in parts
    ]
    return table(("component", "class", "encoder", "parameters"), rows)


def _words(vocabulary: Any) -> str:
    """The words of a model that knows few."""
    lines = [f"It knows {len(vocabulary)} words; `ediffi info --model ... --words` prints them with their synonyms."]
    for name, group in vocabulary.groups.items():
        listed = ", ".join(group[:MAX_WORDS]) + (", ..." if len(group) > MAX_WORDS else "")
        lines.append(f"- {name}: {listed}")
    return "\n\n".join([lines[0], "\n".join(lines[1:])])

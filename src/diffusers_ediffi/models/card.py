# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The model card of a network that is uploaded alone, and what cards say of numbers and sizes."""

from typing import Any

from ..files.card import CardText
from ..files.hub import Model

WEIGHTS = ("config.json", "diffusion_pytorch_model*")


def count(number: int) -> str:
    """A number of parameters, such as 1.2M."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def num_parameters(model: Any) -> int:
    """Of a network."""
    return sum(parameter.numel() for parameter in model.parameters())


def num_bytes(model: Any) -> int:
    """Of its weights."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def origin_of(config: Any) -> str | None:
    """The folder or Hub id that something was loaded from."""
    name = config.get("_name_or_path") if hasattr(config, "get") else getattr(config, "_name_or_path", None)
    return str(name) if name else None


def table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in rows]
    return "\n".join(lines)


def unet_model(unet: Any) -> Model:
    """What `push_to_hub` of an [`EDiffIUNet`] uploads."""
    origin = origin_of(unet.config)
    return Model(
        name=type(unet).__name__,
        describe=lambda repo_id: _unet_card(unet, repo_id),
        parts=WEIGHTS,
        origins={origin: ""} if origin else {},
        num_bytes=num_bytes(unet),
    )


def _unet_card(unet: Any, repo_id: str) -> CardText:
    config = unet.config
    refines = config.in_channels > config.out_channels
    widths = {
        "CLIP text": config.encoder_hid_dim,
        "T5": config.encoder_hid_dim_2,
        "CLIP image": config.image_embed_dim,
    }
    rows = [
        ("pixels", f"{config.sample_size} x {config.sample_size}"),
        ("parameters", count(num_parameters(unet))),
        ("structure", config.structure),
        ("reads", ", ".join(f"{name} ({width})" for name, width in widths.items() if width) or "no condition"),
        ("predicts", config.preconditioning),
    ]
    what = "A super-resolution network" if refines else "A denoiser"
    return CardText(
        title=repo_id.split("/")[-1],
        summary=f"{what} of eDiff-I ([arXiv 2211.01324](https://arxiv.org/abs/2211.01324)) for the package "
        "diffusers_ediffi.",
        usage=[("With `diffusers_ediffi` installed:", _usage(type(unet).__name__, "unet", repo_id))],
        sections={"Network": table(("", ""), rows)},
        data={"tags": ["super-resolution"] if refines else []},
    )


def _usage(class_name: str, variable: str, repo_id: str) -> str:
    return f"from diffusers_ediffi import {class_name}\n\n{variable} = {class_name}.from_pretrained({repo_id!r})"

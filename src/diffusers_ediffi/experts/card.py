# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The experts of a router as a model card and `ediffi info` tell of them, and the cards of experts that are uploaded
alone."""

import math
from dataclasses import dataclass
from typing import Any

from ..files.card import CardText
from ..files.hub import Model
from ..models.card import WEIGHTS, count, num_bytes, num_parameters, origin_of, table

FILE = "expert.safetensors"  # of a low-rank expert alone


@dataclass(frozen=True)
class ExpertInfo:
    """An expert of a network; a network without experts is one for all noise levels.

    Args:
        name (`str`): Its folder.
        unit (`str`): Of the interval, `sigma` or `timestep`.
        low, high (`float`): The noise levels that it draws, from `low` on and below `high`.
        class_name (`str`): Of the network.
        num_parameters (`int`): Its own.
        shares_base (`bool`): Whether it is a low-rank difference from a network that others share.
    """

    name: str
    unit: str
    low: float
    high: float
    class_name: str
    num_parameters: int
    shares_base: bool

    @property
    def interval(self) -> str:
        """The noise levels in words."""
        return f"{self.unit} {self.low:.4g} to {self.high:.4g}"

    @property
    def size(self) -> str:
        """The parameters in words."""
        return f"{count(self.num_parameters)} beside a shared base" if self.shares_base else count(self.num_parameters)


def experts_of(unet: Any) -> list[ExpertInfo]:
    """The experts of a network, from low noise to high."""
    experts = list(getattr(unet, "experts", [unet]))
    edges = [0.0, *getattr(unet, "boundaries", []), math.inf]
    unit = unet.config.get("unit", "sigma")
    return [_info(expert, i, unit, edges[i], edges[i + 1]) for i, expert in enumerate(experts)]


def _info(expert: Any, index: int, unit: str, low: float, high: float) -> ExpertInfo:
    shared = getattr(expert, "lora_experts", None)
    if shared is None:
        number = num_parameters(expert)
    else:
        number = sum(tensor.numel() for tensor in shared.expert(index).weights.values())
    return ExpertInfo(f"expert.{index}", unit, low, high, type(expert).__name__, number, shared is not None)


def router_model(router: Any) -> Model:
    """What `push_to_hub` of an [`ExpertRouterUNet`] uploads."""
    names = {"": origin_of(router.config)}
    names |= {f"expert.{i}": origin_of(expert.config) for i, expert in enumerate(router.experts)}
    return Model(
        name=type(router).__name__,
        describe=lambda repo_id: _router_card(router, repo_id),
        parts=("config.json", "experts*.json", "expert.*", "*.safetensors"),
        origins={name: place for place, name in reversed(names.items()) if name},
        num_bytes=num_bytes(router),
    )


def _router_card(router: Any, repo_id: str) -> CardText:
    experts = experts_of(router)
    rows = [(expert.name, expert.interval, expert.size, expert.class_name) for expert in experts]
    usage = (
        "from diffusers_ediffi import ExpertRouterUNet\n\n"
        f"unet = ExpertRouterUNet.from_pretrained({repo_id!r})  # then pipe.unet = unet\n"
        "unet.experts[0]  # an expert is a U-Net by itself"
    )
    return CardText(
        title=repo_id.split("/")[-1],
        summary=f"{len(experts)} expert denoisers (eDiff-I, [arXiv 2211.01324](https://arxiv.org/abs/2211.01324), "
        "section 4.1), each for an interval of noise levels, that are called like one U-Net.",
        usage=[("With `diffusers_ediffi` installed:", usage)],
        sections={"Experts": table(("expert", "noise levels", "parameters", "network"), rows)},
        data={"tags": ["mixture-of-experts"]},
    )


def lora_expert_model(expert: Any) -> Model:
    """What `push_to_hub` of a [`LoraExpert`] uploads."""
    return Model(
        name=type(expert).__name__,
        describe=lambda repo_id: _lora_expert_card(expert, repo_id),
        parts=(FILE,),
        origins={},
        num_bytes=sum(tensor.numel() * tensor.element_size() for tensor in expert.weights.values()),
    )


def _lora_expert_card(expert: Any, repo_id: str) -> CardText:
    ranks = sorted({len(a) for name, a in expert.weights.items() if name.endswith(".lora_A.weight")})
    rows = [
        ("parameters", count(sum(tensor.numel() for tensor in expert.weights.values()))),
        ("rank", " to ".join(map(str, dict.fromkeys([*ranks[:1], *ranks[-1:]]))) or "none"),
        ("base", f"{expert.config.get('_class_name', 'EDiffIUNet')}, {expert.config.get('sample_size')} pixels"),
    ]
    usage = (
        "from diffusers_ediffi import ExpertRouterUNet, LoraExpert\n\n"
        f"expert = LoraExpert.from_pretrained({repo_id!r})\n"
        "unet = expert.merge(base)  # or several in ExpertRouterUNet.from_lora_experts"
    )
    return CardText(
        title=repo_id.split("/")[-1],
        summary="An expert denoiser as its low-rank difference from a base network, for the package diffusers_ediffi.",
        usage=[("With `diffusers_ediffi` installed, and the U-Net that it differs from as `base`:", usage)],
        sections={"Expert": table(("", ""), rows)},
        data={"tags": ["lora"]},
    )


__all__ = ["WEIGHTS", "ExpertInfo", "experts_of", "lora_expert_model", "router_model"]

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The networks of a stage of a saved pipeline, to train some of them further: known from its configuration, before any
weights are read."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights

from ..experts.files import expert_folder
from ..experts.lora import LoraExpert
from ..experts.noise_interval import NoiseInterval
from ..experts.routes import Routes
from ..models.unet import EDiffIUNet
from .learner import check_config
from .lora import plain_lora
from .shared_lora import check_same_layers

STAGES = ("unet", "unet_sr256", "unet_sr1024")
SR_SCALE = 4  # of a pipeline that does not say it


@dataclass(frozen=True)
class StageNetworks:
    """A stage of a saved pipeline: one network or an ensemble of experts.

    Args:
        folder (`Path`): Of the stage.
        name (`str`): One of `STAGES`.
        size (`int`): Height and width in pixels of what the stage draws.
        patches (`tuple` of `int` or `None`): Side of the patches that each network is trained on, where these are
            smaller than what is drawn.
        low_res_factor (`int`, *optional*): How many times smaller its input is, of super-resolution.
        intervals (`tuple` of [`NoiseInterval`]): The noise levels that each network draws, the lowest first.
        is_ensemble (`bool`): Whether an `ExpertRouterUNet` joins them.
    """

    folder: Path
    name: str
    size: int
    patches: tuple[int | None, ...]
    low_res_factor: int | None
    intervals: tuple[NoiseInterval, ...]
    is_ensemble: bool

    @classmethod
    def read(cls, pipeline: str | Path, name: str) -> "StageNetworks":
        """Reads the configuration of a stage.

        Args:
            pipeline (`str` or `Path`): The folder of the pipeline.
            name (`str`): One of `STAGES`.

        Raises:
            OSError: A configuration is missing.
            ValueError: The pipeline has no such stage, its networks are not trained here, or an expert draws noise
                levels that it was not trained on.
        """
        index = _read(Path(pipeline) / "model_index.json")
        there = [stage for stage in STAGES if _is_loaded(index.get(stage))]
        if name not in there:
            raise ValueError(f"The pipeline {str(pipeline)!r} has no {name}; its stages are {', '.join(there)}.")
        config = _read(Path(pipeline) / name / "config.json")
        base = _read(Path(pipeline) / STAGES[0] / "config.json")
        networks = _networks(config, name)
        if "unets" in config:  # an expert that draws what it was not trained on is not trained further, either
            Routes(config["boundaries"], trained_on=[network.get("trained_on") for network in networks])
        scale = index.get("sr_scale", SR_SCALE)
        size = _networks(base, STAGES[0])[0]["sample_size"] * scale ** STAGES.index(name)
        sides = [network["sample_size"] for network in networks]
        refines = name != STAGES[0]
        return cls(
            Path(pipeline) / name,
            name,
            size,
            tuple(side if refines and side < size else None for side in sides),
            scale if refines else None,
            _intervals(config, networks),
            "unets" in config,
        )

    def __len__(self) -> int:
        return len(self.intervals)

    def chosen(self, experts: Sequence[int] | None) -> list[int]:
        """The numbers of the networks to train, by default of all.

        Raises:
            ValueError: There is no such network, or one is named twice.
        """
        numbers = list(range(len(self))) if experts is None else sorted(experts)
        wrong = [number for number in numbers if not 0 <= number < len(self)]
        if wrong or not numbers or len(set(numbers)) < len(numbers):
            raise ValueError(
                f"experts {numbers}: {self.name} has the experts 0 to {len(self) - 1}, 0 at the lowest noise; name "
                "each once."
            )
        return numbers

    def label(self, number: int) -> str:
        """What a network is called: `expert.0` and so on, or the name of the stage."""
        return expert_folder(number) if self.is_ensemble else self.name

    def load(self, number: int) -> EDiffIUNet:
        """A network, in single precision.

        Raises:
            OSError: Its weights are missing or damaged.
        """
        return EDiffIUNet.from_pretrained(self._folder(number))

    def _folder(self, number: int) -> Path:
        return self.folder / expert_folder(number) if self.is_ensemble else self.folder

    def check_shared(self, numbers: Sequence[int]) -> None:
        """Refuses networks that cannot get one LoRA together, before any weights are read.

        Raises:
            ValueError: The layers of one have other shapes, or there is one alone.
        """
        with init_empty_weights():
            networks = {
                number: EDiffIUNet.from_config(_read(self._folder(number) / "config.json")) for number in numbers
            }
        check_same_layers(networks)

    def lora_layers(self, loras: Mapping[int, LoraExpert]) -> dict[str, torch.Tensor]:
        """LoRAs of some of the networks as one, for `EDiffIPipeline.save_lora_weights` and, with the name of the stage
        before each key, `load_lora_weights`.

        Args:
            loras (`dict`): What runs with `lora_only` learnt, by the numbers of the networks.
        """
        layers: dict[str, torch.Tensor] = {}
        for number, lora in loras.items():
            start = f"experts.{number}." if self.is_ensemble else ""
            layers |= {f"{start}{name}": tensor for name, tensor in plain_lora(lora).items()}
        return layers


def _read(path: Path) -> dict[str, Any]:
    """A configuration.

    Raises:
        OSError: It is missing.
        ValueError: It is none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: give the folder of a saved EDiffIPipeline.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a configuration.")
    return content


def _is_loaded(entry: Any) -> bool:
    return isinstance(entry, list) and entry[:1] != [None]


def _networks(config: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The configurations of a stage's networks.

    Raises:
        ValueError: They are not trained here.
    """
    entries = config.get("unets", [{"class_name": config.get("_class_name"), "config": config}])
    kinds = {str(entry.get("class_name")) for entry in entries}
    if kinds != {EDiffIUNet.__name__}:
        raise ValueError(f"{name} is made of {', '.join(sorted(kinds))}; an EDiffIUNet alone is trained here.")
    if config.get("shared_base"):
        raise ValueError(
            f"The experts of {name} are low-rank differences from one network, which take no further training: make "
            "full experts of them by LoraExpert.merge."
        )
    if any(config.get("adapters") or ()):
        raise ValueError(f"The experts of {name} differ in what they are conditioned on, which training does not.")
    for entry in entries:
        check_config(entry["config"])
    return [entry["config"] for entry in entries]


def _intervals(config: Mapping[str, Any], networks: Sequence[Mapping[str, Any]]) -> tuple[NoiseInterval, ...]:
    """What each network draws: its route or, of one alone, what it was trained on."""
    if "unets" not in config:
        return (NoiseInterval.from_config(networks[0].get("trained_on")),)
    edges = [0.0, *config["boundaries"], math.inf]
    return tuple(NoiseInterval((pair,)) for pair in zip(edges[:-1], edges[1:], strict=True))

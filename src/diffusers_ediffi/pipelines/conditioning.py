# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What the U-Nets of a pipeline read, as data in its configuration: so U-Nets of diffusers draw in the cascade.

A folder from a stranger runs no code for it, and every entry is checked before anything is loaded.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
import torch

from ..checks import is_number
from ..discrete_time import BETA_SETTINGS, log_sigmas, timesteps_of
from ..models.encoder_table import CLIP_IMAGE, ENCODERS, NULL_COLUMN, TEXT_ENCODERS, Encoder
from ..models.low_res import FILTERS

UNETS = ("unet", "unet_sr256", "unet_sr1024")
CLASS_LABELS = "class_labels"
NOISE = NOISE_LEVEL, NOISE_TIMESTEP = ("noise_level", "noise_timestep")
TEXT_PROJ = "text_proj."
MAX_COLUMNS = 2**14
MAX_WIDTH = 2**17
MASKS = {"clip_text": "prompt_attention_mask"}  # of a text that is read without its padding
EDIFFI_ARGUMENTS = {
    "encoder_hidden_states": "prompt_embeds",
    "encoder_hidden_states_2": "prompt_embeds_2",
    "encoder_attention_mask_2": "prompt_attention_mask_2",
    "added_cond_kwargs.text_embeds": "pooled_prompt_embeds",
    "added_cond_kwargs.image_embeds": "image_embeds",
    "class_labels": NOISE_LEVEL,
}
# What a U-Net of diffusers may be called with, beside sample and timestep.
ARGUMENTS = (
    "encoder_hidden_states",
    "encoder_attention_mask",
    "attention_mask",
    "class_labels",
    "added_cond_kwargs.text_embeds",
    "added_cond_kwargs.image_embeds",
    "text_proj.image_embeds",
    "text_proj.text_embeds",
    "text_proj.encoder_hidden_states",
)


@dataclass(frozen=True)
class UNetInputs:
    """What a U-Net is called with, beside sample and timestep, and what it sees of the stage before.

    Args:
        arguments (`Mapping`): Arguments of the U-Net, or `added_cond_kwargs.` and a name in it, and for each the
            embedding that it gets, by its name in the pipeline's call. `noise_level` is the standard deviation of the
            noise on the low-resolution image, `noise_timestep` the step of `noise_betas` with this noise;
            `class_labels` are those of the call.
        low_res_filter (`str`): Enlarges the image of the stage before, one of `FILTERS`.
        noise_betas (`Mapping`, *optional*): `BETA_SETTINGS` of noise conditioning augmentation in discrete time: the
            noisy image is brought back to the variance of the image, as sqrt(alpha_bar) does it.
        zeros (`bool`): Whether an embedding may be left out, which eDiff-I's U-Nets read as zeros.

    `text_proj.` and a name is an argument of the pipeline's `text_proj`, which returns `encoder_hidden_states` and
    `class_labels`.

    Raises:
        ValueError: An entry is none of these.
    """

    arguments: Mapping[str, str] = field(default_factory=lambda: dict(EDIFFI_ARGUMENTS))
    low_res_filter: str = "bicubic"
    noise_betas: Mapping[str, Any] | None = None
    zeros: bool = True

    def __post_init__(self) -> None:
        if self.low_res_filter not in tuple(FILTERS):
            raise ValueError(f"low_res_filter={self.low_res_filter!r} is unknown; choose from {', '.join(FILTERS)}.")
        betas = self.noise_betas
        if betas is not None and not (isinstance(betas, Mapping) and betas and set(betas) <= set(BETA_SETTINGS)):
            raise ValueError(f"noise_betas={betas!r} must hold some of {', '.join(BETA_SETTINGS)}.")
        if (NOISE_TIMESTEP in self.arguments.values()) != (betas is not None):
            raise ValueError(f"{NOISE_TIMESTEP} is a step of noise_betas: give both or neither.")
        if betas is not None:
            self._noise_steps  # noqa: B018, which refuses what are no betas

    @cached_property
    def _noise_steps(self) -> np.ndarray:
        """ln(sigma) of the steps of `noise_betas`, laid out once and not in every step of a call."""
        return log_sigmas(self.noise_betas or {})

    @property
    def has_text_proj(self) -> bool:
        """Whether embeddings pass the pipeline's `text_proj`."""
        return any(name.startswith(TEXT_PROJ) for name in self.arguments)

    @property
    def max_noise_level(self) -> float | None:
        """The highest of the noise levels of the low-resolution image that the network may be told, if it says so."""
        return None if self.noise_betas is None else math.exp(self._noise_steps[-1])

    def noise_timestep(self, noise_level: float) -> float:
        """The step of `noise_betas` with this noise; the first for less."""
        level = torch.tensor(max(noise_level, math.exp(self._noise_steps[0])), dtype=torch.float64)
        return float(timesteps_of(level, self._noise_steps))

    @property
    def embeddings(self) -> tuple[str, ...]:
        """The embeddings that the U-Net reads."""
        return tuple(source for source in self.arguments.values() if source not in (*NOISE, CLASS_LABELS))


@dataclass(frozen=True)
class Conditioning:
    """The encoders of a pipeline and what each of its U-Nets reads of them.

        >>> Conditioning.from_config(
        ...     {
        ...         "encoders": {"t5": {"columns": [0, 77], "widths": {"prompt_embeds_2": 4096}}},
        ...         "unets": {"unet": {"arguments": {"encoder_hidden_states": "prompt_embeds_2"}}},
        ...     }
        ... ).num_columns
        77

    Args:
        encoders (`Mapping`): The encoders by their names; of eDiff-I all three.
        unets (`Mapping`): What each U-Net reads, by the name of its component; others read what eDiff-I's do.
        num_columns (`int`): Columns of the context that the U-Nets attend to.
        empty_text (`bool`): Whether the unconditional model reads the encoded empty text; eDiff-I's reads zeros.
    """

    encoders: Mapping[str, Encoder] = field(default_factory=lambda: dict(ENCODERS))
    unets: Mapping[str, UNetInputs] = field(default_factory=dict)
    num_columns: int = NULL_COLUMN + 1
    empty_text: bool = False

    @classmethod
    def from_config(cls, config: Any) -> "Conditioning":
        """Reads the entry `conditioning` of a pipeline's configuration; `None` is eDiff-I's.

        Args:
            config (`dict`, *optional*): `encoders` (for each of `t5`, `clip_text` and `clip_image` that there is its
                `columns`, [first, last + 1], the `widths` of its embeddings and, for texts, `lowercase` and
                `masks_padding`), `unets` (for each component the entries of [`UNetInputs`]) and `empty_text`.

        Raises:
            ValueError: An entry is wrong; the message names it.
        """
        if config is None:
            return cls()
        _check_entries("conditioning", config, ("encoders", "unets", "empty_text"))
        listed, unets = config.get("encoders", {}), config.get("unets", {})
        _check_entries("encoders of conditioning", listed, tuple(ENCODERS))
        _check_entries("unets of conditioning", unets, UNETS)
        encoders = {name: _encoder(ENCODERS[name], entries) for name, entries in listed.items()}
        known = [name for encoder in encoders.values() for name in encoder.embeddings]
        return cls(
            encoders,
            {name: _unet_inputs(name, entries, known) for name, entries in unets.items()},
            max((encoder.columns.stop for encoder in encoders.values()), default=0),
            config.get("empty_text") is True,
        )

    def of(self, component: str) -> UNetInputs:
        """What a U-Net reads, by the name of its component."""
        return self.unets.get(component, UNetInputs())

    @property
    def text_encoders(self) -> list[Encoder]:
        """The encoders of texts, in the order of their columns."""
        names = [encoder.name for encoder in TEXT_ENCODERS]
        return sorted((e for e in self.encoders.values() if e.name in names), key=lambda e: e.columns.start)

    @property
    def clip_image(self) -> Encoder | None:
        """The encoder of pictures, if there is one."""
        return self.encoders.get(CLIP_IMAGE.name)

    @property
    def text_embeddings(self) -> tuple[str, ...]:
        """The embeddings of a text in the order of the columns; each has a negative counterpart."""
        return tuple(name for encoder in self.text_encoders for name in encoder.embeddings)


def _check_entries(name: str, config: Any, known: tuple[str, ...]) -> None:
    """Refuses what is no dictionary with some of the `known` entries."""
    if not isinstance(config, Mapping):
        raise ValueError(f"{name} is {config!r}; it must be a dictionary with some of {', '.join(known)}.")
    unknown = sorted(set(config) - set(known), key=str)
    if unknown:
        raise ValueError(f"{name} has the unknown entries {unknown!r}; there are {', '.join(known)}.")


def _encoder(encoder: Encoder, entries: Any) -> Encoder:
    """An encoder of the table with the entries of a configuration."""
    name = f"encoder {encoder.name!r} of conditioning"
    _check_entries(name, entries, ("columns", "widths", "lowercase", "masks_padding"))
    columns, widths = entries.get("columns"), entries.get("widths")
    are_columns = isinstance(columns, list | tuple) and len(columns) == 2
    if not are_columns or not all(is_number(n, Integral) for n in columns) or not 0 <= columns[0] < columns[1]:
        raise ValueError(f"{name} has columns={columns!r}; give [first, last + 1].")
    if columns[1] > MAX_COLUMNS:
        raise ValueError(f"{name} has columns={columns!r}; there are at most {MAX_COLUMNS}.")
    if not isinstance(widths, Mapping) or not widths or not set(widths) <= set(encoder.widths):
        raise ValueError(f"{name} has widths={widths!r}; give a width for some of {', '.join(encoder.widths)}.")
    for width in widths.values():
        if not is_number(width, Integral) or not 1 <= width <= MAX_WIDTH:
            raise ValueError(f"{name} has the width {width!r}; give a whole number from 1 to {MAX_WIDTH}.")
    if encoder.sequence not in widths:
        raise ValueError(f"{name} has no width of {encoder.sequence}, which fills its columns.")
    return replace(
        encoder,
        columns=slice(*columns),
        widths={embedding: widths[embedding] for embedding in encoder.widths if embedding in widths},
        mask=MASKS.get(encoder.name, encoder.mask) if entries.get("masks_padding") is True else None,
        lowercase=entries.get("lowercase") is True,
    )


def _unet_inputs(component: str, entries: Any, known: list[str]) -> UNetInputs:
    name = f"{component} of conditioning"
    _check_entries(name, entries, ("arguments", "low_res_filter", "noise_betas"))
    arguments = entries.get("arguments")
    _check_entries(f"arguments of {name}", arguments, ARGUMENTS)
    for source in arguments.values():
        sources = (*known, *NOISE, CLASS_LABELS)
        if source not in sources:
            raise ValueError(f"{name} reads {source!r}; choose from {', '.join(sources)}.")
    return UNetInputs(**entries, zeros=False)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`ExpertAdapter`: what an expert with another conditioning than its neighbours reads of the router's arguments."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from diffusers.utils import logging
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..checks import is_finite, is_number
from ..foreign_pipelines import running_pipeline
from .files import EMPTY_TEXT, expert_folder
from .guidance import check_guided

logger = logging.get_logger(__name__)

MAX_SCORE = 65504  # the largest number in float16
NO_EMPTY_TEXT = (
    "the pipeline gives zeros for an empty negative prompt, and an expert with an adapter was trained with the encoded"
    " empty text: make the adapter know it by ExpertAdapter.with_empty_text(pipe), or pass negative_prompt=''."
)


@dataclass(frozen=True)
class ExpertAdapter:
    """Maps the arguments of a router's call to those of one expert.

    It is data alone, so that it is saved with the router and a stranger's configuration runs no code.

        >>> refiner = ExpertAdapter.sdxl_refiner()
        >>> router = ExpertRouterUNet.from_unets(
        ...     [refiner_unet, base_unet], [200], unit="timestep", adapters=[refiner, None]
        ... )

    Args:
        hidden_states_columns (`(int, int)`, *optional*): First and last + 1 column of `encoder_hidden_states` that
            the expert reads.
        time_ids (sequence of `int`, *optional*): The columns of `added_cond_kwargs["time_ids"]` that it reads.
        aesthetic_score (`float`, *optional*): Appended to the time ids.
        negative_aesthetic_score (`float`, *optional*): The same for the first half of the batch, which is the
            unconditional one under guidance. Leave it out where guidance is off: a batch whose halves are not the same
            images with different texts is refused.
        empty_text (`dict` of `torch.Tensor`, *optional*): What the expert reads where the text is all zeros:
            `encoder_hidden_states` of shape (tokens, columns) and `text_embeds` (width,), see `with_empty_text`.

    Raises:
        ValueError: if an entry is not of the form that is described here.
    """

    hidden_states_columns: tuple[int, int] | None = None
    time_ids: tuple[int, ...] | None = None
    aesthetic_score: float | None = None
    negative_aesthetic_score: float | None = None
    empty_text: Mapping[str, torch.Tensor] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        columns = self.hidden_states_columns
        if columns is not None:
            if not _are_indices(columns) or len(columns) != 2 or columns[0] >= columns[1]:
                raise ValueError(f"hidden_states_columns={columns!r} must be [start, stop] with 0 <= start < stop.")
            object.__setattr__(self, "hidden_states_columns", tuple(columns))
        if self.time_ids is not None:
            if not _are_indices(self.time_ids):
                raise ValueError(f"time_ids={self.time_ids!r} must list columns, such as [0, 1, 2, 3].")
            object.__setattr__(self, "time_ids", tuple(self.time_ids))
        texts = ("encoder_hidden_states", "text_embeds")
        if self.empty_text is not None and sorted(self.empty_text) != list(texts):
            raise ValueError(f"empty_text has {sorted(self.empty_text)}; it needs {' and '.join(texts)}.")
        for name in ("aesthetic_score", "negative_aesthetic_score"):
            score = getattr(self, name)
            if score is not None and not (is_finite(score) and abs(score) <= MAX_SCORE):
                raise ValueError(f"{name}={score!r} must be a finite number, of at most {MAX_SCORE}.")
        if self.aesthetic_score is not None and self.time_ids is None:
            raise ValueError("aesthetic_score is appended to time_ids: say which columns of them to keep.")
        if self.negative_aesthetic_score is not None and self.aesthetic_score is None:
            raise ValueError("negative_aesthetic_score needs aesthetic_score: pass both.")

    @classmethod
    def sdxl_refiner(
        cls, aesthetic_score: float = 6.0, negative_aesthetic_score: float | None = 2.5
    ) -> "ExpertAdapter":
        """SDXL's refiner beside its base: the second text encoder's columns, no target size, a score instead.

        Without a negative prompt the base's pipeline gives zeros where the refiner's pipeline encodes the empty text:
        the pipeline is asked for it at the first call, or before by `with_empty_text`.
        """
        return cls((768, 2048), (0, 1, 2, 3), aesthetic_score, negative_aesthetic_score)

    @torch.no_grad()
    def with_empty_text(self, pipe: Any) -> "ExpertAdapter":
        """This adapter with what a pipeline of SDXL's kind encodes for the empty text, instead of its zeros
        (`force_zeros_for_empty_prompt`).

        Args:
            pipe (`StableDiffusionXLPipeline` or a relative): The pipeline with the text encoders.

        Raises:
            ValueError: if it is another pipeline, or what it encodes is narrower than what the expert reads.
        """
        if not isinstance(pipe, StableDiffusionXLLoraLoaderMixin):  # as all of them are
            raise ValueError(f"a {type(pipe).__name__} encodes no text as SDXL does: give SDXL's pipeline.")
        hidden_states, _, pooled, _ = pipe.encode_prompt("", do_classifier_free_guidance=False)
        if self.hidden_states_columns is not None:
            hidden_states = self._select_columns(hidden_states)
        texts = {"encoder_hidden_states": hidden_states, "text_embeds": pooled}
        return replace(self, empty_text={name: text[0].float().cpu().contiguous() for name, text in texts.items()})

    @classmethod
    def from_config(cls, config: Any) -> "ExpertAdapter":
        """The inverse of `to_config`.

        Args:
            config (`dict` or `ExpertAdapter`): The entries; an adapter is returned as it is.

        Raises:
            ValueError: if there are unknown entries, or `config` is not a `dict`.
        """
        if isinstance(config, cls):
            return config
        known = [entry.name for entry in fields(cls)]
        if not isinstance(config, dict) or set(config) - set(known):
            unknown = sorted(set(config) - set(known)) if isinstance(config, dict) else config
            raise ValueError(f"an adapter has the unknown entries {unknown!r}; there are {', '.join(known)}.")
        return cls(**{name: value for name, value in config.items() if name != "empty_text"})

    def to_config(self) -> dict[str, Any]:
        """The entries that are set, as JSON can hold them; of `empty_text`, which `save_texts` writes, that it is
        there."""
        entries = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "empty_text"}
        listed = {name: list(value) if isinstance(value, tuple) else value for name, value in entries.items()}
        flag = {} if self.empty_text is None else {"empty_text": True}
        return {name: value for name, value in listed.items() if value is not None} | flag

    def apply(self, inputs: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Makes the expert's arguments of the router's.

        Args:
            inputs (`tuple`): The positional ones: sample, timestep, encoder_hidden_states and others.
            kwargs (`dict`): The others.

        Returns:
            The same two for the expert.

        Raises:
            ValueError: if an argument that this expert reads is missing or too narrow.
        """
        sample, timestep, hidden_states, *rest = (*inputs, None) if len(inputs) == 2 else inputs
        if self.negative_aesthetic_score is not None:
            _check_guided(sample, hidden_states)
        if self.hidden_states_columns is not None:
            hidden_states = self._select_columns(hidden_states)
        if self.time_ids is not None:
            kwargs = {**kwargs, "added_cond_kwargs": self._select_added(kwargs.get("added_cond_kwargs") or {})}
        if self.empty_text is not None:
            hidden_states, kwargs = self._fill_zeros(hidden_states, kwargs)
        return (sample, timestep, hidden_states, *rest), kwargs

    def _select_columns(self, hidden_states: torch.Tensor | None) -> torch.Tensor:
        """(batch, tokens, width) -> (batch, tokens, columns that are kept)."""
        start, stop = self.hidden_states_columns or (0, 0)
        width = 0 if hidden_states is None else hidden_states.shape[-1]
        if hidden_states is None or width < stop:
            raise ValueError(f"an expert reads the columns {start} to {stop} of encoder_hidden_states {width} wide.")
        return hidden_states[..., start:stop]

    def with_text_of_caller(self, hidden_states: torch.Tensor | None) -> "ExpertAdapter":
        """This adapter with the empty text of the pipeline that runs, if it gives zeros for it and none is known yet;
        a warning where no pipeline runs.

        Args:
            hidden_states (`torch.Tensor`, *optional*): (batch, tokens, width), the unconditional half first.
        """
        if self.negative_aesthetic_score is None or self.empty_text is not None or hidden_states is None:
            return self
        if hidden_states.chunk(2)[0].any():
            return self
        pipe = running_pipeline()
        if isinstance(pipe, StableDiffusionXLLoraLoaderMixin):
            return self.with_empty_text(pipe)
        _warn_of_zeros()
        return self

    def _fill_zeros(
        self, hidden_states: torch.Tensor | None, kwargs: dict[str, Any]
    ) -> tuple[torch.Tensor | None, dict[str, Any]]:
        """Puts the encoded empty text where the text is all zeros, without waiting for the device."""
        if hidden_states is None:
            return hidden_states, kwargs
        empty = (hidden_states == 0).flatten(1).all(dim=1)
        encoded = {name: text.to(hidden_states) for name, text in (self.empty_text or {}).items()}
        text, added = encoded["encoder_hidden_states"], kwargs.get("added_cond_kwargs") or {}
        # A long prompt is encoded in parts of as many tokens.
        parts, rest = divmod(hidden_states.shape[1], len(text))
        if rest or hidden_states.shape[2] != text.shape[1]:
            raise ValueError(f"the text is {tuple(hidden_states.shape[1:])}, the empty text {tuple(text.shape)}.")
        hidden_states = torch.where(empty[:, None, None], text.repeat(parts, 1), hidden_states)
        if "text_embeds" in added:
            pooled = torch.where(empty[:, None], encoded["text_embeds"], added["text_embeds"])
            kwargs = {**kwargs, "added_cond_kwargs": {**added, "text_embeds": pooled}}
        return hidden_states, kwargs

    def _select_added(self, added: dict[str, Any]) -> dict[str, Any]:
        if "time_ids" not in added:
            raise ValueError('an expert reads added_cond_kwargs["time_ids"], which this call does not pass.')
        return {**added, "time_ids": self._select_time_ids(added["time_ids"])}

    def _select_time_ids(self, time_ids: torch.Tensor) -> torch.Tensor:
        """(batch, numbers) -> (batch, numbers that are kept and the score)."""
        columns, (batch_size, width) = list(self.time_ids or ()), time_ids.shape
        if columns and max(columns) >= width:
            raise ValueError(f"an expert reads the columns {columns} of time_ids, which have {width}.")
        time_ids = time_ids[:, columns]
        if self.aesthetic_score is None:
            return time_ids
        score = time_ids.new_full((batch_size, 1), self.aesthetic_score)
        if self.negative_aesthetic_score is not None:
            score[: batch_size // 2] = self.negative_aesthetic_score
        return torch.cat([time_ids, score], dim=1)


@functools.cache
def _warn_of_zeros() -> None:
    logger.warning(NO_EMPTY_TEXT)


def _check_guided(sample: torch.Tensor, hidden_states: torch.Tensor | None) -> None:
    """Refuses a batch whose first half is not the unconditional one."""
    remedy = "without guidance build the adapter with negative_aesthetic_score=None."
    check_guided(sample, remedy)
    if hidden_states is not None and torch.equal(*hidden_states.chunk(2)):
        raise ValueError(
            f"the halves of a batch of {len(sample)} have the same text, so that none is unconditional: {remedy}"
        )


def save_texts(adapters: Sequence[ExpertAdapter | None], folder: Path) -> None:
    """Writes the empty text of each adapter that knows it to the folder of its expert."""
    for index, adapter in enumerate(adapters):
        if adapter is not None and adapter.empty_text is not None:
            save_file(dict(adapter.empty_text), folder / expert_folder(index) / EMPTY_TEXT)


def load_adapters(configs: Sequence[Any] | None, folder: Path) -> Sequence[Any] | None:
    """The adapters of a saved configuration, with the empty texts that `save_texts` wrote.

    Raises:
        OSError: if such a file is missing or damaged.
        ValueError: if an entry is not that of an adapter.
    """
    if not isinstance(configs, list):
        return configs
    return [config and _load_adapter(config, folder / expert_folder(i)) for i, config in enumerate(configs)]


def _load_adapter(config: Any, folder: Path) -> ExpertAdapter:
    adapter, file = ExpertAdapter.from_config(config), folder / EMPTY_TEXT
    if not (isinstance(config, dict) and config.get("empty_text")):
        return adapter
    if not file.is_file():
        raise OSError(f"{file} is missing: download or copy it again.")
    try:
        return replace(adapter, empty_text=load_file(file))
    except SafetensorError as error:
        raise OSError(f"{file} is damaged or truncated ({error}): download or copy it again.") from error


def check_adapters(adapters: Sequence[Any] | None, num_experts: int) -> list[ExpertAdapter | None]:
    """The adapter of each expert, from a router's argument or its configuration.

    Raises:
        ValueError: if there is not one entry for each expert, or an entry is not an adapter.
    """
    if adapters is None:
        return [None] * num_experts
    if not isinstance(adapters, Sequence) or len(adapters) != num_experts:
        raise ValueError(f"adapters={adapters!r} must list an adapter or None for each of the {num_experts} experts.")
    return [None if adapter is None else ExpertAdapter.from_config(adapter) for adapter in adapters]


def _are_indices(values: Any) -> bool:
    return isinstance(values, Sequence) and all(is_number(value, Integral) and value >= 0 for value in values)

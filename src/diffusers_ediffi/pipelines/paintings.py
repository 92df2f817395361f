# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What `EDiffIPipeline` paints: its `regions` and `region_strength` become a [`Painting`] for each stage."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from numbers import Real
from typing import Any

from ..checks import is_number
from ..models.encoder_table import ENCODERS, NULL_COLUMN
from ..paint.paint_with_words import check_regions, check_strength
from ..paint.painting import Painting
from .prompt_schedule import PromptSchedule, scheduled_columns
from .stages import Stage


def paintings_per_stage(
    pipe: Any,
    stages: list[Stage],
    prompt: str | list[str] | None,
    regions: Any,
    strength: Any,
    schedule: PromptSchedule | None = None,
    encoders: Sequence[str] = tuple(ENCODERS),
) -> list[Painting | None]:
    """What is painted in every stage; `None` where nothing is. A bad region is refused before anything runs.

    Args:
        pipe: The pipeline, for its defaults and the columns of its text encoders.
        stages: Those that run.
        prompt, regions, strength, encoders: As in the pipeline's `__call__`.
        schedule: The prompts that follow each other, if they do.

    Raises:
        ValueError: A region, the strength or the pipeline's `region_normalizer` is wrong.
    """
    strengths = _strengths(pipe.config.default_region_strength if strength is None else strength)
    if not regions:
        return [None] * len(stages)
    if prompt is None:
        raise ValueError("regions need the prompt that their phrases stand in; pass it instead of embeddings.")
    prompts = [[one] if isinstance(one, str) else one for one in (schedule.prompts if schedule else [prompt])]
    per_prompt = check_regions(regions, len(prompts[0]))
    columns_of = partial(pipe.region_columns, encoders=encoders)
    if schedule:
        columns = scheduled_columns(prompts, per_prompt, columns_of)
    else:
        columns = [[columns_of(one, own) for one, own in zip(prompts[0], per_prompt, strict=True)]]
    for region in {region for own in per_prompt for region in own}:
        region.check_aspect(stages[-1].size, stages[-1].size)
    paintings: list[Painting | None] = []
    for one in [*strengths, 0, 0][: len(stages)]:
        # The super-resolution stages see the last prompt.
        painting = Painting(per_prompt, columns[-1 if paintings else 0], NULL_COLUMN + 1, one, pipe.region_normalizer)
        painting.scheduled_columns = columns
        paintings.append(painting)
    return paintings


def with_paintings(pipe: Any, stages: list[Stage], *args: Any) -> list[Stage]:
    """The stages with what is painted in them; the arguments are those of [`paintings_per_stage`]."""
    paintings = paintings_per_stage(pipe, stages, *args)
    return [replace(stage, painting=painting) for stage, painting in zip(stages, paintings, strict=True)]


def _strengths(strength: Any) -> Sequence[float]:
    """w' of the base and of the further stages that are painted, too."""
    strengths = [strength] if is_number(strength, Real) else strength
    if not isinstance(strengths, list | tuple) or not 1 <= len(strengths) <= 3:
        raise ValueError(f"region_strength={strength!r} must be one number, or one for each stage.")
    for one in strengths:
        check_strength("region_strength", one)
    return strengths

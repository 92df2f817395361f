# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What `EDiffIPipeline` paints: its `regions` and `region_strength` become a [`Painting`] for each stage."""

from collections.abc import Sequence
from functools import partial
from numbers import Real
from typing import Any

from ..checks import MAX_STAGES, is_number
from ..models.encoder_table import ENCODERS
from ..paint.painting import Painting
from ..paint.regions import PaintRegion, check_regions, check_strength
from .prompt_schedule import Columns, PromptSchedule, scheduled_columns
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
        pipe ([`EDiffIPipeline`]): The pipeline, for its defaults and the columns of its text encoders.
        stages (`list` of [`Stage`]): The stages that run.
        prompt, regions, strength, encoders: As in the pipeline's `__call__`.
        schedule ([`PromptSchedule`], *optional*): The prompts that follow each other, if they do.

    Raises:
        ValueError: A region, the strength or the pipeline's `region_normalizer` is wrong.
    """
    strengths = _strengths(pipe.config.default_region_strength if strength is None else strength)
    if regions is None or (isinstance(regions, list | tuple) and not regions):
        return [None] * len(stages)
    if prompt is None:
        raise ValueError("regions need the prompt that their phrases stand in; pass it instead of embeddings.")
    follow_each_other = schedule.prompts if schedule else [prompt]
    prompts = [[entry] if isinstance(entry, str) else entry for entry in follow_each_other]
    per_prompt = check_regions(regions, len(prompts[0]))
    columns = _columns(pipe, prompts, per_prompt, schedule is not None, encoders)
    for region in {region for of_prompt in per_prompt for region in of_prompt}:
        region.check_aspect(stages[-1].size, stages[-1].size)
    paintings: list[Painting | None] = []
    for stage, stage_strength in zip(stages, [*strengths, 0, 0], strict=False):
        if stage_strength and not stage.reads_text:
            raise ValueError(f"region_strength={strength!r} paints {stage.label}, which reads no text: give it 0.")
        # The super-resolution stages see the last prompt.
        first = columns[-1 if paintings else 0]
        count = pipe._conditioning.num_columns
        paintings.append(Painting(per_prompt, first, count, stage_strength, pipe.region_normalizer, columns))
    return paintings


def _columns(
    pipe: Any,
    prompts: list[list[str]],
    regions: list[list[PaintRegion]],
    is_scheduled: bool,
    encoders: Sequence[str],
) -> list[list[Columns]]:
    """The columns of every region, for each prompt that follows another and each row of the batch."""
    columns_of = partial(pipe.region_columns, encoders=encoders)
    if is_scheduled:
        return scheduled_columns(prompts, regions, columns_of)
    return [[columns_of(text, of_row) for text, of_row in zip(prompts[0], regions, strict=True)]]


def _strengths(strength: Any) -> Sequence[float]:
    """w' of the base and of the further stages that are painted, too."""
    strengths = [strength] if is_number(strength, Real) else strength
    if not isinstance(strengths, list | tuple) or not 1 <= len(strengths) <= MAX_STAGES:
        raise ValueError(f"region_strength={strength!r} must be one number, or one for each stage.")
    for value in strengths:
        check_strength("region_strength", value)
    return strengths

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Prompts that follow each other while the base stage draws (section 4, Figure 4)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..paint.regions import PaintRegion, find_phrase

Columns = list[list[int]]  # of each region's phrase


@dataclass(frozen=True)
class PromptSchedule:
    """`prompts[i]` holds from the share `shares[i]` of the steps on, until the next one does.

    Args:
        prompts: One text, or one for each row of the batch, for every entry.
        shares: 0 and then strictly increasing, at most 1.
    """

    prompts: Sequence[str | list[str]]
    shares: Sequence[float]

    def begins(self, num_timesteps: int, order: int, begin: int) -> list[int]:
        """The index in a scheduler's `timesteps` with which each prompt begins; `num_timesteps` and more is never.

        Of N steps that run, a share s is the step that is nearest to s N, the later one of two. A step is `order`
        entries of `timesteps` (Runge-Kutta stages), so that no prompt begins inside of one.

        Args:
            num_timesteps: Entries of `timesteps`.
            order: The scheduler's, network calls in a step.
            begin: The index that the run starts with, a multiple of `order`.
        """
        steps = math.ceil((num_timesteps - begin) / order)
        return [begin + order * math.floor(share * steps + 0.5) for share in self.shares]

    def begins_of_stages(self, stages: Sequence[Any], begin_index: Callable[[Any], int]) -> dict[tuple[str, int], int]:
        """The number of the prompt that begins, by the label of the stage and the index of the timestep.

        Args:
            stages: Those that run, each with its `scheduler`, whose timesteps are set.
            begin_index: Of a stage the index of the timestep that it begins with.

        Returns:
            Prompt 0 is not among them: it holds before the base stage begins.
        """
        base, scheduler = stages[0], stages[0].scheduler
        count = len(scheduler.timesteps)
        numbers = enumerate(self.begins(count, scheduler.order, begin_index(base)))
        begins = {(base.label, index): number for number, index in numbers if number and index < count}
        last = len(self.prompts) - 1
        if last and last not in begins.values():
            for stage in stages[1:]:
                if begin_index(stage) < len(stage.scheduler.timesteps):  # the first further stage that runs
                    return {**begins, (stage.label, begin_index(stage)): last}
        return begins


def scheduled_columns(
    prompts: Sequence[Sequence[str]],
    regions: Sequence[Sequence[PaintRegion]],
    columns_of: Callable[[str, Sequence[PaintRegion]], Columns],
) -> list[list[Columns]]:
    """The columns of every region, for each prompt of a schedule and each row of the batch.

    Args:
        prompts: The texts of every entry, one for each row.
        regions: Those of each row.
        columns_of: [`EDiffIPipeline.region_columns`].

    Returns:
        For each entry and row the columns of each region, none where the prompt lacks its phrase.

    Raises:
        ValueError: No prompt has the phrase of a region.
    """
    scheduled: list[list[Columns]] = [[[[] for _ in own] for own in regions] for _ in prompts]
    for row, own in enumerate(regions):
        seen: set[int] = set()
        for entry, texts in enumerate(prompts):
            held = [number for number, region in enumerate(own) if _has_phrase(texts[row], region)]
            columns = columns_of(texts[row], [own[number] for number in held])
            for number, one in zip(held, columns, strict=True):
                scheduled[entry][row][number] = one
            seen.update(held)
        for number, region in enumerate(own):
            if number not in seen:
                texts = [entry[row] for entry in prompts]
                raise ValueError(f"the phrase {region.phrase!r} is in no prompt of prompt_schedule: {texts}.")
    return scheduled


def _has_phrase(prompt: str, region: PaintRegion) -> bool:
    try:
        return bool(find_phrase(prompt, region.phrase, region.occurrence))
    except ValueError:
        return False

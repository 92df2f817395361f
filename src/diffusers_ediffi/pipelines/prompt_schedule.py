# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Prompts that follow each other while the base stage draws (section 4, Figure 4)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

from ..paint.regions import PaintRegion
from ..phrases import find_phrase

Columns = list[list[int]]  # of each region's phrase
ColumnsOf = Callable[[str, Sequence[PaintRegion]], Columns]  # in a text


@dataclass(frozen=True)
class PromptSchedule:
    """`prompts[i]` holds from the share `shares[i]` of the steps on, until the next one does.

    Args:
        prompts (`list`): For every entry one text, or a list of texts for the rows of the batch.
        shares (`list` of `float`): 0 and then strictly increasing, at most 1.
    """

    prompts: Sequence[str | list[str]]
    shares: Sequence[float]

    def begins(self, num_timesteps: int, order: int, begin: int) -> list[int]:
        """The index in a scheduler's `timesteps` with which each prompt begins; `num_timesteps` and more is never.

        Of N steps that run, a share s is the step that is nearest to s N, the later of two. A step is `order` entries
        of `timesteps` (Runge-Kutta stages), so that no prompt begins inside of a step.

        Args:
            num_timesteps (`int`): Entries of `timesteps`.
            order (`int`): Network calls in a step of the scheduler.
            begin (`int`): The index that the run starts with, a multiple of `order`.
        """
        steps = math.ceil((num_timesteps - begin) / order)
        return [begin + order * math.floor(share * steps + 0.5) for share in self.shares]

    def begins_of_stages(self, stages: Sequence[Any], begin_index: Callable[[Any], int]) -> dict[tuple[str, int], int]:
        """The number of the prompt that begins, by the label of the stage and the index of the timestep.

        Args:
            stages (`list` of [`Stage`]): The stages that run, whose timesteps are set.
            begin_index (`Callable`): Gives the index of the timestep that a stage begins with.

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
    prompts: Sequence[Sequence[str]], regions: Sequence[Sequence[PaintRegion]], columns_of: ColumnsOf
) -> list[list[Columns]]:
    """The columns of every region, for each prompt of a schedule and each row of the batch.

    Args:
        prompts (`list` of `list` of `str`): The texts of every entry, one for each row.
        regions (`list` of `list` of [`PaintRegion`]): The regions of each row.
        columns_of (`Callable`): [`EDiffIPipeline.region_columns`].

    Returns:
        For each entry and row the columns of each region, none where the prompt lacks its phrase.

    Raises:
        ValueError: No prompt has the phrase of a region.
    """
    rows = [
        _columns_of_row([entry[row] for entry in prompts], of_row, columns_of) for row, of_row in enumerate(regions)
    ]
    return [list(entry) for entry in zip(*rows, strict=True)]


def _columns_of_row(texts: Sequence[str], regions: Sequence[PaintRegion], columns_of: ColumnsOf) -> list[Columns]:
    """For one row of the batch and each text of its schedule the columns of each region."""
    scheduled = []
    for text in texts:
        present = [_has_phrase(text, region) for region in regions]
        found = iter(columns_of(text, list(compress(regions, present))))
        scheduled.append([next(found) if is_present else [] for is_present in present])
    for region in regions:
        if not any(_has_phrase(text, region) for text in texts):
            raise ValueError(f"the phrase {region.phrase!r} is in no prompt of prompt_schedule: {list(texts)}.")
    return scheduled


def _has_phrase(prompt: str, region: PaintRegion) -> bool:
    try:
        return bool(find_phrase(prompt, region.phrase, region.occurrence))
    except ValueError:
        return False

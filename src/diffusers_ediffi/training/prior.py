# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Prior preservation of DreamBooth (arXiv 2208.12242): beside the few pictures of what is new, pictures of what the
model draws already, so that it goes on drawing it."""

from typing import Any

import torch
from torch.utils.data import Dataset

from .pictures import PictureDataset

WEIGHT = "weight"  # of a sample in the loss


class PriorDataset(Dataset):
    """Pictures of what is new and of what is known, one after the other: a batch of an even number has half of each.

    An item has a `weight` beside the entries of [`PictureDataset`]. The mean over a batch of the weighted losses is
    that of diffusers' DreamBooth scripts: the mean over the new pictures plus `prior_weight` times the mean over the
    known ones.

    Args:
        instances ([`PictureDataset`]): The pictures of what is new.
        known ([`PictureDataset`]): Those of what is known, with the same settings.
        prior_weight (`float`, *optional*, defaults to 1.0): What a mistake on these counts.

    Raises:
        ValueError: The weight is negative or not finite, or the settings differ.
    """

    def __init__(self, instances: PictureDataset, known: PictureDataset, prior_weight: float = 1.0) -> None:
        if not 0 <= prior_weight < float("inf"):
            raise ValueError(f"prior_weight must be 0 or more, got {prior_weight}.")
        if instances.settings != known.settings:
            raise ValueError("The pictures of what is new and of what is known need the same PictureSettings.")
        self.instances, self.known, self.prior_weight = instances, known, prior_weight

    @property
    def num_pictures(self) -> int:
        """How many pictures of what is new there are."""
        return self.instances.num_pictures

    def describe(self) -> dict[str, Any]:
        """What decides what item i is; a resumed run must have the same."""
        prior = {"pictures": self.known.describe(), "weight": self.prior_weight}
        return {**self.instances.describe(), "prior": prior}

    def __getitem__(self, index: int) -> dict[str, Any]:
        place, is_known = divmod(index, 2)
        item = (self.known if is_known else self.instances)[place]
        # The mean over a batch divides by twice the number of either kind.
        return {**item, WEIGHT: torch.tensor(2 * self.prior_weight if is_known else 2.0)}

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Schedulers that are uploaded with a model card."""

import os
from typing import Any

from diffusers.schedulers.scheduling_utils import SchedulerMixin

from ..files.card import CardText
from ..files.hub import Model, PushToHub

SHOWN = ("sigma_min", "sigma_max", "sigma_data", "beta_schedule", "prediction_type", "method")


class SharedScheduler(PushToHub, SchedulerMixin):
    """A scheduler whose `push_to_hub` writes a model card."""

    config: Any

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Saves the configuration, see `SchedulerMixin.save_pretrained`.

        Args:
            save_directory (`str` or `os.PathLike`): The folder; made if it does not exist.
            push_to_hub (`bool`): Whether to upload it, too, with the arguments of `push_to_hub`.
            kwargs: Those arguments.

        Raises:
            OSError: The folder cannot be written, or the upload failed.
        """
        push = self._push_of(save_directory, kwargs) if push_to_hub else None
        super().save_pretrained(save_directory, **kwargs)
        if push is not None:
            push.upload_saved(save_directory)

    def _hub_model(self) -> Model:
        return Model(
            name=type(self).__name__,
            describe=self._card,
            parts=("scheduler_config.json",),
            origins={},
        )

    def _card(self, repo_id: str) -> CardText:
        name = type(self).__name__
        rows = [f"| {entry} | {self.config[entry]} |" for entry in SHOWN if self.config.get(entry) is not None]
        code = f"from diffusers_ediffi import {name}\n\npipe.scheduler = {name}.from_pretrained({repo_id!r})"
        return CardText(
            title=repo_id.split("/")[-1],
            summary="The settings of a sampler for diffusion models, of the package diffusers_ediffi.",
            usage=[("With `diffusers_ediffi` installed, for a pipeline `pipe`:", code)],
            sections={"Settings": "\n".join(["| | |", "|---|---|", *rows])},
        )

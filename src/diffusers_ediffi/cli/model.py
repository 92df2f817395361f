# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What the commands ask of a model: a pipeline from its folder or the Hub, and silence."""

import json
import sys
from pathlib import Path
from typing import Any

import diffusers.utils.logging
import huggingface_hub.utils
import transformers.utils.logging

from ..pipelines.pipeline_ediffi import EDiffIPipeline
from .interrupts import interrupts_end_it
from .messages import one_line


def load_pipeline(model: str, pipeline: type[EDiffIPipeline] = EDiffIPipeline, dtype: Any = None) -> Any:
    """Loads a pipeline, and says no more than errors from then on.

    Args:
        model (`str`): A folder or a Hub id.
        pipeline (`type`, *optional*): The class to load.
        dtype (`torch.dtype` or `dict`, *optional*): That of its components.

    Raises:
        ValueError: The files are wrong in whatever way.
    """
    quiet()
    try:
        with interrupts_end_it():
            pipe = pipeline.from_pretrained(model, dtype=dtype)
    except Exception as error:  # there is no end to the errors that damaged or foreign files raise
        raise ValueError(f"{_failure(model)}: {type(error).__name__}: {one_line(error)}") from error
    pipe.set_progress_bar_config(disable=not sys.stderr.isatty())
    return pipe


def saved_stages(model: str) -> list[tuple[int, float | None]]:
    """The size of each stage of a local folder, and the strongest noise on its input that its network knows, without
    loading anything; none of a Hub id, or where the configurations are not those of stages."""
    try:
        index = json.loads(Path(model, "model_index.json").read_bytes())
        names = [name for name in ("unet", "unet_sr256", "unet_sr1024") if index.get(name, [None])[0]]
        configs = [json.loads(Path(model, name, "config.json").read_bytes()) for name in names]
        networks = [config["unets"][0]["config"] if "unets" in config else config for config in configs]
        size, scale = networks[0]["sample_size"], index.get("sr_scale", 4)
        return [(size * scale**i, network.get("max_noise_level")) for i, network in enumerate(networks)]
    except Exception:  # loading says what is wrong with them
        return []


def _failure(model: str) -> str:
    if Path(model).is_dir():
        return f"cannot load {model!r}"
    return f"there is no folder {model!r} here, and as a Hub id it could not be loaded"


def quiet() -> None:
    """Errors only, and progress bars where somebody watches."""
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    # Loading is short; only drawing and downloads deserve a bar.
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()

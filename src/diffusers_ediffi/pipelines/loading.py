# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Loading, sharing and casting the components of `EDiffIPipeline`, where that differs from diffusers."""

import os
from typing import Any, Self

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import logging

from ..models.folders import check_folder, names_its_folder

logger = logging.get_logger(__name__)


class LoadablePipeline(DiffusionPipeline):
    """A pipeline that names a missing folder, shares its components as they are, and keeps T5 out of float16."""

    text_encoder_2: Any
    unet: Any
    unet_sr256: Any
    unet_sr1024: Any

    @classmethod
    @names_its_folder
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Self:
        """Loads a pipeline, see `DiffusionPipeline.from_pretrained`.

        Raises:
            OSError: The name is a path, which no Hub id is, and there is no such folder.
        """
        name = os.fspath(pretrained_model_name_or_path)
        is_path = isinstance(pretrained_model_name_or_path, os.PathLike) or os.path.isabs(name) or name.count("/") > 1
        if (is_path or name.startswith((".", "~"))) and not os.path.isdir(name):
            raise OSError(f"there is no folder {name!r}; pass the folder of a saved pipeline or a Hub id, org/name.")
        if os.path.isdir(name):
            check_folder(name)
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Self:
        """A pipeline of the components of another, which are shared and not copied; `kwargs` replace some.

        See `DiffusionPipeline.from_pipe`, which casts to float32 what both share; here `dtype` has to ask for it.
        """
        if not isinstance(pipeline, LoadablePipeline) or {"dtype", "torch_dtype"} & kwargs.keys():
            return super().from_pipe(pipeline, **kwargs)
        _, names = cls._get_signature_keys(cls)
        new = cls(**{**pipeline.components, **{name: pipeline.config[name] for name in names}, **kwargs})
        if "_name_or_path" in pipeline.config:
            new.register_to_config(_name_or_path=pipeline.config["_name_or_path"])
        return new

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Moves and casts all components; a T5 that would be float16 becomes bfloat16."""
        super().to(*args, **kwargs)
        keep_out_of_float16(self.text_encoder_2)
        return self

    @classmethod
    def download(cls, *args: Any, **kwargs: Any) -> str | os.PathLike:
        """Brings a pipeline from the Hub, see `DiffusionPipeline.download`."""
        folder = super().download(*args, **kwargs)
        check_folder(folder)
        return folder

    def set_attention_backend(self, backend: str) -> None:
        """Sets the attention backend of every U-Net that is loaded, such as `"native"` or `"xformers"`."""
        for unet in (self.unet, self.unet_sr256, self.unet_sr1024):
            if unet is not None:
                unet.set_attention_backend(backend)


def keep_out_of_float16(text_encoder: Any) -> None:
    """T5 has values above float16's largest; a quantised T5 computes in the type that its settings say."""
    if text_encoder is None or getattr(text_encoder, "dtype", None) != torch.float16:
        return
    if getattr(text_encoder, "quantization_method", None) is None:
        text_encoder.to(torch.bfloat16)
    else:
        logger.warning(
            "The quantised text_encoder_2 computes in float16, where T5 overflows. Load the pipeline with "
            'dtype={"default": torch.float16, "text_encoder_2": torch.bfloat16}.'
        )

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Loading, sharing and casting the components of `EDiffIPipeline`, where that differs from diffusers."""

import os
import re
from pathlib import Path
from typing import Any, Self
from weakref import WeakSet

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import logging
from transformers import PreTrainedModel

from ..experts.router import ExpertRouterUNet
from ..files import check_is_folder, saved_whole
from ..files.hub import Model, PushToHub
from ..models.folders import check_folder, names_its_folder
from ..models.unet import EDiffIUNet, align_weights
from ..models.weight_files import check_complete, check_finite, check_without_adapters, stored_names
from .card import pipeline_model

logger = logging.get_logger(__name__)

_CHECKED: WeakSet[Any] = WeakSet()  # parts of pipelines


class LoadablePipeline(PushToHub, DiffusionPipeline):
    """A pipeline that names a missing folder, shares its components as they are, keeps T5 out of float16, and goes to
    the Hub so that anybody can load it."""

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

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Saves all components, as `DiffusionPipeline.save_pretrained` does, but all of them or, after an error or a
        kill, none. A pipeline that the folder holds is replaced at the end; until then there has to be room for both.

        With `push_to_hub` the pipeline is uploaded from there, too, with the arguments of `push_to_hub` and `repo_id`,
        by default the name of the folder, which stays as it is saved.

        Raises:
            OSError: The folder cannot be written, or the upload failed.
            ValueError: A component could not be loaded again.
        """
        folder, how = Path(save_directory), {"safe_serialization": safe_serialization, "variant": variant}
        check_is_folder(folder)
        for name, component in self.components.items():
            component = getattr(component, "_orig_mod", component)  # of torch.compile
            if isinstance(component, ExpertRouterUNet):
                component.check_saving(folder / name, variant)
            elif isinstance(component, torch.nn.Module):
                check_without_adapters(component, name)
        push = self._push_of(folder, kwargs) if push_to_hub else None
        with saved_whole(folder, self.config_name, variant) as unfinished:
            flashpack = {name: kwargs.pop(name) for name in ("use_flashpack",) if name in kwargs}
            super().save_pretrained(unfinished, max_shard_size=max_shard_size, **how, **flashpack)
        if push is not None:
            push.upload_saved(folder)

    def _hub_model(self) -> Model:
        return pipeline_model(self)

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


def prepare_part(part: Any) -> None:
    """Aligns the weights of an encoder or of a network of diffusers ([`align_weights`]), and refuses one from a folder
    whose weights lack tensors, which its library fills at random, or are not finite (once for each part).

    Raises:
        OSError: It is such a part.
    """
    if not isinstance(part, torch.nn.Module) or isinstance(part, EDiffIUNet | ExpertRouterUNet):  # checked by loading
        return
    align_weights(part)
    named = getattr(part, "name_or_path", None) or getattr(part.config, "_name_or_path", None)
    folder = Path(named or "no folder")
    if part in _CHECKED or not folder.is_dir():
        return
    if getattr(part, "hf_quantizer", None) is None:
        for variant, files in _weights_by_variant(folder).items():
            check_complete(_missing(part, folder, variant, files), folder)
    check_finite(part, folder)
    _CHECKED.add(part)


def _missing(part: Any, folder: Path, variant: str | None, files: list[Path]) -> set[str]:
    """What a variant lacks. But for pickled weights names are compared first, which takes no time; the library, which
    knows names of former days, has the last word."""
    expected = set(part.state_dict()) - set(getattr(part, "all_tied_weights_keys", ()))
    try:
        if expected <= stored_names(files):
            return set()
        on_meta = {"device_map": "meta"} if isinstance(part, PreTrainedModel) else {}
        _, info = type(part).from_pretrained(folder, variant=variant, output_loading_info=True, **on_meta)
    except OSError:  # of another variant than that of the encoder, which has been read
        return set()
    return set(info["missing_keys"])


def _weights_by_variant(folder: Path) -> dict[str | None, list[Path]]:
    """The safetensors files of each variant of a model, none where its weights are pickled."""
    found: dict[str | None, list[Path]] = {}
    for path in folder.iterdir():
        match = re.fullmatch(
            r"(model|pytorch_model|diffusion_pytorch_model)(\.(?P<variant>.+?))?(-\d+-of-\d+)?\.(?P<kind>safetensors|bin)",
            path.name,
        )
        if match:
            files = found.setdefault(match["variant"], [])
            files += [path] if match["kind"] == "safetensors" else []
    return found

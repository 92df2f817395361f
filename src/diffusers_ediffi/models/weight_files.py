# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What is asked of weights when they are read from files and written to them, whichever network they belong to."""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from .turns import lock_of

_SHOWN = 5  # names in a message
# The factors of a LoRA's layer, by the names of peft, kohya and early diffusers, each to the other.
_FACTORS = {"lora_A": "lora_B", "lora_down": "lora_up", "lora.down": "lora.up"}
_FACTORS |= {other: factor for factor, other in _FACTORS.items()}
# Of the settings of a LoRA those that say where its file is.
_OF_FILES = {"cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token"}
_OF_FILES |= {"use_safetensors", "weight_name"}
_FACTOR = re.compile(r"(?P<factor>lora_[AB]|lora[_.](down|up))(?=(\.\w+)?\.weight$)")


@contextmanager
def default_dtype_kept() -> Iterator[None]:
    """Leaves torch's default type as it was: diffusers changes it while it builds a network, and forgets it there if
    that fails. One thread at a time."""
    with lock_of(torch):  # the default type is one for all threads
        before = torch.get_default_dtype()
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def check_complete(missing: Collection[str], where: Any) -> None:
    """Refuses weights that lack tensors of their network, which would stay random, or without memory.

    Args:
        missing (collection of `str`): The names of these tensors.
        where: The file or folder, for the message.

    Raises:
        OSError: There are some.
    """
    if missing:
        raise OSError(
            f"{where} lacks {_listed(missing)} of the network that its configuration describes: download or copy it "
            "again, or use the configuration that it was saved with."
        )


@torch.no_grad()
def check_finite(network: nn.Module, where: Any) -> None:
    """Refuses weights that are NaN or infinite. It reads all of them once, by sums, which cost a fifth of `isfinite`
    and no memory.

    Args:
        network (`Module`): The network; weights on the meta device, and quantised ones, are left out.
        where: The file or folder, for the message.

    Raises:
        OSError: There are some.
    """
    damaged = [name for name, tensor in network.named_parameters() if _is_plain(tensor) and not _is_finite(tensor)]
    if damaged:
        raise OSError(
            f"{where} has values that are not finite in {_listed(damaged)}: take weights of an earlier step, or "
            "download or copy it again."
        )


def read_lora(source: Any, settings: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Reads a LoRA whole, and checks it.

    Args:
        source (`str`, `PathLike` or `dict`): A Hub id, a folder, a file, or the weights.
        settings (`dict`): Those of diffusers' `load_lora_adapter`: `weight_name`, `revision`, `adapter_name`, ...

    Returns:
        Its weights, and the settings that remain for these.

    Raises:
        OSError: There is none, or [`check_lora`] refuses it.
    """
    if isinstance(source, dict):
        check_lora(source, "the LoRA")
        return source, dict(settings)
    from diffusers.loaders import StableDiffusionLoraLoaderMixin  # which takes a second

    where = {name: value for name, value in settings.items() if name in _OF_FILES}
    weights, alphas, metadata = StableDiffusionLoraLoaderMixin.lora_state_dict(
        source, return_lora_metadata=True, **where
    )
    check_lora(weights, source)
    others = {name: value for name, value in settings.items() if name not in _OF_FILES}
    return weights, {"network_alphas": alphas, "metadata": metadata, **others}


def check_lora(weights: Mapping[str, torch.Tensor], where: Any) -> None:
    """Refuses a LoRA with half a layer, whose other factor peft would make at random or leave zero, or with values
    that are not finite.

    Args:
        weights (`dict`): Its tensors.
        where: The file or folder, for the message.

    Raises:
        OSError: It is such a LoRA.
    """
    others = {_FACTOR.sub(lambda match: _FACTORS[match["factor"]], name) for name in weights if _FACTOR.search(name)}
    if others - weights.keys():
        raise OSError(f"{where} lacks {_listed(others - weights.keys())} of the LoRA: download or copy it again.")
    damaged = [name for name, tensor in weights.items() if _is_plain(tensor) and not _is_finite(tensor)]
    if damaged:
        raise OSError(f"{where} has values that are not finite in {_listed(damaged)}: download or copy it again.")


def check_without_adapters(network: Any, name: str) -> None:
    """Refuses to save a network with layers of peft, which would be written under names that do not load.

    Args:
        network (`ModelMixin`): The network.
        name (`str`): What to call it in the message.

    Raises:
        ValueError: It has some.
    """
    if hasattr(network, "lora_experts"):  # which are saved as such
        return
    adapters = list(getattr(network, "peft_config", None) or {})
    if adapters or any(hasattr(module, "lora_A") for module in network.modules()):
        raise ValueError(
            f"the adapters {adapters} are loaded: save them by save_lora_adapter; to save {name}, take them away by "
            "unload_lora() (with what they add, after fuse_lora())."
        )


def stored_names(files: Collection[Path]) -> set[str]:
    """The names of all tensors in safetensors files, from their headers.

    Raises:
        OSError: A file is damaged.
    """
    names: set[str] = set()
    for file in files:
        try:
            with safe_open(file, framework="pt") as weights:
                names.update(weights.keys())
        except SafetensorError as error:
            raise OSError(f"{file} is damaged or truncated ({error}): download or copy it again.") from error
    return names


def _is_plain(tensor: torch.Tensor) -> bool:
    return type(tensor.data) is torch.Tensor and tensor.is_floating_point() and not tensor.is_meta


def _is_finite(tensor: torch.Tensor) -> bool:
    total = tensor.sum() if tensor.element_size() > 1 else tensor.half().sum()  # float8 has no sum
    return bool(torch.isfinite(total)) or bool(torch.isfinite(tensor).all())  # a sum alone may overflow


def _listed(names: Collection[str]) -> str:
    shown, others = sorted(names)[:_SHOWN], len(names) - _SHOWN
    return ", ".join(shown) + (f" and {others} further tensors" if others > 0 else "")

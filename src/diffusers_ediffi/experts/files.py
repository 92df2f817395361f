# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A router on disk: its folders, the classes that it may name, and weights that are there and whole.

Each expert keeps its own folder and can be loaded alone by its class:

    unet/config.json             boundaries, unit, and every expert's class and config
    unet/experts[.variant].json  marks a complete variant (diffusers finds a component's variants by such a name)
    unet/expert.0/               what the expert's save_pretrained writes; expert.0 has the lowest noise
    unet/expert.1/               ...

Low-rank experts share a network: it is `unet/expert.base/`, and each folder of an expert holds its difference alone.
"""

import importlib
import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError, safe_open

from ..files import write_json, written_whole
from ..models.unet import EDiffIUNet, align_weights
from ..models.weight_files import check_complete, check_finite, default_dtype_kept

WEIGHTS = "diffusion_pytorch_model"
STORED_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
EMPTY_TEXT = "empty_text.safetensors"  # of an `ExpertAdapter`
# With a dot, as in `expert_folder`.
BASE_FOLDER = "expert.base"
# The libraries whose classes a config.json may name. It may come from a stranger, so nothing else is imported.
LIBRARIES = ("diffusers", "diffusers_ediffi")


def expert_folder(index: int) -> str:
    """The name of an expert's folder; expert 0 has the lowest noise."""
    # With a dot: diffusers parses every name in a component's folder as name.variant.
    return f"expert.{index}"


def weights_file(folder: Path, variant: str | None) -> Path:
    """The file of weights that are not sharded."""
    return folder / f"{WEIGHTS}{_dotted(variant)}.safetensors"


def network_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that describe a network, without what diffusers notes of how it was loaded."""
    return {
        name: value for name, value in config.items() if not name.startswith("_") and name != "quantization_config"
    }


def describe(index: int, expert: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a router's configuration says of an expert."""
    return {
        "folder": expert_folder(index),
        "library": type(expert).__module__.split(".")[0],
        "class_name": type(expert).__name__,
        "config": network_config(config),
    }


def expert_class(index: int, description: Mapping[str, Any]) -> Any:
    """The class that a configuration names, which may come from a stranger.

    Raises:
        ValueError: if folder, library or class are not allowed.
    """
    if not isinstance(description, Mapping) or not isinstance(description.get("config", {}), Mapping):
        raise ValueError(f"unets[{index}] of the configuration must hold folder, library, class_name and config.")
    folder, library, name = (description.get(key) for key in ("folder", "library", "class_name"))
    allowed = expert_folder(index)
    if folder != allowed:
        raise ValueError(f"the configuration puts expert {index} in {folder!r}; only {allowed!r} is allowed.")
    if library not in LIBRARIES:
        raise ValueError(f"{folder} is a {name} of {library!r}; experts come from {' or '.join(LIBRARIES)} only.")
    found = getattr(importlib.import_module(library), str(name), None)
    if not (isinstance(found, type) and issubclass(found, ModelMixin)):
        raise ValueError(f"{folder}: {library} has no model named {name!r}.")
    return found


def build_expert(index: int, description: Mapping[str, Any]) -> Any:
    """The network that a configuration describes, untrained."""
    return expert_class(index, description).from_config(description.get("config", {}))


def copy_pipeline(root: Path, output: Path, subfolder: str = "unet") -> None:
    """Copies the folder of a pipeline without its U-Net, in whose place the copy names a router.

    Args:
        root (`Path`): The pipeline.
        output (`Path`): The new folder.
        subfolder (`str`, *optional*, defaults to `"unet"`): How the pipeline names its U-Net.
    """
    index = json.loads((root / "model_index.json").read_text(encoding="utf-8"))
    output.mkdir()
    for name, value in index.items():
        if name != subfolder and isinstance(value, list) and (root / name).is_dir():
            shutil.copytree(root / name, output / name)
    write_json(output / "model_index.json", {**index, subfolder: ["diffusers_ediffi", "ExpertRouterUNet"]})


def write_marker(
    folder: Path, num_experts: int, variant: str | None, tensors: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Marks a variant of a router as complete; `tensors` are the names of those in each low-rank expert's folder,
    which nothing else tells."""
    marker: dict[str, Any] = {"experts": [expert_folder(index) for index in range(num_experts)]}
    if tensors is not None:
        marker["tensors"] = tensors
    with written_whole(folder / _marker_name(variant)) as unfinished:
        unfinished.write_text(json.dumps(marker) + "\n", encoding="utf-8")


def marked_tensors(folder: Path, variant: str | None) -> dict[str, list[str]]:
    """The names of the tensors in each low-rank expert's folder; none where a router was saved without them.

    Raises:
        ValueError: if the marker of the variant is damaged.
    """
    file = folder / _marker_name(variant)
    if not file.is_file():
        return {}
    try:
        tensors = json.loads(file.read_text(encoding="utf-8")).get("tensors", {})
        return {name: [str(tensor) for tensor in listed] for name, listed in tensors.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{file} does not list the tensors of experts ({error}): download or copy it again."
        ) from error


def check_variants(folder: Path, variant: str | None, config: Mapping[str, Any], entries: Sequence[str]) -> None:
    """Refuses to save a variant beside those of another router: they share a configuration.

    Args:
        folder (`Path`): The router's folder, which need not exist.
        variant (`str`, *optional*): The variant that is saved.
        config (`dict`): The configuration, as JSON has it.
        entries (`list` of `str`): What must not differ in it.

    Raises:
        ValueError: if the folder holds other variants, with another configuration.
    """
    others = sorted(path.name for path in folder.glob("experts*.json") if path.name != _marker_name(variant))
    if not others or not (folder / "config.json").is_file():
        return
    before = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    different = [entry for entry in entries if before.get(entry) != config.get(entry)]
    if different:
        raise ValueError(
            f"{folder} holds another variant ({', '.join(others)}) of a router that differs in "
            f"{', '.join(different)}, and variants share a configuration: save to another folder, or remove this one."
        )


def local_folder(name: str | Path, subfolder: str | None, variant: str | None, hub: dict[str, Any]) -> Path:
    """The folder of a router, which is downloaded where `name` is not a folder; `hub` goes to `snapshot_download`."""
    root = Path(name)
    if not root.is_dir():
        root = download(str(name), subfolder, variant, hub)
    return root / (subfolder or "")


def download(repo_id: str, subfolder: str | None, variant: str | None, hub: dict[str, Any]) -> Path:
    """Brings one variant of a router from the Hub, unless the cache has it.

    Raises:
        OSError: if there is no such repository, or it cannot be reached.
    """
    try:
        return Path(snapshot_download(repo_id, allow_patterns=allow_patterns(subfolder, variant), **hub))
    except HFValidationError as error:
        raise OSError(f"{repo_id} is neither a folder nor the id of a repository on the Hub.") from error


def allow_patterns(subfolder: str | None, variant: str | None) -> list[str]:
    """What one variant of a router needs of a repository."""
    start, dot = f"{subfolder}/" if subfolder else "", _dotted(variant)
    weights = [
        f"{WEIGHTS}{dot}.safetensors",
        f"{WEIGHTS}{dot}-*.safetensors",
        f"{WEIGHTS}.safetensors.index{dot}.json",
    ]
    in_expert = [f"{start}expert.*/{name}" for name in ("config.json", EMPTY_TEXT, *weights)]
    return [f"{start}config.json", f"{start}experts{dot}.json", *in_expert]


def load_experts(
    root: Path, descriptions: Sequence[Mapping[str, Any]], variant: str | None, dtype: Any, **kwargs
) -> list[Any]:
    """Loads the experts that a router's configuration describes; the arguments are those of `load_networks`."""
    classes = [expert_class(index, description) for index, description in enumerate(descriptions)]
    folders = [root / expert_folder(index) for index in range(len(classes))]
    return load_networks(classes, folders, variant, dtype, **kwargs)


def load_networks(
    classes: Sequence[Any], folders: Sequence[Path], variant: str | None, dtype: Any, **kwargs
) -> list[Any]:
    """Loads a network of each class from each folder, once the weights of all of them are known to be whole.

    Args:
        classes (`list`): The classes.
        folders (`list` of `Path`): What their `save_pretrained` wrote.
        variant (`str`, *optional*): The variant to load.
        dtype (`torch.dtype` or `"auto"`, *optional*): Type of the weights; with `"auto"` they keep the type they are
            stored in and are mapped from the file.
        kwargs: For `from_pretrained`.

    Raises:
        OSError: if a file is missing or damaged, lacks tensors, or has values that are not finite. Mapped weights are
            not read for the latter.
    """
    stored = [check_weights(folder, variant) for folder in folders]
    return [
        _load_network(*where, dtype, variant=variant, **kwargs) for where in zip(classes, folders, stored, strict=True)
    ]


def _load_network(network: Any, folder: Path, stored: torch.dtype | None, dtype: Any, **kwargs) -> Any:
    is_mapped = dtype == "auto"
    if issubclass(network, EDiffIUNet):  # which asks the same of its weights
        return network.from_pretrained(folder, dtype=stored if is_mapped else dtype, mapped=is_mapped, **kwargs)
    with default_dtype_kept():
        loaded, info = network.from_pretrained(
            folder, dtype=stored if is_mapped else dtype, output_loading_info=True, **kwargs
        )
    check_complete(info["missing_keys"], folder)
    if not is_mapped:
        align_weights(loaded)
        check_finite(loaded, folder)
    return loaded


def check_weights(folder: Path, variant: str | None) -> torch.dtype | None:
    """The type in which most weights of a folder are stored, `None` where that is not known.

    Raises:
        OSError: if there are no weights of this variant, or a file is damaged.
    """
    name = rf"{WEIGHTS}{re.escape(_dotted(variant))}(-\d{{5}}-of-\d{{5}})?\.(safetensors|bin)"
    present = sorted(path.name for path in folder.glob(f"{WEIGHTS}*"))
    files = [folder / file for file in present if re.fullmatch(name, file)]
    if not files:
        wanted = f"variant {variant!r}" if variant else "no variant"
        raise OSError(
            f"{folder} has no weights of {wanted}, only {present or 'no files at all'}: save or copy it again."
        )
    sizes: Counter[str] = Counter()
    for file in files:
        if file.suffix == ".safetensors":
            sizes.update(_sizes_by_dtype(file))
    most = max(sizes, key=lambda dtype: sizes[dtype], default=None)
    return STORED_DTYPES.get(most) if most else None


def _sizes_by_dtype(file: Path) -> Counter[str]:
    """How many numbers a safetensors file holds in each type; it reads the header alone."""
    sizes: Counter[str] = Counter()
    try:
        with safe_open(file, framework="pt") as weights:
            for key in weights.keys():
                tensor = weights.get_slice(key)
                sizes[tensor.get_dtype()] += math.prod(tensor.get_shape())
    except SafetensorError as error:
        raise OSError(f"{file} is damaged or truncated ({error}): download or copy it again.") from error
    return sizes


def _marker_name(variant: str | None) -> str:
    return f"experts{_dotted(variant)}.json"


def _dotted(variant: str | None) -> str:
    return f".{variant}" if variant else ""

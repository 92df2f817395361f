# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The weight files of a router's experts: which to download, and whether they are whole."""

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError, safe_open

WEIGHTS = "diffusion_pytorch_model"
STORED_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def expert_folder(index: int) -> str:
    """The name of an expert's folder; expert 0 has the lowest noise."""
    # With a dot: diffusers parses every name in a component's folder as name.variant.
    return f"expert.{index}"


def allow_patterns(subfolder: str | None, variant: str | None) -> list[str]:
    """What one variant of a router needs of a repository."""
    start, dot = f"{subfolder}/" if subfolder else "", f".{variant}" if variant else ""
    weights = [
        f"{WEIGHTS}{dot}.safetensors",
        f"{WEIGHTS}{dot}-*.safetensors",
        f"{WEIGHTS}.safetensors.index{dot}.json",
    ]
    in_expert = [f"{start}expert.*/{name}" for name in ("config.json", *weights)]
    return [f"{start}config.json", f"{start}experts{dot}.json", *in_expert]


def download(repo_id: str, subfolder: str | None, variant: str | None, hub: dict[str, Any]) -> Path:
    try:
        return Path(snapshot_download(repo_id, allow_patterns=allow_patterns(subfolder, variant), **hub))
    except HFValidationError as error:
        raise OSError(f"{repo_id} is neither a folder nor the id of a repository on the Hub.") from error


def check_weights(folder: Path, variant: str | None) -> torch.dtype | None:
    """Raises unless an expert's weights are there and whole; returns the type most of them are stored in."""
    name = rf"{WEIGHTS}{re.escape('.' + variant if variant else '')}(-\d{{5}}-of-\d{{5}})?\.(safetensors|bin)"
    present = sorted(path.name for path in folder.glob(f"{WEIGHTS}*"))
    files = [folder / file for file in present if re.fullmatch(name, file)]
    if not files:
        wanted = f"variant {variant!r}" if variant else "no variant"
        raise OSError(
            f"{folder} has no weights of {wanted}, only {present or 'no files at all'}: save or copy it again."
        )
    sizes: Counter[str] = Counter()
    for file in files:
        if file.suffix != ".safetensors":
            continue
        try:
            with safe_open(file, framework="pt") as weights:
                for key in weights.keys():
                    tensor = weights.get_slice(key)
                    sizes[tensor.get_dtype()] += math.prod(tensor.get_shape())
        except SafetensorError as error:
            raise OSError(f"{file} is damaged or truncated ({error}): download or copy it again.") from error
    most = max(sizes, key=lambda dtype: sizes[dtype], default=None)
    return STORED_DTYPES.get(most) if most else None

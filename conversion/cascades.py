# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Parts of pipelines of diffusers become a folder of `EDiffIPipeline`: files are copied as they are, and compared."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import safe_open
from sources import local_root, sha256
from tables import counted, table
from tqdm.auto import tqdm

from diffusers_ediffi import EDMDEISScheduler
from diffusers_ediffi.experts.files import check_weights
from diffusers_ediffi.files import write_json
from diffusers_ediffi.models.weight_files import check_complete

SIGMA_MAX = 80.0  # EDM's; above it squaredcos_cap_v2 has 9 of its 1000 steps and most of its range


@dataclass(frozen=True)
class Part:
    """A component of a pipeline of diffusers.

    Args:
        folder (`Path`): Its files.
        entry (`list` of `str`): Library and class, as model_index.json names them.
        source (`str`): The folder or Hub id of the pipeline.
    """

    folder: Path
    entry: list[str]
    source: str

    @property
    def config(self) -> dict[str, Any]:
        """What its configuration says."""
        names = ("config.json", "scheduler_config.json")
        file = next((self.folder / name for name in names if (self.folder / name).is_file()), None)
        return {} if file is None else json.loads(file.read_text(encoding="utf-8"))


Parts = dict[str, Part]


def read_parts(source: str, names: Sequence[str], variant: str | None, optional: Sequence[str] = ()) -> Parts:
    """Parts of a pipeline by their names in it.

    Raises:
        OSError: There is no such pipeline, or a part is missing.
    """
    dot = f".{variant}" if variant else ""
    files = ("*.json", "*.txt", "*.model", f"*model{dot}.safetensors", f"*model{dot}-0*.safetensors")
    patterns = [f"{name}/{file}" for name in (*names, *optional) for file in files]
    root = local_root(source, ["README.md", "model_index.json", *patterns])
    if not (root / "model_index.json").is_file():
        raise OSError(f"{source} holds no pipeline: it has no model_index.json.")
    index = json.loads((root / "model_index.json").read_text(encoding="utf-8"))
    found = {name: Part(root / name, index[name], source) for name in index if (root / name).is_dir()}
    for name in names:
        if name not in found:
            raise OSError(f"{source} has no {name}; it needs {', '.join(names)}: give the whole pipeline.")
    return {name: part for name, part in found.items() if name in (*names, *optional)}


def check_family(part: Part, expected: Mapping[str, Any], family: str) -> None:
    """Refuses a network whose configuration has other entries than those of a family.

    Raises:
        ValueError: One differs.
    """
    config = part.config
    for name, value in expected.items():
        if config.get(name) != value:
            found = f"{name}={config.get(name)!r}, not {value!r}"
            raise ValueError(f"{part.source} is not {family}: its {part.folder.name} has {found}.")


def check_network(part: Part, network_class: Any, variant: str | None) -> int:
    """The number of a network's parameters, whose files hold each of its tensors in its shape, and no other.

    Raises:
        OSError: They do not, or are damaged.
    """
    check_weights(part.folder, variant)
    with torch.device("meta"):
        expected = {name: tuple(t.shape) for name, t in network_class.from_config(part.config).state_dict().items()}
    stored: dict[str, tuple[int, ...]] = {}
    for file in weight_files(part.folder, variant):
        with safe_open(file, framework="pt") as weights:
            stored |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}
    check_complete(expected.keys() - stored.keys(), part.folder)
    for name, shape in stored.items():
        if shape != expected.get(name):
            raise OSError(
                f"{part.folder} holds {name} {shape}, where its configuration asks for {expected.get(name)}: the "
                "files are not of one network."
            )
    return sum(torch.Size(shape).numel() for shape in expected.values())


def weight_files(folder: Path, variant: str | None) -> list[Path]:
    """The safetensors files of a variant."""
    dot = f".{variant}" if variant else ""
    every = sorted(folder.glob("*.safetensors"))
    wanted = [path for path in every if fnmatch(path.name, f"*model{dot}.safetensors")]
    return wanted or [path for path in every if fnmatch(path.name, f"*model{dot}-0*.safetensors")]


def copy_parts(parts: Mapping[str, Part], output: Path, variant: str | None) -> dict[str, dict[str, str]]:
    """Copies parts under their new names, of weights one variant.

    Returns:
        For each part the SHA-256 of its weights.

    Raises:
        OSError: A part has no weights of the variant, or a file was not written as it was read.
    """
    hashes: dict[str, dict[str, str]] = {}
    for name, part in tqdm(parts.items(), desc="copying", unit="component"):
        weights = weight_files(part.folder, variant)
        others = [path for path in part.folder.iterdir() if path.is_file() and not _is_weights(path)]
        index = [path for path in part.folder.iterdir() if _is_index(path, variant)]
        (output / name).mkdir()
        for path in (*others, *index, *weights):
            shutil.copyfile(path, output / name / path.name)
        hashes[name] = {path.name: sha256(path) for path in weights}
        for path in weights:
            if sha256(output / name / path.name) != hashes[name][path.name]:
                raise OSError(f"{path.name} was not written as it was read: is the disk full or damaged?")
    return hashes


def _is_weights(path: Path) -> bool:
    return any(part in path.name for part in (".safetensors", ".bin", ".msgpack", ".onnx", ".h5"))


def _is_index(path: Path, variant: str | None) -> bool:
    """Whether a file says which shard holds which tensor, of this variant."""
    return path.name.endswith(f".safetensors.index{f'.{variant}' if variant else ''}.json")


def ediffi_scheduler(part: Part, **changes: Any) -> EDMDEISScheduler:
    """Our scheduler with the betas, the prediction and the thresholding of a scheduler of diffusers."""
    return EDMDEISScheduler.from_config(part.config, **{"sigma_max": SIGMA_MAX, **changes})


def write_index(output: Path, entries: Mapping[str, Sequence[str]], settings: Mapping[str, Any]) -> None:
    """Writes model_index.json."""
    from_ours = {"_class_name": "EDiffIPipeline", "_diffusers_version": diffusers.__version__}
    write_json(output / "model_index.json", {**from_ours, **{k: list(v) for k, v in entries.items()}, **settings})


def described(rows: Sequence[tuple[str, Part | None, int | None, str]]) -> str:
    """The table of what went where: name, part, parameters and a remark."""
    cells = []
    for name, part, count, remark in rows:
        origin = ("", "") if part is None else (part.source, part.folder.name)
        cells.append((name, "" if count is None else counted(count), *origin, remark))
    return table(("", "parameters", "from", "its part", ""), cells)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Where the checkpoints that the converters read come from: folders and repositories of the Hub, their files' hashes
and their licences."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, snapshot_download
from huggingface_hub.errors import HFValidationError
from tqdm.auto import tqdm

CHUNK = 2**24


@dataclass(frozen=True)
class Source:
    """A checkpoint on the disk.

    Args:
        name (`str`): The folder or Hub id, as the user gave it.
        folder (`Path`): Its files.
        root (`Path`): The folder or the snapshot that they were found in, with its model card.
    """

    name: str
    folder: Path
    root: Path

    @property
    def licence(self) -> str | None:
        """What the metadata of the model card says; `None` without."""
        card = self.root / "README.md"
        return ModelCard.load(card).data.get("license") if card.is_file() else None

    def description(self, files: Sequence[Path]) -> dict[str, Any]:
        """Name, licence, and the SHA-256 of the files, for the record of a conversion."""
        hashes = {path.name: sha256(path) for path in tqdm(files, desc=f"hashing {self.name}", unit="file")}
        # The name alone of a local folder: where it lay is the business of its owner.
        name = Path(self.name).resolve().name if Path(self.name).is_dir() else self.name
        return {"name": name, "license": self.licence, "sha256": hashes}


def network_source(name: str, subfolder: str, variant: str | None, revision: str | None = None) -> Source:
    """A network's folder: `name` itself, or `subfolder` of it, where `name` holds a pipeline.

    Args:
        name (`str`): A folder, or the id of a repository of the Hub.
        subfolder (`str`): Such as `unet`.
        variant (`str`, *optional*): The weights to download, such as `fp16`.
        revision (`str`, *optional*): Of a repository of the Hub.

    Raises:
        OSError: There is no such folder or repository, or it holds no network.
    """
    dot = f".{variant}" if variant else ""
    weights = [f"*{dot}.safetensors", f"*{dot}-0*.safetensors", f"*.safetensors.index{dot}.json"]
    wanted = [
        "README.md",
        "model_index.json",
        "config.json",
        *(f"{subfolder}/{part}" for part in ["config.json", *weights]),
    ]
    root = local_root(name, [*wanted, f"diffusion_pytorch_model{dot}*.safetensors*"], revision)
    for folder in (root / subfolder, root):
        if (folder / "config.json").is_file():
            return Source(name, folder, root)
    raise OSError(f"{name} holds no network: neither {subfolder}/config.json nor config.json. Give its folder.")


def local_root(name: str, patterns: Sequence[str] | None, revision: str | None = None) -> Path:
    """The folder of this name, or the snapshot of the files that match `patterns` (all files by default) of the
    repository.

    Raises:
        OSError: There is neither.
    """
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, revision=revision))
    except HFValidationError as error:
        raise OSError(f"{name} is neither a folder nor the id of a repository on the Hub.") from error


def sha256(path: Path) -> str:
    """The hash of a file, which may be larger than the memory."""
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""From pictures to a card: which metrics need what, features by files, the figures, and what they depend on."""

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from .. import __version__
from ..files import write_json
from ..training.image_folder import ImageFolder, metadata_of
from .captions import Captions
from .clip_score import CLIPScore
from .drawing import read_settings
from .feature_files import FeatureFiles, list_pictures
from .feature_network import CLIPNetwork, FeatureNetwork
from .frechet import FrechetDistance
from .kernel import CMMD, KernelDistance
from .metric import FeatureMetric
from .precision_recall import PrecisionRecall

CARD = "card.json"
METRICS = (CLIPScore.name, CMMD.name, FrechetDistance.name, KernelDistance.name, PrecisionRecall.name)
OF_CLIP = (CLIPScore.name, CMMD.name)
LIBRARIES = ("torch", "transformers", "diffusers", "accelerate", "numpy", "pillow")


class Evaluator:
    """Measures sets of pictures with the same metrics and networks.

    Args:
        metrics (`list` of `str`): Which of `METRICS`.
        feature_network ([`FeatureNetwork`], *optional*): Of `frechet_distance`, `kernel_distance` and
            `precision_recall`.
        clip ([`CLIPNetwork`], *optional*): Of `clip_score` and `cmmd`.
        reference (`str` or `os.PathLike`, *optional*): The folder of real pictures, for all but `clip_score`.
        subset_size (`int`, *optional*, defaults to 1000): Of [`KernelDistance`].
        neighbors (`int`, *optional*, defaults to 3): Of [`PrecisionRecall`].
        seed (`int`, *optional*, defaults to 0): Chooses the subsets of [`KernelDistance`].
        batch_size (`int`, *optional*, defaults to 32): Pictures that a network sees at once.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): Where the networks run.
        process (`PartialState`, *optional*): The processes that share the work.

    Raises:
        ValueError: A metric is not known, or lacks its network or the reference; the reference holds no pictures.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        feature_network: FeatureNetwork | None = None,
        clip: CLIPNetwork | None = None,
        reference: str | os.PathLike | None = None,
        *,
        subset_size: int = 1000,
        neighbors: int = 3,
        seed: int = 0,
        batch_size: int = 32,
        device: str | torch.device = "cpu",
        process: PartialState | None = None,
    ) -> None:
        self.metrics = tuple(metrics)
        self.networks = {"clip": clip, "feature_network": feature_network}
        self.reference = None if reference is None else Path(reference).expanduser()
        self.settings = {"subset_size": subset_size, "neighbors": neighbors, "seed": seed}
        self.batch_size, self.device, self.process = batch_size, torch.device(device), process
        self._new_metrics()
        self._check_inputs()
        self.real = list_pictures(self.reference) if self.reference is not None else []

    def _new_metrics(self) -> dict[str, Any]:
        """The metrics, without any features yet."""
        subset_size, neighbors, seed = self.settings.values()
        makers = (
            CLIPScore(),
            CMMD(),
            FrechetDistance(),
            KernelDistance(subset_size=subset_size, seed=seed),
            PrecisionRecall(neighbors),
        )
        return {metric.name: metric for metric in makers if metric.name in self.metrics}

    def _check_inputs(self) -> None:
        for name in self.metrics:
            if name not in METRICS:
                raise ValueError(f"There is no metric {name!r}; choose from {', '.join(METRICS)}.")
            if self.networks[_network_of(name)] is None:
                raise ValueError(f"{name} needs a {_network_of(name).replace('_', ' ')}; give one, or leave it out.")
            if name != CLIPScore.name and self.reference is None:
                raise ValueError(f"{name} compares with real pictures; give a reference folder, or leave it out.")

    def check(self, num_pictures: int, num_captions: int = 0) -> None:
        """Refuses numbers of pictures and captions of which nothing can be measured, before any are drawn.

        Raises:
            ValueError: It says what is missing.
        """
        for name, metric in self._new_metrics().items():
            if isinstance(metric, FeatureMetric):
                network = self.networks[_network_of(name)]
                assert network is not None
                metric.check(num_pictures, len(self.real), network.width)
            else:
                metric.check(num_pictures, num_captions)

    def measure(
        self,
        pictures: Sequence[Path],
        folder: str | os.PathLike,
        captions: Sequence[str] = (),
        reference_folder: str | os.PathLike | None = None,
        about: dict[str, Any] | None = None,
    ) -> dict[str, Any] | None:
        """Measures pictures and writes `card.json`.

        Args:
            pictures (`list` of `Path`): Their files.
            folder (`str` or `os.PathLike`): Where features and the card go; features that are there are not computed
                again.
            captions (`list` of `str`, *optional*): One for each picture, for `clip_score`.
            reference_folder (`str` or `os.PathLike`, *optional*): Where features of the reference go, so that several
                sets share them; in `folder` by default.
            about (`dict`, *optional*): What the card says further.

        Returns:
            The card, on the first process; on others `None`.

        Raises:
            ValueError: As of `check`; a picture cannot be read; a folder holds features of something else.
            OSError: A file cannot be written.
        """
        self.check(len(pictures), len(captions))
        folder = Path(folder)
        places = {False: folder / "features", True: Path(reference_folder or folder / "reference")}
        of_pictures = self._features(places[False], pictures, captions)
        of_real = self._features(places[True], self.real, ())
        if self.process is not None and not self.process.is_main_process:
            return None
        metrics, hashes = self._new_metrics(), {}
        for real, files in ((False, of_pictures), (True, of_real)):
            for network, of_network in files.items():
                hashes[real] = self._feed(metrics, network, of_network, real)
        results = {name: value for metric in metrics.values() for name, value in metric.compute().items()}
        card = self._card(results, pictures, hashes, about or {})
        write_json(folder / CARD, card)
        return card

    def _features(self, folder: Path, pictures: Sequence[Path], captions: Sequence[str]) -> dict[str, FeatureFiles]:
        """The files of features by each network that is needed; they are computed where they are missing."""
        compared = {_network_of(name) for name in self.metrics if name != CLIPScore.name}
        needed = compared | ({"clip"} if captions and CLIPScore.name in self.metrics else set())
        found = {}
        for key in sorted(needed) if pictures else ():
            network = self.networks[key]
            assert network is not None
            texts = captions if key == "clip" and CLIPScore.name in self.metrics else ()
            found[key] = FeatureFiles(folder / key, network.to(self.device), pictures, texts, self.batch_size)
            found[key].build(self.process)
            network.to("cpu")
        return found

    def _feed(self, metrics: dict[str, Any], network: str, files: FeatureFiles, real: bool) -> str:
        """Gives features to the metrics of a network; returns the hash of the pictures."""
        digest = hashlib.sha256()
        for tensors, hashes in files.read():
            digest.update("".join(hashes).encode())
            for name, metric in metrics.items():
                if _network_of(name) != network:
                    continue
                if isinstance(metric, FeatureMetric):
                    metric.update(tensors["features"], real)
                elif not real:
                    metric.update(tensors["features"], tensors["texts"])
        return digest.hexdigest()

    def _card(
        self, results: dict[str, float], pictures: Sequence[Path], hashes: dict[bool, str], about: dict[str, Any]
    ) -> dict[str, Any]:
        used = {_network_of(name) for name in self.metrics}
        networks = {key: network.describe() for key, network in self.networks.items() if network and key in used}
        reference = {}
        if self.reference is not None:
            name = self.reference.resolve().name
            reference = {"reference": {"name": name, "count": len(self.real), "sha256": hashes.get(True)}}
        return {
            "metrics": results,
            "pictures": {"count": len(pictures), "sha256": hashes.get(False)},
            **reference,
            **about,
            **networks,
            "settings": {**self.settings, "batch_size": self.batch_size, "device": self.device.type},
            "versions": versions(),
        }


def _network_of(metric: str) -> str:
    return "clip" if metric in OF_CLIP else "feature_network"


def versions() -> dict[str, str]:
    """Those of this package, of Python and of the libraries that figures depend on."""
    of_libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"diffusers_ediffi": __version__, "python": platform.python_version(), **of_libraries}


def evaluate(
    pictures: str | os.PathLike,
    output: str | os.PathLike,
    evaluator: Evaluator,
    captions: Captions | Sequence[str] | None = None,
) -> dict[str, Any] | None:
    """Measures the pictures of a folder.

    Args:
        pictures (`str` or `os.PathLike`): The folder; where [`draw_pictures`] drew it, the card says how.
        output (`str` or `os.PathLike`): Where features and `card.json` go.
        evaluator ([`Evaluator`]): The metrics.
        captions ([`Captions`] or `list` of `str`, *optional*): A caption for each picture in the order of their paths;
            by default those of the folder's `metadata.jsonl` or `metadata.csv`.

    Returns:
        The card, on the first process; on others `None`.

    Raises:
        ValueError: As of [`Evaluator`].
        OSError: A file cannot be written.
    """
    folder = Path(pictures).expanduser()
    paths, texts = list_pictures(folder), []
    about: dict[str, Any] = {}
    if captions is not None:
        captions = captions if isinstance(captions, Captions) else Captions(tuple(captions))
        texts = list(captions.texts)
        about["captions"] = captions.describe()
    elif metadata_of(folder) and CLIPScore.name in evaluator.metrics:
        rows = ImageFolder(folder)
        found = [rows[row] for row in range(len(rows))]
        paths, texts = [folder / picture.name for picture in found], [picture.caption for picture in found]
        silent = [picture.name for picture in found if not picture.caption]
        if silent:
            raise ValueError(f"{silent[0]} has no caption in {str(folder)!r}, which {CLIPScore.name} needs of each.")
        about["captions"] = Captions(tuple(texts)).describe()
    drawn = read_settings(folder)
    about |= {"drawn": drawn} if drawn else {}
    return evaluator.measure(paths, output, texts, about=about)

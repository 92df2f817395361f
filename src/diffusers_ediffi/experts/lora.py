# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`LoraExpert`: an expert as a low-rank difference from a base network, so that three take hardly more room than one.

A low-rank expert is a LoRA of peft for the linear layers and convolutions. What has no low rank (biases, norms,
embeddings, the null token) is small and is kept in full. Counted in parameters, three experts of `paper-table1` take
1.07 x one at rank 16, and three of `demo-base` 1.18 x one at rank 8.
"""

import json
import os
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ..files import check_is_folder, written_whole
from ..files.hub import Model, PushToHub
from ..models.weight_files import check_complete
from .card import FILE, lora_expert_model

CONFIG = "expert_config"
TENSORS = "expert_tensors"  # their names: the base does not tell which tensors an expert has
FACTORS = re.compile(r"(?P<layer>.+)\.lora_(?P<factor>[AB])\.weight")


@dataclass
class LoraExpert(PushToHub):
    """An expert as its difference from a base network. [`factorize_expert`] makes one, and so does training with
    `lora_rank`.

    Args:
        weights (`dict`): The factors as peft names and shapes them, `<layer>.lora_A.weight` and
            `<layer>.lora_B.weight`, and, under the names they have in the network, the tensors that are kept in full.
        config (`dict`): The expert's configuration; it may differ from the base's in `trained_on`.
        errors (`dict`): For each layer with factors the Frobenius norm of what they miss of the weight difference,
            relative to the difference.
        error (`float`, *optional*): The same over all these layers; `None` where it is not known.
    """

    weights: dict[str, torch.Tensor]
    config: dict[str, Any]
    errors: dict[str, float] = field(default_factory=dict)
    error: float | None = None

    @torch.no_grad()
    def merge(self, base: Any) -> Any:
        """Returns the expert as a separate U-Net, which shares no tensor with the base.

        Args:
            base (`ModelMixin`): The base network that the expert differs from.

        Raises:
            ValueError: Tensors or configuration of the expert do not fit the base.
        """
        check_fits(base, "the expert", self)
        state = {name: tensor.clone() for name, tensor in base.state_dict().items()}
        for name, tensor in self.weights.items():
            match = FACTORS.fullmatch(name)
            if match is None:
                state[name] = tensor.to(state[name])
            elif match["factor"] == "A":
                layer = match["layer"]
                weight = state[f"{layer}.weight"]
                difference = product(tensor, self.weights[factor_names(layer)[1]])
                state[f"{layer}.weight"] = weight + difference.reshape(weight.shape).to(weight)
        try:
            return _from_state(base, self.config, state)
        except (RuntimeError, ValueError) as error:
            first = str(error).splitlines()[-1].strip()
            raise ValueError(
                f"the expert's configuration is not that of its base ({first}): it is damaged, or belongs to another "
                "base."
            ) from error

    def save(self, file: str | Path) -> None:
        """Writes the expert to one safetensors file, its configuration in the header.

        Args:
            file (`str` or `Path`): Such as `expert.safetensors`; there is never half a file.
        """
        write_weights(self.weights, file, {CONFIG: json.dumps(self.config), TENSORS: json.dumps(list(self.weights))})

    @classmethod
    def load(cls, file: str | Path) -> "LoraExpert":
        """Reads what `save` wrote.

        Args:
            file (`str` or `Path`): The file.

        Raises:
            OSError: if it is missing or damaged, or lacks tensors.
            ValueError: if it does not hold an expert.
        """
        weights, metadata = _read_weights(Path(file))
        if CONFIG not in metadata:
            raise ValueError(
                f"{file} is not a low-rank expert, as LoraExpert.save writes them: its header lacks {CONFIG!r}."
            )
        check_complete(set(json.loads(metadata.get(TENSORS, "[]"))) - weights.keys(), file)
        return cls(weights, _config(metadata[CONFIG], file))

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Writes the expert to a folder, as `expert.safetensors`.

        Args:
            save_directory (`str` or `os.PathLike`): The folder; made if it does not exist.
            push_to_hub (`bool`): Whether to upload it, too, with the arguments of `push_to_hub`; `repo_id` is the name
                of the folder by default.
            kwargs: Those arguments.

        Raises:
            OSError: It cannot be written, or the upload failed.
        """
        check_is_folder(save_directory)
        push = self._push_of(save_directory, kwargs) if push_to_hub else None
        self.save(Path(save_directory) / FILE)
        if push is not None:
            push.upload_saved(save_directory)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, subfolder: str | None = None, **kwargs: Any
    ) -> "LoraExpert":
        """Reads what `save_pretrained` or `push_to_hub` wrote.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): A folder or a Hub id such as `org/name`.
            subfolder (`str`, *optional*): Where in it.
            kwargs: `revision`, `token`, `cache_dir`, `local_files_only` and `force_download`, for the Hub.

        Raises:
            OSError: It is missing or damaged.
            ValueError: It is no expert.
        """
        name = os.fspath(pretrained_model_name_or_path)
        if os.path.isdir(name):
            return cls.load(Path(name) / (subfolder or "") / FILE)
        try:
            return cls.load(hf_hub_download(name, FILE, subfolder=subfolder, **kwargs))
        except HFValidationError as error:
            raise OSError(f"{name} is neither a folder nor the id of a repository on the Hub.") from error

    def _hub_model(self) -> Model:
        return lora_expert_model(self)


def _config(text: str, file: str | Path) -> dict[str, Any]:
    """The configuration in a file's header."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the {CONFIG} in the header of {file} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"the {CONFIG} in the header of {file} is {config!r}, not a configuration.")
    return config


def write_weights(weights: dict[str, torch.Tensor], file: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Writes tensors to a safetensors file, whole or not at all."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    with written_whole(file) as unfinished:
        save_file(tensors, unfinished, metadata={"format": "pt", **(metadata or {})})


def _read_weights(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a safetensors file and its metadata."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist: give the safetensors file of a low-rank expert.")
    try:
        with safe_open(file, "pt") as content:
            return {name: content.get_tensor(name) for name in content.keys()}, content.metadata() or {}
    except SafetensorError as error:
        raise OSError(f"{file} is damaged ({error}): copy it again.") from error


def factor_names(layer: str) -> tuple[str, str]:
    """How peft names the factors of a layer's difference B A: first A, which reads the layer's input, then B."""
    return f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"


def lora_layers(unet: Any) -> dict[str, Any]:
    """The layers that get factors. peft has none for grouped convolutions of any rank."""
    return {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    }


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The difference that two factors make, as a matrix (out, in * h * w)."""
    return b.float().flatten(1) @ a.float().flatten(1)


def without_adapters(unet: Any) -> Any:
    """The network without layers of peft; it shares the tensors."""
    state = {
        name.replace(".base_layer.", "."): tensor for name, tensor in unet.state_dict().items() if ".lora_" not in name
    }
    return _from_state(unet, unet.config, state)


def _from_state(like: Any, config: Any, state: dict[str, torch.Tensor]) -> Any:
    """A network of these very tensors: nothing is copied or drawn at random."""
    with init_empty_weights():
        unet = type(like).from_config(dict(config))
    unet.load_state_dict(state, assign=True)
    return unet.train(like.training)


def inject(unet: Any, adapter: str, weights: dict[str, torch.Tensor]) -> None:
    """Adds an adapter of peft with these factors; each layer may have another rank, and all have the scale 1."""
    from peft import LoraConfig, inject_adapter_in_model

    factors = {name: tensor for name, tensor in weights.items() if FACTORS.fullmatch(name)}
    ranks = {name.removesuffix(".lora_A.weight"): len(a) for name, a in factors.items() if ".lora_A." in name}
    if not ranks:
        return
    pattern, most = {f"^{re.escape(layer)}": rank for layer, rank in ranks.items()}, max(ranks.values())
    config = LoraConfig(
        r=most, lora_alpha=most, rank_pattern=pattern, alpha_pattern=dict(pattern), target_modules=list(ranks)
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # one adapter for each expert is meant
        inject_adapter_in_model(config, unet, adapter, state_dict=factors)
    for name, tensor in factors.items():
        layer, factor, _ = name.rsplit(".", 2)
        getattr(unet.get_submodule(layer), factor)[adapter].weight.data.copy_(tensor)


def check_fits(base: Any, who: str, expert: LoraExpert) -> None:
    """Raises unless every tensor of an expert has its place in the base, and every factor its partner."""
    if not isinstance(expert, LoraExpert):
        raise TypeError(f"{who} is a {type(expert).__name__}, not a LoraExpert: make one with factorize_expert.")
    state, layers = base.state_dict(), lora_layers(base)
    for name in expert.weights:
        fault = _fault(name, expert.weights, state, layers)
        if fault:
            raise ValueError(f"{who} has {name}{fault}: it is damaged, or belongs to another base.")


def _fault(
    name: str, weights: dict[str, torch.Tensor], state: dict[str, torch.Tensor], layers: dict[str, Any]
) -> str | None:
    """What is wrong with a tensor of an expert; `state` and `layers` are the base's."""
    tensor, match = weights[name], FACTORS.fullmatch(name)
    if name not in state if match is None else match["layer"] not in layers:
        return ", which the base has no place for"
    if match is None:
        fits = tensor.shape == state[name].shape
    else:
        a, b = (weights.get(factor) for factor in factor_names(match["layer"]))
        if a is None or b is None:
            return " without its other factor"
        fits = _factors_fit(layers[match["layer"]].weight.shape, a.shape, b.shape)
    if not fits:
        return f" of shape {tuple(tensor.shape)}, which does not fit"
    return None if torch.isfinite(tensor).all() else " with values that are not finite"


def _factors_fit(weight: torch.Size, a: torch.Size, b: torch.Size) -> bool:
    rank, kernel_of_b = a[0] if a else 0, (1,) * (len(weight) - 2)
    return rank > 0 and a == (rank, *weight[1:]) and b == (weight[0], rank, *kernel_of_b)

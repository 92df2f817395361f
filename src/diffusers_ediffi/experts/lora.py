# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Experts as low-rank differences from one base network, so that three take hardly more room than one.

A low-rank expert is a LoRA of peft for the linear layers and convolutions. What has no low rank (biases, norms,
embeddings, the null token) is small and is kept in full. Counted in parameters, three experts of `paper-table1` take
1.07 x one at rank 16, and three of `demo-base` 1.18 x one at rank 8.
"""

import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.utils import is_peft_available
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from ..checks import is_number
from ..files import written_whole
from .files import BASE_FOLDER, check_weights, expert_class, expert_folder, load_networks, network_config, weights_file

CONFIG = "expert_config"
FACTORS = re.compile(r"(?P<layer>.+)\.lora_(?P<factor>[AB])\.weight")


@dataclass
class LoraExpert:
    """An expert as its difference from a base network. [`factorize_expert`] makes one, and so does training with
    `lora_rank`.

    Args:
        weights (`dict`): The factors as peft names and shapes them, `<layer>.lora_A.weight` and
            `<layer>.lora_B.weight`, and, under their own names, the tensors that are kept in full.
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
        """Returns the expert as a U-Net of its own, which shares no tensor with the base.

        Args:
            base (`ModelMixin`): The base network that the expert differs from.
        """
        _check_fits(base, "the expert", self)
        state = {name: tensor.clone() for name, tensor in base.state_dict().items()}
        for name, tensor in self.weights.items():
            match = FACTORS.fullmatch(name)
            if match is None:
                state[name] = tensor.to(state[name])
            elif match["factor"] == "A":
                weight = state[f"{match['layer']}.weight"]
                difference = _product(tensor, self.weights[f"{match['layer']}.lora_B.weight"])
                state[f"{match['layer']}.weight"] = weight + difference.reshape(weight.shape).to(weight)
        return _from_state(base, self.config, state)

    def save(self, file: str | Path) -> None:
        """Writes the expert to one safetensors file, its configuration in the header.

        Args:
            file (`str` or `Path`): Such as `expert.safetensors`; there is never half a file.
        """
        weights = {name: tensor.detach().contiguous() for name, tensor in self.weights.items()}
        with written_whole(file) as unfinished:
            save_file(weights, unfinished, metadata={"format": "pt", CONFIG: json.dumps(self.config)})

    @classmethod
    def load(cls, file: str | Path) -> "LoraExpert":
        """Reads what `save` wrote.

        Args:
            file (`str` or `Path`): The file.

        Raises:
            OSError: if it is missing or damaged.
            ValueError: if it does not hold an expert.
        """
        if not Path(file).is_file():
            raise FileNotFoundError(f"{file} does not exist: give the safetensors file of a low-rank expert.")
        try:
            with safe_open(file, "pt") as content:
                metadata = content.metadata() or {}
                weights = {name: content.get_tensor(name) for name in content.keys()}
        except SafetensorError as error:
            raise OSError(f"{file} is damaged ({error}): copy it again.") from error
        if CONFIG not in metadata:
            raise ValueError(
                f"{file} is no low-rank expert, which LoraExpert.save writes: its header lacks {CONFIG!r}."
            )
        return cls(weights, json.loads(metadata[CONFIG]))


@torch.no_grad()
def factorize_expert(base: Any, expert: Any, rank: int) -> LoraExpert:
    """Writes a full expert as a low-rank difference from a base, by truncated singular value decomposition.

        >>> experts = [factorize_expert(base, expert, rank=16) for expert in (low, middle, high)]
        >>> [expert.error for expert in experts]  # of the weight differences; 0 is exact
        >>> router = ExpertRouterUNet.from_lora_experts(base, experts, boundaries=[0.0757, 9.61])

    Linear layers and convolutions become factors of this rank; layers that are too small for it get their full rank
    and are exact. All other tensors that differ from the base's are copied.

    Args:
        base (`ModelMixin`): The network that is shared.
        expert (`ModelMixin`): A network of the same architecture, most often trained from `base`.
        rank (`int`): The rank of the differences.

    Raises:
        ValueError: if the architectures differ, rank is no positive whole number, or a weight is not finite.
    """
    if not is_number(rank, Integral) or rank < 1:
        raise ValueError(f"rank={rank!r} must be a whole number of at least 1.")
    _check_same_architecture(base, expert)
    before, layers = base.state_dict(), lora_layers(base)
    _warn_of_useless(rank, layers)
    weights, errors, missed, whole = {}, {}, 0.0, 0.0
    for name, tensor in expert.state_dict().items():
        difference = tensor.float() - before[name].to(tensor.device).float()
        if not torch.isfinite(difference).all():
            raise ValueError(f"{name} of the base or the expert is not finite: repair or load that model again.")
        size, layer = float(difference.norm()), name.removesuffix(".weight")
        if size == 0:
            continue
        if name == layer or layer not in layers:
            weights[name] = tensor.clone()
            continue
        a, b = (factor.to(tensor.dtype) for factor in _truncated_svd(difference, rank))
        weights |= {f"{layer}.lora_A.weight": a, f"{layer}.lora_B.weight": b}
        miss = float((difference.flatten(1) - _product(a, b)).norm())
        errors[layer] = miss / size
        missed, whole = missed + miss**2, whole + size**2
    return LoraExpert(weights, network_config(expert.config), errors, math.sqrt(missed / whole) if whole else 0.0)


class LoraExperts:
    """The low-rank experts of one network, which becomes the selected one in place. [`ExpertRouterUNet`] selects.

    Everything is held inside the layers it belongs to, so that it moves and is cast with them: the factors as peft's
    adapters, each tensor in full as a buffer that `state_dict` leaves out.

    Args:
        unet (`ModelMixin`): The base. It is taken over and its parameters are frozen.
        experts (`list` of `LoraExpert`): The experts.

    Raises:
        ImportError: if peft is not installed.
        ValueError: if an expert does not fit the base, or the base already has adapters.
    """

    def __init__(self, unet: Any, experts: Sequence[LoraExpert]):
        if not is_peft_available():
            raise ImportError("low-rank experts need peft: pip install peft.")
        if getattr(unet, "peft_config", None):
            raise ValueError(f"the base has the adapters {list(unet.peft_config)}: fuse or unload them first.")
        for i, expert in enumerate(experts):
            _check_fits(unet, expert_folder(i), expert)
        self.unet = unet
        self.configs = [expert.config for expert in experts]
        self._selected: int | None = None
        self._trainable = [parameter for parameter in unet.parameters() if parameter.requires_grad]
        names = {name for expert in experts for name in expert.weights if not FACTORS.fullmatch(name)}
        self._places = {name: _place(unet, name) for name in sorted(names)}
        for name, (module, attribute) in self._places.items():
            tensor = getattr(module, attribute).detach()
            module.register_buffer(f"{attribute}_base", tensor.clone(), persistent=False)
            for i, expert in enumerate(experts):
                if name in expert.weights:
                    own = expert.weights[name].to(tensor, copy=True)
                    module.register_buffer(f"{attribute}_{_adapter(i)}", own, persistent=False)
        for i, expert in enumerate(experts):
            inject(unet, _adapter(i), expert.weights)
        unet.requires_grad_(False)
        self._activate([])
        unet.lora_experts = self

    @torch.no_grad()
    def select(self, index: int | None) -> None:
        """Turns the network into expert `index`, or with `None` into the base."""
        if index == self._selected:
            return
        for module, attribute in self._places.values():
            tensor = getattr(module, attribute)
            if tensor.is_meta:
                raise ValueError(
                    "low-rank experts cannot be switched under sequential offload: use enable_model_cpu_offload() or "
                    "enable_group_offload()."
                )
            base = getattr(module, f"{attribute}_base")
            tensor.copy_(base if index is None else getattr(module, f"{attribute}_{_adapter(index)}", base))
        self._activate([] if index is None else [_adapter(index)])
        self._selected = index

    def _activate(self, adapters: list[str]) -> None:
        for layer in self.unet.modules():
            if hasattr(layer, "lora_A"):
                layer.set_adapter(adapters)
                layer.requires_grad_(False)

    def as_unets(self) -> list[Any]:
        """The network once for each expert, as [`ExpertRouterUNet`] takes them."""
        return [self.unet] * len(self.configs)

    def detach(self) -> None:
        """Turns the network back into the base and takes everything away that the experts added."""
        self.select(None)
        for name, layer in list(self.unet.named_modules()):
            if hasattr(layer, "lora_A"):
                setattr(*_place(self.unet, name), layer.base_layer)
        for module, attribute in self._places.values():
            for name in [name for name in module._buffers if name.startswith(f"{attribute}_")]:
                delattr(module, name)
        for parameter in self._trainable:
            parameter.requires_grad_()
        self.unet.__dict__.pop("peft_config", None)
        del self.unet.lora_experts

    def base(self) -> Any:
        """The base as it came, without layers of peft; it shares the tensors."""
        self.select(None)
        return without_adapters(self.unet)

    def expert(self, index: int) -> LoraExpert:
        """Expert `index` as it was given."""
        weights, adapter = {}, _adapter(index)
        for layer, module in self.unet.named_modules():
            if adapter in getattr(module, "lora_A", ()):
                weights[f"{layer}.lora_A.weight"] = module.lora_A[adapter].weight.detach()
                weights[f"{layer}.lora_B.weight"] = module.lora_B[adapter].weight.detach()
        for name, (module, attribute) in self._places.items():
            if hasattr(module, f"{attribute}_{adapter}"):
                weights[name] = getattr(module, f"{attribute}_{adapter}")
        return LoraExpert(weights, self.configs[index])

    def save(self, folder: Path, variant: str | None, is_main_process: bool = True, **kwargs) -> None:
        """Writes the base to `expert.base` and each expert's difference to `expert.<n>`."""
        self.base().save_pretrained(folder / BASE_FOLDER, is_main_process, variant=variant, **kwargs)
        for i in range(len(self.configs) if is_main_process else 0):
            file = weights_file(folder / expert_folder(i), variant)
            file.parent.mkdir(parents=True, exist_ok=True)
            weights = {name: tensor.contiguous() for name, tensor in self.expert(i).weights.items()}
            save_file(weights, file, metadata={"format": "pt"})


def load_shared(
    root: Path, descriptions: Sequence[Mapping[str, Any]], variant: str | None, dtype: Any, **kwargs
) -> list[Any]:
    """Loads what `LoraExperts.save` wrote: the network once for each expert. The arguments are those of
    `load_networks`.

    Raises:
        OSError: if a file is missing or damaged.
        ValueError: if the router's configuration describes experts of several classes.
    """
    classes = [expert_class(index, description) for index, description in enumerate(descriptions)]
    experts = _load_differences(root, descriptions, variant)
    base = load_networks(classes[:1], [root / BASE_FOLDER], variant, dtype, **kwargs)[0]
    return LoraExperts(base, experts).as_unets()


def _load_differences(
    folder: Path, descriptions: Sequence[Mapping[str, Any]], variant: str | None
) -> list[LoraExpert]:
    """Reads safetensors alone, which hold no code."""
    classes = sorted({f"{description['library']}.{description['class_name']}" for description in descriptions})
    if len(classes) > 1:
        raise ValueError(f"experts that share a base are of one class, the configuration names {', '.join(classes)}.")
    experts = []
    for i, description in enumerate(descriptions):
        check_weights(folder / expert_folder(i), variant)
        weights = load_file(weights_file(folder / expert_folder(i), variant))
        experts.append(LoraExpert(weights, description.get("config", {})))
    return experts


def shared_by(unets: Sequence[Any]) -> LoraExperts | None:
    """The low-rank experts that a list of U-Nets stands for, `None` where these are plain.

    Raises:
        ValueError: if it stands for some of them only.
    """
    shared = next((unet.lora_experts for unet in unets if hasattr(unet, "lora_experts")), None)
    if shared is not None and (len(unets) != len(shared.configs) or any(u is not shared.unet for u in unets)):
        raise ValueError(
            f"{len(unets)} experts hold a network of {len(shared.configs)} low-rank experts: build the router with "
            "from_lora_experts, or make full experts with LoraExpert.merge."
        )
    return shared


def _adapter(index: int) -> str:
    return f"expert_{index}"


def lora_layers(unet: Any) -> dict[str, Any]:
    """The layers that get factors. peft has none for grouped convolutions of any rank."""
    return {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    }


def _place(unet: Any, name: str) -> tuple[nn.Module, str]:
    module, _, attribute = name.rpartition(".")
    return unet.get_submodule(module), attribute


def _truncated_svd(difference: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, in) -> (rank, in), (out, rank); (out, in, h, w) -> (rank, in, h, w), (out, rank, 1, 1)."""
    u, s, v = torch.linalg.svd(difference.flatten(1), full_matrices=False)
    rank = min(rank, len(s))
    root = s[:rank].sqrt()
    a, b = root[:, None] * v[:rank], u[:, :rank] * root
    kernel = difference.shape[2:]
    return a.reshape(rank, -1, *kernel).contiguous(), b.reshape(-1, rank, *[1] * len(kernel)).contiguous()


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
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
    """Adds an adapter of peft with these factors; every layer has its own rank, and a scale of 1."""
    from peft import LoraConfig, inject_adapter_in_model

    factors = {name: tensor for name, tensor in weights.items() if FACTORS.fullmatch(name)}
    ranks = {name.removesuffix(".lora_A.weight"): len(a) for name, a in factors.items() if ".lora_A." in name}
    if not ranks:
        return
    pattern = {f"^{re.escape(layer)}": rank for layer, rank in ranks.items()}
    most = max(ranks.values())
    config = LoraConfig(
        r=most, lora_alpha=most, rank_pattern=pattern, alpha_pattern=dict(pattern), target_modules=list(ranks)
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # one adapter for each expert is meant
        inject_adapter_in_model(config, unet, adapter, state_dict=factors)
    for layer in ranks:
        module = unet.get_submodule(layer)
        for factor in "AB":
            parameter = getattr(module, f"lora_{factor}")[adapter].weight
            parameter.data.copy_(factors[f"{layer}.lora_{factor}.weight"])


# --- refusals ---


def _warn_of_useless(rank: int, layers: dict[str, Any]) -> None:
    full = max(min(layer.weight.flatten(1).shape) for layer in layers.values())
    if rank > full:
        warnings.warn(
            f"rank={rank} is more than any layer has ({full}): every difference is stored in its full rank, which "
            "takes more room than the expert itself. Choose a smaller rank.",
            stacklevel=3,
        )


def _check_same_architecture(base: Any, expert: Any) -> None:
    if type(base) is not type(expert):
        raise ValueError(f"the base is a {type(base).__name__} and the expert a {type(expert).__name__}.")
    one, other = network_config(base.config), network_config(expert.config)
    for name in sorted((one.keys() | other.keys()) - {"trained_on"}):
        if one.get(name) != other.get(name):
            raise ValueError(
                f"the base has {name}={one.get(name)!r} and the expert {other.get(name)!r}: a difference needs two "
                "networks of the same architecture."
            )
    for name, unet in (("base", base), ("expert", expert)):
        if getattr(unet, "peft_config", None):
            raise ValueError(f"the {name} has the adapters {list(unet.peft_config)}: fuse or unload them first.")


def _check_fits(base: Any, who: str, expert: LoraExpert) -> None:
    """Raises unless every tensor of an expert has its place in the base, and every factor its partner."""
    if not isinstance(expert, LoraExpert):
        raise TypeError(f"{who} is a {type(expert).__name__}, not a LoraExpert: make one with factorize_expert.")
    state, layers = base.state_dict(), lora_layers(base)
    remedy = "it is damaged, or belongs to another base."
    for name, tensor in expert.weights.items():
        match = FACTORS.fullmatch(name)
        if (match is None and name not in state) or (match is not None and match["layer"] not in layers):
            raise ValueError(f"{who} has {name}, which the base has no place for: {remedy}")
        if match is None:
            fits = tensor.shape == state[name].shape
        else:
            a, b = (expert.weights.get(f"{match['layer']}.lora_{factor}.weight") for factor in "AB")
            if a is None or b is None:
                raise ValueError(f"{who} has {name} without its other factor: {remedy}")
            fits = _factors_fit(layers[match["layer"]].weight.shape, a.shape, b.shape)
        if not fits:
            raise ValueError(f"{who} has {name} of shape {tuple(tensor.shape)}, which does not fit: {remedy}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{who} has {name} with values that are not finite: {remedy}")


def _factors_fit(weight: torch.Size, a: torch.Size, b: torch.Size) -> bool:
    rank, ones = a[0] if a else 0, (1,) * (len(weight) - 2)
    return rank > 0 and a == (rank, *weight[1:]) and b == (weight[0], rank, *ones)

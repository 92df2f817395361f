# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`LoraExperts`: one network that turns into each of its low-rank experts in place."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import is_peft_available
from safetensors.torch import load_file
from torch import nn

from ..models.turns import lock_of
from ..models.weight_files import check_complete
from .files import BASE_FOLDER, check_weights, expert_class, expert_folder, load_networks, marked_tensors, weights_file
from .lora import FACTORS, LoraExpert, check_fits, factor_names, inject, without_adapters, write_weights


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
            check_fits(unet, expert_folder(i), expert)
        self.unet = unet
        self.configs = [expert.config for expert in experts]
        self._selected: int | None = None
        self._trainable = [parameter for parameter in unet.parameters() if parameter.requires_grad]
        names = {name for expert in experts for name in expert.weights if not FACTORS.fullmatch(name)}
        self._places = {name: _place(unet, name) for name in sorted(names)}
        self._hold_in_full(experts)
        for i, expert in enumerate(experts):
            inject(unet, _adapter(i), expert.weights)
        unet.requires_grad_(False)
        self._activate([])
        unet.lora_experts = self

    def _hold_in_full(self, experts: Sequence[LoraExpert]) -> None:
        """Puts every tensor that has no low rank beside the parameter that it replaces, and the base's as well."""
        for name, (module, attribute) in self._places.items():
            tensor = getattr(module, attribute).detach()
            module.register_buffer(f"{attribute}_base", tensor.clone(), persistent=False)
            for i, expert in enumerate(experts):
                if name in expert.weights:
                    replacement = expert.weights[name].to(tensor, copy=True)
                    module.register_buffer(f"{attribute}_{_adapter(i)}", replacement, persistent=False)

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
        """The base as it was given, without layers of peft; it shares the tensors."""
        self.select(None)
        return without_adapters(self.unet)

    def expert(self, index: int) -> LoraExpert:
        """Expert `index` as it was given."""
        adapter = _adapter(index)
        weights: dict[str, torch.Tensor] = {}
        for layer, module in self.unet.named_modules():
            if adapter in getattr(module, "lora_A", ()):
                factors = (module.lora_A[adapter].weight.detach(), module.lora_B[adapter].weight.detach())
                weights |= zip(factor_names(layer), factors, strict=True)
        for name, (module, attribute) in self._places.items():
            if hasattr(module, f"{attribute}_{adapter}"):
                weights[name] = getattr(module, f"{attribute}_{adapter}")
        return LoraExpert(weights, self.configs[index])

    def tensor_names(self) -> dict[str, list[str]]:
        """The names of each expert's tensors, by its folder."""
        return {expert_folder(i): sorted(self.expert(i).weights) for i in range(len(self.configs))}

    def save(self, folder: Path, variant: str | None, **kwargs) -> None:
        """Writes the base to `expert.base` and each expert's difference to `expert.<n>`."""
        with lock_of(self):  # no thread that draws turns the network meanwhile
            self.base().save_pretrained(folder / BASE_FOLDER, variant=variant, **kwargs)
        for i in range(len(self.configs)):
            write_weights(self.expert(i).weights, weights_file(folder / expert_folder(i), variant))


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
    experts, names = [], marked_tensors(folder, variant)
    for i, description in enumerate(descriptions):
        check_weights(folder / expert_folder(i), variant)
        file = weights_file(folder / expert_folder(i), variant)
        weights = load_file(file)
        check_complete(set(names.get(expert_folder(i), ())) - weights.keys(), file)
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


def _place(unet: Any, name: str) -> tuple[nn.Module, str]:
    module, _, attribute = name.rpartition(".")
    return unet.get_submodule(module), attribute

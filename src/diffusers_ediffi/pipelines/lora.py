# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""LoRA in the U-Nets of the cascade, by the methods that diffusers' pipelines have for it."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.loaders.lora_base import LoraBaseMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..models.weight_files import check_lora

UNETS = ("unet", "unet_sr256", "unet_sr1024")
Layers = dict[str, torch.Tensor] | torch.nn.Module | None


class LoraPipeline(LoraBaseMixin, DiffusionPipeline):
    """Loads, weighs, fuses and saves LoRAs of the U-Nets, whose names their weights begin with.

    A LoRA goes into all experts of an [`ExpertRouterUNet`], unless its `loading_into` says which.

        >>> pipe.load_lora_weights("org/comic-style", adapter_name="comic")
        >>> pipe.set_adapters("comic", 0.7)
    """

    @property
    def _lora_loadable_modules(self) -> list[str]:  # type: ignore[override]
        """The U-Nets with adapters; to the others nothing is to be done."""
        return [name for name in UNETS if getattr(getattr(self, name, None), "peft_config", None)]

    def load_lora_weights(  # type: ignore[override]
        self,
        pretrained_model_name_or_path_or_dict: str | os.PathLike | dict[str, torch.Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Loads a LoRA into the U-Nets that it is for.

        Args:
            pretrained_model_name_or_path_or_dict (`str`, `os.PathLike` or `dict`): What `save_lora_weights` wrote: a
                Hub id, a folder, a file, or the weights.
            adapter_name (`str`, *optional*): Its name; `default_0` and so on by default.
            hotswap (`bool`): Whether to replace the adapter of this name in place.
            kwargs: `weight_name`, `subfolder`, `revision`, ... as in diffusers.

        Raises:
            OSError: Weights are missing or not finite; then no U-Net is changed.
            ValueError: A weight is not that of a LoRA, or belongs to no U-Net that is loaded; then none is changed.
        """
        low_cpu_mem_usage = kwargs.pop("low_cpu_mem_usage", False)
        state_dict, alphas, metadata = StableDiffusionLoraLoaderMixin.lora_state_dict(
            pretrained_model_name_or_path_or_dict, return_lora_metadata=True, **kwargs
        )
        names = self._unets_of(state_dict)
        is_dict = isinstance(pretrained_model_name_or_path_or_dict, dict)
        check_lora(state_dict, "the LoRA" if is_dict else pretrained_model_name_or_path_or_dict)
        settings: dict[str, Any] = {"network_alphas": alphas, "low_cpu_mem_usage": low_cpu_mem_usage}
        settings |= {"metadata": metadata, "_pipeline": self, "adapter_name": adapter_name or self._free_name()}
        done: list[str] = []
        try:
            for name in names:
                getattr(self, name).load_lora_adapter(state_dict, prefix=name, hotswap=hotswap, **settings)
                done.append(name)
        except Exception:
            for name in [] if hotswap else done:
                getattr(self, name).delete_adapters(settings["adapter_name"])
            raise

    def _unets_of(self, state_dict: dict[str, torch.Tensor]) -> list[str]:
        """The U-Nets that a LoRA is for."""
        loaded = [name for name in UNETS if getattr(self, name, None) is not None]
        for key in state_dict:
            if "lora" not in key:
                raise ValueError(
                    f"{key} is no weight of a LoRA and would be lost. An expert that a training run saved as a "
                    "difference is loaded by LoraExpert.load, for ExpertRouterUNet.from_lora_experts."
                )
            if key.split(".")[0] not in loaded:
                raise ValueError(
                    f"the LoRA has {key}, which is for none of the loaded {', '.join(loaded)}; load a LoRA without "
                    "these names by pipe.unet.load_lora_adapter(..., prefix=None)."
                )
        return [name for name in loaded if any(key.startswith(f"{name}.") for key in state_dict)]

    def _free_name(self) -> str:
        taken = {name for names in self.get_list_adapters().values() for name in names}
        return next(name for name in (f"default_{i}" for i in range(len(taken) + 1)) if name not in taken)

    @classmethod
    def save_lora_weights(  # type: ignore[override]
        cls,
        save_directory: str | os.PathLike,
        unet_lora_layers: Layers = None,
        unet_sr256_lora_layers: Layers = None,
        unet_sr1024_lora_layers: Layers = None,
        **kwargs: Any,
    ) -> None:
        """Saves LoRAs to one file, which `load_lora_weights` reads.

        Args:
            save_directory (`str` or `os.PathLike`): The folder; made if it does not exist.
            unet_lora_layers, unet_sr256_lora_layers, unet_sr1024_lora_layers (`dict`, *optional*): What peft's
                `get_peft_model_state_dict` gives of each U-Net.
            kwargs: `is_main_process`, `weight_name`, `save_function` and `safe_serialization`, as in diffusers.
        """
        given = (unet_lora_layers, unet_sr256_lora_layers, unet_sr1024_lora_layers)
        layers = {name: weights for name, weights in zip(UNETS, given, strict=True) if weights}
        if not layers:
            raise ValueError("there is no LoRA to save: pass unet_lora_layers, or those of unet_sr256 or unet_sr1024.")
        cls._save_lora_weights(save_directory, layers, {}, **kwargs)

    def set_adapters(self, adapter_names: list[str] | str, adapter_weights: Any = None) -> None:
        """Activates adapters, and no others, in the U-Nets that have them.

        Args:
            adapter_names (`str` or `list` of `str`): Their names.
            adapter_weights (`float`, `dict` or `list` of them, *optional*): A weight for each, or one for all; a
                dictionary has a weight for each U-Net.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        weights = adapter_weights if isinstance(adapter_weights, list) else [adapter_weights] * len(names)
        if len(names) != len(weights):
            raise ValueError(f"{len(names)} adapters and {len(weights)} weights: pass one weight for each.")
        for unet, pairs in self._by_unet(names, weights):
            chosen = [weight.get(unet) if isinstance(weight, dict) else weight for _, weight in pairs]
            getattr(self, unet).set_adapters([name for name, _ in pairs], chosen)

    def delete_adapters(self, adapter_names: list[str] | str) -> None:
        """Deletes adapters from every U-Net."""
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        for unet, pairs in self._by_unet(names, names):
            if pairs:
                getattr(self, unet).delete_adapters([name for name, _ in pairs])

    def _by_unet(self, names: Sequence[str], values: Sequence[Any]) -> list[tuple[str, list[tuple[str, Any]]]]:
        """For every U-Net with adapters those of `names` that it has, each with its value."""
        known = self.get_list_adapters()
        missing = [name for name in names if not any(name in present for present in known.values())]
        if missing:
            raise ValueError(f"no U-Net has the adapters {missing}; loaded are {known}.")
        pairs = list(zip(names, values, strict=True))
        return [(unet, [pair for pair in pairs if pair[0] in present]) for unet, present in known.items()]

    def get_active_adapters(self) -> list[str]:
        """The adapters that are active in any U-Net."""
        active: list[str] = []
        for unet, present in self.get_list_adapters().items():
            found = getattr(self, unet).active_adapters()
            active += [name for name in ([found] if isinstance(found, str) else found) if name in present]
        return list(dict.fromkeys(active))

    def fuse_lora(self, components: list[str] | None = None, *args: Any, **kwargs: Any) -> None:
        """Merges the active adapters into the weights, of every U-Net that has some by default; see diffusers."""
        super().fuse_lora(self._with_adapters(components), *args, **kwargs)

    def unfuse_lora(self, components: list[str] | None = None, **kwargs: Any) -> None:
        """Undoes `fuse_lora`."""
        super().unfuse_lora(self._with_adapters(components), **kwargs)

    def _with_adapters(self, components: list[str] | None) -> list[str]:
        chosen = self._lora_loadable_modules if components is None else components
        if not chosen:
            raise ValueError("no LoRA is loaded: load one by load_lora_weights.")
        return chosen

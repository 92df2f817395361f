# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What pipelines of diffusers and their loaders (LoRA, IP-Adapter) ask of a U-Net, answered by a router's experts."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.hooks.group_offloading import _maybe_remove_and_reapply_group_offloading
from diffusers.loaders import PeftAdapterMixin
from torch import nn

from .files import expert_folder


class UNetInterfaceMixin(PeftAdapterMixin):
    """Answers for all experts. A LoRA or IP-Adapter goes into all of them, unless `experts=` or `loading_into` says
    which.

    Methods of peft that are not overridden here (`disable_lora`, `unfuse_lora`, ...) work on layers, wherever these
    are.
    """

    experts: Any
    _lead: int  # the expert whose arguments pipelines prepare
    _loads_into: list[int] | None = None

    @property
    def add_embedding(self) -> nn.Module:
        """As `config`; a pipeline reads it to learn the width of its inputs."""
        return self.experts[self._lead].add_embedding

    @property
    def down_blocks(self) -> nn.ModuleList:
        """As `config`; a pipeline reads it to learn which blocks an IP-Adapter's scales are for."""
        return self.experts[self._lead].down_blocks

    @property
    def up_blocks(self) -> nn.ModuleList:
        """As `down_blocks`."""
        return self.experts[self._lead].up_blocks

    @property
    def attn_processors(self) -> dict[str, Any]:
        """All attention processors, by names such as `mid_block.attentions.0.experts.1.attn2.processor`: the start
        (the block) and the end (the kind of attention) by which pipelines know them are those of the expert."""
        return {
            _processor_name(name, i): processor
            for i, expert in enumerate(self.experts)
            for name, processor in expert.attn_processors.items()
        }

    def set_attn_processor(self, processor: Any) -> None:
        """Sets one processor everywhere, or a `dict` of them with the names of `attn_processors`."""
        for i, expert in enumerate(self.experts):
            chosen = processor
            if isinstance(processor, dict):
                names = {name: _processor_name(name, i) for name in expert.attn_processors}
                chosen = {name: processor[full_name] for name, full_name in names.items() if full_name in processor}
            expert.set_attn_processor(chosen)

    def set_attention_backend(self, backend: str) -> None:
        """Sets the attention backend of every expert."""
        for expert in self.experts:
            expert.set_attention_backend(backend)

    def enable_xformers_memory_efficient_attention(self, attention_op=None) -> None:
        """Lets every expert compute its attention with xformers."""
        for expert in self.experts:
            expert.enable_xformers_memory_efficient_attention(attention_op)

    def set_default_attn_processor(self) -> None:
        """Gives every expert the attention processors it was made with."""
        for expert in self.experts:
            expert.set_default_attn_processor()

    def set_attention_slice(self, slice_size: str | int | list[int] = "auto") -> None:
        """Computes the attention of every expert in slices, to save memory."""
        for expert in self.experts:
            expert.set_attention_slice(slice_size)

    def enable_freeu(self, s1: float, s2: float, b1: float, b2: float) -> None:
        """Turns FreeU on in every expert."""
        for expert in self.experts:
            expert.enable_freeu(s1, s2, b1, b2)

    def disable_freeu(self) -> None:
        """Turns FreeU off in every expert."""
        for expert in self.experts:
            expert.disable_freeu()

    @contextmanager
    def loading_into(self, experts: Sequence[int]) -> Iterator[None]:
        """Limits what a pipeline loads in a `with` block, be it LoRA or IP-Adapter, to some of the experts.

            >>> with pipe.unet.loading_into([0]):
            ...     pipe.load_lora_weights("org/fine-details", adapter_name="details")

        Args:
            experts (`list` of `int`): Their indices; 0 has the lowest noise.
        """
        before, self._loads_into = self._loads_into, self._check_indices(experts)
        try:
            yield
        finally:
            self._loads_into = before

    def _check_indices(self, experts: Sequence[int]) -> list[int]:
        known = range(len(self.experts))
        listed = isinstance(experts, Sequence) and not isinstance(experts, str)
        if not listed or not experts or any(type(index) is not int or index not in known for index in experts):
            raise ValueError(f"experts={experts!r} must list indices from 0 to {len(known) - 1}, as in experts=[0].")
        return list(experts)

    def _chosen(self, experts: Sequence[int] | None = None) -> list[Any]:
        """The experts to load into, each once: one U-Net may serve as several of them."""
        indices = self._loads_into if experts is None else self._check_indices(experts)
        chosen = [self.experts[index] for index in (range(len(self.experts)) if indices is None else indices)]
        return list({id(expert): expert for expert in chosen}.values())

    @property
    def peft_config(self) -> dict[str, Any]:
        """The configuration of every adapter that is loaded into any expert; no attribute while there is none."""
        configs = {name: config for expert in self.experts for name, config in _adapters_of(expert).items()}
        if not configs:
            raise AttributeError("no adapter is loaded")
        return configs

    @property
    def _hf_peft_config_loaded(self) -> bool:
        return hasattr(self, "peft_config")

    def load_lora_adapter(
        self,
        pretrained_model_name_or_path_or_dict: str | os.PathLike | dict[str, torch.Tensor],
        prefix: str | None = "transformer",
        hotswap: bool = False,
        experts: Sequence[int] | None = None,
        adapter_name: str | None = None,
        _pipeline: Any = None,
        **kwargs,
    ) -> None:
        """Loads one LoRA into all experts. `pipe.load_lora_weights` comes here.

        Args:
            pretrained_model_name_or_path_or_dict (`str`, `os.PathLike` or `dict`): The LoRA.
            prefix (`str`, *optional*): Only keys that begin with it are read; `unet` in LoRAs of pipelines.
            hotswap (`bool`): Whether to replace the adapter of this name in place, in the experts that have it.
            experts (`list` of `int`, *optional*): Indices of the experts to load into; all by default, or those of
                `loading_into`.
            adapter_name (`str`, *optional*): Its name; `default_0` and so on by default.
            kwargs: As in diffusers.

        Raises:
            ValueError: if an expert takes no LoRA, or has one of this name; then none is changed.
        """
        chosen = self._chosen(experts)
        for expert in chosen:
            _check_takes(expert, PeftAdapterMixin, "LoRA")
        if hotswap:
            chosen = [expert for expert in chosen if adapter_name in _adapters_of(expert)] or chosen
        adapter_name = _name_for(adapter_name, chosen, hotswap)
        source = pretrained_model_name_or_path_or_dict
        with _offloading_paused(self, _pipeline):
            _load_into_each(chosen, source, prefix, hotswap, adapter_name=adapter_name, **kwargs)

    def save_lora_adapter(self, save_directory: str | os.PathLike, adapter_name: str = "default", **kwargs) -> None:
        """Saves the adapter of every expert that has it, to the folder `expert.<index>` of each."""
        self._check_names([adapter_name])
        for index, expert in enumerate(self.experts):
            if adapter_name in _adapters_of(expert):
                expert.save_lora_adapter(Path(save_directory) / expert_folder(index), adapter_name, **kwargs)

    def add_adapter(self, adapter_config: Any, adapter_name: str = "default") -> None:
        """Adds a new adapter for training to all experts, or to those of `loading_into`."""
        for expert in self._chosen():
            _check_takes(expert, PeftAdapterMixin, "LoRA")
            expert.add_adapter(adapter_config, adapter_name)

    def set_adapters(self, adapter_names: list[str] | str, weights: Any = None) -> None:
        """Activates adapters in every expert that has them, and no others.

        Args:
            adapter_names (`str` or `list` of `str`): Their names.
            weights (`float`, `dict` or `list` of them, *optional*): Their weights, as in diffusers.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        weights = weights if isinstance(weights, list) else [weights] * len(names)
        if len(weights) != len(names):
            raise ValueError(f"{len(names)} adapters and {len(weights)} weights: pass one weight for each.")
        self._check_names(names)
        for expert in self._chosen(range(len(self.experts))):
            present = _adapters_of(expert)
            pairs = [(name, weight) for name, weight in zip(names, weights, strict=True) if name in present]
            if present:
                expert.set_adapters([name for name, _ in pairs], [weight for _, weight in pairs])

    def set_adapter(self, adapter_name: str | list[str]) -> None:
        """Activates adapters with weight 1, for training."""
        names = [adapter_name] if isinstance(adapter_name, str) else adapter_name
        self._check_names(names)
        for expert in self._chosen(range(len(self.experts))):
            present = _adapters_of(expert)
            if present:
                expert.set_adapter([name for name in names if name in present])

    def delete_adapters(self, adapter_names: list[str] | str) -> None:
        """Deletes adapters from all experts."""
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        self._check_names(names)
        for expert in self._chosen(range(len(self.experts))):
            expert.delete_adapters([name for name in names if name in _adapters_of(expert)])

    def unload_lora(self) -> None:
        """Removes all adapters and their layers from all experts."""
        for expert in self._chosen(range(len(self.experts))):
            if _adapters_of(expert):
                expert.unload_lora()

    def fuse_lora(self, *args, **kwargs) -> None:
        """Merges the active adapters into the weights of every expert that has some; the arguments are diffusers'."""
        for expert in self._chosen(range(len(self.experts))):
            _check_takes(expert, nn.Module, "LoRA")
        super().fuse_lora(*args, **kwargs)

    def enable_lora_hotswap(self, **kwargs) -> None:
        """Prepares every expert for `hotswap=True`."""
        for expert in self._chosen():
            expert.enable_lora_hotswap(**kwargs)

    def _check_names(self, names: Sequence[str]) -> None:
        known = getattr(self, "peft_config", {})
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"no expert has the adapters {unknown}; loaded are {list(known)}.")

    @property
    def encoder_hid_proj(self) -> nn.Module | None:
        """That of the first expert with an IP-Adapter, as a pipeline reads it to learn how many images there are."""
        projections = [getattr(expert, "encoder_hid_proj", None) for expert in self.experts]
        with_images = [projection for projection in projections if hasattr(projection, "image_projection_layers")]
        return [*with_images, *projections][0]

    @encoder_hid_proj.setter
    def encoder_hid_proj(self, value: None) -> None:
        # `unload_ip_adapter` sets None here, and in a copy of the configuration that no expert sees
        for expert in self._chosen(range(len(self.experts))):
            if hasattr(getattr(expert, "encoder_hid_proj", None), "image_projection_layers"):
                expert.encoder_hid_proj = value
                expert.config.encoder_hid_dim_type = None

    def _load_ip_adapter_weights(self, state_dicts: Any, **kwargs) -> None:
        chosen = self._chosen()
        for expert in chosen:
            _check_takes(expert, "_load_ip_adapter_weights", "IP-Adapter")
        for expert in chosen:
            expert._load_ip_adapter_weights(state_dicts, **kwargs)

    def _load_ip_adapter_loras(self, state_dicts: Any) -> dict[int, dict[str, torch.Tensor]]:
        """The LoRAs that come with an IP-Adapter; their keys are those of one expert."""
        return self._chosen()[0]._load_ip_adapter_loras(state_dicts)


def _processor_name(name: str, index: int) -> str:
    """`mid_block.attentions.0.attn2.processor` -> `mid_block.attentions.0.experts.<index>.attn2.processor`."""
    block, attention, processor = name.rsplit(".", 2)
    return f"{block}.experts.{index}.{attention}.{processor}"


def _adapters_of(expert: Any) -> dict[str, Any]:
    # Those of low-rank experts belong to the router.
    return {} if hasattr(expert, "lora_experts") else getattr(expert, "peft_config", {})


def _check_takes(expert: Any, needed: Any, what: str) -> None:
    if hasattr(expert, "lora_experts") and what == "LoRA":
        raise ValueError("low-rank experts take no further LoRA: make full experts of them by LoraExpert.merge.")
    takes = hasattr(expert, needed) if isinstance(needed, str) else isinstance(expert, needed)
    if not takes:
        raise ValueError(f"a {type(expert).__name__} takes no {what}: load into the other experts by loading_into.")


def _name_for(adapter_name: str | None, experts: Sequence[Any], hotswap: bool) -> str:
    """The name of an adapter that is to be loaded into these experts: as given, or the first free `default_0`, ..."""
    taken = [name for expert in experts for name in _adapters_of(expert)]
    if adapter_name in taken and not hotswap:
        raise ValueError(f"adapter_name={adapter_name!r} is in use in an expert: choose another name.")
    names = (f"default_{number}" for number in range(len(taken) + 1))
    return adapter_name or next(name for name in names if name not in taken)


def _load_into_each(experts: Sequence[Any], source: Any, prefix: str | None, hotswap: bool, **kwargs) -> None:
    """Loads a LoRA into all experts, or after an error into none."""
    done: list[Any] = []
    try:
        for expert in experts:
            # With the same tensors the experts would share them.
            weights = {key: value.clone() for key, value in source.items()} if isinstance(source, dict) else source
            expert.load_lora_adapter(weights, prefix, hotswap, **kwargs)
            done.append(expert)
    except Exception:
        for expert in [] if hotswap else done:
            expert.delete_adapters(kwargs["adapter_name"])
        raise


@contextmanager
def _offloading_paused(router: UNetInterfaceMixin, pipeline: Any) -> Iterator[None]:
    """Takes a pipeline's offloading away while layers are added, and puts it back with them."""
    model_offload, sequential_offload, group_offload = router._optionally_disable_offloading(pipeline)
    try:
        yield
    finally:
        if model_offload:
            pipeline.enable_model_cpu_offload(device=pipeline._offload_device)
        elif sequential_offload:
            pipeline.enable_sequential_cpu_offload(device=pipeline._offload_device)
        elif group_offload:
            for expert in router._chosen(range(len(router.experts))):
                _maybe_remove_and_reapply_group_offloading(expert)

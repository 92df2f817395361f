# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What pipelines of diffusers and their loaders (LoRA, IP-Adapter) ask of a U-Net, answered by a router's experts."""

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.hooks.group_offloading import _maybe_remove_and_reapply_group_offloading
from diffusers.loaders import PeftAdapterMixin
from torch import nn

from ..models.weight_files import read_lora
from .files import expert_folder
from .parts import BLOCKS, LentParts


class UNetInterfaceMixin(PeftAdapterMixin, ModelMixin):
    """Answers for all experts. A LoRA or IP-Adapter goes into all of them, unless `experts=` or `loading_into` says
    which.

    What is not said here is asked of the experts: their methods (`enable_freeu`, `fuse_qkv_projections`, ...) are
    called on every expert; their parts and settings (`down_blocks`, `add_embedding`, ...), by which a pipeline
    prepares its arguments, are those of the expert that `config` is taken from. Methods of peft (`disable_lora`,
    `unfuse_lora`, ...) work on layers, wherever these are. Blocks that are changed in one expert only are refused at
    the next call, see [`LentParts`].
    """

    experts: Any
    _lead: int  # the expert whose arguments pipelines prepare
    _loads_into: list[int] | None = None
    _lent: LentParts | None = None  # since blocks were handed out, until the next call

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            experts = self.__dict__.get("_modules", {}).get("experts")
            if not experts or name.startswith("_") or hasattr(type(self), name):
                raise
            asked = [expert for expert in (experts[self._lead], *experts) if hasattr(expert, name)]
            if not asked:
                raise
        found = getattr(asked[0], name)
        if name in BLOCKS and self._lent is None:
            self._lent = LentParts(experts)
        return self._on_every_expert(name) if inspect.ismethod(found) else found

    def _on_every_expert(self, name: str) -> Callable[..., None]:
        """The method of this name of all experts that have it."""

        def call(*args, **kwargs) -> None:
            for expert in self._chosen(range(len(self.experts))):
                if hasattr(expert, name):
                    getattr(expert, name)(*args, **kwargs)

        return call

    def _check_lent_parts(self) -> None:
        if self._lent is not None:
            self._lent.check(self.experts)
            self._lent = None

    @property
    def is_quantized(self) -> bool:
        """Whether an expert is; diffusers then refuses to cast the model."""
        return any(getattr(expert, "is_quantized", False) for expert in self.experts)

    @property
    def hf_device_map(self) -> dict[str, Any]:
        """The devices over which the experts are spread; no attribute where none is."""
        maps = [getattr(expert, "hf_device_map", {}) for expert in self.experts]
        if not any(maps):
            raise AttributeError("no expert was loaded with a device_map")
        places = [(f"experts.{i}.{name}", place) for i, names in enumerate(maps) for name, place in names.items()]
        return {name.rstrip("."): place for name, place in places}

    def dequantize(self) -> None:
        """Dequantizes every expert that is quantised."""
        if not self.is_quantized:
            super().dequantize()  # says so
        for expert in self._chosen(range(len(self.experts))):
            if getattr(expert, "is_quantized", False):
                expert.dequantize()

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

    @property
    def save_attn_procs(self) -> Callable[..., None]:
        """Saves the attention processors of Custom Diffusion, to the folder `expert.<index>` of each expert."""
        return self._by_folder("save_attn_procs")

    @property
    def load_attn_procs(self) -> Callable[..., None]:
        """Loads the attention processors of Custom Diffusion, which `save_attn_procs` of a router or of a single U-Net
        wrote."""
        return self._by_folder("load_attn_procs")

    def _by_folder(self, name: str) -> Callable[..., None]:
        """A method that reads or writes a folder, for all experts; no attribute where they have none."""
        getattr(self.experts[self._lead], name)

        def call(source: Any, *args, **kwargs) -> None:
            for index, expert in enumerate(self.experts):
                folder = None if isinstance(source, dict) else Path(source) / expert_folder(index)
                of_expert = folder is not None and (name.startswith("save") or folder.is_dir())
                getattr(expert, name)(str(folder) if of_expert else source, *args, **kwargs)

        return call

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
        return [self.experts[index] for index in self._chosen_indices(experts)]

    def _chosen_indices(self, experts: Sequence[int] | None = None) -> list[int]:
        self._lent = None  # what the router changes in some of them is meant
        indices = self._loads_into if experts is None else self._check_indices(experts)
        indices = list(range(len(self.experts))) if indices is None else indices
        return list({id(self.experts[index]): index for index in reversed(indices)}.values())[::-1]

    def active_adapters(self) -> list[str]:
        """The adapters that are active in any expert."""
        if not self._hf_peft_config_loaded:
            return super().active_adapters()  # says so
        names = [expert.active_adapters() for expert in self.experts if _adapters_of(expert)]
        listed = [name for active in names for name in ([active] if isinstance(active, str) else active or ())]
        return [name for name in dict.fromkeys(listed) if name in self.peft_config]

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
        """Loads one LoRA into all experts, or the LoRA of each expert. `pipe.load_lora_weights` comes here.

        Args:
            pretrained_model_name_or_path_or_dict (`str`, `os.PathLike` or `dict`): The LoRA; or what
                `save_lora_adapter` wrote, or weights named `experts.<index>...`, each of which goes to its expert.
            prefix (`str`, *optional*): Only keys that begin with it are read; `unet` in LoRAs of pipelines.
            hotswap (`bool`): Whether to replace the adapter of this name in place, in the experts that have it.
            experts (`list` of `int`, *optional*): Indices of the experts to load into; all by default, or those of
                `loading_into`.
            adapter_name (`str`, *optional*): Its name; `default_0` and so on by default.
            kwargs: As in diffusers.

        Raises:
            OSError: if weights are missing or not finite; then no expert is changed.
            ValueError: if an expert takes no LoRA, or has one of this name; then none is changed.
        """
        source = pretrained_model_name_or_path_or_dict
        chosen = {index: self.experts[index] for index in self._chosen_indices(experts)}
        for expert in chosen.values():
            _check_takes(expert, PeftAdapterMixin, "LoRA")
        if not _has_folders(source, len(self.experts)):
            source, kwargs = read_lora(source, kwargs)
        sources = {index: _lora_of_expert(source, prefix, index, len(self.experts)) for index in chosen}
        pairs = [
            (chosen[index], read_lora(of_expert, kwargs))
            for index, of_expert in sources.items()
            if of_expert is not None
        ]
        if hotswap:
            pairs = [pair for pair in pairs if adapter_name in _adapters_of(pair[0])] or pairs
        adapter_name = _name_for(adapter_name, [expert for expert, _ in pairs], hotswap)
        with _offloading_paused(self, _pipeline):
            _load_into_each(pairs, prefix, hotswap, adapter_name)

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
            if _adapters_of(expert):
                # All names, and layers pass over those that they lack: a pipeline's `get_active_adapters` asks one.
                expert.set_adapters(names, weights)

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
                before = getattr(expert, "text_encoder_hid_proj", None)
                expert.encoder_hid_proj = before
                expert.config.encoder_hid_dim_type = None if before is None else "text_proj"

    @property
    def text_encoder_hid_proj(self) -> None:
        """What an IP-Adapter took the place of in a network with a projection for its text (Kolors); `None`, as
        `encoder_hid_proj` puts that of every expert back."""

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


def _has_folders(source: Any, num_experts: int) -> bool:
    """Whether a LoRA is a folder with one for each expert, or for some."""
    names = [] if isinstance(source, dict) else [expert_folder(index) for index in range(num_experts)]
    return any(Path(source, name).is_dir() for name in names)


def _lora_of_expert(source: Any, prefix: str | None, index: int, num_experts: int) -> Any:
    """What of a LoRA an expert loads: its weights or folder, where each expert has its own, `None` where there are
    none for it; else all weights."""
    if not isinstance(source, dict):
        folder = Path(source) / expert_folder(index)
        return folder if folder.is_dir() else None
    start = f"{prefix}." if prefix else ""
    known = tuple(f"{start}experts.{i}." for i in range(num_experts))
    if not any(key.startswith(f"{start}experts.") for key in source):
        # With the same tensors the experts would share them.
        return {key: value.clone() for key, value in source.items()}
    unknown = [key for key in source if key.startswith(start) and not key.startswith(known)]
    if unknown:
        raise ValueError(f"the LoRA has {unknown[0]}, which belongs to none of the {num_experts} experts.")
    weights = {key.replace(known[index], start, 1): source[key] for key in source if key.startswith(known[index])}
    return weights or None


def _load_into_each(
    pairs: Sequence[tuple[Any, tuple[Any, dict[str, Any]]]], prefix: str | None, hotswap: bool, name: str
) -> None:
    """Loads into each expert its weights of a LoRA, with their settings, or after an error into none."""
    done: list[Any] = []
    try:
        for expert, (weights, settings) in pairs:
            expert.load_lora_adapter(weights, prefix, hotswap, adapter_name=name, **settings)
            done.append(expert)
    except Exception:
        for expert in [] if hotswap else done:
            expert.delete_adapters(name)
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

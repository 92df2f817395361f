# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`ExpertRouterUNet`: an ensemble of expert denoisers (section 4.1) behind the call of one U-Net."""

import json
import reprlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from threading import get_ident
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, FrozenDict, register_to_config
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import nn

from ..checks import as_float
from ..discrete_time import betas_of
from ..files import check_is_folder, saved_whole
from ..files.hub import Model, PushToHub
from ..models.folders import check_counts, check_folder, names_its_folder
from ..models.turns import lock_of
from ..models.weight_files import check_without_adapters
from .adapter import check_adapters, load_adapters, save_texts
from .card import router_model
from .files import (
    build_expert,
    check_variants,
    describe,
    expert_class,
    expert_folder,
    load_experts,
    local_folder,
    network_config,
    write_marker,
)
from .guidance import NOT_RESCALED, ExpertGuidance, check_guided, rescale
from .lora import LoraExpert
from .offload import ExpertOffload, OffloadMixin, call_where_it_lives, execution_device
from .routes import Routes, check_boundaries
from .shared_base import LoraExperts, load_shared, shared_by
from .unet_interface import UNetInterfaceMixin

SETTINGS = ("boundaries", "unit", "betas", "adapters", "guidance_scales")
# What model classes of diffusers list by hand; the router's are those of all experts.
MODULE_LISTS = (
    "_no_split_modules",
    "_skip_layerwise_casting_patterns",
    "_keep_in_fp32_modules",
    "_repeated_blocks",
)
HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only", "force_download")


class ExpertRouterUNet(UNetInterfaceMixin, OffloadMixin, PushToHub, ModelMixin, ConfigMixin):
    """Several U-Nets, each responsible for an interval of noise levels, that are called like one.

    Expert i works at the noise levels [boundaries[i - 1], boundaries[i]); expert 0 has the lowest noise. A call runs
    one expert, so an ensemble takes no longer than one model. A loop that knows sigma calls `select_expert(sigma)`
    before each step and `reset_expert()` at its end. Without it each call looks at its timestep, which costs one
    synchronisation with the device.

        >>> router = ExpertRouterUNet.from_unets([low, middle, high], boundaries=[0.0757, 9.61])
        >>> router.select_expert(80.0)
        2

    In diffusers' pipelines it takes the place of the `unet`. `from_pipe` goes by type and wants it said:
    `StableDiffusionImg2ImgPipeline.from_pipe(pipe, unet=pipe.unet)`.

    Args:
        unets (`list`): The experts, or (from a saved config) their `folder`, `library`, `class_name` and `config`.
        boundaries (`list` of `float`): Increasing noise levels between the experts, one fewer than there are experts.
        unit (`str`): What the boundaries are: `sigma`, or `timestep` of a discrete-time model.
        betas (`dict`, *optional*): Beta settings of a discrete-time model, see [`BETA_SETTINGS`]. Without them a
            timestep is read as c_noise = ln(sigma) / 4.
        adapters (`list`, *optional*): For each expert an [`ExpertAdapter`] (or its entries) or `None`: experts may
            differ in what they are conditioned on.
        guidance_scales (`list`, *optional*): For each expert its guidance scale, or `None` for the pipeline's. A
            U-Net does not see guidance: [`EDiffIPipeline`] and loops that read `guidance_scale` follow them (inside
            of `guidance_interval`, and unless a call gives weights for encoders). The pipelines of diffusers use
            their scale throughout, unless `rescale_guidance` says which that is.
        shared_base (`bool`): Whether all experts are one network that turns into each of them in place, see
            `from_lora_experts`.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        unets: list[Any],
        boundaries: Sequence[float] = (),
        unit: str = "sigma",
        betas: dict[str, Any] | None = None,
        adapters: Sequence[Any] | None = None,
        guidance_scales: Sequence[float | None] | None = None,
        shared_base: bool = False,
    ):
        super().__init__()
        check_boundaries(boundaries, len(unets), unit)  # before anything is built
        experts = _built(unets, shared_base)
        self._shared = shared_by(experts)
        _check_experts(experts, discrete=unit == "timestep" or betas is not None)
        self.experts: Any = nn.ModuleList(experts)
        self._adapters = check_adapters(adapters, len(experts))
        self._guidance = ExpertGuidance(guidance_scales, len(experts))
        self._routes = Routes(boundaries, unit, betas, [config.get("trained_on") for config in self._configs()])
        self._register_experts(guidance_scales is not None)
        # Pipelines prepare their arguments for the expert that takes them as they are.
        self._lead = next((i for i, adapter in enumerate(self._adapters) if adapter is None), 0)
        # Networks without (`UNet2DModel`) do not take the argument.
        self._reads_text = any("encoder_hidden_states" in signature(type(e).forward).parameters for e in experts)
        self._offload = ExpertOffload()
        self._selections: dict[int, int] = {}  # of each thread
        self._latest: int | None = None
        for name in MODULE_LISTS:
            setattr(self, name, _union(experts, name))

    def _register_experts(self, with_guidance: bool) -> None:
        """Writes down the arguments as they are saved: checked, and experts by their descriptions."""
        self.register_to_config(
            _use_default_values=[],  # `from_config` would leave out what was not given by name
            unets=self._descriptions(),
            boundaries=self.boundaries,
            adapters=self._adapter_entries(),
            guidance_scales=self.guidance_scales if with_guidance else None,
            shared_base=self._shared is not None,
        )

    def _adapter_entries(self) -> list[dict[str, Any] | None] | None:
        entries = [None if adapter is None else adapter.to_config() for adapter in self._adapters]
        return entries if any(entries) else None

    @classmethod
    def from_unets(
        cls,
        unets: Sequence[nn.Module],
        boundaries: Sequence[float],
        unit: str = "sigma",
        scheduler: Any = None,
        adapters: Sequence[Any] | None = None,
        guidance_scales: Sequence[float | None] | None = None,
    ) -> "ExpertRouterUNet":
        """Makes a router of U-Nets in memory, without copying them.

        Args:
            unets (`list`): `EDiffIUNet` or any U-Nets of diffusers with the same channels, lowest noise first.
            boundaries (`list` of `float`): Noise levels between them, increasing, finite and positive.
            unit (`str`): `sigma`, which holds for every scheduler, or `timestep` of a discrete-time model.
            scheduler (`SchedulerMixin`, *optional*): Boundaries in sigma on a discrete-time model (Stable Diffusion)
                need the betas of its scheduler, where sigma = sqrt((1 - alpha_bar) / alpha_bar).
            adapters, guidance_scales (`list`, *optional*): See the class.
        """
        betas = None if scheduler is None else betas_of(scheduler)
        return cls(list(unets), boundaries, unit, betas, adapters, guidance_scales)

    @classmethod
    def from_lora_experts(
        cls, base: nn.Module, experts: Sequence[LoraExpert], boundaries: Sequence[float], unit: str = "sigma", **kwargs
    ) -> "ExpertRouterUNet":
        """Makes a router of low-rank differences from one network, which is shared in memory and on disk and switched
        when the route changes. It samples only, and takes no further LoRA: `LoraExpert.merge` gives full experts.

        Args:
            base (`ModelMixin`): The shared network. It is taken over, not copied.
            experts (`list` of [`LoraExpert`]): The differences (see [`factorize_expert`]), lowest noise first.
            boundaries, unit, kwargs: As in `from_unets`.
        """
        check_boundaries(boundaries, len(experts), unit)
        shared = LoraExperts(base, experts)
        try:
            return cls.from_unets(shared.as_unets(), boundaries, unit, **kwargs)
        except Exception:
            shared.detach()
            raise

    @property
    def config(self) -> FrozenDict:
        """The router's entries and, for pipelines that ask for `in_channels` and the like, those of an expert:
        expert 0, or the first without an adapter."""
        entries = network_config(self.experts[self._lead].config)
        entries.pop("trained_on", None)
        return FrozenDict({**entries, **self._internal_dict})

    @classmethod
    def from_config(cls, config: Any = None, *args: Any, **kwargs: Any) -> Any:
        """An untrained router of this `config`, see `ConfigMixin`; the entries of an expert that it shows to pipelines
        are passed over."""
        if isinstance(config, dict) and isinstance(config.get("unets"), list | tuple):
            described = [unet["config"] for unet in config["unets"] if isinstance(unet, dict) and "config" in unet]
            shown = {name for entries in described for name in entries}
            config = {name: value for name, value in config.items() if name not in shown}
        return super().from_config(config, *args, **kwargs)

    @property
    def boundaries(self) -> list[float]:
        """The noise levels between the experts, increasing, in the unit of `config.unit`."""
        return list(self._routes.boundaries)

    @property
    def guidance_scale(self) -> float | None:
        """The guidance scale of the selected expert; `None` means the pipeline's."""
        return None if self._selected is None else self._guidance.scales[self._selected]

    @property
    def guidance_scales(self) -> list[float | None]:
        """The guidance scale of every expert; `None` means the pipeline's."""
        return list(self._guidance.scales)

    def rescale_guidance(self, pipeline_scale: float | None) -> None:
        """Lets the pipelines of diffusers follow `guidance_scales`, too.

        They call a U-Net with batches [unconditional, conditional] and combine the halves as u + w (c - u). An expert
        of scale g then returns c' = u + g / w (c - u), which gives u + g (c - u).

            >>> pipe.unet.rescale_guidance(7.5)
            >>> pipe("a cat", guidance_scale=7.5)

        Args:
            pipeline_scale (`float`, *optional*): w, the `guidance_scale` that the pipeline is called with; it must be
                above 1. `None` switches the rescaling off.
        """
        self._guidance.follow(pipeline_scale)

    def select_expert(self, sigma: float) -> int:
        """Chooses the expert of all calls of this thread until the next selection or `reset_expert()`; returns its
        index.

        Args:
            sigma (`float`): The routing sigma: the noise level at which the step begins. A Python number, so that
                no device is waited for.

        Raises:
            ValueError: if sigma is not a noise level, or lies outside what its expert was trained on.
        """
        index = self._latest = self._selections[get_ident()] = self._routes.expert_of_sigma(as_float("sigma", sigma))
        return index

    def reset_expert(self) -> None:
        """Goes back to routing each call by its timestep."""
        self._selections.pop(get_ident(), None)
        self._latest = None

    @property
    def _selected(self) -> int | None:
        # torch.compile traces no threads: what it made of the router goes by the latest selection of all
        return self._latest if torch.compiler.is_compiling() else self._selections.get(get_ident())

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float,
        encoder_hidden_states: torch.Tensor | None = None,
        *args,
        return_dict: bool = True,
        **kwargs,
    ) -> UNet2DConditionOutput | tuple[torch.Tensor]:
        """Runs the expert of this noise level; the arguments are those of the experts.

        Args:
            sample (`torch.Tensor`): Noisy input of shape (batch, channels, height, width).
            timestep (`torch.Tensor` or `float`): One number or (batch,). While gradients are recorded in training
                mode a batch may span several experts, each of which is then called on its rows.
            encoder_hidden_states (`torch.Tensor`, *optional*): Of shape (batch, tokens, width).
            return_dict (`bool`): Whether to return an output object instead of a tuple.
        """
        self._check_lent_parts()
        inputs = (sample, timestep, encoder_hidden_states, *args)
        if encoder_hidden_states is None and not args and not self._reads_text:
            inputs = (sample, timestep)
        routes = self._routes.experts_of(timestep) if self._selected is None else [self._selected]
        if len(set(routes)) == 1:
            return self._call_expert(routes[0], inputs, kwargs, return_dict)
        output = self._forward_split(routes, inputs, kwargs)
        return UNet2DConditionOutput(sample=output) if return_dict else (output,)

    def _call_expert(self, index: int, inputs: tuple, kwargs: dict[str, Any], return_dict: bool) -> Any:
        adapter = self._adapters[index]
        factor = self._guidance.factor(index) if self._selected is None else None
        if factor is not None:
            check_guided(inputs[0], NOT_RESCALED)
        if adapter is not None:
            adapter = self._adapters[index] = adapter.with_text_of_caller(inputs[2] if len(inputs) > 2 else None)
            inputs, kwargs = adapter.apply(inputs, kwargs)
        with self._present(index):
            output = call_where_it_lives(self.experts[index], inputs, kwargs, return_dict)
        if factor is None:
            return output
        sample = rescale(output[0], factor)
        return UNet2DConditionOutput(sample=sample) if return_dict else (sample,)

    @contextmanager
    def _present(self, index: int) -> Iterator[None]:
        """Keeps an expert on its device, or the shared network turned into it, and other threads away meanwhile."""
        device = execution_device(self)
        if device is None and self._shared is None:
            yield
            return
        with lock_of(self._offload if self._shared is None else self._shared):
            if device is not None:
                self._offload.fetch(self.experts, index, device)
            if self._shared is not None:
                self._shared.select(index)
            yield

    def _forward_split(self, routes: list[int], inputs: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
        """Calls each expert on its rows of the batch and puts the outputs back in order; only in training."""
        if not (self.training and torch.is_grad_enabled()) or self._shared is not None:
            raise ValueError(
                f"the timesteps of this batch belong to the experts {sorted(set(routes))}: call the router once for "
                "each noise level. Only in training is a batch split."
            )
        parts, order = [], []
        for index in sorted(set(routes)):
            rows = [row for row, route in enumerate(routes) if route == index]
            expert_inputs, expert_kwargs = _take_rows((inputs, kwargs), rows, len(routes))
            parts.append(self._call_expert(index, expert_inputs, expert_kwargs, return_dict=False)[0])
            order += rows
        return torch.cat(parts)[[order.index(row) for row in range(len(order))]]

    def _configs(self) -> list[dict[str, Any]]:
        return [expert.config for expert in self.experts] if self._shared is None else self._shared.configs

    def _descriptions(self) -> list[dict[str, Any]]:
        return [describe(i, *pair) for i, pair in enumerate(zip(self.experts, self._configs(), strict=True))]

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str = "10GB",
        push_to_hub: bool = False,
        **kwargs,
    ) -> None:
        """Saves every expert to a folder, and what joins them: all of it or, after an error or a kill, nothing.

        Args:
            save_directory (`str` or `Path`): The folder; made if it does not exist. A router of the same variant that
                it holds is replaced at the end; until then there has to be room for both.
            is_main_process (`bool`): Whether this process writes, in distributed training.
            safe_serialization (`bool`): Whether to write safetensors files.
            variant (`str`, *optional*): Name of a variant such as `fp16`; variants share a folder.
            max_shard_size (`int` or `str`): Largest size of a weight file.
            push_to_hub (`bool`): Whether to upload the folder too, with the arguments of `push_to_hub`; `repo_id` is
                its name by default.

        Raises:
            OSError: if the folder cannot be written.
            ValueError: if what is saved could not be loaded again, or the folder holds other variants of another
                router.
        """
        folder = Path(save_directory)
        check_is_folder(folder)
        self.check_saving(folder, variant)
        if not is_main_process:  # which writes all of it
            return
        push = self._push_of(folder, kwargs) if push_to_hub else None
        how: dict[str, Any] = {"safe_serialization": safe_serialization, "max_shard_size": max_shard_size}
        with saved_whole(folder, self.config_name, variant) as unfinished:
            self._save_experts(unfinished, variant=variant, **how)
            save_texts(self._adapters, unfinished)
            self.save_config(unfinished)
            tensors = None if self._shared is None else self._shared.tensor_names()
            write_marker(unfinished, len(self.experts), variant, tensors)
        if push is not None:
            push.upload_saved(folder)

    def check_saving(self, folder: Path, variant: str | None = None) -> None:
        """Refuses what could not be loaded again, before anything is written; the arguments are `save_pretrained`'s.

        Raises:
            ValueError: see `save_pretrained`.
        """
        # An expert may have changed since the start, and an adapter know more.
        self.register_to_config(unets=self._descriptions(), adapters=self._adapter_entries())
        for i, (expert, description) in enumerate(zip(self.experts, self.config["unets"], strict=True)):
            expert_class(i, description)
            check_without_adapters(expert, expert_folder(i))
        check_variants(folder, variant, json.loads(self.to_json_string()), (*SETTINGS, "shared_base", "unets"))

    def _save_experts(self, folder: Path, **how) -> None:
        if self._shared is not None:
            self._shared.save(folder, **how)
            return
        for i, expert in enumerate(self.experts):
            expert.save_pretrained(folder / expert_folder(i), **how)

    def _hub_model(self) -> Model:
        return router_model(self)

    @classmethod
    @names_its_folder
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        subfolder: str | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        variant: str | None = None,
        **kwargs,
    ) -> "ExpertRouterUNet":
        """Loads what `save_pretrained` wrote, from a folder or a repository of the Hub.

        Args:
            pretrained_model_name_or_path (`str` or `Path`): A folder, or a Hub id such as `org/name`.
            subfolder (`str`, *optional*): Folder of the router therein, such as `unet`.
            dtype, torch_dtype (`torch.dtype` or `"auto"`, *optional*): Type of the weights, float32 by default as in
                every model of diffusers. Weights that keep the type they are stored in (`"auto"`) are mapped from the
                file, and an expert takes no memory before its first call.
            variant (`str`, *optional*): The variant to load, such as `fp16`.
            kwargs: `revision`, `token`, `cache_dir`, `local_files_only` and `force_download` for the Hub; the others
                (`device_map`, `low_cpu_mem_usage`, `use_safetensors`, `quantization_config`, ...) go to every expert.

        Raises:
            OSError: if a file is missing or damaged.
            ValueError: if the configuration does not describe a router.
        """
        hub = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
        root = local_folder(pretrained_model_name_or_path, subfolder, variant, hub)
        config = cls.load_config(root)
        _check_is_router(root, config)
        load = load_shared if config.get("shared_base") else load_experts
        experts = load(root, config["unets"], variant, dtype or torch_dtype, **kwargs)
        settings = {name: config[name] for name in SETTINGS if name in config}
        settings["adapters"] = load_adapters(settings.get("adapters"), root)
        router = cls(experts, **settings).eval()
        router.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        return router


def _built(unets: Sequence[Any], shared_base: bool) -> list[Any]:
    """The experts, untrained where a saved configuration describes them."""
    check_counts([unet for unet in unets if isinstance(unet, dict)], "the configuration of the experts")
    experts = [build_expert(i, unet) if isinstance(unet, dict) else unet for i, unet in enumerate(unets)]
    if shared_base and isinstance(unets[0], dict):  # a configuration alone holds no differences yet
        experts = LoraExperts(experts[0], [LoraExpert({}, unet["config"]) for unet in unets]).as_unets()
    return experts


def _check_is_router(root: Path, config: Any) -> None:
    entries = config if isinstance(config, dict) else {"_class_name": type(config).__name__}
    if not isinstance(entries.get("unets"), list):
        name = entries.get("_class_name")
        if name == ExpertRouterUNet.__name__:
            raise ValueError(f"{root} does not hold a router: unets={reprlib.repr(entries.get('unets'))} is no list.")
        raise ValueError(f"{root} does not hold a router but a {name}; load it by that class.")
    if not isinstance(config.get("shared_base", False), bool):
        raise ValueError(f"shared_base={config['shared_base']!r} of {root} must be true or false.")
    check_folder(root)
    check_boundaries(config.get("boundaries", ()), len(config["unets"]), config.get("unit", "sigma"))


def _check_experts(experts: Sequence[Any], discrete: bool) -> None:
    """Refuses experts that cannot stand in for each other, and boundaries in a unit that is not theirs."""
    for i, expert in enumerate(experts):
        if not isinstance(expert, ModelMixin):
            raise TypeError(f"{expert_folder(i)} is a {type(expert).__name__}, not a U-Net (ModelMixin) of diffusers.")
    for name in ("in_channels", "out_channels", "preconditioning", "sigma_data"):
        values = [expert.config.get(name) for expert in experts]
        if len({value for value in values if value is not None}) > 1:
            raise ValueError(f"the experts differ in {name}: {values}; they must read and write the same images.")
    levels = [expert.config.get("max_noise_level") for expert in experts]
    if len(set(levels)) > 1:
        raise ValueError(f"the experts differ in max_noise_level: {levels}; train all of them with the same one.")
    if discrete and any(expert.config.get("preconditioning") == "edm" for expert in experts):
        raise ValueError('EDM experts have no discrete timesteps: use unit="sigma" and no scheduler with betas.')


def _union(experts: list[Any], name: str) -> list[str] | None:
    return sorted({value for expert in experts for value in getattr(expert, name, None) or ()}) or None


def _take_rows(value: Any, rows: list[int], batch_size: int) -> Any:
    """The rows of all tensors in nested arguments; tensors without the batch dimension stay whole."""
    if isinstance(value, torch.Tensor):
        return value[rows] if value.ndim and value.shape[0] == batch_size else value
    if isinstance(value, dict):
        return {name: _take_rows(item, rows, batch_size) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_take_rows(item, rows, batch_size) for item in value)
    return value

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What learns in a run: the network, its optimiser, and the moving average of its weights, which is the result."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel

from ..experts.lora import LoraExpert
from ..files import written_whole
from ..models.unet import EDiffIUNet
from .checkpoint import writing
from .launch import check_launch, expect_unused
from .lora import LORA_FILE, add_lora, merged, trained_expert
from .optimizer import make_optimizer
from .settings import TrainingSettings
from .sharded import check_sharded, gathered, prepare_sharded, shared_out


def check_network(unet: Any) -> None:
    """Refuses what a run cannot train.

    Raises:
        TypeError: It is not an `EDiffIUNet`.
        ValueError: Its weights are of low precision, or it is told or returns what the loss and the data here know
            nothing of.
    """
    if not isinstance(unet, EDiffIUNet):
        experts = "; train each of its experts alone" if hasattr(unet, "experts") else ""
        raise TypeError(f"A {type(unet).__name__} is not an EDiffIUNet, which alone is trained here{experts}.")
    check_config(unet.config)
    low = {str(p.dtype) for p in unet.parameters() if p.dtype not in (torch.float32, torch.float64)}
    if low:
        raise ValueError(
            f"The network has weights of {', '.join(sorted(low))}, in which small updates are lost: give "
            "unet.float(), and compute in bf16 by mixed_precision='bf16'."
        )


def check_config(config: Mapping[str, Any]) -> None:
    """Refuses a network that is told or returns what the loss and the data here know nothing of.

    Args:
        config (`dict`): The configuration of an `EDiffIUNet`.

    Raises:
        ValueError: It is such a network.
    """
    predicted, classes = config.get("preconditioning", "edm"), config.get("num_class_embeds")
    if predicted != "edm":
        raise ValueError(
            f"The network has preconditioning={predicted!r}, and the loss here is EDM's: such a network draws and is "
            "not trained. Start from a network with preconditioning='edm', such as one from conversion/from_edm.py."
        )
    if classes is not None:
        raise ValueError(
            f"The network has num_class_embeds={classes}, and training data here has no classes: leave it out."
        )


def without_place(unet: EDiffIUNet) -> EDiffIUNet:
    """Takes out of a network's config where it was loaded from: what is saved may be published."""
    if unet.config.get("_name_or_path"):
        unet.register_to_config(_name_or_path="")
    return unet


class Learner:
    """A network in training.

    Args:
        unet ([`EDiffIUNet`]): The network, changed in place. It stays the plain module: what is saved never carries
            the prefixes of DDP or torch.compile.
        settings ([`TrainingSettings`]): The numbers of the run.
        accelerator (`Accelerator`): Its device is where the network goes.

    Raises:
        TypeError: The network is not an `EDiffIUNet`.
        ValueError: It is no network that is trained here (see [`check_network`]), or the launcher shards it in another
            way than by FSDP2, or the settings do not go with that.
    """

    def __init__(self, unet: EDiffIUNet, settings: TrainingSettings, accelerator: Accelerator) -> None:
        self.settings, self.accelerator = settings, accelerator
        self._check(unet)
        check_launch(accelerator, sharded=True)
        self.sharded = accelerator.is_fsdp2
        if self.sharded:
            check_sharded(settings)
        if settings.lora_rank:
            torch.manual_seed(settings.seed)
            self._add_lora(unet)
        self.kind = type(unet)  # FSDP2 makes another one of it
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.unet = unet.to(accelerator.device, memory_format=layout).train()
        if settings.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        network, self.optimizer = self._prepare()
        self.network = torch.compile(network) if settings.compile else network
        self.parameters = [p for p in self.unet.parameters() if p.requires_grad]
        self.ema = EMAModel(self.parameters, decay=settings.ema_decay, foreach=True)
        self.grad_norm = torch.zeros(())

    def _prepare(self) -> tuple[Any, Any]:
        """The network as it is called, and its optimiser."""
        settings, accelerator = self.settings, self.accelerator
        optimizer = (settings.optimizer, self.unet, settings.learning_rate, settings.weight_decay)
        if self.sharded:
            return prepare_sharded(accelerator, self.unet, make_optimizer(*optimizer), settings.mixed_precision)
        expect_unused(accelerator, self.unet)
        network = accelerator.prepare(self.unet)  # before the optimiser is made: DDP moves weights to other memory
        return network, accelerator.prepare(make_optimizer(*optimizer))

    def _check(self, unet: Any) -> None:
        check_network(unet)

    def _add_lora(self, unet: Any) -> None:
        add_lora(unet, self.settings.lora_rank, self.settings.lora_only)

    def step(self, learning_rate: float) -> None:
        """One step of the optimiser along the gradients, which are clipped and then cleared, and of the average."""
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        self.grad_norm = gathered(norm, keep=True)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.parameters)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, as the main process needs it. Every process must ask for it."""
        state = {
            "model": self.unet.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        return gathered(state, self.accelerator.is_main_process) if self.sharded else state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads what `state_dict` returned, with whatever number of processes."""
        if self.sharded:
            state = shared_out(state, self.unet, self.parameters)
        self.unet.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.ema.to(self.accelerator.device)

    def averaged(self) -> EDiffIUNet | None:
        """A copy of the network with the averaged weights, in plain memory layout, on the main process; `None` on
        others. Every process must ask for it."""
        main = self.accelerator.is_main_process
        averages = gathered(self.ema.shadow_params, main) if self.sharded else self.ema.shadow_params
        if not main:
            return None
        if self.settings.lora_rank:
            return merged(self.unet, self.lora_expert()).eval()
        copy = self.kind.from_config(self.unet.config)
        with torch.no_grad():
            for parameter, average in zip(copy.parameters(), averages, strict=True):
                parameter.copy_(average)
        return copy.eval()

    def lora_expert(self) -> LoraExpert:
        """The averaged difference from the network that a run with `lora_rank` started from."""
        return trained_expert(self.unet, self.ema.shadow_params)

    def write(self, output: Path) -> None:
        """Writes the averaged weights to `output/unet`, and with `lora_rank` their difference beside it. Every process
        must call it; the main one writes."""
        averaged = self.averaged()
        if averaged is None:
            return
        without_place(averaged)
        if self.settings.lora_rank:
            with writing(output / LORA_FILE):
                self.lora_expert().save(output / LORA_FILE)
        with writing(output / "unet"), written_whole(output / "unet") as unfinished:
            averaged.save_pretrained(unfinished)

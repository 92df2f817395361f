# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What a launcher (`accelerate launch`, torchrun) asks of a run: honoured here, or refused."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, parse_flag_from_env

from .checkpoint import last_good
from .run import SignalGuard
from .sharded import take_up_sharding

if TYPE_CHECKING:
    from ..models.unet import EDiffIUNet

# They cut the weights into pieces; of FSDP2 a run can put them together.
SHARDED = (DistributedType.DEEPSPEED, DistributedType.FSDP, DistributedType.MEGATRON_LM)
PRECISION = "ACCELERATE_MIXED_PRECISION"


def make_accelerator(mixed_precision: str, **options: Any) -> Accelerator:
    """The accelerator of a run.

    Args:
        mixed_precision (`str`): Of the settings.
        options: Further ones of `Accelerator`, such as `log_with`.

    Raises:
        ValueError: The launcher asks for another precision than the settings.
    """
    asked = os.environ.get(PRECISION, "no")
    if asked not in ("no", mixed_precision):
        raise ValueError(
            f"The launcher asks for mixed precision {asked!r} ({PRECISION}), but the settings have "
            f"mixed_precision = {mixed_precision!r}: launch without it, and choose no or bf16 in the settings."
        )
    accelerator = Accelerator(mixed_precision=mixed_precision, **options)
    take_up_sharding(accelerator, parse_flag_from_env("ACCELERATE_USE_FSDP"))
    return accelerator


def launched_device() -> torch.device:
    """What the launcher gives to this process, for encoders that are loaded before there is an accelerator."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device


def check_launch(accelerator: Accelerator, sharded: bool = False) -> None:
    """Refuses what no run can honour.

    Args:
        accelerator (`Accelerator`): It knows what the launcher asks for.
        sharded (`bool`, *optional*, defaults to `False`): Whether this run can share its weights out by FSDP2.

    Raises:
        ValueError: The launcher shards the weights in another way.
    """
    if accelerator.distributed_type not in SHARDED or (sharded and getattr(accelerator, "is_fsdp2", False)):
        return
    remedy = " or, for a network that is too large for that, FSDP with fsdp_version: 2" if sharded else ""
    raise ValueError(
        f"The launcher asks for {accelerator.distributed_type.value}, which shards the weights; launch with plain "
        f"processes (DDP), each of which holds the whole network{remedy}."
    )


def expect_unused(accelerator: Accelerator, unet: "EDiffIUNet") -> None:
    """Tells DDP whether a network has parameters without a gradient: without cross-attention the tokens of a text
    reach nothing. Looking for them takes time, so that it is done for such networks alone."""
    if accelerator.ddp_handler is None:
        accelerator.ddp_handler = DistributedDataParallelKwargs()
    if not unet.config.cross_attention_factors:
        accelerator.ddp_handler.find_unused_parameters = True


def part_of(value: Any, rows: slice) -> Any:
    """Some rows of everything in a batch; numbers and `None` belong to all of them."""
    if isinstance(value, torch.Tensor | list):
        return value[rows]
    if isinstance(value, dict):
        return {name: part_of(entry, rows) for name, entry in value.items()}
    if isinstance(value, tuple):
        parts = [part_of(entry, rows) for entry in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def parts(size: int, number: int) -> list[slice]:
    """The rows of a batch in so many parts, or fewer where there are not so many rows."""
    step = -(-size // number)
    return [slice(first, min(first + step, size)) for first in range(0, size, step)]


@dataclass(frozen=True)
class Share:
    """The samples of a process among those of all processes.

    What is random of a step is drawn for all of them on each process, from the same generator, and each takes its
    rows: two processes draw for a batch what one process does. It is little beside a step, but grows with the number
    of processes: noise for 2048 images of 256 x 256 is 1.6 GB.

    Args:
        rank (`int`, *optional*, defaults to 0): The process.
        processes (`int`, *optional*, defaults to 1): How many there are.
    """

    rank: int = 0
    processes: int = 1

    @classmethod
    def of_process(cls, accelerator: Accelerator) -> "Share":
        """The share of this process."""
        return cls(accelerator.process_index, accelerator.num_processes)

    def of(self, draw: Callable[[int], Any], number: int) -> Any:
        """Draws for all processes, each of which has so many samples; returns the rows of this process."""
        return part_of(draw(number * self.processes), slice(self.rank * number, (self.rank + 1) * number))


class LostProcessError(OSError):
    """Another process of the run has ended, or cannot be reached."""


@contextmanager
def losses_named(output: Path | None = None) -> Iterator[None]:
    """A block in which processes wait for one another: it says in a line that another one is lost.

    Args:
        output (`Path`, *optional*): The folder of a run, whose last checkpoint is named.

    Raises:
        LostProcessError: Another process has ended, or does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
            raise
        good = "" if output is None else f" {last_good(output)}"
        reason = str(error).splitlines()[0].rpartition("] ")[2][:100] if "gloo" in str(error) else type(error).__name__
        raise LostProcessError(
            f"Another process of this run has ended or does not answer ({reason}); it may have said why.{good} Start "
            "all processes again with the same command to go on."
        ) from error


class StopVotes:
    """All processes of a run stop at the same step: if one of them was told to.

    They vote on the CPU, so that no accelerator has to wait.

    Args:
        accelerator (`Accelerator`): It says how many processes there are.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.guard = SignalGuard()
        self.alone = accelerator.num_processes == 1
        self._group: Any = None

    def agreed(self, reason: str | None) -> str | None:
        """Why the run stops now: a signal, here or elsewhere, or the reason that a process gives. A signal that
        another process received ends this one as well."""
        vote = int(self.guard.received or reason is not None)
        if not self.alone:
            vote = self._highest(vote)
        if vote > 1:
            self.guard.received = signal.Signals(vote)
            return self.guard.received.name
        return reason or ("another process has used up its budget" if vote else None)

    def _highest(self, vote: int) -> int:
        """The highest vote of all processes."""
        # Not a new group where gloo is there: whoever makes it waits long for a process that is lost by then.
        if self._group is None and torch.distributed.get_backend() != "gloo":
            self._group = torch.distributed.new_group(backend="gloo")
        votes = torch.tensor(vote)
        torch.distributed.all_reduce(votes, torch.distributed.ReduceOp.MAX, self._group)
        return int(votes)

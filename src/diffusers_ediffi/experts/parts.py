# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`LentParts`: a pipeline that reaches into the blocks of a router changes those of all experts, or is refused."""

from collections.abc import Sequence

from torch import nn

BLOCKS = ("down_blocks", "mid_block", "up_blocks")


class LentParts:
    """What the experts were made of when blocks of the first were handed out.

    Self-attention guidance puts a processor and a hook into `unet.mid_block`, and FreeNoise exchanges modules of all
    blocks. With a router they would change the expert that the blocks are of, and the others would work without.
    """

    def __init__(self, experts: Sequence[nn.Module]):
        self._before = [_structure(expert) for expert in experts]

    def check(self, experts: Sequence[nn.Module]) -> None:
        """Refuses experts of which some were changed since, and others not.

        Raises:
            ValueError: if that is so; the message says what works.
        """
        changed = [_structure(expert) != before for expert, before in zip(experts, self._before, strict=True)]
        if any(changed) and not all(changed):
            raise ValueError(
                f"the blocks of expert {changed.index(True)} were changed and those of expert {changed.index(False)} "
                "were not: a pipeline that reaches into blocks (self-attention guidance, FreeNoise) works with one "
                "network; use pipe.unet = router.experts[0] for it, or change every network of router.experts."
            )


def _structure(network: nn.Module) -> list[tuple[int, ...]]:
    """The modules of a network, the processors of its attention and how many hooks each has."""
    return [_parts_of(module) for module in network.modules()]


def _parts_of(module: nn.Module) -> tuple[int, ...]:
    hooks = len(module._forward_hooks), len(module._forward_pre_hooks)
    return id(module), id(getattr(module, "processor", None)), *hooks

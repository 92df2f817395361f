# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The training loss of section 3, and the noise it needs, drawn without any state."""

import hashlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch

from ..edm import SIGMA_DATA, c_in, c_noise, expand_as, residual_coefficients

# Edges of the noise-level bins in which the loss is reported.
SIGMA_BINS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def step_generator(
    seed: int, node: tuple[int, int], step: int, rank: int, device: str | torch.device = "cpu"
) -> torch.Generator:
    """A generator that depends on its arguments alone, so that a resumed run draws what an uninterrupted one would.

    Args:
        seed (`int`): The run's seed.
        node (`tuple` of `int`): Level and index in the expert tree.
        step (`int`): The optimiser step.
        rank (`int`): The process.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): Where the generator draws.
    """
    key = f"{seed}:{node[0]}:{node[1]}:{step}:{rank}".encode()
    value = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
    return torch.Generator(device).manual_seed(value >> 1)


def edm_loss(
    unet: Callable[..., Any],
    images: torch.Tensor,
    sigma: torch.Tensor,
    noise: torch.Tensor,
    conditioning: dict[str, Any],
    low_res: torch.Tensor | None = None,
    sigma_data: float = SIGMA_DATA,
    sigma_residual: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """lambda(sigma) |D - image|^2, which is the plain squared error of F.

    For a network that denoises image - low_res, lambda is that of this difference: the squared error of its F_r.

    Args:
        unet (`Callable`): Called like [`EDiffIUNet`].
        images (`torch.Tensor`): Clean images, `(batch, 3, height, width)` in [-1, 1].
        sigma (`torch.Tensor`): Noise levels, `(batch,)`.
        noise (`torch.Tensor`): Standard normal noise of the images' shape.
        conditioning (`dict`): Keyword arguments of the network.
        low_res (`torch.Tensor`, *optional*): For super-resolution the upsampled low-resolution images, of the images'
            shape.
        sigma_data (`float`, *optional*, defaults to 0.5): Standard deviation of the images.
        sigma_residual (`float` or `torch.Tensor`, *optional*): Standard deviation of image - low_res where the network
            denoises that, a number or `(batch,)`.

    Returns:
        `torch.Tensor`: A loss for each sample, `(batch,)` in float32: their mean is to be minimised, their values go
        to the log.
    """
    level = expand_as(sigma, images)
    sample = c_in(level, sigma_data) * (images + level * noise)
    if low_res is not None:
        sample = torch.cat([sample, low_res], dim=1)
    model_output = unet(sample, c_noise(sigma), return_dict=False, **conditioning)[0]
    # (image - c_skip x) / c_out, written out: the difference would lose its digits at small sigma.
    target = (level / sigma_data * images - sigma_data * noise) * c_in(level, sigma_data)
    losses = (model_output.float() - target).square().flatten(1).mean(dim=1)
    if sigma_residual is not None:
        losses = losses / residual_coefficients(sigma, sigma_data, sigma_residual)[2] ** 2
    return losses


def bin_names(edges: Sequence[float] = SIGMA_BINS) -> tuple[str, ...]:
    """What the bins between these noise levels are called."""
    return f"<{edges[0]:g}", *(f"{low:g}-{high:g}" for low, high in pairwise(edges)), f">{edges[-1]:g}"


class SigmaBinLog:
    """Mean loss per noise-level bin since the last reading. Sums stay on the device: no synchronisation per step."""

    def __init__(self, device: str | torch.device = "cpu", edges: tuple[float, ...] = SIGMA_BINS) -> None:
        self.names = bin_names(edges)
        self.edges = torch.tensor(edges, device=device)
        self.sums = torch.zeros(2, len(edges) + 1, device=device)  # losses, counts
        # The first step with losses that are not finite, -1 before, and how many of it fell into each bin.
        self.spoilt = torch.tensor([-1, *[0] * (len(edges) + 1)], dtype=torch.long, device=device)

    def add(self, sigma: torch.Tensor, losses: torch.Tensor, step: int = 0) -> None:
        """Adds the losses of one batch, both `(batch,)`; `step` is its number."""
        index = torch.bucketize(sigma, self.edges)
        self.sums[0].index_add_(0, index, losses.detach().float())
        self.sums[1].index_add_(0, index, torch.ones_like(losses, dtype=torch.float32))
        found = torch.zeros_like(self.spoilt).index_add_(0, index + 1, (~losses.detach().isfinite()).long())
        found[0] = step
        self.spoilt = torch.where((self.spoilt[0] < 0) & (found[1:].sum() > 0), found, self.spoilt)

    def read(self, sums: torch.Tensor | None = None) -> tuple[float, dict[str, float]]:
        """Returns the mean loss and the mean per bin (bins without samples left out), and starts again.

        Args:
            sums (`torch.Tensor`, *optional*): The sums over all processes, where there are several.
        """
        losses, counts = (self.sums if sums is None else sums).tolist()
        self.sums.zero_()
        mean = sum(losses) / max(sum(counts), 1)
        bins = zip(self.names, losses, counts, strict=True)
        return mean, {name: loss / count for name, loss, count in bins if count}


def first_spoilt(found: torch.Tensor, names: Sequence[str] = bin_names()) -> tuple[int, list[str]] | None:
    """The first step with losses that are not finite, and the bins of their noise levels; `None` if there is none.

    Args:
        found (`torch.Tensor`): `SigmaBinLog.spoilt` of each process, one behind the other.
        names (`list` of `str`): Of its bins.
    """
    rows = [row for row in found.view(-1, len(names) + 1).tolist() if row[0] >= 0]
    if not rows:
        return None
    first = min(step for step, *_ in rows)
    counts = [row[1:] for row in rows if row[0] == first]
    return first, [name for name, *each in zip(names, *counts, strict=True) if any(each)]

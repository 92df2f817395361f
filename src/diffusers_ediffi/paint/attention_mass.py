# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""How far attention follows the paint: a measure of paint-with-words that needs no detector and no weights.

The attention mass of a phrase at a pixel is the sum of the attention probabilities of its tokens there. Measured is
its mean inside the region minus its mean outside: 0 where the paint has no effect, 1 where all attention follows it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .painting import Painting


class AttentionMass:
    """The masses inside minus outside that [`measure_attention_mass`] has seen.

    The means are taken over the pixels, with a region's mask as weights inside and its complement as weights outside,
    and over heads, layers, regions and painted images. The unconditional half of guidance does not count, nor does the
    weight of a region. A strength of 0 is measured as well: it says what the network does by itself. Measuring costs
    time and waits for the device.

    Attributes:
        values (`dict`): For each noise level (sigma, to four digits) a number for each image, region and layer, the
            mean over the heads.
    """

    def __init__(self, painting: Painting):
        self.painting = painting
        self.values: dict[float, list[float]] = {}

    def per_sigma(self) -> dict[float, float]:
        """The mean for each noise level, the largest first."""
        return {sigma: sum(values) / len(values) for sigma, values in sorted(self.values.items(), reverse=True)}

    @torch.no_grad()
    def record(self, probabilities: torch.Tensor) -> None:
        """Takes in the attention of a layer, (painted rows, heads, pixels, columns)."""
        painting = self.painting
        sigmas = painting.sigma.expand(len(probabilities)).tolist()
        grid = painting.grid(probabilities.shape[2])
        for row, prompt, sigma in zip(probabilities, painting.rows.prompts, sigmas, strict=True):
            for region, columns in zip(painting.regions[prompt], painting.columns[prompt], strict=True):
                inside = region.coverage(*grid).flatten().to(row.device)
                outside = 1 - inside
                if not inside.any() or not outside.any():
                    continue  # a region that fills the image has no outside
                mass = row[..., list(columns)].float().sum(-1).mean(0)
                difference = (mass @ inside) / inside.sum() - (mass @ outside) / outside.sum()
                self.values.setdefault(float(f"{sigma:.4g}"), []).append(difference.item())


@contextmanager
def measure_attention_mass(painting: Painting) -> Iterator[AttentionMass]:
    """Measures the attention mass of every phrase inside its region minus outside.

        >>> with measure_attention_mass(painting) as mass, painted(unet, painting):
        ...     unet(sample, timestep, encoder_hidden_states)
        >>> mass.per_sigma()  # one mean for each noise level that the U-Net was called with

    With a pipeline of diffusers `painting` is that of the block, which comes second here as well:

        >>> block = paint_with_words(pipe, prompt, regions)
        >>> with measure_attention_mass(block.painting) as mass, block as pipe:
        ...     pipe(prompt)

    Raises:
        ValueError: The painting is measured already.
    """
    mass = AttentionMass(painting)
    with painting.observed(mass.record):
        yield mass

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What a stage's scheduler says of its network: what the output means, and the noise level of a timestep.

With x = image + sigma * noise the denoised image is D = skip * x + out * output, where

    F of EDM       skip = c_skip            out = c_out
    epsilon        skip = 1                 out = -sigma
    v_prediction   skip = 1 / (1 + sigma^2) out = -sigma / sqrt(1 + sigma^2)
    sample         skip = 0                 out = 1

The last three are those of discrete-time models, whose timesteps mean sigma = sqrt((1 - alpha_bar) / alpha_bar).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..discrete_time import betas_of, log_sigmas, settings_of
from ..edm import SIGMA_DATA, c_out, c_skip, sigma_from_c_noise

EDM = "edm"


@dataclass(frozen=True)
class Parametrization:
    """See the module.

    Args:
        kind (`str`): `edm`, `epsilon`, `v_prediction` or `sample`.
        sigma_data (`float`): Standard deviation of the training images; 1 for discrete-time models.
        log_sigmas (`np.ndarray`, *optional*): ln(sigma) of a discrete-time model's timesteps; `None` where timesteps
            are ln(sigma) / 4.
    """

    kind: str
    sigma_data: float = 1.0
    log_sigmas: np.ndarray | None = None

    @classmethod
    def of(cls, scheduler: Any) -> "Parametrization":
        """What a scheduler's configuration says.

        Raises:
            ValueError: Its noise levels are not known.
        """
        settings = settings_of(scheduler)
        kind, betas = settings.get("prediction_type", "epsilon"), betas_of(scheduler)
        if betas is not None:
            return cls(kind, 1.0, log_sigmas(betas))
        return cls(EDM if kind == "epsilon" else kind, settings.get("sigma_data", SIGMA_DATA))

    def coefficients(self, sigma: torch.Tensor) -> tuple[Any, Any]:
        """skip and out at a noise level."""
        if self.kind == "epsilon":
            return 1.0, -sigma
        if self.kind == "sample":
            return 0.0, 1.0
        sign = -1 if self.kind == "v_prediction" else 1
        return c_skip(sigma, self.sigma_data), sign * c_out(sigma, self.sigma_data)

    def sigma_of(self, timestep: torch.Tensor) -> torch.Tensor:
        """The noise level of timesteps, float32, of the same shape and without waiting for their device; between those
        of a discrete-time model ln(sigma) is interpolated."""
        if self.log_sigmas is None:
            return sigma_from_c_noise(timestep.float())
        dtype = torch.float32 if timestep.device.type == "mps" else torch.float64
        levels = torch.as_tensor(self.log_sigmas, dtype=dtype).to(timestep.device)
        t = timestep.to(dtype).clamp(0, len(levels) - 1)
        low = t.long().clamp(max=max(len(levels) - 2, 0))
        return levels[low].lerp(levels[(low + 1).clamp(max=len(levels) - 1)], t - low).exp().float()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What is asked of the pipelines of diffusers: above all the noise level of a timestep, for every scheduler."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from helpers_diffusers import SD_BETAS, build, unet_for
from helpers_paint import PROMPT, REGIONS, draw, paint

from diffusers_ediffi import paint_with_words
from diffusers_ediffi.foreign_pipelines import NoiseLevels

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # diffusers 0.42, numpy 2.4


def schedulers():
    names = {scheduler.__name__ for scheduler in EulerDiscreteScheduler().compatibles}
    return sorted({name for name in names if not name.startswith("EDM")} | {"LCMScheduler", "TCDScheduler"})


@pytest.mark.parametrize("name", schedulers())
@pytest.mark.filterwarnings("ignore")
def test_sigma_is_that_of_the_timestep_which_the_unet_receives(name):
    kind = getattr(diffusers, name)
    try:
        pipe = build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline))
        pipe.scheduler = kind(**SD_BETAS)
        draw(pipe, steps=4)
    except (ImportError, ValueError) as error:  # torchsde
        pytest.skip(str(error))
    seen = []
    block = paint_with_words(pipe, PROMPT, REGIONS, strength=2.0)
    with block:
        record = lambda _, args, kwargs: seen.append((float(args[1]), block.painting.coefficient.item()))  # noqa: E731
        handle = pipe.unet.register_forward_pre_hook(record, with_kwargs=True)
        draw(pipe, steps=4)
    handle.remove()
    alphas = pipe.scheduler.alphas_cumprod.double().numpy()
    sigmas = np.sqrt((1 - alphas) / alphas)
    assert seen
    for timestep, coefficient in seen:
        sigma = min(np.interp(timestep, np.arange(1000), sigmas), 80)
        assert coefficient == pytest.approx(2 * np.log(1 + sigma), rel=1e-4)


def test_zero_terminal_snr_is_clamped():
    pipe = build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline))
    pipe.scheduler = DDIMScheduler(**SD_BETAS, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    assert NoiseLevels(pipe)(torch.tensor(999)) == 80
    assert paint(pipe).isfinite().all()


def test_edm_schedulers_say_sigma_in_their_timesteps():
    pipe = build(StableDiffusionXLPipeline, unet_for(StableDiffusionXLPipeline))
    pipe.scheduler = EDMEulerScheduler()
    assert NoiseLevels(pipe)(torch.tensor(80.0).log() / 4).item() == pytest.approx(80, rel=1e-5)
    assert (paint(pipe) - draw(pipe)).abs().max() > 1e-3


def test_a_scheduler_without_noise_levels_is_refused():
    pipe = build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline))
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match="noise levels of FlowMatchEulerDiscreteScheduler are not known"):
        paint_with_words(pipe, PROMPT, REGIONS)

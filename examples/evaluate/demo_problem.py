# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The packaged model's base stage as an equation that samplers solve: what the scripts that compare them share."""

import torch

from diffusers_ediffi import EDiffIPipeline, EDMDEISScheduler, demo_checkpoint
from diffusers_ediffi.edm import SIGMA_MAX, SIGMA_MIN, c_in, c_noise, c_out, c_skip
from diffusers_ediffi.schedulers.sigma_grids import atan_sigmas

PROMPTS = (
    "a red car on a yellow background",
    "a rocket above a red apple on a dark blue background",
    "a cat in front of mountains",
    "a pencil sketch of a sunflower on a white background",
    "a sailboat on a beach",
    "a water colour butterfly on a green background",
    "a snowman next to a tree on a grey background",
    "a yellow star on a black background",
)
SETTINGS = ("atan_center", "atan_width", "degree", "corrector", "extrapolate", "variable_scale", "sigma_end")
DEMO_SETTINGS = {
    name: value
    for name, value in EDMDEISScheduler.load_config(demo_checkpoint(), subfolder="scheduler").items()
    if name in (*SETTINGS, "boundaries")
}
WITHOUT_BOUNDARIES = {**DEMO_SETTINGS, "boundaries": None}


class Demo:
    """The packaged model's base stage (prompts, 3, 64, 64) with its default guidance, experts for noise levels."""

    @torch.no_grad()
    def __init__(self, images: int, steps: int = 100):
        self.pipe = EDiffIPipeline.from_pretrained(demo_checkpoint(), dtype=torch.float32)
        self.unet = self.pipe.unet
        self.guidance = self.pipe.config.default_guidance_scale[0]
        tokens, pooled, tokens_2, mask_2 = self.pipe.encode_prompt(list(PROMPTS[:images]), None, False)[:4]

        def with_unconditional(x: torch.Tensor, dropped: float = 0.0) -> torch.Tensor:
            return torch.cat([torch.full_like(x, dropped), x])

        self.conditioning = {
            "encoder_hidden_states": with_unconditional(tokens),
            "encoder_hidden_states_2": with_unconditional(tokens_2),
            "encoder_attention_mask_2": with_unconditional(mask_2, 1),
            "added_cond_kwargs": {"text_embeds": with_unconditional(pooled), "image_embeds": None},
        }
        shape = (images, 3, self.unet.config.sample_size, self.unet.config.sample_size)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        self.start = SIGMA_MAX * noise.double()
        self.exact = self.solve(steps, SIGMA_MIN, SIGMA_MAX)

    @torch.no_grad()
    def denoise(self, x: torch.Tensor, sigma: float, routing_sigma: float) -> torch.Tensor:
        self.unet.select_expert(routing_sigma)
        model_input = (c_in(sigma) * torch.cat([x, x])).float()
        output = self.unet(model_input, torch.tensor(c_noise(sigma)), **self.conditioning, return_dict=False)[0]
        unconditional, conditional = output.double().chunk(2)
        output = unconditional + self.guidance * (conditional - unconditional)
        return c_skip(sigma) * x + c_out(sigma) * output

    def solve(self, steps: int, lowest: float, highest: float) -> torch.Tensor:
        """Kutta's third-order method from the highest level on a grid that breaks at the boundaries, where D jumps."""
        levels = {*atan_sigmas(steps, lowest, highest, 0.0, 4.0).tolist(), *self.unet.boundaries}
        x = highest / SIGMA_MAX * self.start
        levels_down = sorted(levels, reverse=True)
        for start, end in zip(levels_down, levels_down[1:], strict=False):
            middle, h = (start + end) / 2, end - start
            d_1 = (x - self.denoise(x, start, middle)) / start
            x_2 = x + h / 2 * d_1
            d_2 = (x_2 - self.denoise(x_2, middle, middle)) / middle
            x_3 = x - h * d_1 + 2 * h * d_2
            d_3 = (x_3 - self.denoise(x_3, end, middle)) / end
            x = x + h / 6 * (d_1 + 4 * d_2 + d_3)
        return self.denoise(x, lowest, lowest)

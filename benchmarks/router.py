# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Time of a denoising step with 1 to 6 experts against one U-Net (Figure 13's flat line).

    python benchmarks/router.py --calls 30

A step selects the expert by its sigma and calls the router, as EDiffIPipeline does. All candidates take turns, and the
ratio is the median over turns of router / U-Net measured right before and after it. Time is the processor time of this
process, so that other programs on the machine count little.
"""

import statistics
import time

import torch

from diffusers_ediffi import EDiffIUNet, ExpertRouterUNet
from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.edm import c_noise

SIGMAS = [80.0 * (0.002 / 80.0) ** (i / 11) for i in range(12)]


def build(num_experts: int, preset: str) -> ExpertRouterUNet:
    """A router whose experts share the twelve sigmas equally."""
    boundaries = [
        (SIGMAS[12 * i // num_experts - 1] * SIGMAS[12 * i // num_experts]) ** 0.5 for i in range(1, num_experts)
    ]
    unets = [EDiffIUNet.from_preset(preset) for _ in range(num_experts)]
    return ExpertRouterUNet.from_unets(unets, boundaries[::-1]).eval()


def main() -> None:
    parser = ScriptParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="demo-base", help="preset of EDiffIUNet (default: %(default)s)")
    parser.add_argument("--calls", type=whole(1), default=30, help="calls of each candidate (default: %(default)s)")
    parser.add_argument("--threads", type=whole(1), default=1, help="threads of PyTorch (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    unet = EDiffIUNet.from_preset(arguments.preset).eval()
    routers = {n: build(n, arguments.preset) for n in range(1, 7)}
    size, width = unet.config.sample_size, unet.config.encoder_hid_dim
    sample = torch.randn(1, unet.config.in_channels, size, size)
    encoder_hidden_states = torch.randn(1, 77, width)

    def seconds(router: ExpertRouterUNet | None, sigma: float) -> float:
        timestep = c_noise(torch.tensor(sigma))
        start = time.process_time()
        if router is not None:
            router.select_expert(sigma)
        (router or unet)(sample, timestep, encoder_hidden_states, return_dict=False)
        return time.process_time() - start

    ratios: dict[int, list[float]] = {n: [] for n in routers}
    single: list[float] = []
    with torch.no_grad():
        for turn in range(arguments.calls + 2):
            sigma = SIGMAS[turn % len(SIGMAS)]
            for n, router in routers.items():
                # Before and after, so that a drift of the machine's speed cancels.
                before = seconds(None, sigma)
                routed = seconds(router, sigma)
                after = seconds(None, sigma)
                if turn >= 2:  # the first turns warm up
                    ratios[n].append(2 * routed / (before + after))
                    single += [before, after]

    print(f"one U-Net ({arguments.preset}): {1e3 * statistics.median(single):.2f} ms a call")
    for n, values in ratios.items():
        print(f"{n} expert{'s' if n > 1 else ' '}: ratio {statistics.median(values):.4f}")


if __name__ == "__main__":
    with errors_in_one_line():
        main()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The time of a call of networks of growing depth and of ensembles, for capacity.py."""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from diffusers_ediffi import EDiffIUNet, ExpertRouterUNet
from diffusers_ediffi.edm import c_noise

SIGMAS = [80.0 * (0.002 / 80.0) ** (i / 11) for i in range(12)]


def build_router(num_experts: int, build: Callable[[], EDiffIUNet]) -> ExpertRouterUNet:
    """A router whose experts share the twelve sigmas as equally as they can."""
    firsts = [len(SIGMAS) * i // num_experts for i in range(1, num_experts)]
    boundaries = [(SIGMAS[first - 1] * SIGMAS[first]) ** 0.5 for first in firsts]
    return ExpertRouterUNet.from_unets([build() for _ in range(num_experts)], boundaries[::-1])


def candidates(args: argparse.Namespace) -> dict[tuple[str, int], Any]:
    """Networks by (kind, size): the preset with other `layers_per_block`, and ensembles of its smallest."""

    def build(layers: int) -> EDiffIUNet:
        return EDiffIUNet.from_preset(args.preset, layers_per_block=layers)

    found: dict[tuple[str, int], Any] = {("deeper", layers): build(layers) for layers in args.layers}
    for count in range(2, args.experts + 1):
        found["experts", count] = build_router(count, lambda: build(args.layers[0]))
    return {key: network.to(args.device, getattr(torch, args.dtype)).eval() for key, network in found.items()}


def call_seconds(network: Any, inputs: dict[str, Any], sigma: float, device: str) -> float:
    """The time of one step's call, in seconds."""
    timestep = c_noise(torch.tensor(sigma, device=device))
    start = time.perf_counter()
    if isinstance(network, ExpertRouterUNet):
        network.select_expert(sigma)
    network(timestep=timestep, return_dict=False, **inputs)
    if device != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


@torch.no_grad()
def measure(networks: dict[tuple[str, int], Any], args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each network: kind, size, parameters and the median ratio of its call to the smallest network's."""
    smallest = networks["deeper", args.layers[0]]
    config = smallest.config
    like = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    inputs = {
        "sample": torch.randn(args.batch_size, config.in_channels, config.sample_size, config.sample_size, **like),
        "encoder_hidden_states": torch.randn(args.batch_size, 77, config.encoder_hid_dim, **like),
    }
    ratios: dict[tuple[str, int], list[float]] = {key: [] for key in networks}
    for turn in range(args.calls + 2):
        for key, network in networks.items():
            sigma = SIGMAS[turn % len(SIGMAS)]
            before = call_seconds(smallest, inputs, sigma, args.device)
            seconds = call_seconds(network, inputs, sigma, args.device)
            after = call_seconds(smallest, inputs, sigma, args.device)
            if turn >= 2:  # the first turns warm up
                ratios[key].append(2 * seconds / (before + after))
    return [
        {
            "kind": kind,
            "size": size,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "ratio": statistics.median(ratios[kind, size]),
        }
        for (kind, size), network in networks.items()
    ]

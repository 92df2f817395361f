# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Time and memory of the paper's networks in bf16 on a GPU, with random weights and conditions.

    python benchmarks/paper_size.py

Prints a call of the base and of both super-resolution networks, and a training step of the base (forward, backward,
AdamW, without average or data), each the median of several after two that warm up.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from diffusers_ediffi import EDiffIUNet
from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line

CALLS = (("paper-table1", 64, 2), ("paper-table1", 64, 16), ("paper-sr256", 256, 2), ("paper-sr1024", 1024, 1))
STEPS = ((16, False), (32, True))  # images, with gradient checkpointing
CHANNELS_LAST = torch.channels_last


def random_inputs(unet: EDiffIUNet, size: int, count: int, dtype: torch.dtype) -> dict[str, Any]:
    """What a call of the network takes."""
    config, on = unet.config, {"device": unet.device, "dtype": dtype}
    sample = torch.randn(count, config.in_channels, size, size, **on).contiguous(memory_format=CHANNELS_LAST)
    pooled = {"text_embeds": config.pooled_projection_dim, "image_embeds": config.image_embed_dim}
    return {
        "sample": sample,
        "timestep": torch.ones(count, device=unet.device),
        "encoder_hidden_states": torch.randn(count, 77, config.encoder_hid_dim, **on),
        "encoder_hidden_states_2": torch.randn(count, 113, config.encoder_hid_dim_2, **on),
        "added_cond_kwargs": {name: torch.randn(count, width, **on) for name, width in pooled.items()},
        "return_dict": False,
    }


def measured(call: Callable[[], Any], turns: int, device: torch.device) -> dict[str, float]:
    """Milliseconds of a call and the peak of the GPU's memory in GB."""
    on_gpu, times = device.type == "cuda", []
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(turns + 2):
        began = time.perf_counter()
        call()
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else float("nan")
    return {"ms": round(1e3 * statistics.median(times[2:]), 1), "peak_gb": round(peak, 2)}


def build(preset: str, device: torch.device) -> EDiffIUNet:
    """The network with random weights, made where it computes."""
    torch.manual_seed(0)
    with device:
        return EDiffIUNet.from_preset(preset).to(memory_format=CHANNELS_LAST)


@torch.no_grad()
def time_of_call(preset: str, size: int, count: int, args: argparse.Namespace) -> dict[str, Any]:
    """A call of a network whose weights are bf16."""
    unet = build(preset, args.device).to(torch.bfloat16).eval()
    inputs = random_inputs(unet, size, count, torch.bfloat16)
    parameters = sum(p.numel() for p in unet.parameters())
    found = measured(lambda: unet(**inputs), args.calls, args.device)
    return {"call": preset, "parameters": parameters, "images": count, **found}


def time_of_step(preset: str, size: int, count: int, checkpointing: bool, args: argparse.Namespace) -> dict[str, Any]:
    """A training step with weights in float32 under autocast."""
    unet = build(preset, args.device).train()
    if checkpointing:
        unet.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(unet.parameters(), 1e-4, fused=True)
    inputs = random_inputs(unet, size, count, torch.float32)

    def step() -> None:
        with torch.autocast(args.device.type, torch.bfloat16):
            loss = unet(**inputs)[0].float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    found = measured(step, args.calls, args.device)
    return {"step": preset, "checkpointing": checkpointing, "images": count, **found}


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measures, prints and returns the rows."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=whole(1), default=7, help="after two that warm up")
    parser.add_argument("--tiny", action="store_true", help="the demo's networks instead, to try the script")
    parser.add_device("cuda")
    args = parser.parse_args(arguments)
    args.device = torch.device(args.device)
    rows = []
    for preset, size, count in [("demo-base-low", 64, 1)] if args.tiny else CALLS:
        rows.append(time_of_call(preset, size, count, args))
        print(json.dumps(rows[-1]), flush=True)
    for count, checkpointing in [(1, True)] if args.tiny else STEPS:
        preset = "demo-base-low" if args.tiny else "paper-table1"
        rows.append(time_of_step(preset, 64, count, checkpointing, args))
        print(json.dumps(rows[-1]), flush=True)
    return rows


if __name__ == "__main__":
    with errors_in_one_line():
        main()

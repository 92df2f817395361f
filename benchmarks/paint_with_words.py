# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What paint-with-words costs: a painted call of a U-Net against a plain one, and the same for its cross-attention.

    python benchmarks/paint_with_words.py --calls 9 --width 0.5

U-Nets with random weights in the shapes of Stable Diffusion 1.5, SDXL and eDiff-I's base. Plain and painted calls take
turns, and the ratio is the median over turns of painted / plain measured right before and after it. On a CPU time is
the processor time of this process, so that other programs on the machine count little. `--width` makes the networks
narrower, where memory or time forbid the full ones. The share of attention is larger in narrow networks, so that the
cost is then rather overestimated.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from diffusers_ediffi import EDiffIUNet, PaintRegion
from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.paint.painting import Painting
from diffusers_ediffi.paint.processor import painted

SHAPES = ("sd15", "sdxl", "ediffi", "demo-base")


def build(shape: str, width: float, layers: int | None) -> tuple[Any, int, dict[str, tuple[int, ...]]]:
    """A U-Net, the size of its input, and the shapes of its other inputs by name."""

    def wide(*channels: int) -> tuple[int, ...]:
        return tuple(64 * max(1, round(width * c / 64)) for c in channels)

    if shape == "demo-base":
        return EDiffIUNet.from_preset("demo-base"), 64, {"encoder_hidden_states": (77, 128)}
    if shape == "ediffi":
        channels = wide(256, 512, 1024, 1024)
        unet = EDiffIUNet.from_preset("paper-table1", block_out_channels=channels, layers_per_block=layers or 3)
        return unet, 64, {"encoder_hidden_states": (77, 768)}
    if shape == "sd15":
        unet = UNet2DConditionModel(
            block_out_channels=wide(320, 640, 1280, 1280),
            attention_head_dim=8,
            cross_attention_dim=768,
            layers_per_block=layers or 2,
        )
        return unet, 64, {"encoder_hidden_states": (77, 768)}
    unet = UNet2DConditionModel(
        block_out_channels=wide(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=tuple(c // 64 for c in wide(320, 640, 1280)),
        cross_attention_dim=2048,
        use_linear_projection=True,
        layers_per_block=layers or 2,
    )
    return unet, 128, {"encoder_hidden_states": (77, 2048)}


def clock(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def compare(
    call: Callable, block: Callable[[], AbstractContextManager], calls: int, device: torch.device
) -> tuple[float, float]:
    """Seconds of a plain call, and how many times as long one in the block takes: NaN if the clock sees no time pass.

    The block is entered before the clock starts: a pipeline enters it once for all of its steps.
    """

    def seconds(context: AbstractContextManager) -> float:
        with context:
            start = clock(device)
            call()
            return clock(device) - start

    ratios, single = [], []
    seconds(block())
    before = seconds(nullcontext())
    for _ in range(calls):
        middle, after = seconds(block()), seconds(nullcontext())
        if before + after:
            ratios.append(2 * middle / (before + after))
        single.append(before)
        before = after
    return statistics.median(single), statistics.median(ratios or [math.nan])


def main() -> None:
    parser = ScriptParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--calls", type=whole(1), default=9, help="painted calls of each U-Net (default: %(default)s)")
    parser.add_argument("--width", type=float, default=1.0, help="factor on the channels (default: %(default)s)")
    parser.add_argument("--layers", type=whole(1), help="residual blocks of a level (default: the model's)")
    parser.add_argument("--size", type=whole(1), help="side of the input (default: the model's, 64 or for SDXL 128)")
    parser.add_argument(
        "--threads", type=whole(1), default=1, help="threads of PyTorch on a CPU (default: %(default)s)"
    )
    parser.add_device()
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    parser.add_argument("--backend", help="attention backend of eDiff-I: native, flex, xformers")
    parser.add_argument("--xformers", action="store_true", help="xformers in the U-Nets of diffusers")
    parser.add_argument("--compile", action="store_true", help="torch.compile the U-Nets")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for shape in arguments.shapes:
        for rows in (2, 1):
            measure(shape, rows, arguments)


@torch.no_grad()
def measure(shape: str, rows: int, arguments: argparse.Namespace) -> None:
    """Prints the figures of one U-Net, with guidance (two rows, the second painted) or without (a painted row)."""
    torch.manual_seed(0)
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    unet, size, shapes = build(shape, arguments.width, arguments.layers)
    parameters = sum(parameter.numel() for parameter in unet.parameters())
    unet, size = unet.to(device, dtype).eval(), arguments.size or size
    if arguments.backend and isinstance(unet, EDiffIUNet):
        unet.set_attention_backend(arguments.backend)
    if arguments.xformers and not isinstance(unet, EDiffIUNet):
        unet.enable_xformers_memory_efficient_attention()
    is_ediffi = isinstance(unet, EDiffIUNet)
    columns = [[[3, 4, 80, 81], [9, 90]]] if is_ediffi else [[[3, 4], [9]]]
    regions = [[PaintRegion("an apple", (0.0, 0.0, 0.5, 1.0)), PaintRegion("a rocket", (0.5, 0.0, 1.0, 1.0))]]
    painting = Painting(regions, columns, 192 if is_ediffi else 77, 0.4)
    kwargs = {name: torch.randn(rows, *shape, device=device, dtype=dtype) for name, shape in shapes.items()}
    sample = torch.randn(rows, unet.config.in_channels, size, size, device=device, dtype=dtype)
    timestep = torch.tensor(0.2, device=device)
    called: dict[int, tuple] = {}
    handles = [
        layer.register_forward_pre_hook(
            lambda layer, args, kwargs: called.setdefault(args[0].shape[1], (layer, args, kwargs)) and None,
            with_kwargs=True,
        )
        for layer in unet.modules()
        if getattr(layer, "is_cross_attention", False)
    ]
    unet(sample, timestep, **kwargs)
    for handle in handles:
        handle.remove()
    network = torch.compile(unet) if arguments.compile else unet
    block = partial(painted, network, painting)
    plain, ratio = compare(partial(network, sample, timestep, **kwargs), block, arguments.calls, device)
    print(
        f"{shape} ({parameters / 1e6:.0f}M, width {arguments.width}, {size} x {size}, {arguments.dtype}, {device}), "
        f"{'guided' if rows == 2 else 'not guided'}: plain {1e3 * plain:.1f} ms, painted / plain {ratio:.3f}",
        flush=True,
    )
    if arguments.compile:
        return
    for pixels, (layer, args, layer_kwargs) in called.items():
        plain, ratio = compare(partial(layer, *args, **layer_kwargs), block, 4 * arguments.calls, device)
        print(f"  cross-attention of {pixels} pixels: plain {1e3 * plain:.2f} ms, painted / plain {ratio:.3f}")


if __name__ == "__main__":
    with errors_in_one_line():
        main()

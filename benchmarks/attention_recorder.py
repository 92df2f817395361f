# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What recording attention costs: a recorded call of a U-Net against a plain one.

    python benchmarks/attention_recorder.py --calls 9 --width 0.5

U-Nets with random weights in the shapes of `benchmarks/paint_with_words.py`, measured as there: plain and recorded
calls take turns, and the ratio is the median over turns of recorded / plain measured right before and after it; on a
CPU in processor time. Recorded are the masses alone, with heat maps, and with self-attention maps as well, of the
conditional half of guidance (two rows) and without guidance (one row).
"""

import argparse
from functools import partial
from types import SimpleNamespace

import torch
from diffusers import DDIMScheduler, EDMEulerScheduler
from paint_with_words import SHAPES, build, compare

from diffusers_ediffi import EDiffIUNet, record_attention
from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line

RECORDED = {
    "masses": {},
    "masses, heat maps": {"heat_maps": True},
    "masses, heat maps, self-attention": {"heat_maps": True, "self_attention": True},
}


def main() -> None:
    parser = ScriptParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["demo-base", "sd15"])
    parser.add_argument(
        "--calls", type=whole(1), default=9, help="recorded calls of each U-Net (default: %(default)s)"
    )
    parser.add_argument("--width", type=float, default=1.0, help="factor on the channels (default: %(default)s)")
    parser.add_argument("--layers", type=whole(1), help="residual blocks of a level (default: the model's)")
    parser.add_argument("--size", type=whole(1), help="side of the input (default: the model's, 64 or for SDXL 128)")
    parser.add_argument(
        "--threads", type=whole(1), default=1, help="threads of PyTorch on a CPU (default: %(default)s)"
    )
    parser.add_device()
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for shape in arguments.shapes:
        measure(shape, arguments)


@torch.no_grad()
def measure(shape: str, arguments: argparse.Namespace) -> None:
    """Prints the figures of one U-Net."""
    torch.manual_seed(0)
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    unet, size, shapes = build(shape, arguments.width, arguments.layers)
    parameters = sum(parameter.numel() for parameter in unet.parameters())
    unet, size = unet.to(device, dtype).eval(), arguments.size or size
    scheduler = EDMEulerScheduler() if isinstance(unet, EDiffIUNet) else DDIMScheduler()
    # The recorder asks no more of a pipeline while it draws.
    pipe = SimpleNamespace(unet=unet, scheduler=scheduler, _batch_observers=())
    timestep = torch.tensor(0.2 if isinstance(unet, EDiffIUNet) else 500.0, device=device)
    for rows in (2, 1):
        kwargs = {name: torch.randn(rows, *shape, device=device, dtype=dtype) for name, shape in shapes.items()}
        sample = torch.randn(rows, unet.config.in_channels, size, size, device=device, dtype=dtype)
        call = partial(draw_one, pipe, sample, timestep, kwargs)
        for name, settings in RECORDED.items():
            block = partial(record_attention, pipe, **settings)
            plain, ratio = compare(call, block, arguments.calls, device)
            print(
                f"{shape} ({parameters / 1e6:.0f}M, width {arguments.width}, {size} x {size}, {arguments.dtype}, "
                f"{device}), {'guided' if rows == 2 else 'not guided'}: plain {1e3 * plain:.1f} ms, with {name}: "
                f"recorded / plain {ratio:.3f}",
                flush=True,
            )


def draw_one(pipe: SimpleNamespace, sample: torch.Tensor, timestep: torch.Tensor, kwargs: dict) -> None:
    """A call like that of a pipeline which draws one image: the last row of the sample."""
    for observer in pipe._batch_observers:
        observer(pipe.unet, range(1), 1, ())
    pipe.unet(sample, timestep, **kwargs)


if __name__ == "__main__":
    with errors_in_one_line():
        main()

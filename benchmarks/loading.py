# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Memory that loading a router of random experts adds to the process, against the size of its files (target: 1.1).

    python benchmarks/loading.py --dtype float16

Linux only. The experts are written by one process and loaded by another, so that nothing is left in its memory.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from diffusers_ediffi import EDiffIUNet, ExpertRouterUNet
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.edm import c_noise

SMALL = {
    "sample_size": 16,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "self_attention_factors": (2,),
    "cross_attention_factors": (2,),
    "attention_head_dim": 8,
    "norm_num_groups": 4,
}
LARGE = {**SMALL, "block_out_channels": (512, 1024), "attention_head_dim": 64, "norm_num_groups": 32}


def resident_bytes() -> int:
    """Resident memory of this process, mapped files included."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    raise OSError("no VmRSS in /proc/self/status: this benchmark needs Linux.")


def write(folder: Path, dtype: torch.dtype, gigabytes: float) -> None:
    """Saves as many experts as fill `gigabytes`; they are the same network in memory, but separate files on disk."""
    expert = EDiffIUNet(**LARGE).to(dtype)
    for parameter in expert.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    size = sum(p.numel() * p.element_size() for p in expert.parameters())
    num_experts = int(-(-gigabytes * 1e9 // size))
    boundaries = [float(i) for i in range(1, num_experts)]
    ExpertRouterUNet.from_unets([expert] * num_experts, boundaries).save_pretrained(folder)


def call(unet: torch.nn.Module, dtype: torch.dtype, sigma: float) -> None:
    with torch.no_grad():
        sample, text = torch.randn(1, 3, 16, 16, dtype=dtype), torch.randn(1, 77, 768, dtype=dtype)
        unet(sample, c_noise(torch.tensor(sigma)), text)


def measure(folder: Path, dtype: torch.dtype) -> None:
    """Prints the memory added by loading, by the first call, and by a call of every expert."""
    files = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    call(EDiffIUNet(**SMALL).to(dtype).eval(), dtype, 1.0)  # imports and buffers of PyTorch do not count
    before = resident_bytes()
    start = time.perf_counter()
    router = ExpertRouterUNet.from_pretrained(folder, dtype="auto")
    seconds = time.perf_counter() - start
    assert router.dtype == dtype, f"stored as {dtype}, loaded as {router.dtype}"

    def report(what: str) -> None:
        added = resident_bytes() - before
        print(f"{what:28s} {added / 1e9:6.3f} GB  ratio {added / files:.3f}")

    print(f"{len(router.experts)} experts, {dtype}, files {files / 1e9:.3f} GB, loaded in {seconds:.2f} s")
    report("after loading")
    call(router, dtype, 0.5)
    report("after the first call")
    for i in range(len(router.experts)):
        call(router, dtype, i + 0.5)
    report("after a call of every expert")


def main() -> None:
    parser = ScriptParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of all experts (default: %(default)s)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)
    if arguments.measure:
        measure(arguments.measure, dtype)
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), dtype, arguments.gigabytes)
        subprocess.run([sys.executable, __file__, "--dtype", arguments.dtype, "--measure", folder], check=True)


if __name__ == "__main__":
    with errors_in_one_line():
        main()

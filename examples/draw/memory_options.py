# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What the scripts for large public models share: options, and how a pipeline is loaded in little memory."""

import argparse
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.quantizers import PipelineQuantizationConfig

from diffusers_ediffi.cli.options import writable
from diffusers_ediffi.cli.parser import PICTURES
from diffusers_ediffi.cli.scripts import ScriptParser

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def make_parser(description: str, model: str) -> argparse.ArgumentParser:
    """A parser with the options of all these scripts; `model` says what `--model` is."""
    parser = ScriptParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help=model)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--negative-prompt")
    picture = writable(*PICTURES)
    parser.add_argument("--output", type=picture, required=True, help="the picture to write, PNG, JPEG or WebP")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variant", help="the files to read, such as fp16")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights (default: bfloat16, on a CPU float32)")
    parser.add_device("cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--offload",
        choices=("none", "model", "sequential"),
        default="none",
        help="keep on the GPU all parts, the one that runs, or the layer that runs",
    )
    return parser


def add_t5_8bit(parser: argparse.ArgumentParser) -> None:
    """Adds `--t5-8bit`."""
    parser.add_argument("--t5-8bit", action="store_true", help="T5 in 8 bit, half of its memory (needs torchao)")


def dtype_of(args: argparse.Namespace) -> torch.dtype:
    """The type of the weights."""
    return DTYPES[args.dtype or ("float32" if args.device == "cpu" else "bfloat16")]


def load(args: argparse.Namespace, pipeline: Any = DiffusionPipeline) -> Any:
    """The pipeline, on its device or to be brought there part by part.

    Raises:
        OSError: There is no such pipeline, or it is damaged.
        ValueError: Offload is asked for without an accelerator.
    """
    if args.offload != "none" and args.device == "cpu":
        raise ValueError(
            f"--offload {args.offload} keeps parts off an accelerator; --device cpu is none: leave it out."
        )
    settings: dict[str, Any] = {"dtype": dtype_of(args), "variant": args.variant}
    if getattr(args, "t5_8bit", False):
        settings["quantization_config"] = eight_bits("text_encoder_2")
    pipe = pipeline.from_pretrained(args.model, **settings)
    if args.offload == "model":
        pipe.enable_model_cpu_offload(device=args.device)
    elif args.offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=args.device)
    else:
        pipe.to(args.device)
    return pipe


def eight_bits(component: str) -> PipelineQuantizationConfig:
    """Settings that load a component of transformers with weights of 8 bit."""
    from torchao.quantization import Int8WeightOnlyConfig  # optional, and slow to import
    from transformers import TorchAoConfig

    return PipelineQuantizationConfig(quant_mapping={component: TorchAoConfig(Int8WeightOnlyConfig())})

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
r"""DeepFloyd IF, stages I and II of any size, becomes one EDiffIPipeline: text to 64 x 64 to 256 x 256 in one call.

    python conversion/from_deepfloyd_if.py --output if --variant fp16 \
        --stage-1 DeepFloyd/IF-I-XL-v1.0 --stage-2 DeepFloyd/IF-II-L-v1.0

Accept the licence on the page of each repository and log in (`hf auth login`) first. A stage is a folder or a Hub id
in the format of diffusers. T5 is taken once. What the U-Nets read, and the noise on the image between the stages, goes
into model_index.json; schedulers become EDMDEISScheduler with the betas and the thresholding of IF's, which begins at
sigma = 80. Steps and guidance are those of the model cards. Stage III of IF is Stable Diffusion's upscaler, a latent
model of its own: examples/draw/deepfloyd_if.py hands pictures over to it.

Writes OUTPUT: no weight is changed, each file is compared with that of the source once it is written, and
`conversion.json` has the hashes. Nothing is written where anything fails. IF's licence is personal: do not hand the
result on.
"""

import argparse
import math
from pathlib import Path
from typing import Any

from cascades import (
    Parts,
    check_family,
    check_network,
    copy_parts,
    described,
    ediffi_scheduler,
    read_parts,
    write_index,
)
from diffusers import UNet2DConditionModel

from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.discrete_time import log_sigmas
from diffusers_ediffi.files import write_json, written_whole

LICENSE = "deepfloyd-if-license"
T5_TOKENS = 77
BETAS = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 1000}  # of both stages and of the noise between
NOISE_TIMESTEP = 250
STEPS, GUIDANCE = (100, 50), (7.0, 4.0)  # of the model cards
STAGE_1 = {"_class_name": "UNet2DConditionModel", "in_channels": 3, "out_channels": 6, "addition_embed_type": "text"}
STAGE_2 = {**STAGE_1, "in_channels": 6, "class_embed_type": "timestep"}
WITHOUT = "IFSafetyChecker does not load with transformers 5; --safety-checker keeps it"


def convert(args: argparse.Namespace) -> str:
    """Writes the output; returns the table of what went where.

    Raises:
        OSError: A source is missing or damaged, or the output exists.
        ValueError: A source is not the stage of IF that it is given for.
    """
    if args.output.exists():
        raise OSError(f"{args.output} exists: give the name of a new folder.")
    parts, schedulers, rows = collect(args)
    width = parts["text_encoder_2"].config["d_model"]
    checkers = parts.keys() & {"safety_checker", "feature_extractor"}
    if args.safety_checker and len(checkers) < 2:
        raise OSError(f"{args.stage_1} has no safety_checker and feature_extractor to keep.")
    ours = {name: ediffi_scheduler(part) for name, part in schedulers.items()}
    with written_whole(args.output) as unfinished:
        unfinished.mkdir()
        hashes = copy_parts(parts, unfinished, args.variant)
        for name, scheduler in ours.items():
            scheduler.save_pretrained(unfinished / name)
        entries = {name: part.entry for name, part in parts.items()}
        entries |= {name: ["diffusers_ediffi", "EDMDEISScheduler"] for name in ours}
        write_index(unfinished, entries, settings(parts, width))
        sources = {name: {"name": part.source, "sha256": hashes[name]} for name, part in parts.items()}
        record = {"converter": Path(__file__).name, "license": LICENSE, "parts": sources}
        write_json(unfinished / "conversion.json", record)
    return described(rows)


def collect(args: argparse.Namespace) -> tuple[Parts, Parts, list[tuple[Any, ...]]]:
    """The parts and the schedulers of both stages by their new names, all of them checked, and the table's rows."""
    optional = ("safety_checker", "feature_extractor") if args.safety_checker else ()
    first = read_parts(args.stage_1, ("unet", "scheduler", "text_encoder", "tokenizer"), args.variant, optional)
    check_family(first["unet"], STAGE_1, "stage I of DeepFloyd IF")
    renamed = {"text_encoder": "text_encoder_2", "tokenizer": "tokenizer_2"}
    parts = {renamed.get(name, name): part for name, part in first.items() if name != "scheduler"}
    schedulers = {"scheduler": first["scheduler"]}
    if args.stage_2 is not None:
        second = read_parts(args.stage_2, ("unet", "scheduler"), args.variant)
        check_family(second["unet"], STAGE_2, "stage II of DeepFloyd IF")
        parts["unet_sr256"], schedulers["scheduler_sr256"] = second["unet"], second["scheduler"]
    for part in schedulers.values():
        check_family(part, BETAS, "of DeepFloyd IF")
    unets = {name: part for name, part in parts.items() if name.startswith("unet")}
    counts = {name: check_network(part, UNet2DConditionModel, args.variant) for name, part in unets.items()}
    rows: list[tuple[Any, ...]] = [(name, part, counts.get(name), "") for name, part in parts.items()]
    rows += [(name, part, None, "as EDMDEISScheduler") for name, part in schedulers.items()]
    if args.stage_2 is not None:
        rows.append(("dropped", None, None, "T5 of stage II, which is that of stage I"))
    rows.append(("dropped", None, None, "watermarker"))
    return parts, schedulers, rows if args.safety_checker else [*rows, ("dropped", None, None, WITHOUT)]


def settings(parts: Parts, width: int) -> dict[str, Any]:
    """The settings of the pipeline: what the U-Nets read, and what the model cards advise."""
    t5 = {"columns": [0, T5_TOKENS], "widths": {"prompt_embeds_2": width}, "lowercase": True}
    text = {"encoder_hidden_states": "prompt_embeds_2"}
    unets: dict[str, Any] = {"unet": {"arguments": text}}
    sizes = [parts[name].config["sample_size"] for name in ("unet", "unet_sr256") if name in parts]
    if "unet_sr256" in parts:
        unets["unet_sr256"] = {
            "arguments": {**text, "class_labels": "noise_timestep"},
            "low_res_filter": "bilinear_align_corners",
            "noise_betas": BETAS,
        }
    return {
        "conditioning": {"encoders": {"t5": t5}, "empty_text": True, "unets": unets},
        "default_num_inference_steps": STEPS[: len(sizes)],
        "default_guidance_scale": GUIDANCE[: len(sizes)],
        "default_noise_level": [noise_level(), 0.0],
        "sr_scale": sizes[-1] // sizes[0] if len(sizes) > 1 else 4,
    }


def noise_level() -> float:
    """sigma of the noise that the model card puts on the image of stage I."""
    return math.exp(log_sigmas(BETAS)[NOISE_TIMESTEP])


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage-1", required=True, metavar="MODEL", help="such as DeepFloyd/IF-I-XL-v1.0")
    parser.add_argument("--stage-2", metavar="MODEL", help="such as DeepFloyd/IF-II-L-v1.0")
    parser.add_argument("--output", type=Path, required=True, help="the new folder")
    parser.add_argument("--variant", help="the files to read and to write, such as fp16")
    parser.add_argument("--safety-checker", action="store_true", help="keep the safety checker of stage I")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Converts and prints the table."""
    print(convert(parse_arguments(arguments)))


if __name__ == "__main__":
    with errors_in_one_line():
        main()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
r"""Karlo (unCLIP) becomes an EDiffIPipeline: its decoder is the base, its two networks of super-resolution are the
experts of a router, of which one is for the last step alone.

    python conversion/from_karlo.py --model kakaobrain/karlo-v1-alpha --output karlo

MODEL is the folder or Hub id of a pipeline of diffusers' UnCLIPPipeline; diffusers no longer loads such folders, whose
parts are read here one by one. With an image_encoder, which its image-variations model has, the pipeline draws
from a picture (`style_image`) as well. From a text alone the prior makes the picture's embedding first: it is written
to OUTPUT/prior for KandinskyPriorPipeline, see examples/draw/karlo.py.

Schedulers become EDMDEISScheduler with Karlo's betas, which begins at sigma = 80. The expert for the end draws where
the timestep is below 83, as the last of Karlo's seven steps does.

Writes OUTPUT: no weight is changed, each is compared with that of the source once it is written, and
`conversion.json` has the hashes. Nothing is written where anything fails. Karlo's licence is CreativeML OpenRAIL-M.
"""

import argparse
from pathlib import Path
from typing import Any

from cascades import (
    Part,
    Parts,
    check_family,
    check_network,
    copy_parts,
    described,
    ediffi_scheduler,
    read_parts,
    weight_files,
    write_index,
)
from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel
from networks import check_written
from sources import sha256

from diffusers_ediffi import EDMDEISScheduler, ExpertRouterUNet, UnCLIPTextProjection
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.experts.files import expert_folder, load_networks
from diffusers_ediffi.files import write_json, written_whole

LICENSE = "creativeml-openrail-m"
BETAS = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 1000}  # of UnCLIPScheduler, which has no others
STEPS, GUIDANCE = (25, 7), (8.0, 1.0)
BOUNDARY = 83.0  # in timesteps: half-way between those of the last two of seven steps, 166 and 0
CLIP_TOKENS = 77
NETWORKS = {
    "decoder": UNet2DConditionModel,
    "super_res_first": UNet2DModel,
    "super_res_last": UNet2DModel,
    "text_proj": UnCLIPTextProjection,
    "prior": PriorTransformer,
}
SCHEDULERS = {"decoder_scheduler": "scheduler", "super_res_scheduler": "scheduler_sr256"}
EXPERTS = ("super_res_last", "super_res_first")  # low noise first
OURS = {"decoder": "unet"}
RENAMED = {**OURS, **SCHEDULERS, "super_res_last": "unet_sr256/expert.0", "super_res_first": "unet_sr256/expert.1"}
REMARKS = {
    "super_res_last": f"timesteps below {BOUNDARY:g}",
    "prior": "for KandinskyPriorPipeline",
    "prior_scheduler": "for KandinskyPriorPipeline",
    **dict.fromkeys(SCHEDULERS, "as EDMDEISScheduler"),
}
DECODER = {"_class_name": "UNet2DConditionModel", "in_channels": 3, "class_embed_type": "identity"}
SUPER_RES = {"_class_name": "UNet2DModel", "in_channels": 6}


def convert(args: argparse.Namespace) -> str:
    """Writes the output; returns the table of what went where.

    Raises:
        OSError: A source is missing or damaged, or the output exists.
        ValueError: It is not Karlo.
    """
    if args.output.exists():
        raise OSError(f"{args.output} exists: give the name of a new folder.")
    needed = ("tokenizer", "text_encoder", *NETWORKS, "prior_scheduler", *SCHEDULERS)
    parts = read_parts(args.model, needed, args.variant, ("image_encoder", "feature_extractor"))
    check_family(parts["decoder"], DECODER, "Karlo")
    for name in ("super_res_first", "super_res_last"):
        check_family(parts[name], SUPER_RES, "Karlo")
    counts = {name: check_network(parts[name], network, args.variant) for name, network in NETWORKS.items()}
    copied = {OURS.get(name, name): part for name, part in parts.items() if name not in (*EXPERTS, *SCHEDULERS)}
    with written_whole(args.output) as unfinished:
        unfinished.mkdir()
        hashes = copy_parts(copied, unfinished, args.variant)
        config = {**parts["text_proj"].config, "_class_name": UnCLIPTextProjection.__name__}
        write_json(unfinished / "text_proj" / "config.json", config)
        hashes["unet_sr256"] = write_router(parts, unfinished / "unet_sr256", args.variant)
        for name, ours in SCHEDULERS.items():
            scheduler(parts[name]).save_pretrained(unfinished / ours)
        write_index(unfinished, entries(copied), settings(parts))
        sources = {name: {"name": args.model, "sha256": of_part} for name, of_part in hashes.items()}
        record = {"converter": Path(__file__).name, "license": LICENSE, "parts": sources}
        write_json(unfinished / "conversion.json", record)
    rows = ((RENAMED.get(name, name), parts[name], counts.get(name), REMARKS.get(name, "")) for name in parts)
    return described(list(rows))


def scheduler(part: Part) -> EDMDEISScheduler:
    """Our scheduler in the place of UnCLIPScheduler, whose configuration leaves out what it has no choice of."""
    return ediffi_scheduler(part, **BETAS, prediction_type=part.config.get("prediction_type", "epsilon"))


def write_router(parts: Parts, folder: Path, variant: str | None) -> dict[str, str]:
    """Writes the two networks of super-resolution as experts, the one for the end first; the hashes of their weights.

    Raises:
        OSError: A tensor was not written as it was read.
    """
    folders = [parts[name].folder for name in EXPERTS]
    networks = load_networks([UNet2DModel] * 2, folders, variant, "auto")
    router = ExpertRouterUNet(networks, boundaries=[BOUNDARY], unit="timestep", betas=BETAS)
    router.save_pretrained(folder, variant=variant)
    for index, expert in enumerate(networks):
        check_written(folder / expert_folder(index), expert.state_dict())
    return {path.parent.name + "/" + path.name: sha256(path) for f in folders for path in weight_files(f, variant)}


def entries(copied: Parts) -> dict[str, list[str]]:
    """What model_index.json says of the components."""
    ours = {name: ["diffusers_ediffi", "EDMDEISScheduler"] for name in SCHEDULERS.values()}
    ours |= {"unet_sr256": ["diffusers_ediffi", "ExpertRouterUNet"]}
    ours |= {"text_proj": ["diffusers_ediffi", UnCLIPTextProjection.__name__]}
    return {name: part.entry for name, part in copied.items() if not name.startswith("prior")} | ours


def settings(parts: Parts) -> dict[str, Any]:
    """The settings of the pipeline: what the U-Nets read, and steps and guidance of Karlo's."""
    projection, decoder, refiner = (parts[name].config for name in ("text_proj", "decoder", "super_res_first"))
    width, extra = projection["clip_embeddings_dim"], projection["clip_extra_context_tokens"]
    text = {"prompt_embeds": width, "pooled_prompt_embeds": width}
    conditioning = {
        "encoders": {
            "clip_text": {"columns": [extra, extra + CLIP_TOKENS], "widths": text, "masks_padding": True},
            "clip_image": {"columns": [0, extra], "widths": {"image_embeds": width}},
        },
        "empty_text": True,
        "unets": {
            "unet": {
                "arguments": {
                    "text_proj.image_embeds": "image_embeds",
                    "text_proj.text_embeds": "pooled_prompt_embeds",
                    "text_proj.encoder_hidden_states": "prompt_embeds",
                    "attention_mask": "prompt_attention_mask",
                }
            },
            "unet_sr256": {"arguments": {}, "low_res_filter": "bicubic_antialias"},
        },
    }
    return {
        "conditioning": conditioning,
        "default_num_inference_steps": STEPS,
        "default_guidance_scale": GUIDANCE,
        "sr_scale": refiner["sample_size"] // decoder["sample_size"],
    }


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="such as kakaobrain/karlo-v1-alpha")
    parser.add_argument("--output", type=Path, required=True, help="the new folder")
    parser.add_argument("--variant", help="the files to read and to write, such as fp16")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Converts and prints the table."""
    print(convert(parse_arguments(arguments)))


if __name__ == "__main__":
    with errors_in_one_line():
        main()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
r"""Two or more U-Nets of diffusers become experts of one router: fine-tunes for different noise levels, or SDXL's base
and refiner.

    python conversion/from_diffusers_unets.py --output two-experts --boundaries 1.0 \
        --unets LOW_NOISE_MODEL HIGH_NOISE_MODEL --pipeline HIGH_NOISE_MODEL

    python conversion/from_diffusers_unets.py --output sdxl-two-experts --boundaries 200 --unit timestep \
        --unets stabilityai/stable-diffusion-xl-refiner-1.0 stabilityai/stable-diffusion-xl-base-1.0 \
        --pipeline stabilityai/stable-diffusion-xl-base-1.0 --variant fp16

A model is a folder or the id of a repository of the Hub; of a pipeline its `unet` is taken. Lowest noise first.
Boundaries are noise levels in sigma, or timesteps of the models.

Writes OUTPUT: the router's folder, or with --pipeline a whole pipeline, whose other components are copied as they
are. Weights keep their type, and are compared with those of the sources once they are written. `conversion.json` says
where they come from, with the hashes of the files. Nothing is written where anything fails.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
from diffusers import DiffusionPipeline
from networks import check_written, network_class
from sources import Source, network_source
from tables import counted, table
from tqdm.auto import tqdm

from diffusers_ediffi import ExpertAdapter, ExpertRouterUNet
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.discrete_time import betas_of
from diffusers_ediffi.experts.files import check_weights, expert_folder, load_networks
from diffusers_ediffi.experts.routes import UNITS, check_boundaries
from diffusers_ediffi.files import write_json, written_whole

RECORD = "conversion.json"
REFINER = {"cross_attention_dim": 1280, "projection_class_embeddings_input_dim": 2560}  # of SDXL
Wanted = argparse.Namespace


def convert(args: Wanted) -> str:
    """Writes the output; returns the table of what became which expert.

    Raises:
        OSError: A source is missing or damaged, or the output exists.
        ValueError: The U-Nets do not make a router, or the pipeline has no U-Net.
    """
    if args.output.exists():
        raise OSError(f"{args.output} exists: give the name of a new folder.")
    check_boundaries(args.boundaries, len(args.unets), args.unit)
    sources = [network_source(name, args.subfolder, args.variant) for name in args.unets]
    pipeline = None if args.pipeline is None else pipeline_folder(args.pipeline, args.subfolder, args.variant)
    networks = load(sources, args.variant)
    betas = betas_for(networks, [pipeline, *(source.root for source in sources)], args.unit)
    settings = {"boundaries": args.boundaries, "unit": args.unit, "betas": betas}
    with written_whole(args.output) as unfinished:
        if pipeline is not None:
            copy_pipeline(pipeline, unfinished, args.subfolder)
        adapters = adapters_for(networks, unfinished if pipeline else None)
        router = ExpertRouterUNet(networks, **settings, adapters=adapters)
        folder = unfinished / args.subfolder if pipeline else unfinished
        router.save_pretrained(folder, variant=args.variant)
        for index, expert in enumerate(router.experts):
            check_written(folder / expert_folder(index), expert.state_dict())
        write_json(unfinished / RECORD, record(args, sources))
    return described(router, sources)


def load(sources: Sequence[Source], variant: str | None) -> list[Any]:
    """The networks, whose weights are mapped from their files."""
    configs = [json.loads((source.folder / "config.json").read_text(encoding="utf-8")) for source in sources]
    classes = [network_class(config, source.name) for config, source in zip(configs, sources, strict=True)]
    for source in sources:
        check_weights(source.folder, variant)
    bar = tqdm(list(zip(classes, sources, strict=True)), desc="loading", unit="U-Net")
    return [load_networks([network], [source.folder], variant, "auto")[0] for network, source in bar]


def pipeline_folder(name: str, subfolder: str, variant: str | None) -> Path:
    """The files of a pipeline, without its U-Net's weights where it is downloaded.

    Raises:
        OSError: There is no such pipeline.
        ValueError: It has no U-Net.
    """
    if Path(name).is_dir():
        root = Path(name)
    else:
        root = Path(DiffusionPipeline.download(name, variant=variant, **{subfolder: None}))
    if not (root / "model_index.json").is_file():
        raise OSError(f"{name} holds no pipeline: it has no model_index.json.")
    if subfolder not in json.loads((root / "model_index.json").read_text(encoding="utf-8")):
        raise ValueError(f"the pipeline {name} has no {subfolder}: --subfolder says how its U-Net is named.")
    return root


def copy_pipeline(root: Path, output: Path, subfolder: str) -> None:
    """Copies everything but the U-Net, and names the router in its place."""
    index = json.loads((root / "model_index.json").read_text(encoding="utf-8"))
    components = [name for name, value in index.items() if isinstance(value, list) and (root / name).is_dir()]
    output.mkdir()
    for name in tqdm([name for name in components if name != subfolder], desc="copying", unit="component"):
        shutil.copytree(root / name, output / name)
    router = ExpertRouterUNet
    write_json(output / "model_index.json", {**index, subfolder: [router.__module__.split(".")[0], router.__name__]})


def betas_for(networks: Sequence[Any], roots: Sequence[Path | None], unit: str) -> dict[str, Any] | None:
    """The betas of the first scheduler that is found; `None` for networks that read c_noise.

    Raises:
        ValueError: The networks have discrete timesteps, boundaries are in sigma, and no scheduler says the betas.
    """
    if all(network.config.get("preconditioning") == "edm" for network in networks):
        return None
    for file in (root / "scheduler" / "scheduler_config.json" for root in roots if root is not None):
        if file.is_file():
            config = json.loads(file.read_text(encoding="utf-8"))
            return betas_of(getattr(diffusers, config["_class_name"]).from_config(config))
    if unit == "sigma":
        raise ValueError(
            "what the timesteps of these U-Nets mean in sigma stands in a scheduler, and none is beside them: give "
            "--pipeline, or boundaries in timesteps by --unit timestep."
        )
    return None


def adapters_for(networks: Sequence[Any], pipeline: Path | None) -> list[ExpertAdapter | None] | None:
    """The adapter of SDXL's refiner beside other networks, with the pipeline's encoding of the empty text."""
    refiners = [all(network.config.get(name) == value for name, value in REFINER.items()) for network in networks]
    if not any(refiners) or all(refiners):
        return None
    adapter = ExpertAdapter.sdxl_refiner()
    if pipeline is not None:
        parts = dict.fromkeys(("unet", "vae", "image_encoder", "feature_extractor"))
        adapter = adapter.with_empty_text(DiffusionPipeline.from_pretrained(pipeline, **parts))
    return [adapter if is_refiner else None for is_refiner in refiners]


def record(args: Wanted, sources: Sequence[Source]) -> dict[str, Any]:
    """What conversion.json says."""
    files = [sorted(path for path in source.folder.glob("*.safetensors")) for source in sources]
    unets = [source.description(of_source) for source, of_source in zip(sources, files, strict=True)]
    return {"converter": Path(__file__).name, "boundaries": args.boundaries, "unit": args.unit, "unets": unets}


def described(router: Any, sources: Sequence[Source]) -> str:
    """The table: an expert a row, lowest noise first."""
    edges = [0.0, *router.boundaries, float("inf")]
    rows = []
    for index, (expert, source) in enumerate(zip(router.experts, sources, strict=True)):
        parameters = list(expert.parameters())
        size = counted(sum(parameter.numel() for parameter in parameters))
        dtypes = "/".join(sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters}))
        between = f"{edges[index]:g} to {edges[index + 1]:g}"
        adapter = "yes" if router._adapters[index] else ""
        rows.append((f"expert.{index}", between, size, len(expert.state_dict()), dtypes, adapter, source.name))
    return table(("", router.config.unit, "parameters", "tensors", "type", "adapter", "from"), rows)


def parse_arguments(arguments: list[str] | None) -> Wanted:
    """The options."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unets", nargs="+", required=True, metavar="MODEL", help="lowest noise first")
    parser.add_argument("--boundaries", nargs="*", type=float, default=[], help="one fewer than there are U-Nets")
    parser.add_argument("--unit", choices=UNITS, default="sigma", help="of the boundaries (default: sigma)")
    parser.add_argument(
        "--pipeline", metavar="MODEL", help="make it a whole pipeline, with the other parts of this one"
    )
    parser.add_argument("--output", type=Path, required=True, help="the new folder")
    parser.add_argument("--variant", help="the files to read and to write, such as fp16")
    parser.add_argument("--subfolder", default="unet", help="the U-Net in a pipeline (default: unet)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Converts and prints the table."""
    print(convert(parse_arguments(arguments)))


if __name__ == "__main__":
    with errors_in_one_line():
        main()

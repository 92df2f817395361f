# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
r"""A plain state dict, such as the checkpoint of a training run elsewhere, becomes the folder of an EDiffIUNet or of
any U-Net of diffusers.

    python conversion/from_training_checkpoint.py --checkpoint last.ckpt --key state_dict --prefix model. \
        --rename names.yaml --preset adm64 --fresh 'fusion\..*' --drop 'loss\..*' --output unet

    python conversion/from_training_checkpoint.py --checkpoint ORG/NAME --file ema.safetensors --config config.json \
        --dtype float16 --variant fp16 --output unet

A checkpoint is a file (.safetensors, or .pt, .pth, .bin, .ckpt, of which no code is run), an index of shards, a folder
with one of them, or the id of a repository of the Hub. The network is a preset of EDiffIUNet, or what a config.json
describes. --rename is a JSON or YAML file:

    exact:
      input.weight: conv_in.weight
    patterns:
      'down\.(\d+)\.block\.(\d+)\.(.+)': 'down_blocks.\1.resnets.\2.\3'

Names that it does not have stay as they are. Every tensor of the checkpoint has to find its place, or be dropped by
--drop or by lying outside of --prefix; every tensor of the network has to be filled, or declared new by --fresh (it
then begins as in an untrained network). Nothing is transposed or split: the checkpoints whose rows of query, key and
value stand in one layer have converters of their own. Shapes are compared.

Writes OUTPUT, the network's folder, with `conversion.json`, which names the source, its licence and its hashes, and
what was dropped and new. What is written is compared with what was read, and nothing is written where anything fails.
"""

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from checkpoints import PATTERNS, StateDict, read_checkpoint
from networks import check_written, main_dtype, network_class, new_weights, without_memory
from rename_table import RenameTable, compile_pattern, matched, read_table
from sources import Source, local_root, sha256
from tables import counted, listed, table
from tqdm.auto import tqdm

from diffusers_ediffi import EDiffIUNet
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.files import write_json, written_whole
from diffusers_ediffi.models.folders import check_counts, naming
from diffusers_ediffi.models.presets import PRESETS
from diffusers_ediffi.models.weight_files import check_finite

DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Plan:
    """What becomes of every tensor.

    Args:
        filled (`dict`): For each tensor of the network that is in the checkpoint, its name there.
        dropped (`list` of `str`): The names in the checkpoint that are left out.
        fresh (`list` of `str`): The names in the network that begin untrained.
    """

    filled: dict[str, str]
    dropped: list[str]
    fresh: list[str]


def convert(args: argparse.Namespace) -> str:
    """Writes the output; returns the table of what went where.

    Raises:
        OSError: The checkpoint is missing or damaged, or the output exists.
        ValueError: Its tensors do not make the network.
    """
    if args.output.exists():
        raise OSError(f"{args.output} exists: give the name of a new folder.")
    renames = RenameTable() if args.rename is None else read_table(args.rename)
    build = network_of(args)
    with naming(args.config or args.preset):
        network = without_memory(build)
    source, place = source_of(args)
    checkpoint = read_checkpoint(place, args.key)
    wanted = network.state_dict()
    plan = planned(checkpoint, wanted, renames, args)
    weights = read(checkpoint, plan, build, args.dtype and getattr(torch, args.dtype))
    network.load_state_dict(weights, assign=True)
    check_finite(network, source.name)
    with written_whole(args.output) as unfinished:
        network.save_pretrained(unfinished, variant=args.variant)
        check_written(unfinished, weights)
        write_json(unfinished / "conversion.json", record(args, source, checkpoint, plan))
    return described(checkpoint, weights, plan)


def network_of(args: argparse.Namespace) -> Any:
    """A function that builds the untrained network.

    Raises:
        OSError: There is no configuration.
        ValueError: It is not that of a U-Net.
    """
    if args.preset is not None:
        return partial(EDiffIUNet.from_preset, args.preset)
    if not args.config.is_file():
        raise OSError(f"there is no configuration {args.config}.")
    try:
        config = json.loads(args.config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{args.config} is not JSON: {error}") from error
    check_counts(config, str(args.config))
    return partial(network_class(config, args.config).from_config, config)


def source_of(args: argparse.Namespace) -> tuple[Source, Path]:
    """Where the checkpoint comes from, and its file or folder there.

    Raises:
        OSError: There is none.
    """
    place = Path(args.checkpoint)
    if place.is_file():
        return Source(place.name, place.parent, place.parent), place
    patterns = PATTERNS if args.file is None else [args.file]
    root = local_root(args.checkpoint, [*patterns, "README.md"])
    if args.file is not None and not (root / args.file).is_file():
        raise OSError(f"{args.checkpoint} holds no file {args.file}.")
    return Source(args.checkpoint, root, root), root / (args.file or "")


def planned(
    checkpoint: StateDict, wanted: Mapping[str, torch.Tensor], renames: RenameTable, args: argparse.Namespace
) -> Plan:
    """What becomes of every tensor.

    Raises:
        ValueError: Some have no place or the wrong shape, or some places stay empty.
    """
    inside = {name.removeprefix(args.prefix): name for name in checkpoint.tensors if name.startswith(args.prefix)}
    if not inside:
        raise ValueError(f"no name begins with --prefix {args.prefix!r}; they are {listed(checkpoint.tensors)}.")
    dropped = matched(inside, args.drop, "--drop")
    filled: dict[str, str] = {}
    for name, full_name in inside.items():
        if name not in dropped:
            target = renames.target(name)
            if target in filled:
                raise ValueError(f"{filled[target]} and {full_name} of the checkpoint would both become {target}.")
            filled[target] = full_name
    fresh = [name for name in matched(wanted, args.fresh, "--fresh") if name not in filled]
    check_places(filled, wanted, fresh)
    check_shapes(checkpoint, filled, wanted)
    taken = set(filled.values())
    return Plan(filled, [name for name in checkpoint.tensors if name not in taken] + checkpoint.others, fresh)


def check_places(filled: Mapping[str, str], wanted: Mapping[str, torch.Tensor], fresh: list[str]) -> None:
    """Refuses tensors without a place, and places without a tensor."""
    surplus = [
        target if target == source else f"{source} (as {target})"
        for target, source in filled.items()
        if target not in wanted
    ]
    if surplus:
        raise ValueError(
            f"the network has no place for {listed(surplus)}: rename them by --rename, or leave them out by --drop."
        )
    missing = sorted(wanted.keys() - filled.keys() - set(fresh))
    if missing:
        raise ValueError(
            f"the checkpoint has nothing for {listed(missing)} of the network: rename what it has by --rename, or "
            "declare them new by --fresh."
        )


def check_shapes(checkpoint: StateDict, filled: Mapping[str, str], wanted: Mapping[str, torch.Tensor]) -> None:
    """Refuses tensors of other shapes than the network's."""
    shapes = {target: (checkpoint.tensors[source].shape, wanted[target].shape) for target, source in filled.items()}
    wrong = [
        f"{filled[target]} {tuple(theirs)} (as {target}, which is {tuple(ours)})"
        for target, (theirs, ours) in shapes.items()
        if theirs != ours
    ]
    if wrong:
        raise ValueError(f"other shapes than the network's: {listed(wrong)}; is it of this configuration?")


def read(checkpoint: StateDict, plan: Plan, build: Any, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """The weights of the network; the new ones are made first, while nothing else takes memory.

    Raises:
        ValueError: Another type cannot hold them.
    """
    kept = main_dtype({target: checkpoint.tensors[source] for target, source in plan.filled.items()})
    weights = new_weights(build, plan.fresh, dtype or kept)
    places: set[int] = set()
    for target, source in tqdm(plan.filled.items(), desc="reading", unit="tensor"):
        tensor = checkpoint.read(source, dtype)
        # Two names of one tensor are two tensors of the network.
        weights[target] = tensor.clone() if tensor.data_ptr() in places else tensor.contiguous()
        places.add(weights[target].data_ptr())
    return weights


def record(args: argparse.Namespace, source: Source, checkpoint: StateDict, plan: Plan) -> dict[str, Any]:
    """What conversion.json says."""
    description = source.description(checkpoint.files)
    if args.license is not None or Path(args.checkpoint).is_file():
        description["license"] = args.license
    options = {"key": args.key, "prefix": args.prefix, "dtype": args.dtype}
    if args.rename is not None:
        options["rename"] = {"name": args.rename.name, "sha256": sha256(args.rename)}
    return {
        "converter": Path(__file__).name,
        "checkpoint": description,
        **options,
        "dropped": plan.dropped,
        "fresh": plan.fresh,
    }


def described(checkpoint: StateDict, weights: Mapping[str, torch.Tensor], plan: Plan) -> str:
    """The table: how much came from the checkpoint, how much is new, what was dropped."""
    rows = []
    dropped = {name: checkpoint.tensors[name] for name in plan.dropped if name in checkpoint.tensors}
    groups = (
        ({name: weights[name] for name in plan.filled}, "from the checkpoint"),
        ({name: weights[name] for name in plan.fresh}, "new, untrained"),
        (dropped, "dropped"),
    )
    for tensors, text in groups:
        for part in dict.fromkeys(name.split(".")[0] for name in tensors):
            members = [tensor for name, tensor in tensors.items() if name.split(".")[0] == part]
            dtypes = "/".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in members}))
            rows.append((part, len(members), counted(sum(tensor.numel() for tensor in members)), dtypes, text))
    rows += [(name, "", "", "no tensor", "dropped") for name in checkpoint.others]
    return table(("part", "tensors", "parameters", "type", ""), rows)


def pattern(text: str) -> re.Pattern:
    """A regular expression as an argument."""
    try:
        return compile_pattern(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, metavar="CHECKPOINT", help="a file, a folder or a Hub id")
    parser.add_argument("--file", help="the file to take of a folder or repository with several")
    parser.add_argument("--key", help="the entry of a PyTorch file with the tensors, such as state_dict or ema")
    parser.add_argument("--prefix", default="", help="take the names that begin with it alone, without it")
    parser.add_argument("--rename", type=Path, metavar="FILE", help="the table of names, JSON or YAML")
    parser.add_argument("--drop", type=pattern, nargs="+", default=[], metavar="PATTERN", help="names to leave out")
    parser.add_argument("--fresh", type=pattern, nargs="+", default=[], metavar="PATTERN", help="names that are new")
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--preset", choices=list(PRESETS), help="an EDiffIUNet")
    network.add_argument("--config", type=Path, metavar="FILE", help="the config.json of a network")
    parser.add_argument("--output", type=Path, required=True, help="the new folder")
    parser.add_argument("--dtype", choices=DTYPES, help="the type to write (default: that of the checkpoint)")
    parser.add_argument("--variant", help="of the files to write, such as fp16")
    parser.add_argument("--license", help="of the checkpoint, such as mit (default: what its model card says)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Converts and prints the table."""
    print(convert(parse_arguments(arguments)))


if __name__ == "__main__":
    with errors_in_one_line():
        main()

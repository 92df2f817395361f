# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Memory that a conversion adds to the process at its peak, against the size of what it writes (target: 1.3).

    python benchmarks/conversion_memory.py --gigabytes 2
    python benchmarks/conversion_memory.py --converters from_edm --gigabytes 0.5

Linux only. Networks with random weights are written by one process and converted by another; mapped files count as far
as they are in memory. A converter that no network is written for here takes its arguments but --output at the end:

    python benchmarks/conversion_memory.py --converters from_guided_diffusion --arguments --checkpoint lsun_bedroom.pt
"""

import argparse
import importlib
import pickle
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn

from diffusers_ediffi import EDiffIUNet
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line

CONVERSION = Path(__file__).parent.parent / "conversion"
SMALL = 0.05  # GB, of the conversion before the measured one: imports do not count


def widths(gigabytes: float, *of_one: int) -> tuple[int, ...]:
    """Channels of the levels of a network of this size in float32, from those of a network of one gigabyte."""
    return tuple(max(128, 64 * round(width * gigabytes**0.5 / 64)) for width in of_one)


def randomized(network: nn.Module) -> Any:
    """The network with weights that are all different from zero."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.02)
    return network


def write_unets(folder: Path, gigabytes: float) -> list[str]:
    """Two U-Nets in the structure of Stable Diffusion's; the arguments of the converter."""
    for name in "ab":
        channels = widths(gigabytes / 2, 192, 384, 704, 704)
        randomized(UNet2DConditionModel(block_out_channels=channels)).save_pretrained(folder / name)
    return ["--unets", str(folder / "a"), str(folder / "b"), "--boundaries", "500", "--unit", "timestep"]


def adm_network(gigabytes: float, **changes: Any) -> Any:
    """A network in the layout of ADM's."""
    return randomized(
        EDiffIUNet.from_preset("adm64", block_out_channels=widths(gigabytes, 192, 320, 512, 704), **changes)
    )


class Persistent(nn.Module):
    """Pickled as EDM pickles its modules."""

    def __reduce__(self) -> Any:
        meta = {"type": "class", "version": 6, "module_src": "", "class_name": "Any", "state": self.__dict__}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


def their_weights(unet: EDiffIUNet, family: str, blocks: Iterable[Any], separate: str) -> dict[str, torch.Tensor]:
    """The weights of a network under the names of "EDM" or "GUIDED_DIFFUSION", with 1000 classes.

    Args:
        unet (`EDiffIUNet`): The network.
        family (`str`): The table of names in `adm_layout`.
        blocks: Its residual blocks.
        separate (`str`): The name of the embedding of classes.
    """
    names = getattr(importlib.import_module("adm_layout"), family)
    layers, weights = dict(names.layers), {separate: torch.randn(1000, unet.time_embedding.linear_1.out_features)}
    for block in blocks:
        resnet = unet.get_submodule(block.ours)
        parts = {name: ours for name, ours in names.resnet.items() if hasattr(getattr(resnet, ours), "weight")}
        layers |= {f"{block.theirs}.{name}": f"{block.ours}.{ours}" for name, ours in parts.items()}
        if block.attention is not None:
            place, (norm, qkv, last) = block.ours.replace("resnets", "attentions"), names.attention
            layers |= {
                f"{block.attention}.{norm}": f"{place}.norm1",
                f"{block.attention}.{last}": f"{place}.attn1.to_out.0",
            }
            rows = [unet.get_submodule(f"{place}.attn1.{name}") for name in ("to_q", "to_k", "to_v")]
            for name in ("weight", "bias"):
                weights[f"{block.attention}.{qkv}.{name}"] = torch.cat([getattr(layer, name) for layer in rows])
    for theirs, ours in layers.items():
        weights |= {f"{theirs}.{name}": unet.get_parameter(f"{ours}.{name}") for name in ("weight", "bias")}
    return {name: tensor.detach() for name, tensor in weights.items()}


def edm_weights(unet: EDiffIUNet) -> dict[str, torch.Tensor]:
    """The weights of a network as EDM has them."""
    from adm_layout import edm_blocks

    size, classes = unet.config.sample_size, "map_label.weight"
    weights = their_weights(unet, "EDM", edm_blocks(unet), classes)
    weights[classes] = weights[classes].T.contiguous()
    conv_in = {f"enc.{size}x{size}_conv.{name}": unet.get_parameter(f"conv_in.{name}") for name in ("weight", "bias")}
    return weights | {name: tensor.detach() for name, tensor in conv_in.items()}


def guided_diffusion_weights(unet: EDiffIUNet) -> dict[str, torch.Tensor]:
    """The weights of a network as guided-diffusion has them."""
    from adm_layout import guided_diffusion_blocks

    return their_weights(unet, "GUIDED_DIFFUSION", guided_diffusion_blocks(unet), "label_emb.weight")


def write_edm(folder: Path, gigabytes: float) -> list[str]:
    """A pickle as EDM writes it."""
    persistence = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta: Any) -> None: ...

    _reconstruct_persistent_obj.__module__ = persistence.__name__
    _reconstruct_persistent_obj.__qualname__ = _reconstruct_persistent_obj.__name__
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    sys.modules |= {"torch_utils": types.ModuleType("torch_utils"), persistence.__name__: persistence}
    network = Persistent()
    for name, tensor in edm_weights(adm_network(gigabytes)).items():
        *path, last = ["model", *name.split(".")]
        place = network
        for part in path:
            place._modules.setdefault(part, nn.ModuleDict() if part in ("enc", "dec") else Persistent())
            place = place._modules[part]
        place.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
    with (folder / "edm.pkl").open("wb") as content:
        pickle.dump({"ema": network}, content)
    return ["--checkpoint", str(folder / "edm.pkl")]


def write_guided_diffusion(folder: Path, gigabytes: float) -> list[str]:
    """A file as guided-diffusion writes it, of a network in the layout of its 64 pixel model."""
    weights = guided_diffusion_weights(adm_network(gigabytes))
    torch.save(weights, folder / "64x64_diffusion.pt")
    return ["--checkpoint", str(folder / "64x64_diffusion.pt"), "--model", "adm64"]


def write_state_dict(folder: Path, gigabytes: float) -> list[str]:
    """A plain state dict with a prefix, of which a part is missing, and the configuration of its network."""
    unet = adm_network(gigabytes)
    unet.save_config(folder)
    weights = {f"model.{name}": tensor for name, tensor in unet.state_dict().items() if "attn2" not in name}
    save_file(weights, folder / "weights.safetensors")
    arguments = ["--checkpoint", folder / "weights.safetensors", "--config", folder / "config.json"]
    return [*map(str, arguments), "--prefix", "model.", "--fresh", r".*\.attn2\..*"]


WRITERS: dict[str, Callable[[Path, float], list[str]]] = {
    "from_diffusers_unets": write_unets,
    "from_edm": write_edm,
    "from_guided_diffusion": write_guided_diffusion,
    "from_training_checkpoint": write_state_dict,
}


def memory(entry: str) -> int:
    """An entry of this process's status in bytes, such as the resident memory and its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{entry}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"no {entry} in /proc/self/status: this benchmark needs Linux.")


def convert(name: str, folder: Path, small: list[str] | None, arguments: list[str]) -> None:
    """Runs a converter, the first time on a small model, and prints what the second run added."""
    main = importlib.import_module(name).main
    if small is not None:
        main([*small, "--output", str(folder / "small")])
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    start = time.perf_counter()
    main([*arguments, "--output", str(folder / "out")])
    seconds, added = time.perf_counter() - start, memory("VmHWM") - before
    size = sum(path.stat().st_size for path in (folder / "out").rglob("*.safetensors"))
    print(f"{name:28s} {size / 1e9:6.3f} GB  peak {added / 1e9:6.3f} GB  ratio {added / size:.2f}  {seconds:.0f} s")


def measure(name: str, gigabytes: float, arguments: list[str] | None) -> None:
    """Writes the networks in one process, and converts them in another."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, small = Path(temporary), None
        if arguments is None:
            sizes = {"small-model": SMALL, "model": gigabytes}
            for part in sizes:
                (folder / part).mkdir()
            small, arguments = (WRITERS[name](folder / part, size) for part, size in sizes.items())
        code = (
            f"import conversion_memory as this; this.convert({name!r}, this.Path({temporary!r}), {small}, {arguments})"
        )
        places = [str(Path(__file__).parent), str(CONVERSION)]
        code = f"import sys; sys.path[:0] = {places}; {code}"
        result = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
        print(result.stdout.splitlines()[-1])


def main() -> None:
    """Measures each converter."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--converters", nargs="+", default=list(WRITERS), help="names (default: %(default)s)")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the model (default: %(default)s)")
    parser.add_argument("--arguments", nargs=argparse.REMAINDER, help="of one converter, all but --output; the last")
    args = parser.parse_args()
    unknown = [name for name in args.converters if name not in WRITERS]
    if unknown and args.arguments is None:
        raise ValueError(f"no network is written here for {unknown[0]}: give its arguments by --arguments.")
    sys.path.insert(0, str(CONVERSION))
    for name in args.converters:
        measure(name, args.gigabytes, args.arguments)


if __name__ == "__main__":
    with errors_in_one_line():
        main()

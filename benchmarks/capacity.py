# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Time of a call against capacity: deeper networks grow slower, more experts do not (the paper's Figure 13).

    python benchmarks/capacity.py --output docs/capacity
    python benchmarks/capacity.py --preset paper-literal --layers 3 4 6 --device cuda --dtype bfloat16 --output gpu

Every candidate is called in turn, and its ratio to the smallest network is the median over the turns, each against
calls of the smallest right before and after. An ensemble's step selects its expert by sigma, as EDiffIPipeline does,
over twelve noise levels. Writes OUTPUT.json and, where matplotlib is installed, OUTPUT.png.
"""

import json
from pathlib import Path
from typing import Any

import torch
from call_time import candidates, measure

from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line


def plot(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Call time against parameters: a line for deeper networks, and a line for ensembles."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    smallest = rows[0]
    for kind, label in (("deeper", "deeper network"), ("experts", "more experts")):
        line = [smallest, *(row for row in rows if row["kind"] == kind and row is not smallest)]
        millions, times = [row["parameters"] / 1e6 for row in line], [row["ratio"] for row in line]
        axes.plot(millions, times, "o-", label=label)
    axes.set(xlabel="parameters (millions)", ylabel="time of a call (smallest = 1)", title=title)
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = ScriptParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="demo-base", help="preset of EDiffIUNet (default: %(default)s)")
    parser.add_argument(
        "--layers", type=whole(1), nargs="+", default=[1, 2, 3, 4], help="layers_per_block, smallest first"
    )
    parser.add_argument("--experts", type=whole(1), default=4, help="largest ensemble (default: %(default)s)")
    parser.add_argument("--calls", type=whole(1), default=24, help="calls of each network (default: %(default)s)")
    parser.add_argument("--batch-size", type=whole(1), default=1)
    parser.add_device()
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--threads", type=whole(1), default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="name of the files, without an ending")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    rows = measure(candidates(args), args)
    for row in rows:
        print(f"{row['kind']:8}{row['size']:3}  {row['parameters'] / 1e6:8.2f}M  ratio {row['ratio']:.3f}")
    if args.output is None:
        return
    settings = {key: value for key, value in vars(args).items() if key != "output"}
    args.output.with_suffix(".json").write_text(json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n")
    try:
        plot(rows, args.output.with_suffix(".png"), f"{args.preset}, {args.device}, {args.dtype}")
    except ImportError:
        print("No plot: it needs matplotlib (pip install matplotlib).")


if __name__ == "__main__":
    with errors_in_one_line():
        main()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The paper in miniature: its Table 1 and Figures 3, 4, 7, 8 and 13 to 18 on the demo's scenes, as one page.

    python examples/evaluate/paper_in_miniature.py --objects noto_objects --output runs/miniature

OUTPUT/report.md says for each figure what the paper says, what was measured (means over `--num-seeds` seeds of scenes
and noise, with 95% intervals) and whether that agrees; OUTPUT/data.json holds the values of each seed, and a picture
of each figure lies beside. "agrees" and "does not agree" mean that the interval of the difference lies on one side of
0. The page is written anew after each figure. Plots need matplotlib.

The packaged model has one ensemble for each stage. What compares trainings needs further networks: `--networks
base-single=FOLDER base-two=FOLDER base-level-2=FOLDER sr256-single=FOLDER` (docs/demo_experts.md trains them), where
base-two is Config C's pair of experts; base-three and sr256-two are the model's own by default. The page says what it
leaves out without them.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from held_out import add_sampling_options, add_scene_options, precision
from paper_figures import FIGURES, NETWORKS, Bench
from paper_values import SAYS, TITLES, Finding
from PIL import Image
from shared_measures import load_network, named_network

from diffusers_ediffi import Provenance, save_image
from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.files import written_whole
from diffusers_ediffi.provenance import model_name

sys.path.append(str(Path(__file__).parents[1] / "demo"))
from packaged_scenes import DRAWN_STYLES, GROUND_KINDS, PHRASES  # noqa: E402


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options; a network that cannot be loaded shows before hours of sampling."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the page")
    parser.add_argument("--model", help="pipeline folder or Hub id; by default that of the package")
    parser.add_argument("--scorer", type=Path, help="folder of a trained scorer; by default that of the package")
    parser.add_argument("--figures", nargs="+", choices=FIGURES, default=list(FIGURES), help="only these")
    parser.add_argument("--num-seeds", type=whole(1), default=3, help="from --seed on")
    parser.add_argument("--num-prompts", type=whole(4), default=48, help="of each figure, for each seed")
    parser.add_argument(
        "--num-large", type=whole(2), default=16, help="pictures of 256 x 256 of Table 1, for each seed"
    )
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 2.0, 4.0, 8.0], help="guidance of 7 and 8")
    parser.add_argument("--networks", type=named_network, nargs="+", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--preset", default="demo-base", help="network of Figure 13")
    parser.add_argument("--calls", type=whole(1), default=12, help="of each network of Figure 13, for each seed")
    add_scene_options(parser)
    add_sampling_options(parser)
    parser.set_defaults(styles=list(DRAWN_STYLES), ground_kinds=list(GROUND_KINDS), object_weights=(0.6, 0.4))
    args = parser.parse_args(arguments)
    if args.phrases is None and args.num_objects is None:
        args.phrases = list(PHRASES)
    for name, folder in args.networks:
        if name not in NETWORKS:
            raise ValueError(f"--networks {name}={folder}: there is no {name!r}; choose from {', '.join(NETWORKS)}.")
        load_network(folder)
    return args


def save_pictures(finding: Finding, args: argparse.Namespace) -> list[str]:
    """Writes the pictures of a figure; returns their names."""
    names = []
    for end, picture in finding.pictures.items():
        names.append(f"{finding.name}{end}.png")
        if isinstance(picture, Image.Image):
            save_image(picture, args.output / names[-1], Provenance({"model": model_name(args.model)}))
        else:
            picture.savefig(args.output / names[-1], dpi=110)
    return names


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows in Markdown, the first as the head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], f"|{'---|' * len(rows[0])}", *lines[1:]]


def section(finding: Finding, pictures: list[str]) -> list[str]:
    """The part of the page of one figure."""
    parts = [f"## {TITLES[finding.name]}", "", f"The paper: {SAYS[finding.name]}", ""]
    if len(finding.rows) > 1:
        parts += [*table(finding.rows), ""]
    if finding.claims:
        head = ("claim", "measured", "difference", "verdict")
        claims = [(c.text, c.measured, str(c.difference), f"**{c.verdict}**") for c in finding.claims]
        parts += [*table([head, *claims]), ""]
    parts += [f"Left out: {finding.left_out}", ""] if finding.left_out else []
    return parts + [line for name in pictures for line in (f"![{TITLES[finding.name]}]({name})", "")]


def page(findings: list[Finding], pictures: dict[str, list[str]], args: argparse.Namespace) -> str:
    """The whole page in Markdown."""
    verdicts = [claim.verdict for finding in findings for claim in finding.claims]
    counts = [f"{verdicts.count(v)} {v}" for v in ("agrees", "does not agree", "undecided") if v in verdicts]
    overview = [("figure", *("agrees", "does not agree", "undecided"), "left out")]
    for finding in findings:
        own = [claim.verdict for claim in finding.claims]
        numbers = (str(own.count(v)) for v in ("agrees", "does not agree", "undecided"))
        overview.append((TITLES[finding.name], *numbers, "yes" if finding.left_out else ""))
    lines = [
        "# The paper in miniature",
        "",
        "Figures of eDiff-I (arXiv 2211.01324) on the demo's scenes of emoji, judged by its scorer: held-out scenes, "
        "objects right by their share, Frechet distances of the scorer's features between drawn and real scenes. They "
        "are not the paper's FID and CLIP scores; what is compared is which of two is ahead.",
        "",
        f"{args.num_seeds} seeds from {args.seed}, {args.num_prompts} prompts each, model {model_name(args.model)}; "
        f"means with 95% intervals over the seeds. Of {len(verdicts)} claims: {', '.join(counts) or 'none measured'}.",
        "",
        *table(overview),
        "",
    ]
    for finding in findings:
        lines += section(finding, pictures[finding.name])
    return "\n".join(lines).rstrip() + "\n"


def write_page(findings: list[Finding], pictures: dict[str, list[str]], args: argparse.Namespace) -> dict[str, Any]:
    """Writes the page and the data; returns the data."""
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    data: dict[str, Any] = {"settings": settings, "figures": {}}
    for finding in findings:
        claims = [{"claim": c.text, "measured": c.measured, "verdict": c.verdict} for c in finding.claims]
        data["figures"][finding.name] = {"data": finding.data, "claims": claims, "left_out": finding.left_out}
    for name, text in (
        ("data.json", json.dumps(data, indent=2) + "\n"),
        ("report.md", page(findings, pictures, args)),
    ):
        with written_whole(args.output / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    return data


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measures, writes after each figure, and returns the figures."""
    args = parse_arguments(arguments)
    bench = Bench(args)
    args.output.mkdir(parents=True, exist_ok=True)
    findings: list[Finding] = []
    pictures: dict[str, list[str]] = {}
    data: dict[str, Any] = {}
    for name in args.figures:
        print(TITLES[name], flush=True)
        with precision(args):
            findings.append(FIGURES[name](bench))
        for claim in findings[-1].claims:
            print(f"  {claim.verdict}: {claim.text} ({claim.measured})", flush=True)
        pictures[name] = save_pictures(findings[-1], args)
        data = write_page(findings, pictures, args)
    print(args.output / "report.md")
    return data


if __name__ == "__main__":
    with errors_in_one_line():
        main()

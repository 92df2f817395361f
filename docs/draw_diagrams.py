# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Draw the diagrams of docs/ideas.md, as SVG.

    python docs/draw_diagrams.py

Writes experts.svg, cascade.svg, encoders.svg, paint.svg and sampler.svg into docs/diagrams, or into --output.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from diffusers_ediffi import EDMDEISScheduler, ExpertRouterUNet, demo_checkpoint

FOLDER = Path(__file__).resolve().parent / "diagrams"
WIDTH = 760
INK, GRAY, PAPER = "#24292f", "#616a73", "#ffffff"
RED, BLUE, GREEN, YELLOW = "#c8452c", "#2f6db0", "#3d8b58", "#d9a514"
PALE = {RED: "#fbe3dc", BLUE: "#dfeaf6", GREEN: "#e0f0e5", YELLOW: "#faf0d0", GRAY: "#f1f3f5"}


class Diagram:
    """Shapes on white paper, so that the diagram is readable on dark pages, too; lengths are in pixels."""

    def __init__(self, height: int, title: str):
        self.height, self.title = height, title
        self.parts: list[str] = []

    def box(
        self, x: float, y: float, width: float, height: float, color: str, label: str = "", size: int = 15
    ) -> None:
        """A box with a text in its middle, whose lines are separated by |."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="{PALE[color]}" '
            f'stroke="{color}" stroke-width="1.5"/>'
        )
        lines = label.split("|") if label else []
        for number, line in enumerate(lines):
            middle = y + height / 2 + (number - (len(lines) - 1) / 2) * (size + 4) + size * 0.35
            self.text(x + width / 2, middle, line, size=size, anchor="middle")

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: int = 14,
        anchor: str = "start",
        color: str = INK,
        bold: bool = False,
    ) -> None:
        """A line of text on its base line."""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:.4g}" font-size="{size}" text-anchor="{anchor}" fill="{color}"{weight}>'
            f"{escape(text)}</text>"
        )

    def line(
        self, points: Sequence[tuple[float, float]], color: str = INK, arrow: bool = False, dash: str = ""
    ) -> None:
        """A line through points."""
        path = " ".join(f"{x:.4g},{y:.4g}" for x, y in points)
        head = ' marker-end="url(#arrow)"' if arrow else ""
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.8"{head}{dashes}/>')

    def dot(self, x: float, y: float, color: str, radius: float = 5) -> None:
        self.parts.append(f'<circle cx="{x:.4g}" cy="{y:.4g}" r="{radius:g}" fill="{color}"/>')

    def svg(self) -> str:
        """The whole file."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" width="{WIDTH}" '
            f'height="{self.height}" font-family="Helvetica, Arial, sans-serif" role="img">\n'
            f"<title>{self.title}</title>\n"
            '<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            f'orient="auto"><path d="M0,0 L10,5 L0,10 z" fill="{INK}"/></marker></defs>\n'
            f'<rect width="{WIDTH}" height="{self.height}" rx="10" fill="{PAPER}"/>\n'
        )
        return head + "\n".join(self.parts) + "\n</svg>\n"


def experts() -> Diagram:
    """The noise levels of the packaged model's steps, and the expert of each."""
    diagram = Diagram(230, "Three experts share the noise levels; each step calls one of them")
    router = ExpertRouterUNet.load_config(f"{demo_checkpoint()}/unet")
    low, high = router["boundaries"]
    scheduler = EDMDEISScheduler.from_pretrained(demo_checkpoint(), subfolder="scheduler")
    scheduler.set_timesteps(25)
    levels = [float(sigma) for sigma in scheduler.sigmas[:25]]

    def place(sigma: float) -> float:
        return 30 + 700 * math.log(levels[0] / sigma) / math.log(levels[0] / levels[-1])

    edges = [place(sigma) for sigma in (levels[0], high, low, levels[-1])]
    texts = ("expert 2|where things are", "expert 1|what they are", "expert 0|fine detail, no text")
    for left, right, color, text in zip(edges, edges[1:], (RED, BLUE, GREEN), texts, strict=False):
        diagram.box(left, 40, right - left, 80, color, text)
        for x in (place(sigma) for sigma in levels):
            if left <= x < right or x == right == edges[-1]:
                diagram.dot(x, 145, color)
    diagram.text(30, 26, "pure noise", bold=True)
    diagram.text(730, 26, "picture", anchor="end", bold=True)
    diagram.line([(30, 168), (730, 168)], arrow=True)
    for sigma in (levels[0], high, low, levels[-1]):
        anchor = {levels[0]: "start", levels[-1]: "end"}.get(sigma, "middle")
        diagram.text(place(sigma), 188, f"sigma {sigma:.3g}", size=13, anchor=anchor, color=INK)
    diagram.text(380, 214, "each dot is a step: one call of one expert, as cheap as one network", 13, "middle", GRAY)
    return diagram


def cascade() -> Diagram:
    """Three stages, each four times as large as the one before."""
    diagram = Diagram(230, "The base draws 64 x 64 pixels, two stages enlarge them to 256 and to 1024")
    diagram.box(20, 75, 130, 60, GRAY, "prompt, style,|painted regions", 13)
    stages = (
        (220, 36, "base|64 x 64", RED),
        (410, 80, "SR256|256 x 256", BLUE),
        (580, 150, "SR1024|1024 x 1024", GREEN),
    )
    for left, side, text, color in stages:
        diagram.box(left, 105 - side / 2, side, side, color)
        for number, line in enumerate(text.split("|")):
            diagram.text(left + side / 2, 105 + side / 2 + 18 + 16 * number, line, 13, "middle", bold=not number)
    for start, end in ((150, 216), (256, 406), (490, 576)):
        diagram.line([(start + 4, 105), (end, 105)], arrow=True)
    diagram.text(333, 90, "what is where", 12, "middle", GRAY)
    diagram.text(533, 90, "details", 12, "middle", GRAY)
    diagram.text(20, 215, "Every stage is a diffusion model of its own; base and SR256 have experts.", 13, color=GRAY)
    return diagram


def encoders() -> Diagram:
    """What the networks are told: three encoders, any of which may be left out."""
    diagram = Diagram(250, "Three encoders condition the U-Net")
    rows = (
        ("T5", "113 tokens: the sentence, its grammar", RED),
        ("CLIP text", "77 tokens and 1 for the whole: what it looks like", BLUE),
        ("CLIP image", "1 for a picture: its style", GREEN),
    )
    for number, (name, told, color) in enumerate(rows):
        top = 24 + 70 * number
        diagram.box(20, top, 120, 50, color, name)
        diagram.line([(140, top + 25), (556, top + 25) if number == 1 else (556, 95 + 24 * number)], color, arrow=True)
        diagram.text(160, top + (18 if number < 2 else 44), told, 13)
    diagram.box(560, 60, 170, 120, GRAY, "expert U-Net|attends to all|of these tokens", 14)
    diagram.text(
        20,
        238,
        "Training drops each of them now and then, so that a prompt, a style or both can be given.",
        13,
        color=GRAY,
    )
    return diagram


def paint() -> Diagram:
    """Regions raise the attention of their pixels to the words of their phrase."""
    diagram = Diagram(260, "A painted region raises the attention of its pixels to the words of its phrase")
    words = (("a ", INK), ("red apple", RED), (" next to a ", INK), ("rocket", BLUE))
    spans = "".join(f'<tspan fill="{color}">{word}</tspan>' for word, color in words)
    diagram.parts.append(f'<text x="20" y="34" font-size="18" xml:space="preserve">{spans}</text>')
    diagram.box(20, 60, 160, 160, GRAY)
    diagram.box(30, 100, 60, 90, RED, "apple", 12)
    diagram.box(108, 80, 60, 90, BLUE, "rocket", 12)
    diagram.text(100, 242, "1. paint the phrases", 13, "middle", GRAY)
    diagram.line([(190, 140), (236, 140)], arrow=True)
    left, top, cell = 260, 84, 22
    for column, word in enumerate(("a", "red", "apple", "next", "to", "a", "rocket")):
        for row in range(6):
            raised = (
                RED if column in (1, 2) and row in (1, 2, 3) else BLUE if column == 6 and row in (2, 3, 4) else GRAY
            )
            diagram.box(left + cell * column, top + cell * row, cell - 3, cell - 3, raised)
        color = RED if column in (1, 2) else BLUE if column == 6 else INK
        diagram.parts.append(
            f'<text transform="translate({left + cell * column + 13},{top - 6}) rotate(-40)" font-size="12" '
            f'fill="{color}">{word}</text>'
        )
    diagram.text(left + 76, 242, "2. attention: pixels x words, some raised", 13, "middle", GRAY)
    diagram.line([(422, 140), (468, 140)], arrow=True)
    for y, line in (
        (104, "softmax((Q K^T + w A) / sqrt(d))"),
        (134, "A: 1 where a pixel is painted with the word"),
        (160, "w: w' log(1 + sigma) max(Q K^T)"),
        (186, "strong at high noise, where the layout is"),
        (204, "decided, and nothing at the end"),
    ):
        diagram.text(484, y, line, 13, color=INK if y < 170 else GRAY)
    diagram.text(610, 242, "3. no training, any U-Net that reads text", 13, "middle", GRAY)
    return diagram


def sampler() -> Diagram:
    """Where the denoised image goes is foreseen from the last evaluations."""
    diagram = Diagram(250, "The sampler extrapolates the denoised image D from its last evaluations")

    def curve(x: float) -> float:
        return 60 + 110 / (1 + math.exp((x - 330) / 70))

    diagram.line([(50, 210), (730, 210)], arrow=True)
    diagram.text(60, 230, "high noise", 13, color=GRAY)
    diagram.text(720, 230, "noise falls, step by step", 13, "end", GRAY)
    diagram.line([(50, 210), (50, 30)], arrow=True)
    diagram.text(60, 36, "D, what the network takes the picture for", 13, color=GRAY)
    known = [130, 230, 330, 430]
    diagram.line([(x, curve(x)) for x in range(100, 436, 6)], BLUE)
    ahead = [(x, curve(x) - 0.0006 * (x - 430) ** 2) for x in range(430, 541, 6)]
    diagram.line([*ahead], RED, dash="6 5")
    for x in known:
        diagram.line([(x, 210), (x, curve(x))], "#d0d7de", dash="2 4")
        diagram.dot(x, curve(x), BLUE)
    diagram.dot(*ahead[-1], RED)
    diagram.text(118, 196, "evaluations so far", 13, color=BLUE)
    diagram.text(556, ahead[-1][1] + 4, "the cubic through them", 13, color=RED)
    diagram.text(556, ahead[-1][1] + 24, "goes on: the next step", 13, color=RED)
    diagram.text(556, ahead[-1][1] + 44, "costs one call", 13, color=RED)
    return diagram


DIAGRAMS = {found.__name__: found for found in (experts, cascade, encoders, paint, sampler)}


def main(arguments: list[str] | None = None) -> None:
    """Writes all diagrams."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=FOLDER, help="the folder to write to (default: docs/diagrams)")
    folder = parser.parse_args(arguments).output
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in DIAGRAMS.items():
        (folder / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")
        print(folder / f"{name}.svg")


if __name__ == "__main__":
    main()

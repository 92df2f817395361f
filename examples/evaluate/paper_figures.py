# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Figures of the paper on the demo's scenes: each function measures one with the networks that are there, and returns
its data, what of the paper's claims agrees, and a picture."""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from held_out import generate, generators, load_pipeline, make_scenes, render
from paper_values import TABLE_1, Claim, Finding, Interval, compared
from PIL import Image
from shared_measures import CURVES, box_masks, draw_layout, figures, layout_figures, load_network, style_rates

from diffusers_ediffi import EDiffIPipeline, demo_checkpoint, record_attention
from diffusers_ediffi.demo import Scene, SceneGenerator
from diffusers_ediffi.demo.scorer import SceneScorer, frechet_distance

sys.path += [str(Path(__file__).parents[1] / "draw"), str(Path(__file__).parents[2] / "benchmarks")]
from call_time import candidates, measure  # noqa: E402
from grids_and_options import draw_grid  # noqa: E402
from switched_and_recorded import LABELS, curves, draw_switched  # noqa: E402

BASES = {"A": "base-single", "B": "base-single", "C": "base-two", "D": "base-three"}
SUPERS = {"A": "sr256-single", "B": "sr256-two", "C": "sr256-two", "D": "sr256-two"}
NETWORKS = ("base-single", "base-two", "base-three", "base-level-2", "sr256-single", "sr256-two")
LEFT = (0, 7, 30, 60, 100)  # per cent of the steps, Figure 4
VISIBLE = 5 / 255  # a mean difference of pixels in [0, 1] that an eye may see
NAMES = {"t5": "T5", "clip_text": "CLIP", "both": "both"}
SHOWN = 6  # pictures in a row
SHORT = 14  # characters that fit above a picture


class Bench:
    """The model, the scorer, the scenes of each seed, and networks that take the place of the model's own.

    Args:
        args (`argparse.Namespace`): The options of paper_in_miniature.py.
    """

    def __init__(self, args: argparse.Namespace):
        self.args = args
        make_scenes(args)  # what is wrong with its options shows before a model is loaded
        self.pipe: EDiffIPipeline = load_pipeline(args)
        self.scorer = SceneScorer.from_pretrained(args.scorer or Path(demo_checkpoint()).with_name("scorer")).eval()
        self.seeds = range(args.seed, args.seed + args.num_seeds)
        self.own = {"base-three": self.pipe.unet, "sr256-two": self.pipe.unet_sr256}
        self.networks: dict[str, Any] = {name: unet for name, unet in self.own.items() if hasattr(unet, "experts")}
        self.networks |= {name: load_network(folder).to(self.pipe.device) for name, folder in args.networks}
        self.size = self.pipe.stages[0].size

    def each_seed(self) -> Iterator[int]:
        """The seeds, one after the other; scenes and noise are those of the seed meanwhile."""
        for seed in self.seeds:
            self.args.seed = seed
            yield seed
        self.args.seed = self.seeds[0]

    def scenes(self, **changes: Any) -> SceneGenerator:
        """The held-out scenes of this seed."""
        return make_scenes(self.args, **changes)

    def batch(self, count: int, **changes: Any) -> list[Scene]:
        """The first scenes of this seed."""
        scenes = self.scenes(**changes)
        return [scenes.scene(i) for i in range(count)]

    def reference(self) -> torch.Tensor:
        """Features of real pictures of other scenes than those that are judged."""
        scenes, count = self.scenes(), self.args.num_prompts
        return self.scorer.features(render(scenes, [scenes.scene(count + i) for i in range(count)], self.size))

    def place(self, **networks: Any) -> None:
        """Puts networks into the pipeline."""
        self.pipe.register_modules(**networks)

    def grid(self, rows: list[torch.Tensor], labels: list[str], columns: list[str]) -> Image.Image:
        """Rows of pictures (count, 3, height, width) in [-1, 1] as one."""
        pictures = [
            EDiffIPipeline.numpy_to_pil(((row[:SHOWN] + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).numpy())
            for row in rows
        ]
        shown = columns[: len(pictures[0])]
        if max(map(len, shown)) > SHORT:  # captions stand in the line above the first row
            labels = [f"{labels[0]}: {' | '.join(shown)}", *labels[1:]]
            shown = [str(i + 1) for i in range(len(shown))]
        return draw_grid(pictures, labels, shown)

    @cached_property
    def sweep(self) -> dict[str, dict[float, list[dict[str, float]]]]:
        """What is right in the pictures of each text encoder, by guidance, for each seed (Figures 8 and 18)."""
        found: dict[str, dict[float, list]] = {name: {w: [] for w in self.args.scales} for name in CURVES}
        self.sweep_pictures: dict[str, torch.Tensor] = {}
        for seed in self.each_seed():
            batch, reference = self.batch(self.args.num_prompts), self.reference()
            captions = [scene.caption for scene in batch]
            for name, encoders in CURVES.items():
                for scale in self.args.scales:
                    options = {"guidance_scale": scale, "encoders": encoders}
                    images = generate(self.pipe, self.args, captions, **options)
                    found[name][scale].append(figures(self.scorer, images, batch, reference))
                    if seed == self.seeds[0] and scale == self.middle_scale:
                        self.sweep_pictures[name] = images[:SHOWN]
                        self.sweep_captions = captions[:SHOWN]
        return found

    @property
    def middle_scale(self) -> float:
        """The guidance nearest to the model's own."""
        own = self.pipe.config.default_guidance_scale[0]
        return min(self.args.scales, key=lambda scale: abs(scale - own))


def table_1(bench: Bench) -> Finding:
    """Frechet distance of each configuration at 256 x 256."""
    finding = Finding(
        "table_1", rows=[("configuration", "parameters", "Frechet", "of 64 x 64 patches", "paper's FID")]
    )
    size = bench.size * bench.pipe.config.sr_scale
    missing = sorted({name for part in (BASES, SUPERS) for name in part.values()} - bench.networks.keys())
    if missing:
        finding.left_out = f"without --networks {' '.join(f'{name}=FOLDER' for name in missing)} there is no row of "
        finding.left_out += ", ".join(c for c in BASES if BASES[c] in missing or SUPERS[c] in missing) + "."
    if size not in [stage.size for stage in bench.pipe.stages]:
        finding.left_out = "The model has no SR256."
        return finding
    for name in BASES:
        if BASES[name] in missing or SUPERS[name] in missing:
            continue
        bench.place(unet=bench.networks[BASES[name]], unet_sr256=bench.networks[SUPERS[name]])
        whole, patches = _distances(bench, size)
        parameters = sum(_count(bench.pipe.components[part]) for part in bench.pipe.components)
        finding.data[name] = {"parameters": parameters, "frechet": whole, "patch_frechet": patches}
        cells = (f"{parameters / 1e6:.1f}M", str(Interval.of(whole)), str(Interval.of(patches)))
        finding.rows.append((name, *cells, "{} ({})".format(*TABLE_1[name])))
    bench.place(unet=bench.own["base-three"], unet_sr256=bench.own["sr256-two"])
    for worse, better in (("A", "B"), ("B", "C"), ("C", "D")):
        if worse in finding.data and better in finding.data:
            key = "patch_frechet" if worse == "A" else "frechet"
            pair = (finding.data[better][key], finding.data[worse][key])
            finding.claims.append(compared(f"{better} is better than {worse}", *pair, (better, worse), low=True))
    return finding


def _distances(bench: Bench, size: int) -> tuple[list[float], list[float]]:
    """The Frechet distances of whole pictures and of patches to real scenes, for each seed."""
    whole, patches = [], []
    for _ in bench.each_seed():
        scenes, count = bench.scenes(), bench.args.num_large
        batch = [scenes.scene(i) for i in range(count)]
        drawn = []
        for i, scene in enumerate(batch):
            options = {"height": size, "width": size, "num_inference_steps": bench.args.steps, "output_type": "pt"}
            images = bench.pipe(scene.caption, generator=generators(bench.args, i, 1), **options).images
            drawn.append(images.float().cpu() * 2 - 1)
        images = torch.cat(drawn)
        real = render(scenes, [scenes.scene(count + i) for i in range(count)], size)
        whole.append(frechet_distance(bench.scorer.features(images), bench.scorer.features(real)))
        patches.append(frechet_distance(bench.scorer.patch_features(images), bench.scorer.patch_features(real)))
    return whole, patches


def _count(part: Any) -> int:
    return sum(parameter.numel() for parameter in part.parameters()) if isinstance(part, torch.nn.Module) else 0


def figure_3(bench: Bench) -> Finding:
    """The share of cross-attention that goes to the words and to the null token, by the noise level."""
    found = []
    for _ in bench.each_seed():
        captions = [scene.caption for scene in bench.batch(bench.args.num_prompts)]
        with record_attention(bench.pipe) as recorder:
            size = {"height": bench.size, "width": bench.size, "num_inference_steps": bench.args.steps}
            bench.pipe(captions, **size, generator=generators(bench.args, 0, len(captions)))
        found.append(curves([recorder]))
    third = max(1, len(found[0]["sigma"]) // 3)
    ends = {
        name: [
            [statistics.fmean(of_seed[name][part]) for of_seed in found]
            for part in (slice(third), slice(-third, None))
        ]
        for name in ("words", "null_token")
    }
    mean = {
        name: [statistics.fmean(values) for values in zip(*(f[name] for f in found), strict=True)] for name in found[0]
    }
    # Experts without cross-attention, such as the packaged one for low noise, have no part in it.
    rows = [("share of cross-attention", "first third of the steps with it", "last third")]
    rows += [(LABELS[name], *(str(Interval.of(part)) for part in ends[name])) for name in ends]
    (words_high, words_low), (null_high, null_low) = ends["words"], ends["null_token"]
    ends_named = ("first third of the steps", "last third")
    claims = [
        compared("the words get more attention at high noise", words_high, words_low, ends_named),
        compared("the null token gets more at low noise", null_low, null_high, ends_named[::-1]),
    ]

    def paint(axes: Any) -> None:
        for name in ("words", "t5", "clip_text", "null_token"):
            axes.plot(mean["sigma"], mean[name], "o-", ms=3, label=LABELS[name])
        axes.set(xscale="log", xlabel="sigma", ylabel="share of cross-attention", ylim=(0, None))
        axes.tick_params(axis="x", which="minor", labelbottom=False)
        axes.invert_xaxis()

    return Finding("figure_3", {"shares": mean}, rows, claims, plotted(paint))


def figure_4(bench: Bench) -> Finding:
    """How far pictures are from those of the first prompt, and whose objects they show, by the second's share."""
    change: dict[int, list[float]] = {left: [] for left in LEFT}
    shown: dict[int, list[tuple[float, float]]] = {left: [] for left in LEFT}
    rows_of_grid: list[list[torch.Tensor]] = []
    for seed in bench.each_seed():
        batch = bench.batch(2 * max(2, bench.args.num_prompts // 2), object_weights=(1.0,), max_objects=1)
        firsts, seconds = batch[::2], batch[1::2]
        captions = [[scene.caption for scene in half] for half in (firsts, seconds)]
        pictures = {left: draw_switched(bench.pipe, bench.args, *captions, float(left)) * 2 - 1 for left in LEFT}
        for left, images in pictures.items():
            change[left].append((images - pictures[0]).abs().mean().item() / 2)
            shown[left].append((_objects(bench, images, firsts), _objects(bench, images, seconds)))
        if seed == bench.seeds[0]:
            rows_of_grid = [[pictures[left][i] for left in LEFT] for i in range(min(3, len(firsts)))]
            labels = [f"{one} -> {other}" for one, other in zip(*captions, strict=True)][:3]
    rows = [("the second prompt's share", "difference of pixels", "first's object", "second's object")]
    for left in LEFT:
        objects = [str(Interval.of(values)) for values in zip(*shown[left], strict=True)]
        rows.append((f"last {left}%", str(Interval.of(change[left])), *objects))
    first_at_60, second_at_60 = ([pair[i] for pair in shown[60]] for i in (0, 1))
    threshold = [VISIBLE] * len(bench.seeds)
    claims = [
        compared("the last 7% have no visible impact", change[7], threshold, ("difference", "visible"), low=True),
        compared("the last 30% change the picture more", change[30], change[7], ("30%", "7%")),
        compared("in the last 60% the first is overridden", second_at_60, first_at_60, ("second's object", "first's")),
    ]
    grid = bench.grid([torch.stack(row) for row in rows_of_grid], labels, [f"last {left}%" for left in LEFT])
    return Finding("figure_4", {"difference": change, "objects": shown}, rows, claims, {"": grid})


def _objects(bench: Bench, images: torch.Tensor, batch: list[Scene]) -> float:
    """The share of pictures with the objects of their scenes."""
    return statistics.fmean(verdict["objects"] for verdict in bench.scorer.judge(images, batch))


def figure_7(bench: Bench) -> Finding:
    """A single network and four experts of level 2, over guidance."""
    missing = [name for name in ("base-single", "base-level-2") if name not in bench.networks]
    if missing:
        needed = " ".join(f"{name}=FOLDER" for name in missing)
        return Finding("figure_7", left_out=f"It needs --networks {needed}; docs/demo_experts.md trains them.")
    names = {"base-single": "one network", "base-level-2": "four experts"}
    found: dict[str, dict[float, list[dict[str, float]]]] = {n: {w: [] for w in bench.args.scales} for n in names}
    for _ in bench.each_seed():
        batch, reference = bench.batch(bench.args.num_prompts), bench.reference()
        for name, by_scale in found.items():
            bench.place(unet=bench.networks[name])
            for scale in by_scale:
                images = generate(bench.pipe, bench.args, [s.caption for s in batch], guidance_scale=scale)
                by_scale[scale].append(figures(bench.scorer, images, batch, reference))
    bench.place(unet=bench.own["base-three"])
    claims = [
        compared(
            f"the ensemble is better at guidance {scale:g}",
            _column(found["base-level-2"][scale], "frechet"),
            _column(found["base-single"][scale], "frechet"),
            ("Frechet: four experts", "one network"),
            low=True,
        )
        for scale in bench.args.scales
    ]
    return Finding("figure_7", found, _sweep_rows(found, names), claims, plotted(_trade_off(found, names)))


def _column(rows: list[dict[str, float]], key: str) -> list[float]:
    return [row[key] for row in rows]


def _sweep_rows(found: dict[str, dict[float, list]], names: dict[str, str]) -> list[tuple[str, ...]]:
    rows = [("", "guidance", "objects right", "Frechet")]
    for name, by_scale in found.items():
        for scale, of_seeds in by_scale.items():
            cells = [str(Interval.of(_column(of_seeds, key))) for key in ("objects", "frechet")]
            rows.append((names[name], f"{scale:g}", *cells))
    return rows


def _trade_off(found: dict[str, dict[float, list]], names: dict[str, str]) -> Callable[[Any], None]:
    """The paper's axes: the distance against agreement with the prompt, a point for each guidance."""

    def paint(axes: Any) -> None:
        for name, by_scale in found.items():
            points = [
                [statistics.fmean(_column(rows, key)) for key in ("objects", "frechet")] for rows in by_scale.values()
            ]
            axes.plot(*zip(*points, strict=True), "o-", ms=4, label=names[name])
            for scale, point in zip(by_scale, points, strict=True):
                axes.annotate(f"{scale:g}", point, fontsize=7, textcoords="offset points", xytext=(4, 3))
        axes.set(xlabel="objects right (agreement with the prompt)", ylabel="Frechet distance")

    return paint


def figure_8(bench: Bench) -> Finding:
    """T5 alone, CLIP text alone and both, over guidance."""
    found = bench.sweep
    claims = []
    for alone in ("t5", "clip_text"):
        for key, what, low in (("objects", "objects right", False), ("frechet", "Frechet", True)):
            both, one = (
                [statistics.fmean(row[i][key] for row in found[name].values()) for i in range(len(bench.seeds))]
                for name in ("both", alone)
            )
            text = f"both are better than {NAMES[alone]} alone ({what}, mean over guidance)"
            claims.append(compared(text, both, one, ("both", NAMES[alone]), low))
    return Finding("figure_8", found, _sweep_rows(found, NAMES), claims, plotted(_trade_off(found, NAMES)))


def figure_13(bench: Bench) -> Finding:
    """The time of a call, relative to the smallest network's, by depth and by the number of experts."""
    args = argparse.Namespace(preset=bench.args.preset, layers=[1, 2, 3], experts=4, calls=bench.args.calls)
    args = argparse.Namespace(**vars(args), batch_size=1, device=bench.args.device, dtype="float32")
    networks = candidates(args)
    runs = [measure(networks, args) for _ in bench.seeds]
    named = {"deeper": "layers in a block", "experts": "experts"}
    ratios = {(row["kind"], row["size"]): [run[i]["ratio"] for run in runs] for i, row in enumerate(runs[0])}
    rows = [("network", "parameters", "time of a call (smallest = 1)")]
    for row in runs[0]:
        time = str(Interval.of(ratios[row["kind"], row["size"]]))
        rows.append((f"{row['size']} {named[row['kind']]}", f"{row['parameters'] / 1e6:.1f}M", time))
    limit = [1.1] * len(runs)
    claims = [
        compared("three times the depth takes more time", ratios["deeper", 3], limit, ("deeper", "limit")),
        compared("four experts take no more time", ratios["experts", 4], limit, ("experts", "limit"), low=True),
    ]

    def paint(axes: Any) -> None:
        for kind, label in (("deeper", "deeper network"), ("experts", "more experts")):
            line = [row for row in runs[0] if row["kind"] == kind or row is runs[0][0]]
            times = [statistics.fmean(ratios[row["kind"], row["size"]]) for row in line]
            axes.plot([row["parameters"] / 1e6 for row in line], times, "o-", label=label)
        axes.set(xlabel="parameters (millions)", ylabel="time of a call (smallest = 1)", ylim=(0, None))

    return Finding(
        "figure_13", {f"{kind} {size}": v for (kind, size), v in ratios.items()}, rows, claims, plotted(paint)
    )


def figure_14(bench: Bench) -> Finding:
    """Captions that say each of the styles."""
    right: dict[str, list[dict[str, float]]] = {style: [] for style in bench.args.styles}
    first: dict[str, torch.Tensor] = {}
    captions: dict[str, str] = {}
    for seed in bench.each_seed():
        for style in right:
            scenes = bench.scenes(styles=[style], style_said=1.0)
            said = (scene for scene in map(scenes.scene, range(100_000)) if scene.style_said)
            batch = [next(said) for _ in range(max(2, bench.args.num_prompts // len(right)))]
            images = generate(bench.pipe, bench.args, [scene.caption for scene in batch])
            rates = style_rates(bench.scorer, images, batch)
            right[style].append({"style": rates["style_from_image"], "objects": rates["objects"]})
            if seed == bench.seeds[0]:
                first[style], captions[style] = images, batch[0].caption
    rows = [("style", "style right", "objects right")]
    rows += [
        (style, *(str(Interval.of(_column(f, key))) for key in ("style", "objects"))) for style, f in right.items()
    ]
    chance = [1 / len(bench.scorer.config.styles)] * len(bench.seeds)
    claims = [
        compared(f"{style} is drawn where it is said", _column(f, "style"), chance, ("style right", "chance"))
        for style, f in right.items()
    ]
    grid = bench.grid([*first.values()], [f"{style}: {captions[style]}, ..." for style in first], [""] * SHOWN)
    return Finding("figure_14", right, rows, claims, {"": grid})


def figure_15(bench: Bench, samples: int = 4) -> Finding:
    """Four samples of a prompt: how much they differ, and how many fit."""
    differ, fit = [], []
    rows_of_grid: list[torch.Tensor] = []
    for seed in bench.each_seed():
        batch = bench.batch(max(2, bench.args.num_prompts // samples))
        repeated = [scene for scene in batch for _ in range(samples)]
        images = generate(bench.pipe, bench.args, [scene.caption for scene in repeated])
        groups = images.unflatten(0, (-1, samples))
        pairs = [(i, j) for i in range(samples) for j in range(i)]
        differ.append(statistics.fmean((groups[:, i] - groups[:, j]).abs().mean().item() / 2 for i, j in pairs))
        fit.append(_objects(bench, images, repeated))
        if seed == bench.seeds[0]:
            rows_of_grid, labels = list(groups[:3]), [scene.caption for scene in batch[:3]]
    rows = [("", "measured")]
    rows += [("difference of pixels between samples", str(Interval.of(differ)))]
    rows += [("objects right", str(Interval.of(fit)))]
    seen, half = [VISIBLE] * len(bench.seeds), [0.5] * len(bench.seeds)
    claims = [
        compared("samples of a prompt differ visibly", differ, seen, ("difference", "visible")),
        compared("more than half of them fit", fit, half, ("objects right", "half")),
    ]
    grid = bench.grid(rows_of_grid, labels, [f"sample {i + 1}" for i in range(samples)])
    return Finding("figure_15", {"difference": differ, "objects": fit}, rows, claims, {"": grid})


def figure_16(bench: Bench) -> Finding:
    """Prompts that do not say their style, with a picture of another scene in that style and without."""
    with_it, without = [], []
    for seed in bench.each_seed():
        scenes = bench.scenes(style_said=0.0)
        batch = [scenes.scene(i) for i in range(bench.args.num_prompts)]
        later = [scenes.scene(i) for i in range(bench.args.num_prompts, 40 * bench.args.num_prompts + 400)]
        pools = {style: [scene for scene in later if scene.style == style] for style in scenes.styles}
        others = [pools[scene.style][i % len(pools[scene.style])] for i, scene in enumerate(batch)]
        references, captions = render(scenes, others, bench.size), [scene.caption for scene in batch]
        drawn = [generate(bench.pipe, bench.args, captions, style) for style in (references, None)]
        for images, rates in zip(drawn, (with_it, without), strict=True):
            found = style_rates(bench.scorer, images, batch)
            rates.append({"style": found["style_from_image"], "objects": found["objects"]})
        if seed == bench.seeds[0]:
            grid = bench.grid([references, *drawn], ["reference", "with it", "without"], captions)
    rows = [("", "style of the reference", "objects right")]
    for name, rates in (("with the reference", with_it), ("without", without)):
        rows.append((name, *(str(Interval.of(_column(rates, key))) for key in ("style", "objects"))))
    pair = (_column(with_it, "style"), _column(without, "style"))
    claims = [compared("a reference gives its style", *pair, ("with it", "without"))]
    pair = (_column(with_it, "objects"), [v - 0.1 for v in _column(without, "objects")])
    claims.append(compared("and costs at most 10 points of the objects", *pair, ("with it", "without, less 0.1")))
    return Finding("figure_16", {"with": with_it, "without": without}, rows, claims, {"": grid})


def figure_17(bench: Bench) -> Finding:
    """Scenes of two objects, painted with their boxes and not."""
    strength = bench.pipe.config.default_region_strength
    strength = strength if isinstance(strength, float) else strength[0]
    bench.args.normalizer = bench.pipe.region_normalizer
    found: dict[str, list[dict[str, float]]] = {"plain": [], "painted": []}
    for seed in bench.each_seed():
        batch = bench.batch(bench.args.num_prompts, object_weights=(0.0, 1.0), max_objects=2)
        drawn = {
            name: draw_layout(bench.pipe, batch, w, bench.args) for name, w in (("plain", 0.0), ("painted", strength))
        }
        reference = bench.reference()
        for name, images in drawn.items():
            found[name].append(layout_figures(bench.scorer, images, batch, reference))
        if seed == bench.seeds[0]:
            boxes = torch.stack([_boxes(scene, bench.size) for scene in batch])
            grid = bench.grid([boxes, *drawn.values()], ["boxes", *drawn], [scene.caption for scene in batch])
    keys = {"iou": "IoU of objects and boxes", "two_objects": "both objects right", "frechet": "Frechet"}
    rows = [("", *keys.values())]
    rows += [(name, *(str(Interval.of(_column(f, key))) for key in keys)) for name, f in found.items()]
    pair = (_column(found["painted"], "iou"), _column(found["plain"], "iou"))
    claims = [compared("objects come where they were painted", *pair, ("IoU painted", "plain"))]
    return Finding("figure_17", {"strength": strength, **found}, rows, claims, {"": grid})


def _boxes(scene: Scene, size: int) -> torch.Tensor:
    """The boxes of a scene as a picture (3, size, size) in [-1, 1], the first in red, the second in blue."""
    masks = [torch.as_tensor(mask).float() for mask in box_masks(scene, size).values()]
    return 1 - 2 * torch.stack([masks[1], torch.stack(masks[:2]).amax(0), masks[0]])


def figure_18(bench: Bench) -> Finding:
    """What each text encoder gets right, at the guidance nearest to the model's own."""
    at = {name: rows[bench.middle_scale] for name, rows in bench.sweep.items()}
    keys = {"one_object": "the object", "two_objects": "both objects", "relation": "objects and relation"}
    rows = [("", *keys.values())]
    rows += [(NAMES[name], *(str(Interval.of(_column(f, key))) for key in keys)) for name, f in at.items()]
    objects = {name: _column(f, "objects") for name, f in at.items()}
    relation = {name: _column(f, "relation") for name, f in at.items()}
    claims = [
        compared("CLIP alone gets more objects than T5 alone", objects["clip_text"], objects["t5"], ("CLIP", "T5")),
        compared("T5 alone composes better than CLIP alone", relation["t5"], relation["clip_text"], ("T5", "CLIP")),
        compared(
            "both compose at least as T5 (less 0.05)",
            relation["both"],
            [v - 0.05 for v in relation["t5"]],
            ("both", "T5 less 0.05"),
        ),
    ]
    pictures = [bench.sweep_pictures[name] for name in at]
    grid = bench.grid(pictures, [NAMES[name] for name in at], bench.sweep_captions)
    return Finding("figure_18", at, rows, claims, {"": grid})


def plotted(paint: Callable[[Any], None]) -> dict[str, Any]:
    """A plot, where matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return {}
    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.subplots()
    paint(axes)
    axes.legend()
    return {"": figure}


FIGURES: dict[str, Callable[[Bench], Finding]] = {
    function.__name__: function
    for function in (
        table_1,
        figure_3,
        figure_4,
        figure_7,
        figure_8,
        figure_13,
        figure_14,
        figure_15,
        figure_16,
        figure_17,
        figure_18,
    )
}
__all__ = ["FIGURES", "NETWORKS", "Bench", "Claim"]

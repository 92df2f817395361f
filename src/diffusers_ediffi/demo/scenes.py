# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Endless captioned scenes for the demo model: one to three objects, a ground, a relation, a drawing style.

Everything is a pure function of `(seed, split, index)`: a scene is a small description (`Scene`) that is drawn at any
size on demand, and every phrase of its caption has an exact mask. Positions lie on a grid of 1/64 of the side and
effects are defined in fractions of the side, so the same scene drawn at 64, 256 and 1024 pixels agrees.

The objects come from a folder that the caller names:

    folder/
      index.json      [{"file": "png/rocket.png", "phrase": "rocket"}, ...]
      png/rocket.png  RGBA, any size (512 x 512 suits scenes of 1024)

Such a folder is made from a clone of https://github.com/googlefonts/noto-emoji (its folder `png/512`, Apache-2.0) by
`python examples/demo/make_object_folder.py --noto-emoji CLONE --output FOLDER`. Any other RGBA pictures do as well.

Only numpy and Pillow are needed here.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..images import file_in_folder, open_image
from .grounds import GROUNDS, LANDSCAPES, Ground, paint_ground
from .styles import STYLE_PAINTERS, STYLE_WORDS, STYLES

Box = tuple[float, float, float, float]

GRID = 64  # boxes lie on multiples of 1 / GRID of the side
HELD_OUT_SHARE = 20  # 1 of this many (object, object) and (object, ground) combinations is never in "train"
MAX_TRIES = 20_000
SPLITS = ("train", "held_out")

RELATIONS = ("single", "above", "below", "left of", "right of", "next to", "in a row")
TWO_OBJECT_RELATIONS = RELATIONS[1:6]
_KIND_WEIGHTS = {"plain": 0.5, "gradient": 0.2, "landscape": 0.3}
OPENINGS = ("", "", "", "", "a picture of", "an image of", "a drawing of", "a scene with")
# What stands between two objects.
JOINTS: dict[str, tuple[str, ...]] = {
    "above": (" above ", " above ", " over "),
    "below": (" below ", " below ", " under "),
    "left of": (" to the left of ", " left of "),
    "right of": (" to the right of ", " right of "),
    "next to": (" next to ", " beside ", " and "),
}


@dataclass(eq=False)
class SceneObject:
    """A phrase and its picture.

    Args:
        phrase (`str`): How captions call the object, without an article ("red apple").
        image (`PIL.Image.Image`): RGBA, cropped to what is not transparent.
    """

    phrase: str
    image: Image.Image
    _cache: dict[tuple[int, int], Image.Image] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        # Premultiplied, so that transparent pixels lend no colour to the edges when it is resized.
        self._levels = [self.image.convert("RGBa")]
        while min(self._levels[-1].size) >= 64:
            self._levels.append(self._levels[-1].reduce(2))

    @property
    def aspect(self) -> float:
        """Width divided by height."""
        return self.image.width / self.image.height

    def sprite(self, width: int, height: int) -> Image.Image:
        """The picture at a size in pixels, RGBA; small ones are kept, since rendering at 64 is mostly this."""
        cached = self._cache.get((width, height))
        if cached is not None:
            return cached
        shrinks = self.image.width >= width and self.image.height >= height
        method = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
        # Boxes take whole pixels, so the level must be a good deal finer than what is asked for.
        fine = [k for k, image in enumerate(self._levels) if image.width >= 3 * width and image.height >= 3 * height]
        level = fine[-1] if fine else 0
        # Halving an odd number of pixels rounds up: the box says where the picture truly ends.
        extent = (0, 0, self.image.width / 2**level, self.image.height / 2**level)
        sprite = self._levels[level].resize((width, height), method, box=extent).convert("RGBA")
        if width * height <= GRID * GRID:
            self._cache[(width, height)] = sprite
        return sprite


def load_objects(folder: str | Path, phrases: Sequence[str] | None = None) -> list[SceneObject]:
    """Loads the objects of a folder with an `index.json` (see the module's description).

    Args:
        folder (`str` or `Path`): The folder that holds `index.json`.
        phrases (`list` of `str`, *optional*): Only these objects, in this order; all of them by default.

    Raises:
        OSError: The index or a picture is missing or unreadable.
        ValueError: The index is malformed, a phrase is listed twice or unknown, a picture is not RGBA or empty.
    """
    folder = Path(folder)
    files = _read_index(folder / "index.json")
    if phrases is not None:
        unknown = [phrase for phrase in phrases if phrase not in files]
        if unknown:
            raise ValueError(f"{folder / 'index.json'} has no object {unknown[0]!r}; it has: {', '.join(files)}.")
        if len(set(phrases)) < len(phrases):
            raise ValueError(f"`phrases` names an object twice: {list(phrases)}.")
    return [_load_object(folder, files[phrase], phrase) for phrase in (files if phrases is None else phrases)]


def _read_index(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: an object folder has an index.json that lists its pictures.")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f'{path} must be a list of {{"file": ..., "phrase": ...}}, with one entry or more.')
    files: dict[str, str] = {}
    for entry in entries:
        _check_entry(path, entry, files)
        files[entry["phrase"]] = entry["file"]
    return files


def _check_entry(path: Path, entry: Any, files: dict[str, str]) -> None:
    """Refuses an entry of the index; `files` are those before it."""
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("file", "phrase")):
        raise ValueError(f'{path}: an entry must be {{"file": ..., "phrase": ...}}, got {entry!r}.')
    phrase = entry["phrase"]
    if not phrase.strip() or phrase != phrase.strip():
        raise ValueError(f"{path}: the phrase {phrase!r} is empty or has spaces around it.")
    if phrase in files:
        raise ValueError(f"{path} lists the phrase {phrase!r} twice; give every object another phrase.")


def _load_object(folder: Path, file: str, phrase: str) -> SceneObject:
    path = file_in_folder(folder, file)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing, although index.json lists it for {phrase!r}.")
    try:
        image = open_image(path)
    except ValueError as error:
        raise OSError(str(error)) from None
    if image.mode != "RGBA":
        raise ValueError(f"{path} has mode {image.mode}; objects are RGBA pictures with a transparent ground.")
    alpha_box = image.getchannel("A").getbbox()
    if alpha_box is None:
        raise ValueError(f"{path} is wholly transparent; there is no object in it.")
    return SceneObject(phrase, image.crop(alpha_box))


@dataclass(frozen=True)
class PlacedObject:
    """An object in a scene; `box` is (left, top, right, bottom) in fractions of the side, `span` its phrase's place
    in the caption: `caption[span[0] : span[1]] == phrase`."""

    phrase: str
    box: Box
    span: tuple[int, int]


@dataclass(frozen=True)
class Scene:
    """What is to be seen. `relation` (one of `RELATIONS`) is that of the first object to the second; `variation`
    seeds what captions do not say, such as the run of the hills."""

    objects: tuple[PlacedObject, ...]
    relation: str
    ground: Ground
    style: str
    style_said: bool
    caption: str
    variation: int

    @property
    def phrases(self) -> tuple[str, ...]:
        return tuple(placed.phrase for placed in self.objects)


def with_article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    consonant_sound = phrase.lower().startswith(("uni", "use", "eu", "one"))
    vowel_sound = phrase[0].lower() in "aeiou" and not consonant_sound
    return f"an {phrase}" if vowel_sound or phrase.lower().startswith(("hour", "honest")) else f"a {phrase}"


def is_held_out(phrases: Sequence[str], ground: Ground) -> bool:
    """Whether a scene of these objects on this ground has a combination that the split "train" never shows."""
    pairs = [tuple(sorted((a, b))) for i, a in enumerate(phrases) for b in phrases[i + 1 :]]
    pairs += [(phrase, f"{ground.kind}:{ground.name}") for phrase in phrases]
    return any(zlib.crc32("|".join(pair).encode()) % HELD_OUT_SHARE == 0 for pair in pairs)


class SceneGenerator:
    """Draws scenes; scene `index` depends on `seed`, `split` and the lists given here, and on nothing else.

    The split "train" never shows about 5% of the pairs of objects and of the pairs of object and ground; every scene
    of the split "held_out" has at least one of these, so its prompts are new in combination, not only in number.

    Args:
        objects (`list` of `SceneObject`): What `load_objects` returns.
        styles (`list` of `str`): Names out of `STYLES`.
        grounds (`list` of `Ground`): Grounds out of `GROUNDS`.
        max_objects (`int`): Most objects in a scene, 1 to 3.
        object_weights (`list` of `float`): How often there are one, two and three objects, relative to each other.
        style_said (`float`): Share of captions that say their style ("flat" is said a fifth as often).
        flat_share (`float`): Share of flat scenes, if "flat" is not the only style; the others share the rest equally.
        seed (`int`): Any non-negative number.
        split (`str`): `train` or `held_out`.

    Raises:
        ValueError: An argument is out of its range, or names what does not exist.
    """

    def __init__(
        self,
        objects: Sequence[SceneObject],
        styles: Sequence[str] = STYLES,
        grounds: Sequence[Ground] = GROUNDS,
        max_objects: int = 3,
        object_weights: Sequence[float] = (0.5, 0.4, 0.1),
        style_said: float = 0.5,
        flat_share: float = 0.5,
        seed: int = 0,
        split: str = "train",
    ) -> None:
        _check_choices(objects, styles, grounds, split)
        weights = _count_weights(max_objects, object_weights, len(objects))
        _check_numbers(style_said, flat_share, seed)
        self.objects = {thing.phrase: thing for thing in objects}
        self.phrases = tuple(self.objects)
        self.styles = tuple(styles)
        self.grounds = tuple(grounds)
        self.style_said = style_said
        self.seed = seed
        self.split = split
        self._count_cdf = np.cumsum(weights / weights.sum())
        others = max(len(styles) - 1, 1)
        self._style_cdf = _cdf([flat_share * others if style == "flat" else 1 - flat_share for style in styles])
        kinds = [ground.kind for ground in grounds]
        self._ground_cdf = _cdf([_KIND_WEIGHTS[kind] / kinds.count(kind) for kind in kinds])

    def scene(self, index: int) -> Scene:
        """Scene number `index` (0 or more, without end)."""
        rng = np.random.default_rng([SPLITS.index(self.split), self.seed, index])
        phrases, ground = self._draw_combination(rng)
        style = self.styles[_pick(self._style_cdf, rng)]
        said = bool(rng.random() < self.style_said * (0.2 if style == "flat" else 1.0))
        relation = ("single", str(rng.choice(TWO_OBJECT_RELATIONS)), "in a row")[len(phrases) - 1]
        boxes = _place([self.objects[phrase].aspect for phrase in phrases], relation, rng)
        caption, spans = _caption(phrases, relation, ground, style if said else None, rng)
        placed = tuple(PlacedObject(*parts) for parts in zip(phrases, boxes, spans, strict=True))
        return Scene(placed, relation, ground, style, said, caption, int(rng.integers(2**32)))

    def _draw_combination(self, rng: np.random.Generator) -> tuple[list[str], Ground]:
        """Phrases and a ground of this split; others are drawn again."""
        count = _pick(self._count_cdf, rng) + 1
        for _ in range(MAX_TRIES):
            phrases = [self.phrases[i] for i in _distinct(count, len(self.phrases), rng)]
            ground = self.grounds[_pick(self._ground_cdf, rng)]
            if is_held_out(phrases, ground) == (self.split == "held_out"):
                return phrases, ground
        raise ValueError(
            f"{len(self.phrases)} objects and {len(self.grounds)} grounds leave no combination of {count} object(s) "
            f"for the split {self.split!r}; give more objects or grounds."
        )

    def render(self, scene: Scene, size: int) -> Image.Image:
        """The scene as an RGB picture of `size` x `size` pixels."""
        _check_size(size)
        return STYLE_PAINTERS[scene.style](partial(self.render_flat, scene), scene.variation, size)

    def render_flat(self, scene: Scene, size: int) -> Image.Image:
        """The scene before its style is applied."""
        image = paint_ground(scene.ground, scene.variation, size)
        for placed in scene.objects:
            left, top, width, height = _pixel_box(placed.box, size)
            sprite = self.objects[placed.phrase].sprite(width, height)
            image.paste(sprite, (left, top), sprite)
        return image

    def masks(self, scene: Scene, size: int) -> dict[str, np.ndarray]:
        """For each phrase the share of every pixel that its object covers: `(size, size)` float32 from 0 to 1.

        Objects later in the scene hide earlier ones. A style changes colours, not masks.
        """
        _check_size(size)
        masks: dict[str, np.ndarray] = {}
        free = np.ones((size, size), dtype=np.float32)
        for placed in reversed(scene.objects):
            left, top, width, height = _pixel_box(placed.box, size)
            sprite = self.objects[placed.phrase].sprite(width, height)
            alpha = np.asarray(sprite.getchannel("A"), dtype=np.float32) / 255
            mask = np.zeros((size, size), dtype=np.float32)
            window = (slice(top, top + height), slice(left, left + width))
            mask[window] = alpha * free[window]
            free[window] *= 1 - alpha
            masks[placed.phrase] = mask
        return {phrase: masks[phrase] for phrase in scene.phrases}


def _check_choices(
    objects: Sequence[SceneObject], styles: Sequence[str], grounds: Sequence[Ground], split: str
) -> None:
    if not objects:
        raise ValueError("`objects` is empty; load some with `load_objects`.")
    phrases = [thing.phrase for thing in objects]
    if len(set(phrases)) < len(phrases):
        raise ValueError(f"`objects` has two objects of the same phrase: {sorted(phrases)}.")
    if not styles or any(style not in STYLES for style in styles):
        raise ValueError(f"`styles` must be some of {STYLES}, got {tuple(styles)}.")
    if not grounds or any(ground not in GROUNDS for ground in grounds):
        raise ValueError(f"`grounds` must be some of `GROUNDS`, got {tuple(grounds)}.")
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}, got {split!r}.")


def _count_weights(max_objects: int, object_weights: Sequence[float], known: int) -> np.ndarray:
    """How often there are one, two, ... objects, `(max_objects,)`."""
    if max_objects not in (1, 2, 3) or max_objects > known:
        raise ValueError(f"`max_objects` must be 1 to 3 and at most the {known} objects, got {max_objects}.")
    weights = np.asarray(object_weights, dtype=np.float64)[:max_objects]
    if len(weights) < max_objects or not np.isfinite(weights).all() or weights.min() < 0 or weights.sum() <= 0:
        raise ValueError(f"`object_weights` must be {max_objects} non-negative numbers, got {object_weights}.")
    return weights


def _check_numbers(style_said: float, flat_share: float, seed: int) -> None:
    if not 0 <= style_said <= 1:
        raise ValueError(f"`style_said` is a share between 0 and 1, got {style_said}.")
    if not 0 <= flat_share < 1:
        raise ValueError(f"`flat_share` must be at least 0 and below 1, got {flat_share}.")
    if seed < 0:
        raise ValueError(f"`seed` must not be negative, got {seed}.")


def _check_size(size: int) -> None:
    if not 16 <= size <= 4096:
        raise ValueError(f"`size` must be from 16 to 4096 pixels, got {size}.")


def _cdf(weights: Sequence[float]) -> np.ndarray:
    """The share of these weights up to each of them."""
    return np.cumsum(np.asarray(weights, dtype=np.float64) / np.sum(weights))


def _pick(cdf: np.ndarray, rng: np.random.Generator) -> int:
    """A number drawn as often as `_cdf` says."""
    return min(int(np.searchsorted(cdf, rng.random(), side="right")), len(cdf) - 1)


def _distinct(count: int, among: int, rng: np.random.Generator) -> list[int]:
    """`count` different numbers below `among`."""
    chosen: list[int] = []
    while len(chosen) < count:
        candidate = int(rng.random() * among)
        if candidate not in chosen:
            chosen.append(candidate)
    return chosen


def _pixel_box(box: Box, size: int) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(edge * size) for edge in box)
    return left, top, max(right - left, 1), max(bottom - top, 1)


def _place(aspects: Sequence[float], relation: str, rng: np.random.Generator) -> list[Box]:
    """Boxes for the objects, in the caption's order: each fits into another cell, so that none overlap."""
    if relation == "single":
        longer_side = rng.uniform(0.47, 0.78)
        width, height = _fit(aspects[0], longer_side, longer_side)
        return [_snap(rng.uniform(0.02, 0.98 - width), rng.uniform(0.02, 0.98 - height), width, height)]
    if relation in ("above", "below"):
        return _stack(aspects, relation == "below", rng)
    order = list(range(len(aspects)))
    if relation == "right of" or (relation == "next to" and rng.random() < 0.5):
        order.reverse()
    return _row([aspects[i] for i in order], order, rng)


def _stack(aspects: Sequence[float], second_on_top: bool, rng: np.random.Generator) -> list[Box]:
    """Boxes for two objects, one above the other."""
    cut = rng.uniform(0.45, 0.55)
    centre = rng.uniform(0.32, 0.68)
    boxes = []
    for i, aspect in enumerate(aspects):
        low, high = (0.02, cut - 0.005) if (i == 0) != second_on_top else (cut + 0.005, 0.98)
        width, height = _fit(aspect, 0.62, (high - low) * rng.uniform(0.82, 1.0))
        left = np.clip(centre + rng.uniform(-0.08, 0.08) - width / 2, 0.02, 0.98 - width)
        boxes.append(_snap(left, rng.uniform(low, high - height), width, height))
    return boxes


def _row(aspects: Sequence[float], order: Sequence[int], rng: np.random.Generator) -> list[Box]:
    """Boxes from left to right; `order[k]` is the caption's number of the k-th object from the left."""
    cuts = [rng.uniform(0.45, 0.55)] if len(aspects) == 2 else [0.34, 0.66]
    edges = [0.02, *cuts, 0.98]
    middle = rng.uniform(0.32, 0.68)
    boxes: list[Box] = [(0.0, 0.0, 0.0, 0.0)] * len(aspects)
    for k, aspect in enumerate(aspects):
        low, high = edges[k], edges[k + 1]
        width, height = _fit(aspect, (high - low - 0.01) * rng.uniform(0.82, 1.0), 0.62)
        top = np.clip(middle + rng.uniform(-0.08, 0.08) - height / 2, 0.02, 0.98 - height)
        boxes[order[k]] = _snap(rng.uniform(low, high - width), top, width, height)
    return boxes


def _fit(aspect: float, max_width: float, max_height: float) -> tuple[float, float]:
    """The largest width and height of this aspect ratio that fit."""
    width = min(max_width, max_height * aspect)
    return width, width / aspect


def _snap(left: float, top: float, width: float, height: float) -> Box:
    """The nearest box on the grid, at least 4 cells wide and high, inside the picture."""
    columns, rows = max(round(width * GRID), 4), max(round(height * GRID), 4)
    x = min(max(round(left * GRID), 0), GRID - columns)
    y = min(max(round(top * GRID), 0), GRID - rows)
    return x / GRID, y / GRID, (x + columns) / GRID, (y + rows) / GRID


def _choose(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.random() * len(options))]


def _caption(
    phrases: Sequence[str], relation: str, ground: Ground, style: str | None, rng: np.random.Generator
) -> tuple[str, list[tuple[int, int]]]:
    """The caption, and for each phrase its first and last + 1 character in it."""
    opening, ending = _opening_and_ending(style, rng)
    text = f"{opening} " if opening else ""
    spans = []
    for phrase, joint in zip(phrases, _joints(len(phrases), relation, rng), strict=True):
        named = with_article(phrase)
        start = len(text) + len(named) - len(phrase)
        spans.append((start, start + len(phrase)))
        text += named + joint
    text += f" {_choose(ground_words(ground), rng)}{ending}"
    if rng.random() < 0.15:
        text = text[0].upper() + text[1:]
    return text + ("." if rng.random() < 0.15 else ""), spans


def _opening_and_ending(style: str | None, rng: np.random.Generator) -> tuple[str, str]:
    """What stands before the objects and after the ground; either says the style."""
    opening = _choose(OPENINGS, rng)
    if style is None:
        return opening, ""
    before, after = STYLE_WORDS[style]
    if rng.random() < 0.5:
        return _choose(before, rng), ""
    return opening, f", {_choose(after, rng)}"


def _joints(count: int, relation: str, rng: np.random.Generator) -> tuple[str, ...]:
    """What stands after each object."""
    if count == 1:
        return ("",)
    if count == 3:
        return (", ", " and ", "")
    return (_choose(JOINTS[relation], rng), "")


def ground_words(ground: Ground) -> tuple[str, ...]:
    """What captions call a ground; what stands twice they say twice as often."""
    if ground.kind == "landscape":
        return LANDSCAPES[ground.name].phrases
    if ground.kind == "plain":
        background = f"{with_article(ground.name)} background"
        return f"on {background}", f"on {background}", f"in front of {background}", f"on {ground.name}"
    upper, lower = ground.name.split(" and ")
    return (
        f"on {with_article(ground.name)} gradient background",
        f"on {with_article(ground.name)} gradient",
        f"on a gradient from {upper} to {lower}",
    )

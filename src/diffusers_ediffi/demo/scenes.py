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
`python examples/make_object_folder.py --noto-emoji CLONE --output FOLDER`. Any other RGBA pictures do as well.

Only numpy and Pillow are needed here.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]

GRID = 64  # boxes lie on multiples of 1 / GRID of the side
HELD_OUT_SHARE = 20  # one of this many (object, object) and (object, ground) combinations is never in "train"
MAX_TRIES = 20_000
SPLITS = ("train", "held_out")

RELATIONS = ("single", "above", "below", "left of", "right of", "next to", "in a row")
TWO_OBJECT_RELATIONS = RELATIONS[1:6]

COLOURS: dict[str, Colour] = {
    "white": (250, 250, 250),
    "black": (16, 16, 18),
    "gray": (140, 140, 144),
    "red": (222, 38, 38),
    "orange": (250, 140, 26),
    "yellow": (252, 220, 50),
    "green": (70, 190, 70),
    "dark green": (14, 84, 44),
    "light blue": (150, 214, 246),
    "blue": (40, 100, 230),
    "dark blue": (16, 26, 100),
    "purple": (128, 50, 176),
    "pink": (250, 150, 190),
    "brown": (118, 72, 38),
}


@dataclass(frozen=True)
class Ground:
    """What is behind the objects: `kind` is "plain", "gradient" or "landscape", `name` is what captions call it."""

    kind: str
    name: str


@dataclass(frozen=True)
class _Layer:
    """A wavy strip of land or water: its edge, as a fraction of the side from the top, and its two colours."""

    height: float
    amplitude: float
    waves: float
    top: Colour
    bottom: Colour
    peaked: bool = False


@dataclass(frozen=True)
class _Landscape:
    phrases: tuple[str, ...]
    sky: tuple[Colour, Colour]
    layers: tuple[_Layer, ...]
    disc: tuple[float, float, Colour] | None = None  # height, radius, colour
    stars: int = 0


GRADIENTS = (  # upper colour, lower colour
    ("blue", "pink"),
    ("purple", "orange"),
    ("yellow", "green"),
    ("light blue", "white"),
    ("red", "yellow"),
    ("black", "purple"),
    ("dark blue", "light blue"),
    ("white", "gray"),
    ("orange", "pink"),
    ("dark green", "yellow"),
)

_SKY = ((110, 190, 245), (215, 240, 253))
LANDSCAPES: dict[str, _Landscape] = {
    "beach": _Landscape(
        ("on a beach", "at the beach", "on a sandy beach"),
        _SKY,
        (
            _Layer(0.50, 0.0, 1, (20, 130, 195), (80, 205, 215)),
            _Layer(0.68, 0.025, 1.3, (250, 228, 170), (228, 190, 120)),
        ),
    ),
    "meadow": _Landscape(
        ("in a meadow", "on a green meadow", "in a grassy meadow"),
        _SKY,
        (
            _Layer(0.54, 0.05, 1.2, (150, 205, 110), (100, 170, 80)),
            _Layer(0.70, 0.035, 0.9, (96, 186, 66), (44, 124, 42)),
        ),
    ),
    "desert": _Landscape(
        ("in a desert", "in the desert", "in a sandy desert"),
        ((250, 190, 110), (255, 236, 190)),
        (
            _Layer(0.56, 0.06, 1.1, (228, 172, 100), (205, 145, 80)),
            _Layer(0.74, 0.05, 0.8, (214, 142, 72), (180, 108, 52)),
        ),
    ),
    "snow": _Landscape(
        ("in the snow", "in a snowy field", "on a snowy field"),
        ((168, 192, 218), (222, 232, 242)),
        (
            _Layer(0.57, 0.05, 1.2, (226, 236, 246), (200, 218, 236)),
            _Layer(0.74, 0.035, 0.9, (252, 253, 255), (222, 234, 246)),
        ),
    ),
    "night sky": _Landscape(
        ("under a night sky", "in front of a starry night sky", "in a starry night sky"),
        ((6, 8, 36), (36, 34, 96)),
        (_Layer(0.90, 0.03, 1.1, (12, 16, 30), (6, 8, 16)),),
        stars=40,
    ),
    "sea": _Landscape(
        ("on the sea", "at sea", "in front of the sea"),
        _SKY,
        (
            _Layer(0.48, 0.008, 7, (40, 130, 205), (24, 100, 180)),
            _Layer(0.63, 0.014, 5, (26, 104, 184), (14, 74, 150)),
            _Layer(0.80, 0.020, 4, (14, 78, 156), (6, 42, 100)),
        ),
    ),
    "mountains": _Landscape(
        ("in the mountains", "in front of mountains", "with mountains behind"),
        ((140, 200, 240), (230, 242, 250)),
        (
            _Layer(0.48, 0.16, 1.6, (205, 214, 228), (110, 122, 146), peaked=True),
            _Layer(0.66, 0.10, 2.2, (112, 126, 140), (78, 96, 104), peaked=True),
            _Layer(0.82, 0.02, 1.0, (74, 130, 78), (44, 92, 52)),
        ),
    ),
    "sunset": _Landscape(
        ("at sunset", "in front of a sunset", "in the light of a sunset"),
        ((92, 40, 128), (255, 158, 66)),
        (_Layer(0.72, 0.0, 1, (150, 60, 90), (50, 22, 70)),),
        disc=(0.70, 0.15, (255, 226, 130)),
    ),
}

GROUNDS: tuple[Ground, ...] = (
    *(Ground("plain", name) for name in COLOURS),
    *(Ground("gradient", f"{upper} and {lower}") for upper, lower in GRADIENTS),
    *(Ground("landscape", name) for name in LANDSCAPES),
)
_KIND_WEIGHTS = {"plain": 0.5, "gradient": 0.2, "landscape": 0.3}

# How captions say a style: before the objects ("pixel art of a cat") or after the ground (", pixel art").
_STYLE_WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "flat": (("a flat illustration of", "clip art of"), ("flat illustration", "clip art")),
    "pixel art": (("pixel art of", "a pixel art picture of"), ("pixel art", "in pixel art style", "8-bit pixel art")),
    "pencil sketch": (
        ("a pencil sketch of", "a pencil drawing of"),
        ("pencil sketch", "drawn with a pencil", "as a pencil sketch"),
    ),
    "halftone": (
        ("a halftone print of", "a halftone picture of"),
        ("halftone", "halftone print", "in halftone style"),
    ),
    "night": (("a night picture of", "a night scene of"), ("at night", "by night", "in the dark of night")),
    "water colour": (
        ("a water colour of", "a water colour painting of"),
        ("water colour", "water colour painting", "painted in water colour"),
    ),
}
STYLES = tuple(_STYLE_WORDS)
_OPENINGS = ("", "", "", "", "a picture of", "an image of", "a drawing of", "a scene with")
_FLAT_WEIGHT = 0.5  # the other styles share the rest


# ---------------------------------------------------------------------------------------------------- objects


@dataclass(eq=False)
class SceneObject:
    """A phrase and its picture.

    Args:
        phrase: how captions call the object, without an article ("red apple").
        image: RGBA, cropped to what is not transparent.
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
        """The picture at a size in pixels, RGBA; small ones are kept, for rendering at 64 is mostly this."""
        cached = self._cache.get((width, height))
        if cached is not None:
            return cached
        shrinks = self.image.width >= width and self.image.height >= height
        method = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
        # Boxes take whole pixels, so the level must be a good deal finer than what is asked for.
        fine = [k for k, im in enumerate(self._levels) if im.width >= 3 * width and im.height >= 3 * height]
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
        folder: the folder that holds `index.json`.
        phrases: only these objects, in this order; all of them by default.

    Raises:
        OSError: the index or a picture is missing or unreadable.
        ValueError: the index is malformed, a phrase is listed twice or unknown, a picture is not RGBA or empty.
    """
    folder = Path(folder)
    files = _read_index(folder / "index.json")
    if phrases is not None:
        unknown = [phrase for phrase in phrases if phrase not in files]
        if unknown:
            raise ValueError(f"{folder / 'index.json'} has no object {unknown[0]!r}; it has: {', '.join(files)}.")
        if len(set(phrases)) < len(phrases):
            raise ValueError(f"`phrases` names an object twice: {list(phrases)}.")
    return [_load_object(folder / files[phrase], phrase) for phrase in (files if phrases is None else phrases)]


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
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("file", "phrase")):
            raise ValueError(f'{path}: an entry must be {{"file": ..., "phrase": ...}}, got {entry!r}.')
        phrase = entry["phrase"]
        if not phrase.strip() or phrase != phrase.strip():
            raise ValueError(f"{path}: the phrase {phrase!r} is empty or has spaces around it.")
        if phrase in files:
            raise ValueError(f"{path} lists the phrase {phrase!r} twice; every object needs a phrase of its own.")
        files[phrase] = entry["file"]
    return files


def _load_object(path: Path, phrase: str) -> SceneObject:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, although index.json lists it for {phrase!r}.")
    try:
        with Image.open(path) as opened:
            opened.load()
            image = opened.copy()
    except (OSError, SyntaxError) as error:
        raise OSError(f"{path} cannot be read as a picture: {error}.") from error
    if image.mode != "RGBA":
        raise ValueError(f"{path} has mode {image.mode}; objects are RGBA pictures with a transparent ground.")
    alpha_box = image.getchannel("A").getbbox()
    if alpha_box is None:
        raise ValueError(f"{path} is wholly transparent; there is no object in it.")
    return SceneObject(phrase, image.crop(alpha_box))


# ----------------------------------------------------------------------------------------------------- scenes


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
        objects: what `load_objects` returns.
        styles: names out of `STYLES`.
        grounds: grounds out of `GROUNDS`.
        max_objects: most objects in a scene, 1 to 3.
        object_weights: how often there are one, two and three objects, relative to each other.
        style_said: share of captions that say their style ("flat" is said a fifth as often).
        seed: any non-negative number.
        split: "train" or "held_out".
    """

    def __init__(
        self,
        objects: Sequence[SceneObject],
        styles: Sequence[str] = STYLES,
        grounds: Sequence[Ground] = GROUNDS,
        max_objects: int = 3,
        object_weights: Sequence[float] = (0.5, 0.4, 0.1),
        style_said: float = 0.5,
        seed: int = 0,
        split: str = "train",
    ) -> None:
        _check_choices(objects, styles, grounds, split)
        if max_objects not in (1, 2, 3) or max_objects > len(objects):
            raise ValueError(
                f"`max_objects` must be 1 to 3 and at most the {len(objects)} objects, got {max_objects}."
            )
        weights = np.asarray(object_weights, dtype=np.float64)[:max_objects]
        if len(weights) < max_objects or not np.isfinite(weights).all() or weights.min() < 0 or weights.sum() <= 0:
            raise ValueError(f"`object_weights` must be {max_objects} non-negative numbers, got {object_weights}.")
        if not 0 <= style_said <= 1:
            raise ValueError(f"`style_said` is a share between 0 and 1, got {style_said}.")
        if seed < 0:
            raise ValueError(f"`seed` must not be negative, got {seed}.")
        self.objects = {thing.phrase: thing for thing in objects}
        self.phrases = tuple(self.objects)
        self.styles = tuple(styles)
        self.grounds = tuple(grounds)
        self.style_said = style_said
        self.seed = seed
        self.split = split
        self._count_cdf = np.cumsum(weights / weights.sum())
        others = max(len(styles) - 1, 1)
        self._style_cdf = _cdf([_FLAT_WEIGHT * others if s == "flat" else 1 - _FLAT_WEIGHT for s in styles])
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
        count = _pick(self._count_cdf, rng) + 1
        for _ in range(MAX_TRIES):
            chosen: list[int] = []
            while len(chosen) < count:
                candidate = int(rng.random() * len(self.phrases))
                if candidate not in chosen:
                    chosen.append(candidate)
            phrases = [self.phrases[i] for i in chosen]
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
        return _STYLE_PAINTERS[scene.style](self, scene, size)

    def render_flat(self, scene: Scene, size: int) -> Image.Image:
        """The scene before its style is applied."""
        image = _paint_ground(scene.ground, scene.variation, size)
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


def _check_size(size: int) -> None:
    if not 16 <= size <= 4096:
        raise ValueError(f"`size` must be from 16 to 4096 pixels, got {size}.")


def _cdf(weights: Sequence[float]) -> np.ndarray:
    return np.cumsum(np.asarray(weights, dtype=np.float64) / np.sum(weights))


def _pick(cdf: np.ndarray, rng: np.random.Generator) -> int:
    return min(int(np.searchsorted(cdf, rng.random(), side="right")), len(cdf) - 1)


def _pixel_box(box: Box, size: int) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(edge * size) for edge in box)
    return left, top, max(right - left, 1), max(bottom - top, 1)


# -------------------------------------------------------------------------------------------------- placement


def _place(aspects: Sequence[float], relation: str, rng: np.random.Generator) -> list[Box]:
    """Boxes for the objects, in the caption's order: each fits into a cell of its own, so none overlap."""
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
    width = min(max_width, max_height * aspect)
    return width, width / aspect


def _snap(left: float, top: float, width: float, height: float) -> Box:
    columns, rows = max(round(width * GRID), 4), max(round(height * GRID), 4)
    x = min(max(round(left * GRID), 0), GRID - columns)
    y = min(max(round(top * GRID), 0), GRID - rows)
    return x / GRID, y / GRID, (x + columns) / GRID, (y + rows) / GRID


# --------------------------------------------------------------------------------------------------- captions


def _choose(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.random() * len(options))]


def _caption(
    phrases: Sequence[str], relation: str, ground: Ground, style: str | None, rng: np.random.Generator
) -> tuple[str, list[tuple[int, int]]]:
    """The caption, and for each phrase its first and last + 1 character in it."""
    opening, ending = _choose(_OPENINGS, rng), ""
    if style is not None:
        before, after = _STYLE_WORDS[style]
        if rng.random() < 0.5:
            opening = _choose(before, rng)
        else:
            ending = f", {_choose(after, rng)}"
    text = f"{opening} " if opening else ""
    spans = []
    for phrase, joint in zip(phrases, _joints(len(phrases), relation, rng), strict=True):
        named = with_article(phrase)
        start = len(text) + len(named) - len(phrase)
        spans.append((start, start + len(phrase)))
        text += named + joint
    text += f" {_ground_words(ground, rng)}{ending}"
    if rng.random() < 0.15:
        first = text[0].upper()
        text = first + text[1:]
    return text + ("." if rng.random() < 0.15 else ""), spans


def _joints(count: int, relation: str, rng: np.random.Generator) -> tuple[str, ...]:
    """What stands after each object."""
    if count == 1:
        return ("",)
    if count == 3:
        return (", ", " and ", "")
    words = {
        "above": (" above ", " above ", " over "),
        "below": (" below ", " below ", " under "),
        "left of": (" to the left of ", " left of "),
        "right of": (" to the right of ", " right of "),
        "next to": (" next to ", " beside ", " and "),
    }[relation]
    return (_choose(words, rng), "")


def _ground_words(ground: Ground, rng: np.random.Generator) -> str:
    if ground.kind == "landscape":
        return _choose(LANDSCAPES[ground.name].phrases, rng)
    if ground.kind == "plain":
        background = f"{with_article(ground.name)} background"
        return _choose((f"on {background}", f"on {background}", f"in front of {background}", f"on {ground.name}"), rng)
    upper, lower = ground.name.split(" and ")
    return _choose(
        (
            f"on {with_article(ground.name)} gradient background",
            f"on {with_article(ground.name)} gradient",
            f"on a gradient from {upper} to {lower}",
        ),
        rng,
    )


# ---------------------------------------------------------------------------------------------------- grounds


def _paint_ground(ground: Ground, variation: int, size: int) -> Image.Image:
    rng = np.random.default_rng([1, variation])
    if ground.kind == "plain":
        colour = np.clip(np.asarray(COLOURS[ground.name]) + rng.integers(-6, 7, 3), 0, 255)
        return Image.new("RGB", (size, size), tuple(int(c) for c in colour))
    if ground.kind == "gradient":
        upper, lower = ground.name.split(" and ")
        return Image.fromarray(_to_bytes(_ramp(COLOURS[upper], COLOURS[lower], size)))
    return _paint_landscape(LANDSCAPES[ground.name], rng, size)


def _ramp(top: Colour, bottom: Colour, rows: int, columns: int | None = None) -> np.ndarray:
    """A vertical gradient `(rows, columns, 3)`, float32; a view of one column."""
    t = ((np.arange(rows, dtype=np.float32) + 0.5) / rows)[:, None]
    column = np.asarray(top, np.float32) * (1 - t) + np.asarray(bottom, np.float32) * t
    return np.broadcast_to(column[:, None, :], (rows, columns or rows, 3))


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return (np.clip(values, 0, 255) + 0.5).astype(np.uint8)


def _paint_landscape(landscape: _Landscape, rng: np.random.Generator, size: int) -> Image.Image:
    image = Image.fromarray(_to_bytes(_ramp(*landscape.sky, size)))
    if landscape.stars:
        for x, y, radius in zip(*rng.random((3, landscape.stars)), strict=True):
            _paint_disc(image, x, y * 0.85, 0.003 + 0.006 * radius, (255, 250, 225))
    if landscape.disc is not None:
        height, radius, colour = landscape.disc
        _paint_disc(image, rng.uniform(0.25, 0.75), height, radius, colour)
    x = (np.arange(size, dtype=np.float32) + 0.5) / size
    for layer in landscape.layers:
        phase, stretch, shift = rng.random(3)
        wave = layer.waves * (0.85 + 0.3 * stretch) * x + phase
        bend = 4 * np.abs(wave % 1 - 0.5) - 1 if layer.peaked else np.sin(2 * np.pi * wave)
        _paint_layer(image, layer, (layer.height + 0.03 * (shift - 0.5) + layer.amplitude * bend) * size)
    return image


def _paint_layer(image: Image.Image, layer: _Layer, edge: np.ndarray) -> None:
    """Paints what lies below `edge`, a height in pixels for each column, with a soft border one pixel wide."""
    size = image.width
    first = int(max(edge.min() - 1, 0))
    rows = np.arange(first, size, dtype=np.float32)[:, None]
    cover = np.clip(rows + 1 - edge[None], 0, 1) * 255
    strip = Image.fromarray(_to_bytes(_ramp(layer.top, layer.bottom, size - first, size)))
    image.paste(strip, (0, first), Image.fromarray(_to_bytes(cover)))


def _paint_disc(image: Image.Image, x: float, y: float, radius: float, colour: Colour) -> None:
    """A disc with a soft border; one smaller than a pixel becomes fainter instead of larger."""
    size = image.width
    reach = int(radius * size) + 2
    left, top = int(x * size) - reach, int(y * size) - reach
    steps = np.arange(2 * reach + 1, dtype=np.float32) + 0.5
    distance = np.hypot(steps[None] + left - x * size, steps[:, None] + top - y * size)
    pixels = max(radius * size, 0.71)
    cover = np.clip(pixels + 0.5 - distance, 0, 1) * min(1.0, (radius * size / 0.71) ** 2) * 255
    image.paste(colour, (left, top), Image.fromarray(_to_bytes(cover)))


# ----------------------------------------------------------------------------------------------------- styles
# Each takes (generator, scene, size) and returns RGB. Lengths are fractions of the side, so sizes agree.


_Painter = Callable[["SceneGenerator", Scene, int], Image.Image]


def _flat(generator: SceneGenerator, scene: Scene, size: int) -> Image.Image:
    return generator.render_flat(scene, size)


def _pixel_art(generator: SceneGenerator, scene: Scene, size: int) -> Image.Image:
    """32 cells to a side, eight levels to a colour."""
    small = generator.render_flat(scene, GRID).reduce(GRID // 32)
    step = 255 / 7
    levels = Image.fromarray(_to_bytes(np.rint(np.asarray(small, np.float32) / step) * step))
    return levels.resize((size, size), Image.Resampling.NEAREST)


def _night(generator: SceneGenerator, scene: Scene, size: int) -> Image.Image:
    """Moonlight: dark, blue, darker towards the border."""
    image = np.asarray(generator.render_flat(scene, size), np.float32)
    square = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5) ** 2
    light = 1.05 - 1.1 * (square[:, None] + square[None])
    gray = image.mean(axis=2, keepdims=True)
    moonlight = np.asarray((0.44, 0.50, 0.72), np.float32)
    tinted = (0.75 * image + 0.25 * gray) * moonlight + np.asarray((0, 4, 20), np.float32)
    return Image.fromarray(_to_bytes(tinted * light[..., None]))


def _with_finer_canvas(painter: Callable[[np.ndarray, Image.Image, Scene], np.ndarray]) -> _Painter:
    """Below 128 pixels lines and dots are drawn at twice the size or more, then averaged."""

    def paint(generator: SceneGenerator, scene: Scene, size: int) -> Image.Image:
        factor = -(-128 // size) if size < 128 else 1
        flat = generator.render_flat(scene, size * factor)
        image = Image.fromarray(_to_bytes(painter(np.asarray(flat, np.float32), flat, scene)))
        return image.reduce(factor) if factor > 1 else image

    return paint


def _sketch(image: np.ndarray, flat: Image.Image, scene: Scene) -> np.ndarray:
    """Outlines and diagonal hatching on paper, with a trace of colour."""
    size = len(image)
    gray = flat.convert("L")
    tone = np.asarray(gray, np.float32)
    local = np.asarray(gray.filter(ImageFilter.GaussianBlur(0.010 * size)), np.float32)
    line = np.clip(1 - np.maximum(local - tone - 3, 0) / 36, 0, 1)
    frequency = GRID / 3
    steps = (np.arange(2 * size - 1, dtype=np.float32) + 1) / size
    stroke = 0.5 + 0.5 * np.sinc(frequency / size) ** 2 * np.cos(2 * np.pi * frequency * steps)
    hatch = np.lib.stride_tricks.sliding_window_view(stroke.astype(np.float32), size)
    dark = 1 - tone / 255
    shade = (238 - 150 * dark * (0.35 + 0.65 * hatch)) * (0.25 + 0.75 * line)
    return shade[..., None] + 0.28 * (image - tone[..., None])


def _halftone(image: np.ndarray, flat: Image.Image, scene: Scene) -> np.ndarray:
    """Dots of ink on white paper, larger where the picture is darker; 64/3 of them to a side."""
    size = len(image)
    steps = (np.arange(size, dtype=np.float32) + 0.5) / size * (GRID / 3)
    offset = np.abs(steps % 1 - 0.5)
    distance = np.sqrt(offset[:, None] ** 2 + offset[None] ** 2)
    dark = 1 - image.min(axis=2) / 255
    radius = 0.28 + 0.36 * dark
    ink = np.clip((radius - distance) * (size * 3 / GRID) + 0.5, 0, 1)[..., None]
    return 248 + (image * 0.96 - 248) * ink


def _water_colour(image: np.ndarray, flat: Image.Image, scene: Scene) -> np.ndarray:
    """Soft washes of uneven pigment that gathers at edges, on paper that shows at the border."""
    size = len(image)
    rng = np.random.default_rng([2, scene.variation])
    wash = np.asarray(flat.filter(ImageFilter.GaussianBlur(0.009 * size)), np.float32)
    wide = np.asarray(flat.filter(ImageFilter.GaussianBlur(0.03 * size)), np.float32)
    pigment = 0.68 + 0.17 * _clouds(rng, 6, size) + 0.06 * _clouds(rng, 40, size)
    pigment += 0.5 * np.clip((wide - wash).mean(axis=2) / 255, -0.1, 0.4)
    steps = (np.arange(size, dtype=np.float32) + 0.5) / size
    border = np.minimum(steps, 1 - steps)
    inside = np.clip((np.minimum(border[:, None], border[None]) - 0.03 + 0.03 * _clouds(rng, 12, size)) / 0.025, 0, 1)
    paper = np.asarray((252, 250, 244), np.float32)
    return paper - (paper - wash) * (pigment * inside * 1.25)[..., None].clip(0, 1.1)


def _clouds(rng: np.random.Generator, cells: int, size: int) -> np.ndarray:
    """Smooth noise, about -1 to 1."""
    grid = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))


_STYLE_PAINTERS: dict[str, _Painter] = {
    "flat": _flat,
    "pixel art": _pixel_art,
    "pencil sketch": _with_finer_canvas(_sketch),
    "halftone": _with_finer_canvas(_halftone),
    "night": _night,
    "water colour": _with_finer_canvas(_water_colour),
}

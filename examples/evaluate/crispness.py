# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""How crisp pictures are: the width of outlines, and blocks as of pixel art where nobody asked for them.

Both read pictures (batch, 3, height, width) in [-1, 1], and mean something beside pictures of the same scenes that are
known to be crisp (`evaluate_demo.py --stages crispness`).
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

STRONG = 0.1  # least step across an outline, of the range of a channel
MOST_POINTS = 2000  # of the outlines of a picture that are measured
REACH = 1 / 16  # of the picture's side: how far from its steepest point an outline may extend
SAMPLES = 4  # per pixel, along the normal of an outline
LOW, HIGH = 0.1, 0.9  # of the step: where the width is measured
BLOCK_SIDES = (1 / 64, 1 / 32, 1 / 16)  # of the picture's side: the blocks that are looked for
BLOCKY = 0.5  # score from which a picture counts as blocky; see `blockiness`


def outline_widths(images: Tensor) -> list[float]:
    """The median width of the outlines of each picture, in pixels; NaN where a picture has none.

    At the steepest points of the picture (local maxima of the gradient along itself) the values along the gradient are
    followed to both sides as far as they rise and fall; the width is the distance between 10% and 90% of that step.
    """
    return [_outline_width(image) for image in _arrays(images)]


def _arrays(images: Tensor) -> NDArray[np.float64]:
    """Pictures (batch, 3, height, width) in [0, 1]."""
    return np.asarray(images.detach().cpu().double().clamp(-1, 1) + 1) / 2


def _outline_width(image: NDArray[np.float64]) -> float:
    points, normals, channels = _outline_points(image)
    if not len(points):
        return float("nan")
    reach = max(3, round(REACH * image.shape[-1]))
    offsets = np.arange(-reach * SAMPLES, reach * SAMPLES + 1) / SAMPLES
    places = points[:, None, :] + offsets[None, :, None] * normals[:, None, :]
    profiles = np.empty(places.shape[:2])
    for channel in range(len(image)):
        rows = channels == channel
        coordinates = np.moveaxis(places[rows], -1, 0)
        profiles[rows] = ndimage.map_coordinates(image[channel], coordinates, order=1, mode="nearest")
    widths = [width for profile in profiles if (width := _width_of_step(profile)) is not None]
    return float(np.median(widths)) if widths else float("nan")


def _outline_points(
    image: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Where the gradient of the channel that changes most has a maximum along itself: (points, 2), unit normals
    towards the higher values (points, 2), and the channels (points,)."""
    gradients = np.array([[ndimage.gaussian_filter(c, 1.0, order=o) for o in ((1, 0), (0, 1))] for c in image])
    lengths = np.hypot(gradients[:, 0], gradients[:, 1])
    channel = lengths.argmax(0)
    length = np.take_along_axis(lengths, channel[None], 0)[0]
    gradient = np.take_along_axis(gradients, channel[None, None], 0)[0]
    normal = gradient / np.maximum(length, 1e-12)
    grid = np.indices(image.shape[1:]).astype(float)
    beside = [ndimage.map_coordinates(length, grid + side * normal, order=1, mode="nearest") for side in (-1, 1)]
    steepest = (length >= beside[0]) & (length > beside[1]) & (length > STRONG / 4)
    rows, columns = np.nonzero(steepest)
    if len(rows) > MOST_POINTS:
        chosen = np.random.default_rng(0).choice(len(rows), MOST_POINTS, replace=False)
        rows, columns = rows[chosen], columns[chosen]
    return np.stack([rows, columns], 1).astype(float), normal[:, rows, columns].T, channel[rows, columns]


def _width_of_step(profile: NDArray[np.float64]) -> float | None:
    """The width in pixels of the step around the middle of a profile; None where it is not a strong step."""
    middle, slack = len(profile) // 2, 1e-3
    rises = np.diff(profile) > slack / SAMPLES
    end = middle + _first(~rises[middle:])
    start = middle - _first(~rises[:middle][::-1])
    step = profile[end] - profile[start]
    if step < STRONG:
        return None
    part = (profile[start : end + 1] - profile[start]) / step
    places = np.interp((LOW, HIGH), np.maximum.accumulate(part), np.arange(len(part)))
    return float(places[1] - places[0]) / SAMPLES


def _first(values: NDArray[np.bool_]) -> int:
    """The number of the first that is true; how many there are, where none is."""
    return int(values.argmax()) if values.any() else len(values)


def blockiness(images: Tensor) -> list[float]:
    """How much the edges of each picture keep to a grid of squares: 0 as by chance, 1 all of them.

    For each side of a square and both directions, the share of the changes from pixel to pixel that lies on the best
    phase of the grid, above what chance gives. A line of squares of more than 4 pixels counts with the pixels beside
    it, since enlarging blurs. The score is the smaller of both directions, at the side where that is highest, in
    windows of a quarter of the picture's side that hold edges: the 90% quantile over the windows.
    """
    return [_blockiness(image.mean(0)) for image in _arrays(images)]


def _blockiness(image: NDArray[np.float64]) -> float:
    side = image.shape[-1]
    window, stride = side // 4, side // 8
    blocks = [block for part in BLOCK_SIDES if (block := round(side * part)) >= 4]
    scores = []
    for top in range(0, side - window + 1, stride):
        for left in range(0, side - window + 1, stride):
            part = image[top : top + window, left : left + window]
            changes = [np.abs(np.diff(part, axis=axis)).sum(1 - axis) for axis in (0, 1)]
            if min(values.sum() for values in changes) > STRONG * window:
                scores.append(max(_grid_share(changes, block) for block in blocks))
    return float(np.quantile(scores, 0.9)) if scores else 0.0


def _grid_share(changes: list[NDArray[np.float64]], block: int) -> float:
    """Of the changes across rows and across columns, the share on lines that are `block` pixels apart."""
    lines = 3 if block > 4 else 1  # a line of small blocks has no pixels beside it that are no line themselves
    shares = []
    for values in changes:
        phases = np.bincount(np.arange(len(values)) % block, values, block)
        near = np.sum([np.roll(phases, shift) for shift in range(-(lines // 2), lines // 2 + 1)], axis=0)
        shares.append((near.max() / values.sum() - lines / block) / (1 - lines / block))
    return min(shares)

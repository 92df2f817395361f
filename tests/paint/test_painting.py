# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The matrix A at every resolution of a U-Net, and the factor on it."""

import random

import numpy as np
import pytest
import torch
from helpers_paint import COLUMNS, GRID, HEADS, painting, prepared

from diffusers_ediffi import PaintRegion
from diffusers_ediffi.paint.painting import Painting, paint_matrix


def test_two_hundred_random_sizes_keep_rows_and_columns_in_place():
    """Grids are those of a chain of real strided convolutions, and a spot stays where it is in all of them."""
    rng = random.Random(1)
    for _ in range(200):
        height, width = rng.randint(2, 150), rng.randint(2, 150)
        rows, columns = rng.randint(8, 300), rng.randint(8, 300)
        mask = torch.zeros(rows, columns)
        y, x = rng.randrange(rows), rng.randrange(columns)
        mask[y, x] = 1  # a stroke of one pixel
        region = PaintRegion("a", mask)
        painting = Painting([[region]], [[[2]]], 5, 0.4)
        painting.begin_call(torch.zeros(1, 4, height, width), torch.tensor(1.0))
        sample = torch.zeros(1, 1, height, width)
        for _ in range(4):
            h, w = sample.shape[-2:]
            grid = painting.matrix(h * w)[0].reshape(h, w, 5)
            assert not grid[..., [0, 1, 3, 4]].any() and grid[..., 2].max() > 0
            row, column = divmod(grid[..., 2].argmax().item(), w)
            assert abs((row + 0.5) / h - (y + 0.5) / rows) <= 1 / h + 0.5 / rows
            assert abs((column + 0.5) / w - (x + 0.5) / columns) <= 1 / w + 0.5 / columns
            sample = torch.nn.functional.conv2d(sample, torch.zeros(1, 1, 3, 3), stride=2, padding=1)


def test_what_is_not_a_resolution_of_the_unet_is_refused():
    paint = prepared(painting(), [0, 1], 1, 2)
    assert paint.matrix(20).shape == (2, 20, COLUMNS) and paint.matrix(63).shape == (2, 63, COLUMNS)
    with pytest.raises(
        ValueError, match="16 pixels is not at a resolution of the U-Net \\(7 x 9, 4 x 5, 2 x 3, 1 x 2"
    ):
        paint.matrix(16)


def test_a_shared_token_takes_the_larger_of_weight_times_mask():
    first = PaintRegion("a", np.float32([[0.5, 1.0]]), weight=0.8)
    second = PaintRegion("b", np.float32([[1.0, 0.0]]), weight=0.5)
    for order in ([first, second], [second, first]):
        columns = [[1, 2] if region is first else [2, 3] for region in order]
        matrix = paint_matrix(order, columns, 4, 1, 2)
        torch.testing.assert_close(matrix, torch.tensor([[0, 0.4, 0.5, 0.5], [0, 0.8, 0.8, 0]]))


def test_negative_scores_do_not_turn_the_sign():
    """The maximum is clamped at 0: with negative scores alone nothing is painted, instead of the opposite."""
    paint = prepared(painting(), [0, 1], 1, 0)
    scores = -torch.rand(2, HEADS, GRID[0] * GRID[1], COLUMNS) - 0.1
    assert paint.factor(scores, None).abs().max() == 0


@pytest.mark.parametrize(("rows", "images"), [(3, [0, 1]), (6, [0, 1]), (1, [0, 1]), (5, [0, 0, 1, 1])])
def test_a_batch_of_unknown_rows_is_refused(rows, images):
    with pytest.raises(ValueError, match=rf"shape \({rows}, 4, 7, 9\) where {len(images)} images"):
        prepared(painting(), images, 1, rows - len(images))


def test_an_unknown_normalizer_is_refused():
    with pytest.raises(ValueError, match="normalizer='mean' is unknown; choose from max, std"):
        painting("mean")

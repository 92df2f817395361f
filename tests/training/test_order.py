# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Orders of rows: each once an epoch, other ones each time, and none that has to be written down."""

import pickle
import time

import numpy as np
import pytest

from diffusers_ediffi.training.order import CHUNKS_TOGETHER, BucketOrder, EpochOrder, permuted


@pytest.mark.parametrize("length", [1, 2, 3, 7, 64, 1000])
def test_a_permutation_takes_each_number_once(length):
    found = [permuted(i, length, "a") for i in range(length)]
    assert sorted(found) == list(range(length))
    assert length < 7 or found != [permuted(i, length, "b") for i in range(length)]


def test_a_permutation_is_uniform():
    """Each number comes to each place equally often, within five standard deviations."""
    trials, length = 4000, 10
    counts = np.zeros((length, length))
    for trial in range(trials):
        for place in range(length):
            counts[place, permuted(place, length, str(trial))] += 1
    assert np.abs(counts - trials / length).max() < 5 * np.sqrt(trials / length)


@pytest.mark.parametrize("chunks", [[50], [7, 0, 5, 20, 1], [2] * 40])
def test_each_row_comes_once_an_epoch_in_another_order(chunks):
    order = EpochOrder(chunks, seed=1)
    epochs = [[order.row(epoch * order.length + i) for i in range(order.length)] for epoch in range(3)]
    assert all(sorted(rows) == list(range(sum(chunks))) for rows in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs[1] == [pickle.loads(pickle.dumps(order)).row(order.length + i) for i in range(order.length)]
    assert epochs[0] != [EpochOrder(chunks, seed=2).row(i) for i in range(order.length)]


def test_few_chunks_are_read_at_a_time():
    order = EpochOrder([100] * 64, seed=0)
    for first in range(0, order.length, 100 * CHUNKS_TOGETHER):
        rows = [order.row(first + i) for i in range(100 * CHUNKS_TOGETHER)]
        assert len({row // 100 for row in rows}) == CHUNKS_TOGETHER
        assert len({row // 100 for row in rows[:100]}) > 8, "but these are mixed"


def test_ten_million_rows_cost_what_a_thousand_cost():
    """At most four times: numbers of 24 bits instead of 10 take few more tries."""

    def seconds(length):
        order = EpochOrder([length], seed=0)
        order.row(0)
        started = time.process_time()
        for i in range(300):
            order.row(i * 7919)
        return time.process_time() - started

    assert min(seconds(10**7) for _ in range(5)) < 4 * min(seconds(10**3) for _ in range(5))


def test_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing to train on"):
        EpochOrder([0, 0], seed=0)


def test_batches_are_of_one_bucket_each_and_an_epoch_has_every_row():
    buckets = [np.arange(0, 7), np.array([], np.int64), np.arange(7, 9), np.arange(9, 30)]
    order, size = BucketOrder(buckets, 4, seed=0), 4
    batches = 2 + 1 + 6
    for epoch in range(2):
        found = [[order.row((epoch * batches + b) * size + i) for i in range(size)] for b in range(batches)]
        assert all(len({bucket for _, bucket in batch}) == 1 for batch in found)
        assert all(row in buckets[bucket] for batch in found for row, bucket in batch)
        assert {row for batch in found for row, _ in batch} == set(range(30))
    assert len({batch[0][1] for batch in found[:5]}) > 1, "and buckets are mixed"

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The order in which rows are trained on: each epoch another one, and of every position the row is computed without
the rows before it. Imports nothing of this package."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

ROUNDS = 10  # of a Feistel network; four are seen to be uneven on ranges of ten numbers
CHUNKS_TOGETHER = 16


def permuted(position: int, length: int, key: str) -> int:
    """Where a random permutation of `range(length)` puts a position, in a time that does not grow with the length.

    A Feistel network permutes the numbers of an even number of bits; what falls out of the range is permuted again
    (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).

    Args:
        position (`int`): From 0 to `length - 1`.
        length (`int`): How many numbers there are.
        key (`str`): Chooses the permutation.
    """
    half = max(1, ((length - 1).bit_length() + 1) // 2)
    while True:
        left, right = position >> half, position & ((1 << half) - 1)
        for number in range(ROUNDS):
            mixed = hashlib.blake2b(f"{key}:{number}:{right}".encode(), digest_size=8).digest()
            left, right = right, left ^ int.from_bytes(mixed, "little") & ((1 << half) - 1)
        position = left << half | right
        if position < length:
            return position


class EpochOrder:
    """All positions of an endless run over rows that lie in chunks.

    A single chunk is shuffled as a whole. Of several, such as shards, 16 at a time are shuffled together, in another
    grouping each epoch, so that a run reads few files at a time.

    Args:
        chunks (`list` of `int`): The number of rows in each chunk.
        seed (`int`): Chooses the order.
        name (`str`, *optional*, defaults to `""`): Chooses it, too: another order of the same seed.

    Raises:
        ValueError: There is no row.
    """

    def __init__(self, chunks: Sequence[int], seed: int, name: str = "") -> None:
        self.chunks, self.key = np.asarray(chunks, np.int64), f"{seed}:{name}"
        self.starts = np.concatenate([[0], np.cumsum(self.chunks)])
        self.length = int(self.starts[-1])
        if not self.length:
            raise ValueError("There is nothing to train on.")
        self._remember_epochs()

    def _remember_epochs(self) -> None:
        self._epoch = lru_cache(maxsize=2)(self._shuffled_chunks)

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_epoch"}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._remember_epochs()

    def _shuffled_chunks(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The chunks of an epoch in their order, and the first position of each and the end."""
        seed = hashlib.blake2b(f"{self.key}:{epoch}".encode(), digest_size=8).digest()
        order = np.random.default_rng(int.from_bytes(seed, "little")).permutation(len(self.chunks))
        return order, np.concatenate([[0], np.cumsum(self.chunks[order])])

    def row(self, index: int) -> int:
        """The row at a place of the endless run."""
        epoch, position = divmod(index, self.length)
        return self.row_of_epoch(epoch, position)

    def row_of_epoch(self, epoch: int, position: int) -> int:
        """The row at a position of an epoch, from 0 to `length - 1`."""
        order, firsts = self._epoch(epoch)
        group = (int(np.searchsorted(firsts, position, side="right")) - 1) // CHUNKS_TOGETHER
        first, last = (min(number * CHUNKS_TOGETHER, len(order)) for number in (group, group + 1))
        start, stop = int(firsts[first]), int(firsts[last])
        position = start + permuted(position - start, stop - start, f"{self.key}:{epoch}:{group}")
        chunk = int(np.searchsorted(firsts, position, side="right")) - 1
        return int(self.starts[order[chunk]] + position - firsts[chunk])


class BucketOrder:
    """The rows of batches that have one shape each: every batch is of one aspect-ratio bucket.

    The last batch of a bucket is filled up from the beginning of that bucket's order, so that an epoch has every row
    at least once.

    Args:
        buckets (`list` of `numpy.ndarray`): The rows of each bucket, in ascending order.
        batch_size (`int`): Rows of a batch.
        seed (`int`): Chooses the order.
    """

    def __init__(self, buckets: Sequence[np.ndarray], batch_size: int, seed: int) -> None:
        self.buckets, self.batch_size, self.key = buckets, batch_size, f"{seed}:batches"
        self.orders = [
            EpochOrder([len(rows)], seed, f"bucket {number}") if len(rows) else None
            for number, rows in enumerate(buckets)
        ]
        self.firsts = np.cumsum([0, *(-(-len(rows) // batch_size) for rows in buckets)])

    def row(self, index: int) -> tuple[int, int]:
        """The row at a place of the endless run, and its bucket."""
        batch, place = divmod(index, self.batch_size)
        epoch, position = divmod(batch, int(self.firsts[-1]))
        number = permuted(position, int(self.firsts[-1]), f"{self.key}:{epoch}")
        bucket = int(np.searchsorted(self.firsts, number, side="right")) - 1
        order = self.orders[bucket]
        assert order is not None  # it has no batches otherwise
        place += (number - int(self.firsts[bucket])) * self.batch_size
        return int(self.buckets[bucket][order.row_of_epoch(epoch, place % order.length)]), bucket

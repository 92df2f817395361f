# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Kills the building of an embedding cache at random moments with SIGKILL, and looks whether it ends the same.

    python tests/training/kill_cache.py --kills 20

tests/training/test_embedding_cache.py runs it with three kills; more of them find what these miss.

A cache of 40 pictures by the demo's encoders is built without interruption, then again as two processes would, one by
one, which are killed and started anew until there were so many kills; whenever such a cache is done, all its files
must have the bytes of the first, and the next one begins. The exit code is 1 if anything differs. Needs `os.fork`.
"""

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from pathlib import Path

import torch

from diffusers_ediffi.training import Selection, build_embedding_cache

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers_pictures import demo_encoder, selected, write_folder  # noqa: E402

PICTURES, ROWS, PROCESSES = 40, 2, 2


def build(output: Path, pictures: tuple, encoder: object) -> None:
    """Builds the cache, or what is left of it."""
    for rank in range(PROCESSES):
        options = {"rows_per_part": ROWS, "rank": rank, "num_processes": PROCESSES}
        list(build_embedding_cache(output, *pictures, encoder, **options))


def kill_once(context: multiprocessing.context.ForkContext, delay: float | None, *arguments: object) -> bool:
    """Builds for so many seconds and kills; returns False if the cache was done before."""
    process = context.Process(target=build, args=arguments)
    process.start()
    process.join(delay)
    killed = process.is_alive()
    process.kill()
    process.join()
    if not killed and process.exitcode:
        sys.exit(f"error: the process ended with exit code {process.exitcode}.")
    return killed


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a cache, hidden ones included."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def kill_and_compare(folder: Path, kills: int, chance: random.Random) -> int:
    """Builds a cache without interruption, then others that are killed, until there were so many kills and one more
    cache is done; returns how many were compared."""
    torch.set_num_threads(1)  # before the first fork: threads do not survive it
    context = multiprocessing.get_context("fork")
    write_folder(folder / "pictures", PICTURES)
    pictures: tuple[object, Selection] = selected(folder)
    encoder = demo_encoder()
    started = time.monotonic()
    kill_once(context, None, folder / "reference", pictures, encoder)
    whole = time.monotonic() - started
    expected = contents(folder / "reference")
    print(f"The uninterrupted cache of {len(expected) - 1} parts took {whole:.1f} s.", flush=True)
    killed = caches = 0
    while True:
        output = folder / f"cache-{caches}"
        delay = chance.uniform(0, whole) if killed < kills else None
        if kill_once(context, delay, output, pictures, encoder):
            killed += 1
            there = len(list(output.glob("part-*")))
            print(f"kill {killed} after {delay:.2f} s in cache {caches}: {there} parts are there", flush=True)
            continue
        if contents(output) != expected:
            sys.exit(f"Cache {caches} has other bytes than the uninterrupted one.")
        print(f"cache {caches} is done: the same bytes", flush=True)
        caches += 1
        if killed >= kills:
            return caches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        caches = kill_and_compare(Path(folder), arguments.kills, random.Random(arguments.seed))
    print(f"{arguments.kills} kills, {caches} caches: all bytes equal.")


if __name__ == "__main__":
    main()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Kills drawing and measuring at random moments with SIGKILL, and looks whether they end the same.

    python tests/evaluation/kill_drawing.py --kills 20

tests/evaluation/test_drawing.py runs it with three kills; more of them find what these miss.

Twelve pictures of a tiny pipeline are drawn and measured without interruption, then again with kills until there were
so many; whenever such a run is done, its pictures and its card must have the bytes of the first. The exit code is 1
if anything differs. Needs `os.fork`.
"""

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from pathlib import Path

import torch

from diffusers_ediffi.evaluation import Evaluator

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers import tiny_pipeline  # noqa: E402
from helpers_evaluation import (  # noqa: E402
    contents,
    dinov2,
    draw_tiny,
    measure_tiny,
    tiny_evaluator,
    write_pictures,
)


def work(output: Path, evaluator: Evaluator) -> None:
    """Draws and measures, or what is left of it."""
    measure_tiny(evaluator, draw_tiny(output / "pictures"), output)


def kill_once(context: multiprocessing.context.ForkContext, delay: float | None, *arguments: object) -> bool:
    """Works for so many seconds and kills; returns False if it was done before."""
    process = context.Process(target=work, args=arguments)
    process.start()
    process.join(delay)
    killed = process.is_alive()
    process.kill()
    process.join()
    if not killed and process.exitcode:
        sys.exit(f"error: the process ended with exit code {process.exitcode}.")
    return killed


def results(output: Path) -> dict[str, bytes]:
    """Pictures, what is beside them, and the card; features are known by when their pictures were written."""
    return {**contents(output / "pictures"), "card": (output / "card.json").read_bytes()}


def kill_and_compare(folder: Path, kills: int, chance: random.Random) -> int:
    """Works without interruption, then killed, until there were so many kills and one more run is done; returns how
    many runs were compared."""
    torch.set_num_threads(1)  # before the first fork: threads do not survive it
    context = multiprocessing.get_context("fork")
    write_pictures(folder / "reference", 15, seed=1)
    dinov2(folder / "network")
    evaluator = tiny_evaluator(folder)
    tiny_pipeline()  # whose networks stay: what loads them has threads
    started = time.monotonic()
    kill_once(context, None, folder / "whole", evaluator)
    whole = time.monotonic() - started
    expected = results(folder / "whole")
    print(f"The uninterrupted run took {whole:.1f} s.", flush=True)
    killed = runs = 0
    while True:
        output = folder / f"run-{runs}"
        delay = chance.uniform(0, whole) if killed < kills else None
        if kill_once(context, delay, output, evaluator):
            killed += 1
            there = len(list(output.glob("pictures/*.png")))
            print(f"kill {killed} after {delay:.2f} s in run {runs}: {there} pictures are there", flush=True)
            continue
        if results(output) != expected:
            sys.exit(f"Run {runs} has other bytes than the uninterrupted one.")
        print(f"run {runs} is done: the same bytes", flush=True)
        runs += 1
        if killed >= kills:
            return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = kill_and_compare(Path(folder), arguments.kills, random.Random(arguments.seed))
    print(f"{arguments.kills} kills, {runs} runs: all bytes equal.")


if __name__ == "__main__":
    main()

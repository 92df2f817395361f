# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Kills the training of a tree of experts at random moments with SIGKILL, and looks whether it ends the same.

    python tests/training/kill_tree.py --kills 20

tests/training/test_tree.py runs it with three kills; more of them find what these miss.

A tree of five tiny networks (a pinned parent, a complement) is trained without interruption, then again in processes
that are killed and started anew until there were so many kills; whenever such a tree is done, its weights must be
those of the first, bit for bit, and the next one begins. Each restart must repeat at most one checkpoint interval. The
exit code is 1 if anything differs. Needs `os.fork`.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from diffusers_ediffi.training import SceneDataset, Schedule, TreeTrainer

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers_training import HalfScenes, encode, unet_for  # noqa: E402

CHECKPOINT_EVERY = 5
SCHEDULE = f"""
settings:
  {{batch_size: 2, learning_rate: 1.0e-3, warmup_steps: 2, num_workers: 0, sample_every: 0, log_every: 1,
   checkpoint_every: {CHECKPOINT_EVERY}, keep_last: 1}}
nodes:
  - {{name: all, node: [0, 0], steps: 20}}
  - {{name: upper, node: [1, 1], init_from: all@8, steps: 12}}
  - {{name: highest, node: [9, 511], init_from: upper, steps: 10}}
  - {{name: lowest, node: [3, 0], init_from: all@8, steps: 12}}
  - {{name: rest, excluding: [[9, 511], [3, 0]], init_from: all, steps: 12}}
routes:
  - {{expert: lowest, node: [3, 0]}}
  - {{expert: rest, excluding: [[9, 511], [3, 0]]}}
  - {{expert: highest, node: [9, 511]}}
"""
NO_KILL = 3600.0  # seconds within which every tree is done


def train(output: Path) -> None:
    """Trains the tree, or what is left of it, in silence."""
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        dataset = SceneDataset(HalfScenes(), 8, clip_image_size=8)
        TreeTrainer(Schedule.parse(SCHEDULE), unet_for, dataset, encode, output).train()


def weights(output: Path) -> dict[str, torch.Tensor]:
    """All weights of the assembled router and of every node."""
    files = sorted([*output.glob("unet/expert.*/*.safetensors"), *output.glob("nodes/*/unet/*.safetensors")])
    return {f"{file.relative_to(output)}:{name}": t for file in files for name, t in load_file(file).items()}


def lost_steps(output: Path) -> dict[str, int]:
    """Of each node, the steps that were logged after its newest complete checkpoint: those a restart repeats."""
    lost = {}
    for log in output.glob("nodes/*/log.jsonl"):
        lines = [line for line in log.read_text().splitlines() if line.endswith("}")]
        done = [int(path.parent.name.split("-")[1]) for path in log.parent.glob("checkpoint-*/COMPLETE")]
        if lines:
            lost[log.parent.name] = max(0, json.loads(lines[-1])["step"] - max(done, default=0))
    return lost


def same(tree: Path, other: Path) -> bool:
    """Whether two trees have the same weights, bit for bit."""
    found, expected = weights(tree), weights(other)
    return (
        bool(found)
        and found.keys() == expected.keys()
        and all(torch.equal(found[name], expected[name]) for name in found)
    )


def kill_once(context: multiprocessing.context.ForkContext, output: Path, delay: float) -> bool:
    """Trains for so many seconds and kills; returns False if the tree was done before."""
    process = context.Process(target=train, args=(output,))
    process.start()
    process.join(delay)
    killed = process.is_alive()
    process.kill()
    process.join()
    if not killed and process.exitcode:
        sys.exit(f"error: the training process ended with exit code {process.exitcode}.")
    return killed


def kill_and_compare(folder: Path, kills: int, chance: random.Random) -> tuple[int, int]:
    """Trains a tree without interruption, then others that are killed, until there were so many kills and one more
    tree is done.

    Returns:
        How many trees were compared, and the most steps of a node that a restart had to repeat.
    """
    context, started = multiprocessing.get_context("fork"), time.monotonic()
    kill_once(context, folder / "reference", NO_KILL)
    whole = time.monotonic() - started
    print(f"The uninterrupted tree took {whole:.1f} s.", flush=True)
    killed, trees = 0, 0
    most = 0
    while True:
        output = folder / f"tree-{trees}"
        delay = chance.uniform(0, whole / 4) if killed < kills else NO_KILL
        if kill_once(context, output, delay):
            killed += 1
            lost = {name: steps for name, steps in lost_steps(output).items() if steps}
            most = max(most, *lost.values(), 0)
            print(f"kill {killed} after {delay:.2f} s in tree {trees}: steps to repeat {lost or 'none'}", flush=True)
            continue
        if not same(folder / "reference", output):
            sys.exit(f"Tree {trees} has other weights than the uninterrupted one.")
        print(f"tree {trees} is done: the same weights, bit for bit", flush=True)
        trees += 1
        if killed >= kills:
            return trees, most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trees, most = kill_and_compare(Path(folder), arguments.kills, random.Random(arguments.seed))
    print(f"{arguments.kills} kills, {trees} trees: all weights equal; a restart repeated at most {most} steps of a")
    print(f"node, and the checkpoint interval is {CHECKPOINT_EVERY}.")
    if most > CHECKPOINT_EVERY:
        sys.exit("More than one checkpoint interval was repeated.")


if __name__ == "__main__":
    main()

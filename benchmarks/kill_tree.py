# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Kills the training of a tree of experts at random moments with SIGKILL, and checks that its result is the same.

    python benchmarks/kill_tree.py --kills 20

A tree of five tiny networks (a pinned parent, a complement) is trained without interruption, then again in processes
that are killed and restarted until there were `--kills` kills; whenever such a tree is done, its weights must be those
of the first, bit for bit, and the next tree begins. Each restart must repeat at most one checkpoint interval. The exit
code is 1 if anything differs. Needs `os.fork`.
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
from types import SimpleNamespace

import torch
from PIL import Image
from safetensors.torch import load_file

from diffusers_ediffi import EDiffIUNet, NoiseInterval
from diffusers_ediffi.training import SceneDataset, Schedule, TreeTrainer

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
WIDTH = 16


class HalfScenes:
    """Pictures with a black and a white half."""

    def scene(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(index=index, caption=str(index))

    def render(self, scene: SimpleNamespace, size: int) -> Image.Image:
        picture = Image.new("RGB", (size, size), "black")
        picture.paste("white", (scene.index % 2 * size // 2, 0, size // 2 * (1 + scene.index % 2), size))
        return picture


def encode(captions: list[str], images: torch.Tensor, keep_image: torch.Tensor | None = None) -> dict:
    """Embeddings that depend on the caption alone."""
    generators = [torch.Generator().manual_seed(int(caption)) for caption in captions]
    embeds = torch.stack([torch.randn(WIDTH, generator=generator) for generator in generators])
    return {
        "encoder_hidden_states": embeds[:, None].expand(-1, 77, -1),
        "added_cond_kwargs": {"text_embeds": embeds, "image_embeds": embeds},
    }


def make_unet(interval: NoiseInterval) -> EDiffIUNet:
    """A network of some 50K parameters, with dropout."""
    return EDiffIUNet(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        self_attention_factors=(2,),
        cross_attention_factors=(2,),
        attention_head_dim=8,
        cross_attention_dim=WIDTH,
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_2=WIDTH,
        pooled_projection_dim=WIDTH,
        image_embed_dim=WIDTH,
        norm_num_groups=4,
        dropout=0.1,
        trained_on=interval.to_config(),
    )


def train(output: Path) -> None:
    """Trains the tree, or what is left to train of it, without output."""
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        dataset = SceneDataset(HalfScenes(), 8, clip_image_size=8)
        TreeTrainer(Schedule.parse(SCHEDULE), make_unet, dataset, encode, output).train()


def weights(output: Path) -> dict[str, torch.Tensor]:
    """All weights of the assembled router and of every node."""
    files = sorted([*output.glob("unet/expert.*/*.safetensors"), *output.glob("nodes/*/unet/*.safetensors")])
    return {f"{file.relative_to(output)}:{name}": t for file in files for name, t in load_file(file).items()}


def lost_steps(output: Path) -> dict[str, int]:
    """For each node, the steps logged after its newest complete checkpoint, which a restart repeats."""
    lost = {}
    for log in output.glob("nodes/*/log.jsonl"):
        lines = [line for line in log.read_text().splitlines() if line.endswith("}")]
        done = [int(path.parent.name.split("-")[1]) for path in log.parent.glob("checkpoint-*/COMPLETE")]
        if lines:
            lost[log.parent.name] = max(0, json.loads(lines[-1])["step"] - max(done, default=0))
    return lost


def same(reference: Path, output: Path) -> bool:
    """Whether two trees have the same weights, bit for bit."""
    expected, found = weights(reference), weights(output)
    return (
        bool(expected) and expected.keys() == found.keys() and all(map(torch.equal, expected.values(), found.values()))
    )


def kill_once(context: multiprocessing.context.ForkContext, output: Path, delay: float) -> bool:
    """Kills the training after `delay` seconds; returns False if the tree was done before."""
    process = context.Process(target=train, args=(output,))
    process.start()
    process.join(delay)
    killed = process.is_alive()
    process.kill()
    process.join()
    if not killed and process.exitcode:
        sys.exit(f"error: the training process ended with exit code {process.exitcode}.")
    return killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="how often to kill (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: %(default)s)")
    arguments = parser.parse_args()
    chance, context = random.Random(arguments.seed), multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference"
        kills = most = trees = 0
        whole_tree = False
        started = time.monotonic()
        kill_once(context, reference, 3600)
        whole = time.monotonic() - started
        print(f"The uninterrupted tree took {whole:.1f} s.", flush=True)
        while kills < arguments.kills or not whole_tree:
            output = Path(folder) / f"tree-{trees}"
            delay = chance.uniform(0, whole / 4) if kills < arguments.kills else 3600
            whole_tree = not kill_once(context, output, delay)
            if not whole_tree:
                kills += 1
                lost = lost_steps(output)
                most = max(most, *lost.values(), 0)
                where = {name: steps for name, steps in lost.items() if steps}
                print(
                    f"kill {kills} after {delay:.2f} s in tree {trees}: steps to repeat {where or 'none'}", flush=True
                )
            else:
                if not same(reference, output):
                    sys.exit(f"Tree {trees} has other weights than the uninterrupted one.")
                print(f"tree {trees} is done: the same weights, bit for bit", flush=True)
                trees += 1
    print(f"{kills} kills, {trees} trees: all weights equal; a restart repeated at most {most} steps of a node, and")
    print(f"the checkpoint interval is {CHECKPOINT_EVERY}.")
    if most > CHECKPOINT_EVERY:
        sys.exit("More than one checkpoint interval was repeated.")


if __name__ == "__main__":
    main()

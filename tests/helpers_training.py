# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Scenes, encoders and a network for training runs of seconds."""

import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import torch
import yaml
from accelerate.state import AcceleratorState, PartialState
from PIL import Image

from diffusers_ediffi.experts.noise_interval import NoiseInterval
from diffusers_ediffi.models.unet import EDiffIUNet
from diffusers_ediffi.training import DropoutRates, SceneDataset, Schedule, Trainer, TrainingSettings, TreeTrainer
from diffusers_ediffi.training.checkpoint import complete_checkpoints

WIDTH = 16
PAPER_RATES = DropoutRates()
EVERYTHING = NoiseInterval.everything()
# A tree of three experts, with a step of a parent that is kept for a child.
SCHEDULE = """
settings: {batch_size: 2, learning_rate: 1.0e-2, warmup_steps: 2, num_workers: 0, sample_every: 0, log_every: 2,
           checkpoint_every: 3, keep_last: 1}
nodes:
  - {name: base, node: [0, 0], steps: 8}
  - {name: high, node: [9, 511], init_from: base@4, steps: 3, settings: {batch_size: 3, learning_rate: 1.0e-3}}
  - {name: rest, excluding: [[9, 511]], init_from: base, steps: 4}
routes:
  - {expert: rest, excluding: [[9, 511]]}
  - {expert: high, node: [9, 511]}
"""
ALL_STEPS = 15


class HalfScenes:
    """One half black, the other white: the smallest thing that has what `SceneDataset` asks for."""

    def __init__(self) -> None:
        self.renderings = 0

    def scene(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(index=index, caption=f"scene {index}")

    def render(self, scene: SimpleNamespace, size: int) -> Image.Image:
        self.renderings += 1
        picture = Image.new("RGB", (size, size), "black")
        left = scene.index % 2 * size // 2
        picture.paste("white", (left, 0, left + size // 2, size))
        return picture


class ScenesUntilTold(SceneDataset):
    """Before a scene, which never comes then, SIGTERM comes: to a process, and to its worker that renders."""

    def __init__(self, process: int, last: int | None) -> None:
        super().__init__(HalfScenes(), 8, clip_image_size=8)
        self.process, self.last = process, last

    def __getitem__(self, index: int) -> dict:
        if index == self.last:
            threading.Timer(0.2, self._stop, (os.getpid(),)).start()
            time.sleep(3600)
        return super().__getitem__(index)

    def _stop(self, here: int) -> None:
        for process in dict.fromkeys((self.process, here)):
            os.kill(process, signal.SIGTERM)


def encode(captions: list[str], images: torch.Tensor, keep_image: torch.Tensor | None = None) -> dict:
    """Embeddings that depend on the caption alone."""
    seeds = [int(caption.split()[1]) for caption in captions]
    embeds = torch.stack([torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    return {
        "encoder_hidden_states": embeds[:, None].expand(-1, 77, -1),
        "encoder_hidden_states_2": embeds[:, None].expand(-1, 5, -1),
        "encoder_attention_mask_2": torch.ones(len(seeds), 5),
        "added_cond_kwargs": {"text_embeds": embeds, "image_embeds": embeds + images.float().mean((1, 2, 3))[:, None]},
    }


def tiny_unet(**changes) -> EDiffIUNet:
    torch.manual_seed(0)
    return EDiffIUNet(
        **{
            "sample_size": 8,
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "self_attention_factors": (2,),
            "cross_attention_factors": (2,),
            "attention_head_dim": 8,
            "cross_attention_dim": WIDTH,
            "encoder_hid_dim": WIDTH,
            "encoder_hid_dim_2": WIDTH,
            "pooled_projection_dim": WIDTH,
            "image_embed_dim": WIDTH,
            "norm_num_groups": 4,
            "dropout": 0.1,  # so that exact resume covers the network's own random numbers
            **changes,
        }
    )


def make_trainer(
    output, unet=None, dataset=None, encoder=encode, dropout=PAPER_RATES, interval=EVERYTHING, **changes
) -> Trainer:
    settings = {"total_steps": 6, "batch_size": 2, "num_workers": 0, "log_every": 2, "sample_every": 0}
    settings |= {"learning_rate": 1e-2, "warmup_steps": 2, **changes}
    # accelerate keeps one precision per process; each of these tests stands for a process of its own.
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()
    dataset = dataset or SceneDataset(HalfScenes(), 8, clip_image_size=8)
    return Trainer(
        unet or tiny_unet(),
        dataset,
        encoder,
        output,
        TrainingSettings(**settings),
        interval,
        dropout=dropout,
    )


def make_tree(output, text=SCHEDULE, **options) -> TreeTrainer:
    # accelerate keeps one precision per process; each of these trees stands for a process of its own.
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()
    dataset = SceneDataset(HalfScenes(), 8, clip_image_size=8)
    return TreeTrainer(Schedule.parse(text), unet_for, dataset, encode, output, **options)


def unet_for(interval: NoiseInterval) -> EDiffIUNet:
    return tiny_unet(trained_on=interval.to_config())


def with_node(name: str, **changes) -> str:
    """SCHEDULE with other entries of one node, and one route that fits whatever they are."""
    content = yaml.safe_load(SCHEDULE)
    next(node for node in content["nodes"] if node["name"] == name).update(changes)
    return yaml.safe_dump({**content, "routes": [{"expert": "base", "node": [0, 0]}]})


def low_rank(text: str = SCHEDULE) -> str:
    """SCHEDULE with both experts as low-rank differences from the end of the base."""
    content = yaml.safe_load(text)
    for node in content["nodes"][1:]:
        node["init_from"] = "base"
        node["settings"] = {**node.get("settings", {}), "lora_rank": 2}
    return yaml.safe_dump(content)


def state_of(output) -> dict:
    return torch.load(complete_checkpoints(output)[-1] / "state.pt", weights_only=True)


def conditioning_of_ones(batch: int) -> dict:
    return {
        "encoder_hidden_states": torch.ones(batch, 3, 2),
        "encoder_hidden_states_2": torch.ones(batch, 4, 2),
        "encoder_attention_mask_2": torch.zeros(batch, 4, dtype=torch.long),
        "added_cond_kwargs": {"text_embeds": torch.ones(batch, 2), "image_embeds": torch.ones(batch, 2)},
    }


def assert_same(found, expected) -> None:
    """Bit for bit."""
    if isinstance(found, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(found, dict):
        assert found.keys() == expected.keys()
        for key in found:
            assert_same(found[key], expected[key])
    elif isinstance(found, list | tuple):
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b)
    else:
        assert found == expected


@contextmanager
def full_disk() -> Iterator[None]:
    """Files of more than two kilobytes cannot be written."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

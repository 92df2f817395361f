# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Runs of two processes on a CPU, as torchrun starts them."""

import multiprocessing
import os
import signal
import socket
import threading
import time
import traceback

import pytest
import torch
from helpers_training import HalfScenes, encode, make_trainer, state_of, tiny_unet

from diffusers_ediffi.training import SceneDataset
from diffusers_ediffi.training.launch import part_of, parts

NO_ATTENTION = {"self_attention_factors": (), "cross_attention_factors": ()}


def start_rank(rank, port, environment, work, arguments):
    """What a forked process does: `work(rank, *arguments)`, as that rank of two."""
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in where.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true", **environment})
    torch.set_num_threads(1)
    try:
        work(rank, *arguments)
    except Exception:
        traceback.print_exc()
        os._exit(1)


def in_two_processes(work, *arguments, **environment):
    """Runs `work` in two processes; returns their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    call = [context.Process(target=start_rank, args=(rank, port, environment, work, arguments)) for rank in (0, 1)]
    for process in call:
        process.start()
    for process in call:
        process.join(120)
        process.kill()
        process.join()
    return [process.exitcode for process in call]


def train(rank, output, network, settings):
    unet = tiny_unet(**network)
    trainer = make_trainer(output, unet, total_steps=3, batch_size=4, **settings)
    assert trainer.train() == 3
    weights = torch.cat([parameter.detach().flatten() for parameter in trainer.unet.parameters()])
    others = [torch.empty_like(weights) for _ in range(2)]
    torch.distributed.all_gather(others, weights)
    assert torch.equal(*others), "both have the same weights"


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("network", [{}, NO_ATTENTION], ids=["attention", "no attention"])
@pytest.mark.parametrize("accumulation", ["1", "2"])
def test_two_processes_train(tmp_path, optimizer, network, accumulation):
    """Also a network with parameters that no gradient reaches, and with layers for Muon."""
    settings = {"optimizer": optimizer, "checkpoint_every": 2}
    asked = {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": accumulation}
    assert in_two_processes(train, tmp_path, network, settings, **asked) == [0, 0]
    assert state_of(tmp_path)["step"] == 3


def stop(rank, output, receivers, is_slow):
    class Scenes(SceneDataset):
        def __getitem__(self, index):
            if index == 16 + 4 * rank:  # of step 2
                if rank in receivers:
                    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
                time.sleep(100 if is_slow else 1)
            return super().__getitem__(index)

    make_trainer(output, dataset=Scenes(HalfScenes(), 8, clip_image_size=8), batch_size=4, encoder=encode).train()


@pytest.mark.parametrize("receivers, is_slow", [((0, 1), True), ((0,), False), ((1,), False)])
def test_a_signal_to_any_process_stops_all_at_the_same_step(tmp_path, receivers, is_slow):
    started = time.monotonic()
    assert in_two_processes(stop, tmp_path, receivers, is_slow) == [143, 143]
    assert time.monotonic() - started < 60
    assert state_of(tmp_path)["step"] == 2


def test_parts_of_a_batch():
    assert [(part.start, part.stop) for part in parts(5, 2)] == [(0, 3), (3, 5)]
    assert len(parts(2, 4)) == 2
    batch = {"images": torch.arange(5), "captions": list("abcde"), "more": ({"x": torch.ones(5, 2)}, None, 0.5)}
    found = [part_of(batch, part) for part in parts(5, 2)]
    assert "".join("".join(part["captions"]) for part in found) == "abcde"
    assert found[1]["images"].tolist() == [3, 4]
    assert found[1]["more"][0]["x"].shape == (2, 2) and found[1]["more"][1:] == (None, 0.5)

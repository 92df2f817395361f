# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Runs of two processes on a CPU, as torchrun starts them."""

import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from math import nan
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from helpers_training import HalfScenes, ScenesUntilTold, make_trainer, tiny_unet
from torch.distributed.tensor import DTensor

from diffusers_ediffi.training import SceneDataset
from diffusers_ediffi.training.launch import LostProcessError

BF16_STEP = {"mixed_precision": "bf16", "total_steps": 1, "sample_every": 1, "sample_steps": 2}
FOR_EVER = 300.0  # seconds, after which processes only wait for each other


def in_two_processes(work: Any, folder: Path, *arguments: Any, **environment: str) -> list[int | None]:
    """Calls `work(rank, folder, *arguments)` in two processes of one run; returns their exit codes.

    They come from a server that has imported everything and computed nothing: copies of this process would have the
    locks of its threads and the settings that tests before left in it. They meet at a file, since a free port may be
    taken by the time that they open it.
    """
    context = multiprocessing.get_context("forkserver")
    calls = [(rank, folder, environment, work, arguments) for rank in (0, 1)]
    processes = [context.Process(target=_start, args=call) for call in calls]
    (folder / "meeting").unlink(missing_ok=True)  # that of processes that were killed
    for process in processes:
        process.start()
    _wait_for(processes)
    return [process.exitcode for process in processes]


def _wait_for(processes: list[Any]) -> None:
    """Waits until all processes have ended, but not for the others of one that failed."""
    running = list(processes)
    while running:
        ended = wait([process.sentinel for process in running], FOR_EVER)
        running = [process for process in running if process.sentinel not in ended]
        if not ended or any(process.exitcode == 1 for process in processes):
            for process in running:
                process.kill()
    for process in processes:
        process.join()


def _start(rank: int, folder: Path, environment: dict[str, str], work: Any, arguments: tuple) -> None:
    """What each process does. Of threads a launcher gives it one, too."""
    launch = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "OMP_NUM_THREADS": 1}
    os.environ.update({name: str(value) for name, value in launch.items()})
    os.environ.update({"ACCELERATE_USE_CPU": "true", **environment})
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    try:
        meeting = f"file://{folder / 'meeting'}"
        torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
        work(rank, folder / "run", *arguments)
    except Exception:
        traceback.print_exc()
        os._exit(1)


def train(rank: int, output: Path, network: dict[str, Any], settings: dict[str, Any]) -> None:
    """Three steps, after which both processes must have the same weights."""
    trainer = make_trainer(output, tiny_unet(**network), total_steps=3, batch_size=4, **settings)
    assert trainer.train() == 3
    weights = torch.cat([parameter.detach().flatten() for parameter in trainer.unet.parameters()])
    others = [torch.empty_like(weights) for _ in range(2)]
    torch.distributed.all_gather(others, weights)
    assert torch.equal(*others)


def train_in_pieces(rank: int, output: Path) -> None:
    """Four steps and a log line of all of them, at once and cut in the middle."""
    for name, limits in (("whole", [None]), ("cut", [2, None])):
        for limit in limits:
            make_trainer(output / name, total_steps=4, log_every=4, max_steps_this_run=limit).train()


def train_until_told(rank: int, output: Path, receivers: tuple[int, ...]) -> None:
    """SIGTERM comes to some of the processes while they wait for the data of step 2."""
    scenes = ScenesUntilTold(os.getpid(), 16 + 4 * rank if rank in receivers else None)
    make_trainer(output, dataset=scenes, batch_size=4).train()


def train_share(rank: int, output: Path, settings: dict[str, Any]) -> None:
    """Super-resolution with noise on its input, without dropout in the network: four steps, and two of four."""
    for name, limit in (("whole", None), ("cut", 2)):
        unet = tiny_unet(dropout=0.0, in_channels=6, max_noise_level=0.5)
        scenes = SceneDataset(HalfScenes(), 8, low_res_factor=4, clip_image_size=8)
        changes = {"total_steps": 4, "learning_rate": 1e-3, "max_steps_this_run": limit, **settings}
        make_trainer(output / name, unet, scenes, **changes).train()


def train_sharded(rank: int, output: Path) -> None:
    """Four steps at once, and in two runs, with half of each weight on each process; and a step in bf16."""
    for name, changes in (("whole", {}), ("cut", {"max_steps_this_run": 2}), ("cut", {}), ("bf16", BF16_STEP)):
        scenes = SceneDataset(HalfScenes(), 8, clip_image_size=8)
        settings = {"total_steps": 4, "learning_rate": 1e-3, "batch_size": 4, "log_every": 1, **changes}
        trainer = make_trainer(output / name, tiny_unet(dropout=0.0), scenes, **settings)
        trainer.sample_items, dtypes = [scenes[100]], set()
        trainer.unet.conv_in.register_forward_hook(lambda *call, dtypes=dtypes: dtypes.add(call[2].dtype))
        trainer.train()
        assert dtypes <= {torch.bfloat16 if name == "bf16" else torch.float32}
        weight = trainer.unet.conv_in.weight
        assert type(trainer.ema.shadow_params[0]) is type(weight) is DTensor
        assert 2 * len(weight.to_local()) == len(weight)


def train_until_one_is_killed(rank: int, output: Path) -> None:
    """The second process is killed in its fourth step; the first one leaves what it says, and how long it took."""
    trainer = make_trainer(output, checkpoint_every=2)
    calls = iter(range(3))

    def kill(*_: Any) -> None:
        if rank == 1 and next(calls, None) is None:
            (output / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    trainer.unet.register_forward_pre_hook(kill)
    try:
        trainer.train()
    except LostProcessError as error:
        seconds = time.time() - (output / "killed").stat().st_mtime
        (output / "said").write_text(f"{seconds} {error}")
        sys.exit(2)


def train_with_spoilt_pictures(rank: int, output: Path) -> None:
    """The second process has losses that are not finite from its third step on."""
    trainer = make_trainer(output, checkpoint_every=2, log_every=4)
    if rank == 1:
        trainer.unet.register_forward_hook(lambda *call: (call[2][0] * (nan if trainer.step == 2 else 1),))
    try:
        trainer.train()
    except FloatingPointError as error:
        (output / f"said-{rank}").write_text(str(error))
        sys.exit(2)


def train_whole(rank: int, output: Path) -> None:
    """Six steps, or what is left of them."""
    make_trainer(output, checkpoint_every=2).train()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What surrounds a run: signals, the log's file, the lock of a folder."""

import json
import multiprocessing
import os
import signal
import threading
import time

import pytest
from helpers_training import HalfScenes, ScenesUntilTold, assert_same, encode, make_trainer, state_of

from diffusers_ediffi.training import SceneDataset
from diffusers_ediffi.training.run import RunLog, SignalGuard, alone_in


def test_log_of_steps_that_are_repeated_is_cut(tmp_path):
    make_trainer(tmp_path, max_steps_this_run=3).train()
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "lost": true}\n')
    make_trainer(tmp_path).train()
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [2, 4, 6]
    assert "lost" not in (tmp_path / "log.jsonl").read_text()


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends_the_run_with_an_exit_code(tmp_path, number, code):
    trainer = make_trainer(tmp_path)
    step, handler = trainer.train_step, signal.getsignal(number)

    def step_and_signal(batch):
        step(batch)
        if trainer.step == 3:
            os.kill(os.getpid(), number)

    trainer.train_step = step_and_signal
    with pytest.raises(SystemExit) as stop:
        trainer.train()
    assert stop.value.code == code
    assert state_of(tmp_path)["step"] == 3 and (tmp_path / "unet" / "config.json").exists()
    assert signal.getsignal(number) is handler
    assert make_trainer(tmp_path).train() == 6


@pytest.mark.parametrize("where", ["the data", "the encoders", "the network", "a grid"])
def test_a_signal_does_not_wait_for_a_slow_step(tmp_path, where, monkeypatch):
    """What was begun is done again: the run equals one that was not cut."""

    def hang_once(call):
        def hanging(*arguments):
            if not stop["called"] and stop["after"] == 0:
                stop["called"] = True
                threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
                time.sleep(60)
                pytest.fail("the signal waited")
            stop["after"] -= 1
            return call(*arguments)

        return hanging

    class Slow(SceneDataset):
        def __getitem__(self, index):
            return (hang_once(super().__getitem__) if where == "the data" else super().__getitem__)(index)

    make_trainer(tmp_path / "whole").train()
    stop = {"called": False, "after": 6 if where == "the data" else 3}
    dataset = Slow(HalfScenes(), 8, clip_image_size=8)
    trainer = make_trainer(tmp_path / "cut", dataset=dataset, sample_every=3 if where == "a grid" else 0)
    trainer.sample_items = [SceneDataset(HalfScenes(), 8, clip_image_size=8)[100]]
    if where == "the encoders":
        trainer.conditioner.encode_batch = hang_once(encode)
    if where == "the network":
        trainer.unet.conv_out.register_forward_pre_hook(hang_once(lambda *arguments: None))
    if where == "a grid":
        stop["after"] = 0
        monkeypatch.setattr("diffusers_ediffi.training.trainer.sample_rows", hang_once(None))
    with pytest.raises(SystemExit) as end:
        trainer.train()
    assert end.value.code == 143
    assert state_of(tmp_path / "cut")["step"] == 3
    assert make_trainer(tmp_path / "cut").train() == 6
    assert_same(state_of(tmp_path / "whole"), state_of(tmp_path / "cut"))


def test_a_signal_ends_worker_processes_as_well(tmp_path):
    """They are some steps ahead."""
    trainer = make_trainer(tmp_path, dataset=ScenesUntilTold(os.getpid(), 4), num_workers=1)
    with pytest.raises(SystemExit) as stop:
        trainer.train()
    assert stop.value.code == 143 and state_of(tmp_path)["step"] <= 2
    for worker in multiprocessing.active_children():
        worker.join(30)
        assert not worker.is_alive()


def test_a_guarded_block_ends_as_it_likes_and_is_followed_by_the_exit():
    with pytest.raises(SystemExit) as stop, SignalGuard() as guard:
        assert guard.received is None
        os.kill(os.getpid(), signal.SIGINT)
        assert guard.received is signal.SIGINT
        with pytest.raises(KeyboardInterrupt):  # a second one does not wait
            os.kill(os.getpid(), signal.SIGINT)
    assert stop.value.code == 130


def test_a_guarded_block_that_fails_says_why():
    with pytest.raises(FloatingPointError), SignalGuard():
        os.kill(os.getpid(), signal.SIGTERM)
        raise FloatingPointError


def test_a_guard_may_end_its_block_at_once():
    with pytest.raises(SystemExit) as stop, SignalGuard(at_once=True):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the block went on")
    assert stop.value.code == 143


def test_a_guard_outside_of_the_main_thread_does_nothing():
    def run():
        with SignalGuard() as guard:
            found.append((guard.received, signal.getsignal(signal.SIGTERM)))

    found, handler = [], signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(None, handler)]


def test_a_log_is_cut_back_to_a_step(tmp_path):
    log = RunLog(tmp_path)
    log.cut_back(5)
    assert not log.path.exists()
    for step in (1, 2, 3):
        log.append({"step": step})
    with log.path.open("a") as file:
        file.write('{"step": 2, "lo')
    log.cut_back(2)
    assert log.lines() == [{"step": 1}, {"step": 2}]


def test_one_process_alone_in_a_folder(tmp_path):
    with alone_in(tmp_path / "new"), pytest.raises(OSError, match="Another process trains in .*new; wait"):
        with alone_in(tmp_path / "new"):
            pytest.fail("two are in it")
    with alone_in(tmp_path / "new"):
        pass

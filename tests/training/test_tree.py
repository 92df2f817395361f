# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A tree of experts: trained in pieces or at once it is the same, and done nodes stay."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import pytest
import torch
from helpers_training import (
    ALL_STEPS,
    SCHEDULE,
    HalfScenes,
    assert_same,
    encode,
    low_rank,
    make_tree,
    tiny_unet,
)

from diffusers_ediffi import EDiffIUNet, ExpertRouterUNet, NoiseInterval
from diffusers_ediffi.training import SceneDataset, Schedule, Trainer
from diffusers_ediffi.training.checkpoint import averaged_weights, complete_checkpoints

KILL_SCRIPT = Path(__file__).parent / "kill_tree.py"


def weights(output, node: str) -> dict:
    return EDiffIUNet.from_pretrained(output / "nodes" / node / "unet").state_dict()


def assert_same_trees(tree, other) -> None:
    for node in ("base", "high", "rest"):
        assert_same(weights(tree, node), weights(other, node))
    assert_same(*(ExpertRouterUNet.from_pretrained(output / "unet").state_dict() for output in (tree, other)))


def test_each_node_starts_from_the_averaged_weights_of_its_parent_at_its_step(whole):
    tree = make_tree(whole)
    for name, start in (("high", averaged_weights(whole / "nodes" / "base" / "checkpoint-4")), ("rest", None)):
        node = tree.schedule[name]
        tree.folder = lambda of, name=name: whole / "nodes" / ("not-started" if of.name == name else of.name)
        network = tree._start_network(node)
        expected = start or list(EDiffIUNet.from_pretrained(whole / "nodes" / "base" / "unet").parameters())
        assert_same([p.data for p in network.parameters()], [p.data for p in expected])
        assert network.config.trained_on == node.interval.to_config()


def test_a_tree_equals_its_runs_one_by_one(whole, tmp_path):
    """The driver adds nothing to what `Trainer` does: the root is a plain run, bit for bit."""
    tree = make_tree(tmp_path / "unused")
    settings, data = tree.settings["base"], SceneDataset(HalfScenes(), 8, clip_image_size=8)
    Trainer(tiny_unet(), data, encode, tmp_path / "run", settings, NoiseInterval.everything()).train()
    assert_same(EDiffIUNet.from_pretrained(tmp_path / "run" / "unet").state_dict(), weights(whole, "base"))


def test_pinned_steps_are_kept_and_others_rotated(whole):
    kept = [path.name for path in complete_checkpoints(whole / "nodes" / "base")]
    assert kept == ["checkpoint-4", "checkpoint-8"]


def test_the_router_serves_what_the_routes_say(whole):
    router = ExpertRouterUNet.from_pretrained(whole / "unet")
    assert router.boundaries == Schedule.parse(SCHEDULE).boundaries
    assert [router.select_expert(sigma) for sigma in (0.002, 9.6, 9.61, 80.0)] == [0, 0, 1, 1]
    assert_same(router.experts[0].state_dict(), weights(whole, "rest"))
    assert router.experts[1].config.trained_on == NoiseInterval.from_node(9, 511).to_config()


def test_a_node_may_serve_two_routes(tmp_path):
    text = SCHEDULE[: SCHEDULE.index("  - {name: high")] + (
        "routes:\n  - {expert: base, node: [1, 0]}\n  - {expert: base, node: [1, 1]}\n"
    )
    make_tree(tmp_path, text).train()
    assert len(ExpertRouterUNet.from_pretrained(tmp_path / "unet").experts) == 2


def test_a_tree_in_pieces_equals_the_uninterrupted_one(whole, tmp_path):
    pieces = 0
    while (tree := make_tree(tmp_path, max_steps_this_run=3)).train() is None:
        pieces += 1
        assert tree.steps_done() == pieces * 3, "the budget is that of the whole tree, not of a node"
    assert pieces == (ALL_STEPS - 1) // 3
    assert_same_trees(whole, tmp_path)
    for node in ("base", "high", "rest"):
        losses = [
            [
                json.loads(line)["loss_per_sigma"]
                for line in (tree / "nodes" / node / "log.jsonl").read_text().split("\n")[:-1]
            ]
            for tree in (whole, tmp_path)
        ]
        assert losses[0] == losses[1], "log lines do not show where it was cut"


def test_minutes_are_those_of_the_whole_tree(tmp_path):
    assert make_tree(tmp_path, max_minutes_this_run=1e-9).train() is None
    assert make_tree(tmp_path).steps_done() <= 1


def test_killed_at_random_moments(tmp_path):
    """Three kills here; the script's default is 20."""
    command = [sys.executable, KILL_SCRIPT, "--kills", "3", "--seed", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    assert "3 kills, " in result.stdout and "all weights equal" in result.stdout


def test_a_signal_saves_and_exits(whole, tmp_path, monkeypatch):
    train_step = Trainer.train_step

    def step_and_signal(trainer, batch):
        train_step(trainer, batch)
        if trainer.output.name == "high" and trainer.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "train_step", step_and_signal)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        make_tree(tmp_path).train()
    assert stop.value.code == 143 and signal.getsignal(signal.SIGTERM) is handler
    tree = make_tree(tmp_path)
    assert tree.steps_done() == 8 + 2 and not tree.is_done(tree.schedule["high"])
    monkeypatch.setattr(Trainer, "train_step", train_step)
    assert tree.train() is not None
    assert_same_trees(whole, tmp_path)


def test_a_signal_between_two_runs_exits_as_well(tmp_path):
    tree = make_tree(tmp_path)
    tree.make_unet = lambda interval: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        tree.train()
    assert stop.value.code == 143


def test_done_nodes_are_skipped(done, capsys):
    states = {path: path.stat().st_mtime_ns for path in done.glob("nodes/*/checkpoint-*/state.pt")}
    shutil.rmtree(done / "nodes" / "rest")
    make_tree(done).train()
    assert re.findall(r"(\w+): done, skipped", capsys.readouterr().out) == ["base", "high"]
    assert all(path.stat().st_mtime_ns == t for path, t in states.items() if "rest" not in str(path))


def test_a_half_written_node_is_not_taken_for_done(whole, done, capsys):
    """Killed between its last checkpoint and its marker, with weights of an earlier stop or with none."""
    node = done / "nodes" / "high"
    (node / "done.json").unlink()
    shutil.rmtree(node / "unet")
    shutil.copytree(done / "nodes" / "base" / "unet", node / "unet")
    make_tree(done).train()
    assert "All 3 steps are done" in capsys.readouterr().out
    assert_same_trees(whole, done)
    shutil.rmtree(node / "unet")  # the marker alone does not count
    make_tree(done).train()
    assert_same_trees(whole, done)


def test_what_a_kill_leaves_half_written_is_removed(done):
    node = done / "nodes" / "rest"
    (node / "done.json").unlink()
    (node / "checkpoint-4" / "COMPLETE").unlink()  # written until the marker
    (node / ".checkpoint-3.tmp").mkdir()
    with (node / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "lo')
    make_tree(done).train()
    assert not (node / ".checkpoint-3.tmp").exists() and (node / "checkpoint-4" / "COMPLETE").exists()
    assert [json.loads(line)["step"] for line in (node / "log.jsonl").read_text().splitlines()] == [2, 4]


def test_two_processes_do_not_train_one_tree(tmp_path):
    with filelock.FileLock(tmp_path / ".lock"), pytest.raises(OSError, match="Another process trains in"):
        make_tree(tmp_path).train()


@pytest.mark.parametrize("name", ["max_steps_this_run", "max_minutes_this_run"])
def test_budget_must_be_positive(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} must be above 0, got 0"):
        make_tree(tmp_path, **{name: 0})


def test_low_rank_experts_share_the_network_they_start_from(whole, tmp_path):
    make_tree(tmp_path, low_rank()).train()
    router = ExpertRouterUNet.from_pretrained(tmp_path / "unet")
    assert router.config.shared_base
    base = EDiffIUNet.from_pretrained(tmp_path / "nodes" / "base" / "unet")
    assert_same(EDiffIUNet.from_pretrained(tmp_path / "unet" / "expert.base").state_dict(), base.state_dict())
    conditioning = encode(["scene 1"], torch.zeros(1, 3, 8, 8))
    for sigma, name in ((0.5, "rest"), (80.0, "high")):
        expert = EDiffIUNet.from_pretrained(tmp_path / "nodes" / name / "unet").eval()
        assert any(not torch.equal(tensor, base.state_dict()[key]) for key, tensor in expert.state_dict().items())
        call = {"sample": torch.randn(1, 3, 8, 8), "timestep": torch.tensor(sigma).log() / 4, **conditioning}
        with torch.no_grad():
            torch.testing.assert_close(router(**call).sample, expert(**call).sample)


def test_low_rank_experts_of_different_starts_become_full_ones(tmp_path):
    text = low_rank().replace("init_from: base\n  name: rest", "init_from: high\n  outside_parent: x\n  name: rest")
    assert "init_from: high" in text
    make_tree(tmp_path, text).train()
    assert not ExpertRouterUNet.from_pretrained(tmp_path / "unet").config.shared_base

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A tree of experts: trained in pieces or at once it is the same; done nodes stay; changed plans are refused."""

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
import yaml
from accelerate.state import AcceleratorState, PartialState
from helpers_training import HalfScenes, assert_same, encode, tiny_unet

from diffusers_ediffi import EDiffIUNet, ExpertRouterUNet, NoiseInterval
from diffusers_ediffi.training import SceneDataset, Schedule, Trainer, TreeTrainer
from diffusers_ediffi.training.checkpoint import averaged_weights, complete_checkpoints

KILL_SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill_tree.py"
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


def make_tree(output, text=SCHEDULE, **options) -> TreeTrainer:
    # accelerate keeps one precision per process; each of these trees stands for a process of its own.
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()
    dataset = SceneDataset(HalfScenes(), 8, clip_image_size=8)
    return TreeTrainer(Schedule.parse(text), make_unet, dataset, encode, output, **options)


def make_unet(interval: NoiseInterval) -> EDiffIUNet:
    return tiny_unet(trained_on=interval.to_config())


def with_node(name: str, **changes) -> str:
    """SCHEDULE with other entries of one node, and one route that fits whatever they are."""
    content = yaml.safe_load(SCHEDULE)
    next(node for node in content["nodes"] if node["name"] == name).update(changes)
    return yaml.safe_dump({**content, "routes": [{"expert": "base", "node": [0, 0]}]})


def weights(output, node: str) -> dict:
    return EDiffIUNet.from_pretrained(output / "nodes" / node / "unet").state_dict()


def assert_same_trees(one, two) -> None:
    for node in ("base", "high", "rest"):
        assert_same(weights(one, node), weights(two, node))
    assert_same(*(ExpertRouterUNet.from_pretrained(output / "unet").state_dict() for output in (one, two)))


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a tree that was trained without interruption; not to be changed."""
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("whole")
    make_tree(output).train()
    return output


@pytest.fixture
def done(whole, tmp_path):
    """A copy of it."""
    shutil.copytree(whole, tmp_path / "done")
    return tmp_path / "done"


# ---------------------------------------------------------------------------------------------------- one tree


def test_each_node_starts_from_the_averaged_weights_of_its_parent_at_its_step(whole):
    tree = make_tree(whole)
    for name, start in (("high", averaged_weights(whole / "nodes" / "base" / "checkpoint-4")), ("rest", None)):
        node = tree.schedule[name]
        tree.folder = lambda one, name=name: whole / "nodes" / ("not-started" if one.name == name else one.name)
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


def test_a_child_goes_on_in_the_data_where_its_parent_was(whole):
    tree = make_tree(whole)
    first = {node.name: tree.first_item(node) for node in tree.schedule.nodes}
    assert first == {"base": 0, "high": 4 * 2, "rest": 8 * 2}


def test_the_router_serves_what_the_routes_say(whole):
    router = ExpertRouterUNet.from_pretrained(whole / "unet")
    assert router.boundaries == Schedule.parse(SCHEDULE).boundaries
    assert [router.select_expert(sigma) for sigma in (0.002, 9.6, 9.61, 80.0)] == [0, 0, 1, 1]
    assert_same(router.experts[0].state_dict(), weights(whole, "rest"))
    assert router.experts[1].config.trained_on == NoiseInterval.from_node(9, 511).to_config()


def test_report(whole, capsys):
    report = json.loads((whole / "report.json").read_text())
    high = report["nodes"]["high"]
    assert (high["steps"], high["samples"], high["init_from"]) == (3, 9, "base@4")
    assert list(high["loss_per_sigma"]) in (["3-10", ">10"], [">10"]) and high["loss"] > 0 and high["seconds"] > 0
    assert report["nodes"]["rest"]["init_from"] == "base@8" and report["nodes"]["base"]["init_from"] is None
    assert (report["steps"], report["samples"]) == (ALL_STEPS, 16 + 9 + 8)
    assert [route["expert"] for route in report["routes"]] == ["rest", "high"]
    assert report["routes"][1]["sigma"] == [NoiseInterval.from_node(9, 511).ranges[0][0], None]
    make_tree(whole).train()
    table = [line for line in capsys.readouterr().out.splitlines() if re.match(r"high +\[9.61, inf\)", line)][-1]
    assert table.split()[:5] == ["high", "[9.61,", "inf)", "3", "9"]


def test_the_map_stands_first(tmp_path, capsys):
    make_tree(tmp_path, max_steps_this_run=1).train()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["route", "sigma", "of", "25", "sampling", "steps"],
        ["rest", "[0,", "9.61)", "16"],
        ["high", "[9.61,", "inf)", "9"],
    ]
    assert "base, node 1 of 3. 0 of the tree's 15 steps are done (0%)." in lines
    assert lines[-1].startswith("1 of the tree's 15 steps are done (7%), about ")


def test_a_node_may_serve_two_routes(tmp_path):
    text = SCHEDULE[: SCHEDULE.index("  - {name: high")] + (
        "routes:\n  - {expert: base, node: [1, 0]}\n  - {expert: base, node: [1, 1]}\n"
    )
    make_tree(tmp_path, text).train()
    assert len(ExpertRouterUNet.from_pretrained(tmp_path / "unet").experts) == 2


# ---------------------------------------------------------------------------------------------------- in pieces


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


# ---------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("high", {"steps": 5}, "Node 'high' is done with settings.total_steps = 3, but now it is 5"),
        ("high", {"node": [5, 31]}, r"Node 'high' is done with trained_on = \[\[9.6.*but now"),
        ("high", {"init_from": "base@5"}, "Node 'high' is done with start_step = 4, but now it is 5"),
        (
            "base",
            {"settings": {"learning_rate": 0.5}},
            "Node 'base' is done with settings.learning_rate = 0.01, .* 0.5",
        ),
        ("rest", {"p_mean": 0}, "Node 'rest' is done with p_mean = -1.2, but now it is 0.0"),
    ],
)
def test_a_changed_plan_is_refused_by_name(whole, name, changes, message):
    with pytest.raises(ValueError, match=f"{message}.* or remove .*{name} to train it anew"):
        make_tree(whole, with_node(name, **changes)).train()


def test_a_changed_plan_of_a_started_node_is_refused(tmp_path):
    data = {"phrases": ["dog"]}
    make_tree(tmp_path, max_steps_this_run=2, data_settings=data).train()
    with pytest.raises(ValueError, match="Node 'base' has 2 steps with settings.lr_schedule = 'constant'"):
        make_tree(tmp_path, overrides={"lr_schedule": "cosine"}, data_settings=data).train()
    with pytest.raises(ValueError, match=r"Node 'base' has 2 steps with data.phrases = \['dog'\], .* \['cat'\]"):
        make_tree(tmp_path, data_settings={"phrases": ["cat"]}).train()


def test_a_child_of_a_parent_that_was_trained_anew_is_refused(done):
    shutil.rmtree(done / "nodes" / "base")
    text = with_node("base", settings={"seed": 5})
    with pytest.raises(ValueError, match="Node 'high' is done with init_from.settings.seed = 0, but now it is 5"):
        make_tree(done, text).train()


def test_settings_of_the_machine_may_change(done):
    overrides = {"log_every": 1, "checkpoint_every": 1, "gradient_checkpointing": True, "num_workers": 1}
    assert make_tree(done, overrides=overrides).train() is not None


def test_a_parent_without_the_pinned_step_is_refused_before_anything_runs(done):
    shutil.rmtree(done / "nodes" / "high")
    message = r"'high' starts from base@6, .* past this step .* \(there are: 4, 8\).* or from its end, 8"
    with pytest.raises(ValueError, match=message):
        make_tree(done, with_node("high", init_from="base@6")).train()
    shutil.rmtree(done / "nodes" / "base" / "checkpoint-4")
    with pytest.raises(ValueError, match="'high' starts from base@4"):
        make_tree(done).train()


def test_two_processes_do_not_train_one_tree(tmp_path):
    with filelock.FileLock(tmp_path / ".lock"), pytest.raises(OSError, match="Another process trains in"):
        make_tree(tmp_path).train()


@pytest.mark.parametrize("name", ["max_steps_this_run", "max_minutes_this_run"])
def test_budget_must_be_positive(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} must be above 0, got 0"):
        make_tree(tmp_path, **{name: 0})


def test_start_of_a_schedule(whole, tmp_path):
    """From an expert one may train what it was trained on; another network in its place is noticed."""
    start = tmp_path / "start"
    shutil.copytree(whole / "nodes" / "high", start)
    text = f"start: {start}\nnodes: [{{name: a, node: [10, 1023], steps: 1, settings: {{num_workers: 0}}}}]\n"
    unbounded = "routes: [{expert: a, node: [0, 0]}]"
    wide = text.replace("[10, 1023]", "[0, 0]") + unbounded
    with pytest.raises(ValueError, match=r"'a' is trained on sigma \[0, inf\), which its start .* was not"):
        make_tree(tmp_path / "tree", wide).train()
    with pytest.raises(ValueError, match="start: .* holds no trained network"):
        make_tree(tmp_path / "tree", wide.replace(str(start), str(tmp_path / "nowhere"))).train()
    reasoned = wide.replace("steps: 1", "steps: 1, outside_parent: it is at hand")
    assert make_tree(tmp_path / "tree", reasoned).train() is not None
    moved = tmp_path / "moved"
    start.rename(moved)
    reasoned = reasoned.replace(str(start), str(moved))
    assert make_tree(tmp_path / "tree", reasoned).train() is not None
    shutil.copytree(whole / "nodes" / "base", moved, dirs_exist_ok=True)
    with pytest.raises(ValueError, match="Node 'a' is done with start = "):
        make_tree(tmp_path / "tree", reasoned).train()


def test_a_start_of_several_experts_is_refused(whole, tmp_path):
    text = f"start: {whole}\nnodes: [{{name: a, node: [0, 0], steps: 1}}]\nroutes: [{{expert: a, node: [0, 0]}}]"
    with pytest.raises(ValueError, match="holds several experts: name one of them, such as .*expert.0"):
        make_tree(tmp_path / "tree", text).train()


# ---------------------------------------------------------------------------------------------------- low rank


def low_rank(text: str = SCHEDULE) -> str:
    """SCHEDULE with both experts as low-rank differences from the end of the base."""
    content = yaml.safe_load(text)
    for node in content["nodes"][1:]:
        node["init_from"] = "base"
        node["settings"] = {**node.get("settings", {}), "lora_rank": 2}
    return yaml.safe_dump(content)


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


def test_a_difference_needs_a_start(tmp_path):
    text = SCHEDULE.replace("keep_last: 1}", "keep_last: 1, lora_rank: 4}")
    with pytest.raises(ValueError, match="'base' has lora_rank = 4, .* it starts from random weights"):
        make_tree(tmp_path, text).train()
    chain = low_rank().replace("init_from: base\n  name: rest", "init_from: high@2\n  outside_parent: x\n  name: rest")
    with pytest.raises(ValueError, match="'rest' starts from high@2: 'high' has lora_rank = 2"):
        make_tree(tmp_path, chain).train()
    assert not tmp_path.joinpath("nodes").exists()


# ---------------------------------------------------------------------------------------------------- dry run


def test_dry_run_says_what_it_costs_and_writes_nothing(tmp_path):
    output = tmp_path / "tree"
    text = make_tree(output).dry_run(measured_steps=1)
    assert not output.exists()
    assert "3 nodes, 15 steps, 33 samples. Left: " in text and " device hours, from 1 measured steps" in text
    line = next(line for line in text.splitlines() if re.match(r"high +\[9.61, inf\) +base@4", line))
    assert line.split()[4:7] == ["3", "9", "0"] and float(line.split()[7]) > 0, "steps, samples, done, s/step"


def test_dry_run_of_a_done_tree_costs_nothing(whole):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    assert "Left: 0 hours" in make_tree(whole).dry_run(measured_steps=1)
    assert before == {path: path.stat().st_mtime_ns for path in whole.rglob("*")}

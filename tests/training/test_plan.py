# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What a tree needs of its folder and its parents: changed plans and missing steps are refused by name."""

import shutil

import pytest
from helpers_training import (
    SCHEDULE,
    low_rank,
    make_tree,
    with_node,
)


def test_a_child_goes_on_in_the_data_where_its_parent_was(whole):
    tree = make_tree(whole)
    first = {node.name: tree.first_item(node) for node in tree.schedule.nodes}
    assert first == {"base": 0, "high": 4 * 2, "rest": 8 * 2}


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


def test_a_difference_needs_a_start(tmp_path):
    text = SCHEDULE.replace("keep_last: 1}", "keep_last: 1, lora_rank: 4}")
    with pytest.raises(ValueError, match="'base' has lora_rank = 4, .* it starts from random weights"):
        make_tree(tmp_path, text).train()
    chain = low_rank().replace("init_from: base\n  name: rest", "init_from: high@2\n  outside_parent: x\n  name: rest")
    with pytest.raises(ValueError, match="'rest' starts from high@2: 'high' has lora_rank = 2"):
        make_tree(tmp_path, chain).train()
    assert not tmp_path.joinpath("nodes").exists()

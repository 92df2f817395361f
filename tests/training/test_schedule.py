# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Schedules: what the shipped ones say, and one clear error for each way in which they can be wrong."""

import math
from pathlib import Path

import pytest
import yaml

from diffusers_ediffi.experts.noise_interval import ENSEMBLES, NoiseInterval
from diffusers_ediffi.training import Schedule, schedule, shipped_schedules

GOOD = """
settings: {batch_size: 2, learning_rate: 1.0e-4}
nodes:
  - {name: base, node: [0, 0], steps: 100}
  - {name: high, node: [9, 511], init_from: base@50, steps: 10, settings: {batch_size: 8}}
  - {name: rest, excluding: [[9, 511]], init_from: base, steps: 20}
routes:
  - {expert: rest, excluding: [[9, 511]]}
  - {expert: high, node: [9, 511]}
"""


def changed(**changes) -> str:
    """GOOD with other entries: `nodes_1={"steps": 5}` changes nodes[1], None removes, `top=` changes the top level."""
    content = yaml.safe_load(GOOD)
    for place, entries in changes.items():
        part, _, index = place.partition("_")
        target = content if part == "top" else content[part][int(index)] if index else content[part]
        for key, value in entries.items():
            if value is None:
                del target[key]
            else:
                target[key] = value
    return yaml.safe_dump(content)


def test_a_schedule_is_read():
    schedule = Schedule.parse(GOOD)
    high = schedule["high"]
    assert high.interval == NoiseInterval.from_node(9, 511) and high.index == (9, 511)
    assert schedule["rest"].interval == NoiseInterval.from_node(9, 511).complement()
    assert [schedule.start_step(node) for node in schedule.nodes] == [None, 50, 100]
    assert schedule.pinned_steps("base") == [50], "its end needs no pin"
    assert schedule.boundaries == [NoiseInterval.from_node(9, 511).ranges[0][0]]


def test_a_nodes_settings_come_before_the_callers_and_those_before_the_schedules():
    schedule = Schedule.parse(GOOD)
    found = [schedule.settings_of(node, {"batch_size": 4, "seed": 3}) for node in schedule.nodes]
    assert [settings.batch_size for settings in found] == [4, 8, 4]
    assert {settings.seed for settings in found} == {3} and found[1].total_steps == 10


def test_numbers_and_words_that_yaml_takes_for_something_else():
    text = GOOD.replace("1.0e-4", "1e-4, mixed_precision: no").replace("node: [9, 511]}", "sigma: [9.609, inf]}")
    text = text.replace("excluding: [[9, 511]]}", "sigma: [0, 9.609]}")
    schedule = Schedule.parse(text)
    assert schedule.settings == {"batch_size": 2, "learning_rate": 1e-4, "mixed_precision": "no"}
    assert schedule.routes[1].high == math.inf, "9.609 is 9.6096 within the precision of quoted boundaries"


def test_a_node_may_draw_from_another_distribution_inside_its_interval():
    schedule = Schedule.parse(changed(nodes_1={"p_mean": 1.6}, top={"p_std": 1.3}))
    high, base = schedule["high"].interval, schedule["base"].interval
    assert (high.p_mean, high.p_std, base.p_mean) == (1.6, 1.3, -1.2)
    assert high.ranges == NoiseInterval.from_node(9, 511, p_std=1.3).ranges


def test_parents_come_first_whatever_their_order():
    content = yaml.safe_load(GOOD)
    content["nodes"].reverse()
    content["routes"].reverse()
    schedule = Schedule.parse(yaml.safe_dump(content))
    assert [node.name for node in schedule.nodes] == ["base", "rest", "high"]
    assert [route.expert for route in schedule.routes] == ["rest", "high"]


# --- shipped ones ---


def test_table_5_is_the_papers():
    schedule = Schedule.load("paper-table5")
    steps = {node.name: node.steps // 1000 for node in schedule.nodes}
    table = {"M-1-0": 50, "M-1-1": 50, "M-2-0": 120, "M-2-1": 50, "M-2-2": 50, "M-2-3": 130, "M-3-0": 160, "M-3-7": 40}
    table |= {"M-4-0": 110, "M-4-15": 190, "M-5-31": 100, "M-9-511": 50, "MC-9-511": 50, "MC2-9-511": 50}
    assert steps == {"M-0-0": 1900, **table}
    assert schedule.pinned_steps("M-0-0") == [500_000, 1_450_000]
    config_d = ENSEMBLES["D"]["base"]
    assert schedule.boundaries == list(config_d.boundaries)
    assert [schedule[route.expert].interval for route in schedule.routes] == list(config_d.experts)


def test_table_6_is_the_papers():
    schedule = Schedule.load("paper-table6")
    assert [(node.steps, node.index) for node in schedule.nodes] == [
        (2_000_000, (0, 0)),
        (300_000, (1, 0)),
        (300_000, (1, 1)),
    ]
    assert schedule.boundaries == list(ENSEMBLES["B"]["sr256"].boundaries)


@pytest.mark.parametrize("name, experts", [("two-experts", 2), ("three-experts", 3), ("four-experts", 4)])
def test_small_ones(name, experts):
    schedule = Schedule.load(name)
    assert len(schedule.routes) == experts and sum(node.steps for node in schedule.nodes) < 10_000


def test_every_shipped_file_has_a_test():
    assert set(shipped_schedules()) == {"paper-table5", "paper-table6", "two-experts", "three-experts", "four-experts"}


def test_the_file_is_named_in_errors(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(changed(nodes_0={"steps": 0}))
    with pytest.raises(ValueError, match="mine.yaml: .*'base'.*steps must be at least 1, got 0"):
        Schedule.load(path)
    with pytest.raises(ValueError, match="no schedule file 'four-expert'; the shipped ones are four-experts"):
        Schedule.load("four-expert")


# --- errors ---

ROUTE = {"expert": "high", "node": [9, 511]}
ERRORS = {
    "unknown key": (changed(nodes_1={"init_form": "base"}), r"unknown key 'init_form'; the nearest .* 'init_from'"),
    "unknown top key": (changed(top={"route": []}), "the schedule has the unknown key 'route'; .* 'routes'"),
    "unknown setting": (changed(settings={"learning_rat": 1}), "settings has the unknown key .*'learning_rate'"),
    "misplaced setting": (changed(nodes_0={"batch_size": 1}), "misplaced key 'batch_size'; it belongs into settings"),
    "misplaced name": (changed(routes_0={"steps": 1}), r"routes\[0\] .*misplaced key 'steps'; .* into a node"),
    "steps in settings": (changed(settings={"total_steps": 9}), "unknown key 'total_steps'"),
    "missing key": (changed(nodes_0={"name": None}), r"nodes\[0\] lacks the key 'name'"),
    "no steps": (changed(nodes_2={"steps": None}), r"nodes\[2\] lacks the key 'steps'"),
    "steps are text": (
        changed(nodes_0={"steps": "1k"}),
        r"nodes\[0\] \('base'\).steps must be a whole number, got '1k'",
    ),
    "no nodes": (changed(top={"nodes": []}), "nodes must be a list with at least one entry"),
    "no routes": (changed(top={"routes": None}), "the schedule lacks the key 'routes'"),
    "key twice": (GOOD + "settings: {}\n", "key 'settings' stands twice, again in line 10"),
    "not YAML": ("nodes: [", "not valid YAML"),
    "not a mapping": ("- 1", "the schedule must consist of 'key: value' lines"),
    "duplicate name": (changed(nodes_2={"name": "Base"}), "Two nodes are named 'Base'"),
    "name is a path": (changed(nodes_2={"name": "../x"}), "name is a folder name .* got '../x'"),
    "two intervals": (changed(nodes_1={"sigma": [1, 2]}), "exactly one of node, sigma, excluding, got node and sigma"),
    "no interval": (changed(nodes_1={"node": None}), "exactly one of node, sigma, excluding, got None"),
    "no such node": (changed(nodes_1={"node": [2, 4]}), r"nodes\[1\] .*Level 2 has the intervals 0 to 3, got index 4"),
    "node of one number": (
        changed(nodes_1={"node": 9}),
        r"nodes\[1\] .*node must be a pair such as \[9, 511\], got 9",
    ),
    "range upside down": (changed(nodes_1={"node": None, "sigma": [2, 1]}), "0 <= low < high"),
    "nothing left": (changed(nodes_2={"excluding": [[1, 0], [1, 1]]}), "excluding = .* at least one sigma range"),
    "missing parent": (changed(nodes_1={"init_from": "bse@5"}), "names 'bse', but no node .* nearest is 'base'"),
    "no such step": (changed(nodes_1={"init_from": "base@101"}), "from base@101, but 'base' has the steps 1 to 100"),
    "step 0": (changed(nodes_1={"init_from": "base@0"}), "from base@0"),
    "step is no number": (changed(nodes_1={"init_from": "base@x"}), "must be NODE or NODE@STEP, got 'base@x'"),
    "outside of parent": (
        changed(nodes_2={"init_from": "high"}),
        r"'rest' is trained on sigma \[0, 9.61\), which its parent 'high' was not: .* outside_parent",
    ),
    "no reason": (changed(nodes_2={"outside_parent": ""}), "outside_parent must say why"),
    "cycle": (changed(nodes_0={"init_from": "rest"}), "start from each other: base <- rest <- base"),
    "its own parent": (changed(nodes_0={"init_from": "base"}), "start from each other: base <- base"),
    "gap": (changed(routes_0={"excluding": [[8, 255]]}), r"No route covers sigma \[7.33.*, 9.609.*\)"),
    "gap at zero": (changed(top={"routes": [ROUTE]}), r"No route covers sigma \[0, 9.609"),
    "gap at infinity": (changed(top={"routes": [{"expert": "base", "sigma": [0, 9]}]}), r"covers sigma \[9, inf\)"),
    "overlap": (changed(top={"routes": [{"expert": "base", "node": [0, 0]}, ROUTE]}), r"Two routes cover .* let one"),
    "route in pieces": (changed(routes_0={"excluding": [[2, 1]]}), r"routes\[0\] consists of .* one route for each"),
    "route outside of node": (
        changed(routes_0={"expert": "high"}),
        r"'high' serves the route \[0, 9.61\) but is trained on \[9.61, inf\): change the route",
    ),
    "route to nobody": (changed(routes_0={"expert": "rets"}), "names 'rets', .* nearest is 'rest'"),
    "bad setting": (changed(settings={"ema_decay": 2}), "Settings of node 'base': ema_decay must lie in .* got 2"),
    "bad setting of a node": (
        changed(nodes_1={"settings": {"batch_size": 0}}),
        "node 'high': batch_size must be at least 1",
    ),
    "setting is text": (
        changed(settings={"batch_size": "big"}),
        "settings.batch_size must be a whole number, got 'big'",
    ),
    "setting is a number": (changed(settings={"compile": 1}), "settings.compile must be of type bool, got 1"),
    "precision of one node": (
        changed(nodes_1={"settings": {"mixed_precision": "bf16"}}),
        "mixed_precision holds for the whole tree",
    ),
    "start is a number": (changed(top={"start": 3}), "start is the folder of a run, got 3"),
    "p_std": (changed(top={"p_std": -1}), "p_std positive, got -1.2 and -1"),
    "p_mean": (changed(top={"p_mean": "low"}), "p_mean must be a number, got 'low'"),
}


@pytest.mark.parametrize("text, message", ERRORS.values(), ids=ERRORS)
def test_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Schedule.parse(text)


def test_a_file_that_is_no_text_or_too_long_is_named(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="mine.yaml is not a text in UTF-8"):
        Schedule.load(tmp_path / "mine.yaml")
    (tmp_path / "mine.yaml").write_text(GOOD + "#" * 70_000)
    with pytest.raises(ValueError, match="mine.yaml: This has more than 65536 characters"):
        Schedule.load(tmp_path / "mine.yaml")


def test_schedules_in_the_documentation_are_sound():
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    on_the_page = Schedule.parse(page.split("```yaml\n")[1].split("```")[0])
    assert [route.expert for route in on_the_page.routes] == ["low", "rest", "high"]
    in_module = Schedule.parse(schedule.__doc__.split("All keys:\n")[1])
    assert in_module.start == "runs/base" and in_module.pinned_steps("base") == [1500]


def test_a_child_outside_of_its_parent_may_say_why():
    schedule = Schedule.parse(changed(nodes_2={"init_from": "high", "outside_parent": "the parent was at hand"}))
    assert schedule["rest"].parent == "high"


@pytest.mark.parametrize("expert", ["3", "[base]", "null", "{base: 1}", "''", "../base"])
def test_a_route_names_a_node(expert):
    with pytest.raises(ValueError, match=r"routes\[0\].expert"):
        Schedule.parse(
            f"nodes: [{{name: base, node: [0, 0], steps: 1}}]\nroutes: [{{expert: {expert}, node: [0, 0]}}]\n"
        )

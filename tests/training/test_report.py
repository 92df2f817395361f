# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The tables of a tree: its routes, its plan and its cost, and what became of it."""

import json
import re

from helpers_training import (
    ALL_STEPS,
    make_tree,
)

from diffusers_ediffi import NoiseInterval


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


def test_dry_run_says_what_it_costs_and_writes_nothing(tmp_path, capsys):
    """Before it times a kind of step, which takes minutes with large batches, it says so."""
    output = tmp_path / "tree"
    text = make_tree(output).dry_run(measured_steps=1)
    assert not output.exists()
    said = capsys.readouterr().out.splitlines()
    assert said == [f"Timing 2 steps of {size} images: {node} ..." for size, node in ((2, "base"), (3, "high"))]
    assert "3 nodes, 15 steps, 33 samples. Left: " in text and " device hours, from 1 measured steps" in text
    line = next(line for line in text.splitlines() if re.match(r"high +\[9.61, inf\) +base@4", line))
    assert line.split()[4:7] == ["3", "9", "0"] and float(line.split()[7]) > 0, "steps, samples, done, s/step"


def test_dry_run_of_a_done_tree_costs_nothing(whole):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    assert "Left: 0 hours" in make_tree(whole).dry_run(measured_steps=1)
    assert before == {path: path.stat().st_mtime_ns for path in whole.rglob("*")}

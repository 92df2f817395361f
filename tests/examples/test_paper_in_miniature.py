# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The paper in miniature: all figures on tiny settings, what an interval says, and what is left out."""

import importlib.util
import json
import math

import pytest
from helpers import tiny_pipeline, tiny_sr_unet, tiny_unet
from helpers_examples import import_script

from diffusers_ediffi import ExpertRouterUNet

SHORT = ("--num-seeds", 2, "--num-prompts", 4, "--num-large", 2, "--scales", 2, "--calls", 1, "--steps", 1)
SHORT += ("--styles", "flat", "night", "--preset", "demo-base-low", "--num-objects", 3)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A pipeline of 64 x 64 and 128 x 128 pixels, and its base."""
    folder = tmp_path_factory.mktemp("model")
    base = ExpertRouterUNet.from_unets([tiny_unet(seed, sample_size=64) for seed in (1, 2)], [0.5])
    tiny_pipeline(
        unet=base, unet_sr256=tiny_sr_unet(3, sample_size=128), unet_sr1024=None, scheduler_sr1024=None, sr_scale=2
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def miniature(objects, model, tmp_path, monkeypatch):
    """Makes a page; returns its text and the figures' data."""
    script = import_script("evaluate/paper_in_miniature", monkeypatch)

    def run(*options):
        output = tmp_path / "out"
        given = ["--objects", objects, "--output", output, "--model", model, *SHORT, *options]
        data = script.main(list(map(str, given)))
        assert json.loads((output / "data.json").read_text())["figures"].keys() == data["figures"].keys()
        return (output / "report.md").read_text(), data["figures"]

    run.script = script
    return run


def test_every_figure_is_on_the_page(miniature, model, tmp_path):
    unet, sr = model / "unet", model / "unet_sr256"
    networks = [f"base-single={unet / 'expert.1'}", f"base-level-2={unet}", f"sr256-single={sr}", f"sr256-two={sr}"]
    page, found = miniature("--num-seeds", 1, "--networks", *networks)
    assert list(found) == list(miniature.script.FIGURES)
    named = {line.split("](")[1].rstrip(")") for line in page.splitlines() if line.startswith("![")}
    assert named == {path.name for path in (tmp_path / "out").glob("*.png")}
    plots = {f"figure_{number}.png" for number in (3, 7, 8, 13)}
    grids = {f"figure_{number}.png" for number in (4, 14, 15, 16, 17, 18)}
    assert named == grids | (plots if importlib.util.find_spec("matplotlib") else set())
    for name, figure in found.items():
        assert f"## {miniature.script.TITLES[name]}" in page and figure["claims"]
    assert found["figure_4"]["data"]["difference"][0] == [0.0]
    assert "without --networks base-two=FOLDER there is no row of C." in page and "| 6.95 (9.1B) |" in page
    of_d, of_a = (found["table_1"]["data"][name]["parameters"] for name in "DA")
    assert of_d - of_a == sum(p.numel() for p in tiny_unet(sample_size=64).parameters())


def test_what_needs_further_networks_is_left_out(miniature):
    page, found = miniature("--figures", "figure_7", "table_1")
    assert "Left out: It needs --networks base-single=FOLDER base-level-2=FOLDER" in page
    assert not found["figure_7"]["claims"] and not found["table_1"]["data"]


@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        ("base=x", ValueError, "there is no 'base'; choose from base-single"),
        ("base-two=gone", OSError, "no network|gone"),
    ],
)
def test_networks_are_looked_at_first(miniature, network, error, message, tmp_path):
    with pytest.raises(error, match=message):
        miniature("--networks", network)
    assert not (tmp_path / "out").exists()


def test_verdicts(miniature, monkeypatch):
    values = import_script("evaluate/paper_values", monkeypatch)
    assert values.Interval.of([1.0, 2.0, 3.0]).half == pytest.approx(4.302652729749464 / math.sqrt(3))
    assert values.Interval.of([0.0, 1.0] * 10).half == pytest.approx(2.093024054408263 / math.sqrt(76))
    assert str(values.Interval.of([1.0])) == "1 (one seed)"

    def verdict(better, worse, low=False):
        return values.compared("", better, worse, ("", ""), low).verdict

    assert verdict([3.0, 3.1, 3.2], [1.0, 1.2, 1.1]) == "agrees"
    assert verdict([3.0, 3.1, 3.2], [1.0, 1.2, 1.1], low=True) == "does not agree"
    assert verdict([3.0, 1.0, 2.0], [1.0, 2.5, 1.1]) == "undecided"
    assert verdict([3.0], [1.0]) == "undecided" and verdict([math.nan, 1.0], [0.0, 0.0]) == "undecided"

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`ediffi evaluate`: models, pictures and sweeps, from the command line to the card."""

import importlib.util
import json
import subprocess
import sys

import pytest
from diffusers import DiffusionPipeline
from helpers_evaluation import CAPTIONS, contents, dinov2, write_geneval, write_pictures

from diffusers_ediffi.cli import parser
from diffusers_ediffi.cli.main import main
from diffusers_ediffi.evaluation import FILTERS, LAYOUTS, METRICS

FAST = ("--size", 8, "--steps", 2, "--batch-size", 4, "--device", "cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Captions, real pictures and a network."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "captions.txt").write_text("".join(f"{caption}\n" for caption in CAPTIONS))
    write_pictures(tmp_path / "real", 12)
    dinov2(tmp_path / "network", width=4)
    return tmp_path


@pytest.fixture
def evaluate(folder, capsys):
    def run(*arguments):
        code = main(["evaluate", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def no_pipeline_loads(monkeypatch):
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", lambda *_, **__: pytest.fail("a model is loaded"))


def test_the_parser_knows_the_names():
    assert (parser.METRICS, set(parser.LAYOUTS), set(parser.FILTERS)) == (METRICS, set(LAYOUTS), set(FILTERS))


def test_a_model_is_drawn_and_measured(evaluate, folder, model):
    given = ("--captions", "captions.txt", "--reference", "real", "--clip", "demo", "--feature-network", "network")
    code, out, err = evaluate(model, "--output", "out", "--samples-per-caption", 2, "--seed", 7, *given, *FAST)
    assert (code, err) == (0, "")
    card = json.loads((folder / "out" / "card.json").read_text())
    printed = {line.split()[0]: float(line.split()[1]) for line in out.splitlines()[:-1]}
    assert printed == pytest.approx(card["metrics"], rel=1e-5) and out.splitlines()[-1] == "out/card.json"
    assert {"clip_score", "cmmd", "frechet_distance", "kernel_distance", "precision", "recall"} <= set(printed)
    assert card["pictures"]["count"] == 12 and card["drawn"]["seed"] == 7
    assert card["drawn"]["call"] == {"num_inference_steps": 2, "height": 8, "width": 8}
    assert card["drawn"]["model"]["name"] == model.name and len(card["drawn"]["model"]["sha256"]) == 64
    before = contents(folder / "out")
    assert evaluate(model, "--output", "out", "--samples-per-caption", 2, "--seed", 7, *given, *FAST) == (0, out, "")
    assert contents(folder / "out") == before
    code, _, err = evaluate(model, "--output", "out", "--samples-per-caption", 2, "--seed", 8, *given, *FAST)
    assert code == 2 and "seed 7, now 8" in err and err.count("\n") == 1
    assert contents(folder / "out") == before


def test_pictures_that_were_drawn_are_measured_again(evaluate, folder, model):
    """As a folder of pictures with captions, whose card still says how it was drawn."""
    options = ("--metrics", "clip_score", "--clip", "demo")
    _, out, _ = evaluate(model, "--captions", "captions.txt", "--output", "out", *options, *FAST)
    code, again, err = evaluate("out/pictures", "--output", "again", *options, "--device", "cpu")
    assert (code, err) == (0, "") and again.splitlines()[:-1] == out.splitlines()[:-1]
    cards = [json.loads((folder / name / "card.json").read_text()) for name in ("out", "again")]
    assert cards[0]["drawn"] == cards[1]["drawn"] and cards[0]["clip"] == cards[1]["clip"]


def test_guidance_scales_are_swept(evaluate, folder, model):
    given = ("--captions", "captions.txt", "--num-captions", 3, "--metrics", "clip_score", "--clip", "demo")
    code, out, err = evaluate(model, "--output", "out", "--guidance-scale", "1", "4,1,1", *given, *FAST)
    note = "" if importlib.util.find_spec("matplotlib") else "No plot: it needs matplotlib (pip install matplotlib).\n"
    assert (code, err) == (0, note) and "out/sweep.json" in out
    rows = json.loads((folder / "out" / "sweep.json").read_text())
    assert [row["guidance_scale"] for row in rows] == ["1", "4,1,1"]
    pictures = [(folder / "out" / f"guidance-{row['guidance_scale']}").rglob("*.png") for row in rows]
    first, second = ([picture.read_bytes() for picture in sorted(found)] for found in pictures)
    assert len(first) == len(second) == 3 and all(a != b for a, b in zip(first, second, strict=True))
    card = json.loads((folder / "out" / "guidance-4,1,1" / "card.json").read_text())
    assert card["metrics"]["clip_score"] == rows[1]["clip_score"]
    assert card["drawn"]["call"]["guidance_scale"] == [4, 1, 1] and card["drawn"]["captions"]["seed"] == 0


def test_a_layout_is_drawn_without_any_metric(evaluate, folder, model):
    write_geneval(folder / "evaluation_metadata.jsonl")
    options = ("--layout", "geneval", "--samples-per-caption", 2, "--metrics", *FAST)
    code, out, err = evaluate(model, "--captions", "evaluation_metadata.jsonl", "--output", "out", *options)
    assert (code, err) == (0, "")
    assert (folder / "out" / "pictures" / "00001" / "samples" / "00001.png").is_file()


def test_the_demo_is_measured(evaluate, folder):
    """By its CLIP and its scorer."""
    (folder / "captions.txt").write_text("a red car\na rocket\na moon\na yellow star\n")
    options = ("--metrics", "clip_score", "kernel_distance", "--reference", "real", "--size", 64, "--steps", 2)
    code, out, err = evaluate("demo", "--captions", "captions.txt", "--output", "out", "--device", "cpu", *options)
    assert code == 0 and not err
    card = json.loads((folder / "out" / "card.json").read_text())
    assert card["clip"]["name"] == card["feature_network"]["name"] == card["drawn"]["model"]["name"] == "demo"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["demo"], "there is nothing to draw; give --captions FILE"),
        (["demo", "--captions", "captions.txt", "--metrics", "cmmd"], "--metrics cmmd compares with real pictures"),
        (["demo", "--captions", "captions.txt", "--num-captions", "7"], "7 captions were asked for"),
        (["demo", "--captions", "captions.txt", "--layout", "geneval"], "geneval needs 'tag'"),
        (
            ["demo", "--captions", "captions.txt", "--reference", "real"],
            "frechet_distance: 6 generated pictures are too few for features of width 256",
        ),
        (["demo", "--captions", "captions.txt", "--guidance-scale", "3", "3.0"], "names a scale twice"),
        (["demo", "--captions", "captions.txt", "--reference", "empty"], "'empty' holds no pictures"),
        (["empty", "--captions", "captions.txt"], "'empty' holds no pictures"),
        (["nowhere", "--captions", "captions.txt"], "there is no folder 'nowhere', nor is it a Hub id"),
        (["real"], "there is nothing to measure; give --reference FOLDER, --captions FILE or both"),
        (["real", "--captions", "captions.txt"], "clip_score: 6 captions for 12 pictures"),
        (["real", "--reference", "real", "--steps", "3"], "--steps is for drawing, and 'real' holds pictures"),
        (
            ["real", "--reference", "real", "--metrics", "kernel_distance", "--feature-network", "text"],
            "'text' is a bert, which reads no pictures",
        ),
        (["real", "--reference", "real", "--metrics", "cmmd", "--clip", "network"], "has a dinov2 where a CLIP has"),
        (["real", "--output", "captions.txt"], "'captions.txt' is a file; give a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_before_a_model_is_loaded(evaluate, folder, no_pipeline_loads, arguments, complaint):
    (folder / "empty").mkdir()
    (folder / "text").mkdir()
    (folder / "text" / "config.json").write_text('{"model_type": "bert"}')
    rest = [] if "--output" in arguments else ["--output", "out"]
    code, out, err = evaluate(*arguments, *rest, "--device", "cpu")
    assert (code, out) == (2, "") and complaint in err
    assert err.startswith("ediffi: error: ") and err.count("\n") == 1
    assert not (folder / "out").exists()


def test_a_missing_library_is_named_with_its_remedy(folder):
    """Evaluation reads what training wrote, and so needs some of its libraries."""
    program = "import sys; sys.modules['filelock'] = None; from diffusers_ediffi.cli.main import main; "
    program += "sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "evaluate", "real", "--reference", "real", "--output", "out"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.count("\n") == 1, run.stderr
    assert "filelock" in run.stderr and "pip install 'diffusers_ediffi[eval]'" in run.stderr

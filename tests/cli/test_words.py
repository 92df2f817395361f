# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`ediffi info --words`, and what `ediffi generate` says of words that the model does not know."""

import json
import subprocess
import sys

import pytest

from diffusers_ediffi import EDiffIPipeline
from diffusers_ediffi.cli.main import main
from diffusers_ediffi.cli.words import MAX_BYTES

VOCABULARY = {
    "words": {"objects": ["red cat", "blue house", "a"], "relations": ["above"]},
    "synonyms": {"automobile": "cat", "hovel": "house"},
}


@pytest.fixture
def index(tmp_path):
    """Writes a `model_index.json` and returns its folder."""

    def write(content):
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        (folder / "model_index.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return str(folder)

    return write


def test_words_are_listed_by_groups(index, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    synonyms = {f"sofa{i}": "house" for i in range(9)}
    assert main(["info", "--words", "--model", index({"vocabulary": {**VOCABULARY, "synonyms": synonyms}})]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("6 words;")
    assert lines[1:3] == ["objects       red cat, blue house, a", "relations     above"]
    assert lines[3].startswith("read as them  sofa0 (house), sofa1 (house),")
    assert lines[4].startswith("              sofa") and max(map(len, lines)) <= 60


def test_the_demo_models_words_are_listed(capsys):
    assert main(["info", "--words"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "rocket, red apple, sun" in out and "automobile (red car)" in out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "does not list its words"),
        ({"vocabulary": None}, "does not list its words"),
        ({"vocabulary": ["cat"]}, "vocabulary=['cat'] must be"),
        ({"vocabulary": {"words": {"\x1b[31m": ["cat"]}}}, "must be words on one line"),
        ([], "is no index of a model"),
        ("{", "is not JSON"),
        ('{"vocabulary": ' + "[" * 100_000, "is not JSON"),
        ('"' + "x" * MAX_BYTES + '"', f"has more than {MAX_BYTES} bytes"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_strangers_index_is_one_line_of_error(index, content, message, capsys):
    assert main(["info", "--words", "--model", index(content)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1 and err[:-1].isprintable()


def test_words_are_those_of_a_model(index, tmp_path, capsys):
    (tmp_path / "a.png").touch()
    assert main(["info", str(tmp_path / "a.png"), "--words"]) == 2
    assert "leave the picture out" in capsys.readouterr().err


def test_generate_says_in_one_line_which_words_are_unknown(model, tmp_path):
    """And draws: what it knows of the prompt may be what counts."""
    folder = tmp_path / "words"
    EDiffIPipeline.from_pretrained(model, vocabulary=VOCABULARY).save_pretrained(folder)
    command = [sys.executable, "-m", "diffusers_ediffi", "generate", "A Red catt above hovels", "--size", "8"]
    command += ["--model", str(folder), "--output", str(tmp_path / "out.png"), "--steps", "1", "--device", "cpu"]
    done = subprocess.run([*command, "--seed", "3"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == f"{tmp_path / 'out.png'} (seed 3)\n"
    complaint = "the model does not know 'catt' (nearest: 'cat')"
    said = [line for line in done.stderr.splitlines() if "not know" in line]
    assert said == [f'{complaint}; "ediffi info --words --model {folder}" lists its 6 words.']


def test_words_as_json(capsys):
    assert main(["info", "--words", "--json"]) == 0
    out, err = capsys.readouterr()
    words = json.loads(out)
    assert err == "" and words["model"] == "demo" and "red apple" in words["words"]["objects"]
    assert words["read_as"]["car"] == "red car"

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What the commands that draw leave behind: grids, and results as JSON."""

import json
import os
import pty
import subprocess
import sys
import termios

import numpy as np
import pytest
from PIL import Image

from diffusers_ediffi import read_provenance
from diffusers_ediffi.cli.results import grid_shape


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("count", range(1, 40))
def test_a_grid_is_nearly_square_and_has_no_empty_row(count):
    rows, columns = grid_shape(count)
    assert rows * columns >= count > (rows - 1) * columns and rows <= columns <= rows + 1


def test_a_grid_holds_the_images_row_by_row(generate, tmp_path):
    generate("--num-images", 3)
    images = [pixels(tmp_path / f"out-{i}.png") for i in range(3)]
    code, out, err = generate("--num-images", 3, "--grid", output=tmp_path / "grid.png")
    assert (code, out, err) == (0, f"{tmp_path / 'grid.png'} (seeds 3 to 5)\n", "")
    expected = np.block([[[images[0]], [images[1]]], [[images[2]], [np.full_like(images[0], 255)]]])
    np.testing.assert_array_equal(pixels(tmp_path / "grid.png"), expected)
    settings = read_provenance(tmp_path / "grid.png").settings
    assert (settings["seed"], settings["num_images"], settings["grid"]) == (3, 3, [2, 2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--grid shows several images; give --num-images, or leave it out"),
        (["--num-images", 1000, "--size", 1024], "--grid of 1000 images of 1024 x 1024 has 1073741824 pixels"),
    ],
)
def test_grids_that_make_no_sense_are_refused_before_loading(generate, nothing_loads, arguments, message):
    code, out, err = generate("--grid", *arguments)
    assert (code, out) == (2, "") and err.count("\n") == 1 and message in err


def test_a_grid_too_large_at_the_models_own_size_is_refused(generate, model, monkeypatch, tmp_path):
    monkeypatch.setattr("diffusers_ediffi.cli.results.MAX_PIXELS", 4 * 128**2 - 1)
    code, _, err = generate("--grid", "--num-images", 4, "--size", 128)
    assert code == 2 and "--grid of 4 images of 128 x 128" in err and not any(tmp_path.iterdir())


def test_results_as_json(generate, model, tmp_path):
    code, out, err = generate("--num-images", 2, "--json", "--attention", tmp_path / "seen.json", prompt="ein Äpfel")
    assert (code, err, out.count("\n")) == (0, "", 1) and out.isascii()
    result = json.loads(out)
    files = [tmp_path / f"out-{i}.png" for i in range(2)]
    shown = [
        {"file": str(file), "width": 8, "height": 8, "seeds": [3 + i], "blackened": [False]}
        for i, file in enumerate(files)
    ]
    assert result.pop("files") == shown and all(file.is_file() for file in files)
    provenance, seconds = result.pop("provenance"), result.pop("seconds")
    assert provenance["settings"] == {"prompt": "ein Äpfel", "model": model.name, "size": 8, "steps": 2}
    assert all(seconds[name] > 0 for name in ("load", "draw"))
    about = {"command": "generate", "model": str(model), "device": "cpu", "dtype": "float32", "grid": None}
    assert result == about | {"attention": str(tmp_path / "seen.json")} and (tmp_path / "seen.json").is_file()


def test_results_of_a_grid_as_json(generate, tmp_path):
    result = json.loads(generate("--num-images", 3, "--json", "--grid", "--no-provenance")[1])
    (file,) = result["files"]
    assert (file["width"], file["height"], file["seeds"]) == (16, 16, [3, 4, 5])
    assert (result["grid"], result["provenance"]) == ({"rows": 2, "columns": 2}, None)


def test_bad_input_with_json_is_an_error_on_standard_error(generate, nothing_loads):
    code, out, err = generate("--json", "--steps", "x")
    assert (code, out) == (2, "") and err.startswith("ediffi: error: ") and err.count("\n") == 1


def test_progress_goes_to_standard_error_where_somebody_watches(model, tmp_path):
    """Standard error is a terminal, standard output is not: as of `ediffi generate ... --json | jq`."""
    reader, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    output = str(tmp_path / "out.png")
    command = [sys.executable, "-m", "diffusers_ediffi", "generate", "a cat", "--json", "--size", "8", "--steps", "2"]
    command += ["--model", str(model), "--device", "cpu", "--output", output]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal) as process:
        os.close(terminal)
        seen = b""
        while part := read_terminal(reader):
            seen += part
        out = process.stdout.read()
    os.close(reader)
    assert process.returncode == 0 and b"2/2" in seen
    assert json.loads(out)["files"][0]["file"] == output


def read_terminal(reader):
    try:
        return os.read(reader, 1024)
    except OSError:  # the program has ended
        return b""

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Exit codes, what is printed where, and what a command imports."""

import os
import subprocess
import sys

import pytest
from PIL import Image

from diffusers_ediffi import Provenance, __version__, save_image


def test_module_is_the_command():
    command = [sys.executable, "-m", "diffusers_ediffi", "--version"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == f"diffusers_ediffi {__version__}\n"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["generate", "--help"], 0),
        (["generate", "x", "--steps", "x"], 2),
        (["generate", "x", "--sized", "8"], 2),
        (["info", "picture.png"], 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_draws_nothing_does_not_wait_for_torch(command, code, tmp_path):
    save_image(Image.new("RGB", (8, 8)), tmp_path / "picture.png", Provenance({"seed": 3}))
    program = """
import sys
from diffusers_ediffi.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
slow = {"torch", "diffusers", "huggingface_hub", "scipy", "transformers"} & set(sys.modules)
sys.exit(f"imports {slow}" if slow else code)
"""
    run = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == code, run.stderr


@pytest.mark.parametrize("command", [["info"], ["--help"]])
def test_a_reader_that_has_seen_enough_ends_it_quietly(model, command):
    program = [sys.executable, "-m", "diffusers_ediffi", *command]
    program += ["--model", str(model)] if command == ["info"] else []
    reader, writer = os.pipe()
    os.close(reader)
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}  # as a shell starts it
    run = subprocess.run(program, stdout=writer, stderr=subprocess.PIPE, text=True, env=buffered)
    os.close(writer)
    assert run.returncode == 141 and "Broken pipe" not in run.stderr and "Error" not in run.stderr

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Exit codes, what is printed where, and what a command imports."""

import os
import signal
import subprocess
import sys

import pytest
from PIL import Image

from diffusers_ediffi import EDiffIUNet, Provenance, __version__, save_image


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
        (["info", "picture.png", "--json"], 0),
        (["info", "--words"], 0),
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


@pytest.mark.parametrize(
    ("closed", "arguments", "code"),
    [
        (">&-", "--version", 2),
        (">&-", "generate x", 2),
        (">&- 2>&-", "--version", 2),
        ("2>&-", "--version", 0),
        ("2>&-", "info nothing.png", 2),
    ],
)
def test_closed_outputs_are_no_traceback(closed, arguments, code):
    command = f"{sys.executable} -m diffusers_ediffi {arguments} {closed}"
    run = subprocess.run(command, shell=True, capture_output=True, text=True)
    expected = "ediffi: error: standard output is closed; redirect it to /dev/null to do without\n"
    assert (run.returncode, run.stderr) == (code, expected if closed == ">&-" else "")


INTERRUPTED = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from diffusers_ediffi.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("module", ["argparse", "diffusers_ediffi.cli.parser", "numpy", "torch", "diffusers"])
def test_ctrl_c_while_modules_are_imported_is_one_line(module, model):
    command = [sys.executable, "-c", INTERRUPTED, module, "info", "--model", str(model)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "ediffi: interrupted\n")


def test_ctrl_c_while_a_model_is_loaded_is_one_line(model):
    command = [sys.executable, "-c", INTERRUPTED, "transformers.models.t5.modeling_t5", "info", "--model", str(model)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "ediffi: interrupted\n")


def test_ctrl_c_while_it_draws_is_one_line_and_leaves_nothing(generate, monkeypatch, tmp_path):
    monkeypatch.setattr(EDiffIUNet, "forward", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    assert generate() == (130, "", "ediffi: interrupted\n")
    assert not any(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_libraries_say_nothing_of_their_optional_parts(model):
    command = [sys.executable, "-m", "diffusers_ediffi", "info", "--model", str(model)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A training script that is killed ends as one that was not; kill_runs.py is run by hand with more kills."""

import subprocess
import sys
from pathlib import Path


def test_a_killed_script_ends_in_the_same_weights():
    command = [Path(__file__).parent / "kill_runs.py", "--kills", "2", "--scripts", "train_ediffi_lora"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kills of each of 1 scripts with 1 processes" in done.stdout


def test_machines_are_left_out_where_there_can_be_none(monkeypatch, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import two_machines

    monkeypatch.setattr(two_machines.shutil, "which", lambda name: None)
    two_machines.main()
    assert capsys.readouterr().out == "skipped: there is no `ip` (install iproute2).\n"

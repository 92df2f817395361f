# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Hostile schedules of training and arguments of the command line."""

import yaml
from helpers_fuzz import Case, damaged, damaged_bytes
from helpers_training import SCHEDULE
from hypothesis import strategies as st

from diffusers_ediffi.training import Schedule
from diffusers_ediffi.training.schedule import shipped_schedules

TEXTS = [SCHEDULE, *shipped_schedules().values()]


def as_yaml(value):
    """The YAML of a value; what PyYAML cannot write is written as an empty text."""
    try:
        return yaml.safe_dump(value, allow_unicode=True)
    except (yaml.YAMLError, UnicodeError, RecursionError, ValueError):
        return ""


def parse(text, folder):
    schedule = Schedule.parse(text)
    assert len(schedule.routes) == len(schedule.boundaries) + 1
    assert all(schedule.settings_of(node).total_steps == node.steps for node in schedule.nodes)


def test_schedules(fuzz):
    entries = st.one_of(damaged(yaml.safe_load(text), further=("start", "p_mean", "p_std")) for text in TEXTS)
    written = entries.map(lambda case: Case(as_yaml(case.value), (*case.words, "node", "route", "line", "schedule")))
    fuzz("schedules", written, parse, share=0.06)


def load(content, folder):
    path = f"{folder}/schedule.yaml"
    with open(path, "wb") as file:
        file.write(content)
    Schedule.load(path)


def test_files_of_schedules(fuzz):
    bombs = [
        b"a: &a [1, 1]\nb: [*a, *a]\n",
        b"[" * 2000,
        b"{" * 2000,
        b"? " * 500,
        b"- " * 3000,
        b"!!python/name:os.system",
    ]
    files = damaged_bytes([text.encode() for text in TEXTS] + bombs)
    fuzz("files of schedules", files.map(lambda data: Case(data, ("schedule.yaml",))), load, share=0.04)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The cases themselves: what is drawn must not depend on how much of the stack is left."""

import sys

import helpers_fuzz
from helpers_fuzz import change, nested, places, words_of

FREE = 1200  # frames; hypothesis leaves 2000, of which its strategies take some


def depth_of_stack():
    frame, depth = sys._getframe(), 0
    while frame:
        frame, depth = frame.f_back, depth + 1
    return depth


def test_changes_of_deep_values_need_little_of_the_stack(monkeypatch):
    monkeypatch.setattr(helpers_fuzz, "values", lambda: "a deep value")
    value, before = {"a": [1]}, sys.getrecursionlimit()
    sys.setrecursionlimit(depth_of_stack() + FREE)
    try:
        for how in ("value", "repeat", "value", "wrap"):
            *parents, key = max(places(value), key=len)
            holder = value
            for parent in parents:
                holder = holder[parent]
            change(lambda drawn, how=how: nested(900) if drawn == "a deep value" else how, holder, key, ())
        assert words_of(value)[0].startswith("a': [[")
    finally:
        sys.setrecursionlimit(before)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""YAML of strangers: plain values, and an error with the line for everything else, at once."""

import random
import time

import pytest

from diffusers_ediffi.files import load_yaml

NESTED = "x: [&b0 [x, x, x, x, x, x, x, x, x, x]"
NESTED += "".join(f", &b{i} [{', '.join([f'*b{i - 1}'] * 10)}]" for i in range(1, 9)) + "]\n"
MERGES = "x0: &m0 {q: 1}\n" + "".join(f"x{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 10)}]}}\n" for i in range(1, 9))


def test_plain_values_are_read():
    text = "# a comment\na: [1, 2.5, null, yes]\nb: {c: 'text', 3: x}\nd: &anchor word\n"
    assert load_yaml(text) == {"a": [1, 2.5, None, True], "b": {"c": "text", 3: "x"}, "d": "word"}
    assert load_yaml("") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NESTED, r"alias \*b0 in line 1 is not followed; write its value out"),
        (MERGES, r"alias \*m0 in line 2"),
        ("a: &a [*a]", r"alias \*a in line 1"),
        ("a: &a {b: 1}\nc:\n  <<: *a\n", r"alias \*a in line 3"),
        ("a: 1\nb: " + "[" * 2000, "Line 2 is nested more than 20 deep"),
        ("a: 1\nb: " + "{c: " * 2000, "Line 2 is nested more than 20 deep"),
        ("a:\n" + "".join(f"{' ' * i}- \n" for i in range(30)), "Line .* is nested more than 20 deep"),
        ("{" + ",".join(f"k{i}: 1" for i in range(30_000)) + "}", "more than 65536 characters"),
        ("a: 1\nb: 2\na: 3\n", "key 'a' stands twice, again in line 3"),
        ("a: 1\n[b]: 2\n", "key in line 2 is neither a word nor a number"),
        ("a: 1\nb: !!bool x", "Line 2 holds no bool"),
        ("a: !!int ''", "Line 1 holds no int"),
        ("a: !!float ''", "Line 1 holds no float"),
        ("a: !!timestamp x", "Line 1 holds no timestamp"),
        ("a: 2001-13-45", "Line 1 holds no timestamp: month"),
        ("a: !!map [b]", "not valid YAML: .* line 1"),
        ("a: !!set [b]", "not valid YAML: .* line 1"),
        ("a: !!python/object:os.system [b]", "not valid YAML: .* line 1"),
        ("a: " + "1" * 400, "Line 1 holds a whole number beyond all floats"),
        ("a: " + "1" * 5000, "Line 1 holds no int"),
        ("a: " + ":".join(["59"] * 10_000), "Line 1 holds a whole number beyond all floats"),
        ("a: 1\nb: \x07", "a control character stands in line 2"),
        ("a: [", "not valid YAML: .* line 1"),
        ("a: 1\n--- \nb: 2\n", "not valid YAML: .* line 2"),
    ],
    ids=range(24),
)
def test_what_is_not_plain_is_refused_at_once(text, message):
    start = time.process_time()
    with pytest.raises(ValueError, match=message):
        load_yaml(text)
    assert time.process_time() - start < 2


def test_whatever_is_wrong_is_a_value_error():
    rng = random.Random(0)
    pieces = [
        "a",
        ": ",
        "\n",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "&x ",
        "*x",
        "!!int ",
        "!!set ",
        "<<",
        "'",
        "|",
        "? ",
        "1",
        ".5",
    ]
    for _ in range(2000):
        try:
            load_yaml("".join(rng.choices(pieces, k=rng.randint(1, 12))))
        except ValueError as error:
            assert "ine" in str(error) or "lid YAML" in str(error), str(error)

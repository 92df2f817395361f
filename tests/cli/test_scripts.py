# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What scripts say of a wrong argument. tests/examples/test_examples.py asks all of them."""

import pytest

from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line


def ending(block, capsys):
    """The line with which a block of a script ends it."""
    with pytest.raises(SystemExit) as stop, errors_in_one_line():
        block()
    printed = capsys.readouterr()
    assert stop.value.code == 2 and not printed.out
    return printed.err


@pytest.mark.parametrize("kind", [ValueError, FileNotFoundError, FloatingPointError, ModuleNotFoundError])
def test_an_error_of_the_user_is_a_line(kind, capsys):
    def fail():
        raise kind("there is no\n 'x\x1b[2J'")

    assert ending(fail, capsys) == "error: there is no 'x\\x1b[2J'\n"


def test_an_option_is_refused_without_the_usage(capsys):
    parser = ScriptParser("draw.py")
    parser.add_argument("--size", type=int)
    for arguments, message in (
        (["--size", "big"], "argument --size: invalid int value: 'big'"),
        (["--sizes", "1"], "unrecognized arguments: --sizes 1"),
    ):
        line = ending(lambda arguments=arguments: parser.parse_args(arguments), capsys)
        assert line == f"error: {message} (see draw.py --help)\n"


def test_an_error_of_the_script_keeps_its_traceback():
    with pytest.raises(TypeError), errors_in_one_line():
        raise TypeError

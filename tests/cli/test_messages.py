# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What is printed holds nothing that a terminal obeys, wherever it comes from."""

import ast
import io
import json
import shutil
import sys
import unicodedata
from pathlib import Path

import pytest

import diffusers_ediffi.cli
from diffusers_ediffi.cli.main import main
from diffusers_ediffi.cli.messages import MAX_MESSAGE, one_line, printable, say

ORDERS = "mit\x1b]0;owned\x07\x1b[2J\u202e"  # a title for the terminal, an empty screen, letters from right to left


def test_every_character_is_to_be_seen_or_escaped():
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    shown = printable(everything)
    assert not {unicodedata.category(c) for c in set(shown)} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert printable("ein Apfel über 🚀") == "ein Apfel über 🚀" and printable("a\x1b[2J\n") == r"a\x1b[2J\n"


def test_characters_that_the_output_cannot_write_are_escaped():
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    say("ein Apfel über 🚀", file=output)
    output.flush()
    assert output.buffer.getvalue() == rb"ein Apfel \xfcber \U0001f680" + b"\n"


def test_long_messages_lose_their_middle():
    message = one_line(ValueError("begin " + "x " * 20_000 + "end"))
    assert len(message) <= MAX_MESSAGE + 5 and message.startswith("begin") and message.endswith("end")


def test_nothing_is_printed_by_another_way():
    for path in Path(diffusers_ediffi.cli.__file__).parent.glob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        prints = [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]
        assert len(prints) == (path.name == "messages.py"), f"{path.name} prints; let it say() so"


def card(folder, text):
    (folder / "README.md").write_text(text, encoding="utf-8")


def config(folder, **entries):
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: card(folder, f"---\nlicense: {json.dumps(ORDERS)}\n---\n"),
        lambda folder: config(folder, unet_sr256=[ORDERS, "X"]),
        lambda folder: config(folder, unet_sr256=["diffusers", ORDERS]),
        lambda folder: config(folder, _class_name=ORDERS),
        lambda folder: config(folder, **{ORDERS: ["diffusers", "UNet2DModel"]}),
    ],
    ids=["licence", "library", "class", "pipeline", "component"],
)
def test_a_strangers_model_gives_the_terminal_no_orders(change, model, tmp_path, capsys):
    change(shutil.copytree(model, tmp_path / "model"))
    main(["info", "--model", str(tmp_path / "model")])
    out, err = capsys.readouterr()
    assert out.replace("\n", "").isprintable() and err.replace("\n", "").isprintable()


NESTED = "&b0 [x, x]" + "".join(f", &b{i} [{', '.join([f'*b{i - 1}'] * 10)}]" for i in range(1, 9))


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: mit\n---\nA model.\n", "mit"),
        ("A model.\n\n---\nlicense: mit\n---\n", "not stated"),
        ("---\nlicense: [\n---\n", "not stated"),
        (f"---\nlicense: [{NESTED}]\n---\n", "not stated"),
        ("---\nlicense: " + "[" * 5000 + "\n---\n", "not stated"),
        ("---\nlicense: mit\n---\n" + "x" * 10**6, "mit"),
        ("---\nlicense: " + "x" * 5000 + "\n---\n", "x" * 200),
    ],
    ids=range(7),
)
def test_a_model_card_is_read_as_plain_yaml(text, licence, model, tmp_path, capsys):
    shutil.copytree(model, tmp_path / "model")
    card(tmp_path / "model", text)
    assert main(["info", "--model", str(tmp_path / "model")]) == 0
    assert f"licence     {licence}\n" in capsys.readouterr().out

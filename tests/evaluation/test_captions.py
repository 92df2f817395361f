# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Lists of captions: what files they come from, which of them, and their hash."""

import hashlib
import json

import pytest
from helpers_evaluation import write_geneval

from diffusers_ediffi.evaluation import Captions, read_captions


def written(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "\ufeffa cat\n\n  a dög \n"),
        ("list.json", '["a cat", "a dög"]'),
        ("list.json", '[{"prompt": "a cat"}, {"caption": "a dög"}]'),
        ("captions_val2014.json", '{"images": [], "annotations": [{"caption": "a cat\\n"}, {"caption": "a dög"}]}'),
        ("list.jsonl", '{"text": "a cat", "file_name": "1.png"}\n{"text": "a dög", "file_name": "2.png"}\n'),
    ],
)
def test_files(tmp_path, name, text):
    captions = read_captions(written(tmp_path, name, text))
    assert captions.texts == ("a cat", "a dög") and len(captions) == 2
    sha256 = hashlib.sha256(json.dumps(["a cat", "a dög"], ensure_ascii=False).encode()).hexdigest()
    assert captions.describe() == {"source": name, "count": 2, "seed": None, "sha256": sha256}


def test_entries_keep_what_their_file_says_further(tmp_path):
    captions = read_captions(write_geneval(tmp_path / "metadata.jsonl"))
    assert [entry["tag"] for entry in captions.entries] == ["single_object", "counting"]
    chosen = captions.choose(1, seed=0)
    assert chosen.entries[0]["prompt"] == chosen.texts[0]


def test_a_seed_chooses_the_same_ones_in_the_same_order():
    captions = Captions(tuple(f"caption {i}" for i in range(100)), source="list.txt")
    first, again, other = captions.choose(10, 3), captions.choose(10, 3), captions.choose(10, 4)
    assert first == again and first.sha256 != other.sha256
    assert len(set(first.texts)) == 10 and first.describe()["seed"] == 3
    assert captions.choose(None, 3) == captions
    assert captions.choose(100, 3).texts[:10] == first.texts, "more captions begin with the same ones"


def test_the_hash_knows_where_a_caption_ends():
    assert Captions(("a b", "c")).sha256 != Captions(("a", "b c")).sha256 != Captions(("b c", "a")).sha256


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("list.txt", " \n\n", "holds no captions"),
        ("list.csv", "a cat", "name must end in .txt, .jsonl or .json"),
        ("list.json", "[", "cannot be read as a list of captions"),
        ("list.json", '{"info": 1}', "neither a list nor COCO's annotations"),
        ("list.json", '["a cat", {"tag": "x"}]', "Entry 2 of .* has no prompt, caption or text"),
        ("list.json", '["a cat", 7]', "Entry 2 of"),
        ("list.jsonl", '{"prompt": " "}', "Entry 1 of"),
    ],
)
def test_other_files_are_refused(tmp_path, name, text, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_captions(written(tmp_path, name, text))


@pytest.mark.parametrize("count", [0, 3])
def test_more_captions_than_there_are_are_refused(count):
    with pytest.raises(ValueError, match=f"{count} captions were asked for, and list.txt has 2"):
        Captions(("a", "b"), source="list.txt").choose(count, 0)

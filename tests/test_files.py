# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Files and folders are written whole or not at all."""

import json

import pytest

from diffusers_ediffi.files import write_json, written_whole


def test_a_file_takes_the_place_of_the_old_one_at_the_end(tmp_path):
    path = tmp_path / "new" / "file.txt"
    for text in ("first", "second"):
        with written_whole(path) as unfinished:
            unfinished.write_text(text)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == text
    assert [found.name for found in path.parent.iterdir()] == ["file.txt"]


def test_a_folder_takes_the_place_of_the_old_one_with_all_that_was_in_it(tmp_path):
    path = tmp_path / "unet"
    for name in ("old", "new"):
        with written_whole(path) as unfinished:
            unfinished.mkdir()
            (unfinished / name).touch()
    assert [found.name for found in tmp_path.rglob("*")] == ["unet", "new"]


@pytest.mark.parametrize("is_folder", [False, True])
def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path, is_folder):
    path = tmp_path / "result"
    with pytest.raises(OSError, match="full"), written_whole(path) as unfinished:
        unfinished.mkdir() if is_folder else unfinished.write_text("half")
        raise OSError("the disk is full")
    assert not list(tmp_path.iterdir())
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1} and len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_left_does_not_hinder(tmp_path):
    path = tmp_path / "result"
    with written_whole(path) as unfinished:
        name = unfinished.name
        unfinished.touch()
    (tmp_path / name).mkdir()
    write_json(path, [])
    assert [found.name for found in tmp_path.iterdir()] == ["result"]

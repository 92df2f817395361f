# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Files and folders are written whole or not at all."""

import json
import multiprocessing
import resource
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from diffusers_ediffi.files import saved_whole, write_json, written_whole


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


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def fill(folder, files):
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("old")


WEIGHTS = "diffusion_pytorch_model"


@pytest.mark.parametrize("is_fixed", [False, True])
@pytest.mark.parametrize(
    ("variant", "goes", "stays"),
    [
        (None, f"unet/{WEIGHTS}.bin", f"unet/{WEIGHTS}.fp16.bin"),
        (None, f"unet/{WEIGHTS}-00001-of-00002.safetensors", f"unet/{WEIGHTS}.fp16-00001-of-00002.safetensors"),
        ("fp16", f"unet/{WEIGHTS}.fp16-00001-of-00002.safetensors", f"unet/{WEIGHTS}.safetensors"),
        ("fp16", f"unet/{WEIGHTS}.safetensors.index.fp16.json", f"unet/{WEIGHTS}.safetensors.index.json"),
        (None, "model.safetensors", "model.fp16.safetensors"),
        (None, "unet/expert.2/config.json", "samples/expert.2/model.safetensors"),
        (None, "pytorch_model.bin", ".git/refs/main"),
        (None, "unet/expert.base/config.json", "run/unet/diffusion_pytorch_model.safetensors"),
    ],
)
def test_what_is_saved_again_replaces_its_variant_alone(tmp_path, monkeypatch, is_fixed, variant, goes, stays):
    folder = tmp_path / "saved"
    fill(folder, ["config.json", goes, stays])
    if is_fixed:
        monkeypatch.chdir(folder)
    with saved_whole("." if is_fixed else folder, "config.json", variant) as unfinished:
        (unfinished / "unet").mkdir()
        (unfinished / "unet" / "config.json").write_text("new")
        (unfinished / "config.json").write_text("new")
        assert tree(folder)["config.json"] == "old" and goes in tree(folder)
    assert tree(folder) == {"config.json": "new", "unet/config.json": "new", stays: "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


@pytest.mark.parametrize("is_fixed", [False, True])
def test_an_error_while_a_folder_is_saved_leaves_the_older_one(tmp_path, monkeypatch, is_fixed):
    fill(tmp_path / "saved", ["config.json", "model.safetensors"])
    before = tree(tmp_path)
    if is_fixed:
        monkeypatch.chdir(tmp_path / "saved")
    with pytest.raises(OSError, match="saved cannot be written .*: is there room"):
        with saved_whole(tmp_path / "saved", "config.json") as unfinished:
            (unfinished / "config.json").write_text("new")
            raise SafetensorError("no space left")
    assert tree(tmp_path) == before


def test_folders_are_exchanged_by_two_renames_where_they_cannot_be_at_once(tmp_path, monkeypatch):
    """As on other systems than Linux."""
    monkeypatch.setattr(sys, "platform", "other")
    for content in ("new", "newer"):
        with saved_whole(tmp_path / "saved", "config.json") as unfinished:
            (unfinished / "config.json").write_text(content)
        assert tree(tmp_path) == {"saved/config.json": content}


@pytest.mark.parametrize("is_fixed", [False, True])
def test_a_full_disk_leaves_the_older_folder_and_nothing_else(tmp_path, monkeypatch, is_fixed):
    fill(tmp_path / "saved", ["config.json", "unet/config.json", "unet/model.safetensors"])
    before = tree(tmp_path)
    if is_fixed:
        monkeypatch.chdir(tmp_path / "saved")

    def save():
        # Files of at most 1 kB: the system says the same as a full disk does, to safetensors as to Python.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
        for folder in ("saved", "first"):
            with pytest.raises(OSError, match=f"{folder}.* cannot be written|File too large"):
                with saved_whole(tmp_path / folder, "config.json") as unfinished:
                    write_json(unfinished / "config.json", "new")
                    save_file({"weight": torch.zeros(1024)}, unfinished / "model.safetensors")

    assert in_another_process(save) == 0
    assert tree(tmp_path) == before and [path.name for path in tmp_path.iterdir()] == ["saved"]


def in_another_process(function):
    """Its exit code; a limit of a process holds to its end."""
    process = multiprocessing.get_context("fork").Process(target=function)
    process.start()
    process.join(60)
    return process.exitcode


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    with saved_whole(tmp_path / "link", "config.json") as unfinished:
        (unfinished / "config.json").write_text("new")
    assert (tmp_path / "link").is_symlink() and tree(tmp_path / "disk") == {"config.json": "new"}


def test_threads_that_write_one_file_write_all_of_it(tmp_path):
    path = tmp_path / "file"

    def write(letter):
        for _ in range(20):
            with written_whole(path) as unfinished, unfinished.open("w") as file:
                for _ in range(100):
                    file.write(letter)
                    file.flush()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "abcd"))
    assert path.read_text() in [100 * letter for letter in "abcd"]

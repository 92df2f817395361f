# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Hostile folders, shards, aesthetic heads and caches of training pictures."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from helpers import picture
from helpers_fuzz import Case, damaged, damaged_bytes
from helpers_pictures import build, write_folder
from hypothesis import strategies as st
from safetensors.torch import save_file

from diffusers_ediffi.training import EmbeddingCache, ImageFolder, ImageShards, load_selection
from diffusers_ediffi.training.filters import _linear_head

ROW = {"file_name": "a.png", "text": "a cat", "width": 8}
CSV = b'file_name,text\r\na.png,"a ""red""\ncat"\r\n\r\na.png,a dog\r\n'


def read_all(source):
    """Every row, as a selection looks at it; pictures may be bad, which it counts."""
    for row in range(len(source)):
        found = source[row]
        assert isinstance(found.caption, str) and isinstance(found.name, str)
        try:
            found.image()
        except ValueError as error:
            assert "a" in str(error)


def folder_with(name):
    def read(content, folder):
        picture().save(f"{folder}/a.png")
        Path(folder, name).write_bytes(content)
        source = ImageFolder(folder)
        read_all(source)
        assert source.fingerprint() and isinstance(source.unnamed(), list)

    return read


def as_line(value):
    return json.dumps(value).encode("utf-8", "replace")


def test_metadata_of_folders(fuzz):
    rows = damaged(ROW).map(lambda case: Case(as_line(ROW) + b"\n" + as_line(case.value), (*case.words, "metadata")))
    lines = [b"\n".join([as_line(ROW)] * 3), b'{"file_name": "a.png", "text": ' + b"[" * 5000, b"\xef\xbb\xbf[]\n\n1"]
    files = damaged_bytes(lines).map(lambda content: Case(content, ("metadata", "a.png")))
    fuzz("metadata as JSON lines", rows | files, folder_with("metadata.jsonl"), share=0.04)
    files = damaged_bytes([CSV, b"\0" * 50, b'"' * 999]).map(lambda content: Case(content, ("metadata", "a.png")))
    fuzz("metadata as CSV", files, folder_with("metadata.csv"), share=0.03)


def shard():
    content, kept = io.BytesIO(), io.BytesIO()
    picture().save(kept, "PNG")
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, data in (
            ("a.png", kept.getvalue()),
            ("a.txt", b"a cat"),
            ("b.png", b""),
            ("b.json", b'{"text": 1}'),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return content.getvalue()


def read_shard(content, folder):
    Path(folder, "shard.tar").write_bytes(content)
    read_all(ImageShards([f"{folder}/shard.tar"]))


def test_shards(fuzz):
    files = damaged_bytes([shard()]).map(lambda content: Case(content, ("shard.tar",)))
    fuzz("shards", files, read_shard, share=0.05)


def heads(folder):
    state = {"layers.0.weight": torch.ones(3, 4), "layers.0.bias": torch.ones(3), "layers.2.weight": torch.ones(1, 3)}
    save_file(state, folder / "head.safetensors")
    torch.save(state, folder / "head.pth")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read_head(case, folder):
    name, content = case
    Path(folder, name).write_bytes(content)
    weight, bias = _linear_head(Path(folder, name))
    assert len(weight) == 1 and bias.shape == (1,)


def test_aesthetic_heads(fuzz, tmp_path):
    files = heads(tmp_path)
    cases = [
        damaged_bytes([content]).map(lambda data, name=name: Case((name, data), ("head",)))
        for name, content in files.items()
    ]
    fuzz("aesthetic heads", st.one_of(cases), read_head, share=0.04)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    write_folder(folder / "pictures", 3)
    build(folder, rows_per_part=2)
    return folder


def test_caches(fuzz, made):
    source, selection = (
        ImageFolder(made / "pictures"),
        load_selection(made / "selection", ImageFolder(made / "pictures")),
    )

    def read(case, folder):
        name, content = case
        for part in ("selection", "cache"):
            shutil.copytree(made / part, f"{folder}/{part}")
        Path(folder, name).write_bytes(content)
        found, cache = load_selection(f"{folder}/selection", source), EmbeddingCache(f"{folder}/cache")
        cache.check(source, selection)
        for place, row in enumerate(found.rows):
            assert cache.read(place, source[int(row)], source[int(row)].content())

    parts = [path.relative_to(made) for path in made.glob("[sc]*/part-*")]
    files = [
        damaged_bytes([(made / part).read_bytes()]).map(lambda data, part=part: Case((part, data), (part.name,)))
        for part in parts
    ]
    for part in ("selection", "cache"):
        valid = json.loads((made / part / "manifest.json").read_text())
        files.append(
            damaged(valid).map(
                lambda case, part=part: Case((f"{part}/manifest.json", as_line(case.value)), (*case.words, part))
            )
        )
    fuzz("caches of embeddings", st.one_of(files), read, share=0.06)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Shards of webdataset, from files and from a server."""

import functools
import http.server
import pickle
import threading

import pytest
import torch
import webdataset
from helpers_pictures import caption_of, color_of, demo_encoder, settings_of, write_folder

from diffusers_ediffi.training import (
    EmbeddingCache,
    PictureDataset,
    build_embedding_cache,
    open_pictures,
    select_pictures,
)
from diffusers_ediffi.training import shards as module
from diffusers_ediffi.training.data import StepBatchSampler, make_loader


@pytest.fixture
def shards(tmp_path):
    """Three shards of two samples each; of the last one the captions stand in JSON."""
    pictures = write_folder(tmp_path / "pictures")
    (tmp_path / "shards").mkdir()
    for shard in range(3):
        with webdataset.TarWriter(str(tmp_path / "shards" / f"{shard:03d}.tar")) as tar:
            for i in (2 * shard, 2 * shard + 1):
                sample = {"__key__": f"sample{i}", "png": (pictures / f"{i}.png").read_bytes()}
                caption = {"json": {"text": caption_of(i), "width": 64}} if shard == 2 else {"txt": caption_of(i)}
                tar.write({**sample, **caption, "cls": "7"})
    return tmp_path / "shards"


def rows_of(source):
    pictures = [source[row] for row in range(len(source))]
    return [(picture.caption, picture.image().getpixel((0, 0))) for picture in pictures]


EXPECTED = [(caption_of(i), color_of(i)) for i in range(6)]


def test_patterns_braces_and_lists_are_the_same_shards(shards):
    sources = [
        open_pictures(f"{shards}/*.tar"),
        open_pictures(f"{shards}/{{000..002}}.tar"),
        open_pictures([str(shards / f"{i:03d}.tar") for i in range(3)]),
        pickle.loads(pickle.dumps(open_pictures([f"file://{shards}/{{000..002}}.tar"]))),
    ]
    assert all(rows_of(source) == EXPECTED and source.chunks == (2, 2, 2) for source in sources)
    assert len({source.fingerprint() for source in sources}) == 1
    assert sources[0][5].name == "002.tar: sample5"
    assert open_pictures(f"{shards}/00[01].tar").fingerprint() != sources[0].fingerprint()


def test_shards_behind_an_address_are_copied_once(shards, tmp_path):
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            requests.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(shards)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        for _ in range(2):
            source = open_pictures(f"{address}/{{000..002}}.tar", download_folder=tmp_path / "copies")
            assert rows_of(source) == EXPECTED
        assert sorted(requests) == ["/000.tar", "/001.tar", "/002.tar"]
        with pytest.raises(OSError, match="The shard http.*/003.tar cannot be fetched"):
            open_pictures(f"{address}/003.tar", download_folder=tmp_path / "copies")
    finally:
        server.shutdown()
        server.server_close()


def test_shards_are_trained_on_from_worker_processes_with_their_embeddings(shards, tmp_path):
    """Parts of selection and cache cross no shard, and each picture has its caption and its own embedding."""
    source = open_pictures(f"{shards}/*.tar")
    (shards / "001.tar").write_bytes((shards / "001.tar").read_bytes().replace(b"\x89PNG", b"\x89XXX", 1))
    selection = select_pictures(source, tmp_path / "selection")
    assert selection.chunks == (2, 1, 2) and selection.rows.tolist() == [0, 1, 3, 4, 5]
    assert list(build_embedding_cache(tmp_path / "cache", source, selection, demo_encoder())) == [True] * 3
    dataset = PictureDataset(source, settings_of(size=8), selection, EmbeddingCache(tmp_path / "cache"))
    batches = list(make_loader(dataset, StepBatchSampler(5, 0, 2), num_workers=1))
    for batch in batches:
        found = {
            (caption, *image[:, 0, 0].tolist())
            for caption, image in zip(batch["caption"], batch["image"], strict=True)
        }
        assert found == {(caption, *color) for caption, color in EXPECTED if caption != caption_of(2)}
        expected = demo_encoder()(batch["caption"], torch.zeros(5, 3, 64, 64, dtype=torch.uint8))
        pooled = batch["embeddings"]["added_cond_kwargs"]["text_embeds"].float()
        torch.testing.assert_close(pooled, expected["added_cond_kwargs"]["text_embeds"], rtol=2.0**-10, atol=1e-4)
    assert batches[0]["caption"] != batches[1]["caption"], "in another order"


def test_there_may_be_fewer_shards_than_processes(shards):
    """Each process has pictures, and no two the same one."""
    source = open_pictures(f"{shards}/000.tar")
    dataset = PictureDataset(source, settings_of())
    batches = [next(iter(make_loader(dataset, StepBatchSampler(1, 0, 1, rank, 2), 0))) for rank in range(2)]
    assert source.chunks == (2,) and {caption for batch in batches for caption in batch["caption"]} == {
        caption_of(0),
        caption_of(1),
    }


def test_samples_lack_what_they_lack(shards):
    with webdataset.TarWriter(str(shards / "000.tar")) as tar:
        tar.write({"__key__": "text", "txt": "alone"})
        tar.write({"__key__": "picture", "png": b"no picture"})
        tar.write({"__key__": "table", "png": b"", "json": {"caption": "a"}})
    source = open_pictures(str(shards / "000.tar"))
    assert [source[row].caption for row in range(len(source))] == ["", ""]
    assert module.ImageShards([str(shards / "000.tar")], "caption")[1].caption == "a"
    with pytest.raises(ValueError, match="'000.tar: picture' is not an image"):
        source[0].image()


def test_wrong_shards_are_refused(shards):
    content = (shards / "001.tar").read_bytes()
    (shards / "001.tar").write_bytes(content[:1100])
    with pytest.raises(ValueError, match="001.tar is damaged or no plain tar file"):
        open_pictures(f"{shards}/*.tar")
    (shards / "001.tar").write_text("text")
    with pytest.raises(ValueError, match="001.tar is damaged or no plain tar file"):
        open_pictures(f"{shards}/*.tar")
    with pytest.raises(ValueError, match="There is no shard '.*9.tar'"):
        open_pictures(f"{shards}/9.tar")
    with webdataset.TarWriter(str(shards / "empty.tar")) as tar:
        tar.write({"__key__": "text", "txt": "alone"})
    with pytest.raises(ValueError, match="empty.tar: no shard holds pictures"):
        open_pictures(f"{shards}/empty.tar")


@pytest.mark.parametrize("name", ["pipe:touch {}/run; cat a.tar", "ftp://localhost/a.tar"])
def test_addresses_that_start_programs_or_are_of_other_kinds_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match="Shards of (pipe|ftp): are not read"):
        open_pictures(name.format(tmp_path))
    assert not (tmp_path / "run").exists()

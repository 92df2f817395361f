# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Embeddings in files: those of the encoders, whatever was killed on the way, and of nothing else."""

import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers_pictures import build, cached_dataset, demo_encoder, selected, settings_of, write_folder, write_metadata
from PIL import Image
from safetensors.torch import load_file, save_file

from diffusers_ediffi import demo_checkpoint
from diffusers_ediffi.training import EmbeddingCache, ImageFolder, PictureDataset, caption_tokenizers, select_pictures
from diffusers_ediffi.training.conditioning import BatchConditioner
from diffusers_ediffi.training.data import collate
from diffusers_ediffi.training.dropout import DropoutRates
from diffusers_ediffi.training.embedding_cache import build_embedding_cache, in_single_precision
from diffusers_ediffi.training.encode import encoder_fingerprint

KILL_SCRIPT = Path(__file__).parent / "kill_cache.py"
PICTURES, ROWS = 11, 2


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with pictures, selection and cache; not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    write_folder(folder / "pictures", PICTURES)
    assert build(folder, rows_per_part=ROWS) == [True] * 6
    return folder


@pytest.fixture
def copied(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "cache").iterdir() if not path.name.startswith(".")}


# --- what is read ---


@pytest.mark.parametrize(("dtype", "bits"), [("float16", 11), ("bfloat16", 8)])
def test_training_reads_what_the_encoders_give_to_16_bits(dtype, bits, made, tmp_path):
    folder = made
    if dtype != "float16":
        folder = tmp_path
        shutil.copytree(made / "pictures", folder / "pictures")
        build(folder, dtype=dtype)
    cached, (source, selection) = (
        cached_dataset(folder),
        selected(folder, tokenizers=caption_tokenizers(demo_checkpoint())),
    )
    plain = PictureDataset(source, settings_of(), selection)
    batches = [collate([dataset[i] for i in range(PICTURES)]) for dataset in (cached, plain)]
    assert torch.equal(batches[0]["image"], batches[1]["image"]) and batches[0]["caption"] == batches[1]["caption"]
    assert "clip_image" not in batches[0]
    found = in_single_precision(batches[0]["embeddings"])
    expected = demo_encoder()(batches[1]["caption"], batches[1]["clip_image"])
    mask = found["encoder_attention_mask_2"]
    longest = int(expected["encoder_attention_mask_2"].sum(dim=1).max())
    assert mask.shape[1] == longest < 113, "padded to the longest of the batch"
    assert torch.equal(mask, expected["encoder_attention_mask_2"][:, :longest])
    close = {"rtol": 2.0**-bits, "atol": 1e-5}  # half a unit in the last place; the encoders sum up in other batches
    torch.testing.assert_close(
        found["encoder_hidden_states_2"], expected["encoder_hidden_states_2"][:, :longest], **close
    )
    for name in ("encoder_hidden_states", "added_cond_kwargs"):
        torch.testing.assert_close(found[name], expected[name], **close)
    kept = load_file(next((folder / "cache").glob("part-00000*")))
    assert kept["t5"].dtype == kept["clip_text"].dtype == getattr(torch, dtype)
    assert len(kept["t5"]) == kept["t5_length"].sum(), "without padding"


def test_conditions_are_those_of_the_encoders(made):
    """The whole way of a batch: the same are dropped, and what is kept is in single precision."""
    cached = cached_dataset(made)
    plain = PictureDataset(cached.source, cached.settings, cached.selection)
    found, expected = (
        BatchConditioner(encoder, DropoutRates(), torch.device("cpu")).draw(
            collate([dataset[i] for i in range(8)]), torch.Generator().manual_seed(3)
        )
        for dataset, encoder in ((cached, None), (plain, demo_encoder()))
    )
    for mine, other in zip(found[1], expected[1], strict=True):
        assert torch.equal(mine, other)
    assert 0 < int(found[1].t5.sum()) < 8 and found[0]["encoder_hidden_states"].dtype == torch.float32
    torch.testing.assert_close(
        found[0]["added_cond_kwargs"], expected[0]["added_cond_kwargs"], rtol=2.0**-11, atol=1e-5
    )
    with pytest.raises(ValueError, match="The items have no embeddings: give a ConditioningEncoder"):
        BatchConditioner(None, DropoutRates()).texts(collate([plain[0]]))


def test_a_worker_process_is_sent_the_cache(made):
    cached = cached_dataset(made)
    cached[0]
    sent = pickle.loads(pickle.dumps(cached))
    for name, tensor in sent[4]["embeddings"].items():
        assert torch.equal(tensor, cached[4]["embeddings"][name])


# --- how it is built ---


def test_two_processes_make_the_same_bytes(made, tmp_path):
    shutil.copytree(made / "pictures", tmp_path / "pictures")
    made_by = [build(tmp_path, rows_per_part=ROWS, rank=rank, num_processes=2) for rank in (0, 1)]
    assert made_by == [[True] * 3, [True] * 3]
    assert contents(tmp_path) == contents(made)


def test_killed_at_random_moments():
    """Three kills here; the script's default is 20."""
    command = [sys.executable, KILL_SCRIPT, "--kills", "3", "--seed", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    assert "3 kills, " in result.stdout and "all bytes equal" in result.stdout


def test_what_is_there_is_not_made_again(copied):
    times = {path: path.stat().st_mtime_ns for path in (copied / "cache").iterdir()}
    assert build(copied, rows_per_part=ROWS) == [False] * 6
    assert times == {path: path.stat().st_mtime_ns for path in (copied / "cache").iterdir()}


def test_embeddings_beyond_16_bits_are_refused(tmp_path):
    write_folder(tmp_path / "pictures", 2)
    encoder = demo_encoder()
    encoder.text_encoder_2.encoder.final_layer_norm.weight.data *= 1e6
    with pytest.raises(ValueError, match=r"An embedding \(t5\) .* not finite in torch.float16: use dtype bfloat16"):
        build(tmp_path, encoder=encoder)
    assert not list((tmp_path / "cache").glob("part*"))


# --- what is refused ---


def test_other_captions_are_refused_before_training(copied):
    write_metadata(copied / "pictures", {f"{i}.png": "a cat" for i in range(PICTURES)})
    source = ImageFolder(copied / "pictures")
    selection = select_pictures(source, copied / "other")
    with pytest.raises(ValueError, match="cache was made from something else .*pictures .*selection"):
        PictureDataset(source, settings_of(), selection, EmbeddingCache(copied / "cache"))
    with pytest.raises(ValueError, match="cache was made from something else .*pictures"):
        list(build_embedding_cache(copied / "cache", source, selection, demo_encoder()))


def test_other_encoders_are_refused(copied, tmp_path):
    shutil.copytree(demo_checkpoint(), tmp_path / "model", ignore=shutil.ignore_patterns("unet*"))
    path = tmp_path / "model" / "text_encoder_2" / "model.safetensors"
    path.chmod(0o644)
    weights = load_file(path)
    weights["encoder.final_layer_norm.weight"] = weights["encoder.final_layer_norm.weight"] * 1.01
    save_file(weights, path, {"format": "pt"})
    cache, (source, selection) = EmbeddingCache(copied / "cache"), selected_again(copied)
    cache.check(source, selection, encoder_fingerprint(demo_checkpoint()))
    with pytest.raises(ValueError, match="cache was made from something else .encoders '.*', now '"):
        cache.check(source, selection, encoder_fingerprint(tmp_path / "model"))
    with pytest.raises(ValueError, match="encoders"):
        list(build_embedding_cache(copied / "cache", source, selection, type(demo_encoder())(tmp_path / "model")))


def selected_again(folder):
    return selected(folder, tokenizers=caption_tokenizers(demo_checkpoint()))


def test_another_picture_or_caption_under_the_same_name_is_refused_when_it_is_read(copied):
    dataset = cached_dataset(copied)
    Image.new("RGB", (64, 64), "black").save(copied / "pictures" / "3.png")
    text = (copied / "pictures" / "metadata.jsonl").read_text()
    (copied / "pictures" / "metadata.jsonl").write_text(text.replace("a cat at", "a hat at"))
    for name, message in (("3.png", "another picture than that of '3.png'"), ("8.png", "another caption .* '8.png'")):
        place = next(row for row in range(PICTURES) if dataset.source[row].name == name)
        picture = ImageFolder(copied / "pictures")[place]
        with pytest.raises(ValueError, match=message):
            dataset.embeddings.read(place, picture, picture.content())


@pytest.mark.parametrize("place", ["missing", "cut", "head"])
def test_parts_that_cannot_be_opened_are_refused_before_training(place, copied):
    path = copied / "cache" / "part-00003-of-00006.safetensors"
    content = path.read_bytes()
    path.unlink() if place == "missing" else path.write_bytes(content[:-1] if place == "cut" else b"\xff" * 50)
    message = "is not complete, part-00003" if place == "missing" else "part-00003-of-00006.safetensors is damaged"
    with pytest.raises(ValueError, match=message):
        EmbeddingCache(copied / "cache")
    assert build(copied, rows_per_part=ROWS) == [False] * 3 + [True] + [False] * 2
    assert contents(copied)[path.name] == content


def test_bytes_that_changed_are_refused_when_they_are_read(copied):
    """Each byte behind the head, one at a time, in what belongs to the row or says where it is."""
    path = copied / "cache" / "part-00001-of-00006.safetensors"
    content = path.read_bytes()
    head = 8 + int.from_bytes(content[:8], "little")
    chance = random.Random(0)
    refused = 0
    for byte in [len(content) - 1, head, *(chance.randrange(head, len(content)) for _ in range(40))]:
        path.write_bytes(content[:byte] + bytes([content[byte] ^ 64]) + content[byte + 1 :])
        cache, source = EmbeddingCache(copied / "cache"), ImageFolder(copied / "pictures")
        for place in (2, 3):
            try:
                cache.read(place, source[place], source[place].content())
            except ValueError as error:
                assert "part-00001-of-00006.safetensors is damaged" in str(error)
                refused += 1
    assert refused >= 42, "a byte belongs to one of the two rows, or to both"
    assert build(copied, rows_per_part=ROWS) == [False, True] + [False] * 4
    assert path.read_bytes() == content


def test_a_folder_that_is_no_cache_is_refused(copied):
    with pytest.raises(ValueError, match="manifest.json cannot be read"):
        EmbeddingCache(copied)
    manifest = json.loads((copied / "cache" / "manifest.json").read_text())
    (copied / "cache" / "manifest.json").write_text(json.dumps({**manifest, "format": 0}))
    with pytest.raises(ValueError, match="holds no embeddings of the format 1"):
        EmbeddingCache(copied / "cache")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dtype": "float32"}, "dtype must be float16 or bfloat16"), ({"batch_size": 0}, "batch_size 0 and")],
)
def test_wrong_options_are_refused(options, message, made, tmp_path):
    shutil.copytree(made / "pictures", tmp_path / "pictures")
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **options)
    assert not (tmp_path / "cache").exists()

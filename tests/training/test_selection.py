# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Which pictures are trained on: what is left out is counted, named and found once."""

import json

import pytest
import torch
from helpers_launch import in_two_processes
from helpers_pictures import caption_of, select_as_one_of_two, selected, write_folder, write_metadata
from PIL import Image
from safetensors.torch import save_file

from diffusers_ediffi import demo_checkpoint
from diffusers_ediffi.training import (
    AestheticScore,
    ClipModel,
    ClipScore,
    ConditioningEncoder,
    ImageFolder,
    caption_tokenizers,
    load_selection,
    select_pictures,
)
from diffusers_ediffi.training import selection as module


@pytest.fixture
def faulty(tmp_path):
    """Six pictures; 1 is damaged, 2 is cut, 3 has no caption, 4 is small, and another is not in the metadata."""
    folder = write_folder(tmp_path / "pictures")
    (folder / "1.png").write_bytes(b"no picture")
    Image.effect_noise((64, 64), 50).convert("RGB").save(folder / "2.png")
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:2000])
    Image.new("RGB", (64, 20)).save(folder / "4.png")
    Image.new("RGB", (64, 64)).save(folder / "forgotten.png")
    write_metadata(folder, {f"{i}.png": None if i == 3 else caption_of(i) for i in range(6)})
    return tmp_path


COUNTS = {"unreadable": 2, "no caption": 2, "shortest side": 1}


def test_what_cannot_be_trained_on_is_left_out_counted_and_named(faulty):
    source, selection = selected(faulty, min_side=32)
    assert [source[int(row)].name for row in selection.rows] == ["0.png", "5.png"]
    assert selection.sizes.tolist() == [[64, 64], [64, 64]] and selection.chunks == (2,)
    assert selection.counts == COUNTS
    reasons = {name: reason for name, reason, _ in selection.left_out}
    assert reasons == {
        **{"1.png": "unreadable", "2.png": "unreadable", "3.png": "no caption", "4.png": "shortest side"},
        **{"forgotten.png": "no caption"},
    }
    report = selection.report()
    assert report[0].startswith("2 of 7 pictures are trained on, 2 left out for: unreadable")
    assert "left out: 4.png: shortest side (64 x 20 pixels)" in report
    assert any("left out: 1.png: unreadable ('1.png' is not an image" in line for line in report)


def test_strict_refuses_what_is_wrong_but_not_what_is_filtered(faulty):
    with pytest.raises(
        ValueError, match=r"4 pictures cannot be trained on \(strict\): 1.png: unreadable .*'1.png' is"
    ):
        selected(faulty, min_side=32, strict=True)
    for name in ("1.png", "2.png"):
        Image.new("RGB", (64, 64)).save(faulty / "pictures" / name)
    (faulty / "pictures" / "forgotten.png").unlink()
    write_metadata(faulty / "pictures", {f"{i}.png": caption_of(i) for i in range(6)})
    source = ImageFolder(faulty / "pictures")
    assert len(select_pictures(source, faulty / "other", min_side=32, strict=True)) == 5


def test_nothing_left_is_refused_with_the_reasons(faulty):
    with pytest.raises(ValueError, match="No picture is left .* 0 of 7 .* 3 left out for: shortest side"):
        select_pictures(ImageFolder(faulty / "pictures"), faulty / "other", min_side=65)


def test_a_selection_is_found_again_and_refused_for_other_pictures(faulty, monkeypatch):
    _, first = selected(faulty)
    with monkeypatch.context() as patch:
        patch.setattr(module._Scan, "part", None)
        _, again = selected(faulty)
    assert again.fingerprint == first.fingerprint and again.rows.tolist() == first.rows.tolist()
    source = ImageFolder(faulty / "pictures")
    assert load_selection(faulty / "selection", source).fingerprint == first.fingerprint
    with pytest.raises(ValueError, match="was made from something else .*min_side 1, now 2"):
        selected(faulty, min_side=2)
    write_metadata(faulty / "pictures", {"0.png": "another"})
    for select in (lambda: selected(faulty), lambda: load_selection(faulty / "selection", ImageFolder(source.folder))):
        with pytest.raises(ValueError, match="was made from something else .*pictures"):
            select()


def test_parts_that_are_missing_or_damaged_are_made_again(faulty, monkeypatch):
    monkeypatch.setattr(module, "ROWS", 2)
    selected(faulty)
    parts = sorted((faulty / "selection").glob("*.safetensors"))
    before = [part.read_bytes() for part in parts]
    assert len(parts) == 3
    parts[0].unlink()
    parts[1].write_bytes(before[1][:-1])
    parts[2].write_bytes(before[2][:-1] + bytes([before[2][-1] ^ 1]))
    (faulty / "selection" / f".{parts[0].name}.1-1.tmp").write_bytes(b"left by a process that was killed")
    selected(faulty)
    assert [part.read_bytes() for part in parts] == before
    assert not list((faulty / "selection").glob(".*.tmp"))


def test_long_captions_are_counted_by_encoder(tmp_path):
    folder = write_folder(tmp_path / "pictures", 3)
    write_metadata(folder, {"0.png": "a red car " * 40, "1.png": "a car " * 30, "2.png": "a car"})
    tokenizers = caption_tokenizers(demo_checkpoint())
    tokens = {
        name: [len(ids) for ids in tokenizers[name][0](["a red car " * 40, "a car " * 30]).input_ids]
        for name in tokenizers
    }
    _, selection = selected(tmp_path, tokenizers=tokenizers)
    limits = {name: entry[1] for name, entry in tokenizers.items()}
    assert limits == {"CLIP": 77, "T5": 113}
    assert selection.long_captions == {name: sum(n > limits[name] for n in tokens[name]) for name in limits}
    assert selection.long_captions["T5"] >= 1 and len(selection) == 3
    assert any(line.startswith("T5 does not see the end of") for line in selection.report())


def test_two_processes_share_the_work(faulty, monkeypatch):
    assert in_two_processes(select_as_one_of_two, faulty) == [0, 0]
    monkeypatch.setattr(module, "ROWS", 2)
    _, alone = selected(faulty)
    for rank in (0, 1):
        found = json.loads((faulty / "run" / f"found-{rank}.json").read_text())
        assert found == [alone.rows.tolist(), alone.fingerprint]


# --- scores ---


@pytest.fixture(scope="module")
def clip():
    return ClipModel(demo_checkpoint())


def test_clip_score_keeps_captions_that_fit(tmp_path, clip):
    """The cosine is that of the pipeline's embeddings, and captions of other pictures fall below a minimum."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (64, 64), "blue").save(folder / "a.png")
    Image.new("RGB", (64, 80), "red").save(folder / "b.png")
    write_metadata(folder, {"a.png": "a red car", "b.png": "a yellow star"})
    images = [ImageFolder(folder)[row].image() for row in (0, 1)]
    score = ClipScore(clip, -1)
    found = score(images, ["a red car", "a yellow star"])
    encoder = ConditioningEncoder(demo_checkpoint())
    pixels = torch.stack([torch.zeros(3, 64, 64, dtype=torch.uint8)] * 2)
    pixels[0, 2] = pixels[1, 0] = 255
    embeds = encoder(["a red car", "a yellow star"], pixels)["added_cond_kwargs"]
    cosines = torch.cosine_similarity(embeds["text_embeds"], embeds["image_embeds"])
    torch.testing.assert_close(found, cosines, atol=1e-4, rtol=0)
    worse = int(found.argmin())
    _, selection = selected(tmp_path, filters=[ClipScore(clip, float(found.mean()))])
    assert selection.rows.tolist() == [1 - worse] and selection.counts == {"CLIP score": 1}
    assert selection.left_out[0][2] == f"{found[worse]:.3f}"


def test_aesthetic_heads_of_one_or_several_layers_are_the_same(tmp_path, clip):
    """As LAION's, which are linear layers behind each other without anything between."""
    torch.manual_seed(0)
    layers = torch.nn.Sequential(*(torch.nn.Linear(128, 128) for _ in range(10)), torch.nn.Linear(128, 1))
    state = {f"layers.{name}": tensor for name, tensor in layers.state_dict().items()}
    torch.save(state, tmp_path / "several.pth")
    (tmp_path / "head").mkdir()
    image = Image.new("RGB", (64, 64), "blue")
    with torch.no_grad():
        expected = layers(clip.image_embeds([image])).flatten()
    found = AestheticScore(clip, tmp_path / "several.pth", 0)
    torch.testing.assert_close(found([image], ["a"]), expected, atol=1e-5, rtol=1e-4)
    save_file({"weight": found.weight, "bias": found.bias}, tmp_path / "head" / "model.safetensors")
    alone = AestheticScore(clip, tmp_path / "head", 0)
    torch.testing.assert_close(alone([image], ["a"]), expected, atol=1e-5, rtol=1e-4)
    assert alone.describe() == found.describe()


def test_aesthetic_scores_leave_pictures_out(tmp_path, clip):
    write_folder(tmp_path / "pictures")
    source = ImageFolder(tmp_path / "pictures")
    save_file({"weight": torch.linspace(-1, 1, 128)[None], "bias": torch.zeros(1)}, tmp_path / "head.safetensors")
    head = AestheticScore(clip, tmp_path / "head.safetensors", -100)
    scores = head([source[row].image() for row in range(6)], [""] * 6)
    head.minimum = float(scores.median())
    selection = select_pictures(source, tmp_path / "selection", filters=[head, ClipScore(clip, 2)][:1])
    assert selection.rows.tolist() == (scores >= scores.median()).nonzero().flatten().tolist()
    assert selection.counts == {"aesthetic score": 6 - len(selection)}
    with pytest.raises(ValueError, match="No picture is left .* aesthetic score.* CLIP score"):
        select_pictures(source, tmp_path / "both", filters=[head, ClipScore(clip, 2)])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"weight": torch.zeros(1, 7), "bias": torch.zeros(1)}, "takes 7 numbers, and the embeddings .* have 128"),
        ({"weight": torch.zeros(2, 128)}, "gives 2 numbers for a picture"),
        ({"a.weight": torch.zeros(5, 128), "b.weight": torch.zeros(1, 4)}, "do not fit behind each other"),
        ({"bias": torch.zeros(1)}, "holds no linear layers"),
    ],
)
def test_wrong_heads_are_refused(weights, message, tmp_path, clip):
    save_file(weights, tmp_path / "head.safetensors")
    with pytest.raises(ValueError, match=message):
        AestheticScore(clip, tmp_path / "head.safetensors", 5)


def test_heads_that_are_no_weights_are_refused(tmp_path, clip):
    with pytest.raises(ValueError, match="There is no aesthetic head '.*head.pth'"):
        AestheticScore(clip, tmp_path / "head.pth", 5)
    with pytest.raises(ValueError, match="holds 0 files of weights"):
        AestheticScore(clip, tmp_path, 5)
    for name in ("head.pth", "head.safetensors"):
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(ValueError, match=f"{name}' cannot be read"):
            AestheticScore(clip, tmp_path / name, 5)

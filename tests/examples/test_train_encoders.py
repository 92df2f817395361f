# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The scripts that train the demo model's CLIP and T5: tokenizers for any text, towers that load, exact resume."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_examples import import_script
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
    T5EncoderModel,
    T5Tokenizer,
)

CAPTIONS = [
    f"a {colour} {thing} {relation} a {other} on a dark blue background, pixel art"
    for colour in ("red", "green", "light blue")
    for thing in ("apple", "rocket", "balloon")
    for relation in ("above", "to the left of")
    for other in ("cat", "house", "alarm clock")
]


@pytest.fixture
def clip_script(monkeypatch):
    return import_script("demo/train_clip", monkeypatch)


@pytest.fixture
def t5_script(monkeypatch):
    return import_script("demo/train_t5", monkeypatch)


@pytest.fixture
def object_folder(tmp_path) -> Path:
    folder = tmp_path / "objects"
    folder.mkdir()
    phrases = ("red", "green", "blue", "yellow")
    for phrase in phrases:
        Image.new("RGBA", (32, 32), phrase).save(folder / f"{phrase}.png")
    entries = [{"file": f"{phrase}.png", "phrase": f"{phrase} box"} for phrase in phrases]
    (folder / "index.json").write_text(json.dumps(entries))
    return folder


# --- tokenizers ---


@pytest.mark.parametrize("tokenizer_class", [CLIPTokenizer, AutoTokenizer])
def test_clip_tokenizer_loads_and_takes_any_text(clip_script, tokenizer_class, tmp_path):
    clip_script.train_tokenizer(CAPTIONS).save_pretrained(tmp_path)
    tokenizer = tokenizer_class.from_pretrained(tmp_path)
    text = "A Rocket above ZQX, café Ω"
    encoded = tokenizer(text, return_offsets_mapping=True, padding="max_length", truncation=True)
    ids, count = encoded["input_ids"], sum(encoded["attention_mask"])
    assert len(ids) == 77 == tokenizer.model_max_length
    assert ids[0] == tokenizer.bos_token_id and ids.index(tokenizer.eos_token_id) == count - 1
    words = [text[start:end] for start, end in encoded["offset_mapping"][1:4]]
    assert words == ["A", "Rocket", "above"], "a known word is one token, which knows its place in the text"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a rocket above zqx , café ω"
    assert max(ids) < len(tokenizer)


@pytest.mark.parametrize("tokenizer_class", [T5Tokenizer, AutoTokenizer])
def test_t5_tokenizer_loads_and_ignores_case(t5_script, tokenizer_class, tmp_path):
    t5_script.train_tokenizer(CAPTIONS).save_pretrained(tmp_path / "once")
    # Saved twice, since what a tokenizer class does not know of its file is lost only then.
    tokenizer_class.from_pretrained(tmp_path / "once").save_pretrained(tmp_path / "twice")
    tokenizer = tokenizer_class.from_pretrained(tmp_path / "twice")
    assert tokenizer.model_max_length == 113 and (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    text = "A Red APPLE, quartz #7!"
    encoded = tokenizer(text, return_offsets_mapping=True)
    assert encoded["input_ids"] == tokenizer(text.lower())["input_ids"]
    assert tokenizer.unk_token_id not in encoded["input_ids"], "printable ASCII is never unknown"
    assert tokenizer.decode(encoded["input_ids"], skip_special_tokens=True) == text.lower()
    assert max(end for _, end in encoded["offset_mapping"]) == len(text)
    assert tokenizer.tokenize("alarm clock on a dark") == ["▁alarm", "▁clock", "▁on", "▁a", "▁dark"]
    assert tokenizer.convert_tokens_to_ids("<extra_id_0>") == len(tokenizer) - 1


def test_clip_pools_at_the_end_mark(clip_script):
    tokenizer = clip_script.train_tokenizer(CAPTIONS)
    model = clip_script.build_model(tokenizer).text_model.eval()
    assert model.config.eos_token_id == tokenizer.eos_token_id != 2, "2 is transformers' legacy way of pooling"
    ids = tokenizer(["a red apple"], padding="max_length", return_tensors="pt")["input_ids"]
    output = model(ids)
    assert torch.equal(output.pooler_output[0], output.last_hidden_state[0, 4])


# --- span corruption ---


def test_corrupted_spans_can_be_put_back(t5_script):
    random, sentinels = np.random.default_rng(0), list(range(900, 950))
    for length in range(2, 40):
        ids = list(range(length))
        corrupted, target = t5_script.corrupt_spans(ids, sentinels, random)
        hidden = {}
        for token in target:
            if token >= 900:
                spans = hidden.setdefault(token, [])
            else:
                spans.append(token)
        restored = [t for token in corrupted for t in hidden.get(token, [token])]
        assert restored == ids and all(hidden.values())
        assert 1 <= sum(map(len, hidden.values())) <= round(0.35 * length) + 2


# --- training ---


def run(script, objects: Path, output: Path, *more: str) -> None:
    few = ["--batch-size", "4", "--steps", "4", "--num-captions", "200", "--num-held-out", "8"]
    script.main(["--objects", str(objects), "--output", str(output), *few, *more])


@pytest.mark.parametrize("script, folder", [("clip_script", "clip_training"), ("t5_script", "t5_training")])
def test_a_resumed_run_must_have_the_same_objects(script, folder, object_folder, tmp_path, request):
    script = request.getfixturevalue(script)
    run(script, object_folder, tmp_path / "run", "--max-steps-this-run", "1")
    index = object_folder / "index.json"
    entries = json.loads(index.read_text())
    index.write_text(json.dumps([*entries[:-1], {**entries[-1], "phrase": "golden box"}]))
    with pytest.raises(ValueError, match="phrases"):
        run(script, object_folder, tmp_path / "run")
    # Checkpoints of the time when the objects were not noted resume as they did.
    noted = next((tmp_path / "run" / folder).glob("checkpoint-1/settings.json"))
    settings = json.loads(noted.read_text())
    del settings["phrases"]
    noted.write_text(json.dumps(settings))
    run(script, object_folder, tmp_path / "run", "--max-steps-this-run", "1")


def assert_same_weights(a, b):
    pairs = zip(a.state_dict().items(), b.state_dict().values(), strict=True)
    assert [key for (key, x), y in pairs if not torch.equal(x, y)] == []


def test_clip_training_goes_on_exactly_where_it_was_cut(clip_script, object_folder, tmp_path):
    run(clip_script, object_folder, tmp_path / "whole")
    run(clip_script, object_folder, tmp_path / "cut", "--max-steps-this-run", "2")
    run(clip_script, object_folder, tmp_path / "cut")
    for model_class, part in (
        (CLIPTextModelWithProjection, "text_encoder"),
        (CLIPVisionModelWithProjection, "image_encoder"),
    ):
        whole, cut = (model_class.from_pretrained(tmp_path / name / part) for name in ("whole", "cut"))
        assert_same_weights(whole, cut)
    processor = CLIPImageProcessorPil.from_pretrained(tmp_path / "cut" / "feature_extractor")
    pixels = processor([Image.new("RGB", (256, 200))], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 64, 64) and cut(pixels).image_embeds.shape == (1, 128)
    config = json.loads((tmp_path / "cut" / "feature_extractor" / "preprocessor_config.json").read_text())
    assert config["image_processor_type"] == "CLIPImageProcessor", "loads with and without torchvision"
    with pytest.raises(ValueError, match="style_said"):
        run(clip_script, object_folder, tmp_path / "cut", "--style-said", "0.1")


def test_a_loss_that_is_not_finite_names_step_and_checkpoint(t5_script, object_folder, tmp_path):
    options = ("--learning-rate", "1e30", "--checkpoint-every", "1")
    with pytest.raises(
        FloatingPointError, match=r"not finite at step \d, .*The last good checkpoint is .*checkpoint-\d\."
    ):
        run(t5_script, object_folder, tmp_path / "run", *options)
    assert len(list((tmp_path / "run" / "t5_training").glob("checkpoint-*/COMPLETE"))) == 1


def test_clip_training_starts_from_other_towers(clip_script, object_folder, tmp_path):
    run(clip_script, object_folder, tmp_path / "first")
    options = ("--init-from", str(tmp_path / "first"), "--learning-rate", "1e-30")
    run(clip_script, object_folder, tmp_path / "second", *options)
    first, second = (
        CLIPTextModelWithProjection.from_pretrained(tmp_path / n / "text_encoder") for n in ("first", "second")
    )
    assert_same_weights(first, second)
    tokenizers = [(tmp_path / name / "tokenizer" / "tokenizer.json").read_bytes() for name in ("first", "second")]
    assert tokenizers[0] == tokenizers[1]
    with pytest.raises(OSError, match="nowhere"):
        run(clip_script, object_folder, tmp_path / "third", "--init-from", str(tmp_path / "nowhere"))


def test_t5_training_goes_on_exactly_where_it_was_cut(t5_script, object_folder, tmp_path):
    run(t5_script, object_folder, tmp_path / "whole")
    run(t5_script, object_folder, tmp_path / "cut", "--max-steps-this-run", "2")
    run(t5_script, object_folder, tmp_path / "cut")
    whole, cut = (T5EncoderModel.from_pretrained(tmp_path / name / "text_encoder_2") for name in ("whole", "cut"))
    assert_same_weights(whole, cut)
    assert cut(torch.tensor([[5, 6, 1]])).last_hidden_state.shape == (1, 3, 128)

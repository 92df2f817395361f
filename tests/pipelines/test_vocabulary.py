# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A model of few words: what it reads a prompt as, what it says that it does not know, and data of strangers."""

import json
import time

import pytest
import torch
from helpers import draw, embeddings, tiny_pipeline

from diffusers_ediffi import EDiffIImg2ImgPipeline, EDiffIPipeline, PaintRegion, record_attention
from diffusers_ediffi.pipelines.vocabulary import MAX_ENTRIES, MAX_GROUPS, MAX_LENGTH, MAX_SYNONYM, Reading, Vocabulary

WORDS = {
    "objects": ["red apple", "rocket", "butterfly", "snowman", "cat", "car", "house", "box", "leaf", "8-bit game"],
    "grounds": ["in front of mountains", "on the sea"],
    "styles": ["water colour", "pixel art"],
    "other": ["a", "an", "and", "of", "above"],
}
SYNONYMS = {
    "automobile": "car",
    "an automobile": "a car",
    "kitten": "cat",
    "color": "colour",
    "watercolor": "water colour",
    "on top of": "above",
    "jack o' lantern": "red apple",
    "grey": "red",
}
VOCABULARY = {"words": WORDS, "synonyms": SYNONYMS}
LEFT = (0.0, 0.0, 0.5, 1.0)


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary(**VOCABULARY)


@pytest.fixture
def word_pipe():
    """The base stage alone, with a vocabulary."""
    parts = ("unet_sr256", "unet_sr1024", "scheduler_sr256", "scheduler_sr1024")
    return tiny_pipeline(**dict.fromkeys(parts), vocabulary=VOCABULARY)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("Rocket", "rocket"),
        ("A RED Apple", "a red apple"),
        ("ｒｏｃｋｅｔ", "rocket"),
        ("cats", "cat"),
        ("Butterflies and snowmen", "butterfly and snowman"),
        ("boxes, leaves, houses", "box, leaf, house"),
        ("a mountain", "a mountains"),
        ("automobiles", "car"),
        ("an automobile on top of a house", "a car above a house"),
        ("a kitten. Kittens!", "a cat. cat!"),
        ("Watercolor of a cat", "water colour of a cat"),
        ("water-color", "water-colour"),
        ("a jack-o'-lantern", "a red apple"),
        ("8 bit games", "8-bit game"),
        ("\ta  cat\n and\u00a0the Sea ", "\ta  cat\n and\u00a0the sea "),
        ("a house on top, of", "a house on top, of"),
    ],
)
def test_a_prompt_is_read_in_the_words_of_the_model(vocabulary, prompt, text):
    assert vocabulary.read(prompt).text == text


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("a rokcet", ("rokcet",)),
        ("ein Haus, zwei Häuser", ("ein", "Haus", "zwei", "Häuser")),
        ("2 cat and 13 car", ("2", "13")),
        ("a cat_and_a_dog", ("dog",)),
        ("(cat:1.3), [[rocket]] -- car/house...", ("1", "3")),
        ("the cat's house isn't on the sea", ("isn",)),
        ("a 🚀, ❤️👩‍🚀 and 8-bit", ("🚀", "❤️👩‍🚀")),
        ("猫 और बिल्ली", ("猫", "और", "बिल्ली")),
        ("красная ракета", ("красная", "ракета")),
        ("re\u0301d cafe\u0301", ("re\u0301d", "cafe\u0301")),
        ("z" * 20_000, ("z" * 20_000,)),
        ("!?.,;-'\"()\x00\u200d\ufe0f", ()),
        ("", ()),
    ],
)
def test_unknown_words_are_found_and_stay_as_they_are(vocabulary, prompt, unknown):
    assert vocabulary.read(prompt) == Reading(prompt, unknown)


def test_known_words_stay_as_they_are_whatever_the_synonyms():
    """Even where a row of them, or its plural, is a part of a synonym."""
    vocabulary = Vocabulary(
        {"all": ["night", "light", "A cat", "a", "cats"]}, {"night lights": "a cats", "b cat": "a"}
    )
    for prompt in ("night light", "A cat, a cat: cats", "night-light"):
        assert vocabulary.read(prompt) == Reading(prompt)
    assert vocabulary.read("night lights").text == "a cats"


@pytest.mark.parametrize(
    ("prompt", "text", "unknown"),
    [
        ("a red apple, red-Apples", "a red apple, red-apple", ()),
        ("an apple", "a red apple", ()),
        ("Apples and a cat", "red apple and a cat", ()),
        ("a green apple", "a green apple", ("green apple",)),
        ("dark blue Apples", "dark blue Apples", ("blue Apples",)),
        ("a blue, apple", "a blue, red apple", ()),
        ("a green pomme", "a green pomme", ("green pomme",)),
        ("a red pomme; pommes", "a red apple; red apple", ()),
        ("blue red, a red cat", "blue red, a red cat", ()),
    ],
)
def test_a_word_may_be_known_in_a_phrase_alone(prompt, text, unknown):
    words = {"objects": ["red apple", "cat"], "colours": ["red", "green", "dark blue"], "other": ["a", "an", "and"]}
    synonyms = {"apple": "red apple", "an apple": "a red apple", "pomme": "red apple", "red pomme": "red apple"}
    vocabulary = Vocabulary(words, synonyms)
    reading = vocabulary.read(prompt)
    assert (reading.text, reading.unknown) == (text, unknown)
    assert not unknown or f"{unknown[0]!r} (nearest: 'red apple')" in vocabulary.complaint([prompt])


def test_what_is_read_is_traced_to_what_was_written(vocabulary):
    prompt = "Kittens on top of an automobile, 2 dogs; watercolor"
    reading = vocabulary.read(prompt)
    assert reading.text == "cat above a car, 2 dogs; water colour"
    written = {
        "cat": "Kittens",
        "t": "Kittens",
        "above": "on top of",
        "bov": "on top of",
        "a car": "an automobile",
        "car": "automobile",
        "2 dogs": "2 dogs",
        "og": "og",
        "colour": "watercolor",
        "cat above": "Kittens on top of",
        reading.text: prompt,
    }
    for part, source in written.items():
        start, stop = reading.place(reading.text.index(part), reading.text.index(part) + len(part))
        assert prompt[start:stop] == source
    assert reading.place(3, 3) == (3, 3), "nothing is nowhere"


def test_a_complaint_names_words_once_with_what_is_nearest(vocabulary):
    assert vocabulary.complaint(["a cat", "Cats"]) == ""
    complaint = vocabulary.complaint(["a rokcet and Rokcet", "hause of rokcet"])
    assert complaint == "does not know 'rokcet' (nearest: 'rocket'), 'hause' (nearest: 'house')"
    assert vocabulary.nearest("automobil") == "automobile" and vocabulary.nearest("zwei") is None
    many = vocabulary.complaint([" ".join(f"q{i}q" for i in range(9))])
    assert many.endswith("'q4q' and 4 other words")
    shown = vocabulary.complaint(["\x1b[31m \u202egninrael " + "y" * 1000])
    assert shown.isprintable() and len(shown) < 500


def test_long_prompts_take_no_time(vocabulary):
    start = time.process_time()
    for prompt in ("a " * 10_000, " ".join(f"x{i}y" for i in range(3000)), "a-" * 10_000, "🚀" * 20_000):
        vocabulary.complaint([prompt])
    assert time.process_time() - start < 5


def test_the_words_are_saved_and_come_back(word_pipe, tmp_path):
    assert tiny_pipeline().vocabulary is None
    word_pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["vocabulary"] == VOCABULARY
    loaded = EDiffIPipeline.from_pretrained(tmp_path)
    assert loaded.vocabulary.to_config() == VOCABULARY
    assert EDiffIImg2ImgPipeline.from_pipe(loaded).vocabulary.to_config() == VOCABULARY
    assert EDiffIPipeline.from_pretrained(tmp_path, vocabulary=None).vocabulary is None
    assert len(loaded.vocabulary) == 27


def plain(pipe):
    """The same pipeline without its vocabulary."""
    pipe = EDiffIPipeline(**pipe.components)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        ({"prompt": "a red apple"}, {"prompt": "a red apple"}),
        ({"prompt": "an AUTOMOBILE"}, {"prompt": "a car"}),
        ({"prompt": ["Kittens", "a rokcet"]}, {"prompt": ["cat", "a rokcet"]}),
        ({"prompt": "a cat", "negative_prompt": "Watercolor"}, {"prompt": "a cat", "negative_prompt": "water colour"}),
        (
            {"prompt_schedule": [("a kitten", 0.0), ("Automobiles", 0.5)]},
            {"prompt_schedule": [("a cat", 0.0), ("car", 0.5)]},
        ),
    ],
    ids=str,
)
def test_a_prompt_is_drawn_as_it_is_read(word_pipe, arguments, read):
    """The same, bit for bit, as by a model without a vocabulary that is given the words of the model."""
    drawn = draw(word_pipe, **{"prompt": None, **arguments})
    pipe = plain(word_pipe)
    assert torch.equal(drawn, draw(pipe, **{"prompt": None, **read}))
    assert torch.equal(embeddings(word_pipe, "Kittens")["prompt_embeds_2"], embeddings(pipe, "cat")["prompt_embeds_2"])


@pytest.mark.parametrize(
    ("prompt", "phrase", "read", "read_phrase"),
    [
        ("two cats and a car", "two cats", "two cat and a car", "two cat"),
        ("Rocket and a cat", "Rocket", "rocket and a cat", "rocket"),
        ("a watercolor of an automobile", "automobile", "a water colour of a car", "car"),
        ("a watercolor of an automobile", "a watercolor", "a water colour of a car", "a water colour"),
        ("a car on top of cats", "on top", "a car above cat", "above"),
    ],
)
def test_a_phrase_is_painted_where_the_prompt_says_it(word_pipe, prompt, phrase, read, read_phrase):
    """It is found in the prompt as it was written, and leads the tokens of what it is read as."""
    drawn = draw(word_pipe, prompt, regions=[PaintRegion(phrase, LEFT)])
    assert torch.equal(drawn, draw(plain(word_pipe), read, regions=[PaintRegion(read_phrase, LEFT)]))
    assert not torch.equal(drawn, draw(word_pipe, prompt))


def test_phrases_are_those_of_the_prompt(word_pipe):
    """Not those of what it is read as, which nobody wrote."""
    prompt = "a kitten and a cat"
    drawn = draw(word_pipe, prompt, regions=[PaintRegion("cat", LEFT)])
    assert torch.equal(
        drawn, draw(plain(word_pipe), "a cat and a cat", regions=[PaintRegion("cat", LEFT, occurrence=1)])
    )
    with pytest.raises(ValueError, match="the phrase 'car' is not in the prompt 'an Automobile'"):
        draw(word_pipe, "an Automobile", regions=[PaintRegion("car", LEFT)])


def test_the_attention_is_that_of_the_words_that_were_written(word_pipe):
    with record_attention(word_pipe, heat_maps=True) as record:
        draw(word_pipe, "a watercolor of Kittens")
    texts = [token.text for token in record.words() if token.encoder == "clip_text"]
    assert texts[1:12] == ["watercolor"] * 11 and texts[-3:] == ["Kittens"] * 3
    assert record.heat_map("watercolor").shape == record.heat_map("kittens").shape


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"prompt": "a rokcet"}, "'rokcet' (nearest: 'rocket')"),
        ({"prompt": ["a cat", "ein Kitten"]}, "'ein'"),
        ({"prompt": "a cat", "negative_prompt": "blurry"}, "'blurry'"),
        ({"prompt": "a cat", "negative_prompt": "blurry", "guidance_scale": 1.0}, None),
        ({"prompt_schedule": [("a dog", 0.0), ("a dog and an owl", 0.5)]}, "'dog', 'owl'"),
        ({"prompt": "a dog", "regions": [PaintRegion("dog", LEFT)]}, "'dog'"),
        ({"prompt": "two Cats", "num_images_per_prompt": 2}, "'two'"),
        ({"prompt": "cats on top of an automobile"}, None),
    ],
    ids=str,
)
def test_a_call_warns_once_of_what_the_model_does_not_know(word_pipe, caplog, arguments, named):
    draw(word_pipe, **{"prompt": None, **arguments})
    said = [record.getMessage() for record in caplog.records]
    assert said == (
        [] if named is None else [f"the model does not know {named}; pipe.vocabulary.groups lists its 27 words."]
    )


def test_the_warning_says_how_to_list_the_words_of_a_saved_model(word_pipe, tmp_path, caplog):
    folder = tmp_path / "a model"
    word_pipe.save_pretrained(folder)
    pipe = EDiffIPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    draw(pipe, "owls")
    assert f"\"ediffi info --words --model '{folder}'\" lists its 27 words." in caplog.text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("words", "vocabulary='words' must be {"),
        (["diffusers", "UNet"], "must be {"),
        (True, "vocabulary=True must be {"),
        ({}, "must be {"),
        ({"synonyms": {}}, "must be {"),
        ({"words": WORDS, "plurals": {}}, "must be {"),
        ({"words": ["cat"]}, "words=.* must be groups"),
        ({"words": None}, "words=None must be groups"),
        ({"words": {"objects": "cat"}}, "must be groups"),
        ({"words": {"objects": {"cat": 1}}}, "must be groups"),
        ({"words": {}}, "there are 0 words in 0 groups"),
        ({"words": {"objects": []}}, "there are 0 words"),
        ({"words": {"objects": ["cat"] * (MAX_ENTRIES + 1)}}, f"there are {MAX_ENTRIES + 1} words"),
        ({"words": {"objects": ["cat"], **{f"g{i}": [] for i in range(MAX_GROUPS)}}}, "groups; list"),
        ({"words": {"objects": ["cat", 3]}}, "vocabulary: 3 must be words"),
        ({"words": {"objects": [None]}}, "None must be words"),
        ({"words": {"objects": [["cat"]]}}, "must be words"),
        ({"words": {"objects": [""]}}, "'' must be words"),
        ({"words": {"objects": ["..."]}}, r"'\.\.\.' must be words"),
        ({"words": {"objects": ["c" * (MAX_LENGTH + 1)]}}, "must be words"),
        ({"words": {"objects": ["cat\x1b[31m"]}}, "must be words"),
        ({"words": {"objects\n": ["cat"]}}, "must be words"),
        ({"words": {3: ["cat"]}}, "3 must be words"),
        ({"words": WORDS, "synonyms": ["automobile"]}, "synonyms=.* must be a dictionary"),
        ({"words": WORDS, "synonyms": {"auto": 3}}, "3 must be words"),
        ({"words": WORDS, "synonyms": {"auto": ""}}, "'' must be words"),
        ({"words": WORDS, "synonyms": {"auto": "motor"}}, "does not know 'motor'"),
        ({"words": WORDS, "synonyms": {"auto": "Cars"}}, "does not know 'Cars'"),
        ({"words": WORDS, "synonyms": {"Car": "cat"}}, "synonym 'Car' of 'cat' is in words that the model knows"),
        ({"words": WORDS, "synonyms": {"red car": "cat"}}, "is in words that the model knows"),
        ({"words": WORDS, "synonyms": {"b " * (MAX_SYNONYM + 1): "cat"}}, f"has {MAX_SYNONYM + 1} words"),
        ({"words": WORDS, "synonyms": {f"x{i}": "cat" for i in range(MAX_ENTRIES + 1)}}, "synonyms; list at most"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_strangers_vocabulary_is_refused_before_it_does_harm(value, message):
    start = time.process_time()
    with pytest.raises(ValueError, match=message) as error:
        tiny_pipeline(vocabulary=value)
    assert time.process_time() - start < 2 and len(str(error.value)) < 1000 and str(error.value).isprintable()


def test_the_largest_vocabulary_is_read_quickly():
    start = time.process_time()
    words = {"all": [f"w{i} x{i}" for i in range(MAX_ENTRIES)]}
    vocabulary = Vocabulary(words, {f"a b c d e y{i}": f"w{i}" for i in range(MAX_ENTRIES)})
    assert vocabulary.read("A b c d e Y7 w9").text == "w7 w9"
    assert len(vocabulary.complaint(["zebra q w e r t y " * 500])) < 500
    assert time.process_time() - start < 5


def test_a_vocabulary_of_phrases_alone_is_read_quickly():
    start = time.process_time()
    count = MAX_ENTRIES // 2
    vocabulary = Vocabulary(
        {"all": [f"{letter}{i}" for letter in "ab" for i in range(count)]},
        {f"b{i}": f"a{i} b{i}" for i in range(count)},
    )
    assert vocabulary.read("a1 b1, b2").text == "a1 b1, a2 b2"
    assert len(vocabulary.complaint(["a1 b2 " * 3000])) < 500
    assert time.process_time() - start < 5

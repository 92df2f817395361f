# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The words of captions, and those that the packaged model says it knows."""

import json
from pathlib import Path

import pytest
from PIL import Image

from diffusers_ediffi import demo_checkpoint
from diffusers_ediffi.demo import GROUNDS, STYLES, SceneGenerator, SceneObject, caption_words
from diffusers_ediffi.pipelines.vocabulary import Vocabulary

DRAWN_STYLES = ("flat", "pencil sketch", "night", "water colour")  # of the packaged model


def spoken(phrases, grounds=GROUNDS, styles=STYLES, count=4000):
    """The words of many captions, in small letters."""
    square = Image.new("RGBA", (8, 8), "red")
    scenes = SceneGenerator([SceneObject(phrase, square) for phrase in phrases], styles, grounds)
    captions = (scenes.scene(index).caption.lower() for index in range(count))
    return {word.strip(",.") for caption in captions for word in caption.split()}


def words_of(groups):
    return {word for group in groups.values() for phrase in group for word in phrase.split()}


PLAIN = [ground for ground in GROUNDS if ground.kind == "plain"]


@pytest.mark.parametrize(
    ("phrases", "grounds", "styles"),
    [
        (["rocket", "orange cat", "four-leaf clover"], GROUNDS, STYLES),
        (["rocket", "red apple", "owl"], PLAIN, STYLES[:1]),
        (["sun", "moon", "tree"], [ground for ground in GROUNDS if ground.kind == "landscape"], STYLES[3:]),
    ],
    ids=["everything", "plain", "landscapes"],
)
def test_the_words_are_those_of_captions_no_more_and_no_fewer(phrases, grounds, styles):
    groups = caption_words(phrases, styles, grounds)
    assert words_of(groups) == spoken(phrases, grounds, styles)
    assert list(groups) == ["objects", "colours", "grounds", "styles", "relations", "other"]
    named = [word for group in groups.values() for word in group]
    assert groups["objects"] == phrases and len(named) == len(set(named))


def test_the_packaged_model_knows_the_words_of_its_captions():
    """Those of all grounds but gradients and of four styles: its base has not seen the others."""
    value = json.loads((Path(demo_checkpoint()) / "model_index.json").read_text())["vocabulary"]
    phrases = value["words"]["objects"]
    grounds = [ground for ground in GROUNDS if ground.kind != "gradient"]
    assert value["words"] == caption_words(phrases, DRAWN_STYLES, grounds) and len(phrases) == 24
    assert words_of(value["words"]) == spoken(phrases, grounds, DRAWN_STYLES, count=6000)
    assert len(Vocabulary.from_config(value)) == len(words_of(value["words"]))


def test_the_packaged_model_reads_its_captions_as_they_are():
    value = json.loads((Path(demo_checkpoint()) / "model_index.json").read_text())["vocabulary"]
    vocabulary, square = Vocabulary.from_config(value), Image.new("RGBA", (8, 8), "red")
    grounds = [ground for ground in GROUNDS if ground.kind != "gradient"]
    scenes = SceneGenerator(
        [SceneObject(phrase, square) for phrase in value["words"]["objects"]], DRAWN_STYLES, grounds
    )
    for caption in (scenes.scene(index).caption for index in range(500)):
        reading = vocabulary.read(caption)
        assert reading.unknown == () and reading.text.lower() == caption.lower()


@pytest.mark.parametrize(
    ("prompt", "text", "complaint"),
    [
        ("a rokcet", "a rokcet", "does not know 'rokcet' (nearest: 'rocket')"),
        ("ein Haus", "ein Haus", "does not know 'ein', 'Haus' (nearest: 'house')"),
        ("a kitten", "a cat", ""),
        ("two cats", "two cat", "does not know 'two'"),
        ("automobile", "red car", ""),
        ("a car", "a red car", ""),
        ("an apple and stars", "a red apple and yellow star", ""),
        ("a blue car", "a blue car", "does not know 'blue car' (nearest: 'red car')"),
        ("Rocket", "rocket", ""),
        ("watercolor", "water colour", ""),
        ("a GREY house, watercolour", "a gray house, water colour", ""),
        ("an automobile on top of an ocean", "a red car above a sea", ""),
    ],
)
def test_the_packaged_model_understands_what_people_write(prompt, text, complaint):
    value = json.loads((Path(demo_checkpoint()) / "model_index.json").read_text())["vocabulary"]
    vocabulary = Vocabulary.from_config(value)
    assert (vocabulary.read(prompt).text, vocabulary.complaint([prompt])) == (text, complaint)

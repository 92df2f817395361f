# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Phrases: where they stand in a prompt, and which tokens they are."""

import random

import pytest

from diffusers_ediffi.phrases import PromptTokens, find_phrase

WORDS = "a an the red apple rocket rabbit rabbits (rabbit, big-eared owl's 12 moon. on of blue café ÜBER snow".split(
    " "
)


def text_of(tokenizer, ids):
    return "".join(tokenizer.decode(ids, skip_special_tokens=True).split()).lower()


def test_two_hundred_random_prompts_find_the_tokens_of_their_phrases(tokenizers):
    """What stands in the columns, before and behind them, decodes to the phrase and to the text around it."""
    rng = random.Random(0)
    for _ in range(200):
        words = rng.choices(WORDS, k=rng.randint(1, 9))
        first = rng.randrange(len(words))
        last = rng.randint(first + 1, min(len(words), first + 3))
        parts = ["", "", ""]
        for i, part in enumerate((words[:first], words[first:last], words[last:])):
            parts[i] = "".join(word + rng.choice([" ", " ", "  "]) for word in part)
        prompt, phrase = "".join(parts), parts[1].strip()
        occurrence = [start for start, _ in find_phrase(prompt, phrase)].index(len(parts[0]))
        spans = find_phrase(prompt, phrase, occurrence)
        for name, tokenizer, length in tokenizers:
            if name == "T5" and ("Ü" in prompt or "é" in prompt):
                continue  # unknown to the demo's T5, so that it does not decode to them
            columns = PromptTokens(prompt, tokenizer, length).columns(spans)
            ids = tokenizer(prompt).input_ids
            assert columns == list(range(columns[0], columns[-1] + 1))
            around = ids[: columns[0]], ids[columns[0] : columns[-1] + 1], ids[columns[-1] + 1 :]
            for part_ids, part in zip(around, parts, strict=True):
                assert text_of(tokenizer, part_ids) == "".join(part.split()).lower(), (prompt, phrase)


def test_whole_words_alone_are_phrases():
    assert find_phrase("rabbits and a rabbit", "rabbit") == [(14, 20)]
    assert find_phrase("the cat's hat", "cat") == [(4, 7)]
    assert find_phrase("红色的苹果和火箭", "苹果") == [(3, 5)]
    with pytest.raises(ValueError, match="it has only 'pineapple': write the whole word"):
        find_phrase("a pineapple", "apple")
    with pytest.raises(ValueError, match="the phrase 'owl' is not in the prompt 'a cat'"):
        find_phrase("a cat", "owl")
    with pytest.raises(ValueError, match="not in the prompt"):
        find_phrase("a cat", "c.t")


def test_slow_tokenizers_are_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="Slow is a slow tokenizer"):
        PromptTokens("a", Slow(), 77)

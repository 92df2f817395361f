# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The columns of a region's phrase, over all text encoders."""

import pytest

from diffusers_ediffi import PaintRegion
from diffusers_ediffi.paint.columns import region_columns
from diffusers_ediffi.phrases import PromptTokens

BOX = (0.0, 0.0, 0.5, 1.0)


def columns_of(tokenizers, prompt, phrase, occurrence=None):
    encoders = [(name, PromptTokens(prompt, t, length), 77 * i) for i, (name, t, length) in enumerate(tokenizers)]
    return region_columns(prompt, [PaintRegion(phrase, BOX, occurrence=occurrence)], encoders)[0]


def test_all_occurrences_or_one(tokenizers):
    prompt = "a red apple and a Red  Apple"
    every = columns_of(tokenizers[:1], prompt, "red apple")
    assert every == sorted(sum((columns_of(tokenizers[:1], prompt, "red apple", i) for i in range(2)), []))
    assert columns_of(tokenizers[:1], prompt, "red apple", 0) == [2, 3]
    with pytest.raises(ValueError, match="occurrence=2 of 'red apple': .* has it 2 times, counted from 0"):
        columns_of(tokenizers, prompt, "red apple", 2)


def test_a_cut_prompt(tokenizers, warnings):
    prompt = "the " * 80 + "red apple"
    columns = columns_of(tokenizers, prompt, "red apple")
    assert columns and min(columns) >= 77
    assert "CLIP cut the end off" in warnings.text
    with pytest.raises(ValueError, match="is cut off, with it 'red apple'; write a shorter prompt"):
        columns_of(tokenizers[:1], prompt, "red apple")


def test_more_regions_than_tokens(tokenizers):
    name, tokenizer, length = tokenizers[0]
    with pytest.raises(ValueError, match="3 regions for the 2 tokens of 'a apple'"):
        region_columns(
            "a apple", [PaintRegion("apple", BOX)] * 3, [(name, PromptTokens("a apple", tokenizer, length), 0)]
        )

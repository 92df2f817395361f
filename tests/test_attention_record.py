# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What is read out of a record that is filled by hand, without a pipeline, against values worked out by hand."""

import pickle

import pytest
import torch
from helpers import tiny_clip_tokenizer, tiny_t5_tokenizer

from diffusers_ediffi.attention_record import (
    BINS,
    EDIFFI_ENCODERS,
    MAX_SELF_ATTENTION_PIXELS,
    AttentionMatrix,
    AttentionRecord,
    EncoderTokens,
)
from diffusers_ediffi.models.encoder_table import CLIP_IMAGE_COLUMN, NULL_COLUMN, T5_COLUMNS
from diffusers_ediffi.phrases import PromptTokens

PROMPT = "a cat"


def clip(prompt, max_length=77):
    """Its columns are the start, then a letter each: 1 is "a", 2 to 4 are "cat"."""
    return EncoderTokens("text", PromptTokens(prompt, tiny_clip_tokenizer(), max_length), 0)


def words_record(prompts=(PROMPT,), num_images=1, **arguments):
    """A record that knows the words of its prompts."""
    tokens = {prompt: [clip(prompt)] for prompt in prompts}
    return AttentionRecord(num_images=num_images, prompts=prompts, tokens=tokens, **arguments)


def add(record, masses, sigma=1.0, layer="mid", first=0):
    """Records a call of one layer; masses are nested lists (images, columns)."""
    values = torch.tensor(masses)
    call = record.begin_call(range(first, first + len(values)), torch.full((len(values),), sigma))
    record.add_masses(layer, values, call)
    return call


def columns(count, **values):
    """A row of masses that is zero except at the columns c0, c1, ..."""
    row = [0.0] * count
    for name, value in values.items():
        row[int(name[1:])] = value
    return row


def close(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected), equal_nan=True)


# --- masses ---


def test_masses_of_images_noise_levels_and_layers():
    """The highest noise level comes first, and the default is the mean over the layers."""
    record = AttentionRecord(num_images=2)
    for sigma, down, up in (
        (0.5, [[0.1, 0.9], [0.3, 0.7]], [[0.3, 0.7], [0.5, 0.5]]),
        (8.0, [[1.0, 0.0], [0.2, 0.8]], [[0.0, 1.0], [0.4, 0.6]]),
    ):
        call = add(record, down, sigma, "down")
        record.add_masses("up", torch.tensor(up), call)
    assert record.layers == ["down", "up"]
    assert record.sigmas == pytest.approx([8.0, 0.5])
    close(record.masses("down"), [[[1.0, 0.0], [0.1, 0.9]], [[0.2, 0.8], [0.3, 0.7]]])
    close(record.masses(), [[[0.5, 0.5], [0.2, 0.8]], [[0.3, 0.7], [0.4, 0.6]]])


def test_noise_levels_of_a_bin_are_averaged():
    """A bin is a 32nd of a decade, 7.5% wide: the masses have their mean, sigma its geometric mean."""
    record = AttentionRecord(num_images=1)
    for sigma, mass in ((1.01, 0.2), (1.06, 0.4), (1.09, 0.9)):
        add(record, [[mass]], sigma)
    assert record.sigmas == pytest.approx([1.09, (1.01 * 1.06) ** 0.5])
    close(record.masses(), [[[0.9], [0.3]]])


def test_the_outermost_bins_take_what_lies_outside():
    record = AttentionRecord(num_images=1)
    for sigma, mass in ((0.0, 0.1), (1e-4, 0.3), (99.0, 0.5), (1e4, 0.7)):
        add(record, [[mass]], sigma)
    assert len(record.sigmas) == 2
    close(record.masses(), [[[0.6], [0.2]]])


def test_a_layer_has_masses_where_it_was_called():
    """The experts of a router share the noise levels."""
    record = AttentionRecord(num_images=1)
    add(record, [[0.2]], 8.0, "expert.1")
    add(record, [[0.6]], 0.5, "expert.0")
    close(record.masses("expert.1"), [[[0.2], [torch.nan]]])
    close(record.masses(), [[[0.2], [0.6]]])


def test_a_batch_may_come_in_parts():
    record = AttentionRecord(num_images=3)
    add(record, [[0.1], [0.2]])
    add(record, [[0.3]], first=2)
    close(record.masses(), [[[0.1]], [[0.2]], [[0.3]]])


def test_noise_levels_may_differ_between_images():
    record = AttentionRecord(num_images=2)
    call = record.begin_call(range(2), torch.tensor([4.0, 1.0]))
    record.add_masses("mid", torch.tensor([[0.1], [0.2]]), call)
    assert record.sigmas == pytest.approx([4.0, 1.0])
    close(record.masses(), [[[0.1], [torch.nan]], [[torch.nan], [0.2]]])


# --- shares and words ---


def test_shares_of_the_encoders_of_ediffi():
    record = AttentionRecord(EDIFFI_ENCODERS, num_images=1)
    row = torch.zeros(1, NULL_COLUMN + 1)
    row[0, [0, 76, T5_COLUMNS.start, CLIP_IMAGE_COLUMN, NULL_COLUMN]] = torch.tensor([0.25, 0.125, 0.25, 0.125, 0.25])
    add(record, row.tolist())
    shares = {name: share.tolist() for name, share in record.shares().items()}
    assert shares == {"clip_text": [[0.375]], "t5": [[0.25]], "clip_image": [[0.125]], "null_token": [[0.25]]}


def test_words_are_the_tokens_without_start_end_and_padding():
    record = words_record()
    for sigma, cat in ((4.0, 0.125), (1.0, 0.25)):
        add(record, [columns(77, c0=0.5, c1=0.0625, c2=cat, c5=0.0625)], sigma)
    words = record.words()
    assert [(word.text, word.encoder, word.column) for word in words] == [
        ("a", "text", 1),
        ("c", "text", 2),
        ("a", "text", 3),
        ("t", "text", 4),
    ]
    assert words[1].masses.tolist() == [0.125, 0.25] and words[1].mass == 0.1875
    assert record.shares()["text"].tolist() == [[0.75, 0.875]]
    assert record.shares()["words"].tolist() == [[0.1875, 0.3125]]


def test_images_of_a_prompt_share_its_words():
    """Image i belongs to prompt i * prompts // images."""
    record = words_record([PROMPT, "an owl"], num_images=4)
    add(record, [columns(77, c1=0.25)] * 4)
    assert ["".join(word.text for word in record.words(image)) for image in range(4)] == ["acat"] * 2 + ["anowl"] * 2


def test_without_a_prompt_there_are_no_words():
    record = AttentionRecord(num_images=1)
    add(record, [[1.0]])
    assert list(record.shares()) == ["text"]
    with pytest.raises(ValueError, match="prompt instead of embeddings"):
        record.words()


def test_the_unconditional_half_sees_no_words():
    record = words_record(unconditional=True)
    with pytest.raises(ValueError, match="call the pipeline with guidance"):
        record.masses()
    add(record, [[1.0]])
    assert list(record.shares()) == ["text"]
    with pytest.raises(ValueError, match="does not see the prompt"):
        record.words()


# --- heat maps ---


def test_a_heat_map_is_the_mass_of_the_phrase_at_each_pixel():
    """Columns 2 to 4 are added, and two calls averaged."""
    record = words_record()
    for scale in (1.0, 3.0):
        call = add(record, [columns(77)])
        maps = torch.zeros(1, 6, 77)
        maps[0, :, 2] = scale * torch.tensor([0.0, 0.01, 0.02, 0.03, 0.04, 0.05])
        maps[0, 0, 4] = scale * 0.1
        maps[0, :, 1] = 0.5  # of "a"
        record.add_heat_maps((2, 3), maps, call)
    close(record.heat_map("cat"), [[0.2, 0.02, 0.04], [0.06, 0.08, 0.1]])
    close(record.heat_map("Cat", size=(2, 3)), [[0.2, 0.02, 0.04], [0.06, 0.08, 0.1]])
    close(record.heat_map("a cat"), [[0.7, 0.52, 0.54], [0.56, 0.58, 0.6]])


def test_coarse_maps_are_enlarged_and_weigh_by_their_calls():
    record = words_record()
    for grid, values in (((2, 2), [0.0, 0.2, 0.4, 0.6]), ((2, 2), [0.2, 0.4, 0.6, 0.8]), ((1, 1), [0.9])):
        call = add(record, [columns(77)])
        maps = torch.zeros(1, len(values), 77)
        maps[0, :, 1] = torch.tensor(values)
        record.add_heat_maps(grid, maps, call)
    close(record.heat_map("a"), [[1.1 / 3, 1.5 / 3], [1.9 / 3, 2.3 / 3]])
    # bilinear, 2 to 4 pixels: a quarter of the way between two centres, and the outermost value beyond them
    row = torch.tensor([0.0, 0.05, 0.15, 0.2])
    calls = sum(shift + 2 * row[:, None] + row for shift in (0.0, 0.2))
    torch.testing.assert_close(record.heat_map("a", size=(4, 4)), (calls + 0.9) / 3)


def test_heat_maps_of_one_image_encoder_or_occurrence():
    prompt = "a cat a"  # columns 1, 2 to 4, and 5
    t5 = EncoderTokens("t5", PromptTokens(prompt, tiny_t5_tokenizer(), 113), 77)  # 77 and 78 are "a", 79 to 82 "cat"
    tokens = {prompt: [clip(prompt)._replace(encoder="clip_text"), t5]}
    record = AttentionRecord(EDIFFI_ENCODERS, num_images=2, prompts=[prompt], tokens=tokens)
    call = add(record, [columns(NULL_COLUMN + 1)] * 2)
    maps = torch.zeros(2, 1, NULL_COLUMN + 1)
    maps[0, 0, 1] = 0.01
    maps[0, 0, 5] = 0.02
    maps[0, 0, 77:79] = 0.04
    maps[1, 0, 1] = 0.5
    record.add_heat_maps((1, 1), maps, call)
    close(record.heat_map("a", occurrence=0), [[0.01 + 0.08]])
    close(record.heat_map("a", occurrence=1, encoder="clip_text"), [[0.02]])
    close(record.heat_map("a", encoder="clip_text"), [[0.03]])
    close(record.heat_map("a", encoder="t5"), [[0.08]])
    close(record.heat_map("a", image=1), [[0.5]])
    close(record.heat_map("cat"), [[0.0]])


def test_self_attention_of_the_finest_grid():
    record = AttentionRecord(num_images=2)
    call = add(record, [[1.0], [1.0]])
    maps = torch.arange(8.0).reshape(2, 2, 2)
    record.add_self_attention((1, 1), torch.ones(2, 1, 1), call)
    record.add_self_attention((1, 2), maps, call)
    record.add_self_attention((1, 2), 3 * maps, call)
    close(record.self_attention_map(1), [[[[8.0, 10.0]], [[12.0, 14.0]]]])
    close(record.self_attention_map(0, grid=(1, 1)), [[[[1.0]]]])


# --- a value ---


def test_a_record_can_be_saved():
    record = words_record()
    call = add(record, [columns(77, c0=0.5, c2=0.25)])
    record.add_heat_maps((1, 2), torch.rand(1, 2, 77), call)
    record.matrices.append(AttentionMatrix("mid", call.sigma, call.images, torch.rand(1, 2, 2, 77)))
    copy = pickle.loads(pickle.dumps(record))
    assert copy.sigmas == record.sigmas and copy.layers == record.layers and copy.numel() == record.numel()
    assert torch.equal(copy.shares()["words"], record.shares()["words"])
    assert torch.equal(copy.heat_map("cat"), record.heat_map("cat"))
    assert torch.equal(copy.matrices[0].probabilities, record.matrices[0].probabilities)


def test_how_much_is_stored():
    """Sums and counts; a further call takes no more."""
    record = AttentionRecord(num_images=2)
    for _ in range(3):
        call = add(record, [[0.5, 0.5]] * 2)
        record.add_heat_maps((1, 3), torch.rand(2, 3, 2), call)
    assert record.numel() == 2 * BINS * 2 + 2 * BINS * (2 + 1) + 2 * (3 * 2 + 1)
    record.matrices.append(AttentionMatrix("mid", call.sigma, call.images, torch.rand(2, 1, 3, 2)))
    assert record.numel() == 2 * BINS * 2 + 2 * BINS * (2 + 1) + 2 * (3 * 2 + 1) + 12


# --- errors ---


def test_an_empty_record_says_so():
    record = AttentionRecord(num_images=1)
    for read in (record.masses, record.shares, record.words, lambda: record.sigmas, lambda: record.heat_map("cat")):
        with pytest.raises(ValueError, match="nothing was recorded: call the pipeline inside"):
            read()


def test_errors_name_the_remedy():
    record = words_record()
    call = add(record, [columns(77)])
    with pytest.raises(ValueError, match="heat_maps=True"):
        record.heat_map("cat")
    with pytest.raises(ValueError, match=f"self_attention=True.*{MAX_SELF_ATTENTION_PIXELS}"):
        record.self_attention_map()
    with pytest.raises(ValueError, match="layer='up' was not recorded; there are mid"):
        record.masses("up")
    with pytest.raises(ValueError, match="draws 2 images after 1"):
        record.set_num_images(2)
    with pytest.raises(ValueError, match="not within the 1 images"):
        record.begin_call(range(2), torch.ones(2))
    record.add_heat_maps((1, 1), torch.zeros(1, 1, 77), call)
    record.add_self_attention((1, 1), torch.zeros(1, 1, 1), call)
    with pytest.raises(ValueError, match=r"grid=\(2, 2\) was not recorded; there are \[\(1, 1\)\]"):
        record.self_attention_map(grid=(2, 2))
    with pytest.raises(ValueError, match="image=1: 1 images were recorded"):
        record.self_attention_map(1)
    for arguments, message in (
        ({"phrase": "owl"}, "'owl' is not in the prompt"),
        ({"phrase": ""}, "must be words of the prompt"),
        ({"phrase": "cat", "image": -1}, "image=-1: 1 images were recorded"),
        ({"phrase": "cat", "encoder": "t5"}, "encoder='t5': the text has text"),
    ):
        with pytest.raises(ValueError, match=message):
            record.heat_map(**arguments)
    record.prompts = ["an owl"]
    with pytest.raises(ValueError, match="the tokens of 'an owl' are not known"):
        record.words()


def test_a_phrase_that_is_cut_off():
    record = AttentionRecord(num_images=1, prompts=[PROMPT], tokens={PROMPT: [clip(PROMPT, max_length=3)]})
    call = add(record, [columns(3)])
    record.add_heat_maps((1, 1), torch.zeros(1, 1, 3), call)
    with pytest.raises(ValueError, match="the end of 'a cat' is cut off, with it 'cat'"):
        record.heat_map("cat")

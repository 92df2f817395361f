# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The script that encodes pictures once: what training reads afterwards, and how it is refused."""

import pytest
from accelerate.state import AcceleratorState, PartialState
from helpers_examples import import_script
from helpers_pictures import caption_of, settings_of, write_folder

from diffusers_ediffi.training import EmbeddingCache, PictureDataset, load_selection, open_pictures


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Runs the script on a folder of six pictures."""
    script = import_script("training/cache_embeddings", monkeypatch)
    write_folder(tmp_path / "pictures")

    def run(*options):
        for state in (AcceleratorState._reset_state, PartialState._reset_state):
            state()  # each run stands for a process of its own
        arguments = ["--train_data_dir", tmp_path / "pictures", "--output_dir", tmp_path / "out", *options]
        script.main(list(map(str, arguments)))

    return run


def test_training_reads_what_the_script_wrote(cache, tmp_path, capsys):
    cache("--rows_per_part", 4, "--batch_size", 2, "--dtype", "bfloat16")
    printed = capsys.readouterr().out
    assert "6 of 6 pictures are trained on." in printed and "parts made: 2, already there: 0" in printed
    source, embeddings = open_pictures(tmp_path / "pictures"), EmbeddingCache(tmp_path / "out" / "embeddings")
    dataset = PictureDataset(source, settings_of(), load_selection(tmp_path / "out" / "selection", source), embeddings)
    assert sorted(dataset[i]["caption"] for i in range(6)) == sorted(map(caption_of, range(6)))
    cache("--rows_per_part", 4, "--batch_size", 2, "--dtype", "bfloat16")
    assert "parts made: 0, already there: 2" in capsys.readouterr().out
    with pytest.raises(ValueError, match="dtype 'bfloat16', now 'float16'"):
        cache("--rows_per_part", 4, "--batch_size", 2)


def test_filters_and_strictness_are_those_of_the_options(cache, tmp_path, capsys):
    (tmp_path / "pictures" / "2.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"1 pictures cannot be trained on \(strict\): 2.png"):
        cache("--strict")
    cache()
    assert "5 of 6 pictures are trained on, 1 left out for: unreadable." in capsys.readouterr().out
    with pytest.raises(ValueError, match="No picture is left .*5 left out for: CLIP score"):
        cache("--min_clip_score", 1.5, "--output_dir", tmp_path / "other")
    with pytest.raises(ValueError, match="--min_aesthetic_score and --aesthetic_head belong together"):
        cache("--min_aesthetic_score", 5)


def test_a_missing_pipeline_is_named(cache, tmp_path):
    with pytest.raises(OSError, match="there is no folder '.*nowhere', nor is it a Hub id"):
        cache("--pretrained_model_name_or_path", tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()

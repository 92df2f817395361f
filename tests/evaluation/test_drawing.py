# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Pictures of an evaluation: the same whatever was killed, however many processes drew, and of no other settings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForImage2Image
from helpers import tiny_pipeline
from helpers_diffusers import build, tiny_unet
from helpers_evaluation import (
    CAPTIONS,
    SMALL,
    contents,
    dinov2,
    draw_and_measure,
    draw_tiny,
    measure_tiny,
    tiny_evaluator,
    write_geneval,
    write_pictures,
)
from helpers_launch import in_two_processes
from PIL import Image

from diffusers_ediffi import read_provenance
from diffusers_ediffi.checks import MAX_SEED
from diffusers_ediffi.evaluation import describe_pipeline, draw_pictures, read_captions

KILL_SCRIPT = Path(__file__).parent / "kill_drawing.py"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Twelve pictures; not to be changed."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("drawn") / "pictures"
    draw_tiny(folder)
    return folder


# --- what is drawn ---


def test_a_picture_is_that_of_its_caption_and_seed(drawn):
    names = sorted(path.name for path in drawn.glob("*.png"))
    assert names == [f"{number:06d}.png" for number in range(12)]
    pipe = tiny_pipeline()
    for number in (0, 7):
        generator = torch.Generator().manual_seed(5 + number)
        (expected,) = pipe(CAPTIONS[number // 2], generator=generator, **SMALL).images
        found = np.asarray(Image.open(drawn / names[number])).astype(int)
        assert np.abs(found - np.asarray(expected)).max() <= 1, "a batch rounds otherwise than a single picture"
        assert read_provenance(drawn / names[number]).settings == {
            "prompt": CAPTIONS[number // 2],
            "seed": 5 + number,
            **SMALL,
        }


def test_the_folder_is_an_image_folder(drawn):
    rows = [json.loads(line) for line in (drawn / "metadata.jsonl").read_text().splitlines()]
    assert rows[3] == {"file_name": "000003.png", "text": CAPTIONS[1]} and len(rows) == 12


def test_pipelines_of_diffusers_draw(tmp_path):
    from diffusers import StableDiffusionPipeline

    pipe = build(StableDiffusionPipeline, tiny_unet())
    pipe.set_progress_bar_config(disable=True)
    paths = draw_pictures(pipe, ["a cat", "a dog"], tmp_path / "sd", call={"num_inference_steps": 2})
    assert len({path.read_bytes() for path in paths}) == 2
    about = describe_pipeline(pipe, "tiny")
    assert about["class"] == "StableDiffusionPipeline" and about["defaults"]["guidance_scale"] == 7.5
    assert about["schedulers"]["scheduler"]["class"] == type(pipe.scheduler).__name__


def test_seeds_wrap_around(tmp_path):
    paths = draw_tiny(tmp_path / "a", seed=MAX_SEED, samples_per_caption=1)
    assert [read_provenance(path).settings["seed"] for path in paths[:2]] == [MAX_SEED, 0]


# --- what was cut, and who draws ---


def test_what_is_missing_is_drawn_to_the_same_bytes(drawn, tmp_path):
    folder = tmp_path / "pictures"
    draw_tiny(folder)
    expected = contents(folder)
    assert expected == contents(drawn)
    kept = (folder / "000000.png").stat().st_mtime_ns
    for name in ("000003.png", "000010.png"):
        (folder / name).unlink()
    (folder / ".000003.png.1-2.tmp").write_bytes(b"half a picture")
    draw_tiny(folder)
    assert contents(folder) == expected
    assert (folder / "000000.png").stat().st_mtime_ns == kept, "what was there was not drawn again"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks")
def test_killed_drawing_and_measuring_go_on_to_the_same_bytes():
    run = subprocess.run([sys.executable, KILL_SCRIPT, "--kills", "3"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "3 kills" in run.stdout and "all bytes equal" in run.stdout


def test_two_processes_draw_and_measure_what_one_does(tmp_path):
    torch.set_num_threads(1)
    write_pictures(tmp_path / "reference", 300, seed=1, size=(8, 8))  # more than a part of features has
    dinov2(tmp_path / "network")
    assert in_two_processes(draw_and_measure, tmp_path) == [0, 0]
    alone = tmp_path / "alone"
    measure_tiny(tiny_evaluator(tmp_path), draw_tiny(alone / "pictures"), alone)
    assert contents(tmp_path / "run" / "pictures") == contents(alone / "pictures")
    assert (tmp_path / "run" / "card.json").read_bytes() == (alone / "card.json").read_bytes()


# --- what is refused ---


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"seed": 6}, "seed 5, now 6"),
        ({"batch_size": 3}, "batch_size 2, now 3"),
        ({"call": {**SMALL, "guidance_scale": 3.0}}, r"call/guidance_scale None, now 3\.0"),
        ({"samples_per_caption": 1}, "samples_per_caption 2, now 1"),
    ],
    ids=lambda value: str(value),
)
def test_pictures_of_other_settings_are_refused(drawn, changes, complaint):
    before = contents(drawn)
    with pytest.raises(ValueError, match=f"was made from something else .*{complaint}.*remove it, or give another"):
        draw_tiny(drawn, **changes)
    assert contents(drawn) == before


def test_pictures_of_other_weights_are_refused(drawn):
    other = tiny_pipeline(unet=tiny_pipeline().unet.__class__.from_config(tiny_pipeline().unet.config))
    with pytest.raises(ValueError, match="model/sha256 '[0-9a-f]{64}', now '[0-9a-f]{64}'"):
        draw_pictures(other, CAPTIONS, drawn, samples_per_caption=2, batch_size=2, seed=5, call=SMALL)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("Done.")
    with pytest.raises(ValueError, match="holds files of others and no manifest.json"):
        draw_tiny(tmp_path)
    assert contents(tmp_path) == {"thesis.txt": b"Done."}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"samples_per_caption": 0}, "nothing to draw: 6 captions, 0 samples of each"),
        ({"layout": "coco"}, "no layout 'coco'; choose from plain, geneval, t2i-compbench"),
        ({"call": {"cfg": 3}}, "EDiffIPipeline cannot be evaluated so: it takes no 'cfg' here"),
        ({"call": {"generator": None}}, "it takes no 'generator' here"),
        ({"call": {"guidance_scale": torch.ones(1)}}, r"arguments \['guidance_scale'\] cannot be recorded"),
        ({"layout": "geneval"}, "geneval needs 'tag' of each caption"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_written(tmp_path, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        draw_tiny(tmp_path / "pictures", **options)
    assert not any(tmp_path.iterdir())


def test_a_pipeline_that_changes_pictures_is_refused(tmp_path):
    pipe = tiny_pipeline()
    edit = AutoPipelineForImage2Image.from_pipe(pipe)
    edit.__class__ = type("Unprompted", (type(edit),), {"__call__": lambda self, image: None})
    with pytest.raises(ValueError, match="Unprompted cannot be evaluated so: it takes no 'prompt' here"):
        draw_pictures(edit, CAPTIONS, tmp_path / "pictures")


# --- layouts ---


def test_geneval_finds_its_pictures(tmp_path):
    """As evaluation/evaluate_images.py walks through them."""
    captions = read_captions(write_geneval(tmp_path / "evaluation_metadata.jsonl"))
    folder = tmp_path / "pictures"
    draw_pictures(tiny_pipeline(), captions, folder, samples_per_caption=3, layout="geneval", call=SMALL)
    found = {}
    for name in os.listdir(folder):
        if not (folder / name).is_dir() or not name.isdigit():
            continue
        metadata = json.loads((folder / name / "metadata.jsonl").read_text())
        found[metadata["prompt"]] = (name, metadata["tag"], sorted(os.listdir(folder / name / "samples")))
    samples = ["00000.png", "00001.png", "00002.png"]
    assert found == {
        "a photo of a bench": ("00000", "single_object", samples),
        "a photo of two cows": ("00001", "counting", samples),
    }


def test_compbench_finds_its_pictures(tmp_path):
    """As BLIPvqa_eval/BLIP_vqa.py sorts and cuts the names."""
    captions = ["a green bench and a red car.", "a blue cat"]
    folder = tmp_path / "pictures"
    draw_pictures(tiny_pipeline(), captions, folder, samples_per_caption=2, layout="t2i-compbench", call=SMALL)
    names = os.listdir(folder / "samples")
    names.sort(key=lambda name: int(name.split("_")[-1].split(".")[0]))
    assert [name.split("_")[0] for name in names] == [caption for caption in captions for _ in range(2)]


@pytest.mark.parametrize("caption", ["a cat/dog", "snake_case", "x" * 245, ".hidden", "a\\b"])
def test_captions_that_are_no_names_of_files_are_refused(tmp_path, caption):
    with pytest.raises(ValueError, match="t2i-compbench makes captions the names of files, and"):
        draw_pictures(tiny_pipeline(), ["a cat", caption], tmp_path / "pictures", layout="t2i-compbench")
    assert not any(tmp_path.iterdir())

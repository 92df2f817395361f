# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""From folders of pictures to a card: figures equal to those of features taken by hand, and what is refused before
anything is computed."""

import hashlib
import json

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial.distance
import torch
from helpers_evaluation import dinov2, tiny_evaluator, write_pictures
from helpers_pictures import write_metadata
from PIL import Image

from diffusers_ediffi.evaluation import METRICS, CLIPNetwork, Evaluator, FeatureNetwork, evaluate, list_pictures

TEXTS = [f"a {word} on a beach" for word in ("red car", "rocket", "moon", "tree", "house") for _ in range(4)]


@pytest.fixture
def folders(tmp_path):
    """Twenty pictures, of which each fits a caption, 25 real ones and a network of eight features."""
    write_pictures(tmp_path / "pictures", 20)
    write_pictures(tmp_path / "reference", 25, seed=1)
    dinov2(tmp_path / "network")
    return tmp_path


def by_hand(network, folder):
    images = [Image.open(path) for path in sorted(folder.iterdir())]
    return torch.cat([network([image]) for image in images]).double().numpy()


def test_the_figures_are_those_of_features_taken_by_hand(folders):
    """A picture at a time, in NumPy and SciPy."""
    card = evaluate(folders / "pictures", folders / "out", tiny_evaluator(folders), TEXTS)
    network, clip = FeatureNetwork.from_pretrained(folders / "network"), CLIPNetwork("demo")
    x, y = (by_hand(network, folders / name) for name in ("pictures", "reference"))
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    frechet = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b)).real
    inside = []
    for points, others in ((x, y), (y, x)):
        radii = np.sort(scipy.spatial.distance.cdist(others, others), axis=1)[:, 3]
        inside.append((scipy.spatial.distance.cdist(points, others) <= radii).any(axis=1).mean())
    u, v = (by_hand(clip, folders / name) for name in ("pictures", "reference"))
    u, v = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (u, v))
    kernels = [
        np.exp(-scipy.spatial.distance.cdist(*pair, "sqeuclidean") / 200).mean() for pair in ((u, u), (v, v), (u, v))
    ]
    texts = np.concatenate([clip.text_features([text]).double().numpy() for text in TEXTS])
    expected = {
        "clip_score": 100 * np.maximum((u * texts).sum(1), 0).mean(),
        "cmmd": 1000 * (kernels[0] + kernels[1] - 2 * kernels[2]),
        "frechet_distance": frechet,
        "precision": inside[0],
        "recall": inside[1],
    }
    assert {name: card["metrics"][name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert json.loads((folders / "out" / "card.json").read_text()) == card


def test_the_card_says_what_the_figures_depend_on(folders):
    card = evaluate(folders / "pictures", folders / "out", tiny_evaluator(folders, seed=3, subset_size=7), TEXTS)
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((folders / "pictures").iterdir())]
    assert card["pictures"] == {"count": 20, "sha256": hashlib.sha256("".join(hashes).encode()).hexdigest()}
    assert card["reference"]["name"] == "reference" and card["reference"]["count"] == 25
    assert card["captions"]["count"] == 20 and len(card["captions"]["sha256"]) == 64
    assert card["feature_network"] == FeatureNetwork.from_pretrained(folders / "network").describe()
    assert card["clip"]["sha256"] == CLIPNetwork("demo").describe()["sha256"]
    assert card["settings"]["seed"] == 3 and card["metrics"]["kernel_distance_subset_size"] == 7
    assert card["versions"]["torch"] == torch.__version__ and "drawn" not in card


def test_features_are_computed_once(folders, monkeypatch):
    """Also those of the reference, for sets that share their folder."""
    evaluator, calls = tiny_evaluator(folders), []
    call = FeatureNetwork.__call__
    monkeypatch.setattr(
        FeatureNetwork, "__call__", lambda self, images: calls.append(len(images)) or call(self, images)
    )
    pictures = list_pictures(folders / "pictures")
    first = evaluator.measure(pictures, folders / "a", TEXTS, folders / "shared")
    assert sum(calls) == 2 * (1 + 20 + 25), "and one picture that tells the width"
    calls.clear()
    assert evaluator.measure(pictures, folders / "a", TEXTS, folders / "shared") == first and not calls
    evaluator.measure(pictures, folders / "b", TEXTS, folders / "shared")
    assert sum(calls) == 2 * 20


def test_captions_of_an_image_folder(folders):
    """Its table says the order, too."""
    names = [f"{number:02d}.png" for number in reversed(range(20))]
    write_metadata(folders / "pictures", dict(zip(names, reversed(TEXTS), strict=True)))
    card = evaluate(folders / "pictures", folders / "a", tiny_evaluator(folders))
    other = evaluate(folders / "pictures", folders / "b", tiny_evaluator(folders), TEXTS)
    assert card["metrics"] == pytest.approx(other["metrics"], rel=1e-6)
    write_metadata(folders / "pictures", dict.fromkeys(names, "a cat") | {"03.png": ""})
    with pytest.raises(ValueError, match=r"03.png has no caption"):
        evaluate(folders / "pictures", folders / "c", tiny_evaluator(folders))


def test_only_what_is_asked_for_is_needed(folders):
    clip = CLIPNetwork("demo")
    card = evaluate(folders / "pictures", folders / "out", Evaluator(["clip_score"], clip=clip), TEXTS)
    assert set(card["metrics"]) == {"clip_score", "clip_score_standard_error"}
    assert "reference" not in card and not (folders / "out" / "reference").exists()
    network = FeatureNetwork.from_pretrained(folders / "network")
    card = evaluate(
        folders / "pictures", folders / "b", Evaluator(["precision_recall"], network, None, folders / "reference")
    )
    assert set(card["metrics"]) == {"precision", "recall"} and "clip" not in card


# --- what is refused, before a network has seen a picture ---


@pytest.fixture
def nothing_is_computed(monkeypatch):
    """Networks may say how wide their features are, from a black picture."""
    monkeypatch.setattr("diffusers_ediffi.evaluation.feature_files.read_image", lambda path: pytest.fail("reads it"))


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [(TEXTS[:19], "clip_score: 19 captions for 20 pictures; give one for each"), (None, "0 captions for 20 pictures")],
)
def test_captions_that_do_not_fit_are_refused(folders, nothing_is_computed, texts, complaint):
    with pytest.raises(ValueError, match=complaint):
        evaluate(folders / "pictures", folders / "out", tiny_evaluator(folders), texts)
    assert not (folders / "out").exists()


def test_too_few_pictures_are_refused(folders, nothing_is_computed):
    evaluator = tiny_evaluator(folders)
    with pytest.raises(ValueError, match="8 generated pictures are too few for features of width 8.*at least 9"):
        evaluator.check(8, 8)
    with pytest.raises(ValueError, match="precision_recall: 20 generated and 25 real.*give at least 31 of each"):
        tiny_evaluator(folders, neighbors=30).check(20, 20)
    evaluator.check(9, 9)


def test_folders_without_pictures_are_refused(folders):
    (folders / "empty").mkdir()
    (folders / "empty" / "notes.txt").write_text("None yet.")
    with pytest.raises(ValueError, match=r"empty' holds no pictures \(.png, .jpg"):
        evaluate(folders / "empty", folders / "out", tiny_evaluator(folders))
    with pytest.raises(ValueError, match="There is no folder '.*nowhere'"):
        Evaluator(["cmmd"], None, CLIPNetwork("demo"), folders / "nowhere")


def test_metrics_without_what_they_need_are_refused():
    clip = CLIPNetwork("demo")
    for arguments, complaint in (
        ((["fid"], None, clip), "no metric 'fid'; choose from clip_score, cmmd"),
        ((["kernel_distance"], None, clip), "kernel_distance needs a feature network; give one, or leave it out"),
        ((["cmmd"], None, clip), "cmmd compares with real pictures; give a reference folder"),
    ):
        with pytest.raises(ValueError, match=complaint):
            Evaluator(*arguments)


def test_features_of_something_else_are_refused(folders):
    evaluator = tiny_evaluator(folders)
    evaluate(folders / "pictures", folders / "out", evaluator, TEXTS)
    Image.new("RGB", (24, 20)).save(folders / "pictures" / "07.png")
    with pytest.raises(ValueError, match="was made from something else .*pictures"):
        evaluate(folders / "pictures", folders / "out", evaluator, TEXTS)
    with pytest.raises(ValueError, match="network resize 'bicubic, Pillow, float32', now 'box, Pillow, float32'"):
        network = FeatureNetwork.from_pretrained(folders / "network", resize="box")
        other = Evaluator(METRICS, network, CLIPNetwork("demo"), folders / "reference", batch_size=5)
        other.measure(list_pictures(folders / "pictures"), folders / "new", TEXTS, folders / "out" / "reference")


def test_a_damaged_picture_is_named(folders):
    (folders / "pictures" / "04.png").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match="04.png"):
        evaluate(folders / "pictures", folders / "out", tiny_evaluator(folders), TEXTS)
    assert not (folders / "out" / "card.json").exists()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The scorer: closed forms of its figures, what it learns from scenes, and the scripts that train and use it."""

import functools
import json
import math
from pathlib import Path

import pytest
import scipy.linalg
import torch
from helpers import tiny_pipeline, tiny_sr_unet, tiny_unet
from helpers_examples import import_script
from PIL import Image, ImageDraw, ImageFilter

from diffusers_ediffi.demo import GROUNDS, STYLES, Ground, SceneGenerator, SceneObject
from diffusers_ediffi.demo.scorer import (
    SceneScorer,
    frechet_distance,
    ground_name,
    images_to_tensor,
    map_centre,
    overlap,
    relation_holds,
)

SHAPES = {"red ball": "ellipse", "blue box": "rectangle", "yellow egg": "ellipse", "pink bar": "rectangle"}


def shape(phrase: str) -> SceneObject:
    image = Image.new("RGBA", (96, 96))
    getattr(ImageDraw.Draw(image), SHAPES[phrase])((8, 8, 88, 88), fill=phrase.split()[0])
    return SceneObject(phrase, image)


@pytest.fixture(scope="module")
def objects() -> list[SceneObject]:
    return [shape(phrase) for phrase in SHAPES]


@pytest.fixture(scope="module")
def object_folder(tmp_path_factory, objects) -> Path:
    folder = tmp_path_factory.mktemp("objects")
    for thing in objects:
        thing.image.save(folder / f"{thing.phrase}.png")
    entries = [{"file": f"{thing.phrase}.png", "phrase": thing.phrase} for thing in objects]
    (folder / "index.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture
def example(monkeypatch):
    """Imports a script of examples/ by its folder and name."""
    return functools.partial(import_script, monkeypatch=monkeypatch)


@pytest.fixture(scope="module")
def scenes(objects) -> SceneGenerator:
    grounds = [Ground("plain", "white"), Ground("plain", "black"), Ground("plain", "green")]
    return SceneGenerator(objects, ["flat"], grounds, max_objects=2, object_weights=(0.5, 0.5))


def untrained(objects, channels=(8, 16, 16)) -> SceneScorer:
    torch.manual_seed(0)
    phrases = [thing.phrase for thing in objects]
    return SceneScorer(phrases, [ground_name(ground) for ground in GROUNDS], STYLES, channels)


@pytest.fixture(scope="module")
def trained(objects, scenes) -> SceneScorer:
    """A tiny scorer after some hundred steps on shapes that differ in colour."""
    with pytest.MonkeyPatch.context() as patch:
        script = import_script("demo/train_scorer", patch)
    scorer = untrained(objects, (16, 32, 32)).train()
    optimizer = torch.optim.AdamW(scorer.parameters(), lr=1e-2)
    for step in range(120):
        batch = script.whole_scenes(scenes, range(16 * step, 16 * step + 16), scorer)
        nothing = {key: value[:0] for key, value in batch.items()}
        loss = script.scorer_loss(scorer, batch, nothing, batch["images"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return scorer.eval()


def real(scenes, count, start=10_000, size=64):
    batch = [scenes.scene(index) for index in range(start, start + count)]
    return batch, [scenes.render(scene, size) for scene in batch]


# --- closed forms ---


def test_frechet_distance_of_gaussians():
    random = torch.Generator().manual_seed(0)
    a = torch.randn(200, 5, generator=random)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    shift = torch.tensor([3.0, 0, 0, 4.0, 0])
    assert frechet_distance(a, a + shift) == pytest.approx(25, rel=1e-5)
    # One dimension: (mu_a - mu_b)^2 + (sd_a - sd_b)^2.
    one = a[:, :1]
    assert frechet_distance(one, 3 * one) == pytest.approx((4 * one.mean().square() + 4 * one.var()).item(), rel=1e-5)
    b = torch.randn(150, 5, generator=random) @ torch.randn(5, 5, generator=random)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)


def test_frechet_distance_matches_the_matrix_square_root():
    random = torch.Generator().manual_seed(1)
    a, b = (torch.randn(60, 6, generator=random) @ torch.randn(6, 6, generator=random) for _ in range(2))
    cov_a, cov_b = torch.cov(a.double().T), torch.cov(b.double().T)
    cross = scipy.linalg.sqrtm((cov_a @ cov_b).numpy()).real.trace()
    mean = (a.double().mean(0) - b.double().mean(0)).square().sum()
    expected = (mean + cov_a.trace() + cov_b.trace()).item() - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shapes", [((4, 3), (4, 2)), ((4,), (4,)), ((1, 3), (4, 3))])
def test_frechet_distance_refuses(shapes):
    with pytest.raises(ValueError, match="Frechet|Features"):
        frechet_distance(*(torch.zeros(shape) for shape in shapes))


def test_relations_of_centres():
    middle, up, right = (8.0, 8.0), (8.5, 3.0), (13.0, 7.0)
    assert relation_holds("above", up, middle) and not relation_holds("above", middle, up)
    assert relation_holds("below", middle, up)
    assert relation_holds("left of", middle, right) and not relation_holds("left of", right, middle)
    assert relation_holds("right of", right, middle)
    assert relation_holds("next to", right, middle) and relation_holds("next to", middle, right)
    assert not relation_holds("next to", up, middle) and not relation_holds("above", right, middle)
    with pytest.raises(ValueError, match="in a row"):
        relation_holds("in a row", up, middle)


def test_centre_of_a_heat_map():
    heat_map = torch.full((16, 16), 0.01)
    heat_map[3:6, 9:12] = 1.0
    assert map_centre(heat_map) == pytest.approx((10, 4), abs=0.05)


def test_pictures_become_tensors():
    tensor = images_to_tensor([Image.new("RGB", (8, 6), (255, 0, 51))])
    assert tensor.shape == (1, 3, 6, 8)
    assert tensor[0, :, 0, 0].tolist() == pytest.approx([1.0, -1.0, -0.6])
    assert images_to_tensor(tensor) is tensor
    with pytest.raises(TypeError, match="PIL"):
        images_to_tensor(["picture.png"])
    with pytest.raises(ValueError, match="one size"):
        images_to_tensor([Image.new("RGB", (8, 8)), Image.new("RGB", (9, 8))])
    with pytest.raises(ValueError, match=r"\(3, 8, 8\)"):
        images_to_tensor(torch.zeros(3, 8, 8))


# --- judgement ---


def test_outputs_have_their_shapes(objects):
    scorer = untrained(objects).eval()
    output = scorer(torch.zeros(2, 3, 64, 64))
    shapes = {"map": (2, 5, 16, 16), "presence": (2, 4), "ground": (2, len(GROUNDS)), "style": (2, len(STYLES))}
    assert {key: tuple(value.shape) for key, value in output.items()} == {**shapes, "features": (2, 32)}


def test_trained_scorer_tells_right_from_wrong(trained, scenes):
    batch, images = real(scenes, 100)
    own = trained.score(images, batch)
    assert own["one_object"] >= 0.9 and own["two_objects"] >= 0.8 and own["ground"] >= 0.9
    assert own["relation_of_found"] >= 0.9 and own["relation"] <= own["two_objects"]
    assert math.isnan(own["three_objects"])
    shuffled = trained.score(images, batch[1:] + batch[:1])
    assert shuffled["one_object"] < 0.6 and shuffled["two_objects"] < 0.4 and shuffled["relation"] < 0.2


def test_trained_scorer_finds_objects_where_they_are(trained, scenes):
    batch, images = real(scenes, 40)
    maps = trained.heat_maps(images)
    hits = []
    for scene, scene_maps in zip(batch, maps, strict=True):
        for placed in scene.objects:
            x, y = map_centre(scene_maps[list(SHAPES).index(placed.phrase)])
            left, top, right, bottom = (16 * edge for edge in placed.box)
            hits.append(left - 1 <= x + 0.5 <= right + 1 and top - 1 <= y + 0.5 <= bottom + 1)
    assert sum(hits) / len(hits) > 0.9


def test_layout_is_that_of_the_right_masks(trained, scenes):
    """Real scenes lie in their own masks, and not in those of other scenes."""
    batch, images = real(scenes, 40)
    own = [scenes.masks(scene, 64) for scene in batch]

    def mean_iou(masks) -> float:
        pairs = [pair for found in trained.layout(images, masks) for pair in found.values()]
        return sum(iou for iou, _ in pairs) / len(pairs)

    mirrored = [{phrase: mask[::-1, ::-1].copy() for phrase, mask in masks.items()} for masks in own]
    assert mean_iou(own) > 0.6 and mean_iou(mirrored) < 0.5 * mean_iou(own)
    assert [list(found) for found in trained.layout(images, own)] == [list(scene.phrases) for scene in batch]
    with pytest.raises(ValueError, match="1 pictures do not fit 2 sets of masks"):
        trained.layout(images[:1], own[:2])
    with pytest.raises(ValueError, match="does not know the object 'dragon'"):
        trained.layout(images[:1], [{"dragon": own[0]}])


def test_overlap():
    """An object in the left half against masks of the left half, the upper half, and nothing found."""
    heat = torch.zeros(4, 4)
    heat[:, :2] = 0.9
    left, upper = torch.zeros(8, 8), torch.zeros(8, 8)
    left[:, :4], upper[:4] = 1.0, 1.0
    assert overlap(heat, left) == (1.0, 1.0)
    assert overlap(heat, upper) == pytest.approx((4 / 12, 0.5))
    iou, share = overlap(torch.full((4, 4), 0.1), left)
    assert iou == 0 and math.isnan(share)


def test_judges_pictures_of_any_size_alike(trained, scenes):
    batch, small = real(scenes, 40)
    _, large = real(scenes, 40, size=256)
    agree = [a == b for a, b in zip(trained.judge(small, batch), trained.judge(large, batch), strict=True)]
    assert sum(agree) / len(agree) >= 0.85


def test_half_precision_round_trip(trained, scenes, tmp_path):
    trained.half().save_pretrained(tmp_path)
    trained.float()
    loaded = SceneScorer.from_pretrained(tmp_path).eval()
    assert loaded.dtype is torch.float32 and not loaded.training
    batch, images = real(scenes, 20)
    assert loaded.judge(images, batch) == trained.judge(images, batch)
    assert torch.allclose(loaded.features(images), trained.features(images), atol=1e-4)


def test_patch_features_see_blur(trained, scenes):
    _, images = real(scenes, 32, size=128)
    sharp = trained.patch_features(images, patches_per_image=4)
    assert sharp.shape == (128, 64) and torch.equal(sharp, trained.patch_features(images, patches_per_image=4))

    def distance(radius):
        blurred = [image.filter(ImageFilter.GaussianBlur(radius)) for image in images]
        return frechet_distance(trained.patch_features(blurred, patches_per_image=4), sharp)

    assert distance(8) > 1.5 * distance(2) > 0
    with pytest.raises(ValueError, match="32 x 32"):
        trained.patch_features(torch.zeros(1, 3, 32, 32))


def test_refuses_what_it_does_not_know(objects, scenes):
    scorer = untrained(objects[:2]).eval()
    scene = next(scene for scene in map(scenes.scene, range(100)) if "pink bar" in scene.phrases)
    with pytest.raises(ValueError, match="pink bar"):
        scorer.score([scenes.render(scene, 64)], [scene])
    with pytest.raises(ValueError, match="1 pictures do not fit 2 scenes"):
        scorer.judge([scenes.render(scene, 64)], [scene, scene])


# --- scripts ---


def test_object_map_is_a_distribution(example, scenes):
    scene = next(scene for scene in map(scenes.scene, range(100)) if len(scene.objects) == 2)
    cells = example("demo/train_scorer").object_map(scenes.masks(scene, 64), list(SHAPES))
    assert cells.shape == (5, 16, 16) and cells.sum(axis=0) == pytest.approx(1.0, abs=1e-5)
    absent = [i for i, phrase in enumerate(SHAPES) if phrase not in scene.phrases]
    assert cells[absent].max() == 0


def test_training_goes_on_exactly_where_it_was_cut(example, object_folder, tmp_path):
    script = example("demo/train_scorer")

    def train(output, *more):
        size = ["--batch-size", "4", "--crops", "2", "--num-held-out", "4", "--max-objects", "1", "--steps", "4"]
        script.main(["--objects", str(object_folder), "--output", str(output), *size, *more])
        return SceneScorer.from_pretrained(output).state_dict()

    whole = train(tmp_path / "whole")
    train(tmp_path / "cut", "--max-steps-this-run", "2")
    resumed = train(tmp_path / "cut")
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())
    with pytest.raises(ValueError, match="seed"):
        train(tmp_path / "cut", "--seed", "7")


def test_evaluation_of_a_model(example, object_folder, objects, tmp_path):
    untrained(objects).save_pretrained(tmp_path / "scorer")
    sr_unet = tiny_sr_unet(5, sample_size=64)
    tiny_pipeline(
        unet=tiny_unet(4, sample_size=16), unet_sr256=sr_unet, unet_sr1024=None, scheduler_sr1024=None
    ).save_pretrained(tmp_path / "model")
    few = "--object-weights 1 1 --num-prompts 6 --num-style-prompts 6 --num-sr256 2 --patches-per-image 1 --steps 1"
    folders = {"model": tmp_path / "model", "objects": object_folder, "scorer": tmp_path / "scorer"}
    options = [text for name, path in folders.items() for text in (f"--{name}", str(path))]
    main = example("evaluate/evaluate_demo").main
    results = main([*options, "--output", str(tmp_path / "figures"), *few.split()])

    assert list(results) == ["base", "style", "sr256", "crispness"]
    assert set(results["base"]["model"]) == set(results["base"]["real"]) >= {"one_object", "ground", "frechet"}
    assert set(results["style"]["model"]) == set(results["style"]["no_style"]) >= {"style_from_image", "objects"}
    assert results["sr256"]["bicubic"]["psnr_of_downsampled"] > results["sr256"]["model"]["psnr_of_downsampled"]
    written = json.loads((tmp_path / "figures" / "results.json").read_text())
    assert written["settings"]["num_prompts"] == 6 and written["results"].keys() == results.keys()
    with Image.open(tmp_path / "figures" / "sr256.png") as grid:
        assert grid.size == (2 * 64, 3 * 64)
    with pytest.raises(ValueError, match="sr1024"):
        main([*options, "--output", str(tmp_path / "figures"), "--stages", "sr1024"])

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The demo model's scenes: the same at every size and in every process, captioned truthfully, with exact masks."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from diffusers_ediffi.demo.grounds import GRADIENTS, GROUNDS, LANDSCAPES, Ground
from diffusers_ediffi.demo.scenes import (
    RELATIONS,
    STYLES,
    SceneGenerator,
    SceneObject,
    is_held_out,
    load_objects,
    with_article,
)
from diffusers_ediffi.phrases import find_phrase
from diffusers_ediffi.training import SceneDataset
from diffusers_ediffi.training.data import scene_regions

SHAPES = ("red ball", "blue box", "green arrow", "orange egg", "pink bar", "yellow tent")


def draw_shape(phrase: str) -> Image.Image:
    image = Image.new("RGBA", (200, 200))
    draw = ImageDraw.Draw(image)
    colour, shape = phrase.split()
    if shape in ("ball", "egg"):
        draw.ellipse((30, 30, 170, 170) if shape == "ball" else (60, 30, 140, 170), fill=colour)
    elif shape in ("box", "bar"):
        draw.rectangle((40, 40, 160, 160) if shape == "box" else (20, 70, 180, 130), fill=colour)
    else:
        draw.polygon(((100, 20), (180, 180), (20, 180)), fill=colour)
    return image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "png").mkdir()
    entries = []
    for phrase in SHAPES:
        name = f"png/{phrase.replace(' ', '_')}.png"
        draw_shape(phrase).save(tmp_path / name)
        entries.append({"file": name, "phrase": phrase})
    (tmp_path / "index.json").write_text(json.dumps(entries), encoding="utf-8")
    return tmp_path


@pytest.fixture
def objects(folder: Path) -> list[SceneObject]:
    return load_objects(folder)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float32)


# ------------------------------------------------------------------------------------------------ determinism


def test_a_scene_depends_on_seed_and_index_alone(objects, folder):
    one, other = SceneGenerator(objects, seed=3), SceneGenerator(load_objects(folder), seed=3)
    other.scene(7)  # what was drawn before does not matter
    for index in (0, 1, 12345):
        assert one.scene(index) == other.scene(index)
        assert (pixels(one.render(one.scene(index), 64)) == pixels(other.render(other.scene(index), 64))).all()
    assert one.scene(0) != one.scene(1)
    assert one.scene(0) != SceneGenerator(objects, seed=4).scene(0)


def test_a_generator_can_be_sent_to_a_worker_process(objects):
    generator = SceneGenerator(objects, seed=5)
    copy = pickle.loads(pickle.dumps(generator))
    scene = generator.scene(9)
    assert copy.scene(9) == scene
    assert (pixels(copy.render(scene, 64)) == pixels(generator.render(scene, 64))).all()


def test_train_never_shows_a_held_out_combination_and_held_out_always_does(objects):
    train = SceneGenerator(objects, split="train")
    held_out = SceneGenerator(objects, split="held_out")
    assert not any(is_held_out(s.phrases, s.ground) for s in map(train.scene, range(300)))
    assert all(is_held_out(s.phrases, s.ground) for s in map(held_out.scene, range(100)))


def test_about_a_twentieth_of_the_combinations_is_held_out():
    phrases = [f"thing {i}" for i in range(100)]
    singles = [is_held_out([phrase], ground) for phrase in phrases for ground in GROUNDS]
    assert 0.03 < np.mean(singles) < 0.07
    ground = Ground("plain", "white")
    a, b = next((a, b) for a in phrases for b in phrases if a < b and is_held_out([a, b], ground))
    assert is_held_out([b, a], ground), "a pair is held out in either order"


# ---------------------------------------------------------------------------------------------------- content


def test_a_caption_names_every_object_where_its_span_says_and_the_ground(objects):
    generator = SceneGenerator(objects)
    for scene in map(generator.scene, range(300)):
        for placed in scene.objects:
            assert scene.caption[slice(*placed.span)] == placed.phrase
        if scene.ground.kind == "landscape":
            assert any(words in scene.caption for words in LANDSCAPES[scene.ground.name].phrases)
        else:
            assert all(colour in scene.caption for colour in scene.ground.name.split(" and "))


def test_captions_say_the_style_in_the_share_asked_for(objects):
    generator = SceneGenerator(objects, styles=("pixel art", "night"), style_said=0.5)
    scenes = [generator.scene(index) for index in range(400)]
    assert 0.4 < np.mean([scene.style_said for scene in scenes]) < 0.6
    pixel_art = [scene for scene in scenes if scene.style == "pixel art"]
    assert all(("pixel art" in scene.caption.lower()) == scene.style_said for scene in pixel_art)
    assert 0.4 < len(pixel_art) / 400 < 0.6
    never = SceneGenerator(objects, style_said=0.0)
    assert not any(never.scene(index).style_said for index in range(100))


def test_a_style_reference_is_another_scene_in_the_same_style(objects):
    generator = SceneGenerator(objects, styles=("flat", "night"), style_said=0.0)
    own, mixed, always = (SceneDataset(generator, 64, style_references=share, seed=1) for share in (0.0, 0.5, 1.0))
    means: dict[str, list[float]] = {"flat": [], "night": []}
    same = 0
    for index in range(40):
        items = [dataset[index] for dataset in (own, mixed, always)]
        assert all(torch.equal(item["image"], items[0]["image"]) for item in items)
        assert torch.equal(items[0]["clip_image"], items[0]["image"])
        same += torch.equal(items[1]["clip_image"], items[1]["image"])
        assert not torch.equal(items[2]["clip_image"], items[2]["image"])
        assert torch.equal(items[2]["clip_image"], always[index]["clip_image"])
        means[generator.scene(index).style].append(items[2]["clip_image"].float().mean().item())
    assert 10 < same < 30
    assert np.mean(means["night"]) < 0.7 * np.mean(means["flat"])  # night is dark
    with pytest.raises(ValueError, match="style_references is a share"):
        SceneDataset(generator, 64, style_references=1.5)


def test_a_painted_scene_has_the_boxes_of_its_objects_as_regions(objects):
    generator = SceneGenerator(objects)
    mixed = SceneDataset(generator, 64, painted_share=0.5, seed=1)
    painted = {index: regions for index in range(200) if (regions := mixed[index]["regions"])}
    assert 80 < len(painted) < 120
    for index, regions in painted.items():
        placed = generator.scene(index).objects
        assert [(region.phrase, region.mask) for region in regions] == [(one.phrase, one.box) for one in placed]
        assert len({region.weight for region in regions}) == 1
    weights = [regions[0].weight for regions in painted.values()]
    assert min(weights) < 0.1 and max(weights) > 0.9 and 0.4 < np.mean(weights) < 0.6
    assert "regions" not in SceneDataset(generator, 64)[0]
    with pytest.raises(ValueError, match="painted_share is a share between 0 and 1, got -0.1"):
        SceneDataset(generator, 64, painted_share=-0.1)
    with pytest.raises(ValueError, match="painted_share needs whole pictures"):
        SceneDataset(generator, 64, crop=32, painted_share=0.1)


def test_a_region_stands_where_the_scene_put_its_phrase(objects):
    """A phrase may be the end or the beginning of another one."""
    picture = objects[0].image
    for phrases in (("tree", "palm tree"), ("bear", "teddy bear"), ("fire", "fire truck"), ("a", "picture")):
        generator = SceneGenerator(
            [SceneObject(phrase, picture) for phrase in phrases], object_weights=(0, 1, 0), max_objects=2
        )
        for index in range(20):
            scene = generator.scene(index)
            for placed, region in zip(scene.objects, scene_regions(scene), strict=True):
                assert find_phrase(scene.caption, region.phrase, region.occurrence) == [placed.span]


def test_scenes_are_flat_in_the_share_asked_for(objects):
    for share, (low, high) in {0.5: (0.43, 0.57), 0.2: (0.15, 0.25), 0: (0, 0)}.items():
        generator = SceneGenerator(objects, flat_share=share)
        styles = [generator.scene(index).style for index in range(400)]
        assert low <= styles.count("flat") / 400 <= high
        for style in set(STYLES) - {"flat"}:  # the others share the rest equally
            assert (1 - share) / 5 - 0.05 < styles.count(style) / 400 < (1 - share) / 5 + 0.05


def test_everything_there_is_appears(objects):
    generator = SceneGenerator(objects)
    scenes = [generator.scene(index) for index in range(1500)]
    assert {scene.relation for scene in scenes} == set(RELATIONS)
    assert {scene.style for scene in scenes} == set(STYLES)
    assert {scene.ground for scene in scenes} == set(GROUNDS)
    counts = np.bincount([len(scene.objects) for scene in scenes]) / len(scenes)
    assert np.abs(counts[1:] - (0.5, 0.4, 0.1)).max() < 0.06


def test_boxes_keep_the_relation_that_the_caption_states(objects):
    generator = SceneGenerator(objects, object_weights=(0, 0.8, 0.2))
    for scene in map(generator.scene, range(300)):
        (left, top, right, bottom), (left2, top2, right2, bottom2) = (placed.box for placed in scene.objects[:2])
        holds = {
            "above": bottom <= top2 + 0.02,
            "below": bottom2 <= top + 0.02,
            "left of": right <= left2 + 0.02,
            "right of": right2 <= left + 0.02,
            "next to": right <= left2 + 0.02 or right2 <= left + 0.02,
            "in a row": right <= left2 + 0.02,
        }
        assert holds[scene.relation], scene
        assert all(0 <= edge <= 1 for placed in scene.objects for edge in placed.box)


def test_fewer_objects_styles_and_grounds_can_be_asked_for(folder):
    objects = load_objects(folder, phrases=["pink bar", "red ball"])
    assert [thing.phrase for thing in objects] == ["pink bar", "red ball"]
    grounds = [ground for ground in GROUNDS if ground.kind == "plain"]
    generator = SceneGenerator(objects, styles=["flat"], grounds=grounds, max_objects=1)
    for scene in map(generator.scene, range(100)):
        assert (len(scene.objects), scene.style, scene.ground.kind) == (1, "flat", "plain")


@pytest.mark.parametrize(
    ("phrase", "named"),
    [
        ("rocket", "a rocket"),
        ("owl", "an owl"),
        ("unicorn", "a unicorn"),
        ("orange background", "an orange background"),
    ],
)
def test_articles(phrase, named):
    assert with_article(phrase) == named


# ---------------------------------------------------------------------------------------- pictures and masks


@pytest.mark.parametrize("style", STYLES)
def test_large_and_small_renderings_agree(objects, style):
    generator = SceneGenerator(objects, styles=[style])
    for index in range(4):
        scene = generator.scene(index)
        small, large = generator.render(scene, 64), generator.render(scene, 1024)
        assert (small.mode, small.size, large.size) == ("RGB", (64, 64), (1024, 1024))
        assert np.abs(pixels(large.reduce(16)) - pixels(small)).mean() < 4


def test_every_style_changes_the_picture_in_its_own_way(objects):
    generator = SceneGenerator(objects)
    scene = generator.scene(0)
    looks = [pixels(generator.render(replace(scene, style=style), 64)) for style in STYLES]
    assert min(np.abs(a - b).mean() for i, a in enumerate(looks) for b in looks[i + 1 :]) > 4


def test_every_ground_has_its_own_look(objects):
    seen = []
    for ground in GROUNDS:
        generator = SceneGenerator(objects, styles=["flat"], grounds=[ground], max_objects=1)
        picture = pixels(generator.render_flat(generator.scene(1), 64))
        seen.append(picture)
    differences = [np.abs(a - b).mean() for i, a in enumerate(seen) for b in seen[i + 1 :]]
    assert min(differences) > 3
    assert {ground.name for ground in GROUNDS if ground.kind == "gradient"} == {" and ".join(g) for g in GRADIENTS}


@pytest.mark.parametrize("size", [64, 100, 256])
def test_masks_cover_the_boxes_and_the_objects(objects, size):
    generator = SceneGenerator(objects, styles=["flat"])
    for scene in map(generator.scene, range(12)):
        masks = generator.masks(scene, size)
        assert tuple(masks) == scene.phrases
        for placed in scene.objects:
            mask = masks[placed.phrase]
            assert mask.shape == (size, size) and mask.dtype == np.float32
            assert mask.min() >= 0 and mask.max() == 1
            rows, columns = np.nonzero(mask.max(axis=1))[0], np.nonzero(mask.max(axis=0))[0]
            edges = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / size
            assert np.abs(edges - placed.box).max() <= 1.5 / size
        assert sum(masks.values()).max() <= 1 + 1e-5


def test_a_mask_is_where_the_object_has_its_colour(objects):
    grounds = [Ground("plain", "black")]
    generator = SceneGenerator(objects, styles=["flat"], grounds=grounds, object_weights=(1, 0, 0))
    scene = next(s for s in map(generator.scene, range(100)) if s.phrases == ("red ball",))
    picture, mask = pixels(generator.render(scene, 128)), generator.masks(scene, 128)["red ball"]
    assert (picture[mask == 1] == (255, 0, 0)).all()
    assert picture[mask == 0].max() < 40
    ball = np.pi / 4 * np.prod(np.subtract(scene.objects[0].box[2:], scene.objects[0].box[:2]))
    assert mask.mean() == pytest.approx(ball, rel=0.03)


def test_masks_of_large_and_small_agree(objects):
    generator = SceneGenerator(objects)
    scene = generator.scene(2)
    for phrase, mask in generator.masks(scene, 512).items():
        averaged = mask.reshape(64, 8, 64, 8).mean(axis=(1, 3))
        assert np.abs(averaged - generator.masks(scene, 64)[phrase]).max() < 0.15


# -------------------------------------------------------------------------------------------------- bad input


def test_objects_are_cropped_to_what_can_be_seen(folder):
    (ball,) = load_objects(folder, phrases=["red ball"])
    assert ball.image.size == (141, 141)
    assert ball.aspect == 1


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "one entry or more"),
        ({"file": "png/red_ball.png"}, "must be a list"),
        ([{"file": "png/red_ball.png"}], "an entry must be"),
        ([{"file": "png/red_ball.png", "phrase": " ball"}], "spaces around it"),
        ([{"file": "png/red_ball.png", "phrase": "ball"}] * 2, "'ball' twice"),
    ],
)
def test_a_malformed_index_is_refused(folder, entries, message):
    (folder / "index.json").write_text(json.dumps(entries), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_objects(folder)


def test_a_folder_without_index_or_pictures_is_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="index.json is missing"):
        load_objects(tmp_path / "nowhere")
    (folder / "png" / "red_ball.png").unlink()
    with pytest.raises(FileNotFoundError, match="'red ball'"):
        load_objects(folder)
    (folder / "index.json").write_text("[{", encoding="utf-8")
    with pytest.raises(ValueError, match="not valid JSON"):
        load_objects(folder)


def test_pictures_that_are_no_objects_are_refused(folder):
    path = folder / "png" / "red_ball.png"
    Image.new("RGB", (20, 20)).save(path)
    with pytest.raises(ValueError, match="mode RGB"):
        load_objects(folder)
    Image.new("RGBA", (20, 20)).save(path)
    with pytest.raises(ValueError, match="wholly transparent"):
        load_objects(folder)
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(OSError, match="red_ball.png.* is not an image"):
        load_objects(folder)


def test_a_picture_is_turned_as_its_camera_was_held(folder):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGBA", (60, 20), "red").save(folder / "png" / "red_ball.png", exif=turned)
    (ball,) = load_objects(folder, phrases=["red ball"])
    assert ball.image.size == (20, 60)


def test_pictures_lie_in_the_folder(folder):
    Image.new("RGBA", (20, 20), "red").save(folder.parent / "outside.png")
    (folder / "link.png").symlink_to(folder.parent / "outside.png")
    for file in ("../outside.png", str(folder.parent / "outside.png"), "link.png"):
        (folder / "index.json").write_text(json.dumps([{"file": file, "phrase": "red ball"}]), encoding="utf-8")
        with pytest.raises(ValueError, match="leads out of the folder"):
            load_objects(folder)


def test_unknown_phrases_are_refused(folder):
    with pytest.raises(ValueError, match="no object 'rocket'"):
        load_objects(folder, phrases=["rocket"])
    with pytest.raises(ValueError, match="twice"):
        load_objects(folder, phrases=["red ball", "red ball"])


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"styles": ["oil"]}, "`styles`"),
        ({"styles": []}, "`styles`"),
        ({"grounds": [Ground("plain", "mauve")]}, "`grounds`"),
        ({"max_objects": 0}, "`max_objects`"),
        ({"max_objects": 4}, "`max_objects`"),
        ({"object_weights": (0, 0, 0)}, "`object_weights`"),
        ({"object_weights": (1, float("nan"), 1)}, "`object_weights`"),
        ({"object_weights": (1,)}, "`object_weights`"),
        ({"style_said": 1.5}, "`style_said`"),
        ({"flat_share": 1}, "`flat_share`"),
        ({"seed": -1}, "`seed`"),
        ({"split": "test"}, "`split`"),
    ],
)
def test_bad_choices_are_refused(objects, choices, message):
    with pytest.raises(ValueError, match=message):
        SceneGenerator(objects, **choices)


def test_a_split_without_any_combination_is_refused_instead_of_searched_for_ever(objects):
    ball = [thing for thing in objects if thing.phrase == "red ball"]
    known = next(ground for ground in GROUNDS if not is_held_out(["red ball"], ground))
    generator = SceneGenerator(ball, grounds=[known], max_objects=1, split="held_out")
    with pytest.raises(ValueError, match="no combination of 1 object"):
        generator.scene(0)


@pytest.mark.parametrize("size", [0, 15, 5000])
def test_sizes_out_of_range_are_refused(objects, size):
    generator = SceneGenerator(objects)
    with pytest.raises(ValueError, match="`size`"):
        generator.render(generator.scene(0), size)

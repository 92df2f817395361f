# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`ediffi generate`, `paint` and `edit` draw what the pipelines draw, and refuse what cannot be drawn."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from helpers import tiny_pipeline
from PIL import Image
from transformers import CLIPConfig

from diffusers_ediffi import (
    EDiffIImg2ImgPipeline,
    EDiffIInpaintPipeline,
    EDiffIPipeline,
    EDiffIUNet,
    PaintRegion,
    __version__,
    read_provenance,
)
from diffusers_ediffi.cli.main import main

PROMPT = "a red cat above a blue house"


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_generate_draws_what_the_pipeline_draws(generate, model, tmp_path):
    code, out, err = generate("--guidance-scale", 3)
    assert (code, out, err) == (0, f"{tmp_path / 'out.png'} (seed 3)\n", "")
    pipe = EDiffIPipeline.from_pretrained(model)
    generator = torch.Generator().manual_seed(3)
    image = pipe(PROMPT, height=8, guidance_scale=3.0, num_inference_steps=2, generator=generator).images[0]
    np.testing.assert_array_equal(pixels(tmp_path / "out.png"), np.asarray(image))
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


def test_png_says_how_it_was_drawn(generate, model, tmp_path):
    generate("--steps", "2,1", "--size", 32, prompt="ein Apfel über 🚀")
    provenance = read_provenance(tmp_path / "out.png")
    assert provenance.software == f"diffusers_ediffi {__version__}"
    assert provenance.settings == {
        "prompt": "ein Apfel über 🚀",
        "seed": 3,
        "model": model.name,
        "size": 32,
        "steps": [2, 1],
    }


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".webp"])
def test_other_kinds_of_pictures_say_how_they_were_drawn(generate, tmp_path, suffix):
    output = tmp_path / f"out{suffix}"
    assert generate(output=output, prompt="a red cat") == (0, f"{output} (seed 3)\n", "")
    assert pixels(output).shape == (8, 8, 3) and read_provenance(output).settings["prompt"] == "a red cat"


def test_what_a_file_cannot_hold_is_refused_before_it_is_drawn(generate, nothing_loads, tmp_path):
    code, _, err = generate(output=tmp_path / "out.jpg", prompt="a " * 40_000)
    assert code == 2 and "a JPEG holds 65502 bytes of provenance" in err


def test_a_long_prompt_is_not_quoted_whole(generate):
    code, out, err = generate(prompt="a red cat " * 2000)
    assert code == 0 and len(err) < 2000


def test_no_provenance(generate, model, tmp_path, capsys):
    assert generate("--no-provenance")[0] == 0
    assert b"red cat" not in (tmp_path / "out.png").read_bytes()
    assert main(["info", str(tmp_path / "out.png")]) == 2
    assert "says nothing of its provenance" in capsys.readouterr().err


def test_the_file_says_nothing_of_the_machine(model, tmp_path, monkeypatch):
    """No path of model, style image, scene, mask or output, and no name of a file that the user chose."""
    home = tmp_path / "home" / "alice_secret"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    shutil.copytree(model, home / "models" / "tiny")
    for name in ("style_secret.png", "mask_secret.png"):
        Image.new("RGB", (16, 16), "white").save(home / name)
    scene = {"prompt": PROMPT, "regions": [{"phrase": "cat", "mask": "mask_secret.png"}]}
    (home / "scene_secret.json").write_text(json.dumps(scene))
    fixed = [
        "--model",
        "~/models/tiny",
        "--style-image",
        str(home / "style_secret.png"),
        "--size",
        "8",
        "--steps",
        "1",
    ]
    fixed += ["--device", "cpu", "--output", str(home / "out_secret.png")]
    for command in (["paint", "scene_secret.json"], ["generate", PROMPT]):
        assert main([*command, *fixed]) == 0
        settings = read_provenance("out_secret.png").settings
        assert settings["model"] == "tiny" and settings["style_image"] is True
        content = (home / "out_secret.png").read_bytes()
        assert b"secret" not in content and str(tmp_path).encode() not in content


def test_a_blackened_picture_is_told(generate, model, tmp_path, tmp_path_factory):
    vision = tiny_pipeline().image_encoder.config.to_dict()
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=16))
    checker.concept_embeds_weights.data.fill_(-10.0)  # it objects to everything
    copy = tmp_path_factory.mktemp("checked")
    EDiffIPipeline.from_pretrained(model, safety_checker=checker).save_pretrained(copy)
    code, out, _ = generate(model=copy)
    assert (code, out) == (0, f"{tmp_path / 'out.png'} (seed 3, blackened by the safety checker)\n")
    assert not pixels(tmp_path / "out.png").any()
    assert read_provenance(tmp_path / "out.png").settings["nsfw_content_detected"] is True


def test_largest_stage_and_default_steps(model, tmp_path, capsys):
    output = tmp_path / "out.png"
    assert main(["generate", PROMPT, "--output", str(output), "--model", str(model), "--device", "cpu"]) == 0
    seed = int(capsys.readouterr().out.split("seed ")[1].rstrip(")\n"))
    assert pixels(output).shape == (128, 128, 3) and read_provenance(output).settings["seed"] == seed


def test_each_of_several_images_is_the_image_of_its_seed(generate, tmp_path):
    code, out, _ = generate("--num-images", 2)
    assert code == 0 and out.splitlines() == [f"{tmp_path / f'out-{i}.png'} (seed {3 + i})" for i in range(2)]
    generate("--seed", 4)
    difference = pixels(tmp_path / "out.png").astype(int) - pixels(tmp_path / "out-1.png")
    assert abs(difference).max() <= 1  # a batch may round otherwise
    assert (pixels(tmp_path / "out-0.png") != pixels(tmp_path / "out-1.png")).any()


def test_style_image_and_negative_prompt_change_the_image(generate, tmp_path):
    style = tmp_path / "style.png"
    Image.effect_noise((20, 20), 50).convert("RGBA").save(style)
    images = []
    for arguments in [[], ["--style-image", style], ["--negative-prompt", "a dog"]]:
        assert generate("--guidance-scale", 3, *arguments)[0] == 0
        images.append(pixels(tmp_path / "out.png"))
    assert (images[0] != images[1]).any() and (images[0] != images[2]).any()


def test_weights_and_encoders(generate, model, tmp_path):
    style = tmp_path / "style.png"
    Image.effect_noise((20, 20), 50).convert("RGB").save(style)
    chosen = ["--style-image", style, "--encoders", "t5", "clip_image"]
    assert generate("--guidance-scale", "t5=5, clip_image=-1.5", *chosen)[0] == 0
    pipe = EDiffIPipeline.from_pretrained(model)
    settings = read_provenance(tmp_path / "out.png").settings
    assert settings["encoders"] == ["t5", "clip_image"]
    assert settings["guidance_scale"] == {"t5": 5.0, "clip_image": -1.5}
    with Image.open(style) as picture:
        image = pipe(
            PROMPT,
            style_image=picture,
            height=8,
            num_inference_steps=2,
            guidance_scale={"t5": 5.0, "clip_image": -1.5},
            encoders=["t5", "clip_image"],
            generator=torch.Generator().manual_seed(3),
        ).images[0]
    np.testing.assert_array_equal(pixels(tmp_path / "out.png"), np.asarray(image))


def test_style_scale(generate, tmp_path):
    style = tmp_path / "style.png"
    Image.effect_noise((20, 20), 50).convert("RGB").save(style)
    images = []
    for arguments in [[], ["--style-image", style, "--style-scale", 0], ["--style-image", style, "--style-scale", 2]]:
        assert generate("--guidance-scale", 3, *arguments)[0] == 0
        images.append(pixels(tmp_path / "out.png"))
    assert (images[0] == images[1]).all() and (images[0] != images[2]).any()
    assert read_provenance(tmp_path / "out.png").settings["style_scale"] == 2.0


def test_prompt_schedule(model, tmp_path):
    output, schedule = tmp_path / "out.png", [("a cat: red", 0.0), ("a dog", 0.5)]
    texts = [f"{share:g}:{prompt}" for prompt, share in schedule]
    options = ["--output", output, "--model", model, "--size", 8, "--seed", 3, "--device", "cpu"]
    assert main(["generate", "--prompt-schedule", *texts, *map(str, options)]) == 0
    pipe = EDiffIPipeline.from_pretrained(model)
    image = pipe(prompt_schedule=schedule, height=8, generator=torch.Generator().manual_seed(3)).images[0]
    np.testing.assert_array_equal(pixels(output), np.asarray(image))
    assert read_provenance(output).settings["prompt_schedule"] == [list(entry) for entry in schedule]


def test_interval_and_rescale(generate, model, tmp_path):
    assert generate("--guidance-scale", 6, "--guidance-interval", 1, "inf", "--guidance-rescale", 0.5)[0] == 0
    pipe = EDiffIPipeline.from_pretrained(model)
    image = pipe(
        PROMPT,
        height=8,
        num_inference_steps=2,
        guidance_scale=6.0,
        guidance_interval=(1.0, float("inf")),
        guidance_rescale=0.5,
        generator=torch.Generator().manual_seed(3),
    ).images[0]
    np.testing.assert_array_equal(pixels(tmp_path / "out.png"), np.asarray(image))
    settings = read_provenance(tmp_path / "out.png").settings
    assert (settings["guidance_interval"], settings["guidance_rescale"]) == ([1.0, "inf"], 0.5)


def test_attention(generate, tmp_path):
    plain = generate()
    picture = pixels(tmp_path / "out.png")
    code, out, _ = generate("--attention", tmp_path / "seen.json")
    assert (plain[0], code) == (0, 0) and "seen.json" in out
    np.testing.assert_array_equal(pixels(tmp_path / "out.png"), picture)
    seen = json.loads((tmp_path / "seen.json").read_text())
    encoders = {"clip_text", "t5", "clip_image", "null_token"}
    assert sum(seen["shares"][name][0] for name in encoders) == pytest.approx(1, abs=1e-4)
    assert len(seen["sigmas"]) == len(seen["shares"]["t5"]) == len(seen["words"][0]["masses"])
    words = "".join(word["text"] for word in seen["words"] if word["encoder"] == "clip_text")
    assert words.replace(" ", "") == PROMPT.replace(" ", "")


def test_variations(model, tmp_path):
    style, output = tmp_path / "style.png", tmp_path / "out.png"
    Image.effect_noise((20, 20), 50).convert("RGB").save(style)
    options = ["--output", output, "--model", model, "--size", 8, "--seed", 3, "--device", "cpu"]
    assert main(["generate", "--style-image", str(style), *map(str, options)]) == 0
    pipe = EDiffIPipeline.from_pretrained(model)
    image = pipe(style_image=str(style), height=8, generator=torch.Generator().manual_seed(3)).images[0]
    np.testing.assert_array_equal(pixels(output), np.asarray(image))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype(generate, dtype):
    code, _, err = generate("--dtype", dtype)
    assert (code, err) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "toaster"], "device 'toaster' is not usable here"),
        (["--device", "meta"], "device 'meta' is not usable here"),
        (["--size", 64], "--size 64: the model draws 8, 32, 128 pixels; choose one"),
        (["--steps", "2,1", "--size", 128], "--steps 2,1: give one number, or one for each of the 3 stages that draw"),
        (["--guidance-scale", "5,1.5", "--size", 128], "--guidance-scale 5,1.5: give one number, or one for each of"),
    ],
)
def test_bad_choices_for_this_model(generate, arguments, message, tmp_path):
    code, out, err = generate(*arguments)
    assert code == 2 and out == "" and err.startswith("ediffi: error: ") and err.count("\n") == 1 and message in err
    assert not any(tmp_path.iterdir())


def test_a_huge_style_image_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("RGB", (20, 20)).save(tmp_path / "style.png")
    assert main(["generate", PROMPT, "--style-image", str(tmp_path / "style.png")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("ediffi: error: ") and err.count("\n") == 1 and "exceeds limit" in err


def test_too_little_memory_is_one_line(generate, monkeypatch, tmp_path):
    def allocate(*_, **__):
        torch.empty(2**60)

    monkeypatch.setattr(EDiffIUNet, "forward", allocate)
    code, out, err = generate("--num-images", 2)
    assert code == 2 and out == "" and err.count("\n") == 1
    assert err.startswith("ediffi: error: cannot draw 2 of 8 x 8 pixels in torch.float32 on cpu") and "memory" in err
    assert not any(tmp_path.iterdir())


# --- paint ---


@pytest.fixture
def paint(model, tmp_path, capsys):
    """Runs `ediffi paint` on a canvas (cat in red, house in blue) or on a scene."""
    canvas = Image.new("RGBA", (64, 64), "white")
    canvas.paste("red", (0, 0, 32, 64))
    canvas.paste("blue", (40, 0, 64, 64))
    canvas.save(tmp_path / "canvas.png")
    Image.new("L", (64, 64), 0).save(tmp_path / "black.png")
    (tmp_path / "text.png").write_text("not a picture")
    output = tmp_path / "out.png"

    def run(scene, *arguments):
        if isinstance(scene, dict):
            (tmp_path / "scene.json").write_text(json.dumps(scene))
            scene = "scene.json"
        fixed = ["--output", output, "--model", model, "--size", 8, "--seed", 3, "--steps", 2, "--device", "cpu"]
        code = main(["paint", *map(str, [tmp_path / scene, *arguments, *fixed])])
        return code, capsys.readouterr().err

    return run


CANVAS = ("canvas.png", "--prompt", PROMPT, "--legend", "red=cat", "#0000ff=house")
SCENE = {"prompt": PROMPT, "regions": [{"phrase": "cat", "mask": [0, 0, 0.5, 1]}], "strength": 0.4}
HOUSE = {"phrase": "house", "mask": [0.625, 0, 1, 1]}


def test_paint_draws_what_the_pipeline_draws(paint, model, tmp_path):
    assert paint(*CANVAS, "--guidance-scale", "3") == (0, "")
    pipe = EDiffIPipeline.from_pretrained(model)

    def expected(regions):
        call = {"height": 8, "guidance_scale": 3.0, "num_inference_steps": 2, "regions": regions}
        return np.asarray(pipe(PROMPT, generator=torch.Generator().manual_seed(3), **call).images[0])

    columns = np.arange(64)[None].repeat(64, 0)
    masks = [PaintRegion("cat", columns < 32), PaintRegion("house", columns >= 40)]
    np.testing.assert_array_equal(pixels(tmp_path / "out.png"), expected(masks))
    assert paint({**SCENE, "regions": [*SCENE["regions"], HOUSE]}, "--guidance-scale", "3")[0] == 0
    boxes = [PaintRegion("cat", (0, 0, 0.5, 1)), PaintRegion("house", (0.625, 0, 1, 1))]
    np.testing.assert_array_equal(pixels(tmp_path / "out.png"), expected(boxes))
    assert (expected(boxes) != expected([])).any()
    settings = read_provenance(tmp_path / "out.png").settings
    assert settings["region_strength"] == 0.4
    assert settings["regions"] == [{"phrase": "cat", "mask": [0, 0, 0.5, 1]}, {**HOUSE, "mask": [0.625, 0, 1, 1]}]


def test_a_painted_picture_is_painted_again_from_its_file(paint, tmp_path):
    """A canvas once, then what its picture says alone; and as a scene whose mask stands inside."""
    assert paint(*CANVAS, "--strength", "0.3") == (0, "")
    first = tmp_path / "out.png"
    settings = read_provenance(first).settings
    assert [entry["phrase"] for entry in settings["regions"]] == ["cat", "house"]
    again = shutil.copy(first, tmp_path / "first.png")
    assert paint(again) == (0, "") and first.read_bytes() == again.read_bytes()
    scene = {"prompt": PROMPT, "regions": settings["regions"], "strength": 0.3}
    assert paint(scene) == (0, "") and first.read_bytes() == again.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.json"], "there is no file"),
        (["canvas.png", "--prompt", "x"], "needs --legend COLOR=PHRASE"),
        (["canvas.png", "--legend", "--prompt", "x"], "needs --legend COLOR=PHRASE"),
        (["canvas.png", "--legend", "red"], "'red' is not COLOR=PHRASE"),
        (["canvas.png", "--legend", "red=cat"], "576 pixels|not in the legend"),
        (["canvas.png", "--legend", "red=cat", "blue=house"], "there is no prompt in .*canvas.png'; give --prompt"),
        ([*CANVAS[:4], "red=cat", "blue=dog"], "'dog' is not in the prompt"),
        ([*CANVAS, "--strength", "-1"], "argument --strength: '-1' is below 0"),
        ([*CANVAS, "--strength", "-1,x"], "argument --strength: '-1' is below 0"),
        (["text.png", "--legend", "red=cat"], "is not an image"),
        (["text.png.json"], "there is no file"),
        ([{"prompt": PROMPT}], "must be"),
        ([{**SCENE, "region": []}], "must be"),
        ([SCENE, "--legend", "red=cat"], "--legend is for a canvas"),
        ([SCENE, "--prompt", "a dog"], "the phrase 'cat' is not in the prompt 'a dog'"),
        ([{**SCENE, "regions": [{"phrase": "cat"}]}], "needs phrase and mask"),
        ([{**SCENE, "regions": [{"phrase": "cat", "mask": [0, 0, 1]}]}], "the mask of 'cat'"),
        ([{**SCENE, "regions": [{"phrase": "cat", "mask": "black.png"}]}], "is zero everywhere"),
        ([{**SCENE, "regions": [{"phrase": "cat", "mask": "nowhere.png"}]}], "cannot read"),
        ([{**SCENE, "regions": [{**HOUSE, "color": 1}]}], "it needs phrase and mask"),
        ([{**SCENE, "regions": [{"phrase": "cat", "mask": "data:image/png;base64,?"}]}], "is damaged"),
    ],
)
def test_paint_refuses_bad_scenes_in_one_line(paint, nothing_loads, arguments, message):
    code, err = paint(*arguments)
    assert code == 2 and err.startswith("ediffi: error: ") and err.count("\n") == 1
    assert re.search(message, err), err


@pytest.mark.parametrize("place", ["../outside.png", "{folder}/outside.png", "link.png"])
def test_masks_of_a_scene_lie_in_its_folder(paint, nothing_loads, tmp_path, place):
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    Image.new("L", (8, 8), 255).save(tmp_path / "outside.png")
    (scenes / "link.png").symlink_to(tmp_path / "outside.png")
    entry = {"phrase": "cat", "mask": place.format(folder=tmp_path)}
    (scenes / "scene.json").write_text(json.dumps({**SCENE, "regions": [entry]}))
    code, err = paint("scenes/scene.json")
    assert code == 2 and "leads out of the folder" in err and err.count("\n") == 1


def test_masks_of_a_scene_are_regular_files(paint, nothing_loads, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    code, err = paint({**SCENE, "regions": [{"phrase": "cat", "mask": "pipe.png"}]})
    assert code == 2 and "not a regular file" in err


def test_masks_and_canvases_are_bounded_before_they_are_read(paint, nothing_loads, tmp_path, monkeypatch):
    """By their pixels all together: a few bytes may hold millions."""
    monkeypatch.setattr("diffusers_ediffi.cli.draw.open_image", lambda path: pytest.fail(f"{path} is read"))
    Image.new("1", (4100, 4100), 1).save(tmp_path / "large.png")
    region = {"phrase": "cat", "mask": "large.png"}
    code, err = paint({**SCENE, "regions": [region] * 4})
    assert code == 2 and "scene.json' with all its masks has 67240000 pixels, 4100 x 4100 the largest" in err
    code, err = paint("large.png", "--prompt", PROMPT, "--legend", "red=cat")
    assert code == 2 and "the canvas has 4100 x 4100 pixels" in err


def test_a_scene_may_begin_with_a_byte_order_mark(paint, tmp_path):
    (tmp_path / "scene.json").write_text(json.dumps(SCENE), encoding="utf-8-sig")
    assert paint("scene.json") == (0, "")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_mask_in_colour_is_refused(paint, nothing_loads, tmp_path, capsys, mode):
    """Nobody knows how much of red is inside."""
    Image.new("RGB", (64, 64), "red").convert(mode).save(tmp_path / "red.png")
    code, err = paint({**SCENE, "regions": [{"phrase": "cat", "mask": "red.png"}]})
    assert code == 2 and "the mask 'red.png' has colours; paint white what is inside" in err
    assert main(["edit", str(tmp_path / "red.png"), PROMPT, "--mask", str(tmp_path / "red.png")]) == 2
    assert "red.png' has colours" in capsys.readouterr().err


def test_paint_refuses_a_scene_that_is_nested_too_deeply(paint, tmp_path):
    scene = tmp_path / "deep.json"
    scene.write_text("[" * 100_000)
    code, err = paint(scene)
    assert code == 2 and "deep.json' is not JSON" in err and err.count("\n") == 1


def test_paint_refuses_decompression_bombs(paint, monkeypatch):
    for limit in (1000, 4000):  # far beyond Pillow's limit and just beyond it
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        code, err = paint(*CANVAS)
        assert code == 2 and "decompression bomb" in err


def test_edit_draws_what_the_pipelines_draw(model, tmp_path, capsys):
    """Of an image that a camera has stored on its side, whole and below a mask."""
    drawn, original, mask = (tmp_path / name for name in ("out.png", "photo.jpg", "mask.png"))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    orientation = Image.Exif()
    orientation[0x0112] = 6
    image.save(original, exif=orientation)
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(mask)
    fixed = ["--output", drawn, "--model", model, "--size", 8, "--seed", 3, "--steps", 2, "--device", "cpu"]
    command = [*map(str, ["edit", original, PROMPT, *fixed])]
    with Image.open(original) as stored:
        upright = stored.transpose(Image.Transpose.ROTATE_270)
    call = {"image": upright, "height": 8, "num_inference_steps": 2}
    for options, arguments in (
        (["--strength", "0.5,1"], {"strength": (0.5, 1.0)}),
        (["--mask", str(mask)], {"mask_image": np.eye(8)}),
    ):
        assert main([*command, *options]) == 0, capsys.readouterr().err
        pipeline = EDiffIInpaintPipeline if "--mask" in options else EDiffIImg2ImgPipeline
        pipe = pipeline.from_pretrained(model)
        expected = pipe(PROMPT, generator=torch.Generator().manual_seed(3), **call, **arguments).images[0]
        np.testing.assert_array_equal(pixels(drawn), np.asarray(expected))
        provenance = read_provenance(drawn)
        assert provenance.settings["image"] and provenance.settings.get("mask_image", False) is ("--mask" in options)
        assert provenance.digital_source_type.endswith("compositeWithTrainedAlgorithmicMedia")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.png", PROMPT], "there is no file"),
        (["text.png", PROMPT], "is not an image"),
        (["image.png", " "], "is empty"),
        (["image.png", PROMPT, "--strength", "1.5"], "'1.5' does not lie in 0 to 1"),
        (["image.png", PROMPT, "--strength", "nan"], "not a finite number"),
        (["image.png", PROMPT, "--strength", "-1,x"], "argument --strength: '-1' does not lie in 0 to 1"),
        (["image.png", "wide.png"], "'wide.png' is a file, one too many here"),
        (["image.png", PROMPT, "--mask", "text.png"], "text.png' is not an image"),
        (["image.png", PROMPT, "--mask", "wide.png"], "mask_image is 16 x 8"),
        (["image.png", PROMPT, "--mask", "black.png"], "mask_image is zero everywhere"),
    ],
)
def test_edit_refuses_bad_input_in_one_line(arguments, message, nothing_loads, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("no image")
    for name, size, color in (("image", (8, 8), 9), ("wide", (16, 8), 255), ("black", (8, 8), 0)):
        Image.new("L", size, color).save(f"{name}.png")
    assert main(["edit", *arguments, "--size", "8", "--device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("ediffi: error: ") and err.count("\n") == 1 and message in err


@pytest.mark.parametrize(("level", "stage"), [("0.2", "SR256"), ("0,0.2", "SR1024"), ("0.1,0.2", "SR256")])
def test_noise_that_no_network_knows_is_refused_by_its_option_before_loading(generate, nothing_loads, level, stage):
    code, _, err = generate("--noise-level", level, "--size", 128)
    wrong = level.split(",")[0] if stage == "SR256" else level.split(",")[1]
    assert code == 2
    assert err == (
        f"ediffi: error: --noise-level {wrong}: {stage} of this model was trained without noise; leave it out there.\n"
    )


@pytest.mark.parametrize("level", ["0.2", "0,0.2"])
def test_noise_for_super_resolution_is_refused_where_none_runs(generate, nothing_loads, level):
    code, _, err = generate("--noise-level", level, "--size", 8)
    assert code == 2
    assert err == (
        "ediffi: error: --noise-level 0.2 is for super-resolution, and none runs up to 8 pixels; leave it out, or "
        "draw larger.\n"
    )


def test_no_noise_is_none_for_any_size(generate):
    assert generate("--noise-level", "0", "--size", 8)[0] == 0


def test_noise_for_stages_that_do_not_run_is_passed_over(generate):
    assert generate("--noise-level", "0,0.2", "--size", 32, "--steps", "1")[0] == 0


@pytest.mark.parametrize("index", ["{}", "[]", "nonsense"])
def test_a_model_whose_stages_are_not_known_is_refused_by_loading(generate, model, tmp_path, index):
    broken = shutil.copytree(model, tmp_path / "broken")
    (broken / "model_index.json").write_text(index)
    code, _, err = generate("--noise-level", "0.2", "--model", broken)
    assert code == 2 and "cannot load" in err

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Arguments that are refused in one line, before a model is read."""

import pytest
from PIL import Image

from diffusers_ediffi.cli.main import main
from diffusers_ediffi.cli.parser import PICTURES
from diffusers_ediffi.provenance import FORMATS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", ""], "argument prompt: is empty"),
        (["generate"], "there is nothing to draw; give a prompt, --prompt-schedule, or --style-image"),
        (["generate", "x", "--guidance-interval", "-1", "5"], "argument --guidance-interval"),
        (["generate", "x", "--guidance-interval", "5", "1"], "--guidance-interval 5 1: LOW must be below HIGH"),
        (["generate", "x", "--guidance-interval", "low", "5"], "'low' is not a noise level; give 0 or more"),
        (["generate", "x", "--guidance-rescale", "2"], "argument --guidance-rescale: '2'"),
        (["generate", "x", "--attention", "seen.txt"], "argument --attention: 'seen.txt' must end in .json"),
        (["generate", "x", "--attention", "/no/such/seen.json"], "there is no folder '/no/such'"),
        (["generate", "x", "--prompt-schedule", "0:a cat"], "give either a prompt or --prompt-schedule"),
        (["generate", "--prompt-schedule", "a cat"], "'a cat' is not SHARE:PROMPT"),
        (["generate", "--prompt-schedule", "0:a cat", ":a dog"], "':a dog' is not SHARE:PROMPT"),
        (["generate", "--prompt-schedule", "0:a cat", "x:a dog"], "'x' is not a finite number"),
        (["generate", "--prompt-schedule", "0:a cat", "2:a dog"], "'2' does not lie in 0 to 1"),
        (["generate", "--prompt-schedule", "0.5:a cat", "0:a dog"], "out of order"),
        (["generate", "x", "--style-scale", "-1"], "'-1' is below 0"),
        (["generate", "x", "--style-scale", "0.5"], "--style-scale 0.5 scales no style; give --style-image"),
        (["generate", "a", "red", "car"], "'red' is one value too many; a prompt of several words needs quotes"),
        (["generate", "x", "--style-image", "a.png", "a.png"], "'a.png' is one value too many"),
        (["generate", "--style-image", "a.png", "a.png"], "argument prompt: 'a.png' is a file, one too many here"),
        (["generate", "x", "--sized", "8"], "ediffi generate has no option '--sized'"),
        (["generate", "--prompt", "x"], "ediffi generate has no option '--prompt'"),
        (["generate", "x", "--output", "out.gif"], "'out.gif' must end in .png or .jpg or .jpeg or .webp"),
        (["generate", "x", "--output", ".png"], "'.png' has no name before its dot; give one, such as a.png"),
        (["generate", "x", "--attention", ".json"], "'.json' has no name before its dot"),
        (["generate", "x", "--guidance-scale", "1e30"], "'1e30' is beyond 1000; what is usual is below 20"),
        (["generate", "x", "--guidance-scale", "t5=-1e30"], "'-1e30' is beyond 1000"),
        (["generate", "x", "--style-scale", "1e30"], "'1e30' is beyond 1000"),
        (["generate", "x", "--noise-level", "0.1,1e30"], "'1e30' is beyond 1000"),
        (["paint", "a.png", "--strength", "1e30"], "'1e30' is beyond 1000"),
        (["generate", "x", "--output", "nowhere/out.png"], "nowhere"),
        (["generate", "x", "--output", "folder.png"], "'folder.png' cannot be written"),
        (["generate", "x", "--output", "file.txt/out.png"], "there is no folder"),
        (["generate", "x", "--size", "0"], "'0' is not a whole number of at least 1"),
        (["generate", "x", "--size", "64.5"], "'64.5' is not a whole number"),
        (["generate", "x", "--seed", "-1"], "'-1' is not a whole number from 0"),
        (["generate", "x", "--num-images", "0"], "'0' is not a whole number"),
        (["generate", "x", "--num-images", "1001"], "'1001' is not a whole number from 1 to 1000"),
        (["generate", "x", "--num-images", "1000000000"], "'1000000000' is not a whole number from 1 to 1000"),
        (["generate", "x", "--steps", "0"], "'0' is not a whole number from 1 to 1000"),
        (["generate", "x", "--steps", "25,1001"], "'1001' is not a whole number from 1 to 1000"),
        (["generate", "x", "--steps", "25,"], "argument --steps: '25,' leaves a number out"),
        (["generate", "x", "--steps", "-1,x"], "argument --steps: '-1' is not a whole number"),
        (["generate", "x", "--steps", "1,2,3,4"], "4 numbers for at most 3 stages"),
        (["generate", "x", "--guidance-scale", "nan"], "'nan' is not a finite number"),
        (["generate", "x", "--guidance-scale", "5,inf"], "'inf' is not a finite number"),
        (["generate", "x", "--guidance-scale", "t5=x"], "'x' is not a finite number"),
        (["generate", "x", "--guidance-scale", "t5="], "argument --guidance-scale: 't5=' gives t5 no weight"),
        (["generate", "x", "--guidance-scale", "t5=5,3"], "'t5=5,3' must give t5, clip_text, clip_image a weight"),
        (["generate", "x", "--guidance-scale", "t5=5,t5=3"], "'t5=5,t5=3' must give"),
        (["generate", "x", "--guidance-scale", "clip=5"], "'clip=5' must give"),
        (["generate", "x", "--encoders", "clip"], "invalid choice: 'clip'"),
        (["generate", "x", "--encoders"], "expected at least one argument"),
        (["generate", "x", "--encoders", "clip_image"], "--encoders names clip_image, which needs --style-image"),
        (["generate", "--style-image", "a.png", "--encoders", "t5"], "--encoders names t5, which needs a prompt"),
        (
            ["generate", "x", "--guidance-scale", "clip_image=2"],
            "--guidance-scale names clip_image, which needs --style-image",
        ),
        (
            ["generate", "x", "--encoders", "t5", "--guidance-scale", "clip_text=2"],
            "--guidance-scale weights clip_text, which --encoders leaves out",
        ),
        (["generate", "x", "--style-image", "nowhere.png"], "cannot read 'nowhere.png'"),
        (["generate", "x", "--style-image", "file.txt"], "'file.txt' is not an image"),
        (["generate", "x", "--dtype", "int8"], "invalid choice: 'int8'"),
        (["generate", "x", "--model", "./nowhere"], "there is no folder './nowhere'"),
        (["generate", "x", "--model", "nowhere"], "there is no folder 'nowhere'"),
        (["generate", "x", "--model", "folder.png"], "holds no model_index.json"),
        (["info", "--model", "./nowhere"], "there is no folder './nowhere'"),
        (["info", "nowhere.png"], "there is no picture 'nowhere.png'; a model is named with --model"),
        (["info", "folder.png"], "'folder.png' is a folder; for a model say --model folder.png"),
        (["info", "file.txt"], "'file.txt' is not an image"),
        (["info", "file.txt", "--model", "org/name"], "a picture or a --model, not both"),
        (["draw", "x"], "invalid choice: 'draw'"),
        ([], "required: COMMAND"),
    ],
    ids=" ".join,
)
def test_bad_arguments(arguments, message, nothing_loads, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file.txt").write_text("text")
    before = sorted(tmp_path.rglob("*"))
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("ediffi: error: ") and err.count("\n") == 1 and message in err
    assert sorted(tmp_path.rglob("*")) == before


def test_pictures_are_written_in_the_kinds_that_hold_provenance():
    assert PICTURES == tuple(FORMATS)

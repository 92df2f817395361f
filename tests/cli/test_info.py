# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`ediffi info PICTURE`."""

import json

import numpy as np
from PIL import Image

from diffusers_ediffi import PaintRegion, Provenance, save_image
from diffusers_ediffi.cli.main import main
from diffusers_ediffi.paint.regions import region_settings


def test_info_prints_the_provenance_of_a_picture(generate, tmp_path, capsys):
    """On one line each, and nothing that a terminal would obey."""
    generate("--guidance-scale", 3, prompt="ein Apfel über 🚀\n\x1b[31m")
    assert main(["info", str(tmp_path / "out.png")]) == 0
    out, err = capsys.readouterr()
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if not line.startswith("source type"))
    assert err == "" and lines["prompt"] == r'"ein Apfel über 🚀\n\u001b[31m"'
    assert (lines["seed"], lines["guidance_scale"]) == ("3", "3.0") and "trainedAlgorithmicMedia" in out


def test_info_of_a_picture_as_json(generate, tmp_path, capsys):
    """One line of ASCII, whatever the prompt holds."""
    prompt = "ein Apfel über \N{ROCKET}\x7f\xa0\u2028"
    generate("--guidance-scale", 3, prompt=prompt)
    assert main(["info", str(tmp_path / "out.png"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.isascii() and out.count("\n") == 1 and "\x7f" not in out
    picture = json.loads(out)
    assert (picture["file"], picture["settings"]["prompt"]) == (str(tmp_path / "out.png"), prompt)
    assert (picture["settings"]["seed"], picture["settings"]["guidance_scale"]) == (3, 3.0)
    assert "diffusers_ediffi" in picture["software"] and "trained" in picture["digital_source_type"]


def test_info_shows_painted_masks_as_pictures_and_json_has_them(tmp_path, capsys):
    regions = region_settings([PaintRegion("cat", np.eye(9)), PaintRegion("sun", (0, 0, 1, 0.5))])
    save_image(Image.new("RGB", (8, 8)), tmp_path / "a.png", Provenance({"prompt": "cat", "regions": regions}))
    assert main(["info", str(tmp_path / "a.png")]) == 0
    shown = '[{"phrase": "cat", "mask": "picture"}, {"phrase": "sun", "mask": [0.0, 0.0, 1.0, 0.5]}]'
    assert shown in capsys.readouterr().out
    assert main(["info", str(tmp_path / "a.png"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["regions"] == regions

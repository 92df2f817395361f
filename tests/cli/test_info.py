# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`ediffi info PICTURE`."""

from diffusers_ediffi.cli.main import main


def test_info_prints_the_provenance_of_a_picture(generate, tmp_path, capsys):
    """On one line each, and nothing that a terminal would obey."""
    generate("--guidance-scale", 3, prompt="ein Apfel über 🚀\n\x1b[31m")
    assert main(["info", str(tmp_path / "out.png")]) == 0
    out, err = capsys.readouterr()
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if not line.startswith("source type"))
    assert err == "" and lines["prompt"] == r'"ein Apfel über 🚀\n\u001b[31m"'
    assert (lines["seed"], lines["guidance_scale"]) == ("3", "3.0") and "trainedAlgorithmicMedia" in out

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Provenance in the files of pictures: written, read, left out, and what strangers' files may hold."""

import json
import os
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from diffusers_ediffi import Provenance, __version__, read_provenance, save_image
from diffusers_ediffi.images import open_image
from diffusers_ediffi.provenance import (
    MAX_JPEG_BYTES,
    TRAINED_ALGORITHMIC_MEDIA,
    as_json,
    model_name,
)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SETTINGS = {"prompt": "a red car", "seed": 2**63 - 1, "steps": [25, 2], "guidance_scale": 5.5, "model": "org/name"}


def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8))


@pytest.fixture
def save_packet(tmp_path):
    """Saves a picture with an XMP packet of somebody else."""

    def save(packet):
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", packet)
        picture().save(tmp_path / "other.png", pnginfo=text)
        return tmp_path / "other.png"

    return save


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".PNG"])
def test_every_format_says_what_was_written(suffix, tmp_path):
    path = tmp_path / f"picture{suffix}"
    save_image(picture(), path, Provenance(SETTINGS))
    found = read_provenance(path)
    assert found == Provenance(SETTINGS, f"diffusers_ediffi {__version__}", TRAINED_ALGORITHMIC_MEDIA)
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "nothing unfinished is left"
    save_image(open_image(path), tmp_path / "copy.webp", found)
    assert read_provenance(tmp_path / "copy.webp") == found


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_none_writes_none(suffix, tmp_path):
    """Not even where the picture came from a file that had some."""
    save_image(picture(), tmp_path / f"with{suffix}", Provenance(SETTINGS))
    save_image(open_image(tmp_path / f"with{suffix}"), tmp_path / f"without{suffix}", None)
    picture().save(tmp_path / f"plain{suffix}")
    for path in (tmp_path / f"without{suffix}", tmp_path / f"plain{suffix}"):
        with pytest.raises(ValueError, match="says nothing of its provenance"):
            read_provenance(path)
        assert b"red car" not in path.read_bytes() and b"diffusers_ediffi" not in path.read_bytes()


def test_the_pixels_are_those_of_the_picture(tmp_path):
    for name, provenance in (("with.png", Provenance(SETTINGS)), ("without.png", None)):
        save_image(picture(), tmp_path / name, provenance)
        np.testing.assert_array_equal(np.asarray(open_image(tmp_path / name)), np.asarray(picture()))


def test_other_programs_find_the_standard_properties(tmp_path):
    """IPTC's names in Adobe's place, the program's name where PNG has it, and the settings as JSON."""
    save_image(picture(), tmp_path / "out.png", Provenance(SETTINGS))
    with Image.open(tmp_path / "out.png") as image:
        assert image.text["Software"] == f"diffusers_ediffi {__version__}"
        root = ElementTree.fromstring(image.text["XML:com.adobe.xmp"])
    iptc = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
    (description,) = root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    assert description.findtext(f"{iptc}DigitalSourceType") == TRAINED_ALGORITHMIC_MEDIA
    assert json.loads(description.findtext(f"{iptc}AIPromptInformation")) == SETTINGS


TEXTS = {
    "languages": "ein Apfel über 🚀, リンゴ, תפוח",
    "markup": "</x:xmpmeta> <!DOCTYPE a> ]]> &amp; & < > \" ' {settings} %s",
    "lines": "one\ntwo\r\nthree\ttab  ",
    "control characters": "".join(map(chr, [*range(32), *range(0x7F, 0xA0)])),
    "no characters": "\ud800 \udfff \ufffe \uffff \ufdd0 \x1b[31m",
    "long": "a very long prompt " * 100_000,
    "empty": "",
}


@pytest.mark.parametrize("suffix", [".png", ".webp"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_any_text(text, suffix, tmp_path):
    settings = {"prompt": text, text[:50]: [text[:50]]}
    save_image(picture(), tmp_path / f"out{suffix}", Provenance(settings))
    assert read_provenance(tmp_path / f"out{suffix}").settings == settings


def test_a_jpeg_says_when_the_provenance_is_too_long(tmp_path):
    with pytest.raises(ValueError, match=f"a JPEG holds {MAX_JPEG_BYTES} bytes of provenance.*save a PNG"):
        save_image(picture(), tmp_path / "out.jpg", Provenance({"prompt": "x" * MAX_JPEG_BYTES}))
    assert not any(tmp_path.iterdir())
    save_image(picture(), tmp_path / "out.jpg", Provenance({"prompt": "x" * (MAX_JPEG_BYTES - 1000)}))
    assert len(read_provenance(tmp_path / "out.jpg").settings["prompt"]) == MAX_JPEG_BYTES - 1000


@pytest.mark.parametrize(
    ("name", "provenance", "message"),
    [
        ("out.gif", None, "'out.gif' must end in one of .png, .jpg, .jpeg, .webp"),
        ("out", Provenance(), "'out' must end in"),
        ("out.png", Provenance({"seed": float("nan")}), "cannot be written as JSON"),
        ("out.png", Provenance({"mask": np.zeros(2)}), "cannot be written as JSON"),
        ("out.png", Provenance(software="a\0b"), "characters that cannot be written"),
    ],
)
def test_what_cannot_be_written_is_refused(name, provenance, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_image(picture(), tmp_path / name, provenance)
    assert not any(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "out.jpg"
    save_image(picture(), path, Provenance(SETTINGS))
    with pytest.raises(OSError):
        save_image(picture().convert("RGBA"), path, None)
    assert read_provenance(path).settings == SETTINGS and len(list(tmp_path.iterdir())) == 1


def test_none_is_left_out_and_paths_are_refused(tmp_path):
    save_image(picture(), tmp_path / "out.png", Provenance({"prompt": "x", "negative_prompt": None}))
    assert read_provenance(tmp_path / "out.png").settings == {"prompt": "x"}
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        save_image(picture(), tmp_path / "out.png", Provenance({"scene": tmp_path / "scene.json"}))


def test_names_are_no_paths(tmp_path, monkeypatch):
    (tmp_path / "alice" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for model in (tmp_path / "alice" / "model", "alice/model", "alice/model/"):
        assert model_name(str(model)) == "model"
    monkeypatch.chdir(tmp_path / "alice" / "model")
    assert (model_name("."), model_name("org/name"), model_name(None)) == ("model", "org/name", "demo")


def description(attributes="", children=""):
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
        f'xmlns:i="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" {attributes}>{children}</rdf:Description>'
        "</rdf:RDF></x:xmpmeta>"
    )


@pytest.mark.parametrize(
    ("attributes", "children", "expected"),
    [
        ('i:DigitalSourceType="T" xmp:CreatorTool="C"', "", Provenance({}, "C", "T")),
        ("", '<i:DigitalSourceType rdf:resource="T"/>', Provenance({}, "", "T")),
        ("", "<i:AIPromptInformation>a cat</i:AIPromptInformation>", Provenance({"prompt": "a cat"}, "", "")),
        ("", "<i:AIPromptInformation>[1]</i:AIPromptInformation>", Provenance({"prompt": "[1]"}, "", "")),
        ('i:AIPromptInformation="' + "[" * 9999 + '"', "", Provenance({"prompt": "[" * 9999}, "", "")),
    ],
)
def test_files_of_other_programs(save_packet, attributes, children, expected):
    assert read_provenance(save_packet(description(attributes, children))) == expected


BOMB = (
    '<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb">'
    + "".join(f'<!ENTITY b{i} "{f"&b{i - 1 or str()};" * 10}">' for i in range(1, 9))
    + "]>"
)


@pytest.mark.parametrize(
    ("packet", "message"),
    [
        ("<x", "is damaged: unclosed token"),
        ("no XML", "is damaged: syntax error"),
        (BOMB + description("", "<i:AIPromptInformation>&b8;</i:AIPromptInformation>"), "declares entities"),
        (description('xmp:CreatorTool="GIMP"'), "says nothing of its provenance"),
        ("", "says nothing of its provenance"),
    ],
)
def test_damaged_packets(save_packet, packet, message):
    with pytest.raises(ValueError, match=message):
        read_provenance(save_packet(packet))


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    path = tmp_path / "out.png"
    save_image(picture(), path, Provenance(SETTINGS))
    whole = path.read_bytes()
    for damaged in (whole[:-40], whole[:60]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="cannot read|not an image"):
            read_provenance(path)
    path.write_text("text")
    for file, message in ((path, "is not an image"), (tmp_path / "no.png", "cannot read"), (tmp_path, "cannot read")):
        with pytest.raises(ValueError, match=message):
            read_provenance(file)
    path.write_bytes(whole)
    for limit in (50, 150):  # far beyond Pillow's limit and just beyond it
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ValueError, match="decompression bomb"):
            read_provenance(path)


def test_damage_anywhere_is_one_clear_error(tmp_path):
    """Every error that a flipped byte raises is a ValueError, whatever Pillow makes of it."""
    generator = np.random.default_rng(0)
    for suffix in SUFFIXES:
        path = tmp_path / f"out{suffix}"
        save_image(picture(), path, Provenance(SETTINGS))
        whole = path.read_bytes()
        for _ in range(150):
            damaged = bytearray(whole)
            damaged[generator.integers(len(whole))] = generator.integers(256)
            path.write_bytes(damaged[: generator.integers(1, 2 * len(whole))])
            try:
                read_provenance(path)
            except ValueError as error:
                assert str(path) in str(error)


def test_json_is_one_line_of_harmless_characters():
    text = as_json("".join(map(chr, range(0x110)))) + as_json("\u2028\ud800")
    assert not [letter for letter in text if ord(letter) < 32 or 0x7F <= ord(letter) < 0xA0 or letter == "\ud800"]


def test_nothing_of_the_machine_is_written(tmp_path, monkeypatch):
    """Neither the path nor the user's name, whatever the file's name."""
    folder = tmp_path / "home" / "alice_secret"
    folder.mkdir(parents=True)
    monkeypatch.setenv("USER", "alice_secret")
    for suffix in SUFFIXES:
        path = folder / f"holiday_secret{suffix}"
        save_image(picture(), path, Provenance({"prompt": "x"}))
        content = path.read_bytes()
        for private in ("alice_secret", "holiday_secret", str(tmp_path), os.uname().nodename):
            assert private.encode() not in content

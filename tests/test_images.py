# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Pictures in all their forms, and what is refused."""

import http.server
import io
import os
import random
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from helpers import picture
from PIL import Image, PngImagePlugin, TiffImagePlugin

from diffusers_ediffi import PaintRegion, images, read_provenance, regions_from_color_map
from diffusers_ediffi.images import FORMATS, as_pil_images, as_rgb, clip_pixels, image_size, open_image, read_image


def test_images_come_in_many_forms():
    pil = picture()
    array = np.asarray(pil)
    floats = array.astype(np.float32) / 255
    tensor = torch.from_numpy(floats).movedim(-1, 0)
    for form in (pil, array, floats, tensor, [pil], tensor[None], [array]):
        (image,) = as_pil_images(form)
        np.testing.assert_array_equal(np.asarray(image), array)
    assert len(as_pil_images([pil, tensor[None].repeat(2, 1, 1, 1)])) == 3


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (3, "got 3"),
        (np.zeros((4, 4)), r"got shape \(4, 4\)"),
        (torch.zeros(4, 4, 3), r"got shape \(4, 4, 3\)"),
        (np.full((4, 4, 3), 1.5), "must lie in"),
        (np.full((4, 4, 3), np.nan), "must lie in"),
        (np.full((4, 4, 3), 256), "must lie in"),
        (np.zeros((0, 4, 3)), "must lie in"),
    ],
)
def test_what_is_not_an_image_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        as_pil_images(images)


def test_files_keep_their_pixels_and_say_what_is_wrong_with_them(tmp_path):
    picture().save(tmp_path / "picture.png")
    for read in (open_image, read_image):
        np.testing.assert_array_equal(np.asarray(read(tmp_path / "picture.png")), np.asarray(picture()))
        with pytest.raises(ValueError, match="cannot read '.*nothing.png'"):
            read(tmp_path / "nothing.png")
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(ValueError, match="'.*text.png' is not an image"):
        open_image(tmp_path / "text.png")


# --- kinds of files ---


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_picture_of_each_kind_is_read_whatever_its_name(kind, tmp_path):
    exact = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}, "AVIF": {"quality": 100}}
    flat = Image.new("RGB", (16, 12), (200, 40, 40))
    (tmp_path / "a.picture").write_bytes(saved(flat, kind, **exact.get(kind, {})))
    for read in (open_image, read_image):
        found = np.asarray(as_rgb(read(tmp_path / "a.picture"))).astype(int)
        assert found.shape == (12, 16, 3) and abs(found - (200, 40, 40)).max() <= 4
    assert image_size(tmp_path / "a.picture") == (16, 12)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize("kind", ["EPS", "PPM", "TGA", "ICO", "PCX", "JPEG2000"])
def test_other_kinds_are_refused_and_run_no_program(kind, tmp_path, monkeypatch):
    """PostScript would start Ghostscript."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "a.png").write_bytes(POSTSCRIPT if kind == "EPS" else saved(picture(), kind))
    for read in (open_image, read_image, image_size, read_provenance):
        with pytest.raises(ValueError, match="a.png' is not an image; give a PNG, JPEG"):
            read(tmp_path / "a.png")
    assert not (tmp_path / "ran").exists()


def test_a_pipe_is_refused_without_a_wait(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for read in (open_image, read_image, image_size):
        with pytest.raises(ValueError, match="a.png': it is not a regular file"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("kind", FORMATS)
def test_whatever_a_decoder_raises_is_a_value_error_with_the_files_name(kind, tmp_path):
    whole, rng = saved(picture(), kind), random.Random(0)
    for _ in range(100):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 3, 10])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / "a.png").write_bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
        try:
            assert as_rgb(open_image(tmp_path / "a.png")).mode == "RGB"
        except ValueError as error:
            assert type(error) is ValueError and "a.png'" in str(error)


def test_a_tag_of_another_type_and_a_text_that_unpacks_too_far(tmp_path):
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    directory[700], directory.tagtype[700] = 1.5, 11
    text = PngImagePlugin.PngInfo()
    text.add_itxt("parameters", "x" * 3_000_000, zip=True)
    for data in (saved(picture(), "TIFF", tiffinfo=directory), saved(picture(), "PNG", pnginfo=text)):
        (tmp_path / "a.png").write_bytes(data)
        with pytest.raises(ValueError, match="cannot read '.*a.png': "):
            open_image(tmp_path / "a.png")


# --- kinds of pixels ---


def deep(dtype, values):
    return Image.fromarray(np.tile(np.array(values, dtype), (2, 1)))


def with_alpha(mode):
    """Half-transparent black, and a colour that is opaque."""
    image = Image.new("RGBA", (2, 2), (0, 0, 0, 128))
    image.paste((51, 51, 51, 255), (1, 0, 2, 2))
    return image.convert(mode)


def with_a_transparent_value():
    image = Image.new("L", (2, 2), 0)
    image.paste(51, (1, 0, 2, 2))
    image.info["transparency"] = 0
    return image


PIXELS = {
    "16 bits": (deep("<u2", [0, 257 * 51]), (0, 51)),
    "16 bits, white": (deep("<u2", [65535, 30000]), (255, 117)),
    "32 bits": (deep("<i4", [0, 51]), (0, 51)),
    "floats": (deep("<f4", [0, 0.2]), (0, 51)),
    "gray": (Image.fromarray(np.tile(np.uint8([0, 51]), (2, 1))), (0, 51)),
    "bits": (Image.fromarray(np.tile([False, True], (2, 1))), (0, 255)),
    "alpha": (with_alpha("RGBA"), (127, 51)),
    "gray and alpha": (with_alpha("LA"), (127, 51)),
    "premultiplied": (with_alpha("RGBa"), (127, 51)),
    "palette with alpha": (with_a_transparent_value().convert("P"), (255, 51)),
    "a transparent value": (with_a_transparent_value(), (255, 51)),
    "ink": (Image.new("CMYK", (2, 2), (204, 204, 204, 0)), (51, 51)),
    "luminance and colour": (Image.new("YCbCr", (2, 2), (51, 128, 128)), (51, 51)),
}


@pytest.mark.parametrize(("image", "columns"), PIXELS.values(), ids=PIXELS)
def test_pixels_of_each_mode_mean_what_a_viewer_shows(image, columns, tmp_path):
    expected = np.array(columns)[None, :, None].repeat(2, 0).repeat(3, 2)
    (found,) = as_pil_images(image)
    assert found.mode == "RGB" and abs(np.asarray(found).astype(int) - expected).max() <= 1
    if image.mode in ("I;16", "L", "1", "LA", "RGBA", "P", "F", "CMYK"):
        image.save(tmp_path / "a.tiff" if image.mode in ("F", "CMYK") else tmp_path / "a.png")
        (path,) = tmp_path.iterdir()
        assert abs(np.asarray(read_image(path)).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("image", [deep("<i4", [0, 300]), deep("<f4", [0, 1.5]), deep("<f4", [0, np.nan])])
def test_pixels_without_a_meaning_are_refused(image):
    with pytest.raises(ValueError, match="must lie in 0 to"):
        as_pil_images(image)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_everybody_sees_a_picture_as_its_camera_was_held(kind, orientation, tmp_path):
    """As a picture, a mask and a canvas; a picture that was turned since is left alone."""
    exif, stored = Image.Exif(), Image.new("RGB", (16, 8), "white")
    exif[0x0112] = orientation
    stored.paste("black", (0, 0, 8, 8))
    path = tmp_path / "a.picture"
    path.write_bytes(saved(stored, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {})))
    upright = np.asarray(read_image(path))[..., 0] > 128
    dark = {1: np.s_[:, :8], 2: np.s_[:, 8:], 3: np.s_[:, 8:], 4: np.s_[:, :8]}.get(orientation)
    dark = dark or {5: np.s_[:8], 6: np.s_[:8], 7: np.s_[8:], 8: np.s_[8:]}[orientation]
    assert upright.shape == ((8, 16) if orientation < 5 else (16, 8))
    assert not upright[dark].any() and upright.sum() == 64
    for picture_of_file in (Image.open(path), open_image(path)):
        with picture_of_file:
            (given,) = as_pil_images(picture_of_file)
            assert np.array_equal(np.asarray(given)[..., 0] > 128, upright)
            assert np.array_equal(PaintRegion("a", picture_of_file).mask.numpy() > 0.5, upright)
            (region,) = regions_from_color_map(picture_of_file, {"black": "a"})
            assert np.array_equal(region.mask.numpy() < 0.5, upright)
    with Image.open(path) as image:
        turned = image.transpose(Image.Transpose.ROTATE_90)
    assert as_pil_images(turned)[0].size == turned.size


# --- addresses ---


@pytest.fixture
def address(monkeypatch):
    """A server that sends a picture's first bytes, and then one byte at a time or millions, without an end."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            try:
                while not stop.is_set():
                    self.wfile.write(b"\0" * (10**6 if self.path == "/big" else 1))
                    stop.wait(0 if self.path == "/big" else 0.05)
            except OSError:
                pass

        def log_message(self, *_):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    stop = threading.Event()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        stop.set()
        server.shutdown()


def test_an_address_has_a_total_time_and_a_total_size(address, monkeypatch):
    monkeypatch.setattr(images, "MAX_DOWNLOAD_SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"cannot read 'http.*/slow': it has not come within 0.5 seconds"):
        read_image(f"{address}/slow")
    assert time.monotonic() - start < 3
    monkeypatch.setattr(images, "MAX_DOWNLOAD_SECONDS", 30.0)
    monkeypatch.setattr(images, "MAX_DOWNLOAD_BYTES", 2**21)
    with pytest.raises(ValueError, match=r"cannot read 'http.*/big': it sends more than 2097152 bytes"):
        read_image(f"{address}/big")


def test_clip_takes_squares():
    pixels = clip_pixels([picture(), picture().resize((9, 20))], 32)
    assert pixels.shape == (2, 3, 32, 32) and pixels.dtype == torch.float32


def test_reading_a_file_needs_no_pytorch():
    code = """
import sys, diffusers_ediffi.images, diffusers_ediffi.provenance
assert not {"torch", "diffusers", "transformers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16"])
def test_what_is_transparent_shows_the_ground(mode):
    if mode == "P":
        glass = Image.new("P", (2, 2), 0)
        glass.info["transparency"] = 0
    elif mode == "I;16":
        glass = Image.fromarray(np.zeros((2, 2), np.uint16))
        glass.info["transparency"] = 0
    else:
        glass = Image.new(mode, (2, 2), 0)
    assert as_rgb(glass).getpixel((0, 0)) == (255, 255, 255)
    assert as_rgb(glass, ground="#102030").getpixel((1, 1)) == (16, 32, 48)


def test_the_bytes_of_a_file_are_read_as_the_file(tmp_path):
    picture().save(tmp_path / "picture.png")
    content = io.BytesIO((tmp_path / "picture.png").read_bytes())
    np.testing.assert_array_equal(np.asarray(open_image(content)), np.asarray(picture()))
    with pytest.raises(ValueError, match="^row 7 is not an image"):
        open_image(io.BytesIO(b"text"), "row 7")

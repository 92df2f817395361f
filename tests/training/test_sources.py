# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Pictures with captions out of folders and data sets: all forms give the same rows, and what is wrong is named."""

import json
import pickle

import datasets
import numpy as np
import pytest
from helpers_pictures import caption_of, color_of, write_folder, write_metadata
from PIL import Image

from diffusers_ediffi.training import HubImages, ImageFolder, open_pictures
from diffusers_ediffi.training import image_folder as module


def rows_of(source):
    """Caption and colour of each row."""
    pictures = [source[row] for row in range(len(source))]
    return [(picture.caption, picture.image().getpixel((0, 0))) for picture in pictures]


EXPECTED = [(caption_of(i), color_of(i)) for i in range(6)]


def as_jsonl(folder):
    return folder


def captions_of(folder):
    lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "metadata.jsonl").unlink()
    return [json.loads(line)["text"] for line in lines]


def as_csv(folder):
    lines = ["file_name,source,text", *(f'{i}.png,"a, b",{caption}' for i, caption in enumerate(captions_of(folder)))]
    (folder / "metadata.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    return folder


def as_texts(folder):
    for i, caption in enumerate(captions_of(folder)):
        (folder / f"{i}.txt").write_text(f"{caption}\n", encoding="utf-8")
    return folder


def as_folders(folder):
    as_texts(folder)
    (folder / "deep").mkdir()
    for i in (3, 4, 5):
        for suffix in ("png", "txt"):
            (folder / f"{i}.{suffix}").rename(folder / "deep" / f"{i}.{suffix}")
    return folder


def as_saved(folder):
    table = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(folder / ".cache"))
    table.save_to_disk(str(folder.parent / "saved"))
    return folder.parent / "saved"


def as_parquet(folder):
    """Of several captions the first counts."""
    data = [
        {"image": {"bytes": (folder / f"{i}.png").read_bytes()}, "text": [caption, "x"]}
        for i, caption in enumerate(captions_of(folder))
    ]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.List(datasets.Value("string"))})
    (folder.parent / "tables").mkdir()
    datasets.Dataset.from_list(data, features=features).to_parquet(str(folder.parent / "tables" / "train.parquet"))
    return folder.parent / "tables"


@pytest.fixture(autouse=True)
def no_shared_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))


@pytest.mark.parametrize("form", [as_jsonl, as_csv, as_texts, as_folders, as_saved, as_parquet])
def test_all_forms_give_the_same_rows(form, tmp_path):
    source = open_pictures(form(write_folder(tmp_path / "pictures")))
    assert isinstance(source, HubImages) == (form in (as_saved, as_parquet))
    found = rows_of(source)
    assert (sorted(found) if form is as_folders else found) == (sorted(EXPECTED) if form is as_folders else EXPECTED)
    assert rows_of(pickle.loads(pickle.dumps(source))) == found, "worker processes are sent it"


@pytest.mark.parametrize("form", [as_jsonl, as_csv, as_texts, as_saved, as_parquet])
def test_a_fingerprint_changes_with_the_captions_alone(form, tmp_path):
    first, again, other = (write_folder(tmp_path / name / "pictures") for name in ("a", "b", "c"))
    write_metadata(other, {f"{i}.png": caption_of(i if i != 5 else 4) for i in range(6)})
    found, same, changed = (open_pictures(form(folder)).fingerprint() for folder in (first, again, other))
    assert found == same != changed


def test_rows_of_a_csv_may_have_line_breaks_and_blank_lines_between(tmp_path):
    folder = write_folder(tmp_path / "pictures", 2)
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text('text,file_name\r\n"a ""red""\r\ncar",0.png\r\n\r\na cat,1.png', newline="")
    assert [ImageFolder(folder)[i].caption for i in range(2)] == ['a "red"\r\ncar', "a cat"]


def test_rows_are_found_wherever_the_file_is_cut_for_reading(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "pictures")
    whole = ImageFolder(folder).rows.places
    for size in (1, 7, 64):
        monkeypatch.setattr(module, "BYTES_AT_ONCE", size)
        np.testing.assert_array_equal(ImageFolder(folder).rows.places, whole)


def test_captions_may_be_in_another_column_or_missing(tmp_path):
    folder = write_folder(tmp_path / "pictures", 1)
    lines = [{"file_name": "0.png", "title": title} for title in (" a car ", ["first", "second"], None, 3, [])]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = ImageFolder(folder, "title")
    assert [source[row].caption for row in range(5)] == ["a car", "first", "", "", ""]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("", "has no rows"),
        ('{"file_name": "0.png", "caption": "a"}', "no column 'text'; it has 'file_name', 'caption'; name .*caption_"),
        ('{"name": "0.png", "text": "a"}', "no column 'file_name'; it has 'name', 'text'"),
        (
            '{"file_name": "0.png", "text": "a"}\n{"file_name": 3, "text": "a"}',
            "Row 2 of .* has no file_name",
        ),
        ('{"file_name": "0.png", "text": "a"}\n{"file_name"', "Row 2 of .*metadata.jsonl cannot be read"),
        ('{"file_name": "0.png", "text": "a"}\n[1, 2, 3]', "Row 2 of .* is not a JSON object"),
        ('{"file_name": "../0.png", "text": "a"}', "leads out of the folder"),
    ],
)
def test_wrong_metadata_are_refused(metadata, message, tmp_path):
    folder = write_folder(tmp_path / "pictures", 1)
    (folder / "metadata.jsonl").write_text(metadata)
    with pytest.raises(ValueError, match=message):
        rows_of(ImageFolder(folder))


def test_a_folder_without_captions_or_pictures_is_refused(tmp_path):
    folder = write_folder(tmp_path / "pictures", 1)
    (folder / "metadata.jsonl").unlink()
    with pytest.raises(ValueError, match="no captions: write metadata.jsonl .* or a .txt beside each picture"):
        open_pictures(folder)
    write_folder(folder / "train", 1)
    with pytest.raises(ValueError, match="no captions: give the folder in it that has some, '.*train'"):
        open_pictures(folder)
    for path in (folder / "0.png", folder / "train" / "0.png"):
        path.unlink()
    with pytest.raises(ValueError, match="holds no pictures"):
        open_pictures(folder)
    for find in (ImageFolder, open_pictures):
        with pytest.raises(ValueError, match="no folder '.*missing'"):
            find(tmp_path / "missing")
    (folder / "metadata.csv").write_text('file_name,text\n"0.png,a car\n')
    with pytest.raises(ValueError, match=r"metadata.csv cannot be read behind byte 15"):
        open_pictures(folder)


def test_a_data_set_is_refused_by_what_it_lacks(tmp_path):
    saved = as_saved(write_folder(tmp_path / "pictures"))
    with pytest.raises(ValueError, match="no column 'caption'; it has 'image', 'text'; .* as caption_column"):
        HubImages(str(saved), caption_column="caption")
    with pytest.raises(ValueError, match="The column 'text' of .* holds no images"):
        HubImages(str(saved), image_column="text")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="The data set .*empty.* cannot be loaded"):
        HubImages(str(tmp_path / "empty"))


def test_a_folder_needs_no_library_and_a_data_set_says_which(tmp_path, monkeypatch):
    for name in ("datasets", "webdataset"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    assert rows_of(open_pictures(write_folder(tmp_path / "pictures"))) == EXPECTED
    with pytest.raises(ImportError, match=r"'org/name' is not a folder .* pip install .*\[data\]"):
        open_pictures("org/name")
    with pytest.raises(ImportError, match=r"need the library webdataset, .*\[data\]"):
        open_pictures("a.tar")


def test_a_text_that_is_not_utf8_is_refused(tmp_path):
    folder = as_texts(write_folder(tmp_path / "pictures"))
    (folder / "2.txt").write_bytes(b"caf\xe9 ")
    with pytest.raises(ValueError, match="2.txt is not UTF-8"):
        ImageFolder(folder)[2]


def test_pictures_that_are_no_files_are_refused(tmp_path):
    folder = write_folder(tmp_path / "pictures", 1)
    write_metadata(folder, {"missing.png": "a car", "deep": "a cat"})
    (folder / "deep").mkdir()
    for row in (0, 1):
        with pytest.raises(ValueError, match="cannot read '.*': there is no such file"):
            ImageFolder(folder)[row].image()


def test_pictures_that_are_turned_or_have_other_modes_are_read_as_everywhere(tmp_path):
    """16 bits, CMYK, gray, a palette, an alpha on a ground, and what the camera says of its angle."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    turned = Image.new("RGB", (4, 2), "red")
    turned.paste("blue", (0, 0, 2, 2))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(folder / "turned.png", exif=exif)
    Image.fromarray(np.full((2, 4), 0x8000, np.uint16)).save(folder / "deep.png")
    Image.new("CMYK", (4, 2), (0, 255, 255, 0)).save(folder / "print.jpg", quality=100)
    Image.new("L", (4, 2), 77).save(folder / "gray.png")
    Image.new("LA", (4, 2), (77, 0)).save(folder / "glass.png")
    write_metadata(folder, {path.name: "a" for path in sorted(folder.iterdir())})
    source = ImageFolder(folder)
    seen = {source[i].name: source[i].image("#123456") for i in range(len(source))}
    assert seen["turned.png"].size == (2, 4) and seen["turned.png"].getpixel((0, 0)) == (0, 0, 255)
    assert seen["deep.png"].getpixel((0, 0)) == (128, 128, 128)
    assert np.abs(np.subtract(seen["print.jpg"].getpixel((0, 0)), (255, 0, 0))).max() <= 3
    assert seen["gray.png"].getpixel((0, 0)) == (77, 77, 77)
    assert seen["glass.png"].getpixel((0, 0)) == (0x12, 0x34, 0x56)


def test_a_folder_with_one_caption_for_all(tmp_path):
    write_folder(tmp_path / "a", 3)
    (tmp_path / "a" / "metadata.jsonl").unlink()
    source = ImageFolder(tmp_path / "a", caption="a zorb")
    assert [(source[i].name, source[i].caption) for i in range(3)] == [(f"{i}.png", "a zorb") for i in range(3)]
    assert source.unnamed() == [] and source.chunks == (3,)
    assert source.fingerprint() != ImageFolder(tmp_path / "a", caption="a zarb").fingerprint()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        ImageFolder(tmp_path / "empty", caption="a zorb")


def test_a_name_too_long_for_a_file_is_no_such_file(tmp_path):
    row = {"file_name": "x" * 3000 + ".png", "text": "a cat"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(ValueError, match=r"cannot read 'x+.*there is no such file"):
        open_pictures(tmp_path)[0].image()

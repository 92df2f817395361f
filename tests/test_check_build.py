# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`.ci/check_build` on small archives: what is missing or too much is named. `.ci/run` builds the real ones."""

import importlib.machinery
import importlib.util
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "check_build"
FILES = {"src/p/__init__.py": b"", "src/p/assets/a.json": b"{}", "LICENSE": b"law", "NOTICE": b"n", "tests/t.py": b"t"}
METADATA = b"Name: p\nLicense-Expression: Apache-2.0\nDescription-Content-Type: text/markdown\n"


@pytest.fixture
def script(monkeypatch):
    if not SCRIPT.is_file():
        pytest.skip("the folder .ci is not part of this copy")
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    loader = importlib.machinery.SourceFileLoader("check_build", str(SCRIPT))
    spec = importlib.util.spec_from_loader("check_build", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def root(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def wheel_of(folder, **changes):
    """A wheel of the files; `None` leaves one out."""
    info = "p-1.dist-info"
    files = {
        "p/__init__.py": b"",
        "p/assets/a.json": b"{}",
        f"{info}/METADATA": METADATA,
        f"{info}/licenses/LICENSE": b"law",
        f"{info}/licenses/NOTICE": b"n",
    }
    path = folder / f"{len(changes)}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**files, **changes}.items():
            if content is not None:
                archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({}, None),
        ({"p/assets/a.json": None}, "the wheel lacks p/assets/a.json: see MANIFEST.in and package_data in setup.py."),
        ({"tests/t.py": b""}, "the wheel holds tests/t.py, which git does not know there."),
        ({"p/__pycache__/a.pyc": b""}, "the wheel holds p/__pycache__/a.pyc, which git does not know there."),
        ({"p/assets/a.json": b"[]"}, "p/assets/a.json of the wheel is not the one in src/."),
        ({"p-1.dist-info/licenses/NOTICE": None}, "the wheel does not come with NOTICE."),
        (
            {"p-1.dist-info/METADATA": METADATA.replace(b"Apache-2.0", b"MIT")},
            "License-Expression of the wheel is 'MIT', not 'Apache-2.0'.",
        ),
    ],
)
def test_a_wheel_holds_what_stands_in_src(script, root, changes, error):
    assert script.wheel_errors(wheel_of(root, **changes), root, list(FILES)) == ([error] if error else [])


@pytest.mark.parametrize(
    ("more", "less", "errors"),
    [
        ((), (), []),
        (("PKG-INFO", "src/p.egg-info/SOURCES.txt"), (".github/x.yml",), []),
        (("secret.txt",), (), ["the sdist holds secret.txt, which git does not know there."]),
        ((), ("tests/t.py",), ["the sdist lacks tests/t.py: see MANIFEST.in and package_data in setup.py."]),
    ],
)
def test_an_sdist_holds_the_repository(script, root, more, less, errors):
    path = root / "p.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in [*(name for name in FILES if name not in less), *more]:
            archive.addfile(tarfile.TarInfo(f"p-1/{name}"), io.BytesIO())
    assert script.sdist_errors(path, [*FILES, ".github/x.yml"]) == errors


def test_two_wheels_are_compared_by_content(script, root):
    one, other = wheel_of(root), wheel_of(root, **{"p/assets/a.json": b"[]", "p/new.py": b""})
    assert script.different_parts(one, one) == []
    assert script.different_parts(one, other) == ["p/assets/a.json", "p/new.py"]

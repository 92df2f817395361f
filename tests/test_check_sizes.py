# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`.ci/check_sizes` on small repositories: what would swell the history is refused."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "check_sizes"
ASSET = "src/diffusers_ediffi/assets/demo/weights.safetensors"


@pytest.fixture
def repository(tmp_path):
    """A repository with a commit; a call of it commits files (`None` removes one) and returns the commit's hash."""

    def git(*arguments):
        identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    def commit(files):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink() if content is None else path.write_bytes(content)
        git("add", "--all")
        git("commit", "--quiet", "--message", "A change")
        return git("rev-parse", "HEAD")

    git("init", "--quiet")
    commit.base = commit({"README.md": b"Small.", ASSET: b"0"})
    return commit


@pytest.fixture
def check(tmp_path):
    def run(*arguments):
        command = [sys.executable, str(SCRIPT), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    return run


def test_a_small_change_with_a_large_asset_passes(repository, check):
    repository({"README.md": b"Larger.", ASSET: bytes(2_000_000)})
    assert check(repository.base).returncode == 0 and check().returncode == 0


def test_a_large_file_is_refused_by_name(repository, check):
    repository({"docs/a picture ä.png": bytes(1_000_001)})
    for arguments in ((), (repository.base,)):
        done = check(*arguments)
        assert done.returncode == 1 and "docs/a picture ä.png has 1000001 bytes" in done.stderr


def test_a_large_file_that_was_removed_again_is_in_the_history(repository, check):
    repository({"docs/film.gif": bytes(1_000_001)})
    repository({"docs/film.gif": None})
    assert check().returncode == 0
    done = check(repository.base)
    assert done.returncode == 1 and "docs/film.gif" in done.stderr


def test_many_pictures_are_refused_together_where_the_tree_still_has_them(repository, check):
    pictures = {f"docs/{number}.{'png' if number % 2 else 'SVG'}": bytes([number]) * 999_000 for number in range(10)}
    repository(pictures)
    assert check().returncode == 0
    repository({"docs/last.jpg": bytes(20_000)})
    done = check()
    assert done.returncode == 1 and "all pictures have 10010000 bytes together, more than 10000000" in done.stderr
    repository({"docs/0.SVG": None, "docs/data.json": bytes(900_000)})
    assert check(repository.base).returncode == 0


def test_a_second_version_of_an_asset_is_refused(repository, check):
    first = repository({ASSET: b"1"})
    repository({ASSET: b"2"})
    done = check(repository.base)
    assert done.returncode == 1 and f"{ASSET} has 2 new versions in this change" in done.stderr
    assert check(first).returncode == 0


def test_an_unknown_base_is_an_error(repository, check):
    done = check("nowhere")
    assert done.returncode == 1 and "nowhere" in done.stderr

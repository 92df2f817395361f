# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The Python blocks of each page run in order, as a reader pastes them into one session."""

import ast
import contextlib
import inspect
from collections.abc import Iterator

import pytest
from helpers_docs import PAGES, blocks, inline_code

import diffusers_ediffi
from diffusers_ediffi.training import PictureSettings, SceneDataset, select_pictures

# README's run with its commands, in test_commands.py.
PAGES_ALONE = [page for page in PAGES if page != "README.md"]
TRAINING = (SceneDataset, PictureSettings, select_pictures)
UPLOAD = diffusers_ediffi.EDiffIPipeline.push_to_hub  # of all classes that go to the Hub
WITH_PYTHON = [page for page in PAGES_ALONE if any(block.language == "python" for block in blocks(page))]


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_blocks_run_in_order(page, reader):
    reader(page, shell=False).read()


# --- calls and arguments in the text ---


def signatures(thing) -> Iterator[inspect.Signature]:
    """Of a public name, and of the methods that it has itself."""
    things = [thing, *vars(thing).values()] if isinstance(thing, type) else [thing]
    for found in things:
        found = getattr(found, "__func__", found)
        if callable(found):
            with contextlib.suppress(ValueError, TypeError):
                yield inspect.signature(found)


def parameters_of_public_names() -> set[str]:
    """The names of all arguments that anything public takes, and some of diffusers and PyTorch."""
    public = [getattr(diffusers_ediffi, name) for name in diffusers_ediffi.__all__ if not name.startswith("__")]
    things = (*public, *TRAINING, UPLOAD)
    found = {name for thing in things for found in signatures(thing) for name in found.parameters}
    return found | {"custom_pipeline", "trust_remote_code", "weights_only"}


def keywords_of(code: str) -> set[str]:
    """The arguments that inline code names: of a call of ours, or `name=value` alone; else none."""
    for text in (code, f"call({code})"):
        with contextlib.suppress(SyntaxError):
            call = ast.parse(text, mode="eval").body
            if isinstance(call, ast.Call) and (text == code or not call.args):
                return {keyword.arg for keyword in call.keywords if keyword.arg and keyword.arg.islower()}
    return set()


@pytest.mark.parametrize("page", PAGES)
def test_arguments_in_the_text_exist(page):
    known = parameters_of_public_names()
    for code in inline_code(page):
        unknown = sorted(keywords_of(code.text) - known)
        assert not unknown, f"{code.place}: nothing public takes {unknown} of `{code.text}`"

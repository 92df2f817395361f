# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Imports point down only: what a module of the package may import of the package, and nothing else."""

import ast
from pathlib import Path

import diffusers.pipelines
import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "diffusers_ediffi"

# The house from the ground up: a room or file imports what stands on the floors below it, and a file what is in its
# room; nothing on its floor outside of that.
FLOORS = (
    {"checks"},
    {"files", "edm", "discrete_time", "phrases", "images"},
    {"demo", "models", "schedulers", "foreign_pipelines", "provenance"},
    {"experts", "paint", "attention_record"},
    {"pipelines", "training", "attention_recorder"},
    {"__init__"},
    {"evaluation"},
    {"space"},
    {"cli"},
    {"__main__"},
)


def imports_of(path):
    """Absolute names of everything a file imports, at the top or inside of functions."""
    package = ["diffusers_ediffi", *path.relative_to(PACKAGE).parts[:-1]] if PACKAGE in path.parents else []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from . import edm` imports a module, `from .edm import c_in` names one
            yield from ([f"{module}.{alias.name}" for alias in node.names] if node.module is None else [module])


def module_name(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def room_of(name):
    """The room or file at the top of the package that a module is in; public names are `__init__`'s."""
    first = name.split(".")[0]
    return first if first and (PACKAGE / first).is_dir() or (PACKAGE / f"{first}.py").is_file() else "__init__"


def floor_of(room):
    found = [number for number, floor in enumerate(FLOORS) if room in floor]
    assert found, f"{room} is new: say in FLOORS on which floor it stands"
    return found[0]


def our_imports(path):
    """The modules of the package that a file imports. Everybody may ask for the version, which stands in `__init__`
    before all its imports."""
    for imported in imports_of(path):
        if imported.split(".")[0] == "diffusers_ediffi" and imported != "diffusers_ediffi.__version__":
            yield imported.removeprefix("diffusers_ediffi").removeprefix(".")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_name)
def test_imports_point_down(path):
    here = room_of(module_name(path))
    there = {room_of(name) for name in our_imports(path)} - {here}
    forbidden = sorted(room for room in there if floor_of(room) >= floor_of(here))
    assert not forbidden, f"{module_name(path)} must not import {forbidden}"


def test_no_module_imports_itself_by_way_of_others():
    graph = {module_name(path): set(our_imports(path)) for path in PACKAGE.rglob("*.py")}
    done: set[str] = set()

    def visit(name, trail):
        assert name not in trail, f"a cycle: {' -> '.join([*trail[trail.index(name) :], name])}"
        if name in graph and name not in done:
            for imported in sorted(graph[name]):
                visit(imported, [*trail, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])


@pytest.mark.parametrize("room", sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()))
def test_diffusers_has_no_pipeline_of_a_rooms_name(room):
    """diffusers takes the folder of a component's module for one of its own pipelines, where it has one of that name,
    and would save the component under it."""
    assert not hasattr(diffusers.pipelines, room)


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda path: path.stem)
def test_no_test_imports_another_test(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not any(name.startswith(("test_", "conftest")) for name in names), "put what tests share into helpers"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").rglob("*.py")), ids=lambda path: path.name)
def test_examples_use_public_names(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diffusers_ediffi"):
            private = [alias.name for alias in node.names if alias.name.startswith("_")]
            assert not private, f"{path.name} imports {private} of {node.module}"

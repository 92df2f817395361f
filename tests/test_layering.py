# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Imports point down only: what a module of the package may import of the package, and nothing else."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "diffusers_ediffi"

# The first pattern that fits a module decides; both sides are regular expressions over names below diffusers_ediffi.
MAY_IMPORT = {
    r"edm|attention|conditioning|low_res|training\.degradation|demo\.grounds|demo\.checkpoint": r"(?!)",
    r"discrete_time|expert_adapter|expert_files|offload|unet_interface": r"(?!)",
    r"lora_experts": r"expert_files",
    r"demo\.styles": r"demo\.grounds",
    r"demo\.scenes": r"demo\.(grounds|styles)",
    r"expert_tree": r"edm",
    r"scheduling_edm_deis": r"discrete_time|edm",
    r"unet": r"attention|conditioning|edm",
    r"router": r"unet|discrete_time|expert_adapter|expert_files|lora_experts|offload|unet_interface",
    r"regions": r"(?!)",
    r"provenance": r"__version__|regions",
    r"painting": r"attention|regions",
    r"paint_with_words": r"painting|regions",
    r"attention_mass": r"painting",
    r"attention_recorder": r"attention|conditioning|paint_with_words|painting|regions",
    r"prompt_schedule": r"regions",
    r"style": r"conditioning|provenance",
    r"pipeline_inputs": r"conditioning|discrete_time|prompt_schedule",
    r"guidance": r"conditioning|edm|pipeline_inputs",
    r"pipeline_encoders": r"conditioning|pipeline_inputs|regions|style",
    r"pipeline_paintings": r"conditioning|paint_with_words|painting|pipeline_inputs|prompt_schedule",
    r"pipeline_ediffi": r"conditioning|guidance|low_res|paint_with_words|painting|pipeline_encoders|pipeline_inputs|"
    r"pipeline_paintings|prompt_schedule|router|style|unet",
    r"image_start": r"conditioning|pipeline_inputs|regions",
    r"pipeline_ediffi_img2img": r"image_start|pipeline_ediffi|pipeline_inputs",
    r"pipeline_ediffi_inpaint": r"image_start|pipeline_ediffi|pipeline_ediffi_img2img|pipeline_inputs",
    r"training(\..+)?": r"training\..+|edm|expert_tree|conditioning|lora_experts|low_res|paint_with_words|painting|"
    r"provenance|regions|unet|router",
    r"demo(\..+)?": r"demo\..+|edm|low_res",
    r"evaluation(\..+)?": r"evaluation\..+|(?!cli|training).+",
    r"__init__|__main__|cli": r".*",
}


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


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_name)
def test_imports_point_down(path):
    name = module_name(path)
    rule = next((rule for pattern, rule in MAY_IMPORT.items() if re.fullmatch(pattern, name)), None)
    assert rule is not None, f"{name} is new: say in MAY_IMPORT what it may import"
    ours = [
        imported.removeprefix("diffusers_ediffi.") for imported in imports_of(path) if "diffusers_ediffi" in imported
    ]
    forbidden = [imported for imported in ours if not re.fullmatch(rule, imported)]
    assert not forbidden, f"{name} must not import {forbidden}"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_use_public_names(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diffusers_ediffi"):
            private = [alias.name for alias in node.names if alias.name.startswith("_")]
            assert not private, f"{path.name} imports {private} of {node.module}"


def test_listed_names_exist():
    import diffusers_ediffi

    for name in diffusers_ediffi.__all__:
        assert getattr(diffusers_ediffi, name).__doc__

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Every script of examples/ and benchmarks/ explains itself, shows how it is started, and says in one line what is
wrong with an argument or a file."""

import ast
import runpy
import sys

import pytest
from helpers_examples import EXAMPLES, ROOT, scripts

# Beyond what installing the package brings.
OTHER_LIBRARIES = ("markdown_it", "matplotlib", "nbclient", "nbformat", "scipy.integrate")
every_script = pytest.mark.parametrize("path", scripts(), ids=lambda path: path.relative_to(ROOT).as_posix())


@pytest.fixture
def ended(monkeypatch, capsys):
    """Runs a script as from the command line; returns its exit code and what it printed and complained."""
    names = [script.stem for script in scripts()]  # some stand in two folders
    imported = {name: sys.modules.pop(name) for name in names if name in sys.modules}

    def run(path, *arguments):
        monkeypatch.setattr(sys, "argv", list(map(str, [path, *arguments])))
        monkeypatch.syspath_prepend(str(path.parent))
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(path), run_name="__main__")
        printed = capsys.readouterr()
        return stop.value.code, printed.out, printed.err

    yield run
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(imported)


@every_script
def test_help_needs_no_other_library(path, ended, monkeypatch):
    for name in OTHER_LIBRARIES:
        monkeypatch.setitem(sys.modules, name, None)
    code, out, err = ended(path, "--help")
    assert code == 0 and f"usage: {path.name}" in out and not err


@every_script
@pytest.mark.parametrize("arguments", [["--no-such-option"], ["--output"]])
def test_a_wrong_argument_is_answered_in_one_line(path, arguments, ended):
    code, out, err = ended(path, *arguments)
    assert code == 2 and not out
    assert err.startswith("error: ") and err.endswith(f"(see {path.name} --help)\n") and err.count("\n") == 1


@every_script
def test_a_device_that_cannot_be_used_is_named_in_one_line(path, ended):
    _, options, _ = ended(path, "--help")
    code, out, err = ended(path, "--device", "nonsense")
    assert code == 2 and not out and err.startswith("error: ") and err.count("\n") == 1
    assert ("argument --device: device 'nonsense' is not usable here: " in err) == ("--device" in options)


def wrong_values(path, nowhere):
    """Arguments that only the script itself can refuse."""
    room, output = path.parent.name, ["--output", nowhere / "out.png"]
    return {
        "draw": [*output, "--model", nowhere],
        "evaluate": [*output, "--objects", nowhere],
        "demo": [*output, "--objects", nowhere],
        "hub": [nowhere],
        "notebooks": [nowhere],
        "training": ["--output_dir", nowhere / "out", "--train_data_dir", nowhere],
        "benchmarks": [] if path.stem.startswith("space") else ["--calls", "0"],
        "conversion": ["--output", nowhere / "out"],
    }[room] + {
        "compare_experts": ["--networks", f"a={nowhere}"],
        "compare_discrete_samplers": ["--images", nowhere],
        "compare_samplers": [],
        "evaluate_schedulers": ["--model", "a", "--captions", nowhere, "--reference", nowhere],
        "from_diffusers_unets": ["--unets", nowhere, nowhere, "--boundaries", "1"],
        "from_deepfloyd_if": ["--stage-1", nowhere],
        "from_edm": ["--checkpoint", nowhere],
        "from_guided_diffusion": ["--checkpoint", nowhere],
        "from_karlo": ["--model", nowhere],
        "from_training_checkpoint": ["--checkpoint", nowhere, "--preset", "adm64"],
        "conversion_memory": ["--converters", nowhere],
        "evaluate_new_object": [*("--tuned", nowhere, "--train_data_dir", nowhere, "--phrase", "x")],
        "evaluate_layout_coco": ["--model", nowhere, "--captions", nowhere, "--annotations", nowhere],
        "loading": [],
        "space": ["access", "--axe", nowhere],
        "space_tabs": ["--output", nowhere.with_name("out"), "--axe", nowhere],
        "plan_for_gpus": ["--seconds_per_step", "1"],
        "make_new_object": ["--picture", nowhere],
        "make_object_folder": ["--noto-emoji", nowhere],
        **dict.fromkeys(("paint_with_words_sd", "deepfloyd_if", "karlo", "sdxl_two_experts"), ["--prompt", "a cat"]),
        "paper_size": ["--device", "cpu"],
        "prompt_schedule": ["--pair", "a cat", "a dog"],
        "train_base": ["--encoders", nowhere],
        "train_experts": ["two-experts", "--encoders", nowhere],
        "train_experts_from_unet": ["--pretrained_model_name_or_path", nowhere, "--boundaries", "1"],
        "train_on_gpu": ["base", "--model", nowhere, "--seconds", "base-low=1", "--device", "cpu"],
        "train_sr": ["--stage", "sr256", "--encoders", nowhere],
    }.get(path.stem, [])


@every_script
def test_a_wrong_value_is_answered_in_one_line_before_anything_is_written(path, ended, tmp_path):
    code, out, err = ended(path, *wrong_values(path, tmp_path / "nowhere"))
    assert code == 2 and not out
    assert err.startswith("error: ") and err.count("\n") == 1
    assert "nowhere" in err or "--calls" in err
    assert not any(tmp_path.iterdir())


def test_a_missing_library_is_named_with_its_remedy(ended, monkeypatch, tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "EDiffIPipeline"}')
    for name in OTHER_LIBRARIES:
        monkeypatch.setitem(sys.modules, name, None)
    for name, arguments, remedy in (
        ("evaluate/compare_samplers", [], "pip install scipy"),
        ("hub/prepare_hub_repo", [tmp_path, "--model-card", ROOT / "model_card.md"], "pip install markdown-it-py"),
    ):
        code, out, err = ended(EXAMPLES / f"{name}.py", *arguments)
        assert code == 2 and not out and err.startswith("error: ") and remedy in err and err.count("\n") == 1


@every_script
def test_launch_command_stands_at_the_top(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring and path.relative_to(ROOT).as_posix() in docstring


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.name)
def test_no_script_imports_another(path):
    names = {script.stem for script in scripts()}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not names & set(imported), "what scripts share belongs into the helper file of their folder"

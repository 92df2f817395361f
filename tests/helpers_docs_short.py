# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""How the commands of the documentation are made short, and which of its blocks do not run here."""

import shlex
from collections.abc import Sequence
from pathlib import Path

_SCENES = "--num-objects 4 --object-weights 0.5 0.5"
_TRAINING = "--batch-size 2 --num-samples 2 --threads 1"
_EVALUATION = "--num-prompts 4 --num-style-prompts 4 --num-sr256 4 --num-sr1024 2 --steps 1 --batch-size 2"
_NETWORKS = ("base", "base-high", "base-middle", "base-low", "sr256", "sr256-low", "sr1024")

# What is appended to each command of a program or script: the last of several values of an option counts.
SHORT_FORMS = {
    "ediffi generate": "--size 64 --steps 2",
    "ediffi paint": "--size 64 --steps 2",
    "ediffi edit": "--size 64 --steps 2",
    "ediffi evaluate": "--metrics clip_score --clip demo",
    "attention_recorder.py": "--calls 1 --width 0.25 --size 16",
    "capacity.py": "--calls 1 --layers 1 2 --experts 2",
    "conversion_memory.py": "--gigabytes 0.02",
    "guidance.py": "--calls 1 --steps 2",
    "loading.py": "--gigabytes 0.02",
    "paint_with_words.py": "--calls 1 --width 0.25 --size 16",  # of benchmarks/
    "router.py": "--calls 1",
    "training.py": "--calls 1 --pictures 2 --items 2 --rows 100",
    "draw/deepfloyd_if.py": "--steps 1 1",
    "draw/karlo.py": "--steps 1 1 --prior-steps 2",
    "draw/sdxl_two_experts.py": "--steps 1 --height 16 --width 16",
    "draw/draw_grid.py": "--size 64 --prompts 'a red car' --columns 1",
    "draw/image_to_image.py": "--size 64 --steps 2 --seeds 0 --strengths 0.5",
    "draw/inpaint.py": "--size 64 --steps 2 --seeds 0",
    "draw/paint_with_words.py": "--size 64 --seeds 0 --strengths 1",
    "draw/paint_with_words_sd.py": "--steps 2",
    "draw/prompt_schedule.py": "--steps 2 --left 0 100 --num-pairs 1",
    "draw/record_attention.py": "--steps 2 --num-prompts 2 --batch-size 2",
    "draw/style_transfer.py": "--size 64 --seeds 3 --scales 0",
    "draw/variations.py": "--size 64 --seeds 0",
    "demo/train_base.py": f"{_TRAINING} --total-steps 1",
    "demo/train_clip.py": "--steps 1 --batch-size 4 --num-captions 200 --num-held-out 4",
    "demo/train_demo.py": f"--stages clip t5 {' '.join(_NETWORKS)} assemble "
    f"--steps {' '.join(f'{stage}=1' for stage in ('clip', 't5', *_NETWORKS))}",
    # As many steps as the longest of examples/demo/schedules has here; the shipped schedules have thousands.
    "demo/train_experts.py": f"{_TRAINING} --max-steps-this-run 8",
    "demo/train_scorer.py": "--steps 1 --batch-size 4 --num-held-out 8",
    "demo/train_sr.py": f"{_TRAINING} --total-steps 1 --crop 64",
    "demo/train_t5.py": "--steps 1 --batch-size 4 --num-captions 200 --num-held-out 8",
    "training/train_experts_from_unet.py": "--resolution 8 --max_train_steps 1 --validation_steps 0",
    "training/train_ediffi.py": "--max_train_steps 1 --train_batch_size 1",
    "training/train_ediffi_lora.py": "--max_train_steps 1 --train_batch_size 1 --num_validation_images 1",
    "training/train_ediffi_dreambooth.py": "--max_train_steps 1 --train_batch_size 1 --num_class_images 1 "
    "--num_validation_images 1",
    "evaluate/evaluate_new_object.py": "--num-prompts 1 --num-known-prompts 2 --steps 1",
    "evaluate/compare_experts.py": f"{_EVALUATION} --num-loss-scenes 2 --patches-per-image 2 --guidance-scales 1",
    "evaluate/compare_discrete_samplers.py": "--steps 2 --reference 2 --images 1",
    "evaluate/compare_samplers.py": "--nfe 8 --demo-nfe 4 --images 1",
    "evaluate/paper_in_miniature.py": "--num-seeds 1 --num-prompts 4 --num-large 2 --scales 2 --calls 1 --steps 1",
    "evaluate/evaluate_demo.py": f"{_EVALUATION} --patches-per-image 2",
    "evaluate/evaluate_layout.py": f"{_EVALUATION} --strengths 0 0.2",
    "evaluate/evaluate_layout_coco.py": "--strengths 0 --num-captions 1 --steps 2",
    "evaluate/evaluate_schedulers.py": "--num-captions 2 --steps 2 --metrics clip_score --clip runs/encoders "
    "--feature-network demo",
    "evaluate/write_scene_set.py": "--count 16",
    "evaluate/guidance_table.py": f"{_EVALUATION} --scales 1 --settings plain --curves both",
}

# Scripts that run with --all-docs alone, since even their short forms take minutes.
LONG = ("demo/train_demo.py", "space.py")

# Blocks that do not run, by page and a line of them, each with the reason.
_NO_TOKEN = (
    "it writes to the Hub; tests/files/test_hub.py does so to one on this machine, and tests/test_hub.py loads it"
)
NOT_RUN = {
    ("docs/hub.md", 'pipe.push_to_hub("org/name")'): _NO_TOKEN,
    ("docs/hub.md", 'EDiffIPipeline.from_pretrained("org/name")'): _NO_TOKEN,
    ("docs/hub.md", 'pipe.unet = ExpertRouterUNet.from_pretrained("org/experts")'): _NO_TOKEN,
    ("docs/releasing.md", 'pipe.push_to_hub("org/ediffi-demo", commit_message="diffusers_ediffi X.Y.Z")'): _NO_TOKEN,
    ("docs/releasing.md", "pip install twine && twine check --strict dist/*"): "it takes minutes, and .ci/run builds",
    ("docs/releasing.md", "python -m venv fresh && fresh/bin/pip install -c constraints.txt dist/*.whl"): "the same",
    ("docs/space.md", "ediffi space"): "it serves until it is stopped; tests/space/test_browser.py starts it",
    ("docs/space.md", 'launch(build_app("org/name"))'): "the same",
    ("docs/space.md", "npm install axe-core"): "needs a network, and the checks a browser and half an hour",
    ("CONTRIBUTING.md", "git clone <your fork> && cd diffusers_ediffi"): ".ci/run does the same, from the clone on",
    ("CONTRIBUTING.md", "pytest tests/experts"): "the tests would run themselves",
    ("CONTRIBUTING.md", "sphinx-build -q -W --keep-going -c docs/site . build/site"): ".ci/run builds the site",
    ("README.md", 'pip install -c constraints.txt ".[test]" && pytest -n 2'): "the last line of .ci/run is this one",
    ("docs/safety.md", "pytest tests/fuzz --fuzz-cases 20000"): "the suite runs the same with fewer cases",
    (
        "docs/training.md",
        "ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 examples/training/train_ediffi.py \\",
    ): "needs GPUs and two machines; tests/training runs the like: test_launch.py, two_machines.py, kill_runs.py",
    ("docs/experts.md", "pipe.enable_model_cpu_offload()"): "needs a GPU",
    ("docs/memory.md", "pipe.enable_model_cpu_offload()"): "needs a GPU",
}

# What needs a network, and what lies in the folder of a page instead of it.
FETCHED = {
    "github.com/googlefonts/noto-emoji": "noto-emoji",
    "images.cocodataset.org/annotations": "annotations",
    "annotations_trainval2017.zip": "annotations",
}


def short_form(words: Sequence[str]) -> list[str]:
    """The words of a command with what makes it short."""
    name = " ".join(words[:2]) if words[0] == "ediffi" else _script(words[1])
    return [*words, *shlex.split(SHORT_FORMS.get(name, ""))]


def is_long(words: Sequence[str]) -> bool:
    """Whether a command is none for the fast tests."""
    return words[0] == "python" and _script(words[1]) in LONG


def _script(path: str) -> str:
    """The name of a script of examples/ with its folder, or of benchmarks/ alone."""
    parts = Path(path).parts
    return parts[-1] if "benchmarks" in parts else "/".join(parts[-2:])


def reason_not_to_run(page: str, text: str) -> str | None:
    """Why a block does not run here, where it does not."""
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    found = [reason for (of_page, line), reason in NOT_RUN.items() if of_page == page and line in lines]
    return found[0] if found else None

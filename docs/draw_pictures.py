# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Draw the pictures of README, model card and docs anew, each by the command that stands beside it.

    python docs/draw_pictures.py docs/rocket.jpg docs/grid.png
    python docs/draw_pictures.py --list

Without names it draws those that take minutes; `--all` draws those that take hours as well. Commands with
`noto_objects` need the folder that examples/demo/make_object_folder.py makes, plots need matplotlib. Whoever draws a
plot anew writes the figures beside it anew, too.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCENES = (
    '--ground-kinds plain landscape --object-weights 0.6 0.4 --phrases rocket "red apple" sun moon tree house cat '
    '"red car" "red balloon" banana butterfly snowman strawberry sunflower umbrella globe pumpkin ghost robot '
    '"red mushroom" "red heart" "yellow star" sailboat penguin'
)
SPACE = "python benchmarks/space.py screenshots --output docs"
SPACE_TABS = "python benchmarks/space_tabs.py --output runs/space_tabs --docs docs --size 256 --no-examples"
PHRASES = SCENES.partition("--phrases ")[2]
STYLES = '--styles flat "pencil sketch" night "water colour"'  # that the packaged model draws


@dataclass(frozen=True)
class Picture:
    """A picture, the page that shows it, the page's command, the file that this writes, and whether it takes hours."""

    path: str
    page: str
    command: str
    written: str
    hours: bool = False


PICTURES = [
    *(
        Picture(f"docs/space_{name}.jpg", "docs/space.md", SPACE, f"docs/space_{name}.jpg")
        for name in ("light", "phone")
    ),
    *(
        Picture(f"docs/space_{name}.jpg", "docs/space.md", SPACE_TABS, f"docs/space_{name}.jpg")
        for name in ("style", "edit", "schedule", "inside")
    ),
    Picture(
        "docs/ideas_steps.png",
        "docs/ideas.md",
        "python examples/draw/show_steps.py --output docs/ideas_steps.png --seed 3",
        "docs/ideas_steps.png",
    ),
    Picture(
        "docs/paint.png",
        "docs/paint.md",
        "python examples/draw/paint_with_words.py --output docs/paint.png --size 256 --seeds 0 1 --strengths 0 0.2",
        "docs/paint.png",
    ),
    Picture(
        "docs/rocket.jpg",
        "README.md",
        'ediffi generate "a rocket above a red apple on a dark blue background" --seed 3 --output rocket.jpg',
        "rocket.jpg",
    ),
    Picture(
        "docs/grid.png",
        "README.md",
        "python examples/draw/draw_grid.py --output docs/grid.png --size 256 --seeds 5",
        "docs/grid.png",
    ),
    Picture(
        "docs/image_to_image.png",
        "docs/image_to_image.md",
        "python examples/draw/image_to_image.py --output docs/image_to_image.png --size 64",
        "docs/image_to_image.png",
    ),
    Picture(
        "docs/inpaint.png",
        "docs/image_to_image.md",
        "python examples/draw/inpaint.py --output docs/inpaint.png --size 256 --seeds 0 1 3 --source-seed 0",
        "docs/inpaint.png",
    ),
    Picture(
        "docs/style_transfer.png",
        "docs/style.md",
        "python examples/draw/style_transfer.py --output docs/style_transfer.png --size 64 --seeds 3 4",
        "docs/style_transfer.png",
    ),
    Picture(
        "docs/variations.png",
        "docs/style.md",
        "python examples/draw/variations.py --output docs/variations.png --size 64",
        "docs/variations.png",
    ),
    Picture(
        "docs/prompt_schedule.png",
        "docs/style.md",
        "python examples/draw/prompt_schedule.py --objects noto_objects --output runs/prompt_schedule --bf16 "
        f"--threads 1 --num-pairs 16 --batch-size 16 {STYLES} {SCENES}",
        "runs/prompt_schedule/pairs.png",
    ),
    *(
        Picture(
            f"docs/{name}.png",
            "docs/attention.md",
            "python examples/draw/record_attention.py --output docs/attention "
            '--phrases rocket above "red apple" "dark blue" background '
            '--prompt "a rocket above a red apple on a dark blue background" --objects noto_objects --num-prompts 32 '
            f"--phrases-of-objects {PHRASES}",
            f"docs/{name}.png",
        )
        for name in ("attention", "attention_words")
    ),
    Picture(
        "docs/capacity.png",
        "docs/measured.md",
        "python benchmarks/capacity.py --output docs/capacity",
        "docs/capacity.png",
    ),
    Picture(
        "docs/samplers.png",
        "docs/samplers.md",
        "python examples/evaluate/compare_samplers.py --output docs/samplers",
        "docs/samplers.png",
        hours=True,
    ),
    *(
        Picture(
            f"docs/{name}.png",
            "docs/paint_with_words.md",
            "python examples/evaluate/evaluate_layout.py --objects noto_objects --output docs/paint_with_words "
            f"--num-prompts 256 --strengths 0 0.1 0.2 0.4 --bf16 --threads 1 --phrases {PHRASES} "
            f"--ground-kinds plain landscape {STYLES}",
            f"docs/{name}.png",
            hours=True,
        )
        for name in ("paint_with_words", "paint_with_words_grid")
    ),
    Picture(
        "docs/guidance.png",
        "docs/guidance.md",
        "python examples/evaluate/guidance_table.py --objects noto_objects --output docs/guidance --num-prompts 64 "
        "--steps 15 --bf16 --threads 1 "
        "--settings plain unguided interval interval-high rescale static dynamic weights weights-full "
        f"--scales 0 1 2 4 7 10 --phrases {PHRASES} --ground-kinds plain landscape --object-weights 0.6 0.4 {STYLES}",
        "docs/guidance.png",
        hours=True,
    ),
    Picture(
        "docs/evaluation_base.png",
        "model_card.md",
        "python examples/evaluate/evaluate_demo.py --objects noto_objects --output runs/evaluation --bf16 "
        f"--stages base style {STYLES} {SCENES}",
        "runs/evaluation/base.png",
        hours=True,
    ),
    Picture(
        "docs/demo_experts.png",
        "docs/demo_experts.md",
        "python examples/evaluate/compare_experts.py --objects noto_objects --output runs/comparison --bf16 "
        f"--threads 1 --steps 15 --num-prompts 160 --num-loss-scenes 128 --guidance-scales 1 2 4 {SCENES} "
        "--networks single=runs/single/unet level-2=runs/level-2/unet config-d=runs/config-d/unet",
        "runs/comparison/results.png",
        hours=True,  # and the training of these networks, whose commands stand on the page
    ),
]


def draw(command: str) -> None:
    """Runs a command in the root of the repository, with the Python that runs this script."""
    program, *arguments = shlex.split(command)
    programs = {"python": [sys.executable], "ediffi": [sys.executable, "-m", "diffusers_ediffi"]}
    print(f"$ {command}", flush=True)
    done = subprocess.run([*programs[program], *arguments], cwd=ROOT)
    if done.returncode:
        sys.exit(f"error: the command ended with exit code {done.returncode}; see its message above.")


def main(arguments: list[str] | None = None) -> None:
    """Draws pictures and puts them in their places."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {picture.path: picture for picture in PICTURES}
    parser.add_argument("pictures", nargs="*", metavar="PICTURE", help="such as docs/grid.png")
    parser.add_argument("--all", action="store_true", help="those that take hours as well")
    parser.add_argument("--list", action="store_true", help="print pictures and commands, and draw none")
    args = parser.parse_args(arguments)
    if unknown := [name for name in args.pictures if name not in known]:
        parser.error(f"no page shows {unknown[0]!r}; --list says which pictures there are")
    chosen = [picture for picture in PICTURES if picture.path in args.pictures or not args.pictures]
    chosen = [picture for picture in chosen if args.pictures or args.all or args.list or not picture.hours]
    if args.list:
        print("\n".join(f"{picture.path} ({picture.page}): {picture.command}" for picture in chosen))
        return
    for command in dict.fromkeys(picture.command for picture in chosen):
        draw(command)
    for picture in chosen:
        if picture.written != picture.path:
            shutil.move(ROOT / picture.written, ROOT / picture.path)
        print(picture.path)


if __name__ == "__main__":
    main()

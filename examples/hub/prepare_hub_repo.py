# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Make a saved pipeline ready for the Hugging Face Hub.

    python examples/hub/prepare_hub_repo.py FOLDER --model-card model_card.md
    hf upload ORG/NAME FOLDER

Adds to the folder that `EDiffIPipeline.save_pretrained` wrote what people need who do not import diffusers_ediffi
themselves (they still need it installed): `pipeline.py` and, in the folder of each component of ours, a module of one
line. The model card becomes README.md, and what it shows or links beside it comes along. Then all of these work:

    EDiffIPipeline.from_pretrained("ORG/NAME")
    DiffusionPipeline.from_pretrained("ORG/NAME")  # after import diffusers_ediffi
    DiffusionPipeline.from_pretrained("ORG/NAME", custom_pipeline="ORG/NAME", trust_remote_code=True)
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

LIBRARY = "diffusers_ediffi"
PIPELINE = f"from {LIBRARY} import EDiffIPipeline  # noqa: F401\n"


def prepare(folder: Path, model_card: Path | None = None) -> list[Path]:
    """Adds the files to what `EDiffIPipeline.save_pretrained` wrote, replacing those of an earlier run.

    The model card becomes README.md; the files that it links by a relative path are copied, too. Returns the files
    that were written.

    Raises:
        ValueError: The folder does not hold an EDiffIPipeline.
        FileNotFoundError: There is no such model card, or a file that it links is missing.
    """
    components = read_index(folder)
    if model_card is not None and not model_card.is_file():
        raise FileNotFoundError(f"there is no model card {model_card}.")
    linked = linked_files(model_card) if model_card else []
    written = write_modules(folder, components)
    if model_card is not None:
        written += copy_card(model_card, linked, folder)
    return written


def read_index(folder: Path) -> dict[str, Any]:
    """The components that `model_index.json` lists."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(
            f"{folder} does not hold a model_index.json: save a pipeline there with save_pretrained first."
        )
    components = json.loads(index.read_text(encoding="utf-8"))
    if components.get("_class_name") != "EDiffIPipeline":
        raise ValueError(f"{folder} holds a {components.get('_class_name')}, not an EDiffIPipeline.")
    return components


def write_modules(folder: Path, components: dict[str, Any]) -> list[Path]:
    """`pipeline.py`, and a module in the folder of each component of ours."""
    texts = {folder / "pipeline.py": PIPELINE}
    for name, value in components.items():
        if isinstance(value, list) and value[0] == LIBRARY:
            # diffusers takes the component from this file, which it finds by the library's name.
            texts[folder / name / f"{LIBRARY}.py"] = f"from {LIBRARY} import {value[1]}  # noqa: F401\n"
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return list(texts)


def copy_card(model_card: Path, linked: list[Path], folder: Path) -> list[Path]:
    """Copies the card as README.md, and what it links."""
    shutil.copyfile(model_card, folder / "README.md")
    for path in linked:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model_card.parent / path, folder / path)
    return [folder / "README.md", *(folder / path for path in linked)]


def linked_files(model_card: Path) -> list[Path]:
    """The files that a Markdown text links by a path relative to it; of a linked folder all files."""
    files: list[Path] = []
    for target in re.findall(r"\]\((?![a-z]+:|#|/)([^)#\s]+)", model_card.read_text(encoding="utf-8")):
        path = model_card.parent / target
        if not path.exists():
            raise FileNotFoundError(f"{model_card} links {target}, which is missing beside it.")
        found = [path] if path.is_file() else sorted(part for part in path.rglob("*") if part.is_file())
        files += [part.relative_to(model_card.parent) for part in found]
    return list(dict.fromkeys(files))


def main() -> None:
    """Prepares the folder and prints what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what EDiffIPipeline.save_pretrained wrote")
    parser.add_argument("--model-card", type=Path, help="becomes README.md")
    args = parser.parse_args()
    try:
        for path in prepare(args.folder, args.model_card):
            print(path)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

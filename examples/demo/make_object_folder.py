# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Make the folder of object pictures that the demo model's scenes are composed of.

    git clone --depth 1 https://github.com/googlefonts/noto-emoji
    python examples/demo/make_object_folder.py --noto-emoji noto-emoji --output objects

copies 106 pictures from the clone's folder `png/512` (Copyright Google, Apache License 2.0) and writes the
`index.json` that `diffusers_ediffi.demo.load_objects` reads. `demo_objects.json`, beside this script, says which
picture shows what; another list of `{phrase: file name}` may be given with `--objects`.
"""

import json
import shutil
from pathlib import Path

from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.demo import load_objects


def main(argv: list[str] | None = None) -> None:
    """Makes the folder."""
    parser = ScriptParser(description="Make the folder of object pictures for the demo model's scenes.")
    parser.add_argument("--noto-emoji", type=Path, required=True, help="a clone of github.com/googlefonts/noto-emoji")
    parser.add_argument("--output", type=Path, required=True, help="the folder to make; must not exist or be empty")
    parser.add_argument("--objects", type=Path, default=Path(__file__).with_name("demo_objects.json"))
    args = parser.parse_args(argv)
    count = make_folder(args.noto_emoji / "png" / "512", args.output, read_list(args.objects))
    print(f"{count} objects in {args.output}")


def read_list(path: Path) -> dict[str, str]:
    """The file name of each phrase.

    Raises:
        ValueError: The file is not a JSON object of phrases and file names.
    """
    names = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{path} must be a JSON object of phrases and file names.")
    return names


def make_folder(source: Path, output: Path, names: dict[str, str]) -> int:
    """Copies the pictures of all phrases from `source` and writes their index; returns how many there are.

    Raises:
        OSError: A picture is missing, or `output` is in use or cannot be written.
    """
    missing = [name for name in names.values() if not (source / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{source} lacks {len(missing)} of {len(names)} pictures, the first is {missing[0]}.")
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{output} is not empty; name a folder that is.")
    (output / "png").mkdir(parents=True)
    entries = []
    for phrase, name in names.items():
        file = f"png/{phrase.replace(' ', '_')}.png"
        shutil.copyfile(source / name, output / file)
        entries.append({"file": file, "phrase": phrase})
    (output / "index.json").write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    return len(load_objects(output))


if __name__ == "__main__":
    with errors_in_one_line():
        main()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Make a pipeline that lies in a folder ready for the Hugging Face Hub, and upload it, without saving it again.

    python examples/hub/prepare_hub_repo.py FOLDER --model-card model_card.md --push ORG/NAME

A pipeline that is loaded needs no script: `pipe.push_to_hub("ORG/NAME")` does all of this. This one is for folders
that exist, such as those of training runs and conversions, and writes into them what `push_to_hub` would upload:
modules of one line for people who do not import diffusers_ediffi themselves (they still need it installed), and
README.md, the model card, a new one unless there is one or --model-card gives it. What that shows or links beside it
comes along, which needs markdown-it-py: pip install "diffusers_ediffi[hub]".

Of models that conversion/ made, the card says where they come from, under which licences and with which hashes.
--push uploads the folder, unless a licence of these forbids to pass the weights on or is not known.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

from diffusers_ediffi.cli.messages import say
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.files import written_whole
from diffusers_ediffi.files.card import CARD, CardText
from diffusers_ediffi.files.card_links import is_inside
from diffusers_ediffi.files.hub import Content, Model, Push
from diffusers_ediffi.pipelines.repository import INDEX, MODULE, read_index, repository_files


def model_in(folder: Path) -> Model:
    """What is uploaded of a folder.

    Raises:
        ValueError: It does not hold one of our pipelines.
    """

    def describe(repo_id: str) -> CardText:
        from diffusers_ediffi import EDiffIPipeline  # torch takes seconds, and a folder is refused before
        from diffusers_ediffi.pipelines.card import pipeline_card

        return pipeline_card(EDiffIPipeline.from_pretrained(folder), repo_id)

    components = read_index(folder)
    parts = (INDEX, CARD, MODULE, *(f"{name}/*" for name, value in components.items() if isinstance(value, list)))
    return Model(components["_class_name"], describe, parts, {str(folder): ""}, repository_files)


def prepare(folder: Path, model_card: Path | None = None, results: tuple[Path, ...] = ()) -> list[Path]:
    """Adds the files to what `EDiffIPipeline.save_pretrained` wrote, replacing those of an earlier run.

    The model card becomes README.md; the files that it links by a relative path are copied, too, as far as they lie
    in its folder. Returns the files that were written.

    Raises:
        ValueError: The folder does not hold one of our pipelines, or the card links a file that would replace a part
            of it.
        FileNotFoundError: There is no such model card, or a file that it links is missing.
    """
    content = Content(model_in(folder), Path, model_card=model_card, results=results, folder=folder, share=False)
    return write(folder, {**content.files(folder.resolve().name), **repository_files(folder)})


def write(folder: Path, files: Mapping[str, bytes | Path]) -> list[Path]:
    """Writes what is not there yet; returns it.

    Raises:
        ValueError: A file would be written outside of the folder.
    """
    for name in files:
        if not is_inside((folder / name).parent, folder):
            raise ValueError(f"the model card links {name}, and {folder / name} leads out of {folder}.")
    new = {name: value for name, value in files.items() if isinstance(value, bytes) or not same(value, folder / name)}
    for name, value in new.items():
        with written_whole(folder / name) as unfinished:  # a link, as in the cache of the Hub, gives way to the file
            unfinished.write_bytes(value if isinstance(value, bytes) else value.read_bytes())
    return [folder / name for name in new]


def same(path: Path, other: Path) -> bool:
    """Whether two names are of one file."""
    return other.exists() and os.path.samefile(path, other)


def main() -> None:
    """Prepares the folder, prints what was written, and uploads it."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what EDiffIPipeline.save_pretrained wrote")
    parser.add_argument("--model-card", type=Path, help="becomes README.md")
    parser.add_argument("--results", type=Path, nargs="+", default=(), help="card.json files of ediffi evaluate")
    parser.add_argument("--push", metavar="ORG/NAME", help="upload it to this repository of the Hub")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    args = parser.parse_args()
    warnings.showwarning = lambda message, *_: say(f"warning: {message}", file=sys.stderr)
    if args.push is None:
        for path in prepare(args.folder, args.model_card, tuple(args.results)):
            print(path)
        return
    model = model_in(args.folder)
    push = Push(
        model,
        args.push,
        private=args.private,
        model_card=args.model_card,
        results=tuple(args.results),
        folder=args.folder,
    )
    for path in write(args.folder, push.files_of(args.folder)):
        print(path)
    print(push.upload_saved(args.folder))


if __name__ == "__main__":
    with errors_in_one_line():
        main()

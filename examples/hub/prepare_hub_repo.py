# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Make a saved pipeline ready for the Hugging Face Hub, and upload it.

    python examples/hub/prepare_hub_repo.py FOLDER --model-card model_card.md --push ORG/NAME

It needs markdown-it-py: pip install "diffusers_ediffi[hub]".

Adds to the folder that `EDiffIPipeline.save_pretrained` wrote what people need who do not import diffusers_ediffi
themselves (they still need it installed): `pipeline.py` and, in the folder of each component of ours, a module of one
line. The model card becomes README.md, and what it shows or links beside it comes along. Then all of these work:

    EDiffIPipeline.from_pretrained("ORG/NAME")
    DiffusionPipeline.from_pretrained("ORG/NAME")  # after import diffusers_ediffi
    DiffusionPipeline.from_pretrained("ORG/NAME", custom_pipeline="ORG/NAME", trust_remote_code=True)

Of models that conversion/ made, the card says where they come from, under which licences and with which hashes.
--push uploads the folder, unless a licence of these forbids to pass the weights on or is not known: see licences.py.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from huggingface_hub import HfApi, ModelCard
from licences import ConvertedSource, check_shareable, converted_sources, licence_of, section, with_section

from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.files import write_json, written_whole

LIBRARY = "diffusers_ediffi"
PIPELINE = f"from {LIBRARY} import EDiffIPipeline  # noqa: F401\n"


def prepare(folder: Path, model_card: Path | None = None) -> list[Path]:
    """Adds the files to what `EDiffIPipeline.save_pretrained` wrote, replacing those of an earlier run.

    The model card becomes README.md; the files that it links by a relative path are copied, too, as far as they lie
    in its folder. Returns the files that were written.

    Raises:
        ValueError: The folder does not hold an EDiffIPipeline, or the card links a file that would replace a part of
            it.
        FileNotFoundError: There is no such model card, or a file that it links is missing.
    """
    components = read_index(folder)
    if model_card is not None and not model_card.is_file():
        raise FileNotFoundError(f"there is no model card {model_card}.")
    linked = linked_files(model_card, folder) if model_card else []
    check_places(linked, folder, components)
    sources = converted_sources(folder)
    written = [*write_modules(folder, components), *forget_places(folder)]
    if model_card is not None:
        written += copy_card(model_card, linked, folder)
    if sources:
        written += name_sources(folder, sources)
    return list(dict.fromkeys(written))


def check_push(folder: Path, model_card: Path | None) -> None:
    """Refuses to upload what must not be passed on, before anything is written.

    Raises:
        ValueError: A licence of the sources forbids it, or the card says another licence than it asks for.
    """
    card = folder / "README.md" if model_card is None else model_card
    licence = ModelCard.load(card).data.get("license") if card.is_file() else None
    check_shareable(converted_sources(folder), licence)


def push(folder: Path, repo_id: str, private: bool) -> str:
    """Uploads the folder; returns the address of the commit."""
    api = HfApi()
    api.create_repo(repo_id, private=private, exist_ok=True)
    return str(api.upload_folder(repo_id=repo_id, folder_path=folder))


def read_index(folder: Path) -> dict[str, Any]:
    """The components that `model_index.json` lists."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(
            f"{folder} does not hold a model_index.json: save a pipeline there with save_pretrained first."
        )
    components = json.loads(index.read_text(encoding="utf-8"))
    found = components.get("_class_name") if isinstance(components, dict) else type(components).__name__
    if found != "EDiffIPipeline":
        raise ValueError(f"{folder} holds a {found}, not an EDiffIPipeline.")
    for name, class_name in our_components(components).items():
        if not (folder / name).is_dir() or not is_inside(folder / name, folder) or not class_name.isidentifier():
            raise ValueError(f"{index} names a component {name!r} of class {class_name!r}, which is not in {folder}.")
    return components


def our_components(components: dict[str, Any]) -> dict[str, str]:
    """The classes of the components that come from this package, by their folders."""
    pairs = {name: value for name, value in components.items() if isinstance(value, list) and len(value) == 2}
    return {name: str(class_name) for name, (library, class_name) in pairs.items() if library == LIBRARY}


def write_modules(folder: Path, components: dict[str, Any]) -> list[Path]:
    """`pipeline.py`, and a module in the folder of each component of ours."""
    texts = {folder / "pipeline.py": PIPELINE}
    for name, class_name in our_components(components).items():
        # diffusers takes the component from this file, which it finds by the library's name.
        texts[folder / name / f"{LIBRARY}.py"] = f"from {LIBRARY} import {class_name}  # noqa: F401\n"
    for path, text in texts.items():
        with written_whole(path) as unfinished:  # a link, as in the cache of the Hub, gives way to the file
            unfinished.write_text(text, encoding="utf-8")
    return list(texts)


def copy_card(model_card: Path, linked: list[Path], folder: Path) -> list[Path]:
    """Copies the card as README.md, and what it links."""
    with written_whole(folder / "README.md") as unfinished:
        shutil.copyfile(model_card, unfinished)
    for path in linked:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model_card.parent / path, folder / path)
    return [folder / "README.md", *(folder / path for path in linked)]


def name_sources(folder: Path, sources: Sequence[ConvertedSource]) -> list[Path]:
    """Says in the model card what the model was converted from; makes one where there is none."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else f"---\nlicense: {licence_of(sources)}\n---\n"
    with written_whole(card) as unfinished:
        unfinished.write_text(with_section(text, section(sources)), encoding="utf-8")
    return [card]


def forget_places(folder: Path) -> list[Path]:
    """Takes out of all configs where they were loaded from; returns the files that said so."""
    changed = []
    for path in sorted(folder.rglob("*.json")):
        text = path.read_text(encoding="utf-8")
        if '"_name_or_path"' in text:
            content = json.loads(text)
            if content != (content := without_places(content)):
                write_json(path, content)
                changed.append(path)
    return changed


def without_places(value: Any) -> Any:
    """JSON without entries that name a folder; the names of repositories stay."""
    if isinstance(value, list):
        return [without_places(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    return {
        key: without_places(entry) for key, entry in value.items() if not (key == "_name_or_path" and is_place(entry))
    }


def is_place(name: Any) -> bool:
    """Whether a name is that of a folder of some machine, rather than of a repository such as ORG/NAME."""
    text = str(name)
    return Path(text).exists() or text.startswith((".", "/", "~")) or "\\" in text or text.count("/") > 1


class HtmlLinks(HTMLParser):
    """The addresses of what a piece of HTML shows and links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called for each tag."""
        self.found += [value for name, value in attrs if name in ("src", "href", "poster") and value]


def links(text: str) -> Iterator[str]:
    """The addresses that a Markdown text shows and links, also in HTML; those in code are none.

    Raises:
        ImportError: markdown-it-py is not installed.
    """
    try:
        from markdown_it import MarkdownIt
    except ImportError as error:
        raise ImportError("a model card is read with markdown-it-py: pip install markdown-it-py.") from error
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for token in chain(tokens, *(token.children or () for token in tokens)):
        if token.type in ("html_block", "html_inline"):
            parser = HtmlLinks()
            parser.feed(token.content)
            yield from parser.found
        elif token.type in ("link_open", "image"):
            yield str(token.attrs.get("href") or token.attrs.get("src") or "")


def linked_files(model_card: Path, folder: Path) -> list[Path]:
    """The files that a card links by a path relative to it; of a linked folder all files that are not hidden.

    What lies outside of the card's folder is named and left out, and what the repository has already stays there.
    """
    files: list[Path] = []
    for address in links(model_card.read_text(encoding="utf-8")):
        target = local_path(address)
        if target is None:
            continue
        path = model_card.parent / target
        if not is_inside(path, model_card.parent):
            print(f"warning: {model_card} links {address}, which is not in its folder: not copied.", file=sys.stderr)
        elif path.exists():
            files += [part.relative_to(model_card.parent) for part in files_in(path, model_card.parent)]
        elif not (is_inside(folder / target, folder) and (folder / target).exists()):
            raise FileNotFoundError(f"{model_card} links {target}, which is missing beside it.")
    return list(dict.fromkeys(files))


def local_path(address: str) -> str | None:
    """The path of an address, relative to the file that has it; `None` for other addresses."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return None
    path = unquote(parts.path)
    if parts.scheme or parts.netloc or not path or path.startswith("/") or os.path.normpath(path) == ".":
        return None
    return os.path.normpath(path)


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path lies in a folder, also behind links."""
    return path.resolve().is_relative_to(folder.resolve())


def files_in(path: Path, around: Path) -> list[Path]:
    """A file, or the files of a folder; not hidden ones, nor links that lead out of the folder around it."""
    if path.is_file():
        return [path]
    found = [part for part in sorted(path.rglob("*")) if part.is_file() and is_inside(part, around)]
    return [part for part in found if not any(name.startswith(".") for name in part.relative_to(path).parts)]


def check_places(linked: list[Path], folder: Path, components: dict[str, Any]) -> None:
    """Refuses files that would replace a part of the pipeline, or be written outside of the repository."""
    parts = {"model_index.json", "pipeline.py", "README.md", *components}
    for path in linked:
        if path.parts[0] in parts:
            raise ValueError(f"the model card links {path}, which would replace a part of the pipeline: rename it.")
        if not is_inside(folder / path, folder):
            raise ValueError(f"the model card links {path}, and {folder / path} leads out of {folder}.")


def main() -> None:
    """Prepares the folder, prints what was written, and uploads it."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what EDiffIPipeline.save_pretrained wrote")
    parser.add_argument("--model-card", type=Path, help="becomes README.md")
    parser.add_argument("--push", metavar="ORG/NAME", help="upload it to this repository of the Hub")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    args = parser.parse_args()
    read_index(args.folder)
    if args.push is not None:
        check_push(args.folder, args.model_card)
    for path in prepare(args.folder, args.model_card):
        print(path)
    if args.push is not None:
        print(push(args.folder, args.push, args.private))


if __name__ == "__main__":
    with errors_in_one_line():
        main()

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Check the links of the built site, or list those that lead out of it.

python docs/site/check_links.py build/site            # pages, anchors and pictures inside of the site
python docs/site/check_links.py build/site --outside  # addresses elsewhere, each with its pages, to check by hand
"""

import argparse
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LINKS = {"a": "href", "img": "src", "link": "href", "script": "src"}


class Page(HTMLParser):
    """What a page links, and the anchors that it has."""

    def __init__(self, html: str):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = {"", "top"}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {value for name, value in attrs if name in ("id", "name") and value}
        if link := found.get(LINKS.get(tag, "")):
            self.links.append(link)


def read_pages(folder: Path) -> dict[Path, Page]:
    """Every page of the site, by its file."""
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}


def is_outside(link: str) -> bool:
    return bool(urlsplit(link).scheme or urlsplit(link).netloc)


def broken_links(folder: Path, pages: dict[Path, Page]) -> Iterator[str]:
    """A sentence for each link into the site that leads nowhere."""
    for path, page in pages.items():
        for link in dict.fromkeys(page.links):
            if is_outside(link):
                continue
            name, anchor = unquote(urlsplit(link).path), unquote(urlsplit(link).fragment)
            target = (path.parent / name).resolve() if name else path
            place = f"{path.relative_to(folder)} links {link}"
            if not target.is_file():
                yield f"{place}, which is no file of the site."
            elif target.suffix == ".html" and target in pages and anchor not in pages[target].anchors:
                yield f"{place}, and that page has no such anchor."


def main(arguments: list[str] | None = None) -> None:
    """Exits with 1 after a line for each broken link."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="that sphinx-build wrote")
    parser.add_argument("--outside", action="store_true", help="list the addresses of other sites")
    args = parser.parse_args(arguments)
    folder = args.folder.resolve()
    pages = read_pages(folder)
    if not pages:
        sys.exit(f"error: {args.folder} holds no pages; build the site first.")
    if args.outside:
        found: dict[str, list[str]] = {}
        for path, page in pages.items():
            for link in filter(is_outside, dict.fromkeys(page.links)):
                found.setdefault(link, []).append(str(path.relative_to(folder)))
        for link, names in sorted(found.items()):
            print(f"{link}  ({', '.join(names) if len(names) < 4 else f'{len(names)} pages'})")
        return
    errors = list(broken_links(folder, pages))
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    sys.exit(1 if errors else 0)


if __name__ == "__main__":
    main()

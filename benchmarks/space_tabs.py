# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The tabs of the Space beside "Paint", in headless Chromium: every example of each is drawn, what a tab promises is
checked, and pictures of the pages are taken, in light and dark and as wide as a phone.

    apt-get install chromium && pip install playwright
    python benchmarks/space_tabs.py --output runs/space_tabs

With `--address` the Space that runs there is visited instead of one of its own. Times are those until the first
preview and until the 64 x 64 picture of each example.
"""

import argparse
import time
from pathlib import Path
from typing import Any

from PIL import Image
from space_visitor import browser

from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line

TABS = {"style": "Style", "edit": "Change a picture", "schedule": "Prompt schedule", "inside": "Inside"}
LOOKS = ("light", "dark")
DARK_IN_DOCS = ("style", "schedule")
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 1000}


def main() -> None:
    parser = ScriptParser(description="The Space's tabs in a browser.")
    parser.add_argument("--output", type=Path, required=True, help="where pictures of the pages go")
    parser.add_argument("--address", help="a Space that runs, such as http://127.0.0.1:7860 (default: one of its own)")
    parser.add_argument("--tabs", nargs="+", choices=TABS, default=list(TABS), help="(default: all)")
    parser.add_argument("--docs", type=Path, metavar="FOLDER", help="write the pictures of docs/space.md there")
    parser.add_argument("--axe", type=Path, help="axe.min.js of axe-core, which then finds nothing serious")
    parser.add_argument("--no-examples", action="store_true", help="draw the first example of each tab alone")
    parser.add_argument("--size", type=int, default=64, help="of the pictures (default: %(default)s)")
    args = parser.parse_args()
    if args.axe is not None and not args.axe.is_file():
        raise FileNotFoundError(
            f"--axe {args.axe} is no file: npm install axe-core, then node_modules/axe-core/axe.min.js"
        )
    args.output.mkdir(parents=True, exist_ok=True)
    blocks = None if args.address else serve()
    try:
        with browser() as chromium:
            visit(chromium, args, args.address or blocks.local_url)
    finally:
        if blocks is not None:
            blocks.close(verbose=False)


def serve() -> Any:
    """A Space with the demo model on this machine."""
    from diffusers_ediffi.space.app import build_app, launch
    from diffusers_ediffi.space.drawing import Drawer

    drawer = Drawer.load()
    blocks = build_app(drawer)
    launch(blocks, drawer.limits, quiet=True, prevent_thread_lock=True)
    return blocks


def visit(chromium: Any, args: argparse.Namespace, address: str) -> None:
    """All examples of each tab, then its looks."""
    page = chromium.new_page(viewport=DESKTOP)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    for name in args.tabs:
        open_tab(page, name)
        set_size(page, name, args.size)
        buttons = page.locator(f"#{name}-examples button")
        for i in range(0 if args.no_examples else buttons.count()):
            try_example(page, name, buttons.nth(i), args.output / f"{name}-{i}.png")
        buttons.first.click()
        page.wait_for_timeout(800)
        draw(page, name)
        errors += take_pictures(page, name, args)
        check_wrong(page, name)
    assert not errors, errors


def try_example(page: Any, name: str, button: Any, file: Path) -> None:
    """Draws an example, and prints its times."""
    button.click()
    page.wait_for_timeout(800)  # what the example shows is on its way to the page
    preview, picture = draw(page, name)
    print(f"{TABS[name]:<18}{button.inner_text():<28}preview {preview:5.1f} s, picture {picture:5.1f} s", flush=True)
    CHECKS.get(name, lambda _: None)(page)
    page.screenshot(path=file, full_page=True)


def take_pictures(page: Any, name: str, args: argparse.Namespace) -> list[str]:
    """A tab in light and dark and as wide as a phone; what axe finds in it, where axe is there."""
    found: list[str] = []
    page.evaluate("() => document.activeElement.blur()")
    page.mouse.move(0, 0)
    for look in LOOKS:
        page.evaluate("(dark) => document.body.classList.toggle('dark', dark)", look == "dark")
        page.wait_for_timeout(600)
        page.screenshot(path=args.output / f"{name}-{look}.png", full_page=True)
        if args.axe is not None:
            found += check_access(page, args.axe, f"{name}, {look}")
    page.set_viewport_size(PHONE)
    page.wait_for_timeout(400)
    wide = page.evaluate("() => document.documentElement.scrollWidth")
    assert wide <= PHONE["width"], f"the tab {name} is {wide} pixels wide on a phone"
    page.screenshot(path=args.output / f"{name}-phone.png", full_page=True)
    page.set_viewport_size(DESKTOP)
    page.evaluate("() => document.body.classList.remove('dark')")
    if args.docs is not None:
        look = "dark" if name in DARK_IN_DOCS else "light"
        save_for_docs(args.output / f"{name}-{look}.png", args.docs / f"space_{name}.jpg")
    return found


def check_access(page: Any, axe: Path, where: str) -> list[str]:
    """What axe-core finds of serious problems in what the tab shows."""
    if not page.evaluate("() => 'axe' in window"):
        page.add_script_tag(path=axe)
    found = page.evaluate("async () => (await axe.run()).violations")
    bad = [problem for problem in found if problem["impact"] in ("serious", "critical")]
    for problem in bad:
        node = problem["nodes"][0]
        print(f"axe, {where}: {problem['id']}: {node['html'][:300]} {node.get('failureSummary', '')[:300]}")
    return [f"{where}: {problem['id']}" for problem in bad]


def save_for_docs(screenshot: Path, file: Path) -> None:
    """A picture of a page as docs/space.md shows it."""
    with Image.open(screenshot) as picture:
        picture.convert("RGB").save(file, quality=82, optimize=True)


def open_tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=TABS[name], exact=True).click()
    page.wait_for_selector(f"#{name}-draw", state="visible", timeout=60_000)


def set_size(page: Any, name: str, size: int) -> None:
    field = page.locator(f"#{name}-size")
    if not field.is_visible():
        page.locator(f"#{name}-settings button").first.click()
    field.get_by_label(f"{size} x {size}").check()
    page.locator(f"#{name}-settings button").first.click()


def draw(page: Any, name: str, seconds: float = 180) -> tuple[float, float]:
    """Draws; the seconds until something is seen, and until the picture is finished."""
    begin = time.monotonic()
    page.click(f"#{name}-draw")
    state = f"#{name}-pictures .ediffi-pictures[data-state=%s]"
    page.wait_for_selector(state % "drawing", timeout=1000 * seconds, state="attached")
    page.wait_for_selector(f"#{name}-pictures figure img", timeout=1000 * seconds)
    preview = time.monotonic() - begin
    page.wait_for_selector(state % "done", timeout=1000 * seconds, state="attached")
    return preview, time.monotonic() - begin


def check_inside(page: Any) -> None:
    """A click on a word shows its heat map, another hides it; there is a cell for each step, and a chart."""
    page.wait_for_selector("#inside-view .found", state="visible")
    words = page.locator("#inside-view .word")
    last = words.last
    last.click()
    assert last.get_attribute("aria-pressed") == "true"
    assert (page.get_attribute("#inside-view .heat", "src") or "").startswith("data:image/png")
    last.click()
    assert page.get_attribute("#inside-view .heat", "src") is None
    words.nth(1).click()
    assert page.locator("#inside-view .step").count() >= 10
    assert page.locator("#inside-view polyline").count() == 5


def check_edit(page: Any) -> None:
    """A stroke over the picture is a mask."""
    paper = page.locator("#edit-picture .paper")
    paper.scroll_into_view_if_needed()
    box = paper.bounding_box()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.4 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.4 * box["height"], steps=5)
    page.mouse.up()
    assert "Only what you painted" in page.inner_text("#edit-picture .status")


def check_wrong(page: Any, name: str) -> None:
    """What cannot be drawn gets a message, and the next picture is drawn."""
    field = page.locator(f"#{name}-prompt textarea")
    prompt = field.input_value()
    field.fill("" if name != "style" else "a " * 400)
    if name == "style":  # a style picture needs no prompt: without it there is nothing
        page.locator(
            "#style-picture button[aria-label^=Remove], #style-picture button[aria-label^=Clear]"
        ).first.click()
    page.click(f"#{name}-draw")
    message = page.wait_for_selector(".toast-body", timeout=30_000).inner_text().replace("\n", " ")
    print(f"{TABS[name]:<18}without what it needs: {message}", flush=True)
    assert any(word in message for word in ("nothing to draw", "is empty", "no style picture")), message
    page.locator(".toast-close").first.click()
    if name != "style":
        field.fill(prompt)
        draw(page, name)


CHECKS = {"inside": check_inside, "edit": check_edit}

if __name__ == "__main__":
    with errors_in_one_line():
        main()

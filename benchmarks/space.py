# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What the Space promises, in a real browser and by its protocol, with the demo model.

    python benchmarks/space.py overlap timing
    python benchmarks/space.py access --axe node_modules/axe-core/axe.min.js
    python benchmarks/space.py load --visitors 20 --minutes 10

Each check starts `ediffi space` in a process of its own, prints what it found, and fails where a promise is broken:

    overlap   a painted object lies where it was painted: the scorer's IoU against that of the plain prompt, 8 seeds
    timing    the page is usable, the first preview, the picture of 64 pixels
    visitors  two at once get their own pictures
    files     a scene is saved and opened, a picture's provenance brings it back, what lies on the server
    reload    the page keeps the painting when it is loaded again
    wrong     bad input: a message, and the page goes on
    phone     a small screen, by touch
    keyboard  everything without a mouse
    access    axe-core finds nothing serious, light and dark (npm install axe-core)
    memory    flat over many pictures
    screenshots  what docs/space.md shows, written to --output
    load      many visitors for minutes: no error, in their order, each its own picture; the queue is bounded
"""

import io
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from space_client import Client, Served, seeds_of, served
from space_visitor import Visitor, browser

from diffusers_ediffi import demo_checkpoint, read_provenance
from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.demo.scorer import SceneScorer

PROMPT = "a red car on a yellow background"
BOX = (0.04, 0.5, 0.54, 0.96)
DESKTOP = {"width": 1280, "height": 1000}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}


def main() -> None:
    parser = ScriptParser(description=__doc__.splitlines()[0])
    parser.add_argument("checks", nargs="+", metavar="CHECK", help=", ".join(CHECKS))
    parser.add_argument("--seeds", type=whole(1), default=8, help="of overlap (default: %(default)s)")
    parser.add_argument("--pictures", type=whole(20), default=200, help="of memory (default: %(default)s)")
    parser.add_argument("--visitors", type=whole(1), default=20, help="of load (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=10.0, help="of load (default: %(default)s)")
    parser.add_argument("--steps", type=whole(1), default=25, help="of memory and load (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="of screenshots (default: %(default)s)")
    parser.add_argument("--axe", type=Path, help="axe.min.js of axe-core, for access")
    args = parser.parse_args()
    unknown = [name for name in args.checks if name not in CHECKS]
    if unknown:
        raise ValueError(f"there is no check {unknown[0]!r}; choose from {', '.join(CHECKS)}")
    if "access" in args.checks and args.axe is None:
        raise ValueError("access needs --axe: npm install axe-core, then node_modules/axe-core/axe.min.js")
    if args.axe is not None and not args.axe.is_file():
        raise FileNotFoundError(f"--axe {args.axe} is no file; npm install axe-core brings it.")
    for name in args.checks:
        with served() as server:
            CHECKS[name](server, args)
        print(f"{name}: as promised", flush=True)


def promise(is_kept: bool, text: str) -> None:
    """Prints what was found.

    Raises:
        ValueError: It is not what was promised.
    """
    print(f"  {text}", flush=True)
    if not is_kept:
        raise ValueError(f"not as promised: {text}")


def check_overlap(server: Served, args: Any) -> None:
    judge, plain, painted, right = Judge(), [], [], 0
    with browser() as chromium:
        visitor = Visitor(chromium.new_page(viewport=DESKTOP), server.address)
        visitor.empty_canvas()
        visitor.write(PROMPT)
        visitor.set_size(64)
        for seed in range(args.seeds):
            visitor.set_seed(seed)
            plain.append(judge(visitor.draw_and_wait())[0])
        visitor.choose("red", "car")
        visitor.paint(BOX)
        for seed in range(args.seeds):
            visitor.set_seed(seed)
            overlap, likeliest = judge(visitor.draw_and_wait())
            painted.append(overlap)
            right += likeliest == "red car"
    ratio = statistics.mean(painted) / max(statistics.mean(plain), 1e-9)
    text = f"mean IoU {statistics.mean(painted):.2f} painted, {statistics.mean(plain):.2f} plain: {ratio:.1f} times"
    promise(ratio >= 2, text)
    promise(right >= args.seeds - 1, f"the right object in {right} of {args.seeds}")


class Judge:
    """How well the car lies in the box, and the object that the scorer sees most of."""

    def __init__(self) -> None:
        self.scorer = SceneScorer.from_pretrained(Path(demo_checkpoint()).with_name("scorer")).eval()
        left, top, right, bottom = (round(64 * edge) for edge in BOX)
        self.mask = np.zeros((64, 64), np.float32)
        self.mask[top:bottom, left:right] = 1

    def __call__(self, picture: Image.Image) -> tuple[float, str]:
        pictures = [picture.convert("RGB")]
        overlap = self.scorer.layout(pictures, [{"red car": self.mask}])[0]["red car"][0]
        presence = self.scorer.predict(pictures)["presence"][0]
        return overlap, list(self.scorer.config.phrases)[int(presence.argmax())]


def check_timing(server: Served, args: Any) -> None:
    opened, previews, finished, late = [], [], [], []
    with browser() as chromium:
        for _ in range(3):
            context = chromium.new_context(viewport=DESKTOP)
            start = time.monotonic()
            visitor = Visitor(context.new_page(), server.address)
            opened.append(time.monotonic() - start)
            visitor.set_size(64)
            start = time.monotonic()
            visitor.draw()
            visitor.page.wait_for_selector("#paint-pictures figure img")
            previews.append(time.monotonic() - start)
            visitor.wait("done")
            finished.append(time.monotonic() - start)
            context.close()
    for name, values, most in (
        ("page usable", opened, 3),
        ("first preview", previews, 2),
        ("64 x 64 picture", finished, 5),
    ):
        shown = ", ".join(f"{value:.1f}" for value in values)
        print(f"  {name} after {shown} s (at most {most} s)", flush=True)
        late += [name] * (statistics.median(values) > most)
    promise(not late, f"too late in the median: {late or 'nothing'}; {_load()} as many processes as processors")


def _load() -> str:
    """How many processes ran, for each processor."""
    return f"{os.getloadavg()[0] / (os.cpu_count() or 1):.1f} times"


def check_visitors(server: Served, args: Any) -> None:
    with browser() as chromium:
        both = [Visitor(chromium.new_context(viewport=DESKTOP).new_page(), server.address) for _ in range(2)]
        prompts = (PROMPT, "a cat in the snow")
        for seed, (visitor, prompt) in enumerate(zip(both, prompts, strict=True)):
            visitor.empty_canvas()
            visitor.write(prompt)
            visitor.set_size(64)
            visitor.set_seed(seed)
        for visitor in both:
            visitor.draw()
        for seed, (visitor, prompt) in enumerate(zip(both, prompts, strict=True)):
            visitor.wait("done")
            settings = _settings(visitor)
            promise(
                (settings["prompt"], settings["seed"]) == (prompt, seed), f"visitor {seed} got {settings['prompt']!r}"
            )


def check_files(server: Served, args: Any) -> None:
    with browser() as chromium, tempfile.TemporaryDirectory() as folder:
        visitor = Visitor(chromium.new_page(viewport=DESKTOP), server.address)
        page, scene = visitor.page, Path(folder) / "scene.json"
        visitor.empty_canvas()
        visitor.write(PROMPT)
        visitor.set_size(64)
        visitor.set_seed(7)
        visitor.choose("red", "car")
        visitor.paint(BOX)
        with page.expect_download() as download:
            page.click("#paint-save")
        download.value.save_as(scene)
        written = json.loads(scene.read_text())
        phrases = [region["phrase"] for region in written["regions"]]
        promise(phrases == ["red car"] and written["prompt"] == PROMPT, f"saved a scene of {phrases}")
        visitor.draw_and_wait()
        picture = Path(folder) / "picture.png"
        with page.expect_download() as download:
            page.click("#paint-pictures .get")
        download.value.save_as(picture)
        before = _layers(visitor)
        for file in (scene, picture):
            page.evaluate("sessionStorage.clear()")
            page.reload()
            page.wait_for_selector(".ediffi-canvas .word")
            visitor.open_file(file)
            page.wait_for_function("() => document.querySelectorAll('.layer').length === 1")
            layers, seed = _layers(visitor), page.input_value("#paint-seed input")
            is_same = [layer["phrase"] for layer in layers] == [layer["phrase"] for layer in before]
            said = f"{file.name} brings {[layer['phrase'] for layer in layers]} and the seed {seed} back"
            promise(is_same and (file is scene or seed == "7"), said)
        visitor.set_size(64)
        again = visitor.draw_and_wait()
        difference = np.abs(np.asarray(again).astype(int) - np.asarray(Image.open(picture)).astype(int)).mean()
        promise(difference < 8, f"drawn again from its file, it differs by {difference:.1f} of 255")


def check_reload(server: Served, args: Any) -> None:
    with browser() as chromium:
        visitor = Visitor(chromium.new_page(viewport=DESKTOP), server.address)
        visitor.empty_canvas()
        visitor.write(PROMPT)
        visitor.choose("red", "car")
        visitor.drag_box(BOX)
        visitor.draw()
        visitor.page.reload()  # in the middle of a drawing
        visitor.page.wait_for_selector(".ediffi-canvas .layer")
        promise(_layers(visitor)[0]["phrase"] == "red car", "the painting is there after a reload")
        visitor.set_size(64)
        promise(visitor.draw_and_wait().size == (64, 64), "and it draws")


def check_wrong(server: Served, args: Any) -> None:
    with browser() as chromium, tempfile.TemporaryDirectory() as name:
        visitor = Visitor(chromium.new_page(viewport=DESKTOP), server.address)
        visitor.set_size(64)

        def refused(what: str, do: Callable[[], None]) -> None:
            do()
            promise(True, f"{what}: {' '.join(visitor.message().split())[:150]}")
            visitor.page.click(".toast-close")
            visitor.page.wait_for_selector(".toast-body", state="detached")

        visitor.write("a red car")
        refused("a painted word deleted", visitor.draw)
        visitor.empty_canvas()
        visitor.write("")
        refused("no prompt", visitor.draw)
        visitor.write("a purple dragon")
        refused("a word that the model does not know", visitor.draw)
        visitor.wait("done")
        for file in _bad_files(Path(name)):
            refused(f"upload {file.name}", partial(visitor.open_file, file))
        promise(server.process.poll() is None, "the page lives on")
        visitor.write(PROMPT)
        promise(visitor.draw_and_wait().size == (64, 64), "and it draws")


def _bad_files(folder: Path) -> list[Path]:
    """Files that nobody should send."""
    rows = zlib.compress(bytes(5001) * 40_000, 9)
    head = (40_000).to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        for kind, data in ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b""))
    )
    script = {"prompt": "<script>alert(1)</script>", "regions": [{"phrase": "<img src=x>", "mask": [0, 0, 1, 1]}]}
    outside = {"prompt": "a cat", "regions": [{"phrase": "cat", "mask": "/etc/passwd"}]}
    files = {
        "bomb.png": bomb,
        "broken.png": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "huge.png": bytes(9 * 2**20),
        "deep.json": b"[" * 100_000,
        "script.json": json.dumps(script).encode(),
        "outside.json": json.dumps(outside).encode(),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    Image.new("RGB", (64, 64), "orange").save(folder / "unrelated.png")
    return [folder / name for name in (*files, "unrelated.png")]


def check_phone(server: Served, args: Any) -> None:
    with browser() as chromium:
        context = chromium.new_context(**PHONE)
        visitor = Visitor(context.new_page(), server.address)
        page = visitor.page
        wide = page.evaluate("document.documentElement.scrollWidth")
        promise(wide <= 390, f"the page is {wide} pixels wide on a screen of 390")
        visitor.empty_canvas()
        visitor.write(PROMPT)
        page.locator(".word", has_text="car").first.tap()
        touch = context.new_cdp_session(page)

        def swipe(*points: tuple[float, float]) -> None:
            for kind, (x, y) in zip(["touchStart", *["touchMove"] * (len(points) - 1)], points, strict=True):
                touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
            touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

        for y in (0.6, 0.7, 0.8, 0.9):
            swipe(*(visitor._on_canvas(x, y) for x in (0.1, 0.2, 0.3, 0.4, 0.5)))
        painted = _layers(visitor)[0]
        promise(painted["phrase"] == "car" and bool(painted["mask"]), "a word is chosen and painted by touch")
        heights = (
            "[...document.querySelectorAll('.ediffi-canvas button')].map((b) => b.getBoundingClientRect().height)"
        )
        small = sum(height < 38 for height in page.evaluate(heights))
        promise(small == 0, f"{small} buttons are lower than a finger")
        visitor.set_size(64)
        page.locator("#paint-draw").tap()
        visitor.wait("done")
        promise(_settings(visitor)["regions"][0]["phrase"] == "car", "and it draws")


def check_keyboard(server: Served, args: Any) -> None:
    with browser() as chromium:
        visitor = Visitor(chromium.new_page(viewport=DESKTOP), server.address)
        page, press = visitor.page, visitor.page.keyboard.press
        visitor.empty_canvas()
        page.focus(".ediffi-canvas .prompt")
        press("Control+A")
        page.keyboard.type(PROMPT)
        press("Tab")
        press("ArrowRight")
        press("Enter")
        promise(_layers(visitor)[0]["phrase"] == "red", "Enter makes a phrase of a word")
        press("ArrowRight")
        press("Shift+Enter")
        promise(_layers(visitor)[-1]["phrase"] == "red car", "Shift and Enter make one of several")
        _tab_to(page, ".paper")
        for key in (*["ArrowLeft"] * 4, *["ArrowDown"] * 3, *["Shift+ArrowLeft"] * 2, "Enter"):
            press(key)
        promise(bool(_layers(visitor)[-1]["mask"]), "arrows and Enter paint a box")
        press("Control+Z")
        promise(not _layers(visitor)[-1]["mask"], "Control and Z undo it")
        press("ArrowLeft")
        press("Enter")
        _tab_to(page, ".layer button[aria-label='Remove red']")
        press("Enter")
        _tab_to(page, "#paint-draw")
        press("Enter")
        visitor.wait("done")
        promise(_settings(visitor)["regions"][0]["phrase"] == "red car", "and it draws")


def _tab_to(page: Any, selector: str) -> None:
    """Presses Tab until an element has the focus."""
    for _ in range(200):
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    raise ValueError(f"not as promised: Tab does not reach {selector}")


def check_access(server: Served, args: Any) -> None:
    source, total = args.axe.read_text(encoding="utf-8"), 0
    with browser() as chromium:
        for theme in ("light", "dark"):
            for kind, options in (("desktop", {"viewport": DESKTOP}), ("phone", PHONE)):
                page = chromium.new_context(**options).new_page()
                visitor = Visitor(page, f"{server.address}/?__theme={theme}")
                visitor.set_size(64)
                visitor.draw_and_wait()
                page.evaluate(source)
                found = page.evaluate("axe.run()")["violations"]
                serious = [rule for rule in found if rule["impact"] in ("serious", "critical")]
                for rule in serious:
                    for node in rule["nodes"][:3]:
                        print(f"    {rule['id']}: {node['html'][:160]} {node.get('failureSummary', '')[:200]}")
                names = [rule["id"] for rule in found]
                print(f"  {theme}, {kind}: {len(serious)} serious of {len(found)} findings {names}", flush=True)
                total += len(serious)
    promise(not total, f"{total} serious findings")


def check_screenshots(server: Served, args: Any) -> None:
    """The page in light on a desk, and in dark on a phone."""
    with browser() as chromium:
        desk = {"viewport": {"width": 1280, "height": 1260}}
        for name, theme, options in (("light", "light", desk), ("phone", "dark", PHONE)):
            page = chromium.new_context(**options).new_page()
            visitor = Visitor(page, f"{server.address}/?__theme={theme}")
            visitor.set_size(256)
            page.locator("#paint-settings button").first.click()
            visitor.draw_and_wait()
            page.evaluate("document.activeElement.blur()")
            _save(page.screenshot(full_page=name == "phone"), args.output / f"space_{name}.jpg")


def _save(screenshot: bytes, path: Path) -> None:
    picture = Image.open(io.BytesIO(screenshot)).convert("RGB")
    picture.thumbnail((1280, 2400))
    picture.save(path, quality=88, optimize=True)
    promise(path.stat().st_size <= 400_000, f"{path.name}: {path.stat().st_size // 1000} kB")


def check_memory(server: Served, args: Any) -> None:
    client, readings = Client(server.address), []
    for seed in range(args.pictures):
        value = client.draw(seed, steps=args.steps)["value"]
        if seeds_of(value) != [seed]:
            raise ValueError(f"not as promised: seed {seed} got {seeds_of(value)}")
        if seed % 20 == 19:
            readings.append(server.megabytes())
            print(f"    {seed + 1} pictures: {readings[-1]:.0f} MB", flush=True)
    middle = len(readings) // 2
    growth = readings[-1] - readings[middle]
    promise(growth <= 0.03 * readings[-1], f"{growth:+.0f} MB over the second half of {args.pictures} pictures")


def check_load(server: Served, args: Any) -> None:
    end, results, errors = time.monotonic() + 60 * args.minutes, [], []

    def visit(number: int) -> None:
        client, seed = Client(server.address), 1000 * number
        while time.monotonic() < end:
            seed += 1
            try:
                drawn = client.draw(seed, steps=args.steps)
                if seeds_of(drawn["value"]) != [seed]:
                    errors.append(f"visitor {number} got a picture of another")
                results.append({**drawn, "value": None, "number": number})
            except Exception as error:
                errors.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(args.visitors)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    promise(not errors, f"{len(results)} pictures of {args.visitors} visitors, {len(errors)} errors {errors[:3]}")
    in_order = sorted(results, key=lambda result: result["joined"])
    begun = [result["joined"] + result["waited"] for result in in_order]
    late = sum(after < before - 0.5 for before, after in zip(begun, begun[1:], strict=False))
    counts = [sum(result["number"] == number for result in results) for number in range(args.visitors)]
    waits = sorted(result["seconds"] for result in results)
    promise(late <= 0.02 * len(results), f"{late} began before one that came earlier")
    promise(max(counts) - min(counts) <= 2, f"each visitor got {min(counts)} to {max(counts)} pictures")
    print(f"    from click to picture: median {statistics.median(waits):.1f} s, longest {waits[-1]:.1f} s")
    _check_bound(server, args)


def _check_bound(server: Served, args: Any) -> None:
    """More visitors than may wait: the others are told at once."""
    told: list[str] = []

    def visit(number: int) -> None:
        try:
            Client(server.address).draw(number, steps=2)
            told.append("drawn")
        except RuntimeError as error:
            told.append(str(error))

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(70)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    full = [text for text in told if "full" in text.lower()]
    drawn = told.count("drawn")
    promise(bool(full) and drawn + len(full) == 70, f"70 at once: {drawn} drawn, {len(full)} told {full[:1]}")


def _layers(visitor: Visitor) -> list[dict[str, Any]]:
    """What is painted, as the page keeps it."""
    return list(json.loads(visitor.page.evaluate("sessionStorage.getItem('ediffi-scene')"))["layers"])


def _settings(visitor: Visitor) -> dict[str, Any]:
    """What the first picture's file says."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "picture.png"
        file.write_bytes(visitor.picture_file())
        return dict(read_provenance(file).settings)


CHECKS = {name.removeprefix("check_"): value for name, value in globals().items() if name.startswith("check_")}

if __name__ == "__main__":
    with errors_in_one_line():
        main()
    sys.exit(0)

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The page without a browser: what a click asks for, what is refused, and `ediffi space`."""

import asyncio
import base64
import io
import json
import socket
import sys

import gradio as gr
import pytest
from diffusers import StableDiffusionPipeline
from helpers_diffusers import build, unet_for
from PIL import Image

from diffusers_ediffi import read_provenance
from diffusers_ediffi.cli.main import main
from diffusers_ediffi.space.app import build_app
from diffusers_ediffi.space.controls import settings_updates
from diffusers_ediffi.space.drawing import Drawer, DrawRequest, Progress
from diffusers_ediffi.space.examples import PAINTED
from diffusers_ediffi.space.limits import Limits
from diffusers_ediffi.space.paint_tab import painted_request
from diffusers_ediffi.space.request_limit import RequestLimit
from diffusers_ediffi.space.scene import COLORS, Scene
from diffusers_ediffi.space.space_app import SpaceApp, friendly_errors, message

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SETTINGS = (3, 1.0, 32, 4, 2.5, "")  # as a browser sends them


@pytest.fixture
def app(pipe):
    return SpaceApp(Drawer(pipe, "org/tiny"))


def built(pipe):
    """The page, built within a loop, since Gradio else makes one that it does not close."""

    async def build_page():
        return build_app(Drawer(pipe))

    return asyncio.run(build_page())


def test_a_click_is_a_request(app):
    canvas = {"prompt": "a cat", "layers": [{"phrase": "cat", "mask": [0, 0, 1, 1], "color": COLORS[2]}]}
    request = painted_request(app, canvas, 0.3, None, 1.0, *SETTINGS)
    assert (request.prompt, request.seed, request.num_images, request.size, request.steps) == ("a cat", 3, 1, 32, 4)
    assert request.arguments["region_strength"] == 0.3 and request.arguments["regions"][0].phrase == "cat"
    *_, last = app.drawer.draw(request)
    shown = app._shown(last, request)
    assert shown["state"] == "done" and shown["pictures"][0]["src"].startswith("data:image/png;base64,")
    assert not painted_request(app, {"prompt": "a cat", "layers": []}, 0.3, None, 1.0, *SETTINGS).arguments


def test_examples_are_scenes_of_the_demo_model():
    for example in PAINTED:
        assert Scene.from_canvas(example.to_canvas(), Limits()).regions


def test_settings_of_a_stranger_stay_in_their_ranges(app):
    kept = settings_updates(
        app, {"seed": 5, "size": 32, "steps": [7, 2, 2], "guidance_scale": 3, "negative_prompt": "x"}
    )
    assert kept == [5, gr.skip(), 32, 7, 3, "x"]
    strange = {"seed": -1, "size": 10**9, "steps": "many", "guidance_scale": float("inf"), "negative_prompt": 7}
    assert settings_updates(app, strange) == [gr.skip()] * 6
    assert settings_updates(app, {"seed": 2**60, "steps": {}}) == [gr.skip()] * 6


def test_a_message_is_text_and_no_html():
    assert message(ValueError("<img src=x onerror=alert(1)> is wrong")).startswith("&lt;img src=x")
    with pytest.raises(gr.Error, match="&lt;b&gt;"), friendly_errors("This"):
        raise ValueError("<b>")
    with pytest.raises(gr.Error, match="lack of memory"), friendly_errors("This"):
        raise RuntimeError("CUDA out of memory at /home/somebody")
    with pytest.raises(gr.Error, match="the log of the server says why"), friendly_errors("This"):
        raise KeyError("/home/somebody")  # of a foreign pipeline
    with pytest.raises(gr.Error, match="<b>"), friendly_errors("This"):
        raise gr.Error("<b>")  # of `spaces`: a message already


def test_what_is_wrong_in_the_process_of_zero_gpu_is_a_message_there(app):
    """`spaces` hands on the messages of Gradio's errors, and of others the class alone."""
    with pytest.raises(gr.Error, match="nothing to draw"):
        list(app._run(DrawRequest(" "), "visitor"))


class Visit:
    """What Gradio says of a click."""

    session_hash = "abc"


def test_cancel_in_one_tab_leaves_the_others(pipe):
    """Each tab of a page has its drawing, and closing the page ends all of them."""
    blocks = built(pipe)
    fns = [fn for fn in blocks.fns.values() if fn.fn is not None]
    (leave,) = [fn.fn for fn in fns if getattr(fn.fn, "__name__", "") == "leave"]
    drawer, cancels = leave.__self__.drawer, [fn.fn for fn in fns if getattr(fn.fn, "__name__", "") == "cancel"]
    assert len(cancels) == 5
    events = drawer.draw(DrawRequest("a cat", steps=100, size=8), "abc style-draw")
    next(events)
    ended = []
    for cancel in cancels:
        cancel(Visit())
        ended.append("abc style-draw" not in drawer._jobs)
    assert ended == [False, True, True, True, True]
    events.close()
    events = drawer.draw(DrawRequest("a cat", steps=100, size=8), "abc style-draw")
    next(events)
    leave(Visit())
    assert len(list(events)) < 90


def test_what_fails_before_the_drawing_is_shown_as_failed(pipe):
    """A full queue, or an upload that is no picture: the page waits no longer."""
    functions = built(pipe).config["dependencies"]
    drawings = {entry["id"]: entry["outputs"][:1] for entry in functions if entry["cancels"] == [] and entry["queue"]}
    failures = [entry for entry in functions if entry["trigger_only_on_failure"]]
    assert len(failures) == 5 and all("failed" in entry["js"] and not entry["queue"] for entry in failures)
    assert all(entry["outputs"] == drawings[entry["trigger_after"]] for entry in failures)


def test_files_are_opened_one_after_the_other(pipe):
    (opening,) = [fn for fn in built(pipe).fns.values() if fn.concurrency_id == "open"]
    assert opening.concurrency_limit == 1


def test_a_blackened_picture_says_so(app):
    black = Image.new("RGB", (32, 32))
    progress = Progress([black, black], 32, 4, 4, 1.0, True, True, None, [False, True])
    first, second = app._shown(progress, DrawRequest("a cat", size=32))["pictures"]
    assert "safety checker" in second["caption"] and "safety checker" not in first["caption"]
    file = io.BytesIO(base64.b64decode(second["src"].partition(",")[2]))
    assert read_provenance(file).settings["nsfw_content_detected"] is True


def test_the_page_has_the_queue_that_the_limits_say(pipe):
    async def build():  # within a loop, since Gradio else makes one that it does not close
        return build_app(Drawer(pipe, limits=Limits(waiting=7)))

    blocks = asyncio.run(build())
    assert blocks._queue.max_size == 7 and not blocks.api_open
    drawing = [fn for fn in blocks.fns.values() if fn.concurrency_id == "draw"]
    assert drawing and all(fn.concurrency_limit == 1 for fn in drawing)  # one copy of the model, one after the other
    assert blocks.delete_cache


def test_a_page_of_stable_diffusion():
    """It has the tab "Paint" alone, without what that model cannot do."""

    async def build_page():
        return build_app(Drawer(build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline)), "org/sd"))

    parts = [part.elem_id for part in asyncio.run(build_page()).blocks.values()]
    assert "paint-canvas" in parts and "paint-strength" in parts and "paint-style" not in parts


@pytest.mark.parametrize(
    "method, path, length, status",
    [
        ("POST", "/gradio_api/queue/join", b"100", None),
        ("POST", "/gradio_api/queue/join", b"101", 413),
        ("POST", "/gradio_api/queue/join", b"many", 411),
        ("POST", "/gradio_api/queue/join", None, 411),
        ("POST", "/gradio_api/upload", b"101", None),
        ("POST", "/gradio_api/call/upload", b"101", 413),  # a call of what is named so, and no upload
        ("POST", "/gradio_api/run/upload", None, 411),
        ("GET", "/config", None, None),
    ],
)
def test_what_a_click_sends_is_bounded(method, path, length, status):
    sent = []

    async def inner(scope, receive, send):
        sent.append({"status": None})

    async def send(part):
        sent.append(part)

    headers = [] if length is None else [(b"content-length", length)]
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    asyncio.run(RequestLimit(inner, most=100)(scope, None, send))
    assert sent[0]["status"] == status
    if status:
        assert json.loads(sent[1]["body"])["detail"]


@pytest.mark.parametrize(
    "path, root_path, headers, is_passed",
    [
        ("/queue/join", "", [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")], False),
        ("/queue/join", "", [(b"content-length", b"5")], True),
        ("/there/gradio_api/upload", "/there", [], True),
        ("/there/gradio_api/upload", "", [], False),
    ],
)
def test_a_length_counts_where_the_body_has_it(path, root_path, headers, is_passed):
    """A body in chunks is longer than the length beside it; uploads are known where the page is mounted."""
    passed = []

    async def inner(scope, receive, send):
        passed.append(scope)

    async def send(part):
        pass

    scope = {"type": "http", "method": "POST", "path": path, "root_path": root_path, "headers": headers}
    asyncio.run(RequestLimit(inner, most=100)(scope, None, send))
    assert bool(passed) == is_passed


def test_ediffi_space_names_the_extra_that_it_needs(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("diffusers_ediffi.space")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "diffusers_ediffi.cli.space", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["space"]) == 2
    error = capsys.readouterr().err
    assert "gradio" in error and "pip install 'diffusers_ediffi[demo]'" in error and error.count("\n") == 1


def test_ediffi_space_says_that_a_port_is_taken(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["space", "--port", str(taken.getsockname()[1])]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ediffi: error: cannot serve on --host 127.0.0.1 --port") and error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [["--port", "0"], ["--port", "70000"], ["--model", "./nowhere"], ["--device", "x"], ["--host", "nowhere.invalid"]],
)
def test_ediffi_space_refuses_wrong_values_in_one_line(arguments, capsys):
    assert main(["space", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1

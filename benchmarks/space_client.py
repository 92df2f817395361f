# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The Space as a process of its own, and visitors of it without a browser, for space.py."""

import base64
import io
import json
import re
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from diffusers_ediffi import read_provenance

SCENE = {
    "prompt": "a red car on a yellow background",
    "layers": [{"phrase": "red car", "mask": [0.0, 0.5, 0.5, 1.0], "color": "#ffb224", "visible": True, "weight": 1}],
}


@dataclass
class Served:
    """A Space that runs: where, and its process."""

    address: str
    process: subprocess.Popen
    started: float = field(default_factory=time.monotonic)

    def megabytes(self) -> float:
        """Its memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) / 1024 if found else float("nan")


@contextmanager
def served(*options: str) -> Iterator[Served]:
    """Runs `ediffi space` on a free port until the end of the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "diffusers_ediffi", "space", "--port", str(port), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server = Served(f"http://127.0.0.1:{port}", process)
    try:
        while True:
            try:
                httpx.get(f"{server.address}/config", timeout=10).raise_for_status()
                break
            except httpx.HTTPError:
                if process.poll() is not None or time.monotonic() - server.started > 600:
                    raise RuntimeError("ediffi space did not start; run it by hand to see why") from None
                time.sleep(0.2)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=30)


class Client:
    """A visitor that clicks "Draw" on the tab "Paint", in the protocol of Gradio's page."""

    def __init__(self, address: str):
        self.session = uuid.uuid4().hex[:11]
        self.http = httpx.Client(base_url=address, timeout=900)
        config = self.http.get("/config").json()
        ids = {part["props"].get("elem_id"): part["id"] for part in config["components"]}
        self.dependency = next(
            part
            for part in config["dependencies"]
            if [ids["paint-draw"], "click"] in part["targets"] and part["backend_fn"]
        )

    def draw(self, seed: int, size: int = 64, steps: int = 25, images: int = 1, scene: Any = None) -> dict[str, Any]:
        """Draws, and returns what the page is told at the end, with the `seconds` it took and `waited` before.

        Raises:
            RuntimeError: The page is told of an error.
        """
        start = time.monotonic()
        data = [SCENE if scene is None else scene, 0.2, None, 1, seed, images, size, steps, 2.0, ""]
        body = {"data": data, "fn_index": self.dependency["id"], "session_hash": self.session, "event_data": None}
        joined = self.http.post("/gradio_api/queue/join", json=body)
        if joined.status_code != 200:
            raise RuntimeError(joined.json().get("detail", joined.text))
        began, output = None, None
        for event in self._events():
            kind = event.get("msg")
            if kind == "process_starts":
                began = time.monotonic()
            elif kind == "process_completed":
                if not event["success"]:
                    raise RuntimeError(event["output"].get("error"))
                output = event["output"]["data"][0]
                break
        ended = time.monotonic()
        return {"value": output, "joined": start, "seconds": ended - start, "waited": (began or ended) - start}

    def _events(self) -> Iterator[dict[str, Any]]:
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line[5:])


def seeds_of(value: dict[str, Any]) -> list[int]:
    """The seeds that the files of a finished drawing say."""
    files = (io.BytesIO(base64.b64decode(picture["src"].partition(",")[2])) for picture in value["pictures"])
    return [read_provenance(file).settings["seed"] for file in files]  # type: ignore[arg-type]

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Loading by Hub id, against a small Hub on this machine, in fresh processes as a user would run them."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import diffusers
import pytest
from helpers import tiny_pipeline, tiny_unet
from helpers_examples import run_script, start_script

import diffusers_ediffi
from diffusers_ediffi import ExpertRouterUNet

REPO = "org/tiny"
COMMIT = "1234567890abcdef1234567890abcdef12345678"


class LocalHub(BaseHTTPRequestHandler):
    """The part of the Hub's interface that downloads use: one repository, one commit, one folder."""

    protocol_version = "HTTP/1.1"
    folder: Path  # set by the fixture

    def do_GET(self):
        path = urlsplit(self.path).path
        if re.fullmatch(rf"/api/models/{REPO}(/revision/[^/]+)?", path):
            siblings = [{"rfilename": name} for name in self.files()]
            self.reply_json({"id": REPO, "modelId": REPO, "sha": COMMIT, "siblings": siblings, "private": False})
        elif re.fullmatch(rf"/api/models/{REPO}/tree/[^/]+", path):
            self.reply_json([self.tree_entry(name, file) for name, file in self.files().items()])
        elif (match := re.fullmatch(rf"/{REPO}/resolve/[^/]+/(.+)", path)) and match[1] in self.files():
            self.reply(self.files()[match[1]].read_bytes(), {"X-Repo-Commit": COMMIT})
        else:
            code = "EntryNotFound" if f"/{REPO}/" in path else "RepoNotFound"
            self.reply(b"{}", {"X-Error-Code": code, "X-Repo-Commit": COMMIT}, status=404)

    do_HEAD = do_GET

    def files(self):
        found = {path.relative_to(self.folder).as_posix(): path for path in self.folder.rglob("*") if path.is_file()}
        return dict(sorted(found.items()))

    def tree_entry(self, name, file):
        return {"type": "file", "path": name, "size": file.stat().st_size, "oid": etag(file.read_bytes())}

    def reply_json(self, value):
        self.reply(json.dumps(value).encode(), {"Content-Type": "application/json"})

    def reply(self, body, headers, status=200):
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if part and status == 200:
            first, last = int(part[1]), int(part[2] or len(body) - 1)
            headers = {**headers, "Content-Range": f"bytes {first}-{last}/{len(body)}"}
            body, status = body[first : last + 1], 206
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "ETag": f'"{etag(body)}"', **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


def etag(body):
    return hashlib.sha1(body).hexdigest()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved pipeline with two experts and an SR stage, prepared for the Hub."""
    folder = tmp_path_factory.mktemp("tiny")
    router = ExpertRouterUNet.from_unets([tiny_unet(1), tiny_unet(2)], boundaries=[0.5])
    tiny_pipeline(unet=router, unet_sr1024=None, scheduler_sr1024=None).save_pretrained(folder)
    run_script("hub/prepare_hub_repo", folder).check_returncode()
    return folder


@pytest.fixture(scope="module")
def endpoint(saved):
    handler = type("Handler", (LocalHub,), {"folder": saved})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def run_user_code(endpoint, saved, tmp_path):
    """Runs code in a process that knows no Hub but ours and starts with an empty cache."""
    # The Hub's address is read when huggingface_hub is imported.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_"))}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}

    def run(code):
        code = f"repo, folder = {REPO!r}, {str(saved)!r}\n{code}"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


DRAW = """
import torch
def draw(pipe):
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipe("a red cat", num_inference_steps=2, generator=generator, output_type="pt").images
"""


def test_loads_by_hub_id_after_import(run_user_code):
    code = """
import os
import re
import shutil
from diffusers_ediffi import EDiffIPipeline, ExpertRouterUNet
from diffusers import DiffusionPipeline
reference = draw(EDiffIPipeline.from_pretrained(folder))
for i, cls in enumerate([EDiffIPipeline, DiffusionPipeline]):
    pipe = cls.from_pretrained(repo, cache_dir=os.path.join(os.environ["HF_HOME"], str(i)))
    assert type(pipe) is EDiffIPipeline and type(pipe.unet) is ExpertRouterUNet
    assert torch.equal(draw(pipe), reference)
router = ExpertRouterUNet.from_pretrained(repo, subfolder="unet")
assert router.boundaries == pipe.unet.boundaries
print("same image")
"""
    assert run_user_code(DRAW + code).endswith("same image\n")


def test_loads_by_hub_id_without_import(run_user_code):
    code = """
import sys
from diffusers import DiffusionPipeline
try:
    DiffusionPipeline.from_pretrained(repo, custom_pipeline=repo)
except ValueError as error:
    assert "trust_remote_code=True" in str(error)
else:
    raise AssertionError("ran code of a stranger unasked")
pipe = DiffusionPipeline.from_pretrained(repo, custom_pipeline=repo, trust_remote_code=True)
from diffusers_ediffi import EDiffIPipeline
assert type(pipe) is EDiffIPipeline
assert torch.equal(draw(pipe), draw(EDiffIPipeline.from_pretrained(folder)))
print("same image")
"""
    assert run_user_code(DRAW + code).endswith("same image\n")


class ReceivingHub(BaseHTTPRequestHandler):
    """The part of the Hub's interface that uploads use: makes a repository and takes one commit."""

    protocol_version = "HTTP/1.1"
    asked: list[str]
    received: dict[str, bytes]

    def do_POST(self):
        path = urlsplit(self.path).path
        self.asked.append(path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        place = f"http://{self.headers['Host']}/{REPO}"
        answer = {"url": place, "commitUrl": f"{place}/commit/{COMMIT}", "commitOid": COMMIT}
        answer |= {"id": REPO, "errors": [], "warnings": [], "success": True}
        if "/preupload/" in path:
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            answer["files"] = [{**file, "shouldIgnore": False} for file in files]
        if "/commit/" in path:
            entries = [json.loads(line) for line in body.splitlines()]
            files = [entry["value"] for entry in entries if entry["key"] == "file"]
            self.received |= {file["path"]: base64.b64decode(file["content"]) for file in files}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def push(saved, tmp_path, monkeypatch):
    """Pushes the saved pipeline as a converted one, of a source of this licence, to a Hub that says what it got."""
    handler = type("Handler", (ReceivingHub,), {"asked": [], "received": {}})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name in [name for name in os.environ if name.startswith(("HF_", "HUGGINGFACE_"))]:
            monkeypatch.delenv(name)
        settings = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_TOKEN": "hf_of_a_test"}
        for name, value in {**settings, "HF_HOME": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1"}.items():
            monkeypatch.setenv(name, value)

        def run(license):
            folder = tmp_path / "converted"
            shutil.copytree(saved, folder)
            source = {"name": "org/source", "license": license, "sha256": {"a.safetensors": "0" * 64}}
            (folder / "conversion.json").write_text(json.dumps({"converter": "x", "checkpoint": source}))
            return start_script("hub/prepare_hub_repo", folder, "--push", REPO), folder

        yield run, handler
        server.shutdown()


def test_a_converted_model_is_uploaded_with_its_card(push):
    run, hub = push
    result, folder = run("creativeml-openrail-m")
    assert result.returncode == 0, result.stderr
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert hub.received == {name: path.read_bytes() for name, path in files.items()}
    assert b"license: creativeml-openrail-m" in hub.received["README.md"] and b"0" * 64 in hub.received["README.md"]
    assert result.stdout.splitlines()[-1].endswith(COMMIT)


def test_nothing_is_asked_of_the_hub_where_a_licence_forbids_it(push):
    run, hub = push
    result, folder = run("deepfloyd-if-license")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "'deepfloyd-if-license' and is not uploaded: its grant is personal" in result.stderr
    assert not hub.asked and not (folder / "README.md").exists()


def test_diffusers_knows_our_classes():
    assert diffusers.EDiffIPipeline is diffusers_ediffi.EDiffIPipeline
    assert diffusers.EDMDEISScheduler is diffusers_ediffi.EDMDEISScheduler


def test_saved_index_names_the_package_and_not_its_modules(saved):
    index = json.loads((saved / "model_index.json").read_text())
    assert index["_class_name"] == "EDiffIPipeline"
    assert index["unet"] == ["diffusers_ediffi", "ExpertRouterUNet"]
    assert index["unet_sr256"] == ["diffusers_ediffi", "EDiffIUNet"]

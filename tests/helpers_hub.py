# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A small Hub on this machine: a repository in a folder, which the Hub's clients read and commit to."""

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from diffusers_ediffi.files.licences import LICENCES

REPO = "org/tiny"
COMMIT = "1234567890abcdef1234567890abcdef12345678"
TOKEN = "hf_of_a_test"


class LocalHub(BaseHTTPRequestHandler):
    """The part of the Hub's interface that downloads and uploads use: one repository, one commit, one folder."""

    protocol_version = "HTTP/1.1"
    # Set for each server.
    folder: Path
    asked: list[str]  # what was posted to
    tokens: list[str]  # that came with it
    refused: str  # what is not answered, an expression
    status: int  # what it is answered with instead
    commits: list[dict]  # their messages, and whether they are requests
    created: list[dict]  # what was asked of each repository

    def do_GET(self):
        path = urlsplit(self.path).path
        if self.refused and re.search(self.refused, path):
            self.refuse()
        elif path == f"/api/models/{REPO}/auth-check/write":
            self.reply_json({})
        elif re.fullmatch(rf"/api/models/{REPO}(/revision/[^/]+)?", path):
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

    def do_POST(self):
        """Makes the repository, or takes a commit; answers what all clients ask for at once."""
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append(path)
        self.tokens.append(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if self.refused and re.search(self.refused, path):
            self.refuse()
            return
        place = f"http://{self.headers['Host']}/{REPO}"
        answer = {"url": place, "commitUrl": f"{place}/commit/{COMMIT}", "commitOid": COMMIT}
        answer |= {
            "pullRequestUrl": f"{place}/discussions/1",
            "id": REPO,
            "errors": [],
            "warnings": [],
            "success": True,
        }
        if path == "/api/validate-yaml":
            self.reply(*check_card(json.loads(body)["content"]))
            return
        if "/preupload/" in path:
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            answer["files"] = [{**file, "shouldIgnore": False} for file in files]
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
        if "/commit/" in path:
            self.take([json.loads(line) for line in body.splitlines()])
        self.reply_json(answer)

    def refuse(self):
        self.reply(b'{"error": "Who are you?"}', {"Content-Type": "application/json"}, status=self.status)

    def take(self, entries):
        is_request = "create_pr=1" in self.path
        self.commits += [
            {"summary": entry["value"]["summary"], "create_pr": is_request}
            for entry in entries
            if entry["key"] == "header"
        ]
        for file in (entry["value"] for entry in entries if entry["key"] == "file"):
            path = self.folder / file["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(base64.b64decode(file["content"]))
        for file in (entry["value"] for entry in entries if entry["key"] == "deletedFile"):
            (self.folder / file["path"]).unlink()

    @classmethod
    def files(cls):
        found = {path.relative_to(cls.folder).as_posix(): path for path in cls.folder.rglob("*") if path.is_file()}
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
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


def check_card(text):
    """What the Hub's own check asks of a model card, as far as its page on them says it: YAML between lines of ---
    with a licence of its list, a base model that is a repository's name, and whole results."""
    block = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    data = yaml.safe_load(block[1]) if block else None
    wrong = []
    if not isinstance(data, dict):
        wrong.append("there is no metadata")
    else:
        wrong += [] if data.get("license", "mit") in {*LICENCES, "other"} else ["the licence is not known"]
        wrong += ["base_model"] if data.get("base_model", "a/b").count("/") != 1 else []
        for entry in data.get("model-index", []):
            for result in entry["results"]:
                wrong += [] if {"task", "dataset", "metrics"} <= result.keys() else ["a result is not whole"]
    return ("; ".join(wrong).encode(), {}, 400) if wrong else (b'{"errors": [], "warnings": []}', {})


def etag(body):
    return hashlib.sha1(body).hexdigest()


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, type[LocalHub]]]:
    """A Hub of the folder: its address, and what it was asked."""
    hub = type(
        "Hub",
        (LocalHub,),
        {"folder": folder, "asked": [], "tokens": [], "refused": "", "status": 401, "commits": [], "created": []},
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", hub
        server.shutdown()


@contextmanager
def hub_in_this_process(folder: Path, monkeypatch, home: Path) -> Iterator[type[LocalHub]]:
    """A Hub of the folder that this process knows as the only one, and is logged in to."""
    with serving(folder) as (address, hub):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        pattern = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", pattern)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        hub.address = address
        yield hub


def environment_of(endpoint: str, home: Path) -> dict[str, str]:
    """The environment of a process that knows no Hub but this one and starts with an empty cache."""
    # The Hub's address is read when huggingface_hub is imported.
    here = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    return here | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}

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

    def do_GET(self):
        path = urlsplit(self.path).path
        if self.refused and re.search(self.refused, path):
            self.refuse()
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
        answer |= {"id": REPO, "errors": [], "warnings": [], "success": True}
        if "/preupload/" in path:
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            answer["files"] = [{**file, "shouldIgnore": False} for file in files]
        if "/commit/" in path:
            self.take([json.loads(line) for line in body.splitlines()])
        self.reply_json(answer)

    def refuse(self):
        self.reply(b'{"error": "Who are you?"}', {"Content-Type": "application/json"}, status=401)

    def take(self, entries):
        for file in (entry["value"] for entry in entries if entry["key"] == "file"):
            path = self.folder / file["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(base64.b64decode(file["content"]))

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


def etag(body):
    return hashlib.sha1(body).hexdigest()


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, type[LocalHub]]]:
    """A Hub of the folder: its address, and what it was asked."""
    hub = type("Hub", (LocalHub,), {"folder": folder, "asked": [], "tokens": [], "refused": ""})
    with ThreadingHTTPServer(("127.0.0.1", 0), hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", hub
        server.shutdown()


def environment_of(endpoint: str, home: Path) -> dict[str, str]:
    """The environment of a process that knows no Hub but this one and starts with an empty cache."""
    # The Hub's address is read when huggingface_hub is imported.
    here = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    return here | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}

# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A bound on what a visitor sends with a click; Gradio bounds uploaded files alone (`max_file_size`)."""

from typing import Any

UPLOAD = "/gradio_api/upload"


class RequestLimit:
    """An ASGI middleware that refuses requests whose bodies are too large, or do not say how large they are.

    Args:
        app: The application.
        most (`int`): Bytes of a body; uploads have a limit of their own.
    """

    def __init__(self, app: Any, most: int):
        self.app = app
        self.most = most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        status = self._refusal(scope)
        if status is None:
            return await self.app(scope, receive, send)
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"detail": "The canvas is too large."}'})

    def _refusal(self, scope: Any) -> int | None:
        """The status to refuse a request with, if it is refused."""
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT") or _is_upload(scope):
            return None
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        # Where a body comes in chunks, no length counts that stands beside them.
        if not length.isdigit() or b"transfer-encoding" in headers:
            return 411
        return 413 if int(length) > self.most else None


def _is_upload(scope: Any) -> bool:
    """Whether a request uploads a file; `root_path` is where the page is mounted."""
    return scope["path"].removeprefix(scope.get("root_path", "")) == UPLOAD
